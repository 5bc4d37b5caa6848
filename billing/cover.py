"""What is covered: which storms pay, which of their seconds count, and how many bytes were moved in them. Pure.

F1 merge storms with small gaps · F2 waiting period and hours clause · F3 aggregate · F4 share of a window

A storm moves traffic and cover pays for it, by two decisions. A storm pays if it is a CDN's fault that somebody beyond the
customer's own paths bears witness to. From its start until traffic was seen to be home again, and the visitors with it, the
bytes on the backup above its normal share are covered, from the moment on that our shift was seen in DNS.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from math import floor

_MICROSECOND = timedelta(microseconds=1)
_QUARTER = timedelta(minutes=15)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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


PAYING_KINDS = frozenset({"http_availability", "tls", "dns"})
PAYING_ATTRIBUTIONS = frozenset({"cdn_fault", "edge_cannot_reach_origin", "unproven"})

SILENCE = timedelta(minutes=30)
"""How long a storm is believed in after the last evidence of it."""
TAIL = timedelta(minutes=60)
"""The most that is covered after a storm's end, while traffic comes home."""
BASELINE = timedelta(hours=7 * 24)
"""Before an event: what the backup's normal share is taken from."""
NORMAL_PERCENT = 5
"""What a standing share or a drill may send to the backup. More than this is a shift."""
HOUR = timedelta(hours=1)
FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A storm of one service as recorded, before the question whether it pays.

    `spells` are its bad stretches, the last without an end while it rages. `witness`: who beyond the customer's own paths
    confirmed the CDN's fault; empty: nobody. `ruling`: a person's word, which goes before the witnesses.
    """

    id: str
    kind: str
    attribution: str
    is_armed: bool
    spells: tuple[tuple[datetime, datetime | None], ...]
    last_bad_at: datetime
    witness: str = ""
    ruling: bool | None = None
    ruling_reason: str = ""

    @property
    def ended_at(self) -> datetime | None:
        return self.spells[-1][1]

    def raged(self, as_of: datetime) -> list[Interval]:
        """Its bad stretches, none longer than it is believed in without evidence."""
        believed = min(self.last_bad_at + SILENCE, as_of)
        spans = []
        for place, (start, end) in enumerate(self.spells, 1):
            until = min(end or as_of, believed) if place == len(self.spells) else end or as_of
            if start < until:
                spans.append(Interval(start, until))
        return spans

    def touches(self, span: Interval, as_of: datetime) -> bool:
        return any(start < span.end and (end or as_of) > span.start for start, end in self.spells)


@dataclass(frozen=True, slots=True)
class Change:
    """Weights of one record set that DNS was seen to have from `observed_at` on. `region` None: everywhere."""

    record_set: int
    generation: int
    region: str | None
    backup_percent: int
    is_for_storm: bool
    observed_at: datetime


@dataclass(frozen=True, slots=True)
class Excluded:
    """Time that never pays, and why: maintenance, a pin, a drill."""

    start: datetime
    end: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a storm pays, and why."""

    storm: str
    is_covered: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Event:
    """Covered storms that count as one: its time, the spans of it that pay, and those that tell what is normal."""

    start: datetime
    end: datetime
    storms: tuple[str, ...]
    spans: tuple[Interval, ...]
    baseline: tuple[Interval, ...]
    reasons: tuple[str, ...] = ()

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    @property
    def paid(self) -> timedelta:
        return total(self.spans)


def pays(storm: Recorded) -> Decision:
    """Manual and watch-only storms never pay, an origin's fault never does, and a CDN's does once it is corroborated."""
    if storm.kind not in PAYING_KINDS:
        return Decision(storm.id, False, f"{storm.kind} storms are not covered")
    if not storm.is_armed:
        return Decision(storm.id, False, "the policy only watched")
    if storm.ruling is False:
        return Decision(storm.id, False, f"refused by a person: {storm.ruling_reason}")
    if storm.ruling:
        return Decision(storm.id, True, f"covered by a person's word: {storm.ruling_reason}")
    if storm.attribution not in PAYING_ATTRIBUTIONS:
        return Decision(storm.id, False, f"attributed to {storm.attribution}")
    if not storm.witness:
        return Decision(
            storm.id, False,
            "no witness yet beyond the customer's own paths: a reference site, three unrelated customers, or a person",
        )  # fmt: skip
    return Decision(storm.id, True, f"a {storm.kind} storm, attributed to {storm.attribution}; {storm.witness}")


