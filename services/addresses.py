"""From a target's name to the addresses to connect to, cached for as long as DNS allows (at most half a minute).

The resolvers are asked by `services.lookup`, never `getaddrinfo`: it blocks a thread of a small pool, so that a few
names that hang would hold up every other.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from services import hostnames, lookup
from services.probe import Family

CACHE_SECONDS = 30.0
FAILURE_SECONDS = 1.0
"""How long a failure is remembered, so that a dead name costs little."""
RESOLVER_ALIVE_SECONDS = 15.0
"""A resolver that answered anything this lately is alive: what it can't tell now is the name's fault, not ours."""
TRY_SECONDS, ROUNDS = 1.0, 2
"""How long one server is waited for before the next is asked, and how often each is: datagrams get lost."""
STALE_SECONDS = 300.0
"""Our resolvers' silence is no news about a name: its last answer is used for so much longer (RFC 8767)."""
_HOPS = 8
_TYPES = {Family.IPV4: ("A",), Family.IPV6: ("AAAA",), Family.EITHER: ("A", "AAAA")}
_WORDS = {Family.IPV4: "no IPv4 address", Family.IPV6: "no IPv6 address", Family.EITHER: "no address"}


@dataclass(frozen=True, slots=True)
class Resolved:
    """`is_ours`: the problem says nothing about the name. `lacks_family`: the name is well, but not of this family."""

    addresses: tuple[str, ...] = ()
    problem: str = ""
    is_ours: bool = False
    lacks_family: bool = False
    is_silence: bool = False
    """No server said anything."""


class Addresses:
    """A cache of names for one event loop. One lookup a name at a time, whoever waits for it.

    `is_cached` False asks anew each time: canaries must see a resolver that lies at the moment when others do.
    """

    def __init__(self, *, is_cached: bool = True) -> None:
        self._is_cached = is_cached
        self._known: dict[tuple[str, Family], tuple[float, Resolved]] = {}
        self._good: dict[tuple[str, Family], tuple[float, Resolved]] = {}
        """The last answers that held addresses, and until when they may be used without a newer one."""
        self._asked: dict[tuple[str, Family], asyncio.Task[Resolved]] = {}
        self._forgotten_at = time.monotonic()
        self._answered_at: dict[lookup.Server, float] = {}

    async def find(self, name: str, family: Family, timeout_seconds: float) -> Resolved:
        if hostnames.is_address(name):
            return _literal(name, family)
        if hostnames.problem(hostnames.normalize(name)):
            return Resolved(problem=f"“{name}” does not resolve: it is no hostname")
        key = name, family
        if (known := self._known.get(key)) and time.monotonic() < known[0]:
            return known[1]
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._look_up(key))
            task.add_done_callback(lambda done: self._asked.pop(key, None))
        try:
            return await asyncio.wait_for(asyncio.shield(task), timeout_seconds)
        except TimeoutError:
            if stale := self._stale(key):
                return stale
            problem = f"resolving {name} took longer than {timeout_seconds:g} s"
            # An authority that a setting names is the name's own; a resolver is ours.
            return Resolved(problem=problem, is_ours=not lookup.override_for(name) and not self._is_anyone_alive())

    def close(self) -> None:
        for task in list(self._asked.values()):
            task.cancel()

    async def _look_up(self, key: tuple[str, Family]) -> Resolved:
        name, family = key
        try:
            overriding = lookup.override_for(name)
            servers = overriding or lookup.resolvers()
        except lookup.LookupFailed as error:
            return Resolved(problem=str(error), is_ours=True)
        resolved, seconds = Resolved(), 0.0
        for qtype in _TYPES[family]:
            resolved, seconds = await self._follow(servers, name, qtype, recursive=not overriding)
            if resolved.addresses or resolved.problem:
                break
        if not resolved.addresses and not resolved.problem:
            resolved = Resolved(problem=f"{name} has {_WORDS[family]}", lacks_family=True)
        if resolved.is_silence and not overriding and (stale := self._stale(key)):
            return stale
        if resolved.addresses:
            self._good[key] = (time.monotonic() + seconds + STALE_SECONDS, resolved)
        seconds = (seconds if resolved.addresses else FAILURE_SECONDS) if self._is_cached else 0.0
        self._known[key] = (time.monotonic() + seconds, resolved)
        self._forget(time.monotonic())
        return resolved

    async def _follow(
        self, servers: list[lookup.Server], name: str, qtype: str, *, recursive: bool
    ) -> tuple[Resolved, float]:
        """Along CNAMEs, each asked for as often as it takes. No addresses and no problem: there is none of this type."""
        first, seconds = name, CACHE_SECONDS
        for _ in range(_HOPS):
            answer = await self._ask(servers, name, qtype, recursive=recursive)
            if answer.error:
                is_ours = recursive and not answer.rcode and not (answer.reached and self._is_anyone_alive())
                problem = f"{first} does not resolve: {answer.error}"
                return Resolved(problem=problem, is_ours=is_ours, is_silence=not answer.rcode), 0.0
            if answer.rcode == "NXDOMAIN":
                return Resolved(problem=f"{first} does not resolve: there is no {name} (NXDOMAIN)"), 0.0
            seconds = min([seconds, *(record.ttl_seconds for record in answer.records)])
            addresses = tuple(dict.fromkeys(record.value for record in answer.records if record.type == qtype))
            if addresses:
                return Resolved(addresses), seconds
            alias = _end_of_aliases(answer, name)
            if alias == name:
                return Resolved(), 0.0
            name = alias
        return Resolved(problem=f"{first} is behind more than {_HOPS} CNAMEs"), 0.0

    async def _ask(self, servers: list[lookup.Server], name: str, qtype: str, *, recursive: bool) -> lookup.Answer:
        """The first server that tells something; the last one's excuse if none does."""
        answer = lookup.Answer("", name, qtype, error="there is no server to ask")
        for server in servers * ROUNDS:
            answer = await lookup.ask(server, name, qtype, timeout_seconds=TRY_SECONDS, recursive=recursive)
            if answer.rcode and recursive:
                self._answered_at[server] = time.monotonic()
            if not answer.error:
                break
        return answer

    def _forget(self, now: float) -> None:
        """Names come and go; this is looked at once a minute."""
        if now - self._forgotten_at >= 60:
            self._forgotten_at = now
            self._known = {key: kept for key, kept in self._known.items() if now < kept[0]}
            self._good = {key: kept for key, kept in self._good.items() if now < kept[0]}

    def _stale(self, key: tuple[str, Family]) -> Resolved | None:
        """Not for who must see that the resolver is silent."""
        until, resolved = self._good.get(key, (0.0, None))
        return resolved if self._is_cached and time.monotonic() < until else None

    def _is_anyone_alive(self) -> bool:
        newest = max(self._answered_at.values(), default=float("-inf"))
        return time.monotonic() - newest < RESOLVER_ALIVE_SECONDS


def _literal(name: str, family: Family) -> Resolved:
    address = name.strip("[]")
    if family and (":" in address) != (family is Family.IPV6):
        return Resolved(problem=f"{name} has {_WORDS[family]}", lacks_family=True)
    return Resolved((address,))


def _end_of_aliases(answer: lookup.Answer, name: str) -> str:
    """Where the CNAMEs of one answer lead from `name`, in whatever order they stand."""
    aliases = {record.name: record.value for record in answer.records if record.type == "CNAME"}
    for _ in aliases:
        name = aliases.get(name, name)
    return name
