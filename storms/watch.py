"""Reads all windows, lets the detector decide, and writes verdicts, storms and findings. Safe to run twice, at any time."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Prefetch, Q

from customers.models import Event
from services import outcomes
from services.models import ProbeSample, ServiceDomain, Target, VantagePoint
from storms import detector, windows
from storms.detector import Action, Decision, DomainView, PathView, Policy
from storms.models import Finding, PathVerdict, StormEvent, StormPolicy
from tranche_site.floor.faults import fault_point

logger = logging.getLogger(__name__)

LOCK = 7_726_301
START_LOOKBACK = timedelta(hours=1)
VERDICT_REFRESH = timedelta(seconds=10)
"""A verdict that did not change is written again only this often."""


@dataclass(slots=True)
class Report:
    """What one run changed."""

    services: int = 0
    opened: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    """Services whose storm moved to another state, or whose path changed its verdict: steering looks at these."""


def watch(now: datetime, service_ids: Collection[int] | None = None) -> Report:
    """Judge every service, or only some. One run at a time: another waits up to two seconds, then leaves it to the sweep."""
    report = Report()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        points = {point.pk: point for point in VantagePoint.objects.filter(state=VantagePoint.State.ACTIVE)}
        blind = {pk for pk, point in points.items() if point.blind_since}
        seen = windows.read(now, service_ids, blind)
        policies = _policies(service_ids)
        views = _views(policies, points, seen, now)
        before = {verdict.target_id: verdict for verdict in PathVerdict.objects.filter(target__in=_shown(views))}
        storms = _storms(policies)
        for policy in policies:
            report.services += 1
            domains = _domains(policy, views)
            current, previous = storms.get((policy.service_id, policy.kind), (None, None))
            decision = detector.decide(policy.terms(), now, domains, _storm(current), _storm(previous))
            fault_point("storms.decided")
            if _carry_out(policy, decision, current, previous, domains, points, now):
                report.changed.append(policy.service_id)
                if decision.action in (Action.OPEN, Action.REOPEN, Action.RELAPSE):
                    report.opened.append(policy.service_id)
            _note_findings(policy, decision, now)
        if service_ids is None:
            _close_orphans(now)
        turned = _store_verdicts(policies, views, seen, before, now)
        report.changed.extend(turned)
        fault_point("storms.recorded")
    return report


def _policies(service_ids: Collection[int] | None) -> list[StormPolicy]:
    policies = StormPolicy.objects.live().select_related("service")
    if service_ids is not None:
        policies = policies.filter(service__in=service_ids)
    targets = Target.objects.filter(enabled=True, role__in=Target.DOMAIN_ROLES).select_related("cdn")
    domains = ServiceDomain.objects.verified().prefetch_related(Prefetch("targets", targets, to_attr="probed"))
    return list(policies.prefetch_related(Prefetch("service__domains", domains, to_attr="watched")).order_by("id"))


def _views(
    policies: Iterable[StormPolicy],
    points: dict[int, VantagePoint],
    seen: dict[windows.Key, windows.Seen],
    now: datetime,
) -> dict[windows.Key, PathView]:
    voters = [detector.VantagePoint(point.name, point.region, point.network) for point in points.values()]

    def view(key: windows.Key, terms: Policy) -> PathView:
        there = seen[key].windows if key in seen else {}
        by_name = {points[pk].name: window for pk, window in there.items() if pk in points}
        return detector.view(key.target_id, by_name, voters, terms, now)

    views = {}
    for policy in policies:
        terms = policy.terms()
        for domain in policy.service.watched:  # type: ignore[attr-defined]
            for target in domain.probed:
                key = windows.Key(policy.pk, target.pk)
                views[key] = view(key, terms)
    # Reference sites and canaries are everybody's: judged by the default policy, whether or not they have samples.
    own = replace(Policy(), interval_seconds=settings.PROBE_OWN_INTERVAL_SECONDS, min_samples=3)
    for key in seen:
        if key.policy_id is None:
            views[key] = view(key, own)
    return views


def _domains(policy: StormPolicy, views: dict[windows.Key, PathView]) -> list[DomainView]:
    domains = []
    for domain in policy.service.watched:  # type: ignore[attr-defined]
        by_role: dict[str, list[PathView]] = defaultdict(list)
        for target in sorted(domain.probed, key=lambda t: (t.rank, t.pk)):
            by_role[target.role].append(views[windows.Key(policy.pk, target.pk)])
        if primary := by_role[Target.Role.PRIMARY]:
            witness = by_role[Target.Role.ORIGIN]
            domains.append(DomainView(primary[0], tuple(by_role[Target.Role.BACKUP]), witness[0] if witness else None))
    return domains


def _storms(policies: Iterable[StormPolicy]) -> dict[tuple[int, str], tuple[StormEvent | None, StormEvent | None]]:
    """The open storm and the newest closed one, by service and kind."""
    services = {policy.service_id for policy in policies}
    found: dict[tuple[int, str], tuple[StormEvent | None, StormEvent | None]] = {}
    newest_closed = (
        StormEvent.objects.filter(service__in=services, closed_at__isnull=False)
        .order_by("service_id", "kind", "-started_at")
        .distinct("service_id", "kind")
    )
    for storm in newest_closed:
        found[storm.service_id, storm.kind] = (None, storm)
    for storm in StormEvent.objects.open().filter(service__in=services).select_for_update():
        _, previous = found.get((storm.service_id, storm.kind), (None, None))
        found[storm.service_id, storm.kind] = (storm, previous)
    return found


def _storm(row: StormEvent | None) -> detector.Storm | None:
    if row is None:
        return None
    return detector.Storm(row.started_at, row.last_bad_at, row.ended_at, row.closed_at, row.relapses)


def _carry_out(
    policy: StormPolicy,
    decision: Decision,
    current: StormEvent | None,
    previous: StormEvent | None,
    domains: list[DomainView],
    points: dict[int, VantagePoint],
    now: datetime,
) -> bool:
    """Write one transition with its event. Returns whether the storm's state changed."""
    if decision.action is Action.OPEN:
        storm = _open(policy, decision, previous, domains, points, now)
        _announce("storm.opened", storm, f"Storm at {policy.service}: {decision.reason}")
        return True
    if decision.action is Action.REOPEN and previous:
        previous.closed_at = previous.ended_at = None
        _relapse(previous, decision, now)
        return True
    if current is None:
        return False
    if decision.action is Action.RELAPSE:
        current.ended_at = None
        _relapse(current, decision, now)
    elif decision.action is Action.RAGE:
        current.last_bad_at = now
        current.regions = sorted({*current.regions, *decision.regions})
        current.save(update_fields=["last_bad_at", "regions"])
        return False
    elif decision.action is Action.END:
        current.ended_at = decision.at
        current.closing_reason = decision.reason
        current.save(update_fields=["ended_at", "closing_reason"])
        _announce("storm.ended", current, f"The storm at {policy.service} is over: {decision.reason}")
    elif decision.action is Action.CLOSE:
        current.closed_at = now
        current.closing_reason = f"{current.closing_reason}; {decision.reason}".strip("; ")
        current.save(update_fields=["closed_at", "closing_reason"])
        _announce("storm.closed", current, f"The storm at {policy.service} is closed: {decision.reason}")
    else:
        return False
    return True


