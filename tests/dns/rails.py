"""Two real rails to try steering on: the strict Route 53 fake over HTTP and DNS, and Debian's PowerDNS behind a proxy that
can lose its answers. What a test does on one it does on the other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Protocol

from django.utils import timezone

from dns import observation
from dns.models import DnsAccount
from dns.planning import lane_of
from dns.providers.route53 import clients
from services import lookup
from services.models import Service, Target, VantagePoint
from storms.models import PathVerdict, StormEvent
from tests import factories
from tests.faulty_proxy import AFTER, BEFORE, FaultyProxy
from tests.route53_fake import OWN_ACCOUNT, Route53Fake
from tests.samples import record
from tests.servers import API_KEY, PowerDns

_number = count(1)


class Rail(Protocol):
    name: str
    zone: str
    unknown_kinds: tuple[str, ...]
    """Faults of a write after which nobody knows whether it was done, or which surely were not done but look alike."""

    def account(self) -> DnsAccount: ...
    def fail_write(self, kind: str) -> None: ...
    def recover(self) -> None: ...
    def writes(self) -> int: ...
    def address(self) -> tuple[str, int]: ...


class AmazonRail:
    name = "route53"
    zone = "fault.test"
    unknown_kinds: tuple[str, ...] = (
        "timeout_before", "reset_before", "lost_reply", "timeout_after", "applied_500", "applied_503", "garbled", "half",
    )  # fmt: skip

    def __init__(self, fake: Route53Fake) -> None:
        self.fake = fake
        fake.pending_polls = 0
        fake.limit(1e6, 1e6)
        self.zone_id = fake.zone(self.zone)

    def account(self) -> DnsAccount:
        account = factories.dns_account(
            "route53", options={"endpoint_url": self.fake.url}, calls_per_second=100, burst_calls=1000, calls_left=1000
        )
        account.seal({"access_key_id": self.fake.access.key(OWN_ACCOUNT), "secret_access_key": "s"})
        account.save()
        return account

    def fail_write(self, kind: str) -> None:
        self.fake.fail("ChangeResourceRecordSets", kind, seconds=0.05)  # type: ignore[arg-type]

    def recover(self) -> None:
        self.fake.recover()
        clients._held.clear()

    def writes(self) -> int:
        return sum(call.action == "ChangeResourceRecordSets" and call.accepted for call in self.fake.calls)

    def address(self) -> tuple[str, int]:
        return self.fake.dns_address


class PowerRail:
    name = "powerdns"
    zone = "fault.test"
    unknown_kinds: tuple[str, ...] = (*BEFORE, *AFTER)

    def __init__(self, server: PowerDns, proxy: FaultyProxy) -> None:
        self.server, self.proxy = server, proxy
        server.zone(self.zone)

    def account(self) -> DnsAccount:
        account = factories.dns_account(
            "powerdns", options={"api_url": self.proxy.url, "timeout_seconds": 1}, calls_per_second=100,
            burst_calls=1000, calls_left=1000,
        )  # fmt: skip
        account.seal({"api_key": API_KEY})
        account.save()
        return account

    def fail_write(self, kind: str) -> None:
        self.proxy.fail("PATCH", kind)

    def recover(self) -> None:
        self.proxy.recover()

    def writes(self) -> int:
        return sum(method == "PATCH" for method, _ in self.proxy.calls)

    def address(self) -> tuple[str, int]:
        return self.server.address


@contextmanager
def amazon() -> Iterator[AmazonRail]:
    fake = Route53Fake()
    fake.start()
    try:
        yield AmazonRail(fake)
    finally:
        clients._held.clear()
        fake.stop()
    assert fake.bugs == []


@contextmanager
def power(server: PowerDns) -> Iterator[PowerRail]:
    proxy = FaultyProxy(int(server.api_url.rpartition(":")[2]), silence_seconds=1.2)
    proxy.start()
    try:
        yield PowerRail(server, proxy)
    finally:
        proxy.stop()


# --- services on a rail ----------------------------------------------------------------------------------------------


def service_on(rail: Rail, account: DnsAccount, domains: int = 1) -> Service:
    """At home, never written, with a backup that is fit."""
    service = factories.service()
    for _ in range(domains):
        number = next(_number)
        domain = factories.domain(service=service, hostname=f"www{number}.{rail.zone}")
        for role in ("primary", "backup"):
            factories.target(role, domain=domain, address=f"{role}{number}.cdn.test")
        zone_id = getattr(rail, "zone_id", "")
        factories.record_set(domain=domain, account=account, zone=rail.zone, zone_id=zone_id, ttl_seconds=1)
    return service


def see(service: Service, now: datetime, primary: str = "UP", backup: str = "UP") -> None:
    """Fresh verdicts of every path."""
    for target in Target.objects.filter(domain__service=service).paths():
        value = primary if target.role == "primary" else backup
        PathVerdict.objects.update_or_create(
            target=target,
            defaults={
                "verdict": value, "reason": "", "since": now, "evaluated_at": now, "newest_good_at": now,
                "availability": 1.0 if value == "UP" else 0.0,
            },
        )  # fmt: skip


def storm_over(service: Service) -> StormEvent:
    """A hard storm: every sample of the primary is bad since it began."""
    storm = factories.storm(service=service)
    target = Target.objects.filter(domain__service=service, role="primary").first()
    point = VantagePoint.objects.first() or factories.vantage_point()
    assert target
    record([target], [point], [storm.started_at + timedelta(seconds=n) for n in range(3)], "http_5xx")
    return storm


def calm(service: Service) -> None:
    at = timezone.now()
    StormEvent.objects.filter(service=service).update(ended_at=at, closed_at=at)


def answers(rail: Rail, hostname: str, times: int = 5) -> Counter[str]:
    seen = lookup.ask_all([(rail.address(), hostname, "CNAME")] * times)
    return Counter(r.value for answer in seen for r in answer.records)


def by_lane(weights: Mapping[str, int], service: Service) -> dict[str, int]:
    lanes = {str(t.pk): lane_of(t) for t in Target.objects.filter(domain__service=service).paths()}
    return {lanes[key]: percent for key, percent in weights.items()}


def led_to(settings: Any, rail: Rail) -> None:
    """Let the world find the rail's name server."""
    settings.AUTHORITY_OVERRIDES = {rail.zone: f"{rail.address()[0]}:{rail.address()[1]}"}
    settings.PROBE_ALLOW_PRIVATE = True
    settings.DNS_API_ALLOW_PRIVATE = True
    observation.forget_servers()


def until(condition: Any, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)
