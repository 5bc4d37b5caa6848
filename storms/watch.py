"""Reads all windows, lets the detector decide, and writes verdicts, storms and findings. Safe to run twice, at any time.

calm.look ─► who is loud ─► cases (one per policy) ─► decisions ─► transitions, findings, verdicts
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.db.models import Prefetch
from psycopg.errors import LockNotAvailable

from customers.models import Event
from services.maintenance import Span
from services.models import MaintenanceWindow, Service, ServiceDomain, Subject, Target, VantagePoint
from storms import calm, cases, detector, incidents, transitions, verdicts, windows
from storms.cases import Case, Path
from storms.detector import Action
from storms.models import Finding, PathVerdict, StormEvent, StormPolicy, StormPolicyVersion
from storms.transitions import Turn
from storms.verdicts import PathView, Policy, Verdict
from tranche_site.floor.faults import fault_point

LOCK = 7_726_301
_WIDEST = verdicts.Kind.HTTP_AVAILABILITY
VERDICT_REFRESH = timedelta(seconds=10)
"""A verdict that did not change is written again only this often."""
AT_ONCE = 500
"""Services judged in one transaction: a mass outage is worked off in pieces, and what is news comes in between."""
IN_TURN = 20
"""So many services are judged in full each time although they may be calm: whoever trusts a short look should check it,
and the work is the same in calm and storm."""
PROBES = timedelta(minutes=2)
"""A vantage point that has not probed for so long says nothing about what it does not see."""


@dataclass(slots=True)
class Report:
    """What one run changed."""

    services: int = 0
    opened: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    """Services whose storm moved to another state, or whose path changed its verdict: steering looks at these."""


def watch(now: datetime, service_ids: Collection[int] | None = None) -> Report:
    """Judge every service that is not calm, or only some. One run at a time: another waits up to two seconds, then leaves
    it to the sweep."""
    report = Report()
    if service_ids is not None:
        _judge_all(now, sorted(service_ids), report)
        return report
    with transaction.atomic():
        if not _locked():
            return report
        loud = sorted({*calm.look(now).loud, *_in_turn(now)})
        points = _points()
        _store_verdicts(_judge_own(points, now), points.values(), now)
        transitions.close_orphans(now)
        _resolve_orphans(now)
        fault_point("storms.looked")
    _judge_all(now, loud, report)
    with transaction.atomic():
        if _locked():
            incidents.tend(now)
    return report


def _judge_all(now: datetime, service_ids: list[int], report: Report) -> None:
    began = time.monotonic()
    for first in range(0, len(service_ids), AT_ONCE):
        # What comes later is judged by what is known then; a look that is older than another decides nothing.
        late = timedelta(seconds=time.monotonic() - began) if first else timedelta(0)
        _judge(now + late, service_ids[first : first + AT_ONCE], report)


def _judge(now: datetime, service_ids: Collection[int], report: Report) -> None:
    """The full look at some services, in one transaction."""
    with transaction.atomic():
        if not _locked():
            return
        points = _points()
        blind = {pk for pk, point in points.items() if point.blind_since}
        seen = windows.read(now, service_ids, blind)
        policies = _policies(service_ids)
        targets = [target.pk for policy in policies for domain in _watched(policy) for target in _probed(domain)]
        before = {verdict.target_id: verdict for verdict in PathVerdict.objects.filter(target__in=targets)}
        widest = {None, *(policy.pk for policy in policies if policy.kind == _WIDEST)}
        of_all = {key.target_id: there for key, there in seen.items() if key.policy_id in widest}
        docket = _Docket(now, points, seen, before, _good_once(targets, service_ids, of_all, before, now))
        storms = _storms(policies)
        versions = _versions(storms.values())
        spans = MaintenanceWindow.spans(now, detector.START_LOOKBACK, service_ids)
        # Storms of TLS and DNS open only where no storm of availability is open, so that one is decided first.
        covered = {service for (service, kind), (current, _) in storms.items() if current and kind == _WIDEST}
        found: dict[int, dict[tuple[str, int | None], detector.Finding]] = defaultdict(dict)
        turns: list[Turn] = []
        views: dict[int, PathView] = {}
        for live in sorted(policies, key=lambda policy: policy.kind != _WIDEST):
            policy = live
            report.services += 1
            current, previous = storms.get((policy.service_id, policy.kind), (None, None))
            if current and (version := versions.get((current.policy_id, current.policy_version))):
                policy = policy.as_of(version)
            case = docket.case(policy, current, previous, _maintenance(policy, spans))
            looks = cases.views(case)
            decision = cases.decide(case, looks)
            if policy.kind == _WIDEST:
                views |= looks
            for finding in decision.findings:
                found[policy.service_id].setdefault((finding.kind.value, finding.target), finding)
            if decision.action in (Action.OPEN, Action.REOPEN):
                if policy.kind != _WIDEST and policy.service_id in covered:
                    continue
                if policy.kind == _WIDEST:
                    covered.add(policy.service_id)
            turns.append(Turn(policy, case, looks, decision, current, previous, docket.point_ids))
        fault_point("storms.decided")
        for turn in transitions.carry_out(turns, now):
            report.changed.append(turn.policy.service_id)
            if turn.decision.begins:
                report.opened.append(turn.policy.service_id)
        _note_findings(policies, found, now)
        report.changed.extend(_store_verdicts(docket.judged(policies, views), points.values(), now))
        fault_point("storms.recorded")


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict to be stored, beside the one that is there. `service` is None for our own sites."""

    view: PathView
    service: Service | None
    old: PathVerdict | None
    newest_good_at: datetime | None
    certificate_expires_at: datetime | None