def _open(
    policy: StormPolicy,
    decision: Decision,
    previous: StormEvent | None,
    domains: list[DomainView],
    points: dict[int, VantagePoint],
    now: datetime,
) -> StormEvent:
    primary = Target.objects.get(pk=decision.down_targets[0])
    start = _start(policy, decision, previous, domains, points, now)
    return StormEvent.objects.create(
        customer_id=policy.customer_id,
        service=policy.service,
        policy=policy,
        policy_version=policy.version,
        cdn_id=primary.cdn_id,
        kind=policy.kind,
        regions=list(decision.regions),
        is_armed=policy.mode == StormPolicy.Mode.ARMED,
        attribution=decision.attribution,
        started_at=start,
        detected_at=now,
        last_bad_at=now,
        reason=decision.reason,
        evidence={"paths": [_evidence(path) for domain in domains for path in _paths(domain)]},
    )


def _start(
    policy: StormPolicy,
    decision: Decision,
    previous: StormEvent | None,
    domains: list[DomainView],
    points: dict[int, VantagePoint],
    now: datetime,
) -> datetime:
    """The first failing sample of the run that led here, over the vantage points that vote DOWN."""
    terms = policy.terms()
    starts = []
    for domain in domains:
        down = [pk for pk, point in points.items() if domain.primary.votes.get(point.name) is detector.Verdict.DOWN]
        if domain.primary.target not in decision.down_targets or not down:
            continue
        rows = (
            ProbeSample.objects.filter(
                slot_at__gt=now - START_LOOKBACK,
                target_id=domain.primary.target,
                vantage_point_id__in=down,
                at__lte=now,
            )
            .exclude(outcome="unknown")
            .exclude(outcome__in=outcomes.SET_ASIDE)
            .exclude(is_blind=True)
            .order_by("at")
            .values_list("vantage_point_id", "at", "outcome")
        )
        series: dict[str, list[tuple[datetime, bool]]] = defaultdict(list)
        for point, at, outcome in rows:
            series[str(point)].append((at, terms.is_bad(outcome)))
        start = detector.storm_start(series, terms, previous.ended_at if previous else None)
        if start:
            starts.append(start)
    return min(starts, default=now)


