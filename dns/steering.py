"""Makes the records agree with what the open storms want: plan, hold or submit, and prove by asking DNS.

    plan_services ─► ServicePlan (a value: printed, compared, refused)
    want          ─► weight changes, one per domain, with a new generation; or held
    submit        ─► the provider, one call per domain, outside every transaction
    observe       ─► every authoritative server: the beacon, and the answers themselves

Everything is level-triggered and safe to run twice. A newer generation can't be overwritten by an older one: the
generation is checked under lock right before the call, and the beacon is read back after it.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Prefetch, Q

from customers.models import Event
from dns import weights
from dns.models import Freeze, Pin, RecordSet, WeightChange
from dns.observation import Observation, look
from dns.providers import provider_class
from dns.providers.contract import Member, Provider, ProviderError, WeightedSet
from services.models import Service, ServiceDomain, Target
from storms.models import PathVerdict, StormEvent
from storms.severity import shares_bad
from tranche_site.floor.faults import fault_point

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=20)
"""How long a submitted change may stay without a word before its outcome counts as unknown and it is written again."""
READ_BACK = timedelta(seconds=10)
"""A confirmed change that DNS does not show after this time is written again."""
BACKOFF_SECONDS = (1, 2, 5, 15, 60, 300)
PERMANENT_WAIT_SECONDS = 60
"""How long the same plan is not made again after the provider refused it for good."""
FRESH = timedelta(seconds=60)
"""A backup whose newest good sample is older than this, or than three intervals, is not proven."""


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What one service should have, what it has, and whether a person must agree first."""

    service: Service
    record_sets: tuple[RecordSet, ...]
    here: Mapping[str, int]
    plan: weights.Plan
    refusal: tuple[weights.Refusal, str] | None
    is_frozen: bool = False

    @property
    def changes(self) -> dict[str, tuple[int, int]]:
        return weights.diff(self.plan.percents, self.here)


def steer(now: datetime, service_ids: Collection[int] | None = None) -> list[WeightChange]:
    """Plan, and want what changed. Returns the changes made."""
    made: list[WeightChange] = []
    for service_plan in plan_services(now, service_ids):
        is_first = not all(record_set.generation for record_set in service_plan.record_sets)
        if service_plan.changes or (is_first and not service_plan.is_frozen):
            made.extend(want(service_plan, now))
        else:
            _drop_held(service_plan)
    return made


# --- plan -----------------------------------------------------------------------------------------------------------


def plan_services(now: datetime, service_ids: Collection[int] | None = None) -> list[ServicePlan]:
    """Plans of every steered service, in a bounded number of queries."""
    services = _services(service_ids)
    ids = [service.pk for service in services]
    storms = {storm.service_id: storm for storm in StormEvent.objects.moving_traffic().filter(service__in=ids)}
    shares = shares_bad(storm for storm in storms.values() if storm.ended_at is None)
    pins = {pin.service_id: pin for pin in Pin.objects.filter(service__in=ids, expires_at__gt=now).order_by("id")}
    freezes = list(Freeze.objects.filter(lifted_at__isnull=True).order_by("-id"))
    newest = _newest_changes(ids)
    traffic = _traffic(now)
    plans = []
    moving = 0  # domains that the plans of this very run take away from their primary
    for service in services:
        record_sets = tuple(d.record_set for d in service.steered)  # type: ignore[attr-defined]
        situation = _situation(service, record_sets, storms.get(service.pk), shares, pins, freezes, newest, now)
        wanted = weights.plan(situation, _terms(), now)
        here = dict(situation.current) or {weights.PRIMARY: 100}
        places = [
            weights.Place(r.domain.hostname, r.zone, r.domain.verified_at is not None, r.ttl_seconds)
            for r in record_sets
        ]
        refusal = weights.guard(wanted, here, places, traffic(service, moving))
        if refusal is None and wanted.percents[weights.PRIMARY] < here.get(weights.PRIMARY, 0):
            moving += len(record_sets)
        plans.append(ServicePlan(service, record_sets, here, wanted, refusal, bool(situation.frozen)))
    return plans


def _services(service_ids: Collection[int] | None) -> list[Service]:
    services = Service.objects.live().filter(domains__record_set__isnull=False, domains__deleted_at__isnull=True)
    if service_ids is not None:
        services = services.filter(pk__in=service_ids)
    targets = Target.objects.filter(enabled=True).paths().select_related("verdict").order_by("role", "rank", "id")
    domains = (
        ServiceDomain.objects.live()
        .filter(record_set__isnull=False)
        .select_related("record_set__account", "record_set__domain")
        .prefetch_related(Prefetch("targets", targets, to_attr="paths"))
        .order_by("id")
    )
    return list(services.distinct().order_by("id").prefetch_related(Prefetch("domains", domains, to_attr="steered")))


