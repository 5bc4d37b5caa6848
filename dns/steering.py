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
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Prefetch

from customers.models import Event
from dns import weights
from dns.models import Freeze, Pin, RecordSet, WeightChange
from dns.observation import Observation, look
from dns.providers import provider_class
from dns.providers.contract import Member, Provider, ProviderError, WeightedSet
from services.models import Service, ServiceDomain, Target
from storms.incidents import WINDOW
from storms.models import CdnIncident, Finding, Kind, PathVerdict, StormEvent
from storms.severity import shares_bad
from tranche_site.floor.faults import fault_point

logger = logging.getLogger(__name__)

LOCK = 7_726_303
WAVE_SECONDS = 30
"""With a reference site failing too, a radius' worth of domains may move in each such span."""
LEASE = timedelta(seconds=20)
"""How long a submitted change may stay without a word before its outcome counts as unknown and it is written again."""
READ_BACK = timedelta(seconds=10)
"""A confirmed change that DNS does not show after this time is written again."""
BACKOFF_SECONDS = (1, 2, 5, 15, 60, 300)
MOST_WRITES = 3
"""How often a change is written before an older one over it is left to a person."""
PERMANENT_WAIT_SECONDS = 300
"""How long the same plan is not made again after the provider refused it for good."""
FRESH = timedelta(seconds=60)
"""A backup whose newest good sample is older than this, or than three intervals, is not proven."""


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What one service should have, what each of its record sets has, and whether a person must agree first."""

    service: Service
    record_sets: tuple[RecordSet, ...]
    here: Mapping[str, int]
    """The percents that the plan set out from: the newest that were wanted."""
    standing: Mapping[int, Mapping[str, int] | None]
    """By record set: what it was last given, or None where that was never written or failed."""
    plan: weights.Plan
    refusal: tuple[weights.Refusal, str] | None
    is_frozen: bool = False

    @property
    def changes(self) -> dict[str, tuple[int, int]]:
        return weights.diff(self.plan.percents, self.here)

    @property
    def behind(self) -> list[RecordSet]:
        """The record sets that do not have what the plan wants: all of them in a move, one after a failed write."""
        return [
            record_set
            for record_set in self.record_sets
            if (there := self.standing[record_set.pk]) is None or weights.diff(self.plan.percents, there)
        ]


def steer(now: datetime, service_ids: Collection[int] | None = None) -> list[WeightChange]:
    """Plan, and want what changed. Returns the changes made.

    One planner at a time: two that plan at once would each see room within the blast radius.
    """
    made: list[WeightChange] = []
    settled: list[int] = []
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        for service_plan in plan_services(now, service_ids):
            if service_plan.behind and not service_plan.is_frozen:
                made.extend(want(service_plan, now))
            else:
                settled.extend(record_set.pk for record_set in service_plan.record_sets)
        # A held plan that nobody wants any more is overtaken.
        WeightChange.objects.filter(record_set__in=settled, state=WeightChange.State.HELD).update(
            state=WeightChange.State.SUPERSEDED
        )
    return made


# --- plan -----------------------------------------------------------------------------------------------------------


def plan_services(now: datetime, service_ids: Collection[int] | None = None) -> list[ServicePlan]:
    """Plans of every steered service, in a fixed number of queries."""
    services = _services(service_ids)
    ids = [service.pk for service in services]
    # Of two open storms the one that rages decides: it comes last, and stays.
    storms = {
        storm.service_id: storm
        for storm in sorted(
            StormEvent.objects.moving_traffic().filter(service__in=ids),
            key=lambda storm: (storm.ended_at is None, storm.pk),
        )
    }
    shares = shares_bad(storm for storm in storms.values() if storm.ended_at is None)
    pins = {pin.service_id: pin for pin in Pin.objects.filter(service__in=ids, expires_at__gt=now).order_by("id")}
    freezes = list(Freeze.objects.filter(lifted_at__isnull=True).order_by("-id"))
    newest = _newest_changes(ids)
    traffic = _traffic(now)
    blocked = _blocked(ids)
    plans = []
    moving = 0  # domains that the plans of this very run take away from their primary
    for service in services:
        domains: list[ServiceDomain] = service.steered  # type: ignore[attr-defined]
        standing = {domain.record_set.pk: _standing(domain, newest.get(domain.record_set.pk)) for domain in domains}
        situation = _situation(service, newest, storms.get(service.pk), shares, pins, freezes, blocked, now)
        wanted = weights.plan(situation, _terms(), now)
        here = dict(situation.current) or {weights.PRIMARY: 100}
        places = [
            weights.Place(d.hostname, d.record_set.zone, d.proof_problem(now), d.record_set.ttl_seconds)
            for d in domains
        ]
        refusal = weights.guard(wanted, here, places, traffic(service, moving))
        if (
            refusal is None
            and not wanted.is_persons
            and wanted.percents[weights.PRIMARY] < here.get(weights.PRIMARY, 0)
        ):
            moving += len(domains)
        record_sets = tuple(domain.record_set for domain in domains)
        plans.append(ServicePlan(service, record_sets, here, standing, wanted, refusal, bool(situation.frozen)))
    return plans


def _services(service_ids: Collection[int] | None) -> list[Service]:
    services = Service.objects.live().filter(domains__record_set__isnull=False, domains__deleted_at__isnull=True)
    if service_ids is not None:
        services = services.filter(pk__in=service_ids)
    targets = Target.objects.paths().select_related("verdict").order_by("role", "rank", "id")
    domains = (
        ServiceDomain.objects.live()
        .with_contest()
        .filter(record_set__isnull=False)
        .select_related("record_set__account", "record_set__domain")
        .prefetch_related(Prefetch("targets", targets, to_attr="all_paths"))
        .order_by("id")
    )
    return list(services.distinct().order_by("id").prefetch_related(Prefetch("domains", domains, to_attr="steered")))


def _paths(domain: ServiceDomain) -> list[Target]:
    """The domain's paths that are switched on."""
    return [target for target in domain.all_paths if target.enabled]  # type: ignore[attr-defined]


