"""What one target looks like: windows of samples in, a verdict by quorum out. Pure; every verdict has its reason.

    samples of one target and vantage point ─ window ─► Window ─ vote ─► Verdict
    votes of one region ─ quorum ─► verdict of the region ─► PathView (one target)

UNKNOWN is never healthy and never a storm.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from services import outcomes
from services.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

STALE_INTERVALS = 3
"""A vantage point whose newest sample is older than this many intervals has no vote."""

CONTRADICTED = 2
"""Times the failures that a vote for DOWN needs where another vantage point of the region votes UP."""


class Kind(StrEnum):
    HTTP_AVAILABILITY = "http_availability"
    TLS = "tls"
    DNS = "dns"


class Verdict(StrEnum):
    UP = "UP"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Policy:
    """Terms of one storm policy. Seconds are whole; `threshold_avail` is a share of 0 to 1 and strict (`<`).

    Of the domains, and of the regions, at least `domain_share` and `region_share` must fail: 0 is any one, 1 is all.
    """

    kind: Kind = Kind.HTTP_AVAILABILITY
    threshold_avail: Decimal = Decimal("0.9")
    window_seconds: int = 60
    cooldown_seconds: int = 300
    min_samples: int = 6
    min_failures: int = 3
    min_vantages: int = 2
    minimum_seconds: int = 600
    closing_samples: int = 10
    holdoff_seconds: int = 600
    holdoff_max_seconds: int = 3600
    domain_share: Decimal = Decimal(0)
    region_share: Decimal = Decimal(0)
    slow_ms: int = 1800
    interval_seconds: int = 10
    minimum_certificate_days: int = 21

    def is_bad(self, outcome: str) -> bool:
        """Whether `outcome` counts against availability under this kind."""
        return outcome in outcomes.BAD if self.kind is Kind.HTTP_AVAILABILITY else outcome == self.kind.value

    @property
    def lookback(self) -> timedelta:
        """How far back a window may see: for its verdict, which ends at its newest sample, and for the good run that ends a
        storm."""
        window = self.window_seconds + STALE_INTERVALS * self.interval_seconds
        return timedelta(seconds=max(window, (self.closing_samples + 2) * self.interval_seconds))

    @property
    def staleness(self) -> timedelta:
        return timedelta(seconds=STALE_INTERVALS * self.interval_seconds)

    def holdoff(self, relapses: int) -> timedelta:
        """Doubles with each relapse, up to the maximum."""
        return timedelta(seconds=min(self.holdoff_seconds * 2**relapses, self.holdoff_max_seconds))


@dataclass(frozen=True, slots=True)
class VantagePoint:
    name: str
    region: str
    network: str


class Seen(NamedTuple):
    """One sample as a window takes it. `at` is when the probe started; `total_ms` is None where it was not measured."""

    at: datetime
    outcome: str
    total_ms: float | None = None
    reason: str = ""
    is_blind: bool = False

    @property
    def has_vote(self) -> bool:
        """Whether it is good or bad, and was seen."""
        return not self.is_blind and self.outcome not in outcomes.SET_ASIDE and self.outcome != Outcome.UNKNOWN


@dataclass(frozen=True, slots=True)
class Window:
    """What one vantage point saw of one target within the policy's window, which ends at its newest sample.

    `good_run` counts the newest consecutive good samples, which may reach back beyond the window.
    """

    good: int = 0
    bad: int = 0
    blocked: int = 0
    set_aside: int = 0
    newest_at: datetime | None = None
    newest_good_at: datetime | None = None
    bad_since: datetime | None = None
    """The first bad sample after the third newest good one: about when the present trouble began."""
    good_run: int = 0
    good_run_started_at: datetime | None = None
    bad_outcomes: Mapping[str, int] = field(default_factory=dict)
    last_reason: str = ""
    is_blind: bool = False
    slow: int = 0
    """Good ones that took longer than the policy's `slow_ms`."""

    @property
    def judged(self) -> int:
        return self.good + self.bad


_UNSEEN = Window()
"""Of a vantage point that has seen nothing of a target. Made once: a verdict asks for it several times a point."""