def _newest_changes(service_ids: Iterable[int]) -> dict[int, WeightChange]:
    """The newest change of each record set that is, or may be, in force."""
    changes = (
        WeightChange.objects.filter(service__in=service_ids)
        .exclude(state__in=[WeightChange.State.HELD, WeightChange.State.SUPERSEDED, WeightChange.State.FAILED])
        .order_by("record_set_id", "-generation")
        .distinct("record_set_id")
    )
    return {change.record_set_id: change for change in changes}


def _situation(
    service: Service,
    record_sets: tuple[RecordSet, ...],
    storm: StormEvent | None,
    shares: Mapping[int, float],
    pins: Mapping[int, Pin],
    freezes: Iterable[Freeze],
    newest: Mapping[int, WeightChange],
    now: datetime,
) -> weights.Situation:
    primary, backups = _lanes(service, now)
    changes = [newest.get(record_set.pk) for record_set in record_sets]
    first = changes[0] if changes else None
    settled = [change.observed_at for change in changes if change]
    pin = pins.get(service.pk)
    current = _by_lane(first.weights, record_sets[0]) if first else {}
    previous = _by_lane(first.previous_weights, record_sets[0]) if first else {}
    return weights.Situation(
        primary=primary,
        backups=backups,
        current=current,
        settled_at=max(at for at in settled if at) if settled and all(settled) else None,
        ttl_seconds=max((record_set.ttl_seconds for record_set in record_sets), default=0),
        heading_home=bool(previous) and current.get(weights.PRIMARY, 0) > previous.get(weights.PRIMARY, 0),
        storm=weights.Storm(storm.pk, storm.ended_at is not None, shares.get(service.pk, 0.0)) if storm else None,
        pinned_backup_percent=pin.backup_percent if pin else None,
        frozen=next(
            (
                freeze.reason
                for freeze in freezes
                if freeze.service_id in (None, service.pk) and freeze.customer_id in (None, service.customer_id)
            ),
            "",
        ),
    )


def lane_of(target: Target) -> str:
    return weights.PRIMARY if target.role == Target.Role.PRIMARY else f"backup-{target.rank}"


def _lanes(service: Service, now: datetime) -> tuple[weights.Lane, list[weights.Lane]]:
    """Every lane over all domains: as healthy as its worst path, fit only if every domain's path is."""
    paths: dict[str, list[Target]] = defaultdict(list)
    domains = service.steered  # type: ignore[attr-defined]
    for domain in domains:
        for target in domain.paths:
            paths[lane_of(target)].append(target)
    lanes = {}
    for key, targets in paths.items():
        problems = [problem for target in targets if (problem := _problem(service, target, now))]
        if len(targets) < len(domains):
            problems.append("not every domain has it")
        lanes[key] = weights.Lane(
            key,
            _worst(targets, best=key == weights.PRIMARY),
            "; ".join(problems),
            min(target.capacity_percent for target in targets),
        )
    primary = lanes.pop(weights.PRIMARY, weights.Lane(weights.PRIMARY, weights.Health.UNKNOWN))
    return primary, [lanes[key] for key in sorted(lanes, key=lambda lane: int(lane.partition("-")[2]))]


def _worst(targets: Iterable[Target], *, best: bool) -> weights.Health:
    """DOWN if one is, UP only if all are."""
    healths = [weights.Health(v.verdict) if (v := _verdict(t)) else weights.Health.UNKNOWN for t in targets]
    for health in (weights.Health.DOWN, weights.Health.DEGRADED, weights.Health.UNKNOWN):
        if health in healths:
            return health
    return weights.Health.UP


def _verdict(target: Target) -> PathVerdict | None:
    return getattr(target, "verdict", None)


def _problem(service: Service, target: Target, now: datetime) -> str:
    """Why a backup is not proven: without fresh good samples from a quorum nothing moves there."""
    verdict = _verdict(target)
    if verdict is None:
        return f"{target.address} was never judged"
    if verdict.verdict != weights.Health.UP:
        return f"{target.address} is {verdict.verdict}"
    if now - verdict.evaluated_at > FRESH:
        return f"{target.address} was last judged at {verdict.evaluated_at:%H:%M:%S} UTC"
    oldest = now - max(FRESH, timedelta(seconds=3 * service.interval_seconds))
    if verdict.newest_good_at is None or verdict.newest_good_at < oldest:
        return f"{target.address} has no fresh good sample"
    if verdict.certificate_expires_at and verdict.certificate_expires_at <= now:
        return f"the certificate of {target.address} has expired"
    if not target.capacity_percent:
        return f"{target.address} has no declared capacity"
    return ""


