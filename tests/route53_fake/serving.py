"""What the authoritative servers answer from: per zone an index by name, filled as changes reach the servers.

Names are in wire form and lower case here, record data is prepared once, so that an answer costs a few lookups.
"""

from __future__ import annotations

import bisect
import itertools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tests.route53_fake import names, records
from tests.route53_fake.changes import Node
from tests.route53_fake.records import TYPE_CODES, RecordSet

IsHealthy = Callable[[str], bool]

A, NS, CNAME, SOA, AAAA = (TYPE_CODES[name] for name in ("A", "NS", "CNAME", "SOA", "AAAA"))
_IN = 1
_ALIAS_TTL_SECONDS = 60
_TO_THE_QUESTION = b"\xc0\x0c"
"""As the owner of a record: the name that was asked for."""
_ANY_LABEL = b"\x01*"
_MOST_STEPS = 8


@dataclass(frozen=True, slots=True)
class Member:
    """One record set, ready to be sent."""

    weight: int
    health_check: str | None
    tails: tuple[bytes, ...]
    """Of each record, what follows the owner's name."""
    payload: bytes
    """The records with the question's name as their owner."""
    values: tuple[str, ...]
    leads_to: bytes
    """Where a CNAME within the zone, or an alias to a name in it, goes on; b"" if nowhere."""
    is_alias: bool


@dataclass(frozen=True, slots=True)
class Group:
    """The record sets of one name and type."""

    members: tuple[Member, ...]
    checked: bool
    """Whether any member has a health check."""
    leads_on: bool
    bounds: tuple[int, ...]
    """The weights added up, of the members that can be chosen as long as nobody asks for health."""
    choices: tuple[Member, ...]

    def pick(self, random: Random, is_healthy: IsHealthy) -> Member:
        if len(self.members) == 1:
            return self.members[0]
        if not self.checked:
            return self.choices[bisect.bisect(self.bounds, random.random() * self.bounds[-1])]
        positive = [member for member in self.members if member.weight]
        zero = [member for member in self.members if not member.weight]
        # Members at 0 stand in once no other is healthy; if none is at all, all are taken for healthy.
        choices = _healthy(positive, is_healthy) or _healthy(zero, is_healthy) or positive or zero
        bounds = _bounds(choices)
        return choices[bisect.bisect(bounds, random.random() * bounds[-1])]


def _healthy(members: Iterable[Member], is_healthy: IsHealthy) -> list[Member]:
    return [member for member in members if member.health_check is None or is_healthy(member.health_check)]


def _bounds(members: Sequence[Member]) -> tuple[int, ...]:
    """If all are at 0, each is as likely as the others."""
    weights = [member.weight for member in members]
    return tuple(itertools.accumulate(weights if any(weights) else [1] * len(weights)))


