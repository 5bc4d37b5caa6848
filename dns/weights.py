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
GATE_SHARE_BAD = 0.02
"""A path that takes traffic stepwise gets no more of it while it fails more often than this."""
WORSE_SHARE_BAD = 0.10
"""A backup that fails this often, short of DOWN, is left for a primary that is up."""
SMALL_MOVE_PERCENT = 5
"""Standing shares and drills move no more; the blast radius is about more."""


class Health(StrEnum):
    """A lane's health over all domains: the worst of its paths."""

    UP = "UP"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"
    UNKNOWN = "UNKNOWN"


class Failback(StrEnum):
    AUTOMATIC = "automatic"
    WINDOW = "window"
    APPROVAL = "approval"


class Spread(StrEnum):
    RANK = "rank"
    """The first backup to its declared capacity, then the next."""
    SHARE = "share"
    """All fit backups in proportion to their declared capacity."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One way to serve the whole service. `problem` says why it may take no new traffic; empty means proven fit."""

    key: str
    health: Health
    problem: str = ""
    capacity_percent: int = 100
    share_bad: float = 0.0
    """Share of bad samples in the windows of its worst path (0 to 1)."""


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
    drill_percent: int = 0
    """Of a drill that runs: so much goes to the backup, if nothing else is the matter."""
    frozen: str = ""
    blocked: str = ""
    """Why the primary's CDN is thought to refuse everybody, not only our probes; or ""."""


@dataclass(frozen=True, slots=True)
class Terms:
    gate_seconds: int = 60
    failback_steps: Sequence[int] = (10, 50, 100)
    failback: Failback = Failback.AUTOMATIC
    is_window_open: bool = True
    spread: Spread = Spread.RANK
    standing_percent: int = 0
    """What the backup has in calm times, to keep it warm."""


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
    needs_person: tuple[Refusal, str] | None = None
    """Why a person must decide; such a plan is always held."""
    region: str | None = None
    """None is everywhere, which is all that this release wants."""

    def __post_init__(self) -> None:
        if sum(self.percents.values()) != 100 or any(percent < 0 for percent in self.percents.values()):
            raise ValueError(f"percents must not be negative and sum to 100: {dict(self.percents)}")


class Refusal(StrEnum):
    """Why a plan waits for a person."""

    BLAST_RADIUS = "blast_radius"
    REVERSALS = "reversals"
    FAILBACK = "failback_approval"
    APEX = "apex"
    UNPROVEN = "unproven_domain"
    UNPROVEN_PATH = "unproven_path"
    FOREIGN = "foreign_record"
    UNSAFE_TTL = "unsafe_ttl"
    NOT_ARMED = "not_armed"
    BLOCKED = "blocked"


# --- plan -----------------------------------------------------------------------------------------------------------


def plan(situation: Situation, terms: Terms, now: datetime) -> Plan:
    """The weights that this situation wants. The same situation always wants the same."""
    here, home = _current(situation), _home(situation, terms)
    primary, storm = situation.primary, situation.storm
    fit = [lane for lane in situation.backups if not lane.problem]

    if situation.frozen:
        return Plan(here, f"frozen: {situation.frozen}")
    if situation.pinned_backup_percent is not None:
        return _pinned(situation, here, fit)
    if bad := _bad_backup(situation, here):
        # Protection waits for no gate: to the primary if it is up, else to another backup that is fit.
        if primary.health is Health.UP:
            reason = f"{bad.key} is {bad.health} and the primary is up"
            return _to_primary(situation, home, home[PRIMARY], reason, leaves_down_path=bad.health is Health.DOWN)
        if fit and bad.health is Health.DOWN:
            percents = _fill(here, fit, 100 - here[PRIMARY], terms.spread)
            reason = f"{bad.key} is down: its share goes to {_names(fit, percents)}"
            return Plan(percents, reason, storm.id if storm else None, leaves_down_path=True)
    if storm and not storm.is_over:
        return _away(situation, storm, terms, here, fit, now)
    if storm:
        return Plan(here, "the storm is over and not closed yet: nothing moves", storm.id)
    away = here[PRIMARY] < min(home[PRIMARY], 100 - SMALL_MOVE_PERCENT)
    if situation.blocked and away:
        return Plan(here, f"{situation.blocked}: traffic stays")
    if situation.blocked and fit:
        # Refused probes may be a rule against robots, or a CDN that refuses everybody: who can tell is a person.
        held = Refusal.BLOCKED, f"{situation.blocked}; look whether visitors are refused too"
        percents = _fill(here, fit, 100, terms.spread)
        return Plan(percents, f"{situation.blocked}: to {_names(fit, percents)}", needs_person=held)
    if away:
        return _failback(situation, terms, here, home, now)
    if situation.drill_percent and fit and primary.health is Health.UP:
        percent = max(situation.drill_percent, terms.standing_percent)
        return Plan(_fill(here, fit[:1], percent, Spread.RANK), f"drill: {percent} % to {fit[0].key}")
    if home[PRIMARY] < 100:
        return Plan(home, f"no storm: {100 - home[PRIMARY]} % keeps {_names(fit, home)} warm")
    return Plan(home, "no storm: the primary has it all")


