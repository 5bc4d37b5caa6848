"""What storms that were not would have cost: the bytes of that time on the backup, and the cover for them.

The same rating as an invoice, twice: once as it was, once with everything that was served during the storms moved to the
backup. It says nothing about other services of the customer, whose volume may reach other tiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from django.db import connection

from billing.cover import zulu
from billing.document import rate_document
from billing.drafting import terms_of, window
from billing.models import Contract, Prices
from services.models import Service
from storms.models import StormPolicy

Spell = tuple[datetime, datetime]
MINUTE = timedelta(minutes=1)

_USAGE = """
SELECT t.role, b.minute_at, sum(b.bytes)::bigint FROM usage_buckets b JOIN targets t ON t.id = b.target_id
WHERE b.service_id = %s AND b.minute_at >= %s AND b.minute_at < %s GROUP BY 1, 2 ORDER BY 2, 1
"""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Amounts in minor units of `currency`: what delivery would have cost more, and what cover would have paid of that.

    Where traffic really moved in this time, what was on the backup anyway counts in neither.
    """

    currency: str
    moved_bytes: int
    extra_minor: int
    discount_minor: int

    @property
    def net_minor(self) -> int:
        return self.extra_minor - self.discount_minor


def would_have(service: Service, spells: Sequence[Spell], start: datetime, end: datetime) -> Ledger | None:
    """The ledger of spells within [start, end); None where billing does not know the service: no contract, or no usage."""
    contract, prices = _terms(service, end)
    with connection.cursor() as cursor:
        cursor.execute(_USAGE, [service.pk, start, end])
        usage: list[tuple[str, datetime, int]] = cursor.fetchall()
    if contract is None or prices is None or not usage:
        return None
    moved = {row: _share(spells, row[1]) for row in usage if row[0] == "primary"}
    as_it_was = [(service.pk, role, minute, size) for role, minute, size in usage]
    as_it_would = []
    for row in usage:
        role, minute, size = row
        away = round(size * moved.get(row, Fraction(0)))
        as_it_would += [(service.pk, role, minute, size - away), (service.pk, "backup", minute, away)]
    told = [
        {"id": f"would-have-{n}", "start": zulu(a), "end": zulu(b), "service": str(service.pk)}
        for n, (a, b) in enumerate(spells, 1) if a < b
    ]  # fmt: skip
    terms = terms_of(contract, prices, _factor(service)) | {"storms": told}
    was = rate_document(terms | {"usage": _windows(as_it_was)})
    would = rate_document(terms | {"usage": _windows(row for row in as_it_would if row[3])})
    return Ledger(
        contract.rate_card.currency,
        sum(round(size * moved.get((role, minute, size), Fraction(0))) for role, minute, size in usage),
        would.subtotal_minor - was.subtotal_minor,
        would.discount_minor - was.discount_minor,
    )


def _terms(service: Service, at: datetime) -> tuple[Contract | None, Prices | None]:
    """The newest terms that began until then."""
    contracts = Contract.objects.filter(customer=service.customer_id, valid_from__lte=at).select_related("rate_card")
    contract = contracts.order_by("-valid_from").first()
    if contract is None:
        return None, None
    return contract, contract.rate_card.versions.filter(valid_from__lte=at).order_by("-valid_from").first()


def _windows(rows: Iterable[tuple[int, str, datetime, int]]) -> list[dict[str, Any]]:
    return [window(service, role, "", at, at + MINUTE, size, None) for service, role, at, size in rows]


def _share(spells: Sequence[Spell], minute: datetime) -> Fraction:
    """Which share of a minute lies within the spells, which don't overlap."""
    after = minute + MINUTE
    inside = sum((max(min(end, after) - max(start, minute), timedelta(0)) for start, end in spells), timedelta(0))
    return Fraction(inside // timedelta(microseconds=1), MINUTE // timedelta(microseconds=1))


def _factor(service: Service) -> dict[str, Decimal]:
    factors = list(StormPolicy.objects.live().filter(service=service).values_list("max_coverage_factor", flat=True))
    return {str(service.pk): min(factors)} if factors else {}
