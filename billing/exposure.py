"""What cover would pay if a CDN failed now, and how premium compares with what was paid. An estimate, never billed.

The traffic of the services whose primary the CDN is, at its mean of the last seven days, moved to their first other CDN at
that one's price, through the terms of their contracts: waiting time, hours clause, aggregate, tranches with what is used of
them, discount rate and factor. Detection and the way of DNS take no time here, so it is rather too much than too little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Q

from billing import cover
from billing.cover import Interval
from billing.drafting import cover_terms
from billing.models import Contract, Prices
from billing.rating import UNITS, Tier, TierMode, charge, half_up
from billing.segments import Segment
from services.models import Cdn

HOURS = (1, 6, 24)
LOOKED_AT = timedelta(days=7)
YEAR = timedelta(days=365)
HOUR = timedelta(hours=1)


class Moved(NamedTuple):
    """A service that one CDN's failure hits: where it would go, and what it delivers an hour."""

    cdn_id: int
    service_id: int
    customer_id: int
    backup: str | None
    is_armed: bool
    factor: Any
    bytes_an_hour: int


@dataclass(slots=True)
class Stake:
    """One CDN and currency: minor units by hours of failure; services that count, and why others don't."""

    cdn: str
    currency: str
    services: int = 0
    bytes_an_hour: int = 0
    at_stake: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The last 365 days in minor units: premium that was billed, what of it was collected, and cover that was paid."""

    currency: str
    premium_minor: int
    collected_minor: int
    cover_minor: int


@dataclass(frozen=True, slots=True)
class Exposure:
    as_of: datetime
    stakes: Sequence[Stake]
    ledgers: Sequence[Ledger]
    left_out: Mapping[str, Mapping[str, int]]
    """By CDN: services that would be hit and for which nothing would be paid, by the reason."""


def exposure(now: datetime) -> Exposure:
    """Every CDN that is a primary. The number of queries does not depend on how much there is."""
    moved = _moved(now)
    contracts = _contracts({row.customer_id for row in moved}, now)
    prices = _prices({contract.rate_card_id for contract in contracts.values()}, now)
    used = _Used.of([c for c in contracts.values() if c.rate_card_id in prices], prices, now)
    names = dict(Cdn.objects.values_list("pk", "name"))
    costs = _Costs(prices, used, now)
    hit: dict[tuple[str, str], list[tuple[Contract, Moved]]] = defaultdict(list)
    left_out: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in moved:
        contract = contracts.get(row.customer_id)
        reason = _why_not(row, contract, prices)
        if contract is None or reason:
            left_out[names[row.cdn_id]][reason] += 1
        else:
            hit[names[row.cdn_id], contract.rate_card.currency].append((contract, row))
    stakes = [_stake(cdn, currency, rows, costs) for (cdn, currency), rows in hit.items()]
    stakes.sort(key=lambda stake: (stake.currency, -stake.at_stake[HOURS[-1]], stake.cdn))
    return Exposure(now, stakes, _ledgers(now), {cdn: dict(reasons) for cdn, reasons in sorted(left_out.items())})


def _why_not(row: Moved, contract: Contract | None, prices: Mapping[int, Prices]) -> str:
    if contract is None or contract.rate_card_id not in prices:
        return "no contract with prices"
    if row.backup is None:
        return "no backup on another CDN"
    return "" if row.is_armed else "no armed policy"


def _stake(cdn: str, currency: str, rows: Sequence[tuple[Contract, Moved]], costs: _Costs) -> Stake:
    stake = Stake(cdn, currency, len(rows), sum(row.bytes_an_hour for _, row in rows))
    by_contract: dict[int, tuple[Contract, list[Moved]]] = {}
    for contract, row in rows:
        by_contract.setdefault(contract.pk, (contract, []))[1].append(row)
    for hours in HOURS:
        paid = sum((costs.paid(contract, mine, hours) for contract, mine in by_contract.values()), Fraction(0))
        stake.at_stake[hours] = half_up(paid, currency)
    return stake


# --- the terms ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Costs:
    prices: Mapping[int, Prices]
    used: _Used
    now: datetime
    _tiers: dict[tuple[int, str], list[Tier]] = field(default_factory=dict)
    _seconds: dict[tuple[int, str, int | None, int], int] = field(default_factory=dict)

    def paid(self, contract: Contract, rows: Sequence[Moved], hours: int) -> Fraction:
        """Major units that cover pays of these services' failure of so many hours."""
        prices = self.prices[contract.rate_card_id]
        mode, unit = TierMode(prices.tier_mode), UNITS[contract.rate_card.unit]
        seconds = self._seconds_of(contract, hours)
        before = self.used.cost.get(contract.customer_id, Fraction(0))
        paid, cost = Fraction(0), before
        for row in rows:
            counted = seconds
            if contract.aggregate_seconds is not None:
                spent = self.used.microseconds.get(row.service_id, 0) // 10**6
                counted = min(counted, max(contract.aggregate_seconds - spent, 0))
            size = row.bytes_an_hour * counted // 3600
            if not size:
                continue
            gross, _ = charge(size, self._tiers_of(prices, row.backup or ""), mode, unit)
            cost += gross
            if not contract.layers:
                paid += gross * _share(contract, row.factor)
        for layer in contract.layers:
            paid += Fraction(layer["share"]) * (_within(cost, layer) - _within(before, layer))
        return paid

    def _seconds_of(self, contract: Contract, hours: int) -> int:
        terms = (contract.waiting_seconds, contract.waiting_mode, contract.hours_clause_seconds, hours)
        if terms not in self._seconds:
            self._seconds[terms] = _paid_seconds(contract, self.now, hours)
        return self._seconds[terms]

    def _tiers_of(self, prices: Prices, cdn: str) -> list[Tier]:
        if (prices.pk, cdn) not in self._tiers:
            raw = prices.cdn_tiers.get(cdn, {}).get("backup") or prices.backup_tiers
            self._tiers[prices.pk, cdn] = [
                Tier(None if t["up_to"] is None else Fraction(t["up_to"]), Fraction(t["per_unit"])) for t in raw
            ]
        return self._tiers[prices.pk, cdn]


