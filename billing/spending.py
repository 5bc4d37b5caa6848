"""What the month costs so far and by its end, what is used of the year's cover, and who is told when it passes an amount."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from django.db import connection, transaction
from django.db.models import Q

from billing import bill as billing_bill
from billing import drafting, estimating, invoicing, segments
from billing.bill import Bill
from billing.cover import Interval
from billing.document import rate_document
from billing.drafting import Draft
from billing.facts import PathUsage
from billing.models import Contract, Invoice, SpendAlert
from billing.money import format_minor
from billing.rating import decimal
from billing.segments import Month, Segment
from customers.models import Customer, Event

LEAST_ELAPSED = timedelta(hours=1)
"""Of a month: before that nothing is projected."""
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Sums:
    """Minor units of one currency."""

    subtotal_minor: int = 0
    discount_minor: int = 0
    tax_minor: int = 0
    total_minor: int = 0

    def plus(self, bill: Bill) -> Sums:
        return Sums(
            self.subtotal_minor + bill.subtotal_minor, self.discount_minor + bill.discount_minor,
            self.tax_minor + bill.tax_minor, self.total_minor + bill.total_minor,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerUsed:
    """A tranche and what is used of it in the policy year; amounts in major units, as the contract has them."""

    attachment: str
    limit: str | None
    share: str
    used: str
    left: str | None


@dataclass(frozen=True, slots=True)
class CoverUsed:
    """Of one policy year, [start, end)."""

    start: datetime
    end: datetime
    aggregate_seconds: int | None
    used_seconds: int
    used_seconds_by_service: Mapping[str, int]
    covered_cost: str
    """Of covered backup traffic in major units, before any limit or share."""
    layers: Sequence[LayerUsed]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of the month so far by a CDN's own statistics (E4), beside what was metered in the same hours. Never billed."""

    service_id: int
    path: str
    source: str
    metered_bytes: int
    estimated_bytes: int


@dataclass(frozen=True, slots=True)
class Spend:
    """One month, [start, end) UTC, in the contract's time zone and currency, as it stood at `as_of`."""

    month: str
    start: datetime
    end: datetime
    as_of: datetime
    time_zone: str
    currency: str
    elapsed_share: float
    so_far: Sums
    """Usage until now, and the fees of the whole month."""
    projected: Sums | None
    """If traffic goes on as it did this month, without further storms; None: it is too early to say."""
    cover: CoverUsed
    estimates: Sequence[Estimate]
    problem: str
    """What keeps usage from being billed, for staff to settle."""


