"""Fills a database with a compacted month, drafts it and issues it; the last line is JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from datetime import UTC, datetime, timedelta

import django

django.setup()

from django.db import connection  # noqa: E402

from billing import invoicing  # noqa: E402
from billing.models import Contract, Invoice, InvoiceLineItem, Prices, RateCard  # noqa: E402
from billing.segments import Month  # noqa: E402
from customers.models import Customer, Event  # noqa: E402
from services.models import Cdn, Service, ServiceDomain, Target  # noqa: E402
from storms.models import CdnIncident, StormEvent  # noqa: E402
from tests import factories  # noqa: E402

MARCH = Month(2026, 3)
SPAN = MARCH.span()
APRIL_3 = datetime(2026, 4, 3, tzinfo=UTC)
STORM_AT = datetime(2026, 3, 17, 10, 2, 30, tzinfo=UTC)
ONE_IN_STORM = 20
"""Of so many customers one had a storm, and keeps the minutes around it."""

# A path's quarters of the month; the backup serves while the storm rages.
_QUARTERS = """
INSERT INTO usage_buckets (customer_id, service_id, target_id, minute_at, minutes, bytes, requests, grade)
SELECT v.customer_id, v.id, t.id, at, 15, 1000000000 + (v.id * 7919 + extract(epoch FROM at)::bigint) %% 5000000, 60, 'E2'
FROM services v JOIN service_domains d ON d.service_id = v.id JOIN targets t ON t.domain_id = d.id AND t.role = 'primary'
    CROSS JOIN generate_series(%s::timestamptz, %s::timestamptz, '15 minutes') AS at
WHERE v.id BETWEEN %s AND %s
    AND NOT (v.id %% %s = 0 AND at >= '2026-03-17T09:00Z' AND at < '2026-03-17T13:00Z')
"""
_MINUTES = """
INSERT INTO usage_buckets (customer_id, service_id, target_id, minute_at, minutes, bytes, requests, grade)
SELECT v.customer_id, v.id, t.id, at, 1, 70000000 + (v.id * 7919 + extract(epoch FROM at)::bigint) %% 5000, 4, 'E2'
FROM services v JOIN service_domains d ON d.service_id = v.id
    CROSS JOIN generate_series('2026-03-17T09:00Z'::timestamptz, '2026-03-17T12:59Z', '1 minute') AS at
    JOIN targets t ON t.domain_id = d.id
        AND t.role = CASE WHEN at >= '2026-03-17T10:03Z' AND at < '2026-03-17T11:30Z' THEN 'backup' ELSE 'primary' END
WHERE v.id %% %s = 0
"""
_HOURS = """
INSERT INTO usage_snapshots (customer_id, service_id, target_id, window_start, window_end, bytes, requests, grade, updated_at)
SELECT customer_id, service_id, target_id, date_trunc('hour', minute_at, 'UTC'),
    date_trunc('hour', minute_at, 'UTC') + interval '1 hour', sum(bytes), sum(requests), 'E2', now()
FROM usage_buckets GROUP BY 1, 2, 3, 4
"""


def main(customers: int) -> None:
    began = time.monotonic()
    rows = _fill(customers)
    _say(f"{rows:,} buckets of {customers:,} customers after {time.monotonic() - began:.0f} s")

    began = time.monotonic()
    drafts, problems = invoicing.draft_all(MARCH, APRIL_3)
    drafted_s = time.monotonic() - began
    assert len(drafts) == customers and not problems, problems[:3]
    covered = InvoiceLineItem.objects.filter(kind="cover", amount_minor__gt=0).count()
    assert covered == customers // ONE_IN_STORM, covered

    began = time.monotonic()
    issued, problems = invoicing.finalize_due(APRIL_3)
    issued_s = time.monotonic() - began
    numbers = sorted(Invoice.objects.values_list("number", flat=True))
    assert numbers == [f"INV-{n:06d}" for n in range(1, customers + 1)] and not problems, problems[:3]
    assert len(issued) == customers
    print(
        json.dumps(
            {
                "buckets": rows, "drafted_s": round(drafted_s, 2), "issued_s": round(issued_s, 2),
                "drafted_a_minute": round(customers * 60 / drafted_s), "issued_a_minute": round(customers * 60 / issued_s),
                "us_an_invoice": round(drafted_s / customers * 1e6),
                "rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
        )
    )  # fmt: skip


def _fill(customers: int) -> int:
    cdns = [Cdn.objects.create(name=f"CDN {n}", slug=f"cdn-{n}") for n in (1, 2)]
    card = RateCard.objects.create(name="bench")
    tiers = [{"up_to": "1", "per_unit": "0.12"}, {"up_to": None, "per_unit": "0.10"}]
    Prices.objects.create(
        rate_card=card, valid_from=datetime(2026, 1, 1, tzinfo=UTC), primary_tiers=tiers, backup_tiers=tiers
    )
    owners = Customer.objects.bulk_create(Customer(name=f"customer {n}") for n in range(customers))
    services = Service.objects.bulk_create(Service(customer=owner, name="app") for owner in owners)
    domains = ServiceDomain.objects.bulk_create(
        ServiceDomain(customer=s.customer, service=s, hostname=f"www{s.pk}.example.com", verified_at=SPAN.start)
        for s in services
    )
    Target.objects.bulk_create(
        Target(customer=d.customer, domain=d, cdn=cdn, role=role, address=f"{role}.example.net")
        for d in domains
        for cdn, role in zip(cdns, ("primary", "backup"), strict=True)
    )
    Contract.objects.bulk_create(
        Contract(customer=owner, rate_card=card, valid_from=datetime(2026, 1, 1, tzinfo=UTC)) for owner in owners
    )
    _storms([s for s in services if s.pk % ONE_IN_STORM == 0], cdns[0])
    first, last = services[0].pk, services[-1].pk
    with connection.cursor() as cursor:
        for start in range(first, last + 1, 500):
            end = SPAN.end - timedelta(minutes=15)
            cursor.execute(_QUARTERS, [SPAN.start, end, start, min(start + 499, last), ONE_IN_STORM])
        cursor.execute(_MINUTES, [ONE_IN_STORM])
        cursor.execute(_HOURS)
        cursor.execute("SELECT count(*) FROM usage_buckets")
        count = int(cursor.fetchone()[0])
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    return count


def _storms(services: list[Service], cdn: Cdn) -> None:
    end = STORM_AT + timedelta(minutes=80)
    incident = CdnIncident.objects.create(
        cdn=cdn, started_at=STORM_AT, detected_at=STORM_AT, last_bad_at=end, ended_at=end, confirmed_at=STORM_AT,
        witnesses=["the reference site"], reason="bench",
    )  # fmt: skip
    from dns.models import WeightChange

    for service in services:
        row = factories.storm(
            service=service, started_at=STORM_AT, ended_at=end, closed_at=end + timedelta(minutes=5), last_bad_at=end,
            incident=incident, cdn=cdn,
        )  # fmt: skip
        domain = ServiceDomain.objects.get(service=service)
        paths = {t.role: str(t.pk) for t in Target.objects.filter(domain=domain)}
        record_set = factories.record_set(domain=domain)
        for generation, (at, backup) in enumerate(((STORM_AT + timedelta(seconds=10), 100), (end, 0)), 1):
            WeightChange.objects.create(
                customer=service.customer, service=service, record_set=record_set, generation=generation, storm=row,
                weights={paths["primary"]: 100 - backup, paths["backup"]: backup}, state="observed", observed_at=at,
                reason="bench",
            )  # fmt: skip
    assert StormEvent.objects.count() == len(services)
    Event.objects.all().delete()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