def _traffic(now: datetime) -> Callable[[Service, int], weights.Traffic]:
    """What the guard must know of everybody, read once."""
    total = RecordSet.objects.filter(domain__deleted_at__isnull=True).count()
    since = now - timedelta(seconds=settings.BLAST_RADIUS_SECONDS)
    moved = (
        WeightChange.objects.filter(wanted_at__gt=since, storm__isnull=False, approved_by__isnull=True)
        .exclude(state__in=[WeightChange.State.HELD, WeightChange.State.SUPERSEDED])
        .values("service_id", "record_set_id")
        .distinct()
    )
    moved_by_service = Counter(row["service_id"] for row in moved)
    reversals = Counter(
        WeightChange.objects.filter(wanted_at__gt=now - timedelta(hours=1), is_reversal=True)
        .exclude(state__in=[WeightChange.State.HELD, WeightChange.State.SUPERSEDED])
        .values_list("service_id", "generation")
        .distinct()
        .values_list("service_id", flat=True)
    )

    def of(service: Service, planned: int) -> weights.Traffic:
        others = sum(moved_by_service.values()) - moved_by_service[service.pk] + planned
        return weights.Traffic(
            domains_total=total,
            domains_moved_lately=others,
            radius_share=settings.BLAST_RADIUS_SHARE,
            radius_floor=settings.BLAST_RADIUS_FLOOR,
            reversals_last_hour=reversals[service.pk],
        )

    return of


def _terms() -> weights.Terms:
    return weights.Terms(settings.FAILBACK_GATE_SECONDS, tuple(settings.FAILBACK_STEPS_PERCENT))


def _by_lane(by_target: Mapping[str, int], record_set: RecordSet) -> dict[str, int]:
    """Percents by target id, as stored, to percents by lane."""
    lanes = {str(target.pk): lane_of(target) for target in record_set.domain.targets.all()}
    return {lanes[target]: percent for target, percent in by_target.items() if target in lanes}


# --- want -----------------------------------------------------------------------------------------------------------


def want(service_plan: ServicePlan, now: datetime) -> list[WeightChange]:
    """Store a plan as one change per domain, with the next generation: all domains or none."""
    plan, held = service_plan.plan, service_plan.refusal
    made = []
    with transaction.atomic():
        ids = [record_set.pk for record_set in service_plan.record_sets]
        locked = (
            RecordSet.objects.select_for_update(of=("self",)).select_related("domain").filter(pk__in=ids).order_by("pk")
        )
        for record_set, planned in zip(locked, sorted(service_plan.record_sets, key=lambda r: r.pk), strict=True):
            if record_set.generation != planned.generation:
                return []  # somebody wanted something meanwhile: the next tick sees it
            percents = {
                str(target.pk): plan.percents[lane_of(target)]
                for target in record_set.domain.targets.filter(enabled=True).paths()
            }
            newest = record_set.changes.first()
            if newest and newest.state == WeightChange.State.FAILED and newest.weights == percents:
                if now < newest.next_attempt_at:
                    return []  # refused a moment ago; asking every second would change nothing
            live = record_set.changes.live().first()
            if live and live.weights == percents and (live.state != WeightChange.State.HELD or held):
                return []
            if live:
                live.state = WeightChange.State.SUPERSEDED
                live.save(update_fields=["state"])
            record_set.generation += 1
            record_set.save(update_fields=["generation"])
            change = WeightChange.objects.create(
                customer_id=record_set.customer_id,
                service=service_plan.service,
                record_set=record_set,
                storm_id=plan.storm_id,
                generation=record_set.generation,
                weights=percents,
                previous_weights=_percents_by_target(record_set, service_plan.here),
                is_reversal=plan.is_reversal,
                state=WeightChange.State.HELD if held else WeightChange.State.WANTED,
                reason=plan.reason,
                held_reason=f"{held[0]}: {held[1]}" if held else "",
                wanted_at=now,
                next_attempt_at=now,
            )
            made.append(change)
            kind = "weights.held" if held else "weights.wanted"
            summary = f"{record_set.domain}: {plan.reason}" + (f" — held, {held[1]}" if held else "")
            Event.record(kind, change, summary, customer_id=record_set.customer_id, weights=percents)
        fault_point("dns.wanted")
    return made