def spend(customer: Customer, now: datetime) -> list[Spend]:
    """The customer's current month by the contract in force; empty without one. Nothing is written.

    Parts of the month under other currencies are left out: amendments never change it.
    """
    contract = _in_force(customer, now)
    if contract is None:
        return []
    month = Month.at(now, contract.time_zone)
    span = month.span(contract.time_zone)
    run = invoicing.preview(customer, month, now)
    currency = contract.rate_card.currency
    drafts = {d.segment.start: d for d in run.drafts if d.currency == currency}
    parts = [
        s
        for s in segments.of_month(month, [customer.pk]).get(customer.pk, [])
        if s.contract.rate_card.currency == currency
    ]
    so_far = Sums()
    for draft in drafts.values():
        so_far = so_far.plus(draft.bill)
    return [
        Spend(
            month=str(month), start=span.start, end=span.end, as_of=now, time_zone=contract.time_zone, currency=currency,
            elapsed_share=float(Fraction((now - span.start) // _MICROSECOND, span.length // _MICROSECOND)),
            so_far=so_far, projected=_projected(parts, drafts, now, currency),
            cover=_cover_used(contract, parts, drafts, span, now),
            estimates=_estimates(customer, Interval(span.start, now)),
            problem=run.problems.get(customer.pk, ""),
        )
    ]  # fmt: skip


def _in_force(customer: Customer, now: datetime) -> Contract | None:
    rows = Contract.objects.filter(Q(valid_until__isnull=True) | Q(valid_until__gt=now), valid_from__lte=now)
    return rows.filter(customer=customer).select_related("rate_card").first()


# --- by the month's end ---------------------------------------------------------------------------------------------


def _projected(parts: Sequence[Segment], drafts: Mapping[datetime, Draft], now: datetime, currency: str) -> Sums | None:
    """Each part of the month rated again, with what the rest of it brings by the mean of the time that has passed.

    What storms moved is billed and not projected. Tiers, commitments and fees count as they will on the invoice.
    """
    elapsed = sum((min(now, part.end) - part.start for part in parts if part.start < now), timedelta(0))
    if elapsed < LEAST_ELAPSED:
        return None
    usual = _usual(drafts.values())
    sums = Sums()
    for part in parts:
        rest = Fraction(max(part.end - max(now, part.start), timedelta(0)) // _MICROSECOND, elapsed // _MICROSECOND)
        more = [row._replace(bytes=int(row.bytes * rest), requests=int(row.requests * rest)) for row in usual]
        draft = drafts.get(part.start)
        if draft:
            document, charges = draft.document, draft.charges
        else:
            document = drafting.terms_of(part.contract, part.prices, {}) | {"storms": [], "usage": []}
            charges = drafting.charges_of(part, [], ())
        windows = [
            drafting.window(r.service_id, r.path, r.cdn, part.start, part.end, r.bytes, 0) for r in more if r.bytes
        ]
        used = [*(draft.usage if draft else []), *more]
        charges = replace(charges, requests=drafting.charges_of(part, used, ()).requests)
        rated = rate_document(document | {"usage": [*document["usage"], *windows]})
        sums = sums.plus(billing_bill.bill(rated, charges, currency))
    return sums


def _usual(drafts: Iterable[Draft]) -> list[PathUsage]:
    """Bytes and requests by service, path and CDN, without what storms moved to the backups."""
    sums: dict[tuple[int, str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for draft in drafts:
        moved = defaultdict[tuple[int, str], Fraction](Fraction)
        for covered in draft.events:
            for cdn, exact in covered.measured.backup.items():
                moved[covered.service, cdn] += exact
        for row in draft.usage:
            away = int(moved[row.service_id, row.cdn]) if row.path == "backup" else 0
            size, requests = sums[row.service_id, row.path, row.cdn]
            kept = max(row.bytes - away, 0)
            share = Fraction(kept, row.bytes) if row.bytes else Fraction(1)
            sums[row.service_id, row.path, row.cdn] = size + kept, requests + int(row.requests * share)
    return [PathUsage(*key, size, requests, "") for key, (size, requests) in sums.items()]


# --- the year's cover -----------------------------------------------------------------------------------------------


def _cover_used(
    contract: Contract, parts: Sequence[Segment], drafts: Mapping[datetime, Draft], span: Interval, now: datetime
) -> CoverUsed:
    here = next((part for part in parts if part.start <= now < part.end), None)
    year = here.policy_year if here else Interval(contract.policy_from or contract.valid_from, span.end)
    rows = Invoice.objects.filter(
        customer=contract.customer_id, kind=Invoice.Kind.INVOICE, period_start__gte=year.start, period_start__lt=span.start
    ).exclude(state=Invoice.State.VOID)  # fmt: skip
    used: list[tuple[str, Fraction, Mapping[str, int]]] = [
        (currency, Fraction(cost), found)
        for currency, cost, found in rows.values_list("currency", "covered_cost", "cover_used")
    ]
    used += [(d.currency, d.rated.covered_cost, d.cover_used) for start, d in drafts.items() if start >= year.start]
    # Time is time in any currency; what it cost counts in the contract's own.
    cost = sum((cost for currency, cost, _ in used if currency == contract.rate_card.currency), Fraction(0))
    by_service: dict[str, int] = defaultdict(int)
    for *_, found in used:
        for service, microseconds in found.items():
            by_service[service] += microseconds
    seconds = {service: microseconds // 10**6 for service, microseconds in sorted(by_service.items())}
    return CoverUsed(
        year.start, year.end, contract.aggregate_seconds, sum(by_service.values()) // 10**6, seconds, decimal(cost),
        [_layer(layer, cost) for layer in contract.layers],
    )  # fmt: skip


def _layer(layer: Mapping[str, Any], cost: Fraction) -> LayerUsed:
    inside = max(cost - Fraction(layer["attachment"]), Fraction(0))
    limit = None if layer["limit"] is None else Fraction(layer["limit"])
    used = inside if limit is None else min(inside, limit)
    return LayerUsed(
        layer["attachment"],
        layer["limit"],
        layer["share"],
        decimal(used),
        None if limit is None else decimal(limit - used),
    )


def _estimates(customer: Customer, period: Interval) -> list[Estimate]:
    sums: dict[tuple[int, str, str], tuple[int, int]] = {}
    for row in estimating.differences(customer, period):
        metered, estimated = sums.get((row.service_id, row.path, row.source), (0, 0))
        sums[row.service_id, row.path, row.source] = metered + row.metered_bytes, estimated + row.estimated_bytes
    return [Estimate(*key, *pair) for key, pair in sorted(sums.items())]


# --- alerts ---------------------------------------------------------------------------------------------------------

_FIRE = """
WITH spent AS (
    SELECT customer_id, currency, sum(total_minor) AS total_minor,
        date_trunc('month', period_start AT TIME ZONE time_zone) AT TIME ZONE time_zone AS month
    FROM invoices
    WHERE kind = 'invoice' AND state <> 'void' AND period_start > %(now)s - interval '70 days'
        AND date_trunc('month', period_start AT TIME ZONE time_zone)
            = date_trunc('month', %(now)s AT TIME ZONE time_zone) - make_interval(months => %(back)s)
    GROUP BY 1, 2, 4
), passed AS (
    SELECT a.id, max(s.month) AS month, max(s.total_minor) AS total_minor, max(s.currency) AS currency
    FROM spent s JOIN spend_alerts a ON a.customer_id = s.customer_id AND a.threshold_minor <= s.total_minor
    WHERE (a.fired_for IS NULL OR a.fired_for < s.month) AND a.created_at < s.month + interval '1 month'
    GROUP BY 1
), locked AS (
    SELECT id FROM spend_alerts WHERE id IN (SELECT id FROM passed) ORDER BY id FOR UPDATE
)
UPDATE spend_alerts SET fired_for = passed.month FROM passed, locked
WHERE spend_alerts.id = passed.id AND locked.id = passed.id
    AND (spend_alerts.fired_for IS NULL OR spend_alerts.fired_for < passed.month)
RETURNING spend_alerts.id, spend_alerts.customer_id, threshold_minor, passed.month, passed.total_minor, passed.currency
"""


def fire_alerts(now: datetime) -> int:
    """An event for each alert whose amount its customer's month has passed, once a month and alert. Returns how many.

    Last month's drafts still grow while late logs come, so they are looked at as well.
    """
    fired = 0
    for back in (1, 0):
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(_FIRE, {"now": now, "back": back})
                rows = cursor.fetchall()
            Event.objects.bulk_create(
                Event.about(
                    "alert.triggered", SpendAlert(pk=alert),
                    f"{format_minor(total, currency)} {currency} were spent: more than {format_minor(threshold, currency)}",
                    customer_id=customer, month=month.isoformat(), threshold_minor=threshold, spent_minor=int(total),
                    currency=currency,
                )
                for alert, customer, threshold, month, total, currency in rows
            )  # fmt: skip
        fired += len(rows)
    return fired
