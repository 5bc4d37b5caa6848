"""Fastly's historical stats: bytes and requests by service and hour.

Fastly tells no hosts, so each of its services stands for the one hostname that the source names. Times go there as epochs
only: a date would be read as noon or midnight, as the documents disagree.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from billing.sources.calls import Api, endpoint_problems
from billing.sources.contract import Access, Estimator, HostHour, Problem, Vendor
from services import hostnames

BASE_URL = "https://api.fastly.com"
_HOUR = timedelta(hours=1)
_ID = re.compile(r"[A-Za-z0-9]{1,40}")
_MOST_SERVICES = 200
_END = 4_102_444_800  # of 2099
_EDGE_BYTES = ("edge_resp_header_bytes", "edge_resp_body_bytes")


class FastlyStats(Estimator):
    def __init__(self, access: Access, now: datetime) -> None:
        self._services: dict[str, str] = dict(access.options.get("service_ids") or {})
        self._api = Api("Fastly", BASE_URL, "Fastly-Key", access)

    def scope(self, known: Collection[str]) -> set[str]:
        return set(self._services.values())

    def hours(self, hosts: Collection[str], since: datetime, until: datetime) -> Iterator[HostHour]:
        for service, host in sorted(self._services.items()):
            if host not in hosts:
                continue
            told = self._ask(service, since, until)
            hour = since
            while hour < until:
                size, requests = told.get(hour, (0, 0))
                yield HostHour(host, hour, size, requests)
                hour += _HOUR

    def _ask(self, service: str, since: datetime, until: datetime) -> dict[datetime, tuple[int, int]]:
        """Bytes and requests by hour, of those with any."""
        path = f"/stats/service/{service}"
        span = {"from": f"{since.timestamp():.0f}", "to": f"{until.timestamp():.0f}", "by": "hour"}
        answer = self._api.json("GET", path, params=span)
        if answer.get("status") != "success":
            raise self._api.refused(f"{path}: {answer.get('msg') or 'no success'}")
        meta = answer.get("meta")
        if isinstance(meta, Mapping) and meta.get("by", "hour") != "hour":
            raise self._api.refused(f"{path}: answered by {meta['by']}, not by the hour")
        try:
            rows = [_row(row) for row in answer["data"]]
        except (KeyError, TypeError, ValueError):
            raise self._api.unreadable(path) from None
        return {hour: volume for hour, volume in rows if since <= hour < until}


def _row(row: Mapping[str, Any]) -> tuple[datetime, tuple[int, int]]:
    epoch = _count(row["start_time"])
    if epoch % 3600 or epoch >= _END:
        raise ValueError("no hour")
    hour = datetime.fromtimestamp(epoch, UTC)
    if "edge_requests" in row and all(name in row for name in _EDGE_BYTES):
        # What went from one of Fastly's places to another, its shield, is no delivery.
        return hour, (sum(_count(row[name]) for name in _EDGE_BYTES), _count(row["edge_requests"]))
    return hour, (_count(row["bandwidth"]), _count(row["requests"]))


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**18:
        raise ValueError("no count")
    return value


def _problems(access: Access) -> Iterator[Problem]:
    services = access.options.get("service_ids")
    example = '{"service_ids": {"SU1Z0isxPaozGVKXdv0eY": "www.example.com"}}'
    if not isinstance(services, dict) or not services:
        yield (
            "options",
            f"service_ids: name each Fastly service and the hostname that it stands for, such as {example}.",
        )
        return
    if len(services) > _MOST_SERVICES:
        yield "options", f"service_ids: at most {_MOST_SERVICES} of one source; add another source for the rest."
    for service, host in services.items():
        if not _ID.fullmatch(service):
            yield "options", f"service_ids: “{service[:60]}” is no ID of a Fastly service: letters and digits only."
        elif not isinstance(host, str) or host != hostnames.normalize(host) or hostnames.problem(host):
            yield "options", f"service_ids: “{str(host)[:60]}” is no hostname: write it as in {example}."
    hosts = [host for host in services.values() if isinstance(host, str)]
    if twice := next((host for host in hosts if hosts.count(host) > 1), None):
        yield (
            "options",
            f"service_ids: “{twice}” is named by two services: their hours would be taken for each other’s.",
        )
    yield from endpoint_problems(access)


VENDOR = Vendor(
    "Fastly’s stats (estimate)",
    frozenset({"endpoint_url", "secret"}),
    _problems,
    estimator=FastlyStats,
    options=("service_ids",),
    every_seconds=900,
)
