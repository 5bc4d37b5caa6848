"""Decisions → storms: every transition with an entry that holds all it was decided from. Set-wise, and safe to run twice.

However many storms open, rage or end at once, a run takes the same number of statements. Should one service's row be
refused by the database, the others are written one by one, so that nobody's storm hangs on somebody else's.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.db import DatabaseError, connection, transaction
from django.db.models import Exists, OuterRef

from customers.models import Event
from services import outcomes
from services.models import Target
from storms import cases, detector, evidence
from storms.cases import Case
from storms.detector import Action, Decision
from storms.models import StormEntry, StormEvent, StormPolicy
from storms.verdicts import PathView

logger = logging.getLogger(__name__)

_NEWS = {
    Action.OPEN: ("storm.opened", "Storm at {service}: {reason}"),
    Action.REOPEN: ("storm.relapsed", "The storm at {service} is back: {reason}"),
    Action.RELAPSE: ("storm.relapsed", "The storm at {service} is back: {reason}"),
    Action.END: ("storm.ended", "The storm at {service} is over: {reason}"),
    Action.CLOSE: ("storm.closed", "The storm at {service} is closed: {reason}"),
}
_FIELDS = (
    "last_bad_at", "regions", "ended_at", "closed_at", "closing_reason", "spells", "relapses", "policy", "policy_version",
    "evidence_sha256",
)  # fmt: skip

_SAMPLES = """
SELECT target_id, vantage_point_id, at, outcome FROM probe_samples
WHERE slot_at > %(since)s AND at <= %(now)s AND service_id = ANY(%(services)s) AND target_id = ANY(%(targets)s)
    AND NOT is_blind AND NOT is_late AND outcome <> 'unknown' AND outcome <> ALL(%(aside)s)
