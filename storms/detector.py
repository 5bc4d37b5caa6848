"""What is a storm: verdicts on all paths in, attribution and one transition out. Pure; every result has its reason.

    primary, backups and witness of each domain ─ attribute ─► Attribution
    attribution, the open storm and the clock ─ decide ─► Decision

UNKNOWN is never healthy and never a storm: it neither opens nor closes anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from services.outcomes import Outcome
from storms.verdicts import PathView, Policy, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from services.maintenance import Span

SILENT_INTERVALS = 10
"""A path of which no quorum has been heard for this many intervals has no samples, and people must hear of it."""
START_GOOD_RUN = 10
"""A storm's start is the first bad sample since this many good ones in a row; no policy can lengthen a storm by it."""

STANDS_OUT = 4
"""How many times another path's share of failures the primary's must be."""
START_LOOKBACK = timedelta(hours=1)
"""How far back a storm's start is looked for."""


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
    LATENCY = "latency"
    PARTIAL = "partial"


class Action(StrEnum):
    NOTHING = "nothing"
    OPEN = "open"
    REOPEN = "reopen"  # a relapse of a storm that was closed already
    RAGE = "rage"  # still bad: moves `last_bad_at`
    END = "end"
    RELAPSE = "relapse"  # a relapse of a storm that had ended and was not closed
    CLOSE = "close"


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
    is_other: bool = False
    """Of another mode than the policy has now: trouble after it is a storm of its own, however soon."""


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


def attribute(domain: DomainView) -> tuple[Attribution, str]:
    """Whose fault it is, from the verdicts of all paths and the witness together."""
    primary, witness = domain.primary, domain.witness
    if primary.verdict is not Verdict.DOWN:
        return Attribution.NONE, f"the primary is {primary.verdict}"
    if not primary.ever_good:
        return Attribution.NONE, "the primary was never good since it is probed: that is no outage"
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
    origin_answers = witness is not None and _answers(witness, primary)
    # Something beside the primary must be UP: loss on a line of ours spoils all paths by chance, one more than another.
    backup_answers = any(_answers(backup, primary) for backup in domain.backups)
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


def _answers(other: PathView, primary: PathView) -> bool:
    """Whether another path has been UP since the primary's trouble began, and fails at most a quarter as often.

    A blip of the origin hits all paths for seconds, and one of them may by chance have fewer failures than a verdict
    needs; loss on our own line spoils all paths alike.
    """
    if other.verdict is not Verdict.UP or not other.answered_since(primary.bad_since):
        return False
    return STANDS_OUT * other.share_bad <= primary.share_bad


def decide(
    policy: Policy, now: datetime, domains: Sequence[DomainView], current: Storm | None, previous: Storm | None
) -> Decision:
    """The next transition of one service's storm. `current` is not closed yet; `previous` is the newest closed one."""
    attributed = [(domain, *attribute(domain)) for domain in domains]
    failing = [(domain, attribution, why) for domain, attribution, why in attributed if attribution in STORMS]
    too_few = _too_few(policy, domains, [domain for domain, _, _ in failing])
    found = tuple(_findings(policy, attributed, too_few, now))

    if (current and now < current.last_bad_at) or (previous and previous.closed_at and now < previous.closed_at):
        return Decision(Action.NOTHING, "a newer look has decided already", findings=found)
    if failing and not too_few:
        return _bad(policy, now, failing, current, previous, found)
    if current is None:
        return Decision(Action.NOTHING, too_few or (attributed[0][2] if attributed else "no domain"), findings=found)
    # What never worked, or fails of its origin, is no part of this storm and must not keep it going.
    own = [d for d, attribution, _ in attributed if d.primary.ever_good and attribution is not Attribution.ORIGIN_FAULT]
    domains = own or domains
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
        if (
            previous
            and previous.closed_at
            and not previous.is_other
            and _since(failing, now) <= previous.closed_at + policy.holdoff(previous.relapses)
        ):
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


