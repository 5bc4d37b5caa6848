"""Sends as the worker of the queue does, in three threads, until the good and the slow have all; the last line is JSON.

Half of the events come at once, the other half when those are delivered: by then the dead receiver holds a sender up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import django

os.environ["WEBHOOKS_ALLOW_PRIVATE"] = "1"
django.setup()

from django.db import connection  # noqa: E402

from customers import tasks  # noqa: E402
from customers.models import Event, WebhookDelivery, WebhookEndpoint  # noqa: E402
from tests import factories  # noqa: E402

WEBHOOKS, WAVES, ROUNDS, WORKERS = 1000, 2, 3, 3
LONGEST_SECONDS = 120


def main() -> None:
    command = [sys.executable, "-m", "tests.bench.webhooks_receivers"]
    receivers = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert receivers.stdin and receivers.stdout
    try:
        urls = json.loads(receivers.stdout.readline())
        rates: dict[str, list[float]] = {"with_dead": [], "without_dead": []}
        _round(urls, with_dead=False)  # imports, connections and plans are made once
        # In turns, so that what else the machine does falls on both alike; the best round is the least disturbed.
        for _ in range(ROUNDS):
            for name in rates:
                rates[name].append(_round(urls, with_dead=name == "with_dead"))
    finally:
        receivers.stdin.close()
        receivers.wait(10)
    print(json.dumps({name: round(max(found), 1) for name, found in rates.items()}))


def _round(urls: dict[str, list[str]], *, with_dead: bool) -> float:
    """Deliveries a minute to the good and the slow. All of theirs must arrive."""
    counted = [_endpoint(url) for kind in ("good", "slow") for url in urls[kind]]
    others = [_endpoint(url) for kind in ("lying", *(("dead",) if with_dead else ())) for url in urls[kind]]
    each = WEBHOOKS // WAVES // len(counted) + 1
    stop = threading.Event()
    workers = [threading.Thread(target=_work, args=(stop,)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    began = time.perf_counter()
    for wave in range(1, WAVES + 1):
        _happen([*counted, *others], each)
        _wait(counted, each * wave, began)
    took = time.perf_counter() - began
    stop.set()
    for worker in workers:
        worker.join()
    WebhookEndpoint.objects.update(disabled_at=datetime.now(UTC), disabled_reason="The round is over.")
    return each * WAVES * len(counted) / took * 60


def _endpoint(url: str) -> WebhookEndpoint:
    row = WebhookEndpoint.objects.create(customer=factories.customer(), url=url, kinds=["storm.*"])
    row.new_secret(datetime.now(UTC))
    return row


def _happen(endpoints: list[WebhookEndpoint], each: int) -> None:
    Event.objects.bulk_create(
        Event.about("storm.opened", row.customer, f"storm {number}", customer_id=row.customer_id, number=number)
        for number in range(each)
        for row in endpoints
    )


def _wait(endpoints: list[WebhookEndpoint], each: int, began: float) -> None:
    arrived = WebhookDelivery.objects.filter(endpoint__in=endpoints, state=WebhookDelivery.State.DELIVERED)
    while (count := arrived.count()) < each * len(endpoints):
        if time.perf_counter() - began > LONGEST_SECONDS:
            raise SystemExit(f"{count} of {each * len(endpoints)} webhooks arrived within {LONGEST_SECONDS} s")
        time.sleep(0.05)


def _work(stop: threading.Event) -> None:
    """As beat and a worker's thread would, without beat's two seconds in between."""
    while not stop.is_set():
        tasks.send_webhooks()
        time.sleep(0.02)
    connection.close()


if __name__ == "__main__":
    main()
