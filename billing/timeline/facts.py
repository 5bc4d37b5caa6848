"""What a timeline says, as values: no Django, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from billing.timeline.span import Span

Way = tuple[str, int]
"""Role and rank: the primary, the backups in their order, the origin witness; of all domains of a service together."""
Shares = Mapping[Way, float]
"""Percent of traffic by way; together 100, or nothing."""


@dataclass(frozen=True, slots=True)
class Lane:
    """How one way did: by cell the share of good probes, 0 to 1, of the worst of its domains; None without a vote."""

    way: Way
    name: str
    availability: Sequence[float | None]

    @property
    def lowest(self) -> float | None:
        return min((share for share in self.availability if share is not None), default=None)


@dataclass(frozen=True, slots=True)
class Step:
    """From `at` on."""

    at: datetime
    shares: Shares


@dataclass(frozen=True, slots=True)
class Band:
    """A bad stretch of a storm; `end` None while it rages."""

    storm: int
    start: datetime
    end: datetime | None
    text: str
    is_armed: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """A single time that the picture is about, such as when a storm was detected."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What people did or planned; `end` None while it lasts."""

    kind: str
    row: int
    start: datetime
    end: datetime | None
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    span: Span
    now: datetime
    title: str
    lanes: Sequence[Lane]
    bands: Sequence[Band]
    wanted: Sequence[Step]
    observed: Sequence[Step]
    traffic: Mapping[Way, Sequence[int]]
    """Bytes by cell, from the CDNs' logs."""
    marks: Sequence[Mark]
    moments: Sequence[Moment] = ()
    threshold: float | None = None
    """Below which availability is bad, by the policy that the picture is about."""

    @property
    def ways(self) -> list[Way]:
        """Every one that traffic goes by, the primary first."""
        found = {way for steps in (self.wanted, self.observed) for step in steps for way in step.shares}
        return in_order(found | set(self.traffic))


_ROLES = ("primary", "backup", "origin")


def in_order(ways: Iterable[Way]) -> list[Way]:
    return sorted(ways, key=lambda way: (_ROLES.index(way[0]), way[1]))


def shortly(way: Way) -> str:
    role, rank = way
    return f"backup {rank}" if role == "backup" and rank > 1 else role


def together(changes: Iterable[tuple[datetime, int, Shares]]) -> list[Step]:
    """Changes of single record sets, in any order, as steps of their mean: a service moves as a whole, all but at once."""
    current: dict[int, Shares] = {}
    steps: list[Step] = []
    for at, record_set, shares in sorted(changes, key=lambda change: change[:2]):
        current[record_set] = shares
        ways = {way for each in current.values() for way in each}
        mean = {way: sum(each.get(way, 0) for each in current.values()) / len(current) for way in in_order(ways)}
        if steps and steps[-1].at == at:
            steps.pop()
        steps.append(Step(at, mean))
    return steps


def at_time(steps: Sequence[Step], at: datetime) -> Shares | None:
    """What was in force then; None before the first step."""
    found = None
    for step in steps:
        if step.at > at:
            break
        found = step.shares
    return found
