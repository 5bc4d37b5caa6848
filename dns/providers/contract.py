"""The contract of a DNS vendor.

A provider maps; it decides nothing. Weights are integer percents that sum to 100; each vendor translates them (what a
weight of 0 means differs between vendors). Nothing outside `apply` writes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

BEACON_LABEL = "_tranche"

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.(?!\d+$){_LABEL}")


class ProviderError(Exception):
    """A vendor refused or failed. `permanent`: trying again can't help, a person must act."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Member:
    """One weighted answer: `percent` of the queries for the name get a CNAME to `target`."""

    key: str
    """Stable and unique within the record set, such as "primary" or "backup-1"; part of the vendor's identifier."""
    target: str
    percent: int


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

    def __post_init__(self) -> None:
        percents = [member.percent for member in self.members]
        if any(not 0 <= percent <= 100 for percent in percents) or sum(percents) != 100:
            raise ValueError(f"percents must be 0 to 100 with sum 100, not {percents}")
        if len({member.key for member in self.members}) != len(self.members):
            raise ValueError("member keys must differ")
        for member in self.members:
            # Content goes into records, and at some vendors into code: letters, digits, hyphens, and nothing else.
            if not _HOST.fullmatch(member.target.rstrip(".").lower()):
                raise ValueError(f"{member.target!r} is not a hostname, so it can't be a CNAME target")
        if not is_below(self.hostname, self.zone):
            raise ValueError(f"{self.hostname} is not a name below the zone {self.zone}")

    @property
    def beacon_name(self) -> str:
        return f"{BEACON_LABEL}.{self.hostname}"

    @property
    def beacon_value(self) -> str:
        return f"rev={self.generation}"


@dataclass(frozen=True, slots=True)
class Zone:
    name: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the vendor answered to a write. The answer proves nothing about what DNS serves."""

    change_id: str = ""
    details: dict[str, Any] = field(default_factory=dict)


class Provider(ABC):
    """One account at one vendor."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    @abstractmethod
    def find_zone(self, hostname: str) -> Zone:
        """The zone that holds `hostname`, by longest suffix at a dot. Raises ProviderError if there is none or several."""

    @abstractmethod
    def apply(self, wanted: WeightedSet) -> Receipt:
        """Write all members and the beacon in one batch, so that any number of repeats leaves the same records.

        Touches no record that isn't ours. Raises ProviderError.
        """

    @property
    def answers(self) -> bool:
        """Whether a change can be observed in DNS (false for the provider that only logs)."""
        return True


def is_below(name: str, zone: str) -> bool:
    """Whether `name` is `zone` or a name in it, compared at the dot: evilcust.test is not below cust.test."""
    name, zone = name.rstrip(".").lower(), zone.rstrip(".").lower()
    return bool(zone) and (name == zone or name.endswith(f".{zone}"))


def candidate_zones(hostname: str) -> list[str]:
    """The names that can be the zone of `hostname`, longest first; never a top-level domain."""
    labels = hostname.rstrip(".").lower().split(".")
    return [".".join(labels[start:]) for start in range(len(labels) - 1)]
