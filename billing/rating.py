"""From usage, storms and terms to invoice lines. Pure, exact (rationals until the line), each line rounded once, half up.

Formula numbers are those of docs/billing.md:
    F4 time coverage ρ · F5 traffic coverage κ · F6 discount share φ · F7 exact amounts · F8 one rounding per line
    F9 tranches · F11 allocation to windows · F12 totals
F1–F3 (which seconds of which storms count) are in `billing.cover`, and act where `covered_bytes` is not given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Any

from billing import cover
from billing.cover import CoverTerms, Interval, zulu
from billing.money import exponent

FORMULA = "tranche/1"
UNITS = {"GB": 10**9, "GiB": 2**30}
PRIMARY, BACKUP = "primary", "backup"


class TierMode(StrEnum):
    GRADUATED = "graduated"
    VOLUME = "volume"


class CoverageMode(StrEnum):
    MULTIPLY = "multiply"
    CAP = "cap"


@dataclass(frozen=True, slots=True)
class Tier:
    """`per_unit` in major units of the currency per GB or GiB, for units up to `up_to` (None: without end)."""

    up_to: Fraction | None
    per_unit: Fraction


@dataclass(frozen=True, slots=True)
class Layer:
    """Pays `share` of covered cost between `attachment` and `attachment + limit` (major units; None: without end)."""

    attachment: Fraction
    limit: Fraction | None
    share: Fraction


@dataclass(frozen=True, slots=True)
class Terms:
    currency: str
    unit: str
    tier_mode: TierMode
    primary_tiers: Sequence[Tier]
    backup_tiers: Sequence[Tier]
    discount_rate: Fraction
    max_coverage_factor: Fraction
    """The contract's; `service_factors` can only lower it, for one service each."""
    coverage_mode: CoverageMode
    cover: CoverTerms
    layers: Sequence[Layer] = ()
    covered_before: Fraction = Fraction(0)
    service_factors: Mapping[str, Fraction] = field(default_factory=dict)
    cdn_tiers: Mapping[tuple[str, str], Sequence[Tier]] = field(default_factory=dict)
    """By CDN and path, where a CDN has a price of its own."""

    def tiers_of(self, path: str, cdn: str) -> Sequence[Tier]:
        own = self.cdn_tiers.get((cdn, path))
        return own or (self.primary_tiers if path == PRIMARY else self.backup_tiers)

    def factor_of(self, service: str) -> Fraction:
        return min(self.max_coverage_factor, self.service_factors.get(service, self.max_coverage_factor))


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of one service and path in one window [start, end). `covered_bytes` None: by the time that storms cover."""

    service: str
    path: str
    start: datetime
    end: datetime
    bytes: int
    covered_bytes: int | None = None
    cdn: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One rounded amount ≥ 0 in minor units; `details` is its arithmetic, in strings where a number would not be exact."""

    kind: str
    service: str
    path: str
    bytes: int
    amount_minor: int
    details: Mapping[str, Any] = field(default_factory=dict)
    cdn: str = ""


@dataclass(frozen=True, slots=True)
class Rated:
    lines: Sequence[Line]
    subtotal_minor: int
    discount_minor: int
    formula: str = FORMULA
    covered_cost: Fraction = Fraction(0)
    """Of all covered backup traffic in major units, before any limit or share: what tranches count on from."""

    @property
    def total_minor(self) -> int:
        return self.subtotal_minor - self.discount_minor


def rate(terms: Terms, usage: Iterable[Usage], storms: Sequence[cover.Storm]) -> Rated:
    """The lines of one document. The order of `usage` and `storms` changes nothing.

    Tiers run per service and path, and per CDN where that has a price of its own.
    """
    windows: dict[_Key, list[Usage]] = {}
    for window in usage:
        cdn = window.cdn if (window.cdn, window.path) in terms.cdn_tiers else ""
        windows.setdefault((window.service, window.path, cdn), []).append(window)
    lines: list[Line] = []
    charges: dict[tuple[str, str], _Backup] = {}
    for service, path, cdn in sorted(windows, key=lambda key: (key[0], key[1] != PRIMARY, key[2])):
        mine = sorted(windows[service, path, cdn], key=lambda w: (w.start, w.end, w.bytes))
        total = sum(window.bytes for window in mine)
        gross, parts = charge(total, terms.tiers_of(path, cdn), terms.tier_mode, UNITS[terms.unit])
        line = _usage_line(terms, (service, path, cdn), total, gross, parts)
        lines.append(line)
        if path != PRIMARY:
            charges[service, cdn] = _Backup(mine, total, gross, line.amount_minor)

    effective = {service: cover.effective(storms, service, terms.cover) for service, _ in charges}
    covers = _tranches(terms, charges, effective) if terms.layers else _shares(terms, charges, effective, storms)
    subtotal = sum(line.amount_minor for line in lines)
    discount = sum(line.amount_minor for line in covers)
    return Rated([*lines, *covers], subtotal, discount, covered_cost=_covered_cost(charges, effective))


