"""From a target's name to the addresses to connect to, cached for as long as DNS allows (at most a minute)."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass

from services import hostnames, lookup

CACHE_SECONDS = 30.0
_HOPS = 8


@dataclass(frozen=True, slots=True)
class Resolved:
    addresses: tuple[str, ...] = ()
    problem: str = ""


class Addresses:
    """A cache of names for one event loop. Failures are cached for a second, so that a dead name costs little."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Resolved]] = {}

    async def find(self, name: str, timeout_seconds: float) -> Resolved:
        if hostnames.is_address(name):
            return Resolved((name.strip("[]"),))
        now = time.monotonic()
        if (known := self._known.get(name)) and now < known[0]:
            return known[1]
        try:
            resolved, seconds = await asyncio.wait_for(_resolve(name), timeout_seconds)
        except TimeoutError:
            resolved, seconds = Resolved(problem=f"resolving {name} took longer than {timeout_seconds:g} s"), 0.0
        self._known[name] = (now + (seconds if resolved.addresses else 1.0), resolved)
        return resolved


async def _resolve(name: str) -> tuple[Resolved, float]:
    if override := lookup.override_for(name):
        return await _follow(override, name)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return Resolved(problem=f"{name} does not resolve: {error.strerror or error}"), 0.0
    except UnicodeError:
        return Resolved(problem=f"{name} does not resolve: it is no hostname"), 0.0
    return Resolved(tuple(dict.fromkeys(str(info[4][0]) for info in found))), CACHE_SECONDS


async def _follow(servers: list[tuple[str, int]], name: str) -> tuple[Resolved, float]:
    """Ask the servers that settings name for this suffix, along CNAMEs that stay within it."""
    seconds = CACHE_SECONDS
    for _ in range(_HOPS):
        answer = await lookup.ask(servers[0], name, "A")
        if answer.error:
            return Resolved(problem=f"{name} does not resolve: {answer.error}"), 0.0
        seconds = min([seconds, *(record.ttl_seconds for record in answer.records)])
        addresses = tuple(record.value for record in answer.records if record.type == "A")
        if addresses:
            return Resolved(addresses), seconds
        alias = next((r.value for r in answer.records if r.type == "CNAME" and r.name == name), None)
        if alias is None:
            return Resolved(problem=f"{name} has no address"), 0.0
        name = alias.rstrip(".")
    return Resolved(problem=f"{name} is behind more than {_HOPS} CNAMEs"), 0.0
