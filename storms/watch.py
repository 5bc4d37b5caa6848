"""Reads all windows, lets the detector decide, and writes verdicts, storms and findings. Safe to run twice, at any time."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import Exists, OuterRef, Prefetch
from psycopg.errors import LockNotAvailable

from customers.models import Event
from services import outcomes
from services.maintenance import Span
from services.models import MaintenanceWindow, ProbeSample, Service, ServiceDomain, Subject, Target, VantagePoint
from storms import detector, windows
from storms.detector import Action, Decision, DomainView, PathView, Policy
from storms.models import Finding, PathVerdict, StormEvent, StormPolicy
from tranche_site.floor.faults import fault_point

logger = logging.getLogger(__name__)

LOCK = 7_726_301
_WIDEST = detector.Kind.HTTP_AVAILABILITY
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
        if not _locked():
            return report
        points = {point.pk: point for point in VantagePoint.objects.filter(state=VantagePoint.State.ACTIVE)}
        blind = {pk for pk, point in points.items() if point.blind_since}
        seen = windows.read(now, service_ids, blind)
        policies = _policies(service_ids)
        views = _views(policies, _own_sites() if service_ids is None else [], points, seen, now)
        before = {verdict.target_id: verdict for verdict in PathVerdict.objects.filter(target__in=_shown(views))}
        views = _combined(policies, _with_certificates(views, seen, before))
        storms = _storms(policies)
        spans = MaintenanceWindow.spans(now, START_LOOKBACK, service_ids)
        # Storms of TLS and DNS open only where no storm of availability is open, so that one is decided first.
        covered = {service for (service, kind), (current, _) in storms.items() if current and kind == _WIDEST}
        found: dict[int, dict[tuple[str, int | None], detector.Finding]] = defaultdict(dict)
        for policy in sorted(policies, key=lambda policy: policy.kind != _WIDEST):
            report.services += 1
            domains = _domains(policy, views)
            current, previous = storms.get((policy.service_id, policy.kind), (None, None))
            decision = detector.decide(policy.terms(), now, domains, _storm(current), _storm(previous))
            decision = detector.spare(decision, policy.terms(), now, _maintenance(policy, spans))
            for finding in decision.findings:
                found[policy.service_id].setdefault((finding.kind.value, finding.target), finding)
            fault_point("storms.decided")
            begins = decision.action in (Action.OPEN, Action.REOPEN)
            if begins and policy.kind != _WIDEST and policy.service_id in covered:
                continue
            if _carried_out(policy, decision, current, previous, domains, points, now):
                report.changed.append(policy.service_id)
                if begins or decision.action is Action.RELAPSE:
                    report.opened.append(policy.service_id)
                if begins and policy.kind == _WIDEST:
                    covered.add(policy.service_id)
        _note_findings(policies, found, now)
        if service_ids is None:
            _close_orphans(now)
        turned = _store_verdicts(policies, views, seen, before, now)
        report.changed.extend(turned)
        fault_point("storms.recorded")
    return report


def _locked() -> bool:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            return False
        raise
    return True


def _policies(service_ids: Collection[int] | None) -> list[StormPolicy]:
    policies = StormPolicy.objects.live().select_related("service")
    if service_ids is not None:
        policies = policies.filter(service__in=service_ids)
    targets = Target.objects.filter(enabled=True, role__in=Target.WATCHED_ROLES).select_related("cdn")
    domains = ServiceDomain.objects.verified().prefetch_related(Prefetch("targets", targets, to_attr="probed"))
    return list(policies.prefetch_related(Prefetch("service__domains", domains, to_attr="watched")).order_by("id"))


def _own_sites() -> list[int]:
    sites = Target.objects.filter(role__in=(Target.Role.REFERENCE, Target.Role.CANARY), enabled=True)
    return list(sites.values_list("pk", flat=True))


def _views(
    policies: Iterable[StormPolicy],
    own_sites: Iterable[int],
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
    # What has no availability policy is judged by the default one: our own sites, and paths of services that only
    # watch TLS or DNS, since a backup must be good all round before anything moves there.
    own = replace(Policy(), interval_seconds=settings.PROBE_OWN_INTERVAL_SECONDS, min_samples=3)
    # Own sites are judged without samples too: silence makes them UNKNOWN.
    homes = _homes(policies)
    for key in {windows.Key(None, site) for site in own_sites} | {key for key in seen if key.policy_id is None}:
        home = homes.get(key.target_id)
        views[key] = view(key, replace(own, interval_seconds=home.interval_seconds) if home else own)
    return views


def _with_certificates(
    views: dict[windows.Key, PathView], seen: dict[windows.Key, windows.Seen], before: dict[int, PathVerdict]
) -> dict[windows.Key, PathView]:
    """A path that fails before its certificate is shown keeps the one that was seen last."""
    found = {}
    for key, view in views.items():
        there, old = seen.get(key), before.get(key.target_id)
        expiry = (there.certificate_expires_at if there else None) or (old.certificate_expires_at if old else None)
        found[key] = replace(view, certificate_expires_at=expiry)
    return found


def _combined(policies: Iterable[StormPolicy], views: dict[windows.Key, PathView]) -> dict[windows.Key, PathView]:
    """Each path's verdict out of its own view and those of its facets, which stay as they are beside it."""
    found = dict(views)
    for policy in policies:
        for domain in policy.service.watched:  # type: ignore[attr-defined]
            facets: dict[int, dict[str, int]] = defaultdict(dict)
            for target in domain.probed:
                if target.facet_of_id:
                    facets[target.facet_of_id][target.facet] = target.pk
            for path, of_path in facets.items():
                for policy_id in (policy.pk, None):
                    key = windows.Key(policy_id, path)
                    if key in views:
                        parts = {facet: views.get(windows.Key(policy_id, pk)) for facet, pk in of_path.items()}
                        found[key] = detector.combined(
                            views[key], parts.get(Target.Facet.UNCACHEABLE), parts.get(Target.Facet.IPV6)
                        )
    return found