def _paid_seconds(contract: Contract, now: datetime, hours: int) -> int:
    failure = Interval(now, now + hours * HOUR)
    paid = cover.waited(failure, failure.end, cover_terms(contract))
    return int(paid.length.total_seconds()) if paid else 0


def _share(contract: Contract, factor: Any) -> Fraction:
    """F6, with all of the traffic covered; the policy's own factor can only lower the contract's."""
    most = Fraction(contract.max_coverage_factor)
    most = most if factor is None else min(most, Fraction(factor))
    if contract.coverage_mode == Contract.CoverageMode.CAP:
        most = min(most, Fraction(1))
    return min(Fraction(1), Fraction(contract.discount_rate) * most)


def _within(cost: Fraction, layer: Mapping[str, Any]) -> Fraction:
    inside = max(cost - Fraction(layer["attachment"]), Fraction(0))
    return inside if layer["limit"] is None else min(inside, Fraction(layer["limit"]))


def _contracts(customers: Iterable[int], now: datetime) -> dict[int, Contract]:
    rows = Contract.objects.filter(
        Q(valid_until__isnull=True) | Q(valid_until__gt=now), valid_from__lte=now, customer__in=customers
    )
    return {row.customer_id: row for row in rows.select_related("rate_card")}


def _prices(cards: Iterable[int], now: datetime) -> dict[int, Prices]:
    rows = Prices.objects.filter(
        Q(valid_until__isnull=True) | Q(valid_until__gt=now), valid_from__lte=now, rate_card__in=cards
    )
    return {row.rate_card_id: row for row in rows}


# --- what the database knows ----------------------------------------------------------------------------------------

