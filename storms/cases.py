"""All that one decision about one service follows from, as a value: what was decided can be decided again from it. Pure.

    Case ─ views ─► PathView by target ─ decide ─► Decision

The watch makes cases out of the database, a backtest out of recorded samples, a replay out of stored evidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from services.maintenance import Span
from storms import detector, verdicts
from storms.detector import Decision, DomainView, Storm
from storms.verdicts import PathView, Policy, VantagePoint, Verdict, Window

PRIMARY, BACKUP, ORIGIN = "primary", "backup", "origin"
UNCACHEABLE, IPV6 = "uncacheable", "ipv6"


@dataclass(frozen=True, slots=True)
class Path:
    """One target as it was seen. A facet of a path (its IPv6, or a look past its cache) names the path's target.

    `silent_since`: since when no quorum is heard of it, where the caller knows; None otherwise.
    """

    target: int
    role: str
    windows: Mapping[str, Window]
    rank: int = 0
    facet: str = ""
    facet_of: int | None = None
    ever_good: bool = True
    silent_since: datetime | None = None
    certificate_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """`domains` are the paths of each domain. `current` is the storm that is not closed, `previous` the newest closed one."""

    policy: Policy
    now: datetime
    vantage_points: tuple[VantagePoint, ...]
    domains: tuple[tuple[Path, ...], ...]
    current: Storm | None = None
    previous: Storm | None = None
    maintenance: Mapping[int, Span] = field(default_factory=dict)


def views(case: Case) -> dict[int, PathView]:
    """The verdict on every target. A path's own takes in its facets; theirs stay as they are beside it."""
    seen: dict[int, PathView] = {}
    facets: dict[int, dict[str, PathView]] = defaultdict(dict)
    for path in (path for paths in case.domains for path in paths):
        look = verdicts.view(path.target, path.windows, case.vantage_points, case.policy, case.now)
        seen[path.target] = replace(
            look,
            ever_good=path.ever_good,
            silent_since=None if look.is_heard else path.silent_since,
            certificate_expires_at=path.certificate_expires_at,
        )
        if path.facet_of is not None:
            facets[path.facet_of][path.facet] = seen[path.target]
    for target, parts in facets.items():
        if target in seen:
            seen[target] = verdicts.combined(seen[target], parts.get(UNCACHEABLE), parts.get(IPV6))
    return seen


def decide(case: Case, seen: Mapping[int, PathView]) -> Decision:
    """The next transition of the service's storm."""
    decision = detector.decide(case.policy, case.now, domain_views(case, seen), case.current, case.previous)
    return detector.spare(decision, case.policy, case.now, case.maintenance)


def start(
    case: Case,
    decision: Decision,
    seen: Mapping[int, PathView],
    judged: Callable[[int, str], Iterable[tuple[datetime, str]]],
) -> datetime:
    """The first failing sample of the run that led to a transition, over the vantage points that vote DOWN.

    `judged` gives (time, outcome) of a target's samples from a vantage point that have a vote, in order of time.
    """
    before = case.current or case.previous
    starts = []
    for target in decision.down_targets:
        view = seen[target]
        series = {
            f"{culprit} {point}": [(at, case.policy.is_bad(outcome)) for at, outcome in judged(culprit, point)]
            for culprit in view.culprits or (target,)
            for point, ballot in view.votes.items()
            if ballot is Verdict.DOWN
        }
        ends = [before.ended_at if before else None, decision.not_before.get(target)]
        if found := detector.storm_start(series, max((end for end in ends if end), default=None)):
            starts.append(found)
    return min(starts, default=case.now)


def domain_views(case: Case, seen: Mapping[int, PathView]) -> list[DomainView]:
    domains = []
    for paths in case.domains:
        by_role: dict[str, list[PathView]] = defaultdict(list)
        for path in sorted(paths, key=lambda path: (path.rank, path.target)):
            by_role[path.role].append(seen[path.target])
        if primary := by_role[PRIMARY]:
            witness = by_role[ORIGIN]
            domains.append(DomainView(primary[0], tuple(by_role[BACKUP]), witness[0] if witness else None))
    return domains