def shifts(changes: Iterable[Change], drain: timedelta) -> list[Interval]:
    """When DNS was seen to send more than a normal share of one service to its backups for a storm, each until the drain
    after failback; one that goes on has no end.
    """
    found = []
    begun: dict[tuple[int, str], datetime] = {}
    for change in sorted(changes, key=lambda c: (c.record_set, c.generation)):
        lane = (change.record_set, change.region or "")
        if change.backup_percent > NORMAL_PERCENT:
            if change.is_for_storm:
                begun.setdefault(lane, change.observed_at)
            continue
        lanes = [key for key in begun if key[0] == change.record_set] if change.region is None else [lane]
        found += [Interval(begun.pop(key), change.observed_at + drain) for key in lanes if key in begun]
    return [*found, *(Interval(at, FOREVER) for at in begun.values())]


def events(
    storms: Sequence[Recorded],
    shifts: Sequence[Interval],
    excluded: Sequence[Excluded],
    terms: CoverTerms,
    period: Interval,
    as_of: datetime,
) -> tuple[list[Decision], list[Event]]:
    """The covered events of one service that touch `period`, and what was decided on each of its storms.

    `shifts` is when DNS was seen to send more than the normal share to the backups, each until the drain after failback.
    `excluded` never pays, and leaves nothing out of what was normal: the customer can edit some of it.
    `terms.aggregate_seconds` is what is left of the policy year's. All of a storm, its relapses and its gaps count for
    waiting time and limits, whatever part of it lies in the period.
    """
    decisions = [pays(storm) for storm in storms]
    paying = {decision.storm for decision in decisions if decision.is_covered}
    raging = [Storm(s.id, i.start, i.end) for s in storms if s.id in paying for i in s.raged(as_of)]
    quiet = [Interval(i.start, i.end) for s in storms for i in s.raged(as_of)]
    quiet += shifts
    found: list[Event] = []
    paid: list[Interval] = []
    for event in merge(raging, None, timedelta(seconds=terms.merge_gap_seconds)):
        names = tuple(sorted({s.id for s in raging if s.start < event.end and s.end > event.start}))
        until = min(event.end + TAIL, as_of)
        spans, reasons = _spans(event, until, shifts, excluded, terms)
        spans = subtract(spans, paid)  # the tail of the one before may reach into this one
        paid += spans
        inside = clip(spans, period)
        if event.start < period.end and until > period.start:
            # By whole quarters: usage is kept no finer in the long run, and what moved in the minute in which it
            # begins is no part of what is normal.
            normal = _on_quarters(subtract([Interval(event.start - BASELINE, event.start)], quiet))
            found.append(Event(event.start, event.end, names, tuple(inside), tuple(normal), tuple(reasons)))
    return decisions, _within_aggregate(found, terms.aggregate_seconds)


def _on_quarters(intervals: Iterable[Interval]) -> list[Interval]:
    """The whole quarters of an hour in each."""
    inner = (Interval(i.start + (_EPOCH - i.start) % _QUARTER, i.end - (i.end - _EPOCH) % _QUARTER) for i in intervals)
    return [interval for interval in inner if interval.start < interval.end]


def _spans(
    event: Interval, until: datetime, shifts: Sequence[Interval], excluded: Sequence[Excluded], terms: CoverTerms
) -> tuple[list[Interval], list[str]]:
    paid = waited(event, until, terms)
    if paid is None:
        return [], [f"not longer than the waiting time of {terms.waiting_seconds} s"]
    seen = [shift for shift in union(shifts) if shift.start < paid.end and shift.end > paid.start]
    if not seen:
        return [], ["no shift of ours was seen in DNS"]
    moved = clip(seen, paid)
    reasons = [f"shift seen {zulu(seen[0].start)}"]
    barred = [Interval(e.start, e.end) for e in excluded]
    left = subtract(moved, barred)
    if left != moved:
        reasons += sorted({e.reason for e in excluded if any(e.start < i.end and e.end > i.start for i in moved)})
    return left, reasons


def _within_aggregate(found: list[Event], aggregate_seconds: int | None) -> list[Event]:
    """F3 over the events, in order of time."""
    if aggregate_seconds is None:
        return found
    left = timedelta(seconds=aggregate_seconds)
    kept = []
    for event in found:
        spans = _first(event.spans, left)
        reasons = (
            event.reasons if spans == list(event.spans) else (*event.reasons, "the policy year's aggregate is used up")
        )
        left -= total(spans)
        kept.append(replace(event, spans=tuple(spans), reasons=reasons))
    return kept


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of one event, by time share exact: on each backup CDN and on all paths in its spans, and in its baseline."""

    backup: Mapping[str, Fraction]
    everything: Fraction
    normal_backup: Fraction
    normal_everything: Fraction

    @property
    def normal_share(self) -> Fraction:
        """The backup's share of traffic before the event; 0 where there was none."""
        return self.normal_backup / self.normal_everything if self.normal_everything else Fraction(0)