def _newest_changes(service_ids: Iterable[int]) -> dict[int, WeightChange]:
    """The newest change of each record set that was wanted and let go, whether or not it came to be."""
    changes = (
        WeightChange.objects.filter(service__in=service_ids)
        .exclude(state__in=[WeightChange.State.HELD, WeightChange.State.SUPERSEDED])
        .order_by("record_set_id", "-generation")
        .distinct("record_set_id")
    )
    return {change.record_set_id: change for change in changes}


def _standing(domain: ServiceDomain, change: WeightChange | None) -> Mapping[str, int] | None:
    if change is None or change.state == WeightChange.State.FAILED:
        return None
    if set(change.weights) != {str(target.pk) for target in _paths(domain)}:
        return None  # it was written for other paths than there are now
    return _by_lane(change.weights, domain)


def _situation(
    service: Service,
    newest: Mapping[int, WeightChange],
    storm: StormEvent | None,
    shares: Mapping[int, float],
    pins: Mapping[int, Pin],
    freezes: Iterable[Freeze],
    blocked: Mapping[int, str],
    now: datetime,
) -> weights.Situation:
    primary, backups = _lanes(service, now)
    domains: list[ServiceDomain] = service.steered  # type: ignore[attr-defined]
    changes = [(domain, change) for domain in domains if (change := newest.get(domain.record_set.pk))]
    # A domain whose write failed is behind the others; it neither sets the course nor holds the others up.
    done = [pair for pair in changes if pair[1].state != WeightChange.State.FAILED] or changes
    latest = max(done, key=lambda pair: pair[1].wanted_at, default=None)
    settled = [change.observed_at for _, change in done]
    pin = pins.get(service.pk)
    current = _by_lane(latest[1].weights, latest[0]) if latest else {}
    previous = _by_lane(latest[1].previous_weights, latest[0]) if latest else {}
    return weights.Situation(
        primary=primary,
        backups=backups,
        current=current,
        settled_at=max(at for at in settled if at) if settled and all(settled) else None,
        ttl_seconds=max((domain.record_set.ttl_seconds for domain in domains), default=0),
        heading_home=bool(previous) and current.get(weights.PRIMARY, 0) > previous.get(weights.PRIMARY, 0),
        storm=_raging(storm, shares.get(service.pk, 0.0)) if storm else None,
        pinned_backup_percent=pin.backup_percent if pin else None,
        frozen=next((freeze.reason for freeze in freezes if _covers(freeze, service)), ""),
        blocked=blocked.get(service.pk, ""),
    )