class _Docket:
    """Makes the case of each policy out of what was read for all of them."""

    def __init__(
        self,
        now: datetime,
        points: Mapping[int, VantagePoint],
        seen: Mapping[windows.Key, windows.Seen],
        before: Mapping[int, PathVerdict],
        good_once: Collection[int],
    ) -> None:
        self._good_once = good_once
        self._now, self._names, self._seen, self._before = now, {pk: p.name for pk, p in points.items()}, seen, before
        self._voters = tuple(verdicts.VantagePoint(p.name, p.region, p.network) for p in points.values())
        self.point_ids = {point.name: pk for pk, point in points.items()}
        self._can_tell_silence = _can_tell_silence(points.values(), now)

    def case(
        self, policy: StormPolicy, current: StormEvent | None, previous: StormEvent | None, spans: Mapping[int, Span]
    ) -> Case:
        return Case(
            policy.terms(), self._now, self._voters, self._domains(policy, policy.pk), _state(current, policy),
            _state(previous, policy), spans,
        )  # fmt: skip

    def _default_case(self, policy: StormPolicy) -> Case:
        """For verdicts alone, of a service that only watches TLS or DNS: a backup must be good all round before anything
        moves there."""
        terms = replace(_own_terms(), interval_seconds=policy.service.interval_seconds)
        return Case(terms, self._now, self._voters, self._domains(policy, None))

    def judged(self, policies: Iterable[StormPolicy], views: Mapping[int, PathView]) -> list[Judged]:
        """What is to be stored of each target. A service without a policy of availability is judged by the default one."""
        found: dict[int, Judged] = {}
        for policy in policies:
            key: int | None = policy.pk
            looks = views
            if any(target.pk not in views for domain in _watched(policy) for target in _probed(domain)):
                looks, key = cases.views(self._default_case(policy)), None
            elif policy.kind != _WIDEST:
                continue
            for target in (target for domain in _watched(policy) for target in _probed(domain)):
                there = self._seen.get(windows.Key(key, target.pk))
                good_at = there.newest_good_at if there else None
                expires_at = there.certificate_expires_at if there else None
                old = self._before.get(target.pk)
                found[target.pk] = Judged(looks[target.pk], policy.service, old, good_at, expires_at)
        return list(found.values())

    def _domains(self, policy: StormPolicy, key: int | None) -> tuple[tuple[Path, ...], ...]:
        return tuple(tuple(self._path(target, key) for target in _probed(domain)) for domain in _watched(policy))

    def _path(self, target: Target, policy: int | None) -> Path:
        there, old = self._seen.get(windows.Key(policy, target.pk)), self._before.get(target.pk)
        expires_at = (there.certificate_expires_at if there else None) or (old.certificate_expires_at if old else None)
        is_silent = self._can_tell_silence and old is not None and old.verdict == Verdict.UNKNOWN
        return Path(
            target.pk,
            target.role,
            {self._names[pk]: window for pk, window in (there.windows if there else {}).items() if pk in self._names},
            target.rank,
            target.facet,
            target.facet_of_id,
            ever_good=target.pk in self._good_once,
            silent_since=old.since if old and is_silent else None,
            # One that fails before its certificate is shown keeps the one that was seen last.
            certificate_expires_at=expires_at,
        )


