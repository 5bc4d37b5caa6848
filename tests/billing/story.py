"""What tests of money are told about: customers with prices, usage, storms that were seen and moved traffic."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from billing import metering
from billing.models import Invoice, LogObject, UsageBucket, UsageSource
from billing.segments import Month
from customers.models import Customer
from dns.models import RecordSet, WeightChange
from services.models import Service, Target
from storms.models import StormEvent
from tests import factories

MARCH = Month(2026, 3)
APRIL_3 = datetime(2026, 4, 3, tzinfo=UTC)
GB = 10**9
_names = itertools.count(1)


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    """A moment of March 2026."""
    return datetime(2026, 3, day, hour, minute, tzinfo=UTC)


def billed_customer(**terms: Any) -> tuple[Customer, Service]:
    """Primary at 0.10 and backup at 0.20 a GB; we bear half of covered backup traffic."""
    customer = factories.customer()
    service = factories.service(customer=customer, name="app")
    add_paths(service)
    factories.contract(customer=customer, **({"merge_gap_seconds": 0, "drain_seconds": 0} | terms))
    return customer, service


def add_paths(service: Service) -> None:
    domain = factories.domain(service=service)
    for role in ("primary", "backup"):
        factories.target(role, domain=domain)
    factories.record_set(domain=domain)


def use(
    service: Service, role: str, minute_at: datetime, size: int, requests: int = 1, now: datetime = APRIL_3
) -> None:
    """One log object of one minute, counted as the meter does."""
    target = Target.objects.get(domain__service=service, role=role)
    source, _ = UsageSource.objects.get_or_create(
        name=f"logs of {target.pk}",
        cdn=target.cdn,
        defaults={"kind": "directory", "format": "cloudfront", "location": "/x"},
    )
    log = LogObject.objects.create(source=source, key=f"{next(_names)}", etag="1", size_bytes=1, state="counted")
    UsageBucket.objects.create(
        customer=service.customer, service=service, target=target, log_object=log, minute_at=minute_at, bytes=size,
        requests=requests,
    )  # fmt: skip
    hour = minute_at.replace(minute=0, second=0, microsecond=0)
    with connection.cursor() as cursor:
        metering.sum_hours(cursor, {(service.customer_id, service.pk, target.pk, hour)}, now)


def storm(service: Service, start: datetime, end: datetime | None, *, seen: bool = True, **kw: Any) -> StormEvent:
    """A storm of the service's primary CDN that a reference site bore witness to, and whose shift DNS showed at once.

    `seen` false: no shift was ever observed.
    """
    primary = Target.objects.get(domain__service=service, role="primary")
    closed = {"closed_at": end + timedelta(minutes=5), "last_bad_at": end} if end else {"last_bad_at": APRIL_3}
    told = {"cdn": primary.cdn} | closed | kw
    if "incident" not in told:
        told["incident"] = factories.incident(
            cdn=primary.cdn,
            started_at=start,
            confirmed_at=start,
            ended_at=end or start,
            witnesses=["the reference site"],
        )
    row = factories.storm(service=service, started_at=start, ended_at=end, **told)
    if seen:
        shift(service, start, end, row)
    return row


def shift(service: Service, start: datetime, end: datetime | None, storm: StormEvent | None = None) -> None:
    """All traffic to the backup at `start`, and home at `end`, as observed in DNS."""
    record_set = RecordSet.objects.get(domain__service=service)
    primary, backup = (str(Target.objects.get(domain__service=service, role=r).pk) for r in ("primary", "backup"))
    for moment, weights in ((start, {primary: 0, backup: 100}), (end, {primary: 100, backup: 0})):
        if moment:
            record_set.generation += 1
            WeightChange.objects.create(
                customer=service.customer, service=service, record_set=record_set, generation=record_set.generation,
                weights=weights, state="observed", observed_at=moment, reason="made by a test", storm=storm,
            )  # fmt: skip
    record_set.save()


def amounts(invoices: list[Invoice]) -> tuple[int, int, int]:
    (invoice,) = invoices
    return invoice.subtotal_minor, invoice.discount_minor, invoice.total_minor