@dataclass(frozen=True, slots=True)
class PathView:
    """The verdict on one target, over all regions, and why."""

    target: int
    verdict: Verdict
    reason: str
    votes: Mapping[str, Verdict]
    down_regions: tuple[str, ...] = ()
    good: int = 0
    bad: int = 0
    main_fault: str = ""
    share_bad: float = 0.0
    """Of the samples of those vantage points whose vote is the verdict, how many were bad (0 to 1)."""
    blocked_votes: int = 0
    mute_votes: int = 0
    """Vantage points that are answered, and only what says neither good nor bad."""
    bad_since: datetime | None = None
    """When the trouble began that the voting points see; None without a bad sample."""
    proven_at: datetime | None = None
    """A quorum of every region has a good sample at or after this moment; None where a quorum has none."""
    is_failing: bool = True
    """Whether a quorum that votes DOWN saw it fail just now, not only some time within the window."""
    good_since: datetime | None = None
    """When a quorum of every region had begun a good run of `closing_samples`; None while it has not."""
    certificate_expires_at: datetime | None = None
    regions: tuple[str, ...] = ()
    """All regions that it is looked at from."""
    slow_votes: int = 0
    """Vantage points to which most of what is good comes slowly."""
    ever_good: bool = True
    """Whether it was good at least once since it is probed."""
    is_heard: bool = True
    """Whether a quorum of every region has fresh samples of it, whatever they say."""
    silent_since: datetime | None = None
    """Since when it is not heard, where that is known."""
    culprits: tuple[int, ...] = ()
    """The targets whose samples make this verdict: the path itself, or a facet of it. Empty: the path itself."""
    mute_facet: str = ""
    """Why the look past the cache is left out of the verdict."""
    one_family: str = ""
    """What one of IPv4 and IPv6 fails of, while the other is well."""

    def answered_since(self, moment: datetime | None) -> bool:
        return self.proven_at is not None and (moment is None or self.proven_at >= moment)

    @property
    def availability(self) -> float | None:
        return self.good / (self.good + self.bad) if self.good + self.bad else None


def window(samples: Iterable[Seen], policy: Policy, now: datetime) -> Window:
    """What one vantage point's samples of one target amount to. `samples` are in order of `at`, of any age.

    `storms.windows` has Postgres do the same for many at once; a test holds them equal.
    """
    floor = now - policy.lookback
    is_all, kind = policy.kind is Kind.HTTP_AVAILABILITY, policy.kind.value
    judged = [sample for sample in samples if floor < sample.at <= now and sample.outcome != Outcome.UNKNOWN]
    if not judged:
        return Window()
    newest_at = judged[-1].at
    opens = newest_at - timedelta(seconds=policy.window_seconds)
    goods: list[Seen] = []
    bads: list[Seen] = []
    run_starts = blocked = set_aside = 0
    for sample in judged:
        outcome = sample.outcome
        if sample.is_blind:
            continue
        if outcome in outcomes.BAD if is_all else outcome == kind:
            run_starts = len(goods)
            if sample.at > opens:
                bads.append(sample)
        elif outcome in outcomes.SET_ASIDE:
            if sample.at > opens:
                set_aside += 1
                blocked += outcome == Outcome.BLOCKED
        else:
            goods.append(sample)
    run = goods[run_starts:]
    third = goods[-3].at if len(goods) > 2 else None
    good = [sample for sample in goods if sample.at > opens]
    return Window(
        good=len(good),
        bad=len(bads),
        blocked=blocked,
        set_aside=set_aside,
        newest_at=newest_at,
        newest_good_at=goods[-1].at if goods else None,
        bad_since=next((bad.at for bad in bads if third is None or bad.at > third), None),
        good_run=len(run),
        good_run_started_at=run[0].at if run else None,
        bad_outcomes=Counter(bad.outcome for bad in bads),
        last_reason=bads[-1].reason if bads else "",
        is_blind=any(sample.is_blind for sample in judged if sample.at == newest_at),
        slow=sum(sample.total_ms is not None and sample.total_ms > policy.slow_ms for sample in good),
    )


def quorum(configured: int) -> int:
    """Votes that decide among `configured` active vantage points: both of 2, n−1 of 3 to 5, n−2 of 6 and more."""
    if configured <= 2:
        return configured
    return configured - 1 if configured <= 5 else configured - 2


def vote(window: Window, policy: Policy, now: datetime) -> Verdict:
    """The verdict of one vantage point on one target."""
    if window.is_blind or window.newest_at is None:
        return Verdict.UNKNOWN
    if now - window.newest_at > policy.staleness:
        return Verdict.UNKNOWN
    if window.judged < policy.min_samples:
        return Verdict.UNKNOWN
    if window.good >= policy.threshold_avail * window.judged:
        return Verdict.UP
    return Verdict.DOWN if window.bad >= policy.min_failures else Verdict.DEGRADED