class Served:
    """One zone as its servers have it."""

    def __init__(self, name: str, addresses: Mapping[str, Sequence[str]]) -> None:
        self.origin = names.wire(name)
        self.parent_names: tuple[str, ...] = ()
        """Name servers that the world is told instead of the zone's own, if the parent leads elsewhere."""
        self.cuts: set[bytes] = set()
        """Names below the apex that are delegated to others."""
        self._addresses = addresses
        self._nodes: dict[bytes, Node] = {}
        self._numbers: dict[bytes, int] = {}
        self._groups: dict[bytes, dict[int, Group]] = {}
        self._above: set[bytes] | None = None
        """Names that have something below them, found anew after names came or went."""

    def publish(self, touched: Mapping[str, Node], number: int) -> None:
        """Takes what one change made of its names, unless a later change was here before."""
        for name, node in touched.items():
            key = names.wire(name)
            if self._numbers.get(key, -1) > number:
                continue
            self._numbers[key] = number
            if (key in self._nodes) != bool(node):
                self._above = None
            if node:
                self._nodes[key] = node
            else:
                self._nodes.pop(key, None)
            self._groups.pop(key, None)
            if key != self.origin:
                (self.cuts.add if any(qtype == "NS" for qtype, _ in node) else self.cuts.discard)(key)

    def forget(self) -> None:
        """Prepared answers; for when something that they were made of has changed."""
        self._groups.clear()

    def nodes_by_name(self) -> dict[str, Node]:
        return {next(iter(node.values())).name: node for node in self._nodes.values()}

    def groups(self, key: bytes) -> dict[int, Group] | None:
        found = self._groups.get(key)
        if found is None and key in self._nodes:
            found = self._groups[key] = self._prepared(key)
        return found

    def exists(self, key: bytes) -> bool:
        """Whether the name has records, or names with records below it."""
        if key in self._nodes:
            return True
        if self._above is None:
            self._above = {above for name in list(self._nodes) for above in _ancestors(name, self.origin)}
        return key in self._above

    def wildcard(self, key: bytes) -> bytes:
        """The wildcard that stands in for a name that doesn't exist, or b""."""
        for above in _ancestors(key, self.origin):
            if self.exists(above):
                return _ANY_LABEL + above if _ANY_LABEL + above in self._nodes else b""
        return b""

    def cut_above(self, key: bytes) -> bytes:
        """The delegated name at or above this one, b"" if there is none."""
        found = b""
        for above in (key, *_ancestors(key, self.origin)):
            if above in self.cuts:
                found = above
        return found

    def records_at(self, key: bytes, qtype: int, random: Random, is_healthy: IsHealthy) -> list[tuple[bytes, Member]]:
        """What answers a name that exists: record sets with their owners, in the order in which CNAMEs lead to them."""
        found: list[tuple[bytes, Member]] = []
        owner = key
        for _ in range(_MOST_STEPS):
            groups = self.groups(owner if self.exists(owner) else self.wildcard(owner)) or {}
            kind = qtype if qtype in groups else CNAME
            if kind not in groups:
                return found
            member = self._without_alias(groups[kind].pick(random, is_healthy), kind, random, is_healthy)
            if member is None:
                return found
            found.append((owner, member))
            if kind == qtype or not member.leads_to:
                return found
            owner = member.leads_to
        return found

    def _without_alias(self, member: Member, qtype: int, random: Random, is_healthy: IsHealthy) -> Member | None:
        """What an alias stands for, None if its target is gone."""
        for _ in range(_MOST_STEPS):
            if not member.is_alias:
                return member
            group = (self.groups(member.leads_to) or {}).get(qtype)
            if group is None:
                return None
            member = group.pick(random, is_healthy)
        return None

    def _prepared(self, key: bytes) -> dict[int, Group]:
        by_type: dict[int, list[Member]] = {}
        for there in sorted(self._nodes[key].values(), key=lambda there: there.identifier or ""):
            if there.type in TYPE_CODES:
                values = self.parent_names if key == self.origin and there.type == "NS" else ()
                by_type.setdefault(TYPE_CODES[there.type], []).append(self._member(there, values or there.values))
        return {qtype: _group(members) for qtype, members in by_type.items()}

    def _member(self, there: RecordSet, values: tuple[str, ...]) -> Member:
        ttl, inside = there.ttl, b""
        alias_here = False
        if there.alias is not None:
            ttl = _ALIAS_TTL_SECONDS
            alias_here = names.wire(there.alias).endswith(self.origin) and there.alias not in self._addresses
            values = () if alias_here else tuple(self._alias_values(there))
            inside = names.wire(there.alias) if alias_here else b""
        elif there.type == "CNAME" and records.rdata("CNAME", values[0]).lower().endswith(self.origin):
            inside = records.rdata("CNAME", values[0]).lower()
        code = TYPE_CODES[there.type]
        encoded = [records.rdata(there.type, value) for value in values]
        tails = tuple(struct.pack("!HHIH", code, _IN, ttl or 0, len(data)) + data for data in encoded)
        payload = b"".join([_TO_THE_QUESTION + tail for tail in tails])
        weight = there.weight if there.weight is not None else 1
        return Member(weight, there.health_check, tails, payload, values, inside, alias_here)

    def _alias_values(self, there: RecordSet) -> Iterable[str]:
        family = ":" if there.type == "AAAA" else "."
        return [address for address in self._addresses.get(there.alias or "", ()) if family in address]


def _group(members: list[Member]) -> Group:
    positive = tuple(member for member in members if member.weight) or tuple(members)
    return Group(
        tuple(members),
        any(member.health_check for member in members),
        any(member.leads_to for member in members),
        _bounds(positive),
        positive,
    )


def _ancestors(key: bytes, origin: bytes) -> Iterable[bytes]:
    """The names above one, up to the zone's own."""
    while key != origin and len(key) > 1:
        key = key[key[0] + 1 :]
        yield key
