"""Drafts, recomputed whole until their grace period is over, and finalization, which freezes them under a number."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from django.db import connection, transaction
from django.db.models import Q

from billing import cover
from billing.document import rate_document
from billing.models import Contract, Invoice, InvoiceCounter, InvoiceLineItem
from billing.rating import Line, Rated, decimal, zulu
from customers.models import Customer, Event
from services.models import Service
from storms.models import StormEvent, StormPolicyVersion
from tranche_site.floor.faults import fault_point

logger = logging.getLogger(__name__)

SERIES = "INV"


class InvoiceError(Exception):
    """Why an invoice can't be drafted or finalized, in words for staff."""


@dataclass(frozen=True, slots=True)
class Period:
    """A billing period [start, end) in UTC."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, year: int, month: int) -> Period:
        start = datetime(year, month, 1, tzinfo=UTC)
        return cls(start, (start + timedelta(days=32)).replace(day=1))

    @classmethod
    def parse(cls, text: str) -> Period:
        """“2026-03”. Raises ValueError."""
        at = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        return cls.of(at.year, at.month)


@dataclass(frozen=True, slots=True)
class Drafted:
    """What one customer's invoice for a period would be: the document, and the lines that follow from it."""

    customer: Customer
    contract: Contract
    period: Period
    as_of: datetime
    document: dict[str, Any]
    rated: Rated
    storms: dict[str, StormEvent]
    services: dict[str, Service]


def preview(customer: Customer, period: Period, as_of: datetime) -> Drafted | None:
    """The invoice as it stands at `as_of`, without storing anything; None without usage. Raises InvoiceError."""
    contract = _contract(customer, period)
    windows = _usage(customer, period)
    if contract and (outside := _outside(contract, windows)):
        raise InvoiceError(
            f"{customer} has usage at {outside:%Y-%m-%d %H:%M} UTC, and the contract is not in force then"
        )
    if contract is None:
        if windows:
            raise InvoiceError(f"{customer} has usage from {period.start:%Y-%m}, and no contract for that time")
        return None
    if not windows:
        return None
    services = {str(service.pk): service for service in Service.objects.filter(customer=customer)}
    storms = _storms(customer, period, contract)
    document = document_of(contract, period, windows, _told(storms, as_of), _policy_factors(storms))
    return Drafted(customer, contract, period, as_of, document, rate_document(document), storms, services)


def draft(customer: Customer, period: Period, as_of: datetime) -> Invoice | None:
    """Store the preview as the customer's draft of the period, in place of the earlier draft. A final invoice stays."""
    drafted = preview(customer, period, as_of)
    if drafted is None:
        return None
    with transaction.atomic():
        # One writer per customer: two runs at once give the same draft, not two.
        Customer.objects.select_for_update().get(pk=customer.pk)
        there = (
            Invoice.objects.select_for_update()
            .filter(
                customer=customer, period_start=period.start, period_end=period.end, kind=Invoice.Kind.INVOICE,
                currency=drafted.contract.rate_card.currency,
            )
            .exclude(state=Invoice.State.VOID)
            .first()
        )  # fmt: skip
        if there and there.state != Invoice.State.DRAFT:
            return there
        invoice = there or Invoice(customer=customer, period_start=period.start, period_end=period.end)
        invoice.contract = drafted.contract
        invoice.currency = drafted.contract.rate_card.currency
        invoice.as_of = as_of
        invoice.subtotal_minor = drafted.rated.subtotal_minor
        invoice.discount_minor = drafted.rated.discount_minor
        invoice.total_minor = drafted.rated.total_minor
        invoice.formula = drafted.rated.formula
        invoice.inputs = drafted.document
        invoice.save()
        invoice.lines.all().delete()
        InvoiceLineItem.objects.bulk_create(_lines(invoice, drafted))
        fault_point("billing.drafted")
        if there is None:
            Event.record("invoice.drafted", invoice, f"Draft for {period.start:%Y-%m}", customer_id=customer.pk)
    return invoice


