"""The process that the benches of steering measure: one JSON line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django

os.environ.update(PROBE_ALLOW_PRIVATE="1", DNS_API_ALLOW_PRIVATE="1")
django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402
from django.db.models import F  # noqa: E402

from dns import observation, outbox, reconcile, steering  # noqa: E402
from dns.models import DnsAccount, RecordSet, WeightChange, WriteAttempt  # noqa: E402
from services.models import Service, ServiceDomain, Target  # noqa: E402
from storms.models import PathVerdict, StormEvent  # noqa: E402
from tests import factories  # noqa: E402
from tests.servers import API_KEY, PowerDns  # noqa: E402

State = WeightChange.State
ROUNDS = 10


def main(what: str) -> None:
    settings.BLAST_RADIUS_SHARE = 1.0
    settings.FAILBACK_GATE_SECONDS = 0
    settings.FAILBACK_STEPS_PERCENT = [100]
    print(json.dumps(one_zone() if what == "one-zone" else mass()))


# --- a hundred services of one zone, on PowerDNS ---------------------------------------------------------------------


def one_zone(services: int = 100) -> dict[str, float]:
    home = Path(tempfile.mkdtemp(prefix="tranche-bench-pdns-"))
    home.chmod(0o755)
    server = PowerDns(home)
    server.start()
    try:
        server.zone("zone0.test")
        settings.AUTHORITY_OVERRIDES = {"zone0.test": server.text}
        account = factories.dns_account(
            "powerdns", options={"api_url": server.api_url}, calls_per_second=100, burst_calls=1000, calls_left=1000
        )
        account.seal({"api_key": API_KEY})
        account.save()
        _fill(services, [(account, "zone0.test", "")])
        _turn()
        _until_observed()
        submitted, observed = [], []
        for _ in range(ROUNDS):
            at = _storms()
            _turn()
            _until_observed()
            for change in WeightChange.objects.filter(storm__closed_at__isnull=True, wanted_at__gte=at):
                assert change.submitted_at and change.observed_at
                submitted.append(1000 * (change.submitted_at - at).total_seconds())
                observed.append(1000 * (change.observed_at - change.submitted_at).total_seconds())
            _home()
    finally:
        server.stop()
    return {
        "changes": len(submitted),
        "submitted_p50_ms": _quantile(submitted, 0.5),
        "submitted_p99_ms": _quantile(submitted, 0.99),
        "observed_p50_ms": _quantile(observed, 0.5),
        "observed_p99_ms": _quantile(observed, 0.99),
        "samples_a_name": _samples(),
    }


def _samples() -> int:
    text = RecordSet.objects.exclude(observation="").first()
    return int(text.observation.partition("; ")[2].partition(" ")[0]) if text else 0


# --- 5,000 domains over 50 zones and 10 accounts, at the strict fake ---------------------------------------------------


def mass(domains: int = 5000, zones: int = 50, accounts: int = 10) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.amazon", str(accounts), str(zones)]
    amazon = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert amazon.stdin and amazon.stdout
    try:
        there = json.loads(amazon.stdout.readline())
        rows = {}
        for name, key in there["keys"].items():
            rows[name] = factories.dns_account("route53", name=name, options={"endpoint_url": there["url"]})
            rows[name].seal({"access_key_id": key, "secret_access_key": "s"})
            rows[name].save()
        named = [(rows[account], f"zone{n}.test", zone_id) for n, (account, zone_id) in enumerate(there["zones"])]
        settings.AUTHORITY_OVERRIDES = {zone: there["dns"] for _, zone, _ in named}
        _fill(domains, named)
        _turn()
        _until_observed(300)
        _count(amazon)
        DnsAccount.objects.update(calls_left=F("burst_calls"), calls_left_at=datetime.now(UTC))
        steady = _steady()
        quiet = _count(amazon)
        DnsAccount.objects.update(calls_left=F("burst_calls"), calls_left_at=datetime.now(UTC))
        before = _rss_mib()
        at = _storms()
        began = time.monotonic()
        _turn()
        _until_observed(300)
        took = time.monotonic() - began
        asked = _count(amazon)
        calls = asked["most_of_an_account"]
        account = next(iter(rows.values()))
        arithmetic = max(0.0, (calls - account.burst_calls) / account.calls_per_second) + outbox.POLL_SECONDS[0]
        batches = WriteAttempt.objects.filter(started_at__gte=at).count()
        changed = WeightChange.objects.filter(wanted_at__gte=at)
        return {
            "observed_s": round(took, 1),
            "arithmetic_s": round(arithmetic, 1),
            "submitted_p50_s": _quantile(
                [(c.submitted_at - at).total_seconds() for c in changed if c.submitted_at], 0.5
            ),
            "submitted_last_s": _quantile(
                [(c.submitted_at - at).total_seconds() for c in changed if c.submitted_at], 1
            ),
            "observed": changed.filter(state=State.OBSERVED).count(),
            "calls": asked["calls"],
            "batches": batches,
            "refused": asked["refused"],
            "most_of_an_account": calls,
            "grew_mib": round(_rss_mib() - before, 1),
            "steady_tick_ms": steady,
            "steady_calls": quiet["calls"],
            "samples_a_name": _samples(),
            "log": asked["log"],
        }
    finally:
        amazon.stdin.close()
        amazon.wait(10)


def _count(amazon: Any) -> dict[str, Any]:
    amazon.stdin.write("count\n")
    amazon.stdin.flush()
    told: dict[str, Any] = json.loads(amazon.stdout.readline())
    return told


def _steady(ticks: int = 20) -> float:
    """What a tick costs when nothing is the matter, in ms; everything was looked at already."""
    RecordSet.objects.update(next_look_at=datetime.now(UTC) + timedelta(seconds=900), is_restless=False)
    began = time.monotonic()
    for n in range(ticks):
        now = datetime.now(UTC) + timedelta(seconds=2 * n)
        steering.steer(now)
        outbox.submit(now)
        outbox.poll(now)
        reconcile.observe(now)
        reconcile.sweep(now)
    return round(1000 * (time.monotonic() - began) / ticks, 1)


# --- both -----------------------------------------------------------------------------------------------------------


def _fill(services: int, places: list[tuple[DnsAccount, str, str]]) -> None:
    """Services of one domain each, over these zones, at home and never written."""
    now = datetime.now(UTC)
    customer = factories.customer()
    point = factories.vantage_point()
    assert point.pk
    cdns = {"primary": factories.cdn(), "backup": factories.cdn()}
    made = Service.objects.bulk_create(Service(customer=customer, name=f"service {n}") for n in range(services))
    domains = ServiceDomain.objects.bulk_create(
        ServiceDomain(
            customer=customer, service=service, hostname=f"www{n}.{places[n % len(places)][1]}", verified_at=now
        )
        for n, service in enumerate(made)
    )
    targets = Target.objects.bulk_create(
        Target(customer=customer, domain=domain, cdn=cdn, role=role, address=f"{role}{domain.pk}.cdn.test")
        for domain in domains
        for role, cdn in cdns.items()
    )
    PathVerdict.objects.bulk_create(
        PathVerdict(target=t, verdict="UP", since=now, evaluated_at=now, newest_good_at=now, availability=1.0)
        for t in targets
    )
    RecordSet.objects.bulk_create(
        RecordSet(
            customer=customer, domain=domain, account=account, zone=zone, zone_id=zone_id, armed_at=now,
            unarmed_reason="",
        )
        for n, domain in enumerate(domains)
        for account, zone, zone_id in [places[n % len(places)]]
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _turn() -> None:
    """As the task does: plan, write, look."""
    now = datetime.now(UTC)
    PathVerdict.objects.update(evaluated_at=now, newest_good_at=now)
    steering.steer(now, then=lambda: (outbox.submit(datetime.now(UTC)), outbox.poll(datetime.now(UTC))))
    outbox.submit(datetime.now(UTC))
    reconcile.observe(now)


def _storms() -> datetime:
    """A hard storm over every service, in one transaction."""
    now = datetime.now(UTC)
    PathVerdict.objects.filter(target__role="primary").update(verdict="DOWN", availability=0.0)
    PathVerdict.objects.update(evaluated_at=now, newest_good_at=now)
    StormEvent.objects.bulk_create(
        StormEvent(
            customer_id=service.customer_id, service=service, kind="manual", attribution="cdn_fault", started_at=now,
            detected_at=now, last_bad_at=now, reason="a bench",
        )
        for service in Service.objects.all()
    )  # fmt: skip
    return datetime.now(UTC)


def _home() -> None:
    now = datetime.now(UTC)
    StormEvent.objects.filter(closed_at__isnull=True).update(ended_at=now, closed_at=now)
    PathVerdict.objects.update(verdict="UP", availability=1.0, evaluated_at=now, newest_good_at=now)
    WeightChange.objects.update(observed_at=now - timedelta(minutes=10), wanted_at=now - timedelta(hours=2))
    _turn()
    _until_observed()


def _until_observed(seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while WeightChange.objects.filter(state__in=WeightChange.LIVE).exists():
        now = datetime.now(UTC)
        outbox.submit(now)
        outbox.poll(now)
        reconcile.observe(now)
        if time.monotonic() > deadline:
            change = WeightChange.objects.filter(state__in=WeightChange.LIVE).select_related("record_set").first()
            told = change and (change.state, change.held_reason, change.error, change.record_set.observation)
            raise SystemExit(f"not observed: {told}")
    observation.forget_servers()


def _quantile(values: list[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 1)


def _rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1])
