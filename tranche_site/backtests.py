"""A backtest of a service over what was recorded, under one policy or two side by side, with what it would have cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from billing.would_have import Ledger, would_have
from services.models import Service
from storms import backtest, recorded
from storms.backtest import FoundStorm, Result
from storms.models import StormPolicy
from storms.recordings import Recording
from storms.verdicts import Policy

MOST_WORK = 40_000
"""Looks times series: a storm that rages for days is looked at all the time, and a request is some seconds of work at most."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one policy would have done. `alone` are its storms at a time when the other side had none."""

    policy: Policy
    result: Result
    ledger: Ledger | None
    alone: tuple[FoundStorm, ...] = ()


@dataclass(frozen=True, slots=True)
class Backtest:
    """[start, end) of one service. `against` is None for a single policy."""

    service: Service
    start: datetime
    end: datetime
    recording: Recording
    side: Side
    against: Side | None = None


def run(service: Service, start: datetime, end: datetime, policy: Policy, against: Policy | None = None) -> Backtest:
    """Raises storms.recordings.TooMuch where the time is too long for one go."""
    recording = recorded.read(service, start, end)
    policies = [policy, against] if against else [policy]
    most_looks = MOST_WORK // max(sum(1 for _ in recording.series), 1)
    results = [backtest.replay(recording, each, most_looks=most_looks) for each in policies]
    sides = [
        Side(
            each, result, _ledger(service, result, start, end), _alone(result, [r for r in results if r is not result])
        )
        for each, result in zip(policies, results, strict=True)
    ]
    return Backtest(service, start, end, recording, sides[0], sides[1] if against else None)


def policy_of(service: Service) -> Policy:
    """The service's own policy of availability, or the default one at its interval."""
    own = StormPolicy.objects.live().filter(service=service, kind="http_availability").select_related("service").first()
    return own.terms() if own else own_terms(service)


def own_terms(service: Service) -> Policy:
    """The default policy at the service's own interval."""
    return Policy(interval_seconds=service.interval_seconds, minimum_certificate_days=service.minimum_certificate_days)


def _ledger(service: Service, result: Result, start: datetime, end: datetime) -> Ledger | None:
    spells = [
        (max(first, start), min(last or result.until, end)) for storm in result.storms for first, last in storm.spells
    ]
    return would_have(service, sorted(spells), start, end)


def _alone(result: Result, others: list[Result]) -> tuple[FoundStorm, ...]:
    if not others:
        return ()
    taken = [_span(storm, other) for other in others for storm in other.storms]
    return tuple(
        storm for storm in result.storms
        if not any(first < _span(storm, result)[1] and _span(storm, result)[0] < last for first, last in taken)
    )  # fmt: skip


def _span(storm: FoundStorm, result: Result) -> tuple[datetime, datetime]:
    return storm.started_at, storm.ended_at or result.until