def draft_all(
    period: Period, as_of: datetime, customers: Iterable[Customer] | None = None
) -> tuple[list[Invoice], list[str]]:
    """Draft every customer's invoice. One that can't be drafted is reported, and the others go on."""
    drafts, problems = [], []
    for customer in customers if customers is not None else Customer.objects.order_by("pk"):
        try:
            invoice = draft(customer, period, as_of)
        except InvoiceError as error:
            problems.append(str(error))
            continue
        if invoice:
            drafts.append(invoice)
    return drafts, problems


def finalize(invoice: Invoice, now: datetime | None = None) -> Invoice:
    """Issue a draft: recompute it, take the next number and freeze it, in one transaction. Raises InvoiceError.

    The counter row is locked until the transaction ends, so a number that is not used is not lost: no gaps.
    """
    now = now or datetime.now(UTC)
    period = Period(invoice.period_start, invoice.period_end)
    if now < period.end:
        raise InvoiceError(f"the period ends only at {period.end:%Y-%m-%d %H:%M} UTC")
    with transaction.atomic():
        fresh = draft(invoice.customer, period, now)
        if fresh is None:
            raise InvoiceError("there is no usage left to invoice")
        locked = Invoice.objects.select_for_update().get(pk=fresh.pk)
        if locked.state != Invoice.State.DRAFT:
            return locked
        _refuse_open_storms(locked)
        InvoiceCounter.objects.get_or_create(series=SERIES)
        counter = InvoiceCounter.objects.select_for_update().get(series=SERIES)
        counter.last_number += 1
        counter.save(update_fields=["last_number"])
        fault_point("billing.numbered")
        locked.number = f"{SERIES}-{counter.last_number:06d}"
        locked.state = Invoice.State.OPEN
        locked.finalized_at = now
        locked.save(update_fields=["number", "state", "finalized_at"])
        Event.record(
            "invoice.finalized", locked, f"Invoice {locked.number}", customer_id=locked.customer_id,
            total_minor=locked.total_minor, currency=locked.currency,
        )  # fmt: skip
        fault_point("billing.finalized")
        return locked


def finalize_due(now: datetime) -> tuple[list[Invoice], list[str]]:
    """Issue every draft whose grace period is over."""
    issued, problems = [], []
    for invoice in Invoice.objects.filter(state=Invoice.State.DRAFT, period_end__lte=now).select_related("contract"):
        if now < invoice.period_end + timedelta(hours=invoice.contract.grace_hours):
            continue
        try:
            issued.append(finalize(invoice, now))
        except InvoiceError as error:
            problems.append(f"{invoice.customer}, {invoice.period_start:%Y-%m}: {error}")
    return issued, problems


def _refuse_open_storms(invoice: Invoice) -> None:
    open_storm = StormEvent.objects.filter(
        customer=invoice.customer, ended_at__isnull=True, started_at__lt=invoice.period_end
    ).first()
    if open_storm:
        raise InvoiceError(f"{open_storm} still rages: what it covers is not known yet")


def _contract(customer: Customer, period: Period) -> Contract | None:
    """The contract of a period. Two within one period need a person: which prices hold for which day is their word."""
    contracts = list(
        Contract.objects.filter(Q(valid_until__isnull=True) | Q(valid_until__gt=period.start), customer=customer)
        .filter(valid_from__lt=period.end)
        .select_related("rate_card")
        .order_by("valid_from")
    )
    if len(contracts) > 1:
        raise InvoiceError(
            f"{customer} has {len(contracts)} contracts within {period.start:%Y-%m}; let one end with the month"
        )
    return contracts[0] if contracts else None


def _outside(contract: Contract, windows: list[tuple[int, str, datetime, int]]) -> datetime | None:
    """The first minute of usage that the contract's validity does not reach."""
    return next(
        (
            minute
            for _, _, minute, _ in windows
            if minute < contract.valid_from or (contract.valid_until and minute >= contract.valid_until)
        ),
        None,
    )