def _covered_cost(charges: _Charges, effective: Mapping[str, Sequence[Interval]]) -> Fraction:
    return sum(
        (backup.cost(backup.covered(effective[service])) for (service, _), backup in charges.items()), Fraction(0)
    )


def charge(
    total_bytes: int, tiers: Sequence[Tier], mode: TierMode, unit_bytes: int
) -> tuple[Fraction, list[tuple[Fraction, Fraction]]]:
    """F7: the exact charge in major units, and its (units, price) parts.

    Graduated: each tier's units at its own price. Volume: all units at the price of the first tier whose `up_to` is not
    below them.
    """
    units = Fraction(total_bytes, unit_bytes)
    if mode is TierMode.VOLUME:
        tier = next((t for t in tiers if t.up_to is None or t.up_to >= units), tiers[-1])
        return units * tier.per_unit, [(units, tier.per_unit)]
    parts, below = [], Fraction(0)
    for tier in tiers:
        top = units if tier.up_to is None else min(units, tier.up_to)
        if top > below:
            parts.append((top - below, tier.per_unit))
            below = top
    if units > below:  # the last tier has an end: its price goes on
        parts.append((units - below, tiers[-1].per_unit))
    return sum((amount * price for amount, price in parts), Fraction(0)), parts


def half_up(amount: Fraction, currency: str) -> int:
    """F8: major units to integer minor units, half away from zero."""
    scaled = abs(amount) * 10 ** exponent(currency)
    rounded = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return rounded if amount >= 0 else -rounded


