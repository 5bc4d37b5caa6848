"""Reads what is, and asks `weights` what should be: one ServicePlan per service, a value to print, compare and refuse.

Planning is constant work: each tick looks at the services of which anything may want a move (a storm, a pin, a drill, a
share away from home, a plan that is held or failed), and at a slice of all the others, so that a changed path or share is
seen within a minute or two, whatever the number of services.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import Exists, OuterRef, Prefetch, QuerySet

from dns import weights
from dns.models import Drill, Freeze, Pin, RecordSet, SteeringTerms, WeightChange
from dns.providers import has_apex
from services.models import Service, ServiceDomain, Target
from storms.incidents import WINDOW
from storms.models import CdnIncident, Finding, Kind, PathVerdict, StormEvent
from storms.severity import shares_bad

WAVE_SECONDS = 30
"""With a reference site failing too, a radius' worth of domains may move in each such span."""
FRESH = timedelta(seconds=60)
"""A backup whose newest good sample is older than this, or than three intervals, is not proven."""
TICK_SECONDS = 2
SLICE = 100
"""Services of a tick that are looked at without a reason."""


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
    situation: weights.Situation
    is_at_rest: bool = False
    """Nothing is under way, and nothing holds its weights away from home: the next look has time."""

    @property
    def is_frozen(self) -> bool:
        return bool(self.situation.frozen)

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