def _relapse(storm: StormEvent, decision: Decision, now: datetime) -> None:
    storm.relapses += 1
    storm.last_bad_at = now
    storm.save(update_fields=["relapses", "last_bad_at", "ended_at", "closed_at"])
    _announce("storm.relapsed", storm, f"The storm at {storm.service} is back: {decision.reason}")


def _close_orphans(now: datetime) -> None:
    """A storm whose service or policy was deleted has nobody left to judge it; it ends where it was last seen bad."""
    orphans = StormEvent.objects.open().filter(
        Q(service__deleted_at__isnull=False) | Q(policy__deleted_at__isnull=False), policy__isnull=False
    )
    for storm in orphans.select_for_update(of=("self",)).select_related("service"):
        storm.ended_at = storm.ended_at or max(storm.last_bad_at, storm.started_at)
        storm.closed_at = max(now, storm.ended_at)
        storm.closing_reason = "its service or policy was deleted"
        storm.save(update_fields=["ended_at", "closed_at", "closing_reason"])
        _announce("storm.closed", storm, f"The storm at {storm.service} is closed: {storm.closing_reason}")


def _announce(kind: str, storm: StormEvent, summary: str) -> None:
    logger.info("%s", summary)
    Event.record(
        kind, storm, summary, customer_id=storm.customer_id, service=storm.service_id, attribution=storm.attribution,
        started_at=storm.started_at.isoformat(), policy_version=storm.policy_version, is_armed=storm.is_armed,
    )  # fmt: skip


def _paths(domain: DomainView) -> list[PathView]:
    return [domain.primary, *domain.backups, *([domain.witness] if domain.witness else [])]


def _evidence(path: PathView) -> dict[str, object]:
    return {
        "target": path.target,
        "verdict": path.verdict,
        "votes": dict(path.votes),
        "good": path.good,
        "bad": path.bad,
        "reason": path.reason,
    }


def _note_findings(policy: StormPolicy, decision: Decision, now: datetime) -> None:
    found = {(finding.kind.value, finding.target): finding for finding in decision.findings}
    for row in Finding.objects.open().filter(service=policy.service_id):
        key = (row.kind, row.target_id)
        if key in found:
            if now - row.last_seen_at > VERDICT_REFRESH:
                row.last_seen_at, row.reason = now, found[key].reason
                row.save(update_fields=["last_seen_at", "reason"])
            del found[key]
        else:
            row.resolved_at = now
            row.save(update_fields=["resolved_at"])
    for finding in found.values():
        row = Finding.objects.create(
            customer_id=policy.customer_id, service=policy.service, kind=finding.kind, target_id=finding.target,
            reason=finding.reason, first_seen_at=now, last_seen_at=now,
        )  # fmt: skip
        Event.record(
            f"finding.{finding.kind}", row, f"{policy.service}: {finding.reason}", customer_id=policy.customer_id
        )


def _shown(views: Iterable[windows.Key]) -> list[int]:
    return [key.target_id for key in views]


def _store_verdicts(
    policies: Iterable[StormPolicy],
    views: dict[windows.Key, PathView],
    seen: dict[windows.Key, windows.Seen],
    before: dict[int, PathVerdict],
    now: datetime,
) -> list[int]:
    """Upsert the verdicts that changed or grew old. Returns the services of which a path's verdict changed."""
    owners = {policy.pk: policy for policy in policies}
    # A target has one verdict: that of the availability policy, where the service has several.
    chosen: dict[int, windows.Key] = {}
    for key in views:
        is_availability = key.policy_id is None or owners[key.policy_id].kind == detector.Kind.HTTP_AVAILABILITY
        if is_availability or key.target_id not in chosen:
            chosen[key.target_id] = key
    rows, turned = [], []
    for key in chosen.values():
        policy, view = owners.get(key.policy_id) if key.policy_id else None, views[key]
        old = before.get(key.target_id)
        changed = old is None or old.verdict != view.verdict
        if changed and policy:
            turned.append(policy.service_id)
        if not changed and old and now - old.evaluated_at < VERDICT_REFRESH and old.votes == dict(view.votes):
            continue
        there = seen.get(key)
        rows.append(
            PathVerdict(
                customer_id=policy.customer_id if policy else None,
                target_id=key.target_id,
                verdict=view.verdict,
                availability=view.availability,
                reason=view.reason,
                votes=dict(view.votes),
                newest_good_at=there.newest_good_at if there else (old.newest_good_at if old else None),
                certificate_expires_at=there.certificate_expires_at if there else None,
                since=now if changed or old is None else old.since,
                evaluated_at=now,
            )
        )
    if rows:
        PathVerdict.objects.bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["target"],
            update_fields=[
                "verdict", "availability", "reason", "votes", "newest_good_at", "certificate_expires_at", "since",
                "evaluated_at",
            ],
        )  # fmt: skip
    return turned
