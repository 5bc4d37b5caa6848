"""Makes the records agree with what the open storms want.

    planning  ─► ServicePlan (a value: printed, compared, refused)
    steering  ─► weight changes, one per domain, with a new generation; or held
    outbox    ─► the provider, one batch a zone, outside every transaction
    reconcile ─► every authoritative server: the beacon, and the answers themselves

Everything is level-triggered and safe to run twice. A newer generation can't be overwritten by an older one: the
generation is checked under lock right before the call, and the beacon is read back after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import F

from customers.models import Event
from dns import beacon, planning, weights
from dns.locks import briefly
from dns.models import Freeze, RecordSet, WeightChange
from dns.planning import ServicePlan, lane_of, plan_services
from services.models import ServiceDomain
from tranche_site.floor.faults import fault_point

LOCK = 7_726_303
CHUNK = 500
"""Services that are planned and stored in one transaction."""
SETTLES_WITHIN = timedelta(minutes=5)
"""So long a plan that needs a person waits for what is on its way; vendors' servers take a minute."""


def steer(
    now: datetime, service_ids: Collection[int] | None = None, then: Callable[[], object] = lambda: None
) -> list[WeightChange]:
    """Plan, and want what changed. Returns the changes made. Without ids: whatever may want a move.

    One planner at a time: two that plan at once would each see room within the blast radius. `then` is done after each
    chunk, so that in a storm of thousands the first are written before the last are planned.
    """
    made: list[WeightChange] = []
    ids = planning.in_order(planning.candidates(now) if service_ids is None else service_ids)
    for start in range(0, len(ids), CHUNK):
        with briefly():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            plans = plan_services(now, ids[start : start + CHUNK])
            moving = [plan for plan in plans if plan.behind and not plan.is_frozen]
            made.extend(want(moving, now))
            _overtake([plan for plan in plans if not plan.behind or plan.is_frozen])
            _rest(plans)
        fault_point("dns.stored")
        if len(ids) > CHUNK:
            then()
    return made


def _overtake(settled: Collection[ServicePlan]) -> None:
    """A held plan that nobody wants any more is overtaken. A person's edit is not, as long as it stands: what they are asked
    is whether to write what is wanted now over it.
    """
    ids = [record_set.pk for plan in settled for record_set in plan.record_sets]
    held = WeightChange.objects.filter(record_set__in=ids, state=WeightChange.State.HELD)
    held.exclude(record_set__is_held=True).update(state=WeightChange.State.SUPERSEDED)
    edited = {
        record_set.pk: plan
        for plan in settled
        for record_set in plan.record_sets
        if record_set.is_held and not plan.is_frozen
    }
    if not edited:
        return
    for change in held.filter(record_set__in=edited).select_related("record_set__domain"):
        plan = edited[change.record_set_id]
        domain = next(d for d in plan.service.steered if d.pk == change.record_set.domain_id)  # type: ignore[attr-defined]
        wanted = _by_target(plan.plan.percents, domain)
        if change.weights != wanted:
            change.weights, change.storm_id, change.reason = wanted, plan.plan.storm_id, plan.plan.reason
            change.save(update_fields=["weights", "storm", "reason"])
            _event(change).save()


def _rest(plans: Sequence[ServicePlan]) -> None:
    """Say which services the next tick may pass over."""
    for at_rest in (True, False):
        ids = [r.pk for plan in plans if plan.is_at_rest is at_rest for r in plan.record_sets]
        RecordSet.objects.filter(pk__in=ids, is_restless=at_rest).update(is_restless=not at_rest)


# --- want -----------------------------------------------------------------------------------------------------------


def want(plans: Sequence[ServicePlan], now: datetime) -> list[WeightChange]:
    """Store plans as one change per domain that is behind its plan, with the next generation: all of a service's or none."""
    planned = {record_set.pk: record_set for plan in plans for record_set in plan.behind}
    if not planned:
        return []
    made: list[WeightChange] = []
    with transaction.atomic():
        locked = {
            record_set.pk: record_set
            for record_set in RecordSet.objects.select_for_update(of=("self",)).filter(pk__in=planned).order_by("pk")
        }
        newest = {
            change.record_set_id: change
            for change in WeightChange.objects.filter(record_set__in=planned)
            .order_by("record_set_id", "-generation")
            .distinct("record_set_id")
        }
        for plan in plans:
            behind = [locked[record_set.pk] for record_set in plan.behind]
            if plan.refusal and any(_is_being_written(newest.get(record_set.pk), now) for record_set in behind):
                continue  # a plan that waits must not make us forget what stands in DNS in a moment
            if any(record_set.generation != planned[record_set.pk].generation for record_set in behind):
                continue  # somebody wanted something meanwhile: the next tick sees it
            domains: dict[int, ServiceDomain] = {d.record_set.pk: d for d in plan.service.steered}  # type: ignore[attr-defined]
            for record_set in behind:
                change = _change(plan, record_set, domains[record_set.pk], now)
                if _is_news(newest.get(record_set.pk), change, now):
                    made.append(change)
        moved = [change.record_set_id for change in made]
        WeightChange.objects.filter(record_set__in=moved).live().update(state=WeightChange.State.SUPERSEDED)
        RecordSet.objects.filter(pk__in=moved).update(generation=F("generation") + 1, is_restless=True)
        beacon.turn(made)  # at once: a health check needs no call to an API
        WeightChange.objects.bulk_create(made)
        Event.objects.bulk_create(_event(change) for change in made)
        fault_point("dns.wanted")
    return made


