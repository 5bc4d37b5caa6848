"""What is covered: which storms pay, and which of their seconds count. Pure.

F1 merge storms with small gaps · F2 waiting period and hours clause · F3 aggregate · F4 share of a window
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

_MICROSECOND = timedelta(microseconds=1)


class WaitingMode(StrEnum):
    EXCESS = "excess"
    FRANCHISE = "franchise"


@dataclass(frozen=True, slots=True)
class CoverTerms:
    """Seconds; None means without end."""

    waiting_seconds: int = 0
    waiting_mode: WaitingMode = WaitingMode.EXCESS
    hours_clause_seconds: int | None = None
    aggregate_seconds: int | None = None
    merge_gap_seconds: int = 3600


@dataclass(frozen=True, slots=True)
class Storm:
    """One covered storm, [start, end). `service` None: it hits all."""

    id: str
    start: datetime
    end: datetime
    service: str | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Candidate:
    """A storm as recorded, before the question whether it pays."""

    id: str
    service: str
    kind: str
    attribution: str
    is_armed: bool
    policy_version: int | None
    start: datetime
    end: datetime | None


PAYING_KINDS = frozenset({"http_availability", "tls", "dns"})
PAYING_ATTRIBUTIONS = frozenset({"cdn_fault", "edge_cannot_reach_origin", "unproven"})


def pays(candidate: Candidate) -> tuple[bool, str]:
    """Whether a storm is covered, and why. Manual and watch-only storms never pay; an origin's fault never does."""
    if candidate.kind not in PAYING_KINDS:
        return False, f"{candidate.kind} storms are not covered"
    if not candidate.is_armed:
        return False, "the policy only watched"
    if candidate.attribution not in PAYING_ATTRIBUTIONS:
        return False, f"attributed to {candidate.attribution}"
    return True, f"a {candidate.kind} storm, attributed to {candidate.attribution}"


def effective(storms: Iterable[Storm], service: str, terms: CoverTerms) -> list[Interval]:
    """F1–F3: the disjoint intervals of `service` that count, in order of time."""
    waiting = timedelta(seconds=terms.waiting_seconds)
    clause = None if terms.hours_clause_seconds is None else timedelta(seconds=terms.hours_clause_seconds)
    counted: list[Interval] = []
    for event in merge(storms, service, timedelta(seconds=terms.merge_gap_seconds)):
        if terms.waiting_mode is WaitingMode.EXCESS:
            if event.length <= waiting:
                continue
            start = event.start + waiting
        else:
            if event.length < waiting:
                continue
            start = event.start
        counted.append(Interval(start, event.end if clause is None else min(event.end, start + clause)))
    return _aggregate(counted, terms.aggregate_seconds)


def merge(storms: Iterable[Storm], service: str, gap: timedelta) -> list[Interval]:
    """F1: storms that overlap, touch, or lie less than `gap` apart are one event."""
    merged: list[Interval] = []
    mine = (s for s in storms if s.service in (None, service) and s.end > s.start)
    for storm in sorted(mine, key=lambda s: (s.start, s.end)):
        if merged and (storm.start <= merged[-1].end or storm.start - merged[-1].end < gap):
            merged[-1] = Interval(merged[-1].start, max(merged[-1].end, storm.end))
        else:
            merged.append(Interval(storm.start, storm.end))
    return merged


def time_coverage(intervals: Sequence[Interval], start: datetime, end: datetime) -> Fraction:
    """F4: the share of [start, end) that the intervals cover, exact to the microsecond."""
    length = (end - start) // _MICROSECOND
    if length <= 0:
        return Fraction(0)
    covered = sum(
        max((min(i.end, end) - max(i.start, start)) // _MICROSECOND, 0)
        for i in intervals
        if i.start < end and i.end > start
    )
    return Fraction(covered, length)


def _aggregate(intervals: list[Interval], aggregate_seconds: int | None) -> list[Interval]:
    """F3: in order of time, until the aggregate is used up."""
    if aggregate_seconds is None:
        return intervals
    left = timedelta(seconds=aggregate_seconds)
    counted = []
    for interval in intervals:
        if left <= timedelta(0):
            break
        kept = Interval(interval.start, min(interval.end, interval.start + left))
        counted.append(kept)
        left -= kept.length
    return counted