def view(
    target: int,
    windows: Mapping[str, Window],
    vantage_points: Sequence[VantagePoint],
    policy: Policy,
    now: datetime,
) -> PathView:
    """The verdict on one target, by quorum per region over the *configured* vantage points.

    A blind or silent point is a missing vote, never a smaller quorum. Where a point of the region votes UP, each vote for
    DOWN needs twice the policy's failures. One region that is DOWN makes the path DOWN.
    """
    votes = {point.name: vote(windows.get(point.name, _UNSEEN), policy, now) for point in vantage_points}
    regions: dict[str, list[VantagePoint]] = {}
    for point in vantage_points:
        regions.setdefault(point.region, []).append(point)
    # A region that can't have enough votes is a region from which nobody looks yet, not one that nobody can see.
    regions = {
        region: points for region, points in regions.items() if len({p.network for p in points}) >= policy.min_vantages
    } or regions
    by_region = {region: _region_verdict(points, votes, windows, policy) for region, points in regions.items()}
    down = tuple(sorted(region for region, verdict in by_region.items() if verdict is Verdict.DOWN))

    if down:
        verdict = Verdict.DOWN
    elif by_region and all(v is Verdict.UP for v in by_region.values()):
        verdict = Verdict.UP
    elif any(v is Verdict.DEGRADED for v in by_region.values()):
        verdict = Verdict.DEGRADED
    else:
        verdict = Verdict.UNKNOWN

    voting = [windows[name] for name, ballot in votes.items() if ballot is not Verdict.UNKNOWN]
    faults: dict[str, int] = {}
    for window in voting:
        for outcome, count in window.bad_outcomes.items():
            faults[outcome] = faults.get(outcome, 0) + count
    main_fault = max(sorted(faults), key=lambda outcome: faults[outcome], default="")
    good, bad = sum(w.good for w in voting), sum(w.bad for w in voting)
    sided = [windows[name] for name, ballot in votes.items() if ballot is verdict is not Verdict.UNKNOWN]
    judged = sum(w.judged for w in sided)
    return PathView(
        target=target,
        verdict=verdict,
        reason=_path_reason(verdict, votes, windows, policy, good, bad, main_fault),
        votes=votes,
        down_regions=down,
        good=good,
        bad=bad,
        main_fault=main_fault,
        share_bad=sum(w.bad for w in sided) / judged if judged else 0.0,
        mute_votes=sum(_is_mute(windows.get(p.name, _UNSEEN), policy) for p in vantage_points),
        blocked_votes=sum(windows.get(p.name, _UNSEEN).blocked >= policy.min_failures for p in vantage_points),
        slow_votes=sum(w.slow * 2 > w.good and w.slow >= policy.min_failures for w in voting),
        regions=tuple(sorted(regions)),
        is_heard=all(_heard(points, windows, policy, now) >= quorum(len(points)) for points in regions.values()),
        bad_since=min((w.bad_since for w in voting if w.bad_since), default=None),
        proven_at=_proven_at(regions, votes, windows),
        is_failing=_is_failing(regions, votes, windows, policy),
        good_since=_good_since(regions, votes, windows, policy),
    )


def combined(path: PathView, uncacheable: PathView | None, ipv6: PathView | None) -> PathView:
    """One verdict on a path out of those on its facets.

    What asks past the cache counts as much as what asks the cache: the worse of both is the path's verdict. Of the two
    families both must fail: a fault of one alone is a finding, and takes no more than the UP of a path whose IPv4 fails.
    """
    whole = path
    if uncacheable and uncacheable.verdict is Verdict.UNKNOWN and uncacheable.mute_votes and not path.mute_votes:
        # A path that was named wrongly must not take away the protection that was there without it.
        said = f"{uncacheable.mute_votes} vantage points are answered what is neither good nor bad, such as 403 or 404"
        whole = replace(path, mute_facet=f"past the cache {said}: this look is left out")
    elif uncacheable:
        whole = _worse(path, uncacheable)
    if ipv6 is None:
        return whole
    if whole.verdict is Verdict.DOWN and ipv6.verdict is Verdict.UP:
        reason = f"IPv4 alone fails: {whole.reason}"
        return replace(whole, verdict=Verdict.DEGRADED, reason=reason, down_regions=(), one_family=reason)
    if ipv6.verdict is Verdict.DOWN and whole.verdict is not Verdict.DOWN:
        return replace(whole, one_family=f"IPv6 alone fails: {ipv6.reason}")
    return whole


_BY_SEVERITY = (Verdict.UP, Verdict.UNKNOWN, Verdict.DEGRADED, Verdict.DOWN)


def _worse(path: PathView, facet: PathView) -> PathView:
    worst = max(path, facet, key=lambda view: _BY_SEVERITY.index(view.verdict))
    alike = [view for view in (path, facet) if view.verdict is worst.verdict]
    proven = [view.proven_at for view in (path, facet)]
    good = [view.good_since for view in (path, facet)]
    return replace(
        worst,
        target=path.target,
        reason=worst.reason if worst is path else f"past the cache: {worst.reason}",
        votes={name: max(ballots, key=_BY_SEVERITY.index) for name, ballots in _ballots(alike).items()},
        down_regions=tuple(sorted({region for view in alike for region in view.down_regions})),
        blocked_votes=max(path.blocked_votes, facet.blocked_votes),
        bad_since=min((view.bad_since for view in alike if view.bad_since), default=None),
        proven_at=None if None in proven else min(at for at in proven if at),
        is_failing=any(view.is_failing for view in alike),
        good_since=None if None in good else max(at for at in good if at),
        certificate_expires_at=path.certificate_expires_at,
        culprits=tuple(view.target for view in alike),
    )


