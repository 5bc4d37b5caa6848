"""Cloudflare's GraphQL analytics as far as we ask it, with its refusals: a query is held against a schema, and what is asked
against the limits of its zones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import graphql

from tests.billing.fake_api import Call, FakeApi, Reply, as_json

HOUR = timedelta(hours=1)
SCHEMA = graphql.build_schema(
    """
    scalar Time
    scalar string
    scalar uint64
    scalar float64
    scalar bool

    type Query { viewer: viewer! }
    type viewer { zones(filter: FilterZones_InputObject): [zone!]! }
    input FilterZones_InputObject { zoneTag: string, zoneTag_in: [string!] }
    type zone {
      zoneTag: string!
      settings: ZoneSettings!
      httpRequestsAdaptiveGroups(
        limit: uint64!, filter: ZoneHttpRequestsAdaptiveGroupsFilter_InputObject, orderBy: [GroupsOrderBy!]
      ): [Group!]!
    }
    type ZoneSettings { httpRequestsAdaptiveGroups: Settings }
    type Settings {
      enabled: bool!, maxDuration: uint64!, maxPageSize: uint64!, notOlderThan: uint64!, maxNumberOfFields: uint64!
      availableFields: [string!]!
    }
    input ZoneHttpRequestsAdaptiveGroupsFilter_InputObject {
      datetime_geq: Time, datetime_gt: Time, datetime_leq: Time, datetime_lt: Time
      requestSource: string, clientRequestHTTPHost: string, clientRequestHTTPHost_in: [string!]
    }
    enum GroupsOrderBy { datetimeHour_ASC datetimeHour_DESC count_ASC count_DESC }
    type Group { count: uint64!, avg: Avg, sum: Sum, confidence(level: float64!): Confidence, dimensions: Dimensions }
    type Avg { sampleInterval: float64! }
    type Sum { edgeResponseBytes: uint64!, visits: uint64! }
    type Confidence { level: float64!, count: Interval, sum: ConfidenceSum }
    type ConfidenceSum { edgeResponseBytes: Interval, visits: Interval }
    type Interval { estimate: float64, lower: float64, upper: float64, sampleSize: uint64 }
    type Dimensions { datetimeHour: Time!, clientRequestHTTPHost: string!, coloCode: string! }
    """
)


@dataclass
class Zone:
    """What is there, by host, hour and source of the requests: how many, and their bytes."""

    traffic: dict[tuple[str, datetime, str], tuple[int, int]] = field(default_factory=dict)
    enabled: bool = True
    max_duration: int = 86_400
    max_page_size: int = 10_000
    not_older_than: int = 30 * 86_400


class FakeCloudflare(FakeApi):
    TOKEN = "cf-token-canary-4711-abcdefgh"

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self.now = now
        self.zones: dict[str, Zone] = {}
        self.sampling = 1
        """Only every so many-th request is looked at, and counts for all of them."""
        self.budget = 300
        self.has_confidence = True
        self.chance = random.Random(4711)
        self.usage_variables: list[dict[str, Any]] = []

    def put(self, zone: str, host: str, hour: datetime, requests: int, size: int, source: str = "eyeball") -> None:
        self.zones.setdefault(zone, Zone()).traffic[host, hour, source] = requests, size

    def answer(self, call: Call) -> Reply:
        if (call.method, call.path) != ("POST", "/graphql"):
            return as_json(404, {"success": False, "errors": [{"code": 7003, "message": "Could not route"}]})
        if call.headers.get("authorization") != f"Bearer {self.TOKEN}":
            message = f"Invalid access token: {call.headers.get('authorization')}"
            return as_json(403, {"success": False, "errors": [{"code": 9109, "message": message}]})
        self.budget -= 1
        if self.budget < 0:
            return as_json(429, {"errors": [{"message": "more than 300 queries"}]}, {"Retry-After": "137"})
        asked = json.loads(call.body)
        if "Usage" in asked["query"]:
            self.usage_variables.append(asked["variables"])
        document = graphql.graphql_sync(
            SCHEMA, asked["query"], {"viewer": {"zones": self._zones}}, variable_values=asked["variables"]
        )
        if document.errors:
            errors = [{"message": error.message, "path": error.path, "extensions": {}} for error in document.errors]
            return as_json(200, {"data": None, "errors": errors})
        return as_json(200, {"data": document.data, "errors": None})

    def _zones(self, info: Any, filter: dict[str, Any]) -> list[dict[str, Any]]:
        tags = filter.get("zoneTag_in") or [filter["zoneTag"]]
        if len(tags) > 10:
            raise graphql.GraphQLError("cannot request data for more than 10 zones in one query")
        if strangers := [tag for tag in tags if tag not in self.zones]:
            raise graphql.GraphQLError(f"zone {strangers[0]} does not have access to the path")
        return [
            {
                "zoneTag": tag,
                "settings": {"httpRequestsAdaptiveGroups": self._settings(self.zones[tag])},
                "httpRequestsAdaptiveGroups": lambda info, zone=self.zones[tag], **kw: self._groups(zone, **kw),
            }
            for tag in tags
        ]

    def _settings(self, zone: Zone) -> dict[str, Any]:
        return {
            "enabled": zone.enabled, "maxDuration": zone.max_duration, "maxPageSize": zone.max_page_size,
            "notOlderThan": zone.not_older_than, "maxNumberOfFields": 30, "availableFields": ["count"],
        }  # fmt: skip

    def _groups(self, zone: Zone, limit: int, filter: dict[str, Any], orderBy: Any = None) -> list[dict[str, Any]]:
        since = datetime.fromisoformat(filter["datetime_geq"])
        until = datetime.fromisoformat(filter["datetime_lt"])
        if not zone.enabled:
            raise graphql.GraphQLError("zone does not have access to the path")
        if limit > zone.max_page_size:
            raise graphql.GraphQLError(f"limit must be at most {zone.max_page_size}")
        if (until - since).total_seconds() > zone.max_duration:
            raise graphql.GraphQLError(f"query time range is too large: at most {zone.max_duration}s")
        if since < self.now - timedelta(seconds=zone.not_older_than):
            raise graphql.GraphQLError(f"cannot request data older than {zone.not_older_than}s")
        sums: dict[tuple[str, datetime], tuple[int, int]] = {}
        for (host, hour, source), (requests, size) in zone.traffic.items():
            # An hour too many at the beginning, as it happens.
            is_asked = since - HOUR <= hour < until
            if is_asked and self._passes(filter, host, source):
                before = sums.get((host, hour), (0, 0))
                sums[host, hour] = before[0] + requests, before[1] + size
        rows = [self._group(host, hour, *volume) for (host, hour), volume in sums.items()]
        self.chance.shuffle(rows)
        return rows[:limit]

    def _passes(self, filter: dict[str, Any], host: str, source: str) -> bool:
        hosts: Iterable[str] = filter.get("clientRequestHTTPHost_in") or [host]
        return host in hosts and filter.get("requestSource", source) == source

    def _group(self, host: str, hour: datetime, requests: int, size: int) -> dict[str, Any]:
        step = self.sampling
        estimate = size if step == 1 else size * 97 // 100  # what a sample happens to show
        margin = 0 if step == 1 else size // 10
        interval = {"estimate": estimate, "lower": estimate - margin + 0.4, "upper": estimate + margin - 0.4}
        exact = {"estimate": estimate, "lower": estimate, "upper": estimate}
        confidence = {"sum": {"edgeResponseBytes": interval if margin else exact}}
        return {
            "count": requests,
            "avg": {"sampleInterval": float(step)},
            "sum": {"edgeResponseBytes": estimate, "visits": requests},
            "confidence": (lambda info, level: confidence) if self.has_confidence else None,
            "dimensions": {
                "datetimeHour": hour.strftime("%Y-%m-%dT%H:%M:%SZ"), "clientRequestHTTPHost": host, "coloCode": "FRA",
            },
        }  # fmt: skip
