"""Which certificate authorities a hostname's CAA records allow (RFC 8659), asked of the servers that hold its zone.

A backup CDN must get and renew a certificate for the hostname, and its authority refuses where the records name others.
The records that count are the first ones found from the name upwards. Where a name is a CNAME they are its target's, and
nothing above the target: an authority sees that of whichever CDN DNS answers at that moment. Parameters of a record,
such as an account, are not looked at.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services import lookup
from services.lookup import LookupFailed, Server

_TIMEOUT_SECONDS = 2.0
_SECONDS = 20.0
"""How long whoever owns the zones may keep us looking."""
_MOST_ALIASES = 8
_KNOWN = frozenset({"issue", "issuewild", "iodef", "contactemail", "contactphone"})
"""What every public authority understands: of RFC 8659 and of the CA/Browser Forum's baseline requirements."""
_CRITICAL = 0x80
_ZONE_FORM = re.compile(r'(\d+) ([a-z0-9]+) "(.*)"', re.DOTALL | re.IGNORECASE | re.ASCII)
_UNREADABLE = "(unreadable)"
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


class Property(NamedTuple):
    """One CAA record."""

    is_critical: bool
    tag: str
    value: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """Who may issue a certificate for a hostname, or for the names below it if it is a wildcard."""

    hostname: str
    issuers: frozenset[str] | None = None
    """Names of authorities, such as "letsencrypt.org". None: anybody may; empty: nobody."""
    found_at: str = ""
    """Whose CAA records these are, or "" if there are none."""
    alias: str = ""
    """The CNAME that led to `found_at`."""
    tag: str = "issue"
    """The property that decides, "issue" or "issuewild"."""
    unknown: str = ""
    """A critical property that no authority knows, so that none may issue."""


def allowed(hostname: str) -> Allowed:
    """What DNS says now. `hostname` may be a wildcard, "*.example.com". Raises lookup.LookupFailed."""
    hostname = hostname.rstrip(".").lower()
    deadline = time.monotonic() + _SECONDS
    name = hostname.removeprefix("*.")
    zone, servers = "", list[Server]()
    while "." in name:  # a top-level domain is no zone to `lookup`
        if not zone or not f".{name}".endswith(f".{zone}"):
            zone, servers = lookup.authoritative_servers(name)
        owner, properties = _properties(name, zone, servers, deadline)
        if properties:
            return judge(hostname, owner, properties, alias=name if owner != name else "")
        name = name.partition(".")[2]
    return Allowed(hostname)


def judge(hostname: str, found_at: str, properties: Sequence[Property], *, alias: str = "") -> Allowed:
    """What a set of CAA records means for the hostname."""
    tags = {p.tag for p in properties}
    tag = "issuewild" if hostname.startswith("*.") and "issuewild" in tags else "issue"
    if unknown := next((p.tag for p in properties if p.is_critical and p.tag not in _KNOWN), ""):
        return Allowed(hostname, frozenset(), found_at, alias, tag, unknown)
    if tag not in tags:
        return Allowed(hostname, None, found_at, alias, tag)
    issuers = frozenset(issuer for p in properties if p.tag == tag and (issuer := _issuer(p.value)))
    return Allowed(hostname, issuers, found_at, alias, tag)


def missing(allowed: Allowed, issuers_of_cdn: Iterable[str]) -> list[str]:
    """Those of a CDN's authorities that may not issue."""
    return [] if allowed.issuers is None else [name for name in _names(issuers_of_cdn) if name not in allowed.issuers]


def problem(allowed: Allowed, issuers_of_cdn: Sequence[str]) -> str:
    """Which of a CDN's authorities may not issue, and what to add, or "". `missing` tells whether any other may."""
    refused = missing(allowed, issuers_of_cdn)
    if not refused:
        return ""
    where = f"{allowed.found_at} (where {allowed.alias} leads by CNAME)" if allowed.alias else allowed.found_at
    if allowed.unknown:
        return (
            f"The CAA records of {where} have a critical property, “{allowed.unknown}”, that authorities don't know, so none "
            f"may issue a certificate for {allowed.hostname}: remove it."
        )
    some = len(refused) < len(_names(issuers_of_cdn))
    effect = "which this CDN may use as well" if some else "so this CDN gets no certificate"
    records = ", ".join(f'{allowed.found_at}. CAA 0 {allowed.tag} "{issuer}"' for issuer in refused)
    return (
        f"The CAA records of {where} don't let {', '.join(refused)} issue a certificate for {allowed.hostname}, {effect}. "
        f"{'Whoever runs that zone has to add' if allowed.alias else 'Add beside them'}: {records}"
    )


def _names(issuers: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(issuer.rstrip(".").lower() for issuer in issuers))


# --- asking -----------------------------------------------------------------------------------------------------------


def _properties(name: str, zone: str, servers: list[Server], deadline: float) -> tuple[str, list[Property]]:
    """The CAA records of a name or of what it is an alias of, and whose they are."""
    asked = name
    for _ in range(_MOST_ALIASES + 1):
        answer = _ask(name, zone, servers, deadline)
        records = [record for record in answer.records if record.name == name]
        target = next((record.value for record in records if record.type == "CNAME"), "")
        if not target:
            return name, [_property(record.value) for record in records if record.type == "CAA"]
        name = target
        zone, servers = lookup.authoritative_servers(name)
    raise LookupFailed(f"{asked} is behind more than {_MOST_ALIASES} CNAMEs")


def _ask(name: str, zone: str, servers: list[Server], deadline: float) -> lookup.Answer:
    """What the first of a zone's servers says that says anything."""
    if time.monotonic() > deadline:
        raise LookupFailed(f"to find the CAA records of {name} took longer than {_SECONDS:g} s")
    answers = lookup.ask_all([(server, name, "CAA") for server in servers], timeout_seconds=_TIMEOUT_SECONDS)
    for answer in answers:
        if answer.authoritative and not answer.error:
            return answer
    silence = "; ".join(f"{answer.server} {answer.error or 'is not authoritative'}" for answer in answers)
    raise LookupFailed(f"no name server of {zone} told the CAA records of {name} ({silence})")


def _property(text: str) -> Property:
    """From the form of zone files, as `lookup` has it: flags, tag, value. The flags are always a number."""
    is_critical = bool(int(text.partition(" ")[0]) & _CRITICAL)
    match = _ZONE_FORM.fullmatch(text)
    return Property(is_critical, match[2].lower(), match[3]) if match else Property(is_critical, _UNREADABLE, "")


def _issuer(value: str) -> str:
    """The authority that the value of an issue property names, or "" for nobody, as a malformed one means too."""
    issuer = value.partition(";")[0].strip(" \t").rstrip(".").lower()
    return issuer if _DOMAIN.fullmatch(issuer) else ""
