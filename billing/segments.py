"""Which terms hold when: months, in the customer's time zone, cut where a contract or its prices change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from django.db.models import Q

from billing.cover import Interval
from billing.models import Contract, Prices
from customers.models import Customer

_FURTHEST = timedelta(hours=15)  # from UTC, of any time zone
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, order=True)
class Month:
    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> Month:
        """“2026-03”. Raises ValueError."""
        at = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        return cls(at.year, at.month)

    @classmethod
    def at(cls, moment: datetime, time_zone: str = "UTC") -> Month:
        local = moment.astimezone(ZoneInfo(time_zone))
        return cls(local.year, local.month)

    def __str__(self) -> str:
        return f"{self.year}-{self.month:02d}"

    @property
    def following(self) -> Month:
        return Month(self.year + self.month // 12, self.month % 12 + 1)

    @property
    def before(self) -> Month:
        return Month(self.year - (self.month == 1), (self.month - 2) % 12 + 1)

    def span(self, time_zone: str = "UTC") -> Interval:
        """From its first midnight there to the next month's: 743 hours in March of New York, 745 in November."""
        return Interval(self._begins(time_zone), self.following._begins(time_zone))

    def _begins(self, time_zone: str) -> datetime:
        return datetime(self.year, self.month, 1, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of one month in which one contract and one version of its prices hold: one invoice."""

    contract: Contract
    prices: Prices
    start: datetime
    end: datetime
    month_share: Fraction

    @property
    def customer(self) -> Customer:
        return self.contract.customer

    @property
    def currency(self) -> str:
        return self.contract.rate_card.currency

    @property
    def span(self) -> Interval:
        return Interval(self.start, self.end)

    @property
    def policy_year(self) -> Interval:
        """The year of cover that its beginning lies in: aggregates and tranches count over it."""
        first = self.contract.policy_from or self.contract.valid_from
        years = self.start.year - first.year
        begins = _anniversary(first, years)
        if begins > self.start:
            years, begins = years - 1, _anniversary(first, years - 1)
        return Interval(begins, _anniversary(first, years + 1))


def _anniversary(first: datetime, years: int) -> datetime:
    """The same day of another year; 29 February is 1 March where there is none."""
    try:
        return first.replace(year=first.year + years)
    except ValueError:
        return first.replace(year=first.year + years, month=3, day=1)


def of_month(month: Month, customers: Iterable[int] | None = None) -> dict[int, list[Segment]]:
    """The segments of the month by customer, in order of time; of all customers, or of these."""
    around = Interval(month.span().start - _FURTHEST, month.span().end + _FURTHEST)
    contracts = (
        Contract.objects.filter(
            Q(valid_until__isnull=True) | Q(valid_until__gt=around.start), valid_from__lt=around.end
        )
        .select_related("customer", "rate_card")
        .order_by("customer_id", "valid_from")
    )
    if customers is not None:
        contracts = contracts.filter(customer__in=list(customers))
    prices = defaultdict[int, list[Prices]](list)
    cards = {contract.rate_card_id for contract in contracts}
    for version in Prices.objects.filter(rate_card__in=cards).order_by("valid_from"):
        prices[version.rate_card_id].append(version)
    segments = defaultdict[int, list[Segment]](list)
    for contract in contracts:
        segments[contract.customer_id] += cut(contract, prices[contract.rate_card_id], month)
    return dict(segments)


def cut(contract: Contract, prices: Sequence[Prices], month: Month) -> list[Segment]:
    whole = month.span(contract.time_zone)
    found = []
    for version in prices:
        start = max(whole.start, contract.valid_from, version.valid_from)
        ends = [end for end in (contract.valid_until, version.valid_until) if end]
        end = min([whole.end, *ends])
        if start < end:
            share = Fraction((end - start) // _MICROSECOND, whole.length // _MICROSECOND)
            found.append(Segment(contract, version, start, end, share))
    return found