def _percents_by_target(record_set: RecordSet, here: Mapping[str, int]) -> dict[str, int]:
    return {
        str(target.pk): here.get(lane_of(target), 0)
        for target in record_set.domain.targets.filter(enabled=True).paths()
    }


def _drop_held(service_plan: ServicePlan) -> None:
    """A held plan that nobody wants any more is overtaken."""
    WeightChange.objects.filter(
        record_set__in=[r.pk for r in service_plan.record_sets], state=WeightChange.State.HELD
    ).update(state=WeightChange.State.SUPERSEDED)


def approve(change: WeightChange, user: User) -> None:
    """Let a held plan go, for every domain of the service that was held with it."""
    now = datetime.now(UTC)
    with transaction.atomic():
        held = WeightChange.objects.select_for_update().filter(service=change.service_id, state=WeightChange.State.HELD)
        for row in held:
            row.state, row.approved_by, row.next_attempt_at = WeightChange.State.WANTED, user, now
            row.save(update_fields=["state", "approved_by", "next_attempt_at"])
            Event.record("weights.approved", row, f"{row} approved by {user}", customer_id=row.customer_id)


def reject(change: WeightChange, user: User) -> None:
    """Refuse a held plan. It comes back when the situation still wants it; a freeze keeps it away."""
    with transaction.atomic():
        for row in WeightChange.objects.select_for_update().filter(
            service=change.service_id, state=WeightChange.State.HELD
        ):
            row.state = WeightChange.State.SUPERSEDED
            row.save(update_fields=["state"])
            Event.record("weights.rejected", row, f"{row} rejected by {user}", customer_id=row.customer_id)


# --- submit ---------------------------------------------------------------------------------------------------------


def submit(now: datetime, limit: int = 500) -> list[WeightChange]:
    """Write what is due. Each change is claimed under lock, written outside it, and recorded."""
    written: list[WeightChange] = []
    for _ in range(limit):
        change = _claim(now)
        if change is None:
            return written
        written.append(change)
        _write(change, now)
    return written


def _claim(now: datetime) -> WeightChange | None:
    """Take one due change; an older generation than its record set's can't act."""
    with transaction.atomic():
        due = Q(state=WeightChange.State.WANTED) | Q(state=WeightChange.State.SUBMITTED)
        change = (
            WeightChange.objects.filter(due, next_attempt_at__lte=now)
            .select_for_update(skip_locked=True, of=("self",))
            .order_by("next_attempt_at", "id")
            .first()
        )
        if change is None:
            return None
        record_set = RecordSet.objects.select_for_update().get(pk=change.record_set_id)
        if change.generation != record_set.generation:
            change.state = WeightChange.State.SUPERSEDED
            change.save(update_fields=["state"])
            return _claim(now)
        change.state = WeightChange.State.SUBMITTED
        change.submitted_at = change.submitted_at or datetime.now(UTC)
        change.attempts += 1
        change.next_attempt_at = now + LEASE
        change.save(update_fields=["state", "submitted_at", "attempts", "next_attempt_at"])
        return change


def _write(change: WeightChange, now: datetime) -> None:
    record_set = RecordSet.objects.select_related("account", "domain").get(pk=change.record_set_id)
    provider = provider_of(record_set)
    fault_point("dns.submitting")
    try:
        wanted = weighted_set(record_set, change, provider)
        receipt = provider.apply(wanted)
    except ProviderError as error:
        _failed(change, error, now)
        return
    except ValueError as error:
        _failed(change, ProviderError(str(error), permanent=True), now)
        return
    fault_point("dns.submitted")
    confirmed = datetime.now(UTC)
    state = WeightChange.State.CONFIRMED if provider.answers else WeightChange.State.OBSERVED
    updated = WeightChange.objects.filter(pk=change.pk, state=WeightChange.State.SUBMITTED).update(
        state=state,
        confirmed_at=confirmed,
        observed_at=None if provider.answers else confirmed,
        receipt={"change_id": receipt.change_id, **receipt.details},
        error="",
        next_attempt_at=confirmed + READ_BACK,
    )
    if updated and not provider.answers:
        RecordSet.objects.filter(pk=record_set.pk, generation=change.generation).update(
            observed_weights=change.weights, observed_generation=change.generation, observed_at=confirmed,
            observation="not asked: this provider only logs",
        )  # fmt: skip