def _ballots(views: Iterable[PathView]) -> dict[str, list[Verdict]]:
    cast: dict[str, list[Verdict]] = {}
    for view in views:
        for name, ballot in view.votes.items():
            cast.setdefault(name, []).append(ballot)
    return cast


def _is_mute(window: Window, policy: Policy) -> bool:
    return not window.is_blind and not window.judged and window.set_aside >= policy.min_samples


def _region_verdict(
    points: list[VantagePoint], votes: Mapping[str, Verdict], windows: Mapping[str, Window], policy: Policy
) -> Verdict:
    needed = quorum(len(points))
    down = [point for point in points if votes[point.name] is Verdict.DOWN]
    up = [point for point in points if votes[point.name] is Verdict.UP]
    if up:
        # Contradicted, a vote needs twice the failures: beside a point with trouble of its own, a few lost packets at one
        # other would make a quorum. In an outage all points have confirmed within the same seconds.
        down = [point for point in down if windows[point.name].bad >= CONTRADICTED * policy.min_failures]
    if len(down) >= needed and len({point.network for point in down}) >= policy.min_vantages:
        return Verdict.DOWN
    if len(up) >= needed and len({point.network for point in up}) >= policy.min_vantages:
        return Verdict.UP
    if any(votes[point.name] in (Verdict.DOWN, Verdict.DEGRADED) for point in points):
        return Verdict.DEGRADED
    return Verdict.UNKNOWN


def _heard(points: list[VantagePoint], windows: Mapping[str, Window], policy: Policy, now: datetime) -> int:
    newest = (window.newest_at for point in points if (window := windows.get(point.name)))
    return sum(at is not None and now - at <= policy.staleness for at in newest)


def _proven_at(
    regions: Mapping[str, list[VantagePoint]], votes: Mapping[str, Verdict], windows: Mapping[str, Window]
) -> datetime | None:
    since: list[datetime] = []
    for points in regions.values():
        newest = sorted(
            (
                at
                for point in points
                if votes[point.name] is not Verdict.UNKNOWN and (at := windows[point.name].newest_good_at) is not None
            ),
            reverse=True,
        )
        needed = quorum(len(points))
        if len(newest) < needed:
            return None
        since.append(newest[needed - 1])
    return min(since, default=None)


def _is_failing(
    regions: Mapping[str, list[VantagePoint]],
    votes: Mapping[str, Verdict],
    windows: Mapping[str, Window],
    policy: Policy,
) -> bool:
    for points in regions.values():
        failing = [
            point
            for point in points
            if votes[point.name] is Verdict.DOWN and windows[point.name].good_run < policy.min_failures
        ]
        if len(failing) >= quorum(len(points)):
            return True
    return False


def _good_since(
    regions: Mapping[str, list[VantagePoint]],
    votes: Mapping[str, Verdict],
    windows: Mapping[str, Window],
    policy: Policy,
) -> datetime | None:
    since: list[datetime] = []
    for points in regions.values():
        runs = sorted(
            start
            for point in points
            if votes[point.name] is Verdict.UP
            and windows[point.name].good_run >= policy.closing_samples
            and (start := windows[point.name].good_run_started_at) is not None
        )
        needed = quorum(len(points))
        if len(runs) < needed:
            return None
        since.append(runs[needed - 1])
    return max(since, default=None)


def _path_reason(
    verdict: Verdict,
    votes: Mapping[str, Verdict],
    windows: Mapping[str, Window],
    policy: Policy,
    good: int,
    bad: int,
    main_fault: str,
) -> str:
    counts = Counter(votes.values())
    said = ", ".join(f"{counts[v]} {v}" for v in Verdict if counts[v]) or "no vantage point"
    if verdict is Verdict.UNKNOWN:
        blind = sorted(name for name in votes if windows.get(name, _UNSEEN).is_blind)
        return f"no quorum ({said})" + (f"; blind: {', '.join(blind)}" if blind else "")
    text = f"{good} of {good + bad} samples good in {policy.window_seconds} s ({said})"
    if main_fault:
        text += f", mostly {main_fault}"
        last = next((w.last_reason for name, w in sorted(windows.items()) if w.last_reason and name in votes), "")
        if last:
            text += f": {last}"
    return text