def _homes(policies: Iterable[StormPolicy]) -> dict[int, Service]:
    """The service of each target that a policy watches."""
    return {
        target.pk: policy.service
        for policy in policies
        for domain in policy.service.watched  # type: ignore[attr-defined]
        for target in domain.probed
    }


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


def _maintenance(policy: StormPolicy, spans: Mapping[Subject, Span]) -> dict[int, Span]:
    """By target, the span that ends last: its service's or its CDN's."""
    found = {}
    for domain in policy.service.watched:  # type: ignore[attr-defined]
        for target in domain.probed:
            of_target = [spans.get(("service", policy.service_id)), spans.get(("cdn", target.cdn_id))]
            if known := [span for span in of_target if span]:
                found[target.pk] = max(known, key=lambda span: span.end)
    return found


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


def _carried_out(policy: StormPolicy, decision: Decision, *rest: Any) -> bool:
    """One transition in a savepoint of its own: a service that can't be written must not stop the others."""
    if decision.action is Action.NOTHING:
        return False
    try:
        with transaction.atomic():
            return _carry_out(policy, decision, *rest)
    except DatabaseError:
        logger.exception("the storm of service %s could not be written", policy.service_id)
        return False


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
        start = _start(policy, decision, previous, domains, points, now)
        previous.closed_at = previous.ended_at = None
        _relapse(previous, policy, decision, start, now)
        return True
    if current is None:
        return False
    if decision.action is Action.RELAPSE:
        start = _start(policy, decision, current, domains, points, now)
        current.ended_at = None
        _relapse(current, policy, decision, start, now)
    elif decision.action is Action.RAGE:
        current.last_bad_at = now
        current.regions = sorted({*current.regions, *decision.regions})
        current.save(update_fields=["last_bad_at", "regions"])
        return False
    elif decision.action is Action.END:
        current.ended_at = decision.at
        current.closing_reason = decision.reason
        current.spells = _ended(current, decision.at)
        current.save(update_fields=["ended_at", "closing_reason", "spells"])
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
        spells=[_spell(start, None)],
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
                target_id__in=domain.primary.culprits or [domain.primary.target],
                vantage_point_id__in=down,
                at__lte=now,
                is_blind=False,
                is_late=False,
            )
            .exclude(outcome="unknown")
            .exclude(outcome__in=outcomes.SET_ASIDE)
            .order_by("at")
            .values_list("vantage_point_id", "target_id", "at", "outcome")
        )
        series: dict[str, list[tuple[datetime, bool]]] = defaultdict(list)
        for point, target, at, outcome in rows:
            series[f"{point} {target}"].append((at, terms.is_bad(outcome)))
        ends = (previous.ended_at if previous else None, decision.not_before.get(domain.primary.target))
        start = detector.storm_start(series, max((end for end in ends if end), default=None))
        if start:
            starts.append(start)
    return min(starts, default=now)