def _raging(storm: StormEvent, share_bad: float) -> weights.Storm:
    return weights.Storm(storm.pk, storm.ended_at is not None, share_bad, storm.kind == Kind.MANUAL)


def _blocked(service_ids: Iterable[int]) -> dict[int, str]:
    """By service, that probes of its primary are refused by a CDN that refuses those of unrelated customers as well."""
    incidents = CdnIncident.objects.open().filter(
        kind=CdnIncident.Kind.BLOCKED, cdn=OuterRef("target__cdn"),
        started_at__lt=OuterRef("first_seen_at") + WINDOW,
    )  # fmt: skip
    findings = Finding.objects.open().filter(
        Exists(incidents), service__in=service_ids, kind="blocked", target__role=Target.Role.PRIMARY
    )
    return {
        finding.service_id: f"{finding.target.cdn} refuses probes of several customers"  # type: ignore[union-attr]
        for finding in findings.select_related("target__cdn")
    }


def _covers(freeze: Freeze, service: Service) -> bool:
    return freeze.service_id in (None, service.pk) and freeze.customer_id in (None, service.customer_id)


def lane_of(target: Target) -> str:
    return weights.PRIMARY if target.role == Target.Role.PRIMARY else f"backup-{target.rank}"


def _lanes(service: Service, now: datetime) -> tuple[weights.Lane, list[weights.Lane]]:
    """Every lane over all domains: as healthy as its worst path, fit only if every domain's path is."""
    paths: dict[str, list[Target]] = defaultdict(list)
    domains = service.steered  # type: ignore[attr-defined]
    for domain in domains:
        for target in _paths(domain):
            paths[lane_of(target)].append(target)
    lanes = {}
    for key, targets in paths.items():
        problems = [problem for target in targets if (problem := _problem(service, target, now))]
        if len(targets) < len(domains):
            problems.append("not every domain has it")
        lanes[key] = weights.Lane(
            key,
            _worst(targets, now),
            "; ".join(problems),
            min(target.capacity_percent for target in targets),
        )
    primary = lanes.pop(weights.PRIMARY, weights.Lane(weights.PRIMARY, weights.Health.UNKNOWN))
    return primary, [lanes[key] for key in sorted(lanes, key=lambda lane: int(lane.partition("-")[2]))]


def _worst(targets: Iterable[Target], now: datetime) -> weights.Health:
    """DOWN if one is, UP only if all are. A verdict that nobody renewed is UNKNOWN: an old UP is not UP."""
    healths = [
        weights.Health(verdict.verdict)
        if (verdict := _verdict(target)) and now - verdict.evaluated_at <= FRESH
        else weights.Health.UNKNOWN
        for target in targets
    ]
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
    lately = _moved_since(now - timedelta(seconds=settings.BLAST_RADIUS_SECONDS))
    in_wave = _moved_since(now - timedelta(seconds=WAVE_SECONDS))
    failing = set(
        PathVerdict.objects.filter(
            target__role=Target.Role.REFERENCE, target__enabled=True, verdict=weights.Health.DOWN,
            evaluated_at__gt=now - FRESH,
        ).values_list("target__cdn_id", flat=True)
    )  # fmt: skip
    reversals = Counter(
        WeightChange.objects.filter(wanted_at__gt=now - timedelta(hours=1), is_reversal=True)
        .exclude(state__in=[WeightChange.State.HELD, WeightChange.State.SUPERSEDED])
        .values_list("service_id", "generation")
        .distinct()
        .values_list("service_id", flat=True)
    )

    def of(service: Service, planned: int) -> weights.Traffic:
        primaries = {
            target.cdn_id
            for domain in service.steered  # type: ignore[attr-defined]
            for target in _paths(domain)
            if target.role == Target.Role.PRIMARY
        }
        return weights.Traffic(
            domains_total=total,
            domains_moved_lately=sum(lately.values()) - lately[service.pk] + planned,
            radius_share=settings.BLAST_RADIUS_SHARE,
            radius_floor=settings.BLAST_RADIUS_FLOOR,
            reversals_last_hour=reversals[service.pk],
            domains_moved_in_wave=sum(in_wave.values()) - in_wave[service.pk] + planned,
            corroborated=bool(primaries) and primaries <= failing,
        )

    return of