def _since(failing: list[tuple[DomainView, Attribution, str]], now: datetime) -> datetime:
    return min((domain.primary.bad_since for domain, _, _ in failing if domain.primary.bad_since), default=now)


def _too_few(policy: Policy, domains: Sequence[DomainView], failing: Sequence[DomainView]) -> str:
    """Why what fails is too small a part of the service to move it as a whole, or ""."""
    if not failing:
        return ""
    if len(failing) < policy.domain_share * len(domains):
        return f"{len(failing)} of {len(domains)} domains fail; the policy wants a share of {policy.domain_share:f}"
    down = {region for domain in failing for region in domain.primary.down_regions}
    regions = {region for domain in failing for region in domain.primary.regions}
    if len(down) < policy.region_share * len(regions):
        return f"it fails in {len(down)} of {len(regions)} regions; the policy wants a share of {policy.region_share:f}"
    return ""


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


def _findings(
    policy: Policy, attributed: Sequence[tuple[DomainView, Attribution, str]], too_few: str, now: datetime
) -> Iterable[Finding]:
    for domain, attribution, why in attributed:
        if attribution is Attribution.ORIGIN_FAULT:
            yield Finding(FindingKind.ORIGIN_FAULT, domain.primary.target, f"{domain.primary.reason}; {why}")
        elif attribution in STORMS and too_few:
            yield Finding(FindingKind.PARTIAL, domain.primary.target, f"{domain.primary.reason}; {too_few}")
        for backup in domain.backups:
            if backup.verdict is Verdict.DOWN and attribution is not Attribution.ORIGIN_FAULT:
                yield Finding(FindingKind.BACKUP_UNFIT, backup.target, backup.reason)
        for path in (domain.primary, *domain.backups):
            yield from _of_path(policy, path, now)


def _of_path(policy: Policy, path: PathView, now: datetime) -> Iterable[Finding]:
    if path.verdict is Verdict.DOWN and not path.ever_good:
        reason = f"it was never good since it is probed; {path.reason}"
        yield Finding(FindingKind.ALWAYS_FAILING, path.target, reason)
    if path.blocked_votes >= policy.min_vantages:
        reason = f"{path.blocked_votes} vantage points are answered 403, 429 or a challenge"
        yield Finding(FindingKind.BLOCKED, path.target, reason)
    if path.slow_votes >= policy.min_vantages:
        reason = f"most answers to {path.slow_votes} vantage points take longer than {policy.slow_ms} ms"
        yield Finding(FindingKind.LATENCY, path.target, reason)
    if path.mute_facet:
        yield Finding(FindingKind.NO_SAMPLES, path.target, path.mute_facet)
    elif silence := _silence(policy, path, now):
        yield Finding(FindingKind.NO_SAMPLES, path.target, silence)
    if path.one_family:
        yield Finding(FindingKind.ONE_FAMILY, path.target, path.one_family)
    if reason := _about_to_lapse(policy, path, now):
        yield Finding(FindingKind.CERTIFICATE, path.target, reason)


def _silence(policy: Policy, path: PathView, now: datetime) -> str:
    since = path.silent_since
    if since is None or now - since < timedelta(seconds=SILENT_INTERVALS * policy.interval_seconds):
        return ""
    return f"no quorum has been heard of it since {since:%Y-%m-%d %H:%M:%S} UTC"


def _about_to_lapse(policy: Policy, path: PathView, now: datetime) -> str:
    """A backup can lose its certificate while nobody uses it: every path's is looked at, always."""
    expiry = path.certificate_expires_at
    if expiry is None or expiry - now >= timedelta(days=policy.minimum_certificate_days):
        return ""
    if expiry <= now:
        return f"the certificate expired on {expiry:%Y-%m-%d}"
    return f"the certificate expires on {expiry:%Y-%m-%d}, in less than {policy.minimum_certificate_days} days"
