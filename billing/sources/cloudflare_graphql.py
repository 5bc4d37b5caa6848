"""Cloudflare's GraphQL analytics: requests and bytes by host and hour, sampled, so an estimate and never a bill.

Only visitors' requests are asked for (`requestSource: "eyeball"`): sub-requests of Workers are no traffic of an edge. What
may be asked in one query differs by plan and zone, and is asked first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from billing.logs.hosts import normal_form
from billing.sources.calls import Api, endpoint_problems, messages
from billing.sources.contract import Access, Estimator, HostHour, Problem, Vendor
from services import hostnames

BASE_URL = "https://api.cloudflare.com/client/v4"
_PATH = "/graphql"
ZONES_AT_ONCE = 10
_HOSTS_AT_ONCE = 200
_MOST_ROWS = 10_000
_MOST_QUERIES = 150
"""Of one turn: half of what a user has for five minutes, in which there may be a second turn."""
_DEPLETED_SECONDS = 300
_DEPLETED = re.compile(r"rate limit|budget depleted|too many requests", re.IGNORECASE)
_HOUR = timedelta(hours=1)
_ZONE_ID = re.compile(r"[0-9a-f]{32}")
ANY_HOST = "*"

SETTINGS = """
query Limits($zones: [string!]) {
  viewer {
    zones(filter: {zoneTag_in: $zones}) {
      zoneTag
      settings { httpRequestsAdaptiveGroups { enabled maxDuration maxPageSize notOlderThan } }
    }
  }
}
"""
USAGE = """
query Usage($zones: [string!], $hosts: [string!], $since: Time!, $until: Time!, $limit: uint64!) {
  viewer {
    zones(filter: {zoneTag_in: $zones}) {
      zoneTag
      httpRequestsAdaptiveGroups(
        limit: $limit
        filter: {
          datetime_geq: $since, datetime_lt: $until, requestSource: "eyeball", clientRequestHTTPHost_in: $hosts
        }
        orderBy: [datetimeHour_ASC]
      ) {
        count
        avg { sampleInterval }
        sum { edgeResponseBytes }
        confidence(level: 0.95) { sum { edgeResponseBytes { lower upper } } }
        dimensions { datetimeHour clientRequestHTTPHost }
      }
    }
  }
}
"""


@dataclass(frozen=True, slots=True)
class _Limits:
    """Of some zones that are asked together: what is allowed to all of them."""

    rows: int
    span: timedelta
    since: datetime


class _Unclear(Exception):
    """An answer that is not of the expected shape."""


class CloudflareGraphql(Estimator):
    span = timedelta(hours=6)  # short ones are sampled less

    def __init__(self, access: Access, now: datetime) -> None:
        self._zones: dict[str, str] = dict(access.options.get("zones") or {})
        self._now = now
        self._api = Api("Cloudflare", BASE_URL, "Authorization", access, "Bearer ")
        self._limits: dict[tuple[str, ...], _Limits] = {}
        self._queries = 0

    @property
    def is_spent(self) -> bool:
        return self._queries >= _MOST_QUERIES

    def scope(self, known: Collection[str]) -> set[str]:
        return {host for host in known if any(_is_within(host, name) for name in self._zones.values())}

    def hours(self, hosts: Collection[str], since: datetime, until: datetime) -> Iterator[HostHour]:
        found: dict[tuple[str, datetime], HostHour] = {}
        told: dict[str, datetime] = {}
        for zones, some in self._batches(hosts):
            limits = self._limits_of(zones)
            begin = max(since, limits.since)
            for host in some:
                told[host] = max(told.get(host, begin), begin)
            for row in self._rows(zones, some, begin, until, limits):
                key = (row.host, row.hour)
                found[key] = _sum(found[key], row) if key in found else row
        for host, begin in told.items():
            hour = begin
            while hour < until:
                found.setdefault((host, hour), HostHour(host, hour, 0, 0))
                hour += _HOUR
        # An hour that one of a host's zones keeps no longer is not known, whatever the others say.
        yield from (row for row in found.values() if row.hour >= told.get(row.host, since))

    def _batches(self, hosts: Collection[str]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
        """Zones that are asked together, each with the hosts that may be in them, some at a time."""
        ids = sorted(self._zones, key=lambda zone: (self._zones[zone], zone))
        for start in range(0, len(ids), ZONES_AT_ONCE):
            zones = tuple(ids[start : start + ZONES_AT_ONCE])
            names = {self._zones[zone] for zone in zones}
            within = sorted(host for host in hosts if any(_is_within(host, name) for name in names))
            for first in range(0, len(within), _HOSTS_AT_ONCE):
                yield zones, within[first : first + _HOSTS_AT_ONCE]

    def _limits_of(self, zones: tuple[str, ...]) -> _Limits:
        if zones not in self._limits:
            self._limits[zones] = self._ask_limits(zones)
        return self._limits[zones]

    def _ask_limits(self, zones: tuple[str, ...]) -> _Limits:
        told = self._ask(SETTINGS, zones=zones)
        if missing := [zone for zone in zones if zone not in told]:
            raise self._api.refused(f"the token can’t see the zone {missing[0]} ({self._zones[missing[0]]})")
        rows, spans, ages = [_MOST_ROWS], [], []
        try:
            for zone in zones:
                limits = told[zone]["settings"]["httpRequestsAdaptiveGroups"]
                if not limits["enabled"]:
                    raise self._api.refused(f"httpRequestsAdaptiveGroups is not enabled for {self._zones[zone]}")
                rows.append(_count(limits["maxPageSize"]))
                spans.append(_count(limits["maxDuration"]))
                ages.append(_count(limits["notOlderThan"]))
        except (KeyError, TypeError, _Unclear):
            raise self._api.unreadable(_PATH) from None
        span = timedelta(seconds=min(spans)) // _HOUR * _HOUR
        if span < _HOUR or min(rows) < 2:
            raise self._api.refused(f"{self._zones[zones[0]]}: not even an hour may be asked for at once")
        # An hour more, for the time that asking takes: the oldest one must be there as a whole.
        oldest = self._now - timedelta(seconds=min(min(ages), 10**9)) + _HOUR
        oldest = oldest.replace(minute=0, second=0, microsecond=0) + _HOUR
        return _Limits(min(rows), span, oldest)

    def _rows(
        self, zones: tuple[str, ...], hosts: Sequence[str], since: datetime, until: datetime, limits: _Limits
    ) -> Iterator[HostHour]:
        """A page that is full may have been cut off: then each half is asked for by itself."""
        span = min(limits.span, max(1, (limits.rows - 1) // len(hosts)) * _HOUR)
        while since < until:
            end = min(since + span, until)
            yield from self._page(zones, hosts, since, end, limits)
            since = end

    def _page(
        self, zones: tuple[str, ...], hosts: Sequence[str], since: datetime, until: datetime, limits: _Limits
    ) -> Iterator[HostHour]:
        told = self._ask(
            USAGE, zones=zones, hosts=hosts, since=_time(since), until=_time(until), limit=limits.rows
        )  # fmt: skip
        try:
            pages = [_list(zone["httpRequestsAdaptiveGroups"]) for zone in told.values()]
        except (KeyError, TypeError, _Unclear):
            raise self._api.unreadable(_PATH) from None
        if all(len(page) < limits.rows for page in pages):
            yield from self._read(pages, since, until)
        elif until - since > _HOUR:
            middle = since + (until - since) // (2 * _HOUR) * _HOUR
            yield from self._page(zones, hosts, since, middle, limits)
            yield from self._page(zones, hosts, middle, until, limits)
        elif len(hosts) > 1:
            middle_host = len(hosts) // 2
            yield from self._page(zones, hosts[:middle_host], since, until, limits)
            yield from self._page(zones, hosts[middle_host:], since, until, limits)
        else:
            raise self._api.refused(f"{hosts[0]}: more rows for one hour than a page holds")

    def _read(self, pages: list[list[Any]], since: datetime, until: datetime) -> Iterator[HostHour]:
        """Rows may come in any order, and of hours beyond those that were asked for."""
        try:
            for row in (row for page in pages for row in page):
                read = _host_hour(row)
                if since <= read.hour < until:
                    yield read
        except (KeyError, TypeError, ValueError, AttributeError, _Unclear):
            raise self._api.unreadable(_PATH) from None

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """What is told of each zone, by its id."""
        self._queries += 1
        answer = self._api.json("POST", _PATH, body={"query": query, "variables": variables})
        if errors := answer.get("errors"):  # with status 200
            text = messages(errors if isinstance(errors, list) else [errors])
            raise self._api.refused(text, _DEPLETED_SECONDS if _DEPLETED.search(text) else 0)
        try:
            return {zone["zoneTag"]: zone for zone in _list(answer["data"]["viewer"]["zones"])}
        except (KeyError, TypeError, _Unclear):
            raise self._api.unreadable(_PATH) from None


def _host_hour(row: Any) -> HostHour:
    hour = datetime.fromisoformat(row["dimensions"]["datetimeHour"])
    if hour.tzinfo is None or hour.minute or hour.second or hour.microsecond:
        raise _Unclear
    size = _count(row["sum"]["edgeResponseBytes"])
    interval = ((row.get("confidence") or {}).get("sum") or {}).get("edgeResponseBytes") or {}
    low, high = _number(interval.get("lower")), _number(interval.get("upper"))
    known = low is not None and high is not None
    return HostHour(
        normal_form(row["dimensions"]["clientRequestHTTPHost"]), hour.astimezone(UTC), size, _count(row["count"]),
        max(0, math.floor(low)) if known and low is not None else None,
        max(0, math.ceil(high)) if known and high is not None else None,
        _number((row.get("avg") or {}).get("sampleInterval")),
    )  # fmt: skip


def _sum(a: HostHour, b: HostHour) -> HostHour:
    """Of one host and hour in two zones."""
    has_interval = None not in (a.low_bytes, a.high_bytes, b.low_bytes, b.high_bytes)
    samples = [s for s in (a.sample_interval, b.sample_interval) if s is not None]
    return HostHour(
        a.host, a.hour, a.bytes + b.bytes, a.requests + b.requests,
        (a.low_bytes or 0) + (b.low_bytes or 0) if has_interval else None,
        (a.high_bytes or 0) + (b.high_bytes or 0) if has_interval else None,
        max(samples, default=None),
    )  # fmt: skip


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**18:
        raise _Unclear
    return value


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and abs(value) < 10**18 else None


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _Unclear
    return value


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_within(host: str, zone: str) -> bool:
    return zone == ANY_HOST or host == zone or host.endswith(f".{zone}")


def _problems(access: Access) -> Iterator[Problem]:
    zones = access.options.get("zones")
    example = '{"zones": {"023e105f4ecef8ad9ca31a8372d0c353": "example.com"}}'
    if not isinstance(zones, dict) or not zones:
        yield "options", f"zones: name each zone by its ID, such as {example}."
        return
    for zone, name in zones.items():
        if not _ZONE_ID.fullmatch(zone):
            yield "options", f"zones: “{zone[:60]}” is no zone ID: copy its 32 digits and letters from the overview."
        elif not isinstance(name, str) or (name != ANY_HOST and hostnames.problem(name)):
            text = f"zones: “{str(name)[:60]}” is no name of a zone: write it as in {example}, or * for any host."
            yield "options", text
    yield from endpoint_problems(access)


VENDOR = Vendor(
    "Cloudflare’s GraphQL analytics (estimate)",
    frozenset({"endpoint_url", "secret"}),
    _problems,
    estimator=CloudflareGraphql,
    options=("zones",),
    every_seconds=900,
)