def _can_tell_silence(points: Iterable[VantagePoint], now: datetime) -> bool:
    """Whether enough vantage points of each region probe and see. If not, it is them that are silent, not the paths."""
    regions: dict[str, list[bool]] = defaultdict(list)
    for point in points:
        probes = point.last_probe_at is not None and point.last_probe_at > now - PROBES
        regions[point.region].append(probes and not point.blind_since)
    return all(sum(able) >= verdicts.quorum(len(able)) for able in regions.values())


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


# --- what is read -----------------------------------------------------------------------------------------------------


def _points() -> dict[int, VantagePoint]:
    return {point.pk: point for point in VantagePoint.objects.filter(state=VantagePoint.State.ACTIVE)}


def _in_turn(now: datetime) -> list[int]:
    """A few services by the clock, so that all of them have their turn."""
    services = StormPolicy.objects.live().order_by("service").values_list("service", flat=True)
    last = services.last()
    if last is None:
        return []
    first = int(now.timestamp()) * IN_TURN // calm.TURN_SECONDS % (last + 1)
    return list(services.filter(service__gte=first).distinct()[:IN_TURN])


def _policies(service_ids: Collection[int]) -> list[StormPolicy]:
    policies = StormPolicy.objects.live().filter(service__in=service_ids).select_related("service")
    targets = Target.objects.filter(enabled=True, role__in=Target.WATCHED_ROLES)
    domains = ServiceDomain.objects.verified().prefetch_related(Prefetch("targets", targets, to_attr="probed"))
    return list(policies.prefetch_related(Prefetch("service__domains", domains, to_attr="watched")).order_by("id"))


def _watched(policy: StormPolicy) -> list[ServiceDomain]:
    domains: list[ServiceDomain] = policy.service.watched  # type: ignore[attr-defined]
    return domains


def _probed(domain: ServiceDomain) -> list[Target]:
    targets: list[Target] = domain.probed  # type: ignore[attr-defined]
    return targets


def _own_terms() -> Policy:
    return replace(Policy(), interval_seconds=settings.PROBE_OWN_INTERVAL_SECONDS, min_samples=3)


def _judge_own(points: Mapping[int, VantagePoint], now: datetime) -> list[Judged]:
    """Reference sites and canaries are judged by the default policy, also without samples: silence makes them UNKNOWN."""
    blind = {pk for pk, point in points.items() if point.blind_since}
    seen = windows.read_own(now, blind)
    voters = [verdicts.VantagePoint(p.name, p.region, p.network) for p in points.values()]
    sites = list(Target.objects.filter(role__in=Target.OWN_ROLES, enabled=True).values_list("pk", flat=True))
    before = {verdict.target_id: verdict for verdict in PathVerdict.objects.filter(target__in=sites)}
    judged = []
    for site in sites:
        there = seen.get(site, windows.Seen({}, None, None))
        by_name = {points[pk].name: window for pk, window in there.windows.items() if pk in points}
        look = verdicts.view(site, by_name, voters, _own_terms(), now)
        judged.append(Judged(look, None, before.get(site), there.newest_good_at, there.certificate_expires_at))
    return judged


def _good_once(
    targets: Iterable[int],
    service_ids: Collection[int],
    seen: Mapping[int, windows.Seen],
    before: Mapping[int, PathVerdict],
    now: datetime,
) -> set[int]:
    """The targets that were good at some time: by the window, by the stored verdict, else by what is on record.

    Good all round: under a policy of TLS alone, what answers 500 is good.
    """
    good = {target for target, there in seen.items() if there.newest_good_at}
    good |= {target for target, verdict in before.items() if verdict.newest_good_at}
    return good | windows.good_once([target for target in targets if target not in good], service_ids, now)


def _maintenance(policy: StormPolicy, spans: Mapping[Subject, Span]) -> dict[int, Span]:
    """By target, the span that ends last: its service's or its CDN's."""
    found = {}
    for domain in _watched(policy):
        for target in _probed(domain):
            subjects: list[Subject] = [("service", policy.service_id)]
            if target.cdn_id:
                subjects.append(("cdn", target.cdn_id))
            if known := [spans[subject] for subject in subjects if subject in spans]:
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
        .select_related("service")
    )
    for storm in newest_closed:
        found[storm.service_id, storm.kind] = (None, storm)
    open_ones = StormEvent.objects.open().filter(service__in=services).select_related("service")
    for storm in open_ones.select_for_update(of=("self",)):
        _, previous = found.get((storm.service_id, storm.kind), (None, None))
        found[storm.service_id, storm.kind] = (storm, previous)
    return found


