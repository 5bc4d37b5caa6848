"""From rated lines to the whole bill: fees, requests, commitment, corrections, taxes. Pure and exact.

F12 totals and taxes · F13 minimum commitment. Each line is rounded once, each tax once per category and rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from billing.money import exponent
from billing.rating import Line, Rated, decimal, half_up

DELIVERY, FEE, PREMIUM = "delivery", "fee", "premium"
_CATEGORIES = {"usage": DELIVERY, "requests": DELIVERY, "minimum": DELIVERY, "fixed_fee": FEE, "premium": PREMIUM}
REQUESTS_PER_PRICE = 10_000


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of one service and path, and the price of 10,000 in major units."""

    service: str
    path: str
    count: int
    per_10k: Fraction


@dataclass(frozen=True, slots=True)
class Correction:
    """What an issued invoice should have said more, in minor units: late or corrected usage of an earlier period."""

    line: int
    service: str
    path: str
    amount_minor: int
    tax_category: str
    tax_rate: Fraction
    description: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Charges:
    """What a bill has beside delivery. Amounts in major units a month; `share` of the month is billed.

    `sells_delivery` is false where the customer pays its CDNs itself: usage lines are notional then and not billed.
    """

    share: Fraction = Fraction(1)
    sells_delivery: bool = True
    fixed_fee: Fraction = Fraction(0)
    premium: Fraction = Fraction(0)
    minimum_commitment: Fraction = Fraction(0)
    commit_on_net: bool = False
    requests: Sequence[Requests] = ()
    tax_rates: Mapping[str, Fraction] = field(default_factory=dict)
    corrections: Sequence[Correction] = ()


@dataclass(frozen=True, slots=True)
class BillLine:
    """A line with its tax; `corrects` is the id of the issued line that it corrects."""

    line: Line
    tax_category: str = ""
    tax_rate: Fraction = Fraction(0)
    corrects: int | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Tax:
    category: str
    rate: Fraction
    taxable_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class Bill:
    """Cover lines are subtracted, all others added: total = subtotal − discount + tax.

    `excess` are cover lines, or parts of them, beyond all charges: they are paid by a credit note.
    """

    lines: Sequence[BillLine]
    subtotal_minor: int
    discount_minor: int
    taxes: Sequence[Tax]
    excess: Sequence[Line] = ()

    @property
    def tax_minor(self) -> int:
        return sum(tax.tax_minor for tax in self.taxes)

    @property
    def total_minor(self) -> int:
        return self.subtotal_minor - self.discount_minor + self.tax_minor


def bill(rated: Rated, charges: Charges, currency: str) -> Bill:
    """The bill of one period."""
    covers = [line for line in rated.lines if line.kind == "cover"]
    delivery = [line for line in rated.lines if line.kind != "cover"] if charges.sells_delivery else []
    delivery += [_requests_line(item, currency) for item in charges.requests if charges.sells_delivery]
    if charges.sells_delivery:
        delivery += _true_up(charges, delivery, covers, currency)
    fees = [
        Line(kind, "", "", 0, half_up(amount * charges.share, currency), _prorated(amount, charges.share))
        for kind, amount in (("fixed_fee", charges.fixed_fee), ("premium", charges.premium))
        # A payout needs a line to stand on, even where the premium is nothing.
        if amount or (kind == "premium" and not charges.sells_delivery and covers)
    ]
    added = [_taxed(line, charges) for line in (*delivery, *fees)]
    added += [_corrected(correction) for correction in charges.corrections]
    subtotal = sum(entry.line.amount_minor for entry in added)
    kept, excess = _within(covers, subtotal)
    cover_tax = charges.tax_rates.get(DELIVERY, Fraction(0)) if charges.sells_delivery else Fraction(0)
    lines = [*added, *(BillLine(line, DELIVERY if charges.sells_delivery else "", cover_tax) for line in kept)]
    discount = sum(line.amount_minor for line in kept)
    return Bill(lines, subtotal, discount, _taxes(lines, currency), excess)


def _requests_line(item: Requests, currency: str) -> Line:
    exact = Fraction(item.count, REQUESTS_PER_PRICE) * item.per_10k
    details = {"requests": item.count, "per_10k": decimal(item.per_10k), "exact": str(exact)}
    return Line("requests", item.service, item.path, 0, half_up(exact, currency), details)