def _spell(start: datetime | str, end: datetime | None) -> list[str | None]:
    return [start if isinstance(start, str) else start.isoformat(), end.isoformat() if end else None]


def _ended(storm: StormEvent, at: datetime | None) -> list[list[str | None]]:
    """Its spells with the last one ended at `at`, if it was not ended before."""
    spells = storm.spells or [_spell(storm.started_at, None)]
    return spells if spells[-1][1] else [*spells[:-1], _spell(spells[-1][0], at)]


def _relapse(storm: StormEvent, policy: StormPolicy, decision: Decision, start: datetime, now: datetime) -> None:
    """The same storm goes on, under the policy that judges now; the quiet time since is no part of it."""
    storm.relapses += 1
    storm.last_bad_at = now
    storm.spells = [*storm.spells, _spell(start, None)]
    storm.policy, storm.policy_version = policy, policy.version
    storm.save(update_fields=["relapses", "last_bad_at", "ended_at", "closed_at", "spells", "policy", "policy_version"])
    _announce("storm.relapsed", storm, f"The storm at {storm.service} is back: {decision.reason}")


def _close_orphans(now: datetime) -> None:
    """A storm whose service or policy was deleted has nobody left to judge it; it ends where it was last seen bad."""
    heirs = StormPolicy.objects.live().filter(service=OuterRef("service"), kind=OuterRef("kind"))
    orphans = StormEvent.objects.open().filter(~Exists(heirs), policy__isnull=False)
    for storm in orphans.select_for_update(of=("self",)).select_related("service"):
        storm.ended_at = storm.ended_at or max(storm.last_bad_at, storm.started_at)
        storm.closed_at = max(now, storm.ended_at)
        storm.closing_reason = "its service or policy was deleted"
        storm.spells = _ended(storm, storm.ended_at)
        storm.save(update_fields=["ended_at", "closed_at", "closing_reason", "spells"])
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


def _note_findings(
    policies: Iterable[StormPolicy], found: dict[int, dict[tuple[str, int | None], detector.Finding]], now: datetime
) -> None:
    """Findings are the service's: what one of its policies finds is not resolved by another that doesn't look for it."""
    services = {policy.service_id: policy.service for policy in policies}
    for row in Finding.objects.open().filter(service__in=services):
        finding = found[row.service_id].pop((row.kind, row.target_id), None)
        if finding is None:
            row.resolved_at = now
            row.save(update_fields=["resolved_at"])
        elif now - row.last_seen_at > VERDICT_REFRESH:
            row.last_seen_at, row.reason = now, finding.reason
            row.save(update_fields=["last_seen_at", "reason"])
    for service_id, findings in found.items():
        service = services[service_id]
        for finding in findings.values():
            row = Finding.objects.create(
                customer_id=service.customer_id, service=service, kind=finding.kind, target_id=finding.target,
                reason=finding.reason, first_seen_at=now, last_seen_at=now,
            )  # fmt: skip
            Event.record(
                f"finding.{finding.kind}", row, f"{service}: {finding.reason}", customer_id=service.customer_id
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
    homes = _homes(policies)
    # A target has one verdict: that of the availability policy, where the service has several.
    chosen: dict[int, windows.Key] = {}
    for key in views:
        is_availability = key.policy_id is None or owners[key.policy_id].kind == detector.Kind.HTTP_AVAILABILITY
        if is_availability or key.target_id not in chosen:
            chosen[key.target_id] = key
    rows, turned = [], []
    for key in chosen.values():
        home, view = homes.get(key.target_id), views[key]
        old = before.get(key.target_id)
        changed = old is None or old.verdict != view.verdict
        if changed and home:
            turned.append(home.pk)
        if not changed and old and now - old.evaluated_at < VERDICT_REFRESH and old.votes == dict(view.votes):
            continue
        there = seen.get(key)
        rows.append(
            PathVerdict(
                customer_id=home.customer_id if home else None,
                target_id=key.target_id,
                verdict=view.verdict,
                availability=view.availability,
                reason=view.reason,
                votes=dict(view.votes),
                newest_good_at=(there.newest_good_at if there else None) or (old.newest_good_at if old else None),
                certificate_expires_at=(there.certificate_expires_at if there else None)
                or (old.certificate_expires_at if old else None),
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