def covered_bytes(measured: Measured) -> dict[str, tuple[int, int]]:
    """Backup bytes in the event's spans and those of them that are covered, by CDN; whole bytes, rounded down.

    Covered is what is above the normal share of all traffic in the spans, from each CDN in proportion.
    """
    backup = sum(measured.backup.values(), Fraction(0))
    above = max(backup - measured.normal_share * measured.everything, Fraction(0))
    return {
        cdn: (floor(size), floor(above * size / backup) if backup else 0)
        for cdn, size in sorted(measured.backup.items())
    }  # fmt: skip


def effective(storms: Iterable[Storm], service: str, terms: CoverTerms) -> list[Interval]:
    """F1–F3: the disjoint intervals of `service` that count, in order of time."""
    merged = merge(storms, service, timedelta(seconds=terms.merge_gap_seconds))
    counted = [paid for event in merged if (paid := waited(event, event.end, terms))]
    return counted if terms.aggregate_seconds is None else _first(counted, timedelta(seconds=terms.aggregate_seconds))


def waited(event: Interval, until: datetime, terms: CoverTerms) -> Interval | None:
    """F2: what of an event counts, if the event itself is long enough; `until` is its end with the tail."""
    waiting = timedelta(seconds=terms.waiting_seconds)
    if terms.waiting_mode is WaitingMode.EXCESS:
        if event.length <= waiting:
            return None
        start = event.start + waiting
    else:
        if event.length < waiting:
            return None
        start = event.start
    clause = terms.hours_clause_seconds
    end = until if clause is None else min(until, start + timedelta(seconds=clause))
    return Interval(start, end) if start < end else None


def merge(storms: Iterable[Storm], service: str | None, gap: timedelta) -> list[Interval]:
    """F1: storms that overlap, touch, or lie less than `gap` apart are one event. `service` None: all of them."""
    merged: list[Interval] = []
    mine = (s for s in storms if (service is None or s.service in (None, service)) and s.end > s.start)
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


def _first(intervals: Sequence[Interval], length: timedelta) -> list[Interval]:
    """F3: in order of time, until so much is used up."""
    kept = []
    for interval in intervals:
        if length <= timedelta(0):
            break
        kept.append(Interval(interval.start, min(interval.end, interval.start + length)))
        length -= kept[-1].length
    return kept


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """Disjoint intervals of the same time, in order."""
    joined: list[Interval] = []
    for interval in sorted(intervals, key=lambda i: (i.start, i.end)):
        if joined and interval.start <= joined[-1].end:
            joined[-1] = Interval(joined[-1].start, max(joined[-1].end, interval.end))
        elif interval.start < interval.end:
            joined.append(interval)
    return joined


def clip(intervals: Iterable[Interval], to: Interval) -> list[Interval]:
    """The part of each that lies within `to`."""
    cut = (Interval(max(i.start, to.start), min(i.end, to.end)) for i in intervals)
    return [interval for interval in cut if interval.start < interval.end]


def subtract(intervals: Iterable[Interval], holes: Iterable[Interval]) -> list[Interval]:
    """The time of `intervals` (disjoint, in order) that is in no hole."""
    left = list(intervals)
    for hole in union(holes):
        pieces = []
        for interval in left:
            before = Interval(interval.start, min(interval.end, hole.start))
            after = Interval(max(interval.start, hole.end), interval.end)
            pieces += [piece for piece in (before, after) if piece.start < piece.end]
        left = pieces
    return left


def whole_hours(span: Interval) -> tuple[Interval | None, list[Interval]]:
    """The whole hours within a span, and what is left of it at both ends."""
    start = span.start.replace(minute=0, second=0, microsecond=0)
    start += HOUR if start < span.start else timedelta(0)
    end = span.end.replace(minute=0, second=0, microsecond=0)
    if end <= start:
        return None, [span]
    edges = [Interval(span.start, start), Interval(end, span.end)]
    return Interval(start, end), [edge for edge in edges if edge.start < edge.end]


def total(intervals: Iterable[Interval]) -> timedelta:
    return sum((interval.length for interval in intervals), timedelta(0))


def zulu(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".") + "Z"
