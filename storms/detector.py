"""What is a storm: windows and a policy in, verdicts, attribution and one transition out. Pure; every result has its reason.

    Window (one target, one vantage point) ─ vote ─► Verdict
    votes of one region ─ quorum ─► verdict of the region ─► PathView (one target)
    primary, backups and witness of each domain ─ attribute ─► Attribution
    attribution, the open storm and the clock ─ decide ─► Decision

UNKNOWN is never healthy and never a storm: it neither opens nor closes anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING

from services import outcomes
from services.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from services.maintenance import Span

START_GOOD_RUN = 10
"""A storm's start is the first bad sample since this many good ones in a row; no policy can lengthen a storm by it."""
STALE_INTERVALS = 3
"""A vantage point whose newest sample is older than this many intervals has no vote."""


class Kind(StrEnum):
    HTTP_AVAILABILITY = "http_availability"
    TLS = "tls"
    DNS = "dns"


class Verdict(StrEnum):
    UP = "UP"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"


class Attribution(StrEnum):
    NONE = "none"
    CDN_FAULT = "cdn_fault"
    EDGE_TO_ORIGIN = "edge_cannot_reach_origin"
    UNPROVEN = "unproven"
    ORIGIN_FAULT = "origin_fault"
    MANUAL = "manual"


STORMS = frozenset({Attribution.CDN_FAULT, Attribution.EDGE_TO_ORIGIN, Attribution.UNPROVEN})
"""Attributions that open a storm."""


class FindingKind(StrEnum):
    ORIGIN_FAULT = "origin_fault"
    BACKUP_UNFIT = "backup_unfit"
    BLOCKED = "blocked"
    CERTIFICATE = "certificate"
    ALWAYS_FAILING = "always_failing"
    NO_SAMPLES = "no_samples"
    ONE_FAMILY = "one_family"


class Action(StrEnum):
    NOTHING = "nothing"
    OPEN = "open"
    REOPEN = "reopen"  # a relapse of a storm that was closed already
    RAGE = "rage"  # still bad: moves `last_bad_at`
    END = "end"
    RELAPSE = "relapse"  # a relapse of a storm that had ended and was not closed
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class Policy:
    """Terms of one storm policy. Seconds are whole; `threshold_avail` is a share of 0 to 1 and strict (`<`)."""

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
    interval_seconds: int = 10
    minimum_certificate_days: int = 14

    def is_bad(self, outcome: str) -> bool:
        """Whether `outcome` counts against availability under this kind."""
        return outcome in outcomes.BAD if self.kind is Kind.HTTP_AVAILABILITY else outcome == self.kind.value

    def holdoff(self, relapses: int) -> timedelta:
        """Doubles with each relapse, up to the maximum."""
        return timedelta(seconds=min(self.holdoff_seconds * 2**relapses, self.holdoff_max_seconds))


@dataclass(frozen=True, slots=True)
class VantagePoint:
    name: str
    region: str
    network: str


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

    @property
    def judged(self) -> int:
        return self.good + self.bad


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
    culprits: tuple[int, ...] = ()
    """The targets whose samples make this verdict: the path itself, or a facet of it. Empty: the path itself."""
    mute_facet: str = ""
    """Why the look past the cache is left out of the verdict."""
    one_family: str = ""
    """What one of IPv4 and IPv6 fails of, while the other is well."""

    @property
    def availability(self) -> float | None:
        return self.good / (self.good + self.bad) if self.good + self.bad else None


@dataclass(frozen=True, slots=True)
class DomainView:
    """All paths of one domain, and its origin witness where it has one."""

    primary: PathView
    backups: tuple[PathView, ...]
    witness: PathView | None = None