def candidates(now: datetime) -> list[int]:
    """Ids of the services to plan in this tick: those of which anything may want a move, and a slice of the rest."""
    total = RecordSet.objects.live().count()
    slices = max(1, -(-total // SLICE))
    with connection.cursor() as cursor:
        cursor.execute(
            _CANDIDATES, {"now": now, "slices": slices, "slice": int(now.timestamp()) // TICK_SECONDS % slices}
        )
        return [service_id for (service_id,) in cursor.fetchall()]


_CANDIDATES = """
SELECT d.service_id
FROM record_sets r
JOIN service_domains d ON d.id = r.domain_id AND d.deleted_at IS NULL
JOIN services s ON s.id = d.service_id AND s.deleted_at IS NULL
WHERE r.released_at IS NULL AND (
   r.is_restless
   OR d.service_id %% %(slices)s = %(slice)s
   OR d.service_id IN (
        SELECT service_id FROM storm_events WHERE closed_at IS NULL
        UNION SELECT service_id FROM pins WHERE expires_at > %(now)s
        UNION SELECT service_id FROM drills WHERE state = 'running'
        UNION SELECT service_id FROM findings WHERE resolved_at IS NULL AND kind = 'blocked'
   ))
GROUP BY d.service_id
"""
_IN_ORDER = """
WITH places AS (
    SELECT d.service_id, r.zone, dense_rank() OVER (PARTITION BY r.account_id ORDER BY r.zone) AS nth
    FROM record_sets r JOIN service_domains d ON d.id = r.domain_id
    WHERE d.service_id = ANY(%s)
)
SELECT service_id FROM places GROUP BY service_id ORDER BY min(nth), min(zone), service_id
"""


def in_order(service_ids: Collection[int]) -> list[int]:
    """Service by service such that a zone's come together, and accounts take turns: planned and written in this order, the
    first batches are on their way while the rest is planned, and no zone is written to twice.
    """
    with connection.cursor() as cursor:
        cursor.execute(_IN_ORDER, [list(service_ids)])
        return [service_id for (service_id,) in cursor.fetchall()]


def plan_services(now: datetime, service_ids: Collection[int] | None = None) -> list[ServicePlan]:
    """Plans of these services (None: of every steered one), in a fixed number of queries."""
    services = _services(service_ids)
    known = _Known.read(services, now)
    traffic = _traffic(now)
    plans = []
    moving = 0  # domains that the plans of this very run take away from their primary
    for service in services:
        domains: list[ServiceDomain] = service.steered  # type: ignore[attr-defined]
        standing = {d.record_set.pk: _standing(d, known.newest.get(d.record_set.pk)) for d in domains}
        situation = _situation(service, known, now)
        wanted = weights.plan(situation, _terms(known.terms.get(service.pk), now), now)
        here = dict(situation.current) or {weights.PRIMARY: 100}
        refusal = weights.guard(wanted, here, [_place(d, now) for d in domains], traffic(service, moving))
        refusal = refusal or _unproven_path(situation, wanted, domains, known)
        leaves = here.get(weights.PRIMARY, 100) - wanted.percents[weights.PRIMARY] > weights.SMALL_MOVE_PERCENT
        if refusal is None and leaves and not wanted.is_persons:
            moving += len(domains)
        record_sets = tuple(domain.record_set for domain in domains)
        plan = ServicePlan(service, record_sets, here, standing, wanted, refusal, situation)
        settled = all(
            (change := known.newest.get(r.pk)) and change.state == WeightChange.State.OBSERVED for r in record_sets
        )
        at_rest = settled and not plan.behind and here[weights.PRIMARY] >= 100 - weights.SMALL_MOVE_PERCENT
        plans.append(replace(plan, is_at_rest=at_rest and service.pk not in known.busy))
    return plans


@dataclass(frozen=True, slots=True)
class _Known:
    """What plans follow from, by service or record set, read in a fixed number of queries."""

    newest: Mapping[int, WeightChange]
    sent: Mapping[int, WeightChange]
    """The newest of which a vendor may know: a plan that was never sent sets no course, and is dropped with its reason.
    A beacon that says “shift” is as good as sent."""
    storms: Mapping[int, StormEvent]
    shares: Mapping[int, float]
    pins: Mapping[int, Pin]
    drills: Mapping[int, Drill]
    terms: Mapping[int, SteeringTerms]
    freezes: Collection[Freeze]
    blocked: Mapping[int, str]
    busy: Collection[int]
    """Services with something that holds their weights for now."""

    @classmethod
    def read(cls, services: Collection[Service], now: datetime) -> _Known:
        ids = [service.pk for service in services]
        # Of two open storms the one that rages decides: it comes last, and stays.
        storms = {
            storm.service_id: storm
            for storm in sorted(
                StormEvent.objects.moving_traffic().filter(service__in=ids),
                key=lambda storm: (storm.ended_at is None, storm.pk),
            )
        }
        pins = {pin.service_id: pin for pin in Pin.objects.filter(service__in=ids, expires_at__gt=now).order_by("id")}
        drills = {d.service_id: d for d in Drill.objects.filter(service__in=ids, state=Drill.State.RUNNING)}
        held = WeightChange.objects.filter(service__in=ids, state=WeightChange.State.HELD)
        changes = WeightChange.objects.filter(service__in=ids).select_related("record_set")
        newest, sent = _newest_changes(changes.let_go()), _newest_changes(changes.sent())
        # What was overtaken on its way may stand at the vendor, above all that was let go since.
        newest |= {
            pk: change for pk, change in sent.items() if pk not in newest or change.generation > newest[pk].generation
        }
        return cls(
            newest=newest,
            sent=sent | {pk: change for pk, change in newest.items() if change.record_set.is_shifted},
            storms=storms,
            shares=shares_bad(storm for storm in storms.values() if storm.ended_at is None),
            pins=pins,
            drills=drills,
            terms={row.service_id: row for row in SteeringTerms.objects.filter(service__in=ids)},
            freezes=list(Freeze.objects.filter(lifted_at__isnull=True).order_by("-id")),
            blocked=_blocked(ids),
            busy={*storms, *pins, *drills, *held.values_list("service_id", flat=True)},
        )


def _unproven_path(
    situation: weights.Situation, wanted: weights.Plan, domains: Iterable[ServiceDomain], known: _Known
) -> tuple[weights.Refusal, str] | None:
    """A path that took another's place has its rank, and nothing of its proof: no share comes to it by keeping still."""
    unproven = {b.key: b.problem for b in situation.backups if b.problem and wanted.percents[b.key]}
    for domain in domains:
        sent = known.sent.get(domain.record_set.pk)
        for target in paths(domain):
            if lane_of(target) in unproven and not (sent and sent.weights.get(str(target.pk))):
                return weights.Refusal.UNPROVEN_PATH, unproven[lane_of(target)]
    return None


def _place(domain: ServiceDomain, now: datetime) -> weights.Place:
    record_set: RecordSet = domain.record_set
    return weights.Place(
        hostname=domain.hostname,
        zone=record_set.zone,
        proof_problem=domain.proof_problem(now),
        ttl_seconds=record_set.ttl_seconds,
        foreign="somebody edits its records by hand; approve to write over them" if record_set.is_held else "",
        unarmed="" if record_set.armed_at else record_set.unarmed_reason,
        has_apex_form=bool(record_set.zone == domain.hostname and has_apex(record_set.account.vendor))
        and record_set.has_apex_form([target.address for target in paths(domain)]),
    )


def _services(service_ids: Collection[int] | None) -> list[Service]:
    services = Service.objects.live().filter(
        domains__record_set__released_at__isnull=True,
        domains__record_set__isnull=False,
        domains__deleted_at__isnull=True,
    )
    if service_ids is not None:
        services = services.filter(pk__in=service_ids)
    targets = Target.objects.paths().select_related("verdict").order_by("role", "rank", "id")
    domains = (
        ServiceDomain.objects.live()
        .with_contest()
        .filter(record_set__isnull=False, record_set__released_at__isnull=True)
        .select_related("record_set__account", "record_set__domain")
        .prefetch_related(Prefetch("targets", targets, to_attr="all_paths"))
        .order_by("id")
    )
    return list(services.distinct().order_by("id").prefetch_related(Prefetch("domains", domains, to_attr="steered")))


def paths(domain: ServiceDomain) -> list[Target]:
    """The domain's paths that are switched on."""
    return [target for target in domain.all_paths if target.enabled]  # type: ignore[attr-defined]


def primary_among(targets: Iterable[Target]) -> Target | None:
    return next((target for target in targets if target.enabled and target.role == Target.Role.PRIMARY), None)


def _newest_changes(changes: QuerySet[WeightChange]) -> dict[int, WeightChange]:
    """The newest of these changes of each record set."""
    newest = changes.order_by("record_set_id", "-generation").distinct("record_set_id")
    return {change.record_set_id: change for change in newest}


def _standing(domain: ServiceDomain, change: WeightChange | None) -> Mapping[str, int] | None:
    if change is None or change.state in (WeightChange.State.FAILED, WeightChange.State.SUPERSEDED):
        return None  # nobody looks after it any more: what is wanted is written anew
    if set(change.weights) != {str(target.pk) for target in paths(domain)}:
        return None  # it was written for other paths than there are now
    if change.ttl_seconds not in (None, domain.record_set.ttl_seconds):
        return None
    return _by_lane(change.weights, domain)


def _situation(service: Service, known: _Known, now: datetime) -> weights.Situation:
    primary, backups = _lanes(service, now)
    domains: list[ServiceDomain] = service.steered  # type: ignore[attr-defined]
    # A domain whose write failed is behind the others; it neither sets the course nor holds the others up.
    done = [(domain, change) for domain in domains if (change := known.sent.get(domain.record_set.pk))]
    latest = max(done, key=lambda pair: pair[1].wanted_at, default=None)
    settled = [change.observed_at for _, change in done]
    pin, drill, storm = known.pins.get(service.pk), known.drills.get(service.pk), known.storms.get(service.pk)
    current = _by_lane(latest[1].weights, latest[0]) if latest else {}
    previous = _by_lane(latest[1].previous_weights, latest[0]) if latest else {}
    return weights.Situation(
        primary=primary,
        backups=backups,
        current=current,
        settled_at=max(at for at in settled if at) if settled and all(settled) else None,
        ttl_seconds=max((domain.record_set.ttl_seconds for domain in domains), default=0),
        heading_home=bool(previous) and current.get(weights.PRIMARY, 0) > previous.get(weights.PRIMARY, 0),
        storm=_raging(storm, known.shares.get(service.pk, 0.0)) if storm else None,
        pinned_backup_percent=pin.backup_percent if pin else None,
        drill_percent=drill.percent if drill else 0,
        frozen=next((freeze.reason for freeze in known.freezes if freeze.covers(service)), ""),
        blocked=known.blocked.get(service.pk, ""),
    )


def _terms(own: SteeringTerms | None, now: datetime) -> weights.Terms:
    gate, steps = settings.FAILBACK_GATE_SECONDS, tuple(settings.FAILBACK_STEPS_PERCENT)
    if own is None:
        return weights.Terms(gate, steps)
    return weights.Terms(
        gate, steps, weights.Failback(own.failback), own.is_window_open(now), weights.Spread(own.spread),
        own.standing_percent,
    )  # fmt: skip


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


def lane_of(target: Target) -> str:
    return weights.PRIMARY if target.role == Target.Role.PRIMARY else f"backup-{target.rank}"


def _lanes(service: Service, now: datetime) -> tuple[weights.Lane, list[weights.Lane]]:
    """Every lane over all domains: as healthy as its worst path, fit only if every domain's path is."""
    by_lane: dict[str, list[Target]] = defaultdict(list)
    domains = service.steered  # type: ignore[attr-defined]
    for domain in domains:
        for target in paths(domain):
            by_lane[lane_of(target)].append(target)
    lanes = {}
    for key, targets in by_lane.items():
        problems = [problem for target in targets if (problem := problem_of(service, target, now))]
        if len(targets) < len(domains):
            problems.append("not every domain has it")
        lanes[key] = weights.Lane(
            key,
            _worst(targets, now),
            "; ".join(problems),
            min(target.capacity_percent for target in targets),
            max(_share_bad(target) for target in targets),
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


def _share_bad(target: Target) -> float:
    verdict = _verdict(target)
    return 1.0 - verdict.availability if verdict and verdict.availability is not None else 0.0


def _verdict(target: Target) -> PathVerdict | None:
    return getattr(target, "verdict", None)


def problem_of(service: Service, target: Target, now: datetime) -> str:
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
    total = RecordSet.objects.live().count()
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
            for target in paths(domain)
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


def _by_lane(by_target: Mapping[str, int], domain: ServiceDomain) -> dict[str, int]:
    """Percents by target id, as stored, to percents by lane."""
    lanes = {str(target.pk): lane_of(target) for target in domain.all_paths}  # type: ignore[attr-defined]
    return {lanes[target]: percent for target, percent in by_target.items() if target in lanes}
