"""Which weights a service should have, and whether a change may be made. Pure; every result has its reason.

A service moves as a whole, so a plan speaks of *lanes*: “primary”, “backup-1”, “backup-2” … of every domain at once.

    plan(situation) ─► Plan (percents by lane, sum 100)
    diff(plan, what is wanted or observed) ─► what would change
    guard(...) ─► a named refusal, or None
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

PRIMARY = "primary"
RAMP_PERCENT = (10, 25, 50, 100)
"""Steps onto a backup when only part of the primary's answers are bad."""
FAST_SHARE_BAD = 0.5
"""From this share of bad samples on, the move is one step."""


class Health(StrEnum):
    """A lane's health over all domains: the worst of its paths."""

    UP = "UP"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Lane:
    """One way to serve the whole service. `problem` says why it may take no new traffic; empty means proven fit."""

    key: str
    health: Health
    problem: str = ""
    capacity_percent: int = 100


@dataclass(frozen=True, slots=True)
class Storm:
    """The open storm that moves traffic. `is_over`: it has ended and waits to be closed."""

    id: int
    is_over: bool
    share_bad: float
    """Share of the primary's samples that were bad since it began (0 to 1)."""
    is_manual: bool = False
    """A person declared it: their word stands where the probes see nothing."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a plan follows from. `current` are the newest wanted percents by lane; empty before the first write.

    `settled_at` is when the newest weights were observed at every authoritative server; None while they are on their way.
    """

    primary: Lane
    backups: Sequence[Lane]
    current: Mapping[str, int] = field(default_factory=dict)
    settled_at: datetime | None = None
    ttl_seconds: int = 30
    heading_home: bool = False
    """The newest change moved traffic to the primary: further steps that way are no reversals."""
    storm: Storm | None = None
    pinned_backup_percent: int | None = None
    frozen: str = ""
    blocked: str = ""
    """Why the primary's CDN is thought to refuse everybody, not only our probes; or ""."""


@dataclass(frozen=True, slots=True)
class Terms:
    gate_seconds: int = 60
    failback_steps: Sequence[int] = (10, 50, 100)


@dataclass(frozen=True, slots=True)
class Plan:
    """Wanted percents by lane, every lane named, sum 100; and why."""

    percents: Mapping[str, int]
    reason: str
    storm_id: int | None = None
    is_reversal: bool = False
    leaves_down_path: bool = False
    is_persons: bool = False
    """A person's own numbers: the blast radius is for our mistakes, not for theirs."""
    needs_person: str = ""
    """Why a person must decide; such a plan is always held."""

    def __post_init__(self) -> None:
        if sum(self.percents.values()) != 100 or any(percent < 0 for percent in self.percents.values()):
            raise ValueError(f"percents must not be negative and sum to 100: {dict(self.percents)}")


def plan(situation: Situation, terms: Terms, now: datetime) -> Plan:
    """The weights that this situation wants. The same situation always wants the same."""
    here = _current(situation)
    primary, share = situation.primary, here[PRIMARY]
    fit = [lane for lane in situation.backups if not lane.problem]

    if situation.frozen:
        return Plan(here, f"frozen: {situation.frozen}")
    if situation.pinned_backup_percent is not None:
        return _pinned(situation, here, fit)
    if _carries_traffic_on_a_down_backup(situation, here):
        # Protection waits for no gate: to the primary if it is up, else to another backup that is fit.
        if primary.health is Health.UP:
            return _home(situation, 100, "the backup is down and the primary is up", leaves_down_path=True)
        if fit:
            percents = _fill(here, fit, 100 - share)
            reason = f"the backup is down: its share goes to {fit[0].key}"
            return Plan(percents, reason, situation.storm.id if situation.storm else None, leaves_down_path=True)
    if situation.storm and not situation.storm.is_over:
        return _away(situation, situation.storm, terms, here, fit, now)
    if situation.storm:
        return Plan(here, "the storm is over and not closed yet: nothing moves", situation.storm.id)
    if situation.blocked and share < 100:
        return Plan(here, f"{situation.blocked}: traffic stays")
    if situation.blocked and fit:
        # Refused probes may be a rule against robots, or a CDN that refuses everybody: who can tell is a person.
        return Plan(_fill(here, fit, 100), f"{situation.blocked}: to {fit[0].key}", needs_person=situation.blocked)
    if share == 100:
        return Plan(here, "no storm: the primary has it all")
    return _failback(situation, terms, share, now)


