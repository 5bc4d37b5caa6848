"""Drafts: each recomputed whole from usage, storms and terms, many customers at a time, until its grace period is over.

Nothing is written here: a preview is what `compute` says, and a draft is the preview stored (`billing.invoicing`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing import bill as billing_bill
from billing import cover, facts, segments
from billing.bill import Bill, Charges, Requests
from billing.cover import CoverTerms, Decision, Event, Interval, Measured, Recorded, WaitingMode, zulu
from billing.document import rate_document
from billing.evidence import canonical, content_of, decision_json, event_json
from billing.models import Contract, Invoice
from billing.rating import Rated, decimal
from billing.segments import Month, Segment
from customers.models import Customer
from services.models import Service
from storms.models import StormEvent


@dataclass(frozen=True, slots=True)
class CoveredEvent:
    """One event of a service with what was measured in it."""

    service: int
    event: Event
    measured: Measured

    def as_json(self) -> dict[str, Any]:
        return event_json(str(self.service), self.event, self.measured)


@dataclass(slots=True)
class Draft:
    """What one segment's invoice would be, and why. `problem`: why it can't be issued as it stands."""

    segment: Segment
    as_of: datetime
    usage: Sequence[facts.PathUsage]
    decisions: dict[int, list[tuple[Decision, Recorded]]]
    events: list[CoveredEvent]
    document: dict[str, Any]
    charges: Charges
    rated: Rated
    bill: Bill
    problem: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    storms: Mapping[str, StormEvent] = field(default_factory=dict)

    @property
    def currency(self) -> str:
        return self.segment.currency

    @property
    def is_empty(self) -> bool:
        return not self.bill.lines

    @property
    def cover_used(self) -> dict[str, int]:
        """By service, microseconds of cover."""
        used: dict[str, int] = defaultdict(int)
        for covered in self.events:
            used[str(covered.service)] += covered.event.paid // timedelta(microseconds=1)
        return dict(used)

    def decisions_json(self) -> dict[str, Any]:
        return {
            "storms": [
                decision_json(str(service), decision, storm)
                for service, found in sorted(self.decisions.items())
                for decision, storm in found
            ],
            "events": [covered.as_json() for covered in self.events],
        }

    @property
    def sha256(self) -> str:
        """Of all that the invoice says."""
        segment = self.segment
        frame = {
            "customer": segment.contract.customer_id,
            "contract": segment.contract.pk,
            "prices": segment.prices.pk,
            "period": [zulu(segment.start), zulu(segment.end)],
        }
        extras = billing_bill.to_json(self.charges)
        told = content_of(frame, self.document, extras, self.decisions_json(), self.rated, self.bill)
        return hashlib.sha256(canonical(told).encode()).hexdigest()


@dataclass(slots=True)
class Run:
    """What a run found: drafts, and what keeps usage from being billed."""

    drafts: list[Draft] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    """By customer."""


Pending = Mapping[tuple[int, str], Sequence[billing_bill.Correction]]
"""By customer and currency."""


def compute(month: Month, as_of: datetime, customers: Sequence[Customer], pending: Pending) -> Run:
    """The drafts of these customers for a month as it stands at `as_of`. Nothing is written.

    `pending`: corrections of issued invoices that are to be billed now, on the first of the customer's segments in their
    currency; without one they wait. The number of queries does not depend on how many customers there are.
    """
    by_customer = segments.of_month(month, [customer.pk for customer in customers])
    wanted = [segment for customer in customers for segment in by_customer.get(customer.pk, [])]
    first: dict[tuple[int, str], int] = {}
    for n, segment in enumerate(wanted):
        first.setdefault((segment.contract.customer_id, segment.currency), n)
    extra: list[Sequence[billing_bill.Correction]] = [()] * len(wanted)
    for owner, n in first.items():
        extra[n] = pending.get(owner, ())
    drafts = [draft for draft in compute_segments(wanted, as_of, extra) if not draft.is_empty]
    return Run(drafts, _unbilled(month, customers, by_customer))


def compute_segments(
    wanted: Sequence[Segment], as_of: datetime, extra: Sequence[Sequence[billing_bill.Correction]]
) -> list[Draft]:
    """One draft for each segment; those of one customer stand in order of time. `extra`: the corrections of each."""
    used = facts.usage(wanted)
    covers = _covers(wanted, as_of)
    earlier = _earlier(wanted)
    decided = []
    for segment in wanted:  # an aggregate is used up in order, and needs no bytes
        owner = segment.contract.customer_id
        decided.append(decide(segment, as_of, covers.get(owner, {}), earlier[owner]))
        earlier[owner].use(segment, decided[-1][1])
    measured = iter(facts.measure([entry for _, events in decided for entry in events]))
    drafts = []
    for segment, usage, (decisions, events), corrections in zip(wanted, used, decided, extra, strict=True):
        owner = segment.contract.customer_id
        covered = [CoveredEvent(service, event, next(measured)) for service, event in events]
        before = earlier[owner].cost(segment) if segment.contract.layers else Fraction(0)
        known = covers.get(owner, {})
        document = document_of(segment, usage, covered, known, before, as_of)
        rated = rate_document(document)
        charges = charges_of(segment, usage, corrections)
        whole = billing_bill.bill(rated, charges, segment.contract.rate_card.currency)
        earlier[owner].costs.append((segment.start, segment.currency, Fraction(stored_cost(rated))))
        problem = _problem(usage) or next(filter(None, (c.details.get("problem") for c in corrections)), "")
        drafts.append(Draft(segment, as_of, usage, decisions, covered, document, charges, rated, whole, problem))
    _name(drafts)
    return drafts


@dataclass(slots=True)
class _Before:
    """What earlier periods used of a policy year's cover: its cost in major units, and microseconds by service."""

    costs: list[tuple[datetime, str, Fraction]] = field(default_factory=list)
    times: list[tuple[datetime, str, int]] = field(default_factory=list)

    def use(self, segment: Segment, events: Iterable[tuple[int, Event]]) -> None:
        self.times += [(segment.start, str(service), e.paid // timedelta(microseconds=1)) for service, e in events]

    def cost(self, segment: Segment) -> Fraction:
        """Of its policy year so far, in its currency: layers are of one currency, and so is what fills them."""
        year, currency = segment.policy_year, segment.currency
        found = (cost for at, of, cost in self.costs if of == currency and year.start <= at < segment.start)
        return sum(found, Fraction(0))

    def microseconds(self, service: int, year: Interval, until: datetime) -> int:
        return sum(used for at, of, used in self.times if of == str(service) and year.start <= at < until)


def _earlier(wanted: Sequence[Segment]) -> defaultdict[int, _Before]:
    before = defaultdict[int, _Before](_Before)
    counting = [s for s in wanted if s.contract.layers or s.contract.aggregate_seconds is not None]
    if counting:
        starts = defaultdict[int, set[datetime]](set)
        for segment in counting:
            starts[segment.contract.customer_id].add(segment.start)
        since = min(segment.policy_year.start for segment in counting)
        rows = Invoice.objects.filter(customer__in=starts, kind=Invoice.Kind.INVOICE, period_start__gte=since)
        for row in rows.exclude(state=Invoice.State.VOID).only(
            "customer", "period_start", "currency", "covered_cost", "cover_used"
        ):
            if row.period_start not in starts[row.customer_id]:
                mine = before[row.customer_id]
                mine.costs.append((row.period_start, row.currency, Fraction(row.covered_cost)))
                mine.times += [(row.period_start, service, used) for service, used in row.cover_used.items()]
    return before


def _covers(wanted: Sequence[Segment], as_of: datetime) -> dict[int, dict[int, facts.CoverFacts]]:
    """By customer and service."""
    found: dict[int, dict[int, facts.CoverFacts]] = defaultdict(dict)
    if wanted:
        span = Interval(min(s.start for s in wanted), min(max(s.end for s in wanted) + facts.AHEAD, as_of))
        owners = facts.cover_facts(span, {s.contract.customer_id for s in wanted})
        for service, customer in Service.objects.filter(pk__in=owners).values_list("pk", "customer_id"):
            found[customer][service] = owners[service]
    return found


def stored_cost(rated: Rated) -> Decimal:
    """What tranches count on from, as an invoice keeps it: twelve places."""
    return Decimal(decimal(rated.covered_cost)).quantize(Decimal(10) ** -12)


def _problem(usage: Sequence[facts.PathUsage]) -> str:
    sampled = sum(row.bytes for row in usage if row.grade == "E4")
    return f"{sampled:,} bytes are from sampled logs (grade E4): a person must approve them" if sampled else ""


def decide(
    segment: Segment, as_of: datetime, known: Mapping[int, facts.CoverFacts], before: _Before
) -> tuple[dict[int, list[tuple[Decision, Recorded]]], list[tuple[int, Event]]]:
    """Which storms of the segment pay, and the events that they make, by service."""
    decisions, found = {}, []
    for service, told in sorted(known.items()):
        terms = cover_terms(segment.contract, before.microseconds(service, segment.policy_year, segment.start))
        storms = told.near(segment.span, as_of)
        shifts = told.shifts(segment.contract.drain_seconds)
        mine, events = cover.events(storms, shifts, told.excluded, terms, segment.span, as_of)
        near = {name for event in events for name in event.storms}
        decisions[service] = [
            (decision, storm)
            for decision, storm in zip(mine, storms, strict=True)
            if decision.storm in near or storm.touches(segment.span, as_of)
        ]
        found += [(service, event) for event in events]
    return {service: kept for service, kept in decisions.items() if kept}, found


def cover_terms(contract: Contract, used_microseconds: int = 0) -> CoverTerms:
    left = contract.aggregate_seconds
    if left is not None:
        left = max(left - used_microseconds // 10**6, 0)
    return CoverTerms(
        waiting_seconds=contract.waiting_seconds,
        waiting_mode=WaitingMode(contract.waiting_mode),
        hours_clause_seconds=contract.hours_clause_seconds,
        aggregate_seconds=left,
        merge_gap_seconds=contract.merge_gap_seconds,
    )


def document_of(
    segment: Segment,
    usage: Sequence[facts.PathUsage],
    events: Sequence[CoveredEvent],
    known: Mapping[int, facts.CoverFacts],
    covered_before: Fraction,
    as_of: datetime,
) -> dict[str, Any]:
    """What is to be rated: one window for each event and CDN with its covered bytes, and one for the rest of each path."""
    prices, contract = segment.prices, segment.contract
    windows, moved = [], defaultdict[tuple[int, str], int](int)
    for covered in events:
        if not covered.event.spans:
            continue
        for cdn, (size, paid) in cover.covered_bytes(covered.measured).items():
            moved[covered.service, cdn] += size
            windows.append(
                window(
                    covered.service,
                    "backup",
                    cdn,
                    covered.event.spans[0].start,
                    covered.event.spans[-1].end,
                    size,
                    paid,
                )
            )
    for row in usage:
        rest = row.bytes - (moved[row.service_id, row.cdn] if row.path == "backup" else 0)
        windows.append(window(row.service_id, row.path, row.cdn, segment.start, segment.end, rest, 0))
    paying = {name for covered in events for name in covered.event.storms}
    storms = [
        {"id": storm.id, "start": zulu(i.start), "end": zulu(i.end), "service": str(service)}
        for service, told in sorted(known.items())
        for storm in told.storms
        if storm.id in paying
        for i in storm.raged(as_of)
    ]
    factors = {str(service): told.factor(paying) for service, told in known.items()}
    return terms_of(contract, prices, factors, covered_before) | {"storms": storms, "usage": windows}


def terms_of(
    contract: Contract, prices: Any, factors: Mapping[str, Decimal | None], covered_before: Fraction = Fraction(0)
) -> dict[str, Any]:
    """The terms of a document to rate; `factors` are the policies' own, by service."""
    card = contract.rate_card
    own = {"cdns": prices.cdn_tiers} if prices.cdn_tiers else {}
    return {
        "currency": card.currency,
        "unit": card.unit,
        "rounding": "half_up",
        "rates": {"primary": prices.primary_tiers, "backup": prices.backup_tiers} | own,
        "tier_mode": prices.tier_mode,
        "cover": {
            "discount_rate": _text(contract.discount_rate),
            "max_coverage_factor": _text(contract.max_coverage_factor),
            "service_factors": {s: _text(factor) for s, factor in sorted(factors.items()) if factor is not None},
            "coverage_mode": contract.coverage_mode,
            "waiting_seconds": contract.waiting_seconds,
            "waiting_mode": contract.waiting_mode,
            "hours_clause_seconds": contract.hours_clause_seconds,
            "aggregate_seconds": contract.aggregate_seconds,
            "merge_gap_seconds": contract.merge_gap_seconds,
            "layers": contract.layers,
            "covered_before": decimal(covered_before),
        },
    }


def window(
    service: int, path: str, cdn: str, start: datetime, end: datetime, size: int, covered: int | None
) -> dict[str, Any]:
    return {
        "service": str(service), "path": path, "cdn": cdn, "start": zulu(start), "end": zulu(end), "bytes": size,
        "covered_bytes": covered,
    }  # fmt: skip


def charges_of(
    segment: Segment, usage: Sequence[facts.PathUsage], pending: Sequence[billing_bill.Correction]
) -> Charges:
    contract = segment.contract
    prices: Mapping[str, str] = segment.prices.per_10k_requests
    counts: dict[tuple[int, str], int] = defaultdict(int)
    for row in usage:
        counts[row.service_id, row.path] += row.requests
    return Charges(
        share=segment.month_share,
        sells_delivery=contract.kind == Contract.Kind.RESALE,
        fixed_fee=Fraction(contract.fixed_fee),
        premium=Fraction(contract.premium),
        minimum_commitment=Fraction(contract.minimum_commitment),
        commit_on_net=contract.commit_on_net,
        requests=[
            Requests(str(service), path, count, Fraction(prices[path]))
            for (service, path), count in sorted(counts.items(), key=lambda item: (item[0][0], item[0][1] != "primary"))
            if path in prices and count
        ],
        tax_rates={category: Fraction(rate) for category, rate in contract.tax_rates.items()},
        corrections=pending,
    )


def _text(value: Decimal) -> str:
    return decimal(Fraction(value))


def _name(drafts: Sequence[Draft]) -> None:
    """Names of services and the storms' rows, for the words on the lines."""
    storms = {name for draft in drafts for covered in draft.events for name in covered.event.storms}
    rows = {f"storm-{row.pk}": row for row in StormEvent.objects.filter(pk__in=[int(s[6:]) for s in storms])}
    owners = {draft.segment.contract.customer_id for draft in drafts}
    names = {str(pk): name for pk, name in Service.objects.filter(customer__in=owners).values_list("pk", "name")}
    for draft in drafts:
        draft.names, draft.storms = names, rows


def _unbilled(
    month: Month, customers: Sequence[Customer], by_customer: Mapping[int, Sequence[Segment]]
) -> dict[int, str]:
    """Usage at a time for which the customer has no contract, or the contract no prices: a person must say what holds."""
    gaps: list[tuple[int, Interval]] = []
    without = [customer.pk for customer in customers if not by_customer.get(customer.pk)]
    # Months without a contract are those of the one before, so that none begins before that one's ended.
    earlier = Contract.objects.filter(customer__in=without, valid_from__lt=month.span().end).order_by("valid_from")
    zones = dict(earlier.values_list("customer_id", "time_zone"))
    # Who moved eastwards within the month ends it sooner, and begins the next one sooner.
    after = segments.of_month(month.following, [customer.pk for customer in customers])
    for customer in customers:
        mine = by_customer.get(customer.pk, [])
        zone = mine[0].contract.time_zone if mine else zones.get(customer.pk, "UTC")
        told = [segment.span for segment in (*mine, *after.get(customer.pk, []))]
        gaps += [(customer.pk, i) for i in cover.subtract([month.span(zone)], told)]
    names = {customer.pk: str(customer) for customer in customers}
    return {
        customer: f"{names[customer]} has usage from {at:%Y-%m-%d %H:%M} UTC on, and no contract with prices for that time"
        for customer, at in facts.first_usage(gaps)
    }
