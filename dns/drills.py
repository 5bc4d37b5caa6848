"""Rehearsals: a few percent of traffic to the first backup for some minutes, begun only in good weather, and judged.

scheduled ─ the weather is good ─► running ─ the share is observed, then its minutes pass ─► passed
         │                              ├─ the backup worsens, or DNS never sends the share ─► failed
         │                              └─ a storm, a freeze, a pin, whatever takes it back ─► cancelled
         └─ a week of bad weather, or a person ──────────────────────────────────────────────► cancelled
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max

from customers.models import Event
from dns import planning, weights
from dns.models import Drill, RecordSet, SteeringTerms
from services.models import MaintenanceWindow, Service, Target
from storms.models import StormEvent

PATIENCE = timedelta(days=7)
"""How long a scheduled drill waits for good weather."""
OBSERVED_WITHIN = timedelta(minutes=10)
TRIED_AGAIN = timedelta(days=1)
"""How long after one that was cancelled, by a person or by the weather, the terms ask again."""
MOST_AT_ONCE = 50
"""Scheduled ones that are looked at in one turn; those that run always are."""


def tend(now: datetime) -> list[Drill]:
    """Schedule, begin, watch and end drills. Returns those whose state changed."""
    _schedule(now)
    rows = Drill.objects.filter(scheduled_at__lte=now).select_related("service")
    running = list(rows.filter(state=Drill.State.RUNNING).order_by("pk"))
    # By chance, so that those that wait for better weather don't stand before the others for a week.
    waiting = list(rows.filter(state=Drill.State.SCHEDULED).order_by("?")[:MOST_AT_ONCE])
    drills = running + waiting
    plans = {plan.service.pk: plan for plan in planning.plan_services(now, [drill.service_id for drill in drills])}
    return [drill for drill in drills if _step(drill, plans.get(drill.service_id), now)]


def cancel(drill: Drill, who: str, now: datetime) -> bool:
    """Call it off; what it sent to the backup goes home with the next plan. False if it went on meanwhile."""
    return _turn(drill, Drill.State.CANCELLED, f"cancelled by {who}", now, ended_at=now)


def _schedule(now: datetime) -> None:
    """Where the terms ask for drills every so many days and none is open, recent, or was called off a moment ago."""
    rows = Drill.objects.values_list("service_id")
    open_ids = set(rows.filter(state__in=Drill.OPEN).values_list("service_id", flat=True))
    judged = dict(rows.exclude(state=Drill.State.CANCELLED).annotate(latest=Max("scheduled_at")))
    cancelled = dict(rows.filter(state=Drill.State.CANCELLED, ended_at__isnull=False).annotate(latest=Max("ended_at")))
    steered = RecordSet.objects.live().values("domain__service")
    terms = SteeringTerms.objects.filter(drill_every_days__gt=0, service__in=steered).exclude(service__in=open_ids)
    Drill.objects.bulk_create(
        (
            Drill(
                customer_id=row.customer_id, service_id=row.service_id, percent=row.drill_percent,
                minutes=row.drill_minutes, scheduled_at=now,
            )
            for row in terms
            if now - judged.get(row.service_id, row.created_at) >= timedelta(days=row.drill_every_days)
            and now - cancelled.get(row.service_id, now - TRIED_AGAIN) >= TRIED_AGAIN
        ),
        ignore_conflicts=True,
    )  # fmt: skip


# --- one drill ---------------------------------------------------------------------------------------------------------


def _step(drill: Drill, plan: planning.ServicePlan | None, now: datetime) -> bool:
    return _wait(drill, plan, now) if drill.state == Drill.State.SCHEDULED else _watch(drill, plan, now)


def _wait(drill: Drill, plan: planning.ServicePlan | None, now: datetime) -> bool:
    weather = bad_weather(drill.service, plan, now)
    if not weather:
        return _turn(drill, Drill.State.RUNNING, "running", now, started_at=now)
    if now - drill.scheduled_at > PATIENCE:
        text = f"cancelled: no good weather for a week ({weather})"
        return _turn(drill, Drill.State.CANCELLED, text, now, ended_at=now)
    if drill.outcome != (text := f"waits: {weather}"):
        Drill.objects.filter(pk=drill.pk, state=drill.state).update(outcome=text)
    return False


def _watch(drill: Drill, plan: planning.ServicePlan | None, now: datetime) -> bool:
    trouble = _interruption(drill.service, plan)
    if trouble or plan is None:
        return _turn(drill, Drill.State.CANCELLED, f"cancelled: {trouble}", now, ended_at=now)
    if bad := _backup_trouble(plan):
        return _turn(drill, Drill.State.FAILED, bad, now, ended_at=now)
    if taken_back := _taken_back(drill, plan):
        return _turn(drill, Drill.State.CANCELLED, f"cancelled: {taken_back}", now, ended_at=now)
    assert drill.started_at is not None  # noqa: S101
    is_observed = not plan.behind and not plan.changes and plan.situation.settled_at is not None
    if drill.observed_at is None and is_observed:
        text = "DNS sends the share; the backup is watched"
        Drill.objects.filter(pk=drill.pk, state=drill.state).update(observed_at=now, outcome=text)
        return False
    if drill.observed_at is None:
        if now - drill.started_at <= OBSERVED_WITHIN:
            return False
        text = f"DNS did not send the share within {OBSERVED_WITHIN.total_seconds() / 60:.0f} minutes"
        return _turn(drill, Drill.State.FAILED, text, now, ended_at=now)
    if now - drill.observed_at < timedelta(minutes=drill.minutes):
        return False
    seconds = (drill.observed_at - drill.started_at).total_seconds()
    text = f"{drill.percent} % for {drill.minutes} min; DNS sent it after {seconds:.0f} s; the backup stayed up"
    return _turn(drill, Drill.State.PASSED, text, now, ended_at=now)


def _turn(drill: Drill, state: Drill.State, outcome: str, now: datetime, **fields: datetime) -> bool:
    with transaction.atomic():
        if not Drill.objects.filter(pk=drill.pk, state=drill.state).update(state=state, outcome=outcome, **fields):
            return False
        summary = f"{drill.service}: drill {state}: {outcome}"
        Event.record(f"drill.{state}", drill, summary, customer_id=drill.customer_id)
    drill.state, drill.outcome = state, outcome
    return True


# --- the weather -------------------------------------------------------------------------------------------------------


def bad_weather(service: Service, plan: planning.ServicePlan | None, now: datetime) -> str:
    """Why no drill begins now, or ""."""
    trouble = _interruption(service, plan)
    if trouble or plan is None:
        return trouble
    terms = SteeringTerms.objects.filter(service=service).first()
    if terms and not terms.is_window_open(now):
        return "outside of its window"
    paths = Target.objects.live().paths().filter(domain__service=service)
    here = {("service", service.pk), *(("cdn", cdn_id) for cdn_id in paths.values_list("cdn_id", flat=True))}
    if here & MaintenanceWindow.spans(now, timedelta(0), [service.pk]).keys():
        return "maintenance"
    if not plan.situation.backups:
        return "there is no backup"
    if unfit := plan.situation.backups[0].problem or _backup_trouble(plan):
        return f"the backup is not fit: {unfit}"
    return "" if plan.is_at_rest else "weights are being changed"


def _interruption(service: Service, plan: planning.ServicePlan | None) -> str:
    """What neither lets a drill begin nor go on, or ""."""
    if plan is None:
        return "the service is not steered"
    if StormEvent.objects.filter(service=service, closed_at__isnull=True).exists():
        return "a storm is open"
    if plan.is_frozen:
        return f"frozen: {plan.situation.frozen}"
    if plan.situation.pinned_backup_percent is not None:
        return "its weights are pinned"
    if plan.situation.primary.health is not weights.Health.UP:
        return f"the primary is {plan.situation.primary.health}"
    return plan.refusal[1] if plan.refusal else ""


def _backup_trouble(plan: planning.ServicePlan) -> str:
    """How the first backup, the one that is drilled, answers badly; "" while it does well, or nobody knows."""
    if not plan.situation.backups:
        return ""
    backup = plan.situation.backups[0]
    if backup.health in (weights.Health.DOWN, weights.Health.DEGRADED) or backup.share_bad > weights.GATE_SHARE_BAD:
        return f"{backup.key} is {backup.health}: {backup.share_bad:.0%} of its samples bad"
    return ""


def _taken_back(drill: Drill, plan: planning.ServicePlan) -> str:
    """Why weights no longer want the share: the backup is gone or of unknown health, or something else matters more."""
    if not plan.situation.backups:
        return "there is no backup any more"
    backup = plan.situation.backups[0]
    if backup.problem:
        return f"{backup.key}: {backup.problem}"
    share = min(drill.percent, backup.capacity_percent)  # a standing share may be more
    return "" if plan.plan.percents.get(backup.key, 0) >= share else plan.plan.reason
