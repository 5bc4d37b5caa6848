"""The contract of a DNS vendor.

A provider maps; it decides nothing. Weights are integer percents that sum to 100; each vendor translates them (what a
weight of 0 means differs between vendors). Nothing but `apply`, `adopt`, `release` and `arm` writes.

Every call to the vendor's API is paid for first (`spend`), so that an account's bucket is never overdrawn.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

BEACON_LABEL = "_tranche"
REVISION = "rev="

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.(?!\d+$){_LABEL}")


class Trouble(StrEnum):
    """What is wrong, in a word for console, API and alerts."""

    FOREIGN = "foreign_record"
    """A record that is not ours stands where ours would."""
    ACCESS = "access_denied"
    ZONE = "no_zone"
    PROTECTED = "protected"
    """The vendor's own protection of the record set; a person must lift it."""
    UNSAFE = "unsafe_record"
    """Ours would break the zone, or carry what is no hostname."""
    STALE = "stale"
    """A newer plan stands there already."""
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    MISCONFIGURED = "misconfigured"
    """The account or the server lacks what weighted records need."""
    REFUSED = "refused"


class ProviderError(Exception):
    """A vendor refused or failed.

    `permanent`: trying again can't help, a person must act. `unknown`: it may have been done all the same.
    `is_accounts`: it is nothing about this name; every other write of the account would fail likewise.
    """

    def __init__(
        self,
        message: str,
        *,
        permanent: bool,
        unknown: bool = False,
        trouble: Trouble = Trouble.REFUSED,
    ) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.unknown = unknown
        self.trouble = trouble

    @property
    def is_accounts(self) -> bool:
        return self.trouble in (Trouble.ACCESS, Trouble.THROTTLED, Trouble.UNREACHABLE, Trouble.MISCONFIGURED)


@dataclass(frozen=True, slots=True)
class Member:
    """One weighted answer: `percent` of the queries for the name are led to `target`."""

    key: str
    """Stable and unique within the record set, such as "primary" or "backup-1"; part of the vendor's identifier."""
    target: str
    percent: int
    addresses: tuple[str, ...] = ()
    """At an apex, where no CNAME may stand: the fixed addresses that are served instead of `target`."""
    health_check_id: str = ""
    """Of a vendor's health check that takes this member out of the answers."""


@dataclass(frozen=True, slots=True)
class WeightedSet:
    """All that Tranche writes for one hostname: every member, one TTL, and the revision beacon, in one atomic write.

    The beacon is a TXT at `_tranche.<hostname>` that says `rev=<generation>`: who sees it sees this write.
    """

    hostname: str
    zone: str
    zone_id: str
    ttl_seconds: int
    generation: int
    members: tuple[Member, ...]
    expects: int | None = None
    """The generation that must stand there for the write to be done, at vendors that can compare and set."""

    def __post_init__(self) -> None:
        percents = [member.percent for member in self.members]
        if any(not 0 <= percent <= 100 for percent in percents) or sum(percents) != 100:
            raise ValueError(f"percents must be 0 to 100 with sum 100, not {percents}")
        if len({member.key for member in self.members}) != len(self.members):
            raise ValueError("member keys must differ")
        for member in self.members:
            # Content goes into records, and at some vendors into code: letters, digits, hyphens, and nothing else.
            if not is_hostname(member.target):
                raise ValueError(f"{member.target!r} is not a hostname, so it can't be a CNAME target")
        if not is_hostname(self.hostname):
            raise ValueError(f"{self.hostname!r} is not a hostname")
        if not is_below(self.hostname, self.zone):
            raise ValueError(f"{self.hostname} is not a name below the zone {self.zone}")

    @property
    def is_apex(self) -> bool:
        return self.hostname == self.zone

    @property
    def beacon_name(self) -> str:
        return f"{BEACON_LABEL}.{self.hostname}"

    @property
    def beacon_value(self) -> str:
        return f"{REVISION}{self.generation}"


@dataclass(frozen=True, slots=True)
class Zone:
    name: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the vendor's API says stands at one hostname."""

    hostname: str
    generation: int | None = None
    """Of our beacon; None without one."""
    members: tuple[Member, ...] = ()
    """Ours, by whatever the vendor keeps of whose they are."""
    ttl_seconds: int | None = None
    foreign: tuple[str, ...] = ()
    """Whatever else stands at the name, described."""
    foreign_ttl_seconds: int | None = None
    """The longest TTL of those: how long caches may keep them once they are gone."""

    def difference(self, wanted: WeightedSet) -> str:
        """What is not as wanted, in words; "" if all is. Members at 0 may be missing."""
        if self.foreign:
            return f"a record that is not ours: {self.foreign[0]}"
        if self.generation != wanted.generation:
            shown = "no revision" if self.generation is None else f"{REVISION}{self.generation}"
            return f"{shown}, and {wanted.beacon_value} was written"
        mine = {m.key: (m.target.rstrip(".").lower(), m.percent) for m in self.members}
        theirs = {m.key: (m.target.rstrip(".").lower(), m.percent) for m in wanted.members}
        for key in sorted({*mine, *theirs}):
            target, percent = mine.get(key, ("", 0))
            wanted_target, wanted_percent = theirs.get(key, ("", 0))
            if percent != wanted_percent:
                return f"{key} is {target or 'missing'} at {percent} %, and {wanted_percent} % was written"
            if percent and target != wanted_target:
                return f"{key} is {target}, and {wanted_target} was written"
        checked = {member.key: member.health_check_id for member in self.members}
        for member in wanted.members:
            if member.health_check_id and checked.get(member.key) != member.health_check_id:
                return f"{member.key} has lost its health check {member.health_check_id}"
        if self.ttl_seconds != wanted.ttl_seconds:
            return f"the TTL is {self.ttl_seconds} s, and {wanted.ttl_seconds} s was written"
        return ""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the onboarding check list. `advice` says what to do where it does not hold."""

    name: str
    holds: bool
    text: str
    advice: str = ""
    is_must: bool = True
    """Nothing is steered until it holds; the others are told."""
    is_unclear: bool = False
    """It could not be looked at now, which neither arms nor disarms."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the vendor answered to a write. The answer proves nothing about what DNS serves."""

    change_id: str = ""
    is_live: bool = True
    """False: the vendor's own servers do not all have it yet, and `is_live` is to be asked."""
    details: dict[str, Any] = field(default_factory=dict)