def _failed(change: WeightChange, error: ProviderError, now: datetime) -> None:
    logger.warning("%s could not be written: %s", change, error)
    wait = (
        PERMANENT_WAIT_SECONDS if error.permanent else BACKOFF_SECONDS[min(change.attempts, len(BACKOFF_SECONDS)) - 1]
    )
    with transaction.atomic():
        updated = WeightChange.objects.filter(pk=change.pk, state=WeightChange.State.SUBMITTED).update(
            state=WeightChange.State.FAILED if error.permanent else WeightChange.State.WANTED,
            error=str(error),
            next_attempt_at=now + timedelta(seconds=wait),
        )
        if updated and error.permanent:
            summary = f"{change.record_set.domain} could not be steered: {error}"
            Event.record("weights.failed", change, summary, customer_id=change.customer_id)


def provider_of(record_set: RecordSet) -> Provider:
    return provider_class(record_set.account.vendor)(record_set.account.options)


def weighted_set(record_set: RecordSet, change: WeightChange, provider: Provider) -> WeightedSet:
    """What the provider is to write. Finds the zone on first use, and keeps it: a storm is no time to look for zones."""
    if not record_set.zone or (not record_set.zone_id and record_set.account.vendor == "route53"):
        zone = provider.find_zone(record_set.domain.hostname)
        record_set.zone, record_set.zone_id = zone.name, zone.id
        record_set.save(update_fields=["zone", "zone_id"])
    targets = {str(target.pk): target for target in record_set.domain.targets.all()}
    return WeightedSet(
        hostname=record_set.domain.hostname,
        zone=record_set.zone,
        zone_id=record_set.zone_id,
        ttl_seconds=record_set.ttl_seconds,
        generation=change.generation,
        members=tuple(
            Member(lane_of(targets[pk]), targets[pk].address, percent)
            for pk, percent in sorted(change.weights.items(), key=lambda item: int(item[0]))
        ),
    )


# --- observe --------------------------------------------------------------------------------------------------------


def is_any_on_its_way() -> bool:
    """Whether a change was confirmed by its provider and not yet observed."""
    return WeightChange.objects.filter(state=WeightChange.State.CONFIRMED).exists()


def observe(now: datetime, *, all_sets: bool = False) -> list[Observation]:
    """Ask the authoritative servers about every change that is on its way, or (the slow sweep) about every record set."""
    record_sets = RecordSet.objects.filter(domain__deleted_at__isnull=True, generation__gt=0).select_related(
        "account", "domain"
    )
    if not all_sets:
        record_sets = record_sets.filter(changes__state=WeightChange.State.CONFIRMED).distinct()
    seen = []
    for record_set in record_sets.prefetch_related("domain__targets"):
        if not provider_of(record_set).answers:
            continue
        change = record_set.changes.exclude(
            state__in=[WeightChange.State.HELD, WeightChange.State.SUPERSEDED, WeightChange.State.FAILED]
        ).first()
        if change is None or change.state in (WeightChange.State.WANTED, WeightChange.State.SUBMITTED):
            continue
        lanes = {target.address.rstrip(".").lower(): str(target.pk) for target in record_set.domain.targets.all()}
        observation = look(record_set.domain.hostname, lanes, change.weights, change.generation)
        _store(record_set, change, observation, now)
        seen.append(observation)
    return seen


def _store(record_set: RecordSet, change: WeightChange, observation: Observation, now: datetime) -> None:
    at = datetime.now(UTC)
    with transaction.atomic():
        if observation.problem:
            RecordSet.objects.filter(pk=record_set.pk).update(observation=observation.problem[:300])
            if change.state == WeightChange.State.CONFIRMED and change.next_attempt_at <= now:
                # The vendor said yes and DNS does not show it: an unknown outcome, so it is written again.
                WeightChange.objects.filter(pk=change.pk, state=WeightChange.State.CONFIRMED).update(
                    state=WeightChange.State.WANTED, error=observation.problem, next_attempt_at=now
                )
            elif change.state == WeightChange.State.OBSERVED and record_set.observation != observation.problem[:300]:
                summary = f"{record_set.domain}: DNS no longer shows what was written: {observation.problem}"
                Event.record("weights.drifted", change, summary, customer_id=change.customer_id)
            return
        RecordSet.objects.filter(pk=record_set.pk, observed_generation__lte=change.generation).update(
            observed_weights=change.weights, observed_generation=change.generation, observed_at=at,
            observation=observation.summary[:300],
        )  # fmt: skip
        if WeightChange.objects.filter(pk=change.pk, state=WeightChange.State.CONFIRMED).update(
            state=WeightChange.State.OBSERVED, observed_at=at, error=""
        ):
            summary = f"{record_set.domain}: observed at every authoritative server ({observation.summary})"
            Event.record("weights.observed", change, summary, customer_id=change.customer_id, weights=change.weights)
