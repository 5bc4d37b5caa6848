"""What a PowerDNS server lacks for a name to be steered, from what its API says of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dns.providers.contract import Check, ProviderError, Standing

_OLDEST, _LUA_IS_GATED = (4, 7), (5, 1)
_PRIMARY, _WRITABLE = ("master", "primary", "producer"), ("native", "master", "primary", "producer")
_SOON_SECONDS = 60

Metadata = Mapping[str, list[str]]
"""Of a zone, by kind."""


def is_primary(zone: Mapping[str, Any]) -> bool:
    """Whether it has secondaries that wait to be told."""
    return str(zone.get("kind", "")).lower() in _PRIMARY


def api_check(where: str, error: ProviderError | None = None) -> Check:
    """`where` is "" for the server that is written to. From the others nothing is needed but that they forget."""
    if error is None:
        return Check(f"API{where}", True, "it answers, and takes the key", is_must=not where)
    advice = (
        "Set api=yes, webserver=yes and api-key in pdns.conf, let Tranche’s addresses in by webserver-allow-from, put TLS "
        "before it, and give Tranche that URL and key."
    )
    return Check(f"API{where}", False, str(error), advice, is_must=not where, is_unclear=not error.permanent)


def server_checks(where: str, server: Mapping[str, Any]) -> list[Check]:
    version, daemon = str(server.get("version", "")), server.get("daemon_type")
    name = f"version{where}"
    if daemon != "authoritative":
        text = f"it is no authoritative server, but {daemon or 'does not say what it is'}"
        advice = "Give the URL of the authoritative server’s API, not of a Recursor or of something else."
        return [Check(name, False, text, advice, is_unclear=daemon is None)]
    numbers = _numbers(version)
    if numbers is not None and numbers < _OLDEST:
        advice = "Upgrade PowerDNS to 4.7 or newer: older ones can’t be asked for one name."
        return [Check(name, False, f"PowerDNS {version}", advice)]
    return [
        Check(name, True, f"PowerDNS {version or 'of unknown version'}")
    ]  # whoever runs an unnumbered build knows why


def lua_checks(
    where: str, server: Mapping[str, Any], config: Mapping[str, str], metadata: Metadata | None
) -> list[Check]:
    value = config.get("enable-lua-records")
    if (metadata or {}).get("ENABLE-LUA-RECORDS") == ["1"]:
        checks = [Check(f"Lua{where}", True, "on for this zone")]
    elif value is not None and _is_on(value):
        checks = [Check(f"Lua{where}", True, f"enable-lua-records={value}")]
    else:
        text = "whether Lua records work can’t be told" if value is None else f"enable-lua-records={value}"
        advice = (
            "Set enable-lua-records=yes on every server of the zone, and restart it: without, the name would not exist there, "
            "which is an outage."
        )
        checks = [Check(f"Lua{where}", False, text, advice, is_unclear=value is None)]
    numbers, updates = _numbers(str(server.get("version", ""))), config.get("enable-lua-record-updates")
    is_gated = updates is not None or (numbers is not None and numbers >= _LUA_IS_GATED)
    if is_gated and not where:
        text, allowed = f"enable-lua-record-updates={updates or 'no'}", _is_on(updates or "no")
        advice = "Set enable-lua-record-updates=yes: from 5.1 on its API writes no Lua record without."
        checks.append(Check("Lua by API", allowed, text, "" if allowed else advice))
    return checks


def zone_checks(zone: Mapping[str, Any], metadata: Metadata | None) -> list[Check]:
    kind, serial = str(zone.get("kind", "")), str(zone.get("soa_edit_api") or "")
    if kind.lower() in _WRITABLE:
        checks = [Check("zone kind", True, kind)]
    else:
        advice = "It is a copy, and what is written here is lost with the next transfer: give the primary server’s API."
        checks = [Check("zone kind", False, kind or "unknown", advice, is_unclear=not kind)]
    if is_primary(zone):
        is_raised = serial not in ("", "OFF")
        advice = f"Run: pdnsutil set-meta {zone.get('name', '')} SOA-EDIT-API DEFAULT. Else no secondary sees a change."
        text = f"SOA-EDIT-API is {serial or 'not set'}"
        checks.append(Check("serial", is_raised, text, "" if is_raised else advice))
    if metadata is None:
        text, advice = "whether the zone is signed elsewhere can’t be told", "Let Tranche read the zone’s metadata."
        checks.append(Check("DNSSEC", False, text, advice, is_must=False, is_unclear=True))
    elif metadata.get("PRESIGNED") == ["1"]:
        advice = "An answer that is made anew for each question can’t be signed beforehand: let PowerDNS sign the zone."
        checks.append(Check("DNSSEC", False, "signed elsewhere", advice))
    else:
        checks.append(Check("DNSSEC", True, "signed here" if zone.get("dnssec") else "not signed"))
    return checks


def record_checks(hostname: str, zone: str, standing: Standing) -> list[Check]:
    if hostname == zone:
        advice = "No CNAME may stand there: serve the site below www, and redirect to it."
        return [Check("apex", False, f"{hostname} is the zone itself", advice)]
    checks = [Check("apex", True, f"{hostname} is below {zone}")]
    if not standing.foreign:
        return [*checks, Check("record", True, "ours" if standing.members else "the name is free")]
    text = f"not ours: {'; '.join(standing.foreign)}"
    checks.append(Check("record", False, text, "Adopt the record, or remove it first."))
    if (ttl := standing.foreign_ttl_seconds or 0) > _SOON_SECONDS:
        advice = f"Lower it to 30 s, and adopt the record {ttl} s later: caches keep the old one for so long."
        checks.append(Check("old TTL", False, f"{ttl} s", advice, is_must=False))
    return checks


def _is_on(value: str) -> bool:
    return value.lower() not in ("no", "off")


def _numbers(version: str) -> tuple[int, int] | None:
    """None for a build that bears no release's number."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", version, re.ASCII)
    return (int(found[1]), int(found[2])) if found and found[1] != "0" else None