def _free() -> None:
    """Calls that nobody counts."""


def _no_data_plane() -> ProviderError:
    return ProviderError("this vendor has no health checks", permanent=True, trouble=Trouble.MISCONFIGURED)


class Provider(ABC):
    """One account at one vendor. Raises ProviderError, and nothing else, from every method."""

    most_per_write = 1
    """Hostnames in one atomic write."""
    answers = True
    """Whether a change can be observed in DNS (false for the provider that only logs)."""
    is_metered = True
    """Whether its calls are counted against the account's bucket."""
    has_zone_ids = False
    """Whether a zone is addressed by an id besides its name."""
    one_writer = False
    """Whether two writes to the account at a time get in each other's way."""
    has_apex = False
    """Whether it can weigh answers at a zone's apex."""
    has_data_plane = False
    """Whether health checks can shift traffic without a call to its API."""

    def __init__(
        self,
        options: Mapping[str, Any],
        credentials: Mapping[str, Any] | None = None,
        spend: Callable[[], None] = _free,
    ) -> None:
        self.options = options
        self.credentials = credentials or {}
        self.spend = spend
        """Called before each call to the vendor's API; raises ProviderError (throttled) when the bucket is empty."""

    @abstractmethod
    def find_zone(self, hostname: str) -> Zone:
        """The zone that holds `hostname`, by longest suffix at a dot. Raises ProviderError if there is none or several."""

    @abstractmethod
    def apply(self, wanted: Sequence[WeightedSet]) -> Receipt:
        """Write all these sets of one zone, members and beacons, in one atomic write, without reading first.

        Any number of repeats leaves the same records. Touches no record that isn't ours. At most `most_per_write`.
        """

    @abstractmethod
    def read(self, zone: Zone, hostnames: Collection[str]) -> dict[str, Standing]:
        """What stands at each of these names, every one of them in the answer."""

    @abstractmethod
    def adopt(self, wanted: WeightedSet) -> Receipt:
        """Replace the simple record at the name by our weighted set, in one atomic write. Only an operator's act."""

    @abstractmethod
    def release(self, wanted: WeightedSet, target: str) -> Receipt:
        """Replace our set by a simple CNAME to `target`, in one atomic write, and take the beacon away. An operator's act."""

    def is_live(self, receipt: Mapping[str, Any]) -> bool:
        """Whether all the vendor's servers have what this receipt (as stored: change_id and details) stands for."""
        return True

    def preflight(self, zone: Zone, hostname: str) -> list[Check]:
        """What the vendor's side lacks for `hostname` to be steered; reads only."""
        return []

    def fits(self, wanted: WeightedSet) -> str:
        """Why this set can't be written, for the form of the vendor's records alone; "" if it can. Asks nobody."""
        return ""

    def permissions(self, zone: Zone, hostnames: Sequence[str]) -> str:
        """What the customer has to grant, as text to paste; "" where there is nothing to grant by text."""
        return ""

    def name_servers(self, zone: Zone) -> list[str]:
        """Whom the vendor wants the parent to delegate to; [] where it can't say."""
        return []

    def script(self, wanted: WeightedSet) -> str:
        """Plain shell commands of the vendor's own tools that write this set, for break-glass; "" if there are none."""
        return ""

    def arm(self, reference: str, beacon_url: str, marker: str) -> str:
        """Create a health check that fails, and so takes its member away, once what the URL serves says `marker`.

        Returns its id; the same one for the same `reference`. Only where `has_data_plane`.
        """
        raise _no_data_plane()

    def disarm(self, health_check_id: str) -> None:
        """Delete the health check, if it is there; no record may name it any more. Only where `has_data_plane`."""
        raise _no_data_plane()


def is_hostname(name: str) -> bool:
    """Letters, digits, hyphens and underscores by label, at least two labels, and no address."""
    return name.isascii() and bool(_HOST.fullmatch(name.rstrip(".").lower()))


def is_below(name: str, zone: str) -> bool:
    """Whether `name` is `zone` or a name in it, compared at the dot: evilcust.test is not below cust.test."""
    name, zone = name.rstrip(".").lower(), zone.rstrip(".").lower()
    return bool(zone) and (name == zone or name.endswith(f".{zone}"))


def candidate_zones(hostname: str) -> list[str]:
    """The names that can be the zone of `hostname`, longest first; never a top-level domain."""
    labels = hostname.rstrip(".").lower().split(".")
    return [".".join(labels[start:]) for start in range(len(labels) - 1)]


def revision(values: Collection[str]) -> int | None:
    """The generation that a beacon's TXT values name; of several the lowest, None for none."""
    texts = [value.removeprefix(REVISION) for value in values if value.startswith(REVISION)]
    numbers = [int(text) for text in texts if len(text) < 20 and text.isdecimal()]
    return min(numbers, default=None)
