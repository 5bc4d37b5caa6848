"""The chain of steps through a real broker and a real worker: nobody waits for a tick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dnslib
import pytest
from celery.contrib.testing.worker import start_worker
from celery.signals import task_postrun

from dns.embedded import EmbeddedDns
from dns.models import EmbeddedRecord, RecordSet, WeightChange
from services.models import VantagePoint
from storms.models import StormEvent
from tests import factories
from tests.broker import broker_fixture  # noqa: F401
from tests.samples import record, times
from tests.servers import free_port
from tests.stack import until
from tranche_site import flow
from tranche_site.celery import app

pytestmark = pytest.mark.django_db(transaction=True)

ZONE = "flow.test"
HOSTNAME = f"www.{ZONE}"


@pytest.fixture
def ran() -> Iterator[list[tuple[str, Any]]]:
    """Names and arguments of the tasks that a worker has finished."""
    finished: list[tuple[str, Any]] = []

    def note(task: Any, args: Any, **_: Any) -> None:
        finished.append((task.name, list(args)))

    task_postrun.connect(note)
    yield finished
    task_postrun.disconnect(note)


@pytest.fixture
def worker(broker: None, ran: list[Any]) -> Iterator[None]:
    """One on the queues that the chain goes through, in a thread of this process."""
    with start_worker(app, pool="solo", perform_ping_check=False, queues=["storms", "dns"]):
        yield


@pytest.fixture
def record_set(settings: Any) -> Iterator[RecordSet]:
    """A steered domain with three vantage points, published by our own DNS server."""
    port = free_port()
    settings.AUTHORITY_OVERRIDES = {ZONE: f"127.0.0.1:{port}"}
    service = factories.service(interval_seconds=60)
    domain = factories.domain(service=service, hostname=HOSTNAME)
    for role in ("primary", "backup", "origin"):
        factories.target(role, domain=domain, address=f"{role}.{ZONE}")
    factories.policy(service=service, window_seconds=60, min_samples=6, min_failures=3)
    for _ in range(3):
        factories.vantage_point()
    EmbeddedRecord.objects.create(zone=ZONE, name=ZONE, type="NS", value=f"ns1.{ZONE}.", ttl_seconds=60)
    EmbeddedRecord.objects.create(
        zone=ZONE, name=ZONE, type="SOA", value=f"ns1.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 5", ttl_seconds=60
    )
    server = EmbeddedDns("127.0.0.1", port)
    server.start()
    yield factories.record_set(domain=domain, account=factories.dns_account("embedded"), zone=ZONE, ttl_seconds=1)
    server.stop()


def _sample(record_set: RecordSet, role: str, since: timedelta, outcome: str) -> None:
    """Every second of the last so many, from all vantage points."""
    now = datetime.now(UTC)
    targets = record_set.domain.targets.filter(role=role)
    record(targets, VantagePoint.objects.all(), times(now - since, now, 1), outcome)


def _observed(generation: int) -> Callable[[], bool]:
    return WeightChange.objects.filter(generation=generation, state=WeightChange.State.OBSERVED).exists


def _chain(ran: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Without the looks at DNS that go on for a second."""
    return [task for task in ran if task[0] != "dns.look_again"]


def _answers(record_set: RecordSet, settings: Any) -> set[str]:
    host, _, port = settings.AUTHORITY_OVERRIDES[ZONE].partition(":")
    query = dnslib.DNSRecord.question(HOSTNAME, "CNAME")
    replies = [dnslib.DNSRecord.parse(query.send(host, int(port), tcp=tcp, timeout=2)) for tcp in (False, True) * 5]
    return {str(reply.rr[0].rdata).rstrip(".") for reply in replies}


def test_bad_samples_lead_to_an_observed_change_without_a_tick(
    worker: None, ran: list[Any], record_set: RecordSet, settings: Any
) -> None:
    service = record_set.domain.service_id
    for role in ("primary", "backup", "origin"):
        _sample(record_set, role, timedelta(seconds=50), "ok")
    flow.react.delay()
    until(_observed(1))
    until(lambda: _chain(ran) == [("tranche_site.react", []), ("dns.steer", [[service]])])
    assert _answers(record_set, settings) == {f"primary.{ZONE}"}
    assert not StormEvent.objects.exists()

    ran.clear()
    began = time.monotonic()
    _sample(record_set, "primary", timedelta(seconds=15), "http_5xx")
    flow.react_to_bad_samples({service})
    until(_observed(2))
    until(lambda: _chain(ran) == [("tranche_site.react", [[service]]), ("dns.steer", [[service]])])
    storm = StormEvent.objects.get()
    change = WeightChange.objects.get(generation=2)
    assert change.storm == storm
    assert set(change.weights.values()) == {0, 100}
    assert _answers(record_set, settings) == {f"backup.{ZONE}"}
    assert time.monotonic() - began < 10

    # A repeated message changes nothing, and steers nothing.
    ran.clear()
    for _ in range(2):
        flow.react_to_bad_samples({service})
    until(lambda: len(_chain(ran)) == 2)
    assert _chain(ran) == [("tranche_site.react", [[service]])] * 2
    assert StormEvent.objects.count() == 1 and WeightChange.objects.count() == 2