def _storms(customer: Customer, period: Period, contract: Contract) -> dict[str, StormEvent]:
    """Storms of the customer that pay and that touch the period, also through a merge with one that does."""
    gap = timedelta(seconds=contract.merge_gap_seconds)
    rows = StormEvent.objects.filter(
        Q(ended_at__isnull=True) | Q(ended_at__gt=period.start - gap), customer=customer, started_at__lt=period.end
    )
    return {f"storm-{row.pk}": row for row in rows.select_related("policy").order_by("started_at", "pk") if _pays(row)}


def _pays(row: StormEvent) -> bool:
    covered, _ = cover.pays(
        cover.Candidate(
            str(row.pk), str(row.service_id), row.kind, row.attribution, row.is_armed, row.policy_version,
            row.started_at, row.ended_at,
        )
    )  # fmt: skip
    return covered


_USAGE = """
SELECT b.service_id, t.role, b.minute_at, sum(b.bytes)::bigint
FROM usage_buckets b JOIN targets t ON t.id = b.target_id
WHERE b.customer_id = %s AND b.minute_at >= %s AND b.minute_at < %s
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


def _usage(customer: Customer, period: Period) -> list[tuple[int, str, datetime, int]]:
    """(service, role, minute, bytes) of the period."""
    with connection.cursor() as cursor:
        cursor.execute(_USAGE, [customer.pk, period.start, period.end])
        return list(cursor.fetchall())


def document_of(
    contract: Contract,
    period: Period,
    windows: list[tuple[int, str, datetime, int]],
    storms: list[dict[str, str]],
    factors: Mapping[str, Decimal],
) -> dict[str, Any]:
    """What is to be rated: (service, role, minute, bytes) of usage, spells of storms, and the policies' factors by service."""
    card = contract.rate_card
    terms = {
        "discount_rate": _text(contract.discount_rate),
        "max_coverage_factor": _text(contract.max_coverage_factor),
        "service_factors": {service: _text(factor) for service, factor in factors.items()},
        "coverage_mode": contract.coverage_mode,
        "waiting_seconds": contract.waiting_seconds,
        "waiting_mode": "excess",
        "hours_clause_seconds": None,
        "aggregate_seconds": None,
        "merge_gap_seconds": contract.merge_gap_seconds,
        "layers": [],
        "covered_before": "0",
    }
    return {
        "currency": card.currency,
        "unit": card.unit,
        "rounding": "half_up",
        "rates": {"primary": card.primary_tiers, "backup": card.backup_tiers},
        "tier_mode": card.tier_mode,
        "cover": terms,
        "storms": storms,
        "usage": _usage_of_document(contract, period, windows, storms),
    }


def _told(storms: dict[str, StormEvent], as_of: datetime) -> list[dict[str, str]]:
    return [
        {"id": name, "start": zulu(start), "end": zulu(end), "service": str(row.service_id)}
        for name, row in storms.items()
        for start, end in _spells(row, as_of)
        if start < end
    ]


def _spells(row: StormEvent, as_of: datetime) -> list[tuple[datetime, datetime]]:
    """The storm's bad stretches. Quiet time between relapses is covered only as far as the contract's own merging goes."""
    spells = row.spells or [[row.started_at.isoformat(), row.ended_at.isoformat() if row.ended_at else None]]
    return [
        (datetime.fromisoformat(start), datetime.fromisoformat(end) if end else max(as_of, row.started_at))
        for start, end in spells
    ]