def allocate(total: int, shares: Sequence[Fraction]) -> list[int]:
    """F11: split integer `total` in proportion to `shares` by largest remainder, ties to the earlier; the sum is `total`."""
    whole = sum(shares, Fraction(0))
    if not whole:
        return [0 for _ in shares]
    exact = [total * share / whole for share in shares]
    floors = [amount.numerator // amount.denominator for amount in exact]
    order = sorted(range(len(shares)), key=lambda i: (floors[i] - exact[i], i))
    for i in order[: total - sum(floors)]:
        floors[i] += 1
    return floors


@dataclass(frozen=True, slots=True)
class _Backup:
    windows: Sequence[Usage]
    bytes: int
    gross: Fraction
    amount_minor: int

    def covered(self, effective: Sequence[Interval]) -> list[Fraction]:
        """F4, F5: the covered bytes of each window."""
        covered = []
        for window in self.windows:
            if window.covered_bytes is not None:
                covered.append(Fraction(min(window.covered_bytes, window.bytes)))
            else:
                covered.append(window.bytes * cover.time_coverage(effective, window.start, window.end))
        return covered

    def cost(self, covered: Sequence[Fraction]) -> Fraction:
        """F7: covered bytes at the average backup price, in major units."""
        return sum(covered, Fraction(0)) * self.gross / self.bytes if self.bytes else Fraction(0)


_Key = tuple[str, str, str]  # service, path, CDN
_Charges = Mapping[tuple[str, str], _Backup]  # by service and CDN


def _usage_line(
    terms: Terms, key: _Key, total: int, gross: Fraction, parts: Sequence[tuple[Fraction, Fraction]]
) -> Line:
    service, path, cdn = key
    return Line(
        "usage", service, path, total, half_up(gross, terms.currency),
        {
            "unit": terms.unit,
            "units": decimal(Fraction(total, UNITS[terms.unit])),
            "tiers": [{"units": decimal(units), "per_unit": decimal(price)} for units, price in parts],
            "exact": str(gross),
        },
        cdn,
    )  # fmt: skip


def _shares(
    terms: Terms,
    charges: _Charges,
    effective: Mapping[str, Sequence[Interval]],
    storms: Sequence[cover.Storm],
) -> list[Line]:
    """F6–F8 without layers: each window's backup cost times its discount share, priced at the average backup rate."""
    lines = []
    for (service, cdn), backup in sorted(charges.items()):
        covered = backup.covered(effective[service])
        if not backup.bytes or not any(covered):
            continue
        average = backup.gross / backup.bytes  # major units per byte, so that the order of windows changes nothing
        exact = []
        for window, covered_bytes in zip(backup.windows, covered, strict=True):
            share = covered_bytes / window.bytes if window.bytes else Fraction(0)
            exact.append(window.bytes * average * discount_share(terms, service, share))
        amount = min(half_up(sum(exact, Fraction(0)), terms.currency), backup.amount_minor)
        hit = [s for s in storms if s.service in (None, service)]
        lines.append(
            Line(
                "cover", service, BACKUP, int(sum(covered, Fraction(0))), amount,
                {
                    "storms": [_storm(storm) for storm in sorted(hit, key=lambda s: (s.start, s.id))],
                    "effective": [{"start": zulu(i.start), "end": zulu(i.end)} for i in effective[service]],
                    "discount_rate": decimal(terms.discount_rate),
                    "max_coverage_factor": decimal(terms.factor_of(service)),
                    "coverage_mode": terms.coverage_mode.value,
                    "backup_bytes": backup.bytes,
                    "backup_charge_minor": backup.amount_minor,
                    "covered_bytes_exact": str(sum(covered, Fraction(0))),
                    "exact": str(sum(exact, Fraction(0))),
                    "windows": _windows(backup.windows, exact, amount),
                },
                cdn,
            )
        )  # fmt: skip
    return lines


def discount_share(terms: Terms, service: str, covered_share: Fraction) -> Fraction:
    """F6: φ = min(1, r · cov), with cov = m·κ (multiply) or min(κ, m) (cap)."""
    factor = terms.factor_of(service)
    coverage = factor * covered_share if terms.coverage_mode is CoverageMode.MULTIPLY else min(covered_share, factor)
    return min(Fraction(1), terms.discount_rate * coverage)


def _tranches(terms: Terms, charges: _Charges, effective: Mapping[str, Sequence[Interval]]) -> list[Line]:
    """F9: cumulative covered cost runs through the layers, services and CDNs in the order of their names."""
    lines, before = [], terms.covered_before
    for (service, cdn), backup in sorted(charges.items()):
        covered = backup.covered(effective[service])
        after = before + backup.cost(covered)
        left = backup.amount_minor  # the cap d ≤ backup charge cuts the last layer first
        for number, layer in enumerate(terms.layers, 1):
            pays = layer.share * (_within(after, layer) - _within(before, layer))
            amount = min(half_up(pays, terms.currency), left)
            left -= amount
            if not amount:
                continue
            lines.append(
                Line(
                    "cover", service, BACKUP, int(sum(covered, Fraction(0))), amount,
                    {
                        "layer": number,
                        "attachment": decimal(layer.attachment),
                        "limit": None if layer.limit is None else decimal(layer.limit),
                        "share": decimal(layer.share),
                        "covered_before": decimal(before),
                        "covered_after": decimal(after),
                        "effective": [{"start": zulu(i.start), "end": zulu(i.end)} for i in effective[service]],
                        "exact": str(pays),
                    },
                    cdn,
                )
            )  # fmt: skip
        before = after
    return lines


def _within(cost: Fraction, layer: Layer) -> Fraction:
    inside = max(cost - layer.attachment, Fraction(0))
    return inside if layer.limit is None else min(inside, layer.limit)


def _windows(windows: Sequence[Usage], exact: Sequence[Fraction], amount: int) -> list[dict[str, Any]]:
    """F11, for drill-down: which window earned which minor units."""
    return [
        {"start": zulu(window.start), "end": zulu(window.end), "bytes": window.bytes, "amount_minor": minor}
        for window, share, minor in zip(windows, exact, allocate(amount, exact), strict=True)
        if share
    ]


def _storm(storm: cover.Storm) -> dict[str, str]:
    return {"id": storm.id, "start": zulu(storm.start), "end": zulu(storm.end)}


def decimal(value: Fraction) -> str:
    """Exact where a finite decimal exists (up to 18 places), else the nearest of 18 places."""
    scaled = value * 10**18
    digits = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    sign, digits = ("-", -digits) if digits < 0 else ("", digits)
    whole, part = divmod(digits, 10**18)
    text = f"{whole}.{part:018d}".rstrip("0").rstrip(".")
    return sign + text
