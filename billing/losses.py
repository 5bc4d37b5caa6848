"""What cover does not pay of a storm, and why: each second that it raged is covered or has its reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from billing import cover, facts, segments
from billing.cover import FOREVER, TAIL, CoverTerms, Event, Interval, Recorded
from billing.drafting import cover_terms
from billing.models import Invoice
from billing.segments import Month, Segment
from dns.models import WeightChange
from storms.detector import FindingKind
from storms.models import Finding, StormEvent

NO_TERMS = "no contract with prices held at that time"
NO_SHIFT = "no shift of ours was seen in DNS"
_Pieces = list[tuple[str, list[Interval]]]


@dataclass(frozen=True, slots=True)
class Loss:
    """Time of a storm that is not paid, and what the primary delivered meanwhile, as far as it still did."""

    reason: str
    seconds: float
    primary_bytes: int


@dataclass(frozen=True, slots=True)
class Losses:
    """Of one storm as it stands: the seconds that it raged, those of them that are covered, and why the others are not."""

    raged_seconds: float
    covered_seconds: float
    losses: Sequence[Loss]


def of_storm(storm: StormEvent, now: datetime) -> Losses:
    """By the terms that held when it began, and by what is known now; an invoice may have been issued before that."""
    recorded = facts.recorded(storm)
    raged = recorded.raged(now)
    pieces, covered = _pieces(storm, recorded, raged, now)
    by_reason = defaultdict[str, list[Interval]](list)
    for reason, spans in pieces:
        by_reason[reason] += spans
    found = [(reason, cover.union(spans)) for reason, spans in by_reason.items() if cover.total(spans)]
    measured = facts.measure(
        [(storm.service_id, Event(spans[0].start, spans[-1].end, (), tuple(spans), ())) for _, spans in found]
    )
    losses = [
        Loss(reason, _seconds(spans), int(m.everything - sum(m.backup.values())))
        for (reason, spans), m in zip(found, measured, strict=True)
    ]
    return Losses(_seconds(raged), _seconds(covered), losses)


def _seconds(spans: Iterable[Interval]) -> float:
    return cover.total(spans).total_seconds()


def _pieces(
    storm: StormEvent, recorded: Recorded, raged: list[Interval], now: datetime
) -> tuple[_Pieces, list[Interval]]:
    """What is not covered, by reason, and what is."""
    segment = _segment(storm)
    if segment is None:
        return [(NO_TERMS, raged)], []
    decision = cover.pays(recorded)
    if not decision.is_covered:
        return [(decision.reason, raged)], []
    until = min((storm.ended_at or now) + TAIL, now)
    period = Interval(segment.start, max(segment.end, until))
    contract = segment.contract
    told = facts.cover_facts(period, [storm.customer_id])[storm.service_id]
    shifts = told.shifts(contract.drain_seconds)
    terms = cover_terms(contract, _used(segment, storm.service_id))
    _, events = cover.events(told.storms, shifts, told.excluded, terms, period, now)
    event = next((e for e in events if recorded.id in e.storms), None)
    if event is None:
        return [], []
    covered = _both(raged, event.spans)
    left = cover.subtract(raged, event.spans)
    pieces, left = _outside(event, left, terms, now)
    for excluded in told.excluded:
        pieces.append((excluded.reason, cover.clip(left, Interval(excluded.start, excluded.end))))
        left = cover.subtract(left, [Interval(excluded.start, excluded.end)])
    shifts = cover.union(shifts)
    pieces += _unmoved(storm, cover.subtract(left, shifts))
    pieces.append(("the policy year's aggregate is used up", _both(left, shifts)))
    return pieces, covered


def _segment(storm: StormEvent) -> Segment | None:
    """The terms that held when it began; its month is of their time zone, so the months beside it are looked at as well."""
    here = Month.at(storm.started_at)
    for month in (here, here.before, here.following):
        for segment in segments.of_month(month, [storm.customer_id]).get(storm.customer_id, []):
            if segment.start <= storm.started_at < segment.end:
                return segment
    return None


def _used(segment: Segment, service: int) -> int:
    """Microseconds of the policy year's aggregate that earlier periods used."""
    rows = Invoice.objects.filter(
        customer=segment.contract.customer_id, kind=Invoice.Kind.INVOICE, period_start__gte=segment.policy_year.start,
        period_start__lt=segment.start,
    ).exclude(state=Invoice.State.VOID)  # fmt: skip
    return sum(used.get(str(service), 0) for used in rows.values_list("cover_used", flat=True))