ORDER BY at
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One decision about one service. `current` is its storm that is not closed, `previous` the newest closed one."""

    policy: StormPolicy
    case: Case
    seen: Mapping[int, PathView]
    decision: Decision
    current: StormEvent | None
    previous: StormEvent | None
    points: Mapping[str, int]
    """Vantage point ids by name."""

    @property
    def acts(self) -> bool:
        """Whether there is anything to write."""
        needs = {Action.OPEN: True, Action.REOPEN: self.previous is not None, Action.NOTHING: False}
        return bool(needs.get(self.decision.action, self.current is not None))


def carry_out(turns: Iterable[Turn], now: datetime) -> list[Turn]:
    """Write all transitions. Returns the turns that brought a storm into another state."""
    acting = [turn for turn in turns if turn.acts]
    if not acting:
        return []
    starts = _starts([turn for turn in acting if turn.decision.begins], now)
    try:
        with transaction.atomic():
            return _write(acting, starts, now)
    except DatabaseError:
        logger.exception("%s transitions could not be written at once: one by one", len(acting))
    written = []
    for turn in acting:
        try:
            with transaction.atomic():
                written += _write([turn], starts, now)
        except DatabaseError:
            logger.exception("the storm of service %s could not be written", turn.policy.service_id)
    return written


def _write(turns: Sequence[Turn], starts: Mapping[int, datetime], now: datetime) -> list[Turn]:
    opened = [
        _opened(turn, starts.get(turn.policy.pk, now), now) for turn in turns if turn.decision.action is Action.OPEN
    ]
    fresh = iter(StormEvent.objects.bulk_create(opened))
    storms = [
        next(fresh) if turn.decision.action is Action.OPEN else _moved(turn, starts.get(turn.policy.pk, now), now)
        for turn in turns
    ]
    raging = [turn.current.pk for turn in turns if turn.current and _only_rages(turn)]
    StormEvent.objects.filter(pk__in=raging).update(last_bad_at=now)
    moved = [
        storm
        for turn, storm in zip(turns, storms, strict=True)
        if turn.decision.action is not Action.OPEN and not _only_rages(turn)
    ]
    StormEvent.objects.bulk_update(moved, _FIELDS, batch_size=1000)
    told = [(turn, storm) for turn, storm in zip(turns, storms, strict=True) if turn.decision.action in _NEWS]
    StormEntry.objects.bulk_create(
        StormEntry(
            storm=storm, at=now, action=turn.decision.action.value, reason=turn.decision.reason,
            policy_id=turn.policy.terms_of or turn.policy.pk, policy_version=turn.policy.version,
            case=evidence.plain(turn.case),
        )
        for turn, storm in told
    )  # fmt: skip
    Event.objects.bulk_create(_event(turn.decision.action, turn.decision.reason, storm) for turn, storm in told)
    return [turn for turn, _ in told]


def _only_rages(turn: Turn) -> bool:
    regions = turn.current.regions if turn.current else []
    return turn.decision.action is Action.RAGE and set(turn.decision.regions) <= set(regions)


def _opened(turn: Turn, start: datetime, now: datetime) -> StormEvent:
    policy, decision = turn.policy, turn.decision
    cdns = {t.pk: t.cdn_id for domain in policy.service.watched for t in domain.probed}  # type: ignore[attr-defined]
    return StormEvent(
        customer_id=policy.customer_id, service=policy.service, policy=policy, policy_version=policy.version,
        cdn_id=cdns[decision.down_targets[0]], kind=policy.kind, regions=list(decision.regions),
        is_armed=policy.mode == StormPolicy.Mode.ARMED, attribution=decision.attribution, started_at=start,
        spells=[spell(start, None)], detected_at=now, last_bad_at=now, reason=decision.reason,
    )  # fmt: skip


def _moved(turn: Turn, start: datetime, now: datetime) -> StormEvent:
    """The storm as the transition leaves it; the row that was read stays as it is, for a second try."""
    decision = turn.decision
    storm: StormEvent = copy(turn.current or turn.previous)  # type: ignore[assignment]  # `acts` has seen to it
    if decision.action in (Action.REOPEN, Action.RELAPSE):
        # The same storm goes on, under the policy that judges now; the quiet time since is no part of it.
        storm.ended_at = storm.closed_at = None
        storm.relapses += 1
        storm.last_bad_at = now
        storm.spells = [*storm.spells, spell(start, None)]
        storm.policy_id, storm.policy_version = turn.policy.terms_of or turn.policy.pk, turn.policy.version
        storm.evidence_sha256 = ""
    elif decision.action is Action.RAGE:
        storm.last_bad_at = now
        storm.regions = sorted({*storm.regions, *decision.regions})
    elif decision.action is Action.END:
        storm.ended_at, storm.closing_reason = decision.at, decision.reason
        storm.spells = ended(storm, decision.at)
    elif decision.action is Action.CLOSE:
        storm.closed_at = now
        storm.closing_reason = f"{storm.closing_reason}; {decision.reason}".strip("; ")
    return storm


def _starts(turns: Sequence[Turn], now: datetime) -> dict[int, datetime]:
    """By policy, the first failing sample of the run that led here, over the vantage points that vote DOWN."""
    if not turns:
        return {}
    targets = {
        culprit for turn in turns for t in turn.decision.down_targets for culprit in (turn.seen[t].culprits or (t,))
    }
    rows: dict[tuple[int, int], list[tuple[datetime, str]]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(
            _SAMPLES,
            {
                "since": now - detector.START_LOOKBACK, "now": now, "targets": sorted(targets),
                "services": sorted({turn.policy.service_id for turn in turns}), "aside": sorted(outcomes.SET_ASIDE),
            },
        )  # fmt: skip
        for target, point, at, outcome in cursor.fetchall():
            rows[target, point].append((at, outcome))
    return {
        turn.policy.pk: cases.start(turn.case, turn.decision, turn.seen, partial(_judged, rows, turn.points))
        for turn in turns
    }


def _judged(
    rows: Mapping[tuple[int, int], Sequence[tuple[datetime, str]]], points: Mapping[str, int], target: int, point: str
) -> Sequence[tuple[datetime, str]]:
    return rows.get((target, points[point]), ())


def spell(start: datetime | str, end: datetime | None) -> list[str | None]:
    return [start if isinstance(start, str) else start.isoformat(), end.isoformat() if end else None]


def ended(storm: StormEvent, at: datetime | None) -> list[list[str | None]]:
    """Its spells with the last one ended at `at`, if it was not ended before."""
    spells: list[list[str | None]] = storm.spells or [spell(storm.started_at, None)]
    return spells if spells[-1][1] else [*spells[:-1], spell(str(spells[-1][0]), at)]


def close_orphans(now: datetime) -> None:
    """A storm that has nobody left to judge it, or nothing left to be judged, ends where it was last seen bad."""
    heirs = StormPolicy.objects.live().filter(service=OuterRef("service"), kind=OuterRef("kind"))
    primaries = Target.objects.filter(
        role=Target.Role.PRIMARY, enabled=True, domain__service=OuterRef("service"), domain__deleted_at__isnull=True,
        domain__verified_at__isnull=False,
    )  # fmt: skip
    orphans = StormEvent.objects.open().filter(~Exists(heirs) | ~Exists(primaries), policy__isnull=False)
    reason = "its service, its policy or its last primary is gone"
    for storm in orphans.select_for_update(of=("self",)).select_related("service"):
        storm.ended_at = storm.ended_at or max(storm.last_bad_at, storm.started_at)
        storm.closed_at = max(now, storm.ended_at)
        storm.closing_reason, storm.spells = reason, ended(storm, storm.ended_at)
        storm.save(update_fields=["ended_at", "closed_at", "closing_reason", "spells"])
        StormEntry.objects.create(storm=storm, at=now, action=Action.CLOSE, reason=reason)
        _event(Action.CLOSE, reason, storm).save()


def _event(action: Action, reason: str, storm: StormEvent) -> Event:
    kind, text = _NEWS[action]
    summary = text.format(service=storm.service, reason=reason)
    logger.info("%s", summary)
    return Event.about(
        kind, storm, summary, customer_id=storm.customer_id, service=storm.service_id, attribution=storm.attribution,
        started_at=storm.started_at.isoformat(), policy_version=storm.policy_version, is_armed=storm.is_armed,
    )  # fmt: skip