def diff(wanted: Mapping[str, int], there: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Lanes whose percent would change: lane → (from, to). A lane that is missing on one side counts as 0 there."""
    lanes = sorted({*wanted, *there})
    return {
        lane: (there.get(lane, 0), wanted.get(lane, 0)) for lane in lanes if there.get(lane, 0) != wanted.get(lane, 0)
    }


class Refusal(StrEnum):
    BLAST_RADIUS = "blast_radius"
    REVERSALS = "reversals"
    APEX = "apex"
    UNPROVEN = "unproven_domain"
    UNSAFE_TTL = "unsafe_ttl"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the guard must know beyond one service."""

    domains_total: int
    domains_moved_lately: int
    """Distinct domains that automatic changes have taken away from their primary within the blast-radius time."""
    radius_share: float = 0.30
    radius_floor: int = 10
    reversals_last_hour: int = 0
    reversal_limit: int = 2
    domains_moved_in_wave: int = 0
    """The same within the last seconds of a wave."""
    corroborated: bool = False
    """A reference site of that CDN fails, seen from two networks: the only thing besides a person that lifts the radius,
    and then in waves, each as large as the radius."""


@dataclass(frozen=True, slots=True)
class Place:
    """One domain's record set, as the guard sees it."""

    hostname: str
    zone: str
    proof_problem: str
    """Why its owner's proof lets nothing new be written, or ""."""
    ttl_seconds: int


def guard(
    wanted: Plan, here: Mapping[str, int], places: Sequence[Place], traffic: Traffic
) -> tuple[Refusal, str] | None:
    """Why this plan must wait for a person, or None. Leaving a DOWN path is stopped by the blast radius alone."""
    for place in places:
        if place.proof_problem:
            return Refusal.UNPROVEN, place.proof_problem
        if place.hostname == place.zone:
            return Refusal.APEX, f"{place.hostname} is its zone's apex, where no CNAME may stand"
        if place.ttl_seconds > 300:
            return Refusal.UNSAFE_TTL, f"{place.hostname} has a TTL of {place.ttl_seconds} s; at most 300"
    if wanted.needs_person:
        return Refusal.BLOCKED, f"{wanted.needs_person}; look whether visitors are refused too"
    if wanted.is_reversal and not wanted.leaves_down_path and traffic.reversals_last_hour >= traffic.reversal_limit:
        return Refusal.REVERSALS, f"{traffic.reversals_last_hour} reversals within the last hour"
    if wanted.percents.get(PRIMARY, 0) < here.get(PRIMARY, 100) and not wanted.is_persons:
        limit = max(traffic.radius_floor, math.floor(traffic.radius_share * traffic.domains_total))
        lately = traffic.domains_moved_in_wave if traffic.corroborated else traffic.domains_moved_lately
        moving, span = lately + len(places), "in one wave" if traffic.corroborated else "in ten minutes"
        if moving > limit:
            return Refusal.BLAST_RADIUS, f"{moving} domains would have moved {span}; at most {limit} do by themselves"
    return None


def consistent(percents: Mapping[str, int], answers: Mapping[str, int]) -> str | None:
    """Why a sample of DNS answers (count by lane) contradicts the wanted percents, or None.

    Lanes at 0 and 100 % allow no other answer; between, the share must lie in the Wilson 99 % interval.
    """
    total = sum(answers.values())
    for lane in sorted({*percents, *answers}):
        percent, count = percents.get(lane, 0), answers.get(lane, 0)
        low, high = (0.0, 1.0) if 0 < percent < 100 else (percent / 100, percent / 100)
        if 0 < percent < 100:
            low, high = wilson(count, total)
            if not low <= percent / 100 <= high:
                return f"{count} of {total} answers are {lane}, and {percent} % were wanted"
        elif not low <= (count / total if total else low) <= high:
            return f"{count} of {total} answers are {lane}, and {percent} % were wanted"
    return None


def wilson(successes: int, total: int, z: float = 2.576) -> tuple[float, float]:
    """The Wilson score interval of a share; z = 2.576 gives 99 %."""
    if not total:
        return 0.0, 1.0
    share, z2 = successes / total, z * z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return middle - half, middle + half


def _current(situation: Situation) -> dict[str, int]:
    """The newest wanted percents over today's lanes; all on the primary before the first write or after a lane vanished."""
    lanes = [PRIMARY, *(lane.key for lane in situation.backups)]
    here = {lane: situation.current.get(lane, 0) for lane in lanes}
    if sum(here.values()) != 100:
        return {lane: 100 if lane == PRIMARY else 0 for lane in lanes}
    return here


def _carries_traffic_on_a_down_backup(situation: Situation, here: Mapping[str, int]) -> bool:
    return any(here[lane.key] and lane.health is Health.DOWN for lane in situation.backups)


def _home(situation: Situation, primary_percent: int, reason: str, *, leaves_down_path: bool = False) -> Plan:
    """The primary gets `primary_percent`, the backups share the rest as they do now."""
    here = _current(situation)
    is_reversal = here[PRIMARY] < primary_percent and not situation.heading_home
    return Plan(_split(here, primary_percent), reason, is_reversal=is_reversal, leaves_down_path=leaves_down_path)


def _split(here: Mapping[str, int], primary_percent: int) -> dict[str, int]:
    """Scale the backups' percents to what is left, in whole percents, the first lanes taking the remainders."""
    rest, backups = 100 - primary_percent, {lane: p for lane, p in here.items() if lane != PRIMARY}
    total = sum(backups.values()) or 1
    scaled = {lane: rest * percent // total for lane, percent in backups.items()}
    short = rest - sum(scaled.values())
    for lane in backups:
        if short and backups[lane]:
            scaled[lane] += 1
            short -= 1
    return {PRIMARY: primary_percent, **scaled}


def _pinned(situation: Situation, here: dict[str, int], fit: Sequence[Lane]) -> Plan:
    wanted = situation.pinned_backup_percent or 0
    if wanted == 100 - here[PRIMARY]:
        return Plan(here, f"pinned: backup {wanted} %")
    if wanted and not fit:
        return Plan(here, f"pinned to {wanted} % on the backup, but no backup is fit: {_problems(situation)}")
    percents = dict.fromkeys(here, 0)
    percents[PRIMARY] = 100 - wanted
    if wanted:
        percents[fit[0].key] = wanted
    return Plan(percents, f"pinned: backup {wanted} %", is_persons=True)


def _away(
    situation: Situation, storm: Storm, terms: Terms, here: dict[str, int], fit: Sequence[Lane], now: datetime
) -> Plan:
    if situation.primary.health not in (Health.DOWN, Health.DEGRADED) and not storm.is_manual:
        return Plan(here, f"storm, but the primary is {situation.primary.health} now: nothing moves", storm.id)
    if not fit:
        return Plan(here, f"storm, but no backup is fit: {_problems(situation)}", storm.id)
    moved = 100 - here[PRIMARY]
    if (
        storm.is_manual
        or storm.share_bad >= FAST_SHARE_BAD
        or (situation.primary.health is Health.DOWN and moved >= RAMP_PERCENT[-2])
    ):
        step = 100
    else:
        step = next((percent for percent in RAMP_PERCENT if percent > moved), 100)
        if moved and not _gate_has_passed(situation, terms, now):
            return Plan(here, f"storm: {moved} % moved, waiting before the next step", storm.id)
    percents = _fill(here, fit, step)
    if percents[PRIMARY] >= here[PRIMARY]:
        return Plan(here, f"storm: {moved} % is on the backup", storm.id)
    names = ", ".join(lane.key for lane in fit if percents[lane.key])
    seen = "declared by hand" if storm.is_manual else f"{storm.share_bad:.0%} of the primary's samples bad"
    return Plan(
        percents,
        f"storm {storm.id}: {100 - percents[PRIMARY]} % to {names} ({seen})",
        storm.id,
        leaves_down_path=situation.primary.health is Health.DOWN,
        is_persons=storm.is_manual,
    )


def _fill(here: Mapping[str, int], fit: Sequence[Lane], percent: int) -> dict[str, int]:
    """Fill the fit backups by rank up to their declared capacity; what finds no room stays on the primary."""
    percents = dict.fromkeys(here, 0)
    left = percent
    for lane in fit:
        percents[lane.key] = min(left, lane.capacity_percent)
        left -= percents[lane.key]
    percents[PRIMARY] = 100 - percent + left
    return percents


def _failback(situation: Situation, terms: Terms, share: int, now: datetime) -> Plan:
    if situation.primary.health is not Health.UP:
        return Plan(_current(situation), f"no storm, but the primary is {situation.primary.health}: traffic stays")
    if not _gate_has_passed(situation, terms, now):
        return Plan(_current(situation), f"failback: {share} % is home, waiting before the next step")
    step = next((percent for percent in terms.failback_steps if percent > share), 100)
    return _home(situation, step, f"failback: {step} % to the primary, which is up again")


def _gate_has_passed(situation: Situation, terms: Terms, now: datetime) -> bool:
    """Whether the newest weights were observed, and resolvers and the gate have had their time since."""
    if situation.settled_at is None:
        return False
    return now >= situation.settled_at + timedelta(seconds=2 * situation.ttl_seconds + terms.gate_seconds)


def _problems(situation: Situation) -> str:
    return "; ".join(f"{lane.key}: {lane.problem}" for lane in situation.backups) or "there is none"