def _usage_of_document(
    contract: Contract, period: Period, windows: list[tuple[int, str, datetime, int]], storms: list[dict[str, str]]
) -> list[dict[str, Any]]:
    """Backup minutes one by one where the edge of a covered interval falls into them; everything else as sums.

    Minutes that are covered whole and minutes that are not at all need no time share: each is one sum per service.
    """
    terms = cover.CoverTerms(waiting_seconds=contract.waiting_seconds, merge_gap_seconds=contract.merge_gap_seconds)
    told = [
        cover.Storm(s["id"], datetime.fromisoformat(s["start"]), datetime.fromisoformat(s["end"]), s["service"])
        for s in storms
    ]
    intervals = {s["service"]: cover.effective(told, s["service"], terms) for s in storms}
    uncovered: dict[tuple[int, str], int] = defaultdict(int)
    covered: dict[int, tuple[datetime, datetime, int]] = {}  # first minute, end of the last, bytes
    edges = []
    for service, role, minute, size in windows:
        after = minute + timedelta(minutes=1)
        share = cover.time_coverage(intervals.get(str(service), []), minute, after) if role == "backup" else Fraction(0)
        if share == 0:
            uncovered[service, role] += size
        elif share == 1:
            first, _, before = covered.get(service, (minute, after, 0))
            covered[service] = (first, after, before + size)
        else:
            edges.append(_window(service, role, minute, after, size, None))
    return [
        *(
            _window(service, role, period.start, period.end, size, 0)
            for (service, role), size in sorted(uncovered.items())
        ),
        *(
            _window(service, "backup", first, end, size, size)
            for service, (first, end, size) in sorted(covered.items())
        ),
        *edges,
    ]


def _window(
    service: int, role: str, start: datetime, end: datetime, size: int, covered_bytes: int | None
) -> dict[str, Any]:
    return {
        "service": str(service), "path": role, "start": zulu(start), "end": zulu(end), "bytes": size,
        "covered_bytes": covered_bytes,
    }  # fmt: skip


def _policy_factors(storms: dict[str, StormEvent]) -> dict[str, Decimal]:
    """By service, the customer's own factor as it stood in the versions that its storms began under: the lowest of them.

    It can only lower what the contract gives, and only for the service whose policy says it.
    """
    wanted = {(row.policy_id, row.policy_version): str(row.service_id) for row in storms.values() if row.policy_id}
    versions = StormPolicyVersion.objects.filter(policy__in={policy for policy, _ in wanted})
    factors: dict[str, Decimal] = {}
    for version in versions:
        if service := wanted.get((version.policy_id, version.version)):
            factor = Decimal(str(version.terms["max_coverage_factor"]))
            factors[service] = min(factor, factors.get(service, factor))
    return dict(sorted(factors.items()))


def _text(value: Decimal) -> str:
    return decimal(Fraction(value))


def _lines(invoice: Invoice, drafted: Drafted) -> list[InvoiceLineItem]:
    return [
        InvoiceLineItem(
            customer=drafted.customer,
            invoice=invoice,
            position=position,
            kind=line.kind,
            service=drafted.services[line.service],
            path=line.path,
            description=_description(line, drafted),
            bytes=line.bytes,
            amount_minor=line.amount_minor,
            details=_details(line, drafted),
        )
        for position, line in enumerate(drafted.rated.lines, 1)
    ]


def _description(line: Line, drafted: Drafted) -> str:
    service = drafted.services[line.service].name
    if line.kind == "usage":
        return f"Delivery, {line.path}: {service}"
    names = [storm["id"].replace("storm-", "#") for storm in line.details.get("storms", [])]
    return f"Storm cover: {service}" + (f", storms {', '.join(names)}" if names else "")


def _details(line: Line, drafted: Drafted) -> dict[str, Any]:
    """The rating's arithmetic, with the versions that it used."""
    contract = drafted.contract
    details = dict(line.details) | {
        "formula": drafted.rated.formula,
        "contract": {"id": contract.pk, "version": contract.version},
        "rate_card": {
            "id": contract.rate_card_id,
            "name": contract.rate_card.name,
            "version": contract.rate_card.version,
        },
    }
    if line.kind == "cover":
        details["grade"] = "E2"
        details["storms"] = [
            storm | {
                "policy": drafted.storms[storm["id"]].policy_id,
                "policy_version": drafted.storms[storm["id"]].policy_version,
                "attribution": drafted.storms[storm["id"]].attribution,
                "reason": drafted.storms[storm["id"]].reason,
            }
            for storm in line.details.get("storms", [])
        ]  # fmt: skip
    return details