def _true_up(charges: Charges, delivery: Sequence[Line], covers: Sequence[Line], currency: str) -> list[Line]:
    """F13: what delivery falls short of the commitment, for the share of the month."""
    committed = half_up(charges.minimum_commitment * charges.share, currency)
    reached = sum(line.amount_minor for line in delivery)
    if charges.commit_on_net:
        reached -= sum(line.amount_minor for line in covers)
    if committed <= reached:
        return []
    details = _prorated(charges.minimum_commitment, charges.share) | {
        "committed_minor": committed, "reached_minor": reached, "on_net": charges.commit_on_net,
    }  # fmt: skip
    return [Line("minimum", "", "", 0, committed - reached, details)]


def _prorated(amount: Fraction, share: Fraction) -> dict[str, Any]:
    return {"a_month": decimal(amount), "share_of_month": str(share), "exact": str(amount * share)}


def _taxed(line: Line, charges: Charges) -> BillLine:
    category = _CATEGORIES[line.kind]
    return BillLine(line, category, charges.tax_rates.get(category, Fraction(0)))


def _corrected(correction: Correction) -> BillLine:
    line = Line("correction", correction.service, correction.path, 0, correction.amount_minor, dict(correction.details))
    return BillLine(line, correction.tax_category, correction.tax_rate, correction.line, correction.description)


def _within(covers: Sequence[Line], limit: int) -> tuple[list[Line], list[Line]]:
    """Cover lines up to the charges, and what is beyond them; the last are cut first."""
    kept, excess, left = [], [], limit
    for line in covers:
        paid = min(line.amount_minor, left)
        left -= paid
        if paid:
            kept.append(_part(line, paid))
        if paid < line.amount_minor:
            excess.append(_part(line, line.amount_minor - paid))
    return kept, excess


def _part(line: Line, amount: int) -> Line:
    if amount == line.amount_minor:
        return line
    details = dict(line.details) | {"of_cover_minor": line.amount_minor}
    return Line(line.kind, line.service, line.path, line.bytes, amount, details, line.cdn)


def _taxes(lines: Sequence[BillLine], currency: str) -> list[Tax]:
    """F12: one tax per category and rate, on the sum of its lines."""
    sums: dict[tuple[str, Fraction], int] = defaultdict(int)
    for entry in lines:
        if entry.tax_rate:
            sign = -1 if entry.line.kind == "cover" else 1
            sums[entry.tax_category, entry.tax_rate] += sign * entry.line.amount_minor
    scale = Fraction(1, 10 ** exponent(currency))
    return [
        Tax(category, rate, taxable, half_up(max(taxable, 0) * scale * rate, currency))
        for (category, rate), taxable in sorted(sums.items())
    ]


def to_json(charges: Charges) -> dict[str, Any]:
    """What an invoice keeps, and an evidence pack holds; `from_json` reads it."""
    return {
        "share": str(charges.share),
        "sells_delivery": charges.sells_delivery,
        "fixed_fee": decimal(charges.fixed_fee),
        "premium": decimal(charges.premium),
        "minimum_commitment": decimal(charges.minimum_commitment),
        "commit_on_net": charges.commit_on_net,
        "requests": [
            {"service": r.service, "path": r.path, "count": r.count, "per_10k": decimal(r.per_10k)}
            for r in charges.requests
        ],
        "tax_rates": {category: decimal(rate) for category, rate in sorted(charges.tax_rates.items())},
        "corrections": [
            {
                "line": c.line, "service": c.service, "path": c.path, "amount_minor": c.amount_minor,
                "tax_category": c.tax_category, "tax_rate": decimal(c.tax_rate), "description": c.description,
                "details": dict(c.details),
            }
            for c in charges.corrections
        ],
    }  # fmt: skip


def from_json(raw: Mapping[str, Any]) -> Charges:
    return Charges(
        share=Fraction(raw["share"]),
        sells_delivery=raw["sells_delivery"],
        fixed_fee=Fraction(raw["fixed_fee"]),
        premium=Fraction(raw["premium"]),
        minimum_commitment=Fraction(raw["minimum_commitment"]),
        commit_on_net=raw["commit_on_net"],
        requests=[Requests(r["service"], r["path"], r["count"], Fraction(r["per_10k"])) for r in raw["requests"]],
        tax_rates={category: Fraction(rate) for category, rate in raw["tax_rates"].items()},
        corrections=[Correction(**c | {"tax_rate": Fraction(c["tax_rate"])}) for c in raw["corrections"]],
    )