def _versions(
    storms: Iterable[tuple[StormEvent | None, StormEvent | None]],
) -> dict[tuple[int | None, int | None], StormPolicyVersion]:
    """The versions that open storms began under, by policy and version: they are judged by those, whatever was edited."""
    began = {(storm.policy_id, storm.policy_version) for storm, _ in storms if storm}
    rows = StormPolicyVersion.objects.filter(policy__in={policy for policy, _ in began})
    return {(row.policy_id, row.version): row for row in rows if (row.policy_id, row.version) in began}


def _state(row: StormEvent | None, policy: StormPolicy) -> detector.Storm | None:
    if row is None:
        return None
    is_other = row.closed_at is not None and row.is_armed != (policy.mode == StormPolicy.Mode.ARMED)
    return detector.Storm(row.started_at, row.last_bad_at, row.ended_at, row.closed_at, row.relapses, is_other)


# --- what is written --------------------------------------------------------------------------------------------------


def _note_findings(
    policies: Iterable[StormPolicy], found: dict[int, dict[tuple[str, int | None], detector.Finding]], now: datetime
) -> None:
    """Findings are the service's: what one of its policies finds is not resolved by another that doesn't look for it."""
    services = {policy.service_id: policy.service for policy in policies}
    gone, seen_again = [], []
    for row in Finding.objects.open().filter(service__in=services):
        finding = found[row.service_id].pop((row.kind, row.target_id), None)
        if finding is None:
            gone.append(row.pk)
        elif now - row.last_seen_at > VERDICT_REFRESH:
            row.last_seen_at, row.reason = now, finding.reason
            seen_again.append(row)
    Finding.objects.filter(pk__in=gone).update(resolved_at=now)
    Finding.objects.bulk_update(seen_again, ["last_seen_at", "reason"], batch_size=1000)
    rows = Finding.objects.bulk_create(
        Finding(
            customer_id=services[service_id].customer_id, service=services[service_id], kind=finding.kind,
            target_id=finding.target, reason=finding.reason, first_seen_at=now, last_seen_at=now,
        )
        for service_id, findings in found.items() for finding in findings.values()
    )  # fmt: skip
    Event.objects.bulk_create(
        Event.about(f"finding.{row.kind}", row, f"{row.service}: {row.reason}", customer_id=row.customer_id)
        for row in rows
    )


def _resolve_orphans(now: datetime) -> None:
    """Findings of a service that no policy watches any more have nobody to see that they are over."""
    watched = StormPolicy.objects.live().values("service")
    Finding.objects.open().exclude(service__in=watched).update(resolved_at=now)


def _store_verdicts(judged: Iterable[Judged], points: Iterable[VantagePoint], now: datetime) -> list[int]:
    """Upsert the verdicts that changed or grew old. Returns the services of which a path's verdict changed."""
    awake = {point.name for point in points if calm.probes(point, now)}
    rows, turned = [], []
    for one in judged:
        view, old = one.view, one.old
        if old is not None and old.evaluated_at > now:
            continue  # somebody has looked since
        changed = old is None or old.verdict != view.verdict
        if changed and one.service:
            turned.append(one.service.pk)
        votes, is_calm = {name: vote.value for name, vote in view.votes.items()}, _is_calm(view, awake)
        is_same = old is not None and not changed and (old.votes, old.is_calm) == (votes, is_calm)
        if is_same and old and now - old.evaluated_at < VERDICT_REFRESH:
            continue
        rows.append(
            PathVerdict(
                customer_id=one.service.customer_id if one.service else None,
                target_id=view.target,
                verdict=view.verdict,
                availability=view.availability,
                reason=view.reason,
                votes=votes,
                is_calm=is_calm,
                newest_good_at=one.newest_good_at or (old.newest_good_at if old else None),
                certificate_expires_at=one.certificate_expires_at or (old.certificate_expires_at if old else None),
                since=now if changed or old is None else old.since,
                evaluated_at=now,
            )
        )
    PathVerdict.objects.bulk_create(
        rows,
        batch_size=5000,
        update_conflicts=True,
        unique_fields=["target"],
        update_fields=[
            "verdict", "availability", "reason", "votes", "is_calm", "newest_good_at", "certificate_expires_at", "since",
            "evaluated_at",
        ],
    )  # fmt: skip
    return turned


def _is_calm(view: PathView, awake: Collection[str]) -> bool:
    """Whether everybody who sees finds nothing but good: then `storms.calm` alone can tell that it stays so."""
    is_clean = not (view.bad or view.blocked_votes or view.mute_votes or view.slow_votes or view.one_family)
    return is_clean and all(vote is Verdict.UP for name, vote in view.votes.items() if name in awake)