def _outside(event: Event, left: list[Interval], terms: CoverTerms, now: datetime) -> tuple[_Pieces, list[Interval]]:
    """What waiting time and hours clause take away, and what they leave."""
    waiting = f"the waiting time of {terms.waiting_seconds} s"
    paid = cover.waited(Interval(event.start, event.end), min(event.end + TAIL, now), terms)
    if paid is None:
        return [(f"not longer than {waiting}", left)], []
    clause = f"beyond the {terms.hours_clause_seconds} s that one event is paid"
    before, after = Interval(event.start, paid.start), Interval(paid.end, FOREVER)
    return [(waiting, cover.clip(left, before)), (clause, cover.clip(left, after))], cover.clip(left, paid)


def _unmoved(storm: StormEvent, left: list[Interval]) -> _Pieces:
    """Time in which DNS was not seen to have our shift: not yet detected, held, without a fit backup, or on its way."""
    pieces: _Pieces = [("not detected yet", cover.clip(left, Interval(storm.started_at, storm.detected_at)))]
    if storm.detected_at > storm.started_at:
        left = cover.subtract(left, [Interval(storm.started_at, storm.detected_at)])
    if not cover.total(left):
        return pieces
    for reason, span in (*_held(storm, left), *_unfit(storm, left), *_under_way(storm, left)):
        pieces.append((reason, cover.clip(left, span)))
        left = cover.subtract(left, [span])
    return [*pieces, (NO_SHIFT, left)]


def _changes(storm: StormEvent) -> list[WeightChange]:
    rows = WeightChange.objects.filter(service=storm.service_id, storm=storm).order_by("wanted_at", "pk")
    return list(rows.defer("receipt", "drain"))


def _held(storm: StormEvent, left: Sequence[Interval]) -> Iterable[tuple[str, Interval]]:
    for change in _changes(storm):
        if change.refusal or change.held_reason:
            until = change.submitted_at or change.confirmed_at or change.observed_at or left[-1].end
            why = change.held_reason.removeprefix(f"{change.refusal}: ") or change.refusal.replace("_", " ")
            if change.wanted_at < until:
                yield f"the shift was held: {why}", Interval(change.wanted_at, until)


def _under_way(storm: StormEvent, left: Sequence[Interval]) -> Iterable[tuple[str, Interval]]:
    for change in _changes(storm):
        until = change.observed_at or left[-1].end
        if change.wanted_at < until:
            failed = change.state == WeightChange.State.FAILED
            yield (
                ("the shift could not be written" if failed else "DNS did not show our shift yet"),
                Interval(change.wanted_at, until),
            )


def _unfit(storm: StormEvent, left: Sequence[Interval]) -> Iterable[tuple[str, Interval]]:
    rows = Finding.objects.filter(
        Q(resolved_at__isnull=True) | Q(resolved_at__gt=left[0].start), service=storm.service_id,
        kind=FindingKind.BACKUP_UNFIT, first_seen_at__lt=left[-1].end,
    ).order_by("first_seen_at", "pk")  # fmt: skip
    for row in rows:
        until = row.resolved_at or max(row.last_seen_at, left[-1].end)
        if row.first_seen_at < until:
            yield f"no fit backup: {row.reason}", Interval(row.first_seen_at, until)


def _both(one: Iterable[Interval], other: Iterable[Interval]) -> list[Interval]:
    mine = list(one)
    return [piece for span in other for piece in cover.clip(mine, span)]
