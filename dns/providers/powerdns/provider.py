"""What the contract asks for."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import httpx

from dns.providers.contract import (
    BEACON_LABEL,
    REVISION,
    Check,
    Provider,
    ProviderError,
    Receipt,
    Standing,
    Trouble,
    WeightedSet,
    Zone,
    candidate_zones,
    is_below,
    revision,
)
from dns.providers.powerdns import checks
from dns.providers.powerdns.api import Api, Options
from dns.providers.powerdns.lua import Weighing, absolute, content_of, weighing_of

POINT_READS = 3
"""So many names are read one by one, in two calls of 2 ms each; more are read with the zone, 25 ms if it has 5,000 records."""
SETTLE_SECONDS = 4.0
"""For all that makes a write known sooner, so that the next one needn't wait longer."""
_CALL_SECONDS = 2.0
_SIMPLE = ("CNAME", "A", "AAAA")
_HIDING = ("CNAME", "DNAME", "LUA")
"""What would hide a beacon, or keep it from being written."""


class PowerDnsProvider(Provider):
    most_per_write = 200
    one_writer = True

    def __init__(self, *args: Any, transport: httpx.BaseTransport | None = None, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._transport = transport

    def find_zone(self, hostname: str) -> Zone:
        absolute(hostname)
        names = [name for name in candidate_zones(hostname) if self._is_allowed(name)]
        for name in names:
            found = self._api.find(_path(name), {"rrsets": "false"})
            if found is not None and _bare(found.get("name")) == name:
                return Zone(name)
        self._api.get("")  # tells if this is no PowerDNS at all
        looked = f"none of the zones {', '.join(names)}" if names else "no zone for it among the account’s “zones”"
        raise ProviderError(f"{hostname}: this server has {looked}", permanent=True, trouble=Trouble.ZONE)

    def apply(self, wanted: Sequence[WeightedSet]) -> Receipt:
        zone = self._judged(wanted)
        changes = [change for one in wanted for change in _records(one)]
        return self._write(zone, changes, _change_id(wanted[0]), len(wanted))

    def read(self, zone: Zone, hostnames: Collection[str]) -> dict[str, Standing]:
        names = {hostname: _bare(absolute(hostname)) for hostname in hostnames}
        if len(names) > POINT_READS:
            found = self._record_sets(zone.name)
        else:
            found = [one for name in names.values() for one in self._at(zone.name, name)]
        by_name: dict[str, list[_RecordSet]] = {}
        for one in found:
            by_name.setdefault(one.name, []).append(one)
        return {
            hostname: _standing(hostname, by_name.get(name, []), by_name.get(_beacon(name), []))
            for hostname, name in names.items()
        }

    def adopt(self, wanted: WeightedSet) -> Receipt:
        zone, name = self._judged([wanted]), _bare(wanted.hostname)
        found = self._at(zone, name)
        if not any(one.name == name for one in found):
            raise ProviderError(f"{name} has no record to adopt", permanent=True)
        simple = [one for one in found if one.name == name and one.is_simple]
        _refuse(text for one in found if one not in simple for text in one.foreign)
        gone = [_delete(name, one.type) for one in simple]  # first: a LUA record may not join a CNAME
        return self._write(zone, [*gone, *_records(wanted)], _change_id(wanted), 1)

    def release(self, wanted: WeightedSet, target: str) -> Receipt:
        zone, name, to = self._judged([wanted]), _bare(wanted.hostname), absolute(target)
        if _bare(to) == name:
            raise ProviderError(f"{name} would lead to itself", permanent=True, trouble=Trouble.UNSAFE)
        _refuse(text for one in self._at(zone, name) if not one.leads_to(to) for text in one.foreign)
        changes = [
            _delete(name, "LUA"), _replace(name, "CNAME", wanted.ttl_seconds, to), _delete(_beacon(name), "TXT")
        ]  # fmt: skip
        return self._write(zone, changes, f"{name} released", 1)

    def preflight(self, zone: Zone, hostname: str) -> list[Check]:
        name, lines, nodes = _bare(absolute(hostname)), [], []
        for api in self._apis:
            where = "" if api is self._api else f" at {api.url}"
            try:
                nodes.append((where, _object(api.get("")), _config(api.get("/config"))))
                lines.append(checks.api_check(where))
                lines += checks.server_checks(where, nodes[-1][1])
            except ProviderError as error:
                if error.trouble == Trouble.THROTTLED:
                    raise
                lines.append(checks.api_check(where, error))
                if api is self._api:
                    return lines
        is_ours = bool(zone.name) and self._is_allowed(zone.name)
        found = self._api.find(_path(zone.name), {"rrsets": "false"}) if is_ours else None
        if found is None:
            advice = (
                "Create the zone on this server, give the API of the server that has it, or let the account have it."
            )
            return [*lines, Check("zone", False, f"there is no zone for {name} here", advice)]
        metadata = self._metadata(zone.name)
        for where, server, config in nodes:
            lines += checks.lua_checks(where, server, config, metadata)
        lines += checks.zone_checks(found, metadata)
        return lines + checks.record_checks(name, _bare(zone.name), self.read(zone, [hostname])[hostname])

    def fits(self, wanted: WeightedSet) -> str:
        """Each target that has a share makes the record longer: what fits at 100/0 may not in a storm."""
        try:
            content_of(wanted)
        except ProviderError as error:
            return str(error)
        return ""

    def permissions(self, zone: Zone, hostnames: Sequence[str]) -> str:
        names = "\n".join(f"#   LUA at {_bare(name)}, TXT at {_beacon(_bare(name))}" for name in hostnames)
        return _PERMISSIONS.format(zone=_bare(zone.name), names=names)

    def script(self, wanted: WeightedSet) -> str:
        zone, options = self._judged([wanted]), self._options
        server = f"/api/v1/servers/{options.server_id}"
        after = []
        if options.notify is not False:
            after.append(f'tell "$PDNS_API_URL{server}{_path(zone)}/notify"')
        after += [f"tell {shlex.quote(f'{url}{server}/cache/flush?domain={zone}.')}" for url in options.urls[1:]]
        return _SCRIPT.format(
            hostname=_bare(wanted.hostname), beacon=_beacon(_bare(wanted.hostname)), path=f"{server}{_path(zone)}",
            body=json.dumps({"rrsets": _records(wanted)}, indent=1), after="\n".join(after),
        )  # fmt: skip

    # --- writing ------------------------------------------------------------------------------------------------------

    def _judged(self, wanted: Sequence[WeightedSet]) -> str:
        """The zone of all of these. Raises ProviderError for what must not be written."""
        if not 0 < len(wanted) <= self.most_per_write:
            text = f"{len(wanted)} hostnames in one write, which takes 1 to {self.most_per_write}"
            raise ProviderError(text, permanent=True)
        zone = _bare(absolute(wanted[0].zone))
        for one in wanted:
            name = _bare(absolute(one.hostname))
            absolute(_beacon(name))
            if name == zone:
                text = f"{name} is the zone's apex, where no CNAME may stand"
                raise ProviderError(text, permanent=True, trouble=Trouble.UNSAFE)
            if _bare(one.zone) != zone or not is_below(name, zone):
                raise ProviderError(f"{name} is not in the zone {zone}", permanent=True, trouble=Trouble.UNSAFE)
        self._refuse_zone(zone)
        return zone

    def _write(self, zone: str, changes: list[dict[str, Any]], change_id: str, count: int) -> Receipt:
        """All of it in one transaction of the server's, in this order."""
        headers = self._api.patch(_path(zone), {"rrsets": changes})
        details: dict[str, Any] = {"names": count}
        if (serial := headers.get("X-PDNS-New-Serial", "")[:10]).isdecimal():
            details["serial"] = int(serial)
        if warnings := self._settle(zone):
            details["warnings"] = warnings
        return Receipt(change_id=change_id, details=details)

    def _settle(self, zone: str) -> list[str]:
        """Make the write known sooner. Returns what could not be done: without it the write shows as well, only later."""
        steps = [(f"the cache of {api.url} was not emptied", partial(_flush, api, zone)) for api in self._apis[1:]]
        if self._options.notify is not False:
            steps.insert(0, ("secondaries were not notified", partial(self._notify, zone)))
        until, warnings = time.monotonic() + SETTLE_SECONDS, []
        for failure, step in steps:
            if (left := until - time.monotonic()) <= 0:
                warnings.append(f"{failure}: no time was left")
                continue
            try:
                step(min(left, _CALL_SECONDS))
            except ProviderError as error:
                warnings.append(f"{failure}: {error}")
        return warnings

    def _notify(self, zone: str, seconds: float) -> None:
        if self._options.notify is None:
            found = self._api.get(_path(zone), {"rrsets": "false"}, seconds=seconds)
            if not checks.is_primary(_object(found)):
                return
        self._api.put(f"{_path(zone)}/notify", seconds=seconds)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _at(self, zone: str, name: str) -> list[_RecordSet]:
        """What stands at the name and at its beacon's."""
        asked = (name, _beacon(name))
        return [one for each in asked for one in self._record_sets(zone, each) if one.name == each]

    def _record_sets(self, zone: str, name: str = "") -> list[_RecordSet]:
        """Of the whole zone, or what the server takes for those at `name`. What can't be read is an error, never nothing."""
        self._refuse_zone(zone)
        found = self._api.get(_path(zone), {"rrset_name": f"{name}."} if name else None)
        try:
            if _bare(found["name"]) != _bare(zone):
                raise ValueError("another zone")
            # 4.7 lists sets without records as well, for the comments of other sets.
            return [_RecordSet.of(one) for one in found["rrsets"] if one["records"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            text = f"PowerDNS GET {_path(zone)}: answered with what is no zone"
            raise ProviderError(text, permanent=False, trouble=Trouble.UNREACHABLE) from None

    def _metadata(self, zone: str) -> checks.Metadata | None:
        """None if it is not for us to see."""
        try:
            found = self._api.get(f"{_path(zone)}/metadata")
        except ProviderError as error:
            if error.permanent:
                return None
            raise
        listed = found if isinstance(found, list) else []
        return {str(one.get("kind")): one.get("metadata", []) for one in listed if isinstance(one, dict)}

    # --- the account --------------------------------------------------------------------------------------------------

    @cached_property
    def _options(self) -> Options:
        return Options.of(self.options)

    @cached_property
    def _apis(self) -> list[Api]:
        """The one that is read and written, and then those whose caches are emptied."""
        key = self.credentials.get("api_key", "")
        return [Api(url, self._options, key, self.spend, self._transport) for url in self._options.urls]

    @property
    def _api(self) -> Api:
        return self._apis[0]

    def _is_allowed(self, zone: str) -> bool:
        return self._options.zones is None or _bare(zone) in self._options.zones

    def _refuse_zone(self, zone: str) -> None:
        absolute(zone)
        if not self._is_allowed(zone):
            text = f"{_bare(zone)} is not among the account’s “zones”"
            raise ProviderError(text, permanent=True, trouble=Trouble.ZONE)


# --- what stands there ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _RecordSet:
    name: str
    type: str
    ttl_seconds: int
    records: tuple[tuple[str, bool], ...]
    """Content, and whether it is disabled."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> _RecordSet:
        records = tuple((str(one["content"]), bool(one.get("disabled"))) for one in raw["records"])
        return cls(_bare(raw["name"]), str(raw["type"]).upper(), int(raw["ttl"]), records)

    @property
    def is_simple(self) -> bool:
        return self.type in _SIMPLE and not any(disabled for _, disabled in self.records)

    @property
    def ours(self) -> Weighing | None:
        """What the first of its records that is ours says; the others are foreign."""
        at = self._ours_at
        return None if at is None else weighing_of(self.records[at][0])

    @property
    def foreign(self) -> list[str]:
        """What of it is not ours, described. At a beacon's name that is what would hide the beacon."""
        if self.name.startswith(f"{BEACON_LABEL}.") and self.type not in _HIDING:
            return []
        return [
            f"{self.name} {self.type}{' (disabled)' if disabled else ''} {content[:200]}"
            for at, (content, disabled) in enumerate(self.records)
            if at != self._ours_at
        ]

    @property
    def _ours_at(self) -> int | None:
        if self.type != "LUA":
            return None
        ours = (at for at, (text, disabled) in enumerate(self.records) if not disabled and weighing_of(text))
        return next(ours, None)

    def leads_to(self, target: str) -> bool:
        return self.is_simple and self.type == "CNAME" and [_bare(text) for text, _ in self.records] == [_bare(target)]


def _standing(hostname: str, here: Sequence[_RecordSet], beacon: Sequence[_RecordSet]) -> Standing:
    lua = next((one for one in here if one.ours), None)
    weighing = lua.ours if lua else None
    values = [text.strip('"') for one in beacon if one.type == "TXT" for text, disabled in one.records if not disabled]
    told = [value for value in values if value.isascii() and len(value) < 25]
    if weighing and told:
        told.append(
            f"{REVISION}{weighing.generation}"
        )  # an older one that was put back counts, whatever the beacon says
    strangers = [one for one in (*here, *beacon) if one.foreign]
    return Standing(
        hostname,
        revision(told),
        weighing.members if weighing else (),
        lua.ttl_seconds if lua else None,
        tuple(text for one in strangers for text in one.foreign),
        max((one.ttl_seconds for one in strangers), default=None),
    )


def _refuse(foreign: Iterable[str]) -> None:
    if text := next(iter(foreign), ""):
        raise ProviderError(f"a record that is not ours: {text}", permanent=True, trouble=Trouble.FOREIGN)


# --- what is sent -----------------------------------------------------------------------------------------------------


def _records(one: WeightedSet) -> list[dict[str, Any]]:
    name = _bare(one.hostname)
    return [
        _replace(name, "LUA", one.ttl_seconds, content_of(one)),
        _replace(_beacon(name), "TXT", one.ttl_seconds, f'"{REVISION}{one.generation:d}"'),
    ]


def _replace(name: str, qtype: str, ttl_seconds: int, content: str) -> dict[str, Any]:
    records = [{"content": content, "disabled": False}]
    return {"name": f"{name}.", "type": qtype, "changetype": "REPLACE", "ttl": ttl_seconds, "records": records}


def _delete(name: str, qtype: str) -> dict[str, Any]:
    return {"name": f"{name}.", "type": qtype, "changetype": "DELETE"}


def _flush(api: Api, zone: str, seconds: float) -> None:
    """The zone's name stands for all names in it."""
    api.put("/cache/flush", {"domain": f"{zone}."}, seconds=seconds)


def _change_id(one: WeightedSet) -> str:
    return f"{_bare(one.hostname)}@{one.generation}"


def _path(zone: str) -> str:
    """In the server's own spelling, which has =5F for an underscore."""
    name = absolute(zone).replace("_", "=5F")
    return f"/zones/{name}"


def _beacon(name: str) -> str:
    return f"{BEACON_LABEL}.{name}"


def _bare(name: Any) -> str:
    return str(name).rstrip(".").lower()


def _object(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, dict) else {}


def _config(found: Any) -> dict[str, str]:
    listed = found if isinstance(found, list) else []
    return {str(one.get("name")): str(one.get("value")) for one in listed if isinstance(one, dict)}


_PERMISSIONS = """\
# In pdns.conf of the server whose API Tranche calls; TLS is for a proxy before it to add:
api=yes
api-key=<a long random key, which Tranche is given too>
webserver=yes
webserver-address=<an address that the proxy, or Tranche, reaches>
webserver-allow-from=<the addresses of the proxy, or of Tranche>
# ... and of every PowerDNS server of the zone {zone}:
enable-lua-records=yes
# ... and, from PowerDNS 5.1 on, of every one that writes or transfers it:
enable-lua-record-updates=yes
# If {zone} has secondaries, so that they see that it changed:
#   pdnsutil set-meta {zone} SOA-EDIT-API DEFAULT
#
# The key opens all zones. A proxy can leave Tranche, below /api/v1/servers/localhost, with no more than:
#   GET / and /config, GET and PATCH /zones/{zone}., GET /zones/{zone}./metadata,
#   PUT /zones/{zone}./notify, PUT /cache/flush
# Tranche writes these alone:
{names}
"""

_SCRIPT = """\
#!/bin/sh
# {hostname} by hand. PDNS_API_URL is such as https://ns-api.example:8081, PDNS_API_KEY what its X-API-Key header wants.
set -eu
: "${{PDNS_API_URL:?}}" "${{PDNS_API_KEY:?}}"
tell() {{
  curl --fail --silent --show-error --max-time 10 -H "X-API-Key: $PDNS_API_KEY" -X PUT "$1" >/dev/null ||
    echo "$1 failed; the change shows all the same, a little later" >&2
}}
curl --fail --silent --show-error --max-time 10 -H "X-API-Key: $PDNS_API_KEY" -H "Content-Type: application/json" \\
  -X PATCH "$PDNS_API_URL{path}" --data @- <<'JSON'
{body}
JSON
{after}
# Then ask each name server of the zone, a few times:
#   dig +norecurse @SERVER {hostname} CNAME
#   dig +norecurse @SERVER {beacon} TXT
"""