@dataclass(frozen=True, slots=True)
class Storm:
    """A storm as it stands before the decision."""

    started_at: datetime
    last_bad_at: datetime
    ended_at: datetime | None = None
    closed_at: datetime | None = None
    relapses: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    kind: FindingKind
    target: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One transition of a service's storm. `at` is `ended_at` for END; the storm's start is found by `storm_start`.

    `not_before` says of a target in `down_targets` until when it was under maintenance: no storm starts earlier.
    """

    action: Action
    reason: str
    attribution: Attribution = Attribution.NONE
    regions: tuple[str, ...] = ()
    down_targets: tuple[int, ...] = ()
    at: datetime | None = None
    findings: tuple[Finding, ...] = ()
    not_before: Mapping[int, datetime] = field(default_factory=dict)

    @property
    def begins(self) -> bool:
        return self.action in (Action.OPEN, Action.REOPEN, Action.RELAPSE)


def quorum(configured: int) -> int:
    """Votes that decide among `configured` active vantage points: both of 2, n−1 of 3 to 5, n−2 of 6 and more."""
    if configured <= 2:
        return configured
    return configured - 1 if configured <= 5 else configured - 2


def vote(window: Window, policy: Policy, now: datetime) -> Verdict:
    """The verdict of one vantage point on one target."""
    if window.is_blind or window.newest_at is None:
        return Verdict.UNKNOWN
    if now - window.newest_at > timedelta(seconds=STALE_INTERVALS * policy.interval_seconds):
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

    A blind or silent point is a missing vote, never a smaller quorum. One region that is DOWN makes the path DOWN.
    """
    votes = {point.name: vote(windows.get(point.name, Window()), policy, now) for point in vantage_points}
    regions: dict[str, list[VantagePoint]] = {}
    for point in vantage_points:
        regions.setdefault(point.region, []).append(point)
    by_region = {region: _region_verdict(points, votes, policy) for region, points in regions.items()}
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
    return PathView(
        target=target,
        verdict=verdict,
        reason=_path_reason(verdict, votes, windows, policy, good, bad, main_fault),
        votes=votes,
        down_regions=down,
        good=good,
        bad=bad,
        main_fault=main_fault,
        mute_votes=sum(_is_mute(windows.get(p.name, Window()), policy) for p in vantage_points),
        blocked_votes=sum(windows.get(p.name, Window()).blocked >= policy.min_failures for p in vantage_points),
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


def attribute(domain: DomainView) -> tuple[Attribution, str]:
    """Whose fault it is, from the verdicts of all paths and the witness together."""
    primary, witness = domain.primary, domain.witness
    if primary.verdict is not Verdict.DOWN:
        return Attribution.NONE, f"the primary is {primary.verdict}"
    if witness and witness.verdict is Verdict.DOWN:
        return Attribution.ORIGIN_FAULT, "the origin itself fails, seen past every CDN"
    # A lapsed certificate on the backup is the backup's own fault: it must not make a CDN fault read as the origin's.
    down_like_the_primary = [
        b
        for b in domain.backups
        if b.verdict is Verdict.DOWN and not (b.main_fault == Outcome.TLS != primary.main_fault)
    ]
    if domain.backups and len(down_like_the_primary) == len(domain.backups):
        return Attribution.ORIGIN_FAULT, "every path of the domain fails at once"
    # What other paths answered before the trouble began says nothing about it: an origin that dies takes seconds longer
    # to show through a path that hangs than through an edge that answers 502 at once.
    origin_answers = (
        witness is not None and witness.verdict is Verdict.UP and _answered_since(witness, primary.bad_since)
    )
    # Something beside the primary must be UP: loss on a line of ours spoils all paths by chance, one more than another.
    backup_answers = any(b.verdict is Verdict.UP and _answered_since(b, primary.bad_since) for b in domain.backups)
    backup_is_spoiled = bool(domain.backups) and all(
        b.verdict in (Verdict.DOWN, Verdict.DEGRADED) for b in domain.backups
    )
    if not backup_answers and not (backup_is_spoiled and origin_answers):
        return Attribution.NONE, "no backup has been UP since the trouble began: waiting for the other paths"
    if not origin_answers:
        seen = "there is no origin witness" if witness is None else "the origin witness has not answered since"
        return Attribution.UNPROVEN, f"the primary is down and {seen}"
    if primary.main_fault == Outcome.EDGE_ERROR:
        return Attribution.EDGE_TO_ORIGIN, "the primary's edge can't reach an origin that answers"
    return Attribution.CDN_FAULT, "the primary is down while the origin answers past it"


def decide(
    policy: Policy, now: datetime, domains: Sequence[DomainView], current: Storm | None, previous: Storm | None
) -> Decision:
    """The next transition of one service's storm. `current` is not closed yet; `previous` is the newest closed one."""
    attributed = [(domain, *attribute(domain)) for domain in domains]
    found = tuple(_findings(policy, attributed, now))
    failing = [(domain, attribution, why) for domain, attribution, why in attributed if attribution in STORMS]

    if failing:
        return _bad(policy, now, failing, current, previous, found)
    if current is None:
        return Decision(Action.NOTHING, attributed[0][2] if attributed else "no domain", findings=found)
    if any(domain.primary.verdict is not Verdict.UP for domain in domains) or not domains:
        restless = any(d.primary.verdict in (Verdict.DOWN, Verdict.DEGRADED) for d in domains)
        why = "; ".join(why for _, _, why in attributed) or "no domain"
        return Decision(Action.RAGE if restless else Action.NOTHING, why, findings=found)
    return _good(policy, now, domains, current, found)


def spare(decision: Decision, policy: Policy, now: datetime, maintenance: Mapping[int, Span]) -> Decision:
    """No storm starts, or starts anew, because of targets under maintenance; one that goes on is none of its business.

    `maintenance` holds the newest span of a target. It counts until what was seen within it has left the policy's window.
    """
    if not decision.begins:
        return decision
    seen = timedelta(seconds=policy.window_seconds)
    spared = {
        target: span
        for target in decision.down_targets
        if (span := maintenance.get(target)) and span.start <= now < span.end + seen
    }
    left = tuple(target for target in decision.down_targets if target not in spared)
    if not left:
        why = "; ".join(dict.fromkeys(span.reason for span in spared.values()))
        return Decision(Action.NOTHING, f"maintenance: {why}", findings=decision.findings)
    ends = {target: maintenance[target].end for target in left if target in maintenance}
    return replace(decision, down_targets=left, not_before=ends)


def storm_start(
    samples: Mapping[str, Iterable[tuple[datetime, bool]]], not_before: datetime | None = None
) -> datetime | None:
    """The earliest bad sample, over the vantage points that voted DOWN, since each one's last long good run.

    `samples` are (time, is_bad) by vantage point, in order of time, of judged outcomes only. Never before the previous
    storm's end.
    """
    starts = []
    for series in samples.values():
        start, good_run = None, 0
        for at, is_bad in series:
            if not_before and at < not_before:
                continue
            if is_bad:
                start, good_run = start or at, 0
            else:
                good_run += 1
                if good_run >= START_GOOD_RUN:
                    start = None
        if start:
            starts.append(start)
    return min(starts, default=None)


def _bad(
    policy: Policy,
    now: datetime,
    failing: list[tuple[DomainView, Attribution, str]],
    current: Storm | None,
    previous: Storm | None,
    found: tuple[Finding, ...],
) -> Decision:
    domain, attribution, why = failing[0]
    begins = current is None or current.ended_at is not None
    if begins and not any(domain.primary.is_failing for domain, _, _ in failing):
        # What is left in the windows may be of an origin's fault, which every target's window forgets at another moment.
        return Decision(Action.NOTHING, f"{domain.primary.reason}; its newest samples are good", findings=found)
    if current is None:
        action = Action.OPEN
        if previous and previous.ended_at and now <= previous.ended_at + policy.holdoff(previous.relapses):
            action, why = Action.REOPEN, f"relapse within the hold-off: {why}"
    elif current.ended_at:
        action, why = Action.RELAPSE, f"relapse before it was closed: {why}"
    else:
        action = Action.RAGE
    return Decision(
        action,
        f"{domain.primary.reason}; {why}",
        attribution,
        tuple(sorted({region for d, _, _ in failing for region in d.primary.down_regions})),
        tuple(d.primary.target for d, _, _ in failing),
        findings=found,
    )


def _good(
    policy: Policy, now: datetime, domains: Sequence[DomainView], current: Storm, found: tuple[Finding, ...]
) -> Decision:
    """Every primary is UP: the storm may end, and later close."""
    if current.ended_at is None:
        runs = [domain.primary.good_since for domain in domains]
        if any(since is None for since in runs):
            reason = f"waiting for {policy.closing_samples} good samples in a row from a quorum"
            return Decision(Action.NOTHING, reason, findings=found)
        end = max(max(since for since in runs if since), current.started_at)
        return Decision(
            Action.END, f"{policy.closing_samples} good samples in a row from a quorum", at=end, findings=found
        )

    waits = {
        "the cooldown": current.last_bad_at + timedelta(seconds=policy.cooldown_seconds),
        "the minimum length": current.started_at + timedelta(seconds=policy.minimum_seconds),
    }
    if current.relapses:
        waits["the hold-off"] = current.ended_at + policy.holdoff(current.relapses - 1)
    last = max(waits, key=lambda name: waits[name])
    if now < waits[last]:
        return Decision(Action.NOTHING, f"waiting for {last} until {waits[last]:%H:%M:%S} UTC", findings=found)
    return Decision(Action.CLOSE, f"quiet until {last} had passed", findings=found)


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


def _region_verdict(points: list[VantagePoint], votes: Mapping[str, Verdict], policy: Policy) -> Verdict:
    needed = quorum(len(points))
    down = [point for point in points if votes[point.name] is Verdict.DOWN]
    up = [point for point in points if votes[point.name] is Verdict.UP]
    if len(down) >= needed and len({point.network for point in down}) >= policy.min_vantages:
        return Verdict.DOWN
    if len(up) >= needed and len({point.network for point in up}) >= policy.min_vantages:
        return Verdict.UP
    if any(votes[point.name] in (Verdict.DOWN, Verdict.DEGRADED) for point in points):
        return Verdict.DEGRADED
    return Verdict.UNKNOWN


def _answered_since(path: PathView, moment: datetime | None) -> bool:
    return path.proven_at is not None and (moment is None or path.proven_at >= moment)


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
    counts = {v: sum(ballot is v for ballot in votes.values()) for v in Verdict}
    said = ", ".join(f"{count} {v}" for v, count in counts.items() if count) or "no vantage point"
    if verdict is Verdict.UNKNOWN:
        blind = sorted(name for name in votes if windows.get(name, Window()).is_blind)
        return f"no quorum ({said})" + (f"; blind: {', '.join(blind)}" if blind else "")
    text = f"{good} of {good + bad} samples good in {policy.window_seconds} s ({said})"
    if main_fault:
        text += f", mostly {main_fault}"
        last = next((w.last_reason for name, w in sorted(windows.items()) if w.last_reason and name in votes), "")
        if last:
            text += f": {last}"
    return text


def _findings(
    policy: Policy, attributed: Sequence[tuple[DomainView, Attribution, str]], now: datetime
) -> Iterable[Finding]:
    for domain, attribution, why in attributed:
        if attribution is Attribution.ORIGIN_FAULT:
            yield Finding(FindingKind.ORIGIN_FAULT, domain.primary.target, f"{domain.primary.reason}; {why}")
        for backup in domain.backups:
            if backup.verdict is Verdict.DOWN and attribution is not Attribution.ORIGIN_FAULT:
                yield Finding(FindingKind.BACKUP_UNFIT, backup.target, backup.reason)
        for path in (domain.primary, *domain.backups):
            if path.blocked_votes >= max(policy.min_vantages, 1):
                reason = f"{path.blocked_votes} vantage points are answered 403, 429 or a challenge"
                yield Finding(FindingKind.BLOCKED, path.target, reason)
            if path.mute_facet:
                yield Finding(FindingKind.NO_SAMPLES, path.target, path.mute_facet)
            if path.one_family:
                yield Finding(FindingKind.ONE_FAMILY, path.target, path.one_family)
            if reason := _about_to_lapse(policy, path, now):
                yield Finding(FindingKind.CERTIFICATE, path.target, reason)


def _about_to_lapse(policy: Policy, path: PathView, now: datetime) -> str:
    """A backup can lose its certificate while nobody uses it: every path's is looked at, always."""
    expiry = path.certificate_expires_at
    if expiry is None or expiry - now >= timedelta(days=policy.minimum_certificate_days):
        return ""
    if expiry <= now:
        return f"the certificate expired on {expiry:%Y-%m-%d}"
    return f"the certificate expires on {expiry:%Y-%m-%d}, in less than {policy.minimum_certificate_days} days"