_MOVED = """
WITH paths AS (
    SELECT d.service_id, v.customer_id, t.id, t.role, t.rank, t.cdn_id
    FROM services v
        JOIN service_domains d ON d.service_id = v.id AND d.deleted_at IS NULL AND d.verified_at IS NOT NULL
        JOIN targets t ON t.domain_id = d.id AND t.enabled AND t.role IN ('primary', 'backup') AND t.cdn_id IS NOT NULL
    WHERE v.deleted_at IS NULL
), failing AS (
    SELECT DISTINCT service_id, customer_id, cdn_id FROM paths WHERE role = 'primary'
), refuges AS (
    SELECT DISTINCT ON (f.service_id, f.cdn_id) f.service_id, f.cdn_id, c.slug
    FROM failing f
        JOIN paths b ON b.service_id = f.service_id AND b.role = 'backup' AND b.cdn_id <> f.cdn_id
        JOIN cdns c ON c.id = b.cdn_id
    ORDER BY f.service_id, f.cdn_id, b.rank, b.id
), rules AS (
    SELECT service_id, true AS is_armed, min(max_coverage_factor) AS factor
    FROM storm_policies WHERE deleted_at IS NULL AND mode = 'armed' GROUP BY 1
), traffic AS (
    SELECT u.service_id, sum(u.bytes) AS bytes, min(u.window_start) AS since
    FROM usage_snapshots u JOIN targets t ON t.id = u.target_id AND t.role = 'primary'
    WHERE u.window_start >= %(since)s AND u.window_start < %(until)s
    GROUP BY 1
)
SELECT f.cdn_id, f.service_id, f.customer_id, r.slug, coalesce(p.is_armed, false), p.factor,
    coalesce(floor(t.bytes / greatest(extract(epoch FROM %(until)s - t.since) / 3600, 1)), 0)::bigint
FROM failing f
    LEFT JOIN refuges r ON r.service_id = f.service_id AND r.cdn_id = f.cdn_id
    LEFT JOIN rules p ON p.service_id = f.service_id
    LEFT JOIN traffic t ON t.service_id = f.service_id
ORDER BY 1, 2
"""


def _moved(now: datetime) -> list[Moved]:
    until = now.replace(minute=0, second=0, microsecond=0)
    with connection.cursor() as cursor:
        cursor.execute(_MOVED, {"since": until - LOOKED_AT, "until": until})
        return [Moved(*row) for row in cursor.fetchall()]


_COST = """
SELECT i.customer_id, sum(i.covered_cost)
FROM unnest(%s::bigint[], %s::timestamptz[]) AS y (customer_id, start)
    JOIN invoices i ON i.customer_id = y.customer_id AND i.kind = 'invoice' AND i.state <> 'void' AND i.period_start >= y.start
GROUP BY 1
"""
_TIME = """
SELECT used.key::bigint, sum(used.value::bigint)
FROM unnest(%s::bigint[], %s::timestamptz[]) AS y (customer_id, start)
    JOIN invoices i ON i.customer_id = y.customer_id AND i.kind = 'invoice' AND i.state <> 'void' AND i.period_start >= y.start
    CROSS JOIN jsonb_each_text(i.cover_used) AS used
GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class _Used:
    """Of each policy year's cover, drafts included: cost in major units by customer, microseconds by service."""

    cost: Mapping[int, Fraction]
    microseconds: Mapping[int, int]

    @classmethod
    def of(cls, contracts: Sequence[Contract], prices: Mapping[int, Prices], now: datetime) -> _Used:
        counting = [c for c in contracts if c.layers or c.aggregate_seconds is not None]
        starts = [Segment(c, prices[c.rate_card_id], now, now, Fraction(0)).policy_year.start for c in counting]
        years: Any = [[c.customer_id for c in counting], starts]
        with connection.cursor() as cursor:
            cursor.execute(_COST, years)
            cost = {customer: Fraction(sum_) for customer, sum_ in cursor.fetchall()}
            cursor.execute(_TIME, years)
            return cls(cost, {service: int(sum_) for service, sum_ in cursor.fetchall()})


_LEDGER = """
SELECT i.currency,
    coalesce(sum(l.amount_minor) FILTER (WHERE l.kind = 'premium' AND i.state IN ('open', 'paid')), 0),
    coalesce(sum(l.amount_minor) FILTER (WHERE l.kind = 'premium' AND i.state = 'paid'), 0),
    coalesce(sum(l.amount_minor) FILTER (WHERE l.kind = 'cover' OR i.kind = 'credit_note'), 0)
FROM invoices i JOIN invoice_line_items l ON l.invoice_id = i.id AND l.kind IN ('premium', 'cover', 'credit')
WHERE i.finalized_at >= %s AND i.state NOT IN ('draft', 'void') AND (i.kind = 'invoice' OR i.reason = 'cover')
GROUP BY 1 ORDER BY 1
"""


def _ledgers(now: datetime) -> list[Ledger]:
    with connection.cursor() as cursor:
        cursor.execute(_LEDGER, [now - YEAR])
        return [
            Ledger(currency, int(premium), int(got), int(paid)) for currency, premium, got, paid in cursor.fetchall()
        ]
