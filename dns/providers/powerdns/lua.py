"""The Lua of a PowerDNS record that weighs targets: written, and read back. It looks like

    CNAME "pickwrandom({{90,'p.cdn.test.'},{10,'b.cdn.test.'}})--[[tranche:v1:42:primary,backup-1]]"

The server runs it as code and checks nothing: a broken one is accepted and then answers SERVFAIL. So nothing goes into it
but hostnames, numbers and plain words. Who is at 0 is left out: up to 5.0 that means never, and 5.1 answers nobody at all.
The comment says that the record is ours, its generation, and which lane each target is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dns.providers.contract import Member, ProviderError, Trouble, WeightedSet, is_hostname

MOST_BYTES = 255
"""Of code: a secondary gets longer ones cut in pieces, wherever that falls."""

_KEY = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
# Spaces are let pass: from 5.1 on, content is read back in the server's own spelling.
_PAIR = r"\{\s*([0-9]{1,3})\s*,\s*'([A-Za-z0-9_.-]{1,254})'\s*\}"
_CONTENT = re.compile(
    rf"""CNAME\s+"\s*pickwrandom\(\s*\{{\s*(?P<pairs>{_PAIR}(?:\s*,\s*{_PAIR})*)\s*\}}\s*\)\s*"""
    rf"""--\[\[\s*tranche:v1:(?P<generation>[0-9]{{1,18}}):(?P<keys>{_KEY}(?:,{_KEY})*)\s*\]\]\s*"\s*""",
    re.ASCII,
)
_EACH = re.compile(_PAIR, re.ASCII)


@dataclass(frozen=True, slots=True)
class Weighing:
    """What a LUA record of ours says."""

    generation: int
    members: tuple[Member, ...]


def content_of(wanted: WeightedSet) -> str:
    """The content of the LUA record. Raises ProviderError (unsafe) for what must not become one."""
    served = [member for member in wanted.members if member.percent > 0]
    if not served:
        raise _unsafe(f"{wanted.hostname} would be served from nowhere")
    pairs = ",".join(f"{{{member.percent:d},'{_target(wanted, member)}'}}" for member in served)
    keys = ",".join(_key(wanted, member) for member in served)
    code = f"pickwrandom({{{pairs}}})--[[tranche:v1:{wanted.generation:d}:{keys}]]"
    if len(code) > MOST_BYTES:
        raise _unsafe(
            f"{wanted.hostname} has {len(served)} targets with names so long that its record takes {len(code)} bytes, "
            f"more than the {MOST_BYTES} that every secondary gets whole"
        )
    return f'CNAME "{code}"'


def weighing_of(content: str) -> Weighing | None:
    """What the content of a LUA record says; None unless it is exactly what we would write, perhaps with other figures."""
    found = _CONTENT.fullmatch(content.strip())
    if found is None:
        return None
    pairs, keys = _EACH.findall(found["pairs"]), found["keys"].split(",")
    members = tuple(
        Member(key, target.rstrip(".").lower(), int(weight))
        for key, (weight, target) in zip(keys, pairs, strict=False)
        if is_hostname(target)
    )
    if not len(members) == len(pairs) == len(keys) == len(set(keys)):
        return None
    return Weighing(int(found["generation"]), members)


def absolute(name: str) -> str:
    """The hostname in lower case with its last dot. Raises ProviderError (unsafe) for anything that is none."""
    # Beyond ASCII there are letters whose lower case is within, such as the sign for kelvin.
    if not isinstance(name, str) or not name.isascii() or not is_hostname(name):
        raise _unsafe(f"{str(name)[:100]!r} is not a hostname")
    return f"{name.rstrip('.').lower()}."


def _target(wanted: WeightedSet, member: Member) -> str:
    target = absolute(member.target)
    if target == absolute(wanted.hostname):
        raise _unsafe(f"{wanted.hostname} would lead to itself")
    return target


def _key(wanted: WeightedSet, member: Member) -> str:
    if not re.fullmatch(_KEY, member.key, re.ASCII):
        raise _unsafe(f"{wanted.hostname}: {member.key[:100]!r} is no name of a lane")
    return member.key


def _unsafe(text: str) -> ProviderError:
    return ProviderError(text, permanent=True, trouble=Trouble.UNSAFE)