def _change(plan: ServicePlan, record_set: RecordSet, domain: ServiceDomain, now: datetime) -> WeightChange:
    targets = planning.paths(domain)
    wanted, held = plan.plan, plan.refusal
    here = plan.here.get(weights.PRIMARY, 100)
    change = WeightChange(
        customer_id=record_set.customer_id,
        service=plan.service,
        record_set=record_set,
        storm_id=wanted.storm_id,
        region=wanted.region,
        generation=record_set.generation + 1,
        weights=_by_target(wanted.percents, domain),
        previous_weights={str(target.pk): plan.here.get(lane_of(target), 0) for target in targets},
        ttl_seconds=record_set.ttl_seconds,
        is_urgent=wanted.leaves_down_path or wanted.is_persons or (
            wanted.storm_id is not None and wanted.percents[weights.PRIMARY] < here
        ),
        is_reversal=wanted.is_reversal,
        state=WeightChange.State.HELD if held else WeightChange.State.WANTED,
        reason=wanted.reason,
        refusal=held[0] if held else "",
        held_reason=f"{held[0]}: {held[1]}" if held else "",
        wanted_at=now,
        next_attempt_at=now,
    )  # fmt: skip
    record_set.domain = domain
    return change


def _by_target(percents: Mapping[str, int], domain: ServiceDomain) -> dict[str, int]:
    return {str(target.pk): percents[lane_of(target)] for target in planning.paths(domain)}


def _event(change: WeightChange) -> Event:
    held = change.state == WeightChange.State.HELD
    because = f" — held, {change.held_reason.partition(': ')[2]}" if held else ""
    return Event.about(
        "weights.held" if held else "weights.wanted",
        change,
        f"{change.record_set.domain}: {change.reason}{because}",
        customer_id=change.customer_id,
        weights=change.weights,
    )


def _is_being_written(newest: WeightChange | None, now: datetime) -> bool:
    """Whether it was given to its vendor, and is likely to be seen soon."""
    if newest is None or newest.state not in WeightChange.UNDER_WAY:
        return False
    return newest.submitted_at is None or now - newest.submitted_at < SETTLES_WITHIN


def _is_news(newest: WeightChange | None, change: WeightChange, now: datetime) -> bool:
    """Whether the record set's newest change does not say the same already, or was refused long enough ago."""
    if newest is None or (newest.weights, newest.ttl_seconds) != (change.weights, change.ttl_seconds):
        return True
    if newest.state == WeightChange.State.FAILED:
        return now >= newest.next_attempt_at
    if newest.state == WeightChange.State.HELD:
        return change.state != WeightChange.State.HELD or newest.refusal != change.refusal
    return newest.state not in WeightChange.LIVE


# --- a person's word ------------------------------------------------------------------------------------------------


def approve(change: WeightChange, user: User) -> None:
    """Let a held plan go, for every domain of the service that was held with it."""
    now = datetime.now(UTC)
    with transaction.atomic():
        held = _held(change)
        RecordSet.objects.filter(pk__in=[row.record_set_id for row in held]).update(
            is_held=False, reasserted=0, drifted_since=None
        )
        for row in held:
            row.state, row.approved_by, row.next_attempt_at = WeightChange.State.WANTED, user, now
            row.save(update_fields=["state", "approved_by", "next_attempt_at"])
            Event.record("weights.approved", row, f"{row} approved by {user}", customer_id=row.customer_id)
        frozen = list(Freeze.objects.filter(lifted_at__isnull=True))
        # What the outbox would hold again, no beacon says either.
        beacon.turn(
            row
            for row in held
            if not row.record_set.domain.proof_problem(now) and not any(f.covers(row.service) for f in frozen)
        )


def reject(change: WeightChange, user: User) -> None:
    """Refuse a held plan. It comes back when the situation still wants it; a freeze keeps it away."""
    with transaction.atomic():
        for row in _held(change):
            row.state = WeightChange.State.SUPERSEDED
            row.save(update_fields=["state"])
            Event.record("weights.rejected", row, f"{row} rejected by {user}", customer_id=row.customer_id)


def _held(change: WeightChange) -> list[WeightChange]:
    rows = WeightChange.objects.select_for_update(of=("self",)).select_related("record_set__domain", "service")
    return list(rows.filter(service=change.service_id, state=WeightChange.State.HELD).order_by("record_set_id"))