def _moved_since(moment: datetime) -> Counter[int]:
    """How many domains of each service storms have moved since then, without a person's word."""
    moved = (
        WeightChange.objects.filter(wanted_at__gt=moment, storm__isnull=False, approved_by__isnull=True)
        .exclude(storm__kind=Kind.MANUAL)
        .exclude(state__in=[WeightChange.State.HELD, WeightChange.State.SUPERSEDED])
        .values("service_id", "record_set_id")
        .distinct()
    )
    return Counter(row["service_id"] for row in moved)


def _terms() -> weights.Terms:
    return weights.Terms(settings.FAILBACK_GATE_SECONDS, tuple(settings.FAILBACK_STEPS_PERCENT))


def _by_lane(by_target: Mapping[str, int], domain: ServiceDomain) -> dict[str, int]:
    """Percents by target id, as stored, to percents by lane."""
    lanes = {str(target.pk): lane_of(target) for target in domain.all_paths}  # type: ignore[attr-defined]
    return {lanes[target]: percent for target, percent in by_target.items() if target in lanes}


# --- want -----------------------------------------------------------------------------------------------------------


def want(service_plan: ServicePlan, now: datetime) -> list[WeightChange]:
    """Store a plan as one change per domain that is behind it, with the next generation: all of those or none."""
    plan, held = service_plan.plan, service_plan.refusal
    planned = {record_set.pk: record_set for record_set in service_plan.behind}
    made: list[WeightChange] = []
    with transaction.atomic():
        locked = (
            RecordSet.objects.select_for_update(of=("self",))
            .select_related("domain")
            .filter(pk__in=planned)
            .order_by("pk")
        )
        if any(record_set.generation != planned[record_set.pk].generation for record_set in locked):
            return []  # somebody wanted something meanwhile: the next tick sees it
        for record_set in locked:
            targets = record_set.domain.targets.filter(enabled=True).paths()
            percents = {str(target.pk): plan.percents[lane_of(target)] for target in targets}
            if not _is_news(record_set, percents, bool(held), now):
                continue
            record_set.changes.live().update(state=WeightChange.State.SUPERSEDED)
            record_set.generation += 1
            record_set.save(update_fields=["generation"])
            change = WeightChange.objects.create(
                customer_id=record_set.customer_id,
                service=service_plan.service,
                record_set=record_set,
                storm_id=plan.storm_id,
                generation=record_set.generation,
                weights=percents,
                previous_weights={str(target.pk): service_plan.here.get(lane_of(target), 0) for target in targets},
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


def _is_news(record_set: RecordSet, percents: Mapping[str, int], is_held: bool, now: datetime) -> bool:
    """Whether the record set's newest change does not say the same already, or was refused long enough ago."""
    newest = record_set.changes.first()
    if newest is None or newest.weights != percents:
        return True
    if newest.state == WeightChange.State.FAILED:
        return now >= newest.next_attempt_at
    return not (newest.state in WeightChange.LIVE and (newest.state != WeightChange.State.HELD or is_held))


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
    freezes = list(Freeze.objects.filter(lifted_at__isnull=True))
    due = (
        WeightChange.objects.filter(
            state__in=[WeightChange.State.WANTED, WeightChange.State.SUBMITTED], next_attempt_at__lte=now
        )
        .select_related("service")
        .order_by("next_attempt_at", "id")
    )
    for candidate in due[:limit]:
        if any(_covers(freeze, candidate.service) for freeze in freezes):
            continue
        change = _claim(candidate, now)
        if change:
            written.append(change)
            _write(change, now)
    return written


def _claim(candidate: WeightChange, now: datetime) -> WeightChange | None:
    """Take one due change, under the lock of its record set; an older generation than the record set's can't act."""
    with transaction.atomic():
        record_set = (
            RecordSet.objects.select_for_update(skip_locked=True).filter(pk=candidate.record_set_id).first()
        )  # the record set first, as planning does: two orders would meet in a deadlock
        if record_set is None:
            return None
        change = WeightChange.objects.select_for_update().get(pk=candidate.pk)
        due = (WeightChange.State.WANTED, WeightChange.State.SUBMITTED)
        if change.state not in due or change.next_attempt_at > now:
            return None  # somebody else took it
        if change.generation != record_set.generation:
            change.state = WeightChange.State.SUPERSEDED
            change.save(update_fields=["state"])
            return None
        # Nobody's word replaces the owner's proof, and it may have been lost since the plan was made.
        if problem := record_set.domain.proof_problem(now):
            change.state, change.held_reason = WeightChange.State.HELD, f"{weights.Refusal.UNPROVEN}: {problem}"
            change.save(update_fields=["state", "held_reason"])
            return None
        change.state = WeightChange.State.SUBMITTED
        change.submitted_at = change.submitted_at or datetime.now(UTC)
        change.attempts += 1
        change.next_attempt_at = max(now, datetime.now(UTC)) + LEASE
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
    # A change that DNS never shows is written again ever more seldom.
    patience = READ_BACK * 2 ** min(change.attempts - 1, 9)
    updated = WeightChange.objects.filter(pk=change.pk, state=WeightChange.State.SUBMITTED).update(
        state=state,
        confirmed_at=confirmed,
        observed_at=None if provider.answers else confirmed,
        receipt={"change_id": receipt.change_id, **receipt.details},
        error="",
        next_attempt_at=confirmed + patience,
    )
    if updated and not provider.answers:
        RecordSet.objects.filter(pk=record_set.pk, generation=change.generation).update(
            observed_weights=change.weights, observed_generation=change.generation, observed_at=confirmed,
            observation="not asked: this provider only logs",
        )  # fmt: skip


def _failed(change: WeightChange, error: ProviderError, now: datetime) -> None:
    logger.warning("%s could not be written: %s", change, error)
    wait = BACKOFF_SECONDS[min(change.attempts, len(BACKOFF_SECONDS)) - 1]
    is_known = change.record_set.changes.exclude(pk=change.pk).first()
    with transaction.atomic():
        updated = WeightChange.objects.filter(pk=change.pk, state=WeightChange.State.SUBMITTED).update(
            state=WeightChange.State.FAILED if error.permanent else WeightChange.State.WANTED,
            error=str(error),
            next_attempt_at=now + timedelta(seconds=PERMANENT_WAIT_SECONDS if error.permanent else wait),
        )
        # The same refusal every few minutes is one piece of news.
        if updated and error.permanent and not (is_known and is_known.error == str(error)):
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
        lanes = {
            target.address.rstrip(".").lower(): str(target.pk)
            for target in record_set.domain.targets.all()
            if str(target.pk) in change.weights
        }
        observation = look(record_set.domain.hostname, lanes, change.weights, change.generation)
        _store(record_set, change, observation, now)
        seen.append(observation)
    return seen


def _is_overwritten_by_us(change: WeightChange, observation: Observation) -> bool:
    """A beacon below the newest generation can only be ours; twice is enough, a third time a person must look."""
    shown = observation.generation
    return shown is not None and shown < change.generation and change.attempts <= MOST_WRITES


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
            elif change.state == WeightChange.State.OBSERVED and _is_overwritten_by_us(change, observation):
                # An older write of ours came late, from a worker that slept: the newest plan is written again.
                WeightChange.objects.filter(pk=change.pk, state=WeightChange.State.OBSERVED).update(
                    state=WeightChange.State.WANTED, error=observation.problem, next_attempt_at=now
                )
                summary = f"{record_set.domain}: an older plan was written over the newest, which is written again"
                Event.record("weights.reasserted", change, summary, customer_id=change.customer_id)
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