def diff(wanted: Mapping[str, int], there: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Lanes whose percent would change: lane → (from, to). A lane that is missing on one side counts as 0 there."""
    lanes = sorted({*wanted, *there})
    return {
        lane: (there.get(lane, 0), wanted.get(lane, 0)) for lane in lanes if there.get(lane, 0) != wanted.get(lane, 0)
    }


def _current(situation: Situation) -> dict[str, int]:
    """The newest wanted percents over today's lanes; all on the primary before the first write or after a lane vanished."""
    lanes = [PRIMARY, *(lane.key for lane in situation.backups)]
    here = {lane: situation.current.get(lane, 0) for lane in lanes}
    if sum(here.values()) != 100:
        return {lane: 100 if lane == PRIMARY else 0 for lane in lanes}
    return here


def _home(situation: Situation, terms: Terms) -> dict[str, int]:
    """Where traffic is in calm times: a backup that is fit keeps its standing share, or what it has of it."""
    here = _current(situation)
    fit = [lane for lane in situation.backups if not lane.problem]
    if terms.standing_percent and fit:
        return _fill(here, fit[:1], terms.standing_percent, Spread.RANK)
    unclear = [lane for lane in situation.backups if lane.problem and not _is_bad(lane, situation.primary)]
    # Silence about a backup is no reason to change what it has.
    kept = {lane.key: here[lane.key] for lane in unclear if 0 < here[lane.key] <= terms.standing_percent}
    if kept and sum(kept.values()) <= terms.standing_percent:
        return dict.fromkeys(here, 0) | kept | {PRIMARY: 100 - sum(kept.values())}
    return dict.fromkeys(here, 0) | {PRIMARY: 100}


def _bad_backup(situation: Situation, here: Mapping[str, int]) -> Lane | None:
    """The worst backup that carries traffic which it should not."""
    bad = [lane for lane in situation.backups if here[lane.key] and _is_bad(lane, situation.primary)]
    return min(bad, key=lambda lane: lane.health is not Health.DOWN, default=None)


def _is_bad(backup: Lane, primary: Lane) -> bool:
    if backup.health is Health.DOWN:
        return True
    return backup.health is Health.DEGRADED and backup.share_bad >= WORSE_SHARE_BAD and primary.health is Health.UP


def _to_primary(
    situation: Situation, home: Mapping[str, int], primary_percent: int, reason: str, *, leaves_down_path: bool = False
) -> Plan:
    """The primary gets `primary_percent`, the backups share the rest as they do now."""
    here = _current(situation)
    is_reversal = here[PRIMARY] < min(primary_percent, 100 - SMALL_MOVE_PERCENT) and not situation.heading_home
    percents = dict(home) if primary_percent >= home[PRIMARY] else _split(here, primary_percent)
    return Plan(percents, reason, is_reversal=is_reversal, leaves_down_path=leaves_down_path)


def _split(here: Mapping[str, int], primary_percent: int) -> dict[str, int]:
    """Scale the backups' percents to what is left, in whole percents, the first lanes taking the remainders."""
    rest, backups = 100 - primary_percent, {lane: p for lane, p in here.items() if lane != PRIMARY}
    return {PRIMARY: primary_percent, **_in_proportion(rest, backups)}


def _in_proportion(percent: int, shares: Mapping[str, int]) -> dict[str, int]:
    """`percent` over these shares, in whole percents, the first lanes taking the remainders."""
    total = sum(shares.values()) or 1
    scaled = {lane: percent * share // total for lane, share in shares.items()}
    short = percent - sum(scaled.values())
    for lane in shares:
        if short and shares[lane]:
            scaled[lane] += 1
            short -= 1
    return scaled


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
    # A storm that was partial for long may have become a whole one just now.
    share_bad = max(storm.share_bad, situation.primary.share_bad)
    if (
        storm.is_manual
        or share_bad >= FAST_SHARE_BAD
        or (situation.primary.health is Health.DOWN and moved >= RAMP_PERCENT[-2])
    ):
        step = 100
    else:
        step = next((percent for percent in RAMP_PERCENT if percent > moved), 100)
        # What keeps a backup warm is no first step.
        if moved > SMALL_MOVE_PERCENT and (waiting := _gate(situation, terms, fit, now)):
            return Plan(here, f"storm: {moved} % moved, {waiting}", storm.id)
    percents = _fill(here, fit, step, terms.spread)
    if percents[PRIMARY] >= here[PRIMARY]:
        return Plan(here, f"storm: {moved} % is on the backup", storm.id)
    seen = "declared by hand" if storm.is_manual else f"{share_bad:.0%} of the primary's samples bad"
    return Plan(
        percents,
        f"storm {storm.id}: {100 - percents[PRIMARY]} % to {_names(fit, percents)} ({seen})",
        storm.id,
        leaves_down_path=situation.primary.health is Health.DOWN,
        is_persons=storm.is_manual,
    )


def _fill(here: Mapping[str, int], fit: Sequence[Lane], percent: int, spread: Spread) -> dict[str, int]:
    """Fill the fit backups up to their declared capacity; what finds no room stays on the primary."""
    percents = dict.fromkeys(here, 0)
    left = percent
    if spread is Spread.SHARE:
        room = min(percent, sum(lane.capacity_percent for lane in fit))
        percents |= _in_proportion(room, {lane.key: lane.capacity_percent for lane in fit})
        left -= room
    else:
        for lane in fit:
            percents[lane.key] = min(left, lane.capacity_percent)
            left -= percents[lane.key]
    percents[PRIMARY] = 100 - percent + left
    return percents


def _failback(situation: Situation, terms: Terms, here: dict[str, int], home: dict[str, int], now: datetime) -> Plan:
    share = here[PRIMARY]
    if situation.primary.health is not Health.UP:
        return Plan(here, f"no storm, but the primary is {situation.primary.health}: traffic stays")
    if not situation.heading_home and terms.failback is Failback.WINDOW and not terms.is_window_open:
        return Plan(here, "failback waits for its window")
    if waiting := _gate(situation, terms, [situation.primary], now):
        return Plan(here, f"failback: {share} % is home, {waiting}")
    step = min(next((percent for percent in terms.failback_steps if percent > share), 100), home[PRIMARY])
    wanted = _to_primary(situation, home, step, f"failback: {step} % to the primary, which is up again")
    if terms.failback is Failback.APPROVAL and not situation.heading_home:
        held = Refusal.FAILBACK, "this service comes home when a person approves; the steps after that go by themselves"
        return Plan(wanted.percents, wanted.reason, is_reversal=wanted.is_reversal, needs_person=held)
    return wanted


def _gate(situation: Situation, terms: Terms, takers: Sequence[Lane], now: datetime) -> str:
    """Why the next step waits: until the newest weights were observed, resolvers and the gate have had their time since,
    and who takes the traffic answers. "" once it may go.
    """
    if situation.settled_at is None:
        return "waiting until DNS shows it"
    opens_at = situation.settled_at + timedelta(seconds=2 * situation.ttl_seconds + terms.gate_seconds)
    if now < opens_at:
        return f"waiting before the next step, until {opens_at:%H:%M:%S} UTC"
    for lane in takers:
        if lane.share_bad > GATE_SHARE_BAD:
            return f"waiting, since {lane.share_bad:.0%} of {lane.key}'s samples are bad"
    return ""


def _names(fit: Sequence[Lane], percents: Mapping[str, int]) -> str:
    return ", ".join(lane.key for lane in fit if percents[lane.key])


def _problems(situation: Situation) -> str:
    return "; ".join(f"{lane.key}: {lane.problem}" for lane in situation.backups) or "there is none"


# --- guard ----------------------------------------------------------------------------------------------------------


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
    foreign: str = ""
    """Why nothing is written over what stands there, or ""."""
    unarmed: str = ""
    """Which must-have of the check list does not hold, or ""."""
    has_apex_form: bool = False
    """Its vendor can weigh answers at an apex, and every path has a form that may stand there."""


def guard(
    wanted: Plan, here: Mapping[str, int], places: Sequence[Place], traffic: Traffic
) -> tuple[Refusal, str] | None:
    """Why this plan must wait for a person, or None.

    Leaving a DOWN path is stopped by the blast radius, and by what would write where we may not; never by a budget.
    """
    for place in places:
        if place.proof_problem:
            return Refusal.UNPROVEN, place.proof_problem
        if place.hostname == place.zone and not place.has_apex_form:
            return Refusal.APEX, f"{place.hostname} is its zone's apex, where no CNAME may stand"
        if place.foreign:
            return Refusal.FOREIGN, f"{place.hostname}: {place.foreign}"
        if place.ttl_seconds > 300:
            return Refusal.UNSAFE_TTL, f"{place.hostname} has a TTL of {place.ttl_seconds} s; at most 300"
        # What went away comes home whatever became of the list meanwhile.
        if place.unarmed and wanted.percents.get(PRIMARY, 0) <= here.get(PRIMARY, 100):
            return Refusal.NOT_ARMED, f"{place.hostname} is not armed: {place.unarmed}"
    if wanted.needs_person:
        return wanted.needs_person
    if wanted.is_reversal and not wanted.leaves_down_path and traffic.reversals_last_hour >= traffic.reversal_limit:
        return Refusal.REVERSALS, f"{traffic.reversals_last_hour} reversals within the last hour"
    if here.get(PRIMARY, 100) - wanted.percents.get(PRIMARY, 0) > SMALL_MOVE_PERCENT and not wanted.is_persons:
        limit = max(traffic.radius_floor, math.floor(traffic.radius_share * traffic.domains_total))
        lately = traffic.domains_moved_in_wave if traffic.corroborated else traffic.domains_moved_lately
        moving, span = lately + len(places), "in one wave" if traffic.corroborated else "in ten minutes"
        if moving > limit:
            return Refusal.BLAST_RADIUS, f"{moving} domains would have moved {span}; at most {limit} do by themselves"
    return None
