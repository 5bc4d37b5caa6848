"""What a probe worker watches: targets as probes, canaries, maintenance, and the database's clock. Read every few seconds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Q

from services import headers, statuses
from services.maintenance import Span
from services.models import Cdn, MaintenanceWindow, Subject, Target, VantagePoint
from services.probe import Family, Probe

OWN_TIMEOUT_SECONDS = 3.0
_MAINTENANCE_AHEAD = timedelta(seconds=30)
_MAINTENANCE_BEHIND = timedelta(seconds=60)

# Every update gives a row a new xmin, so this changes with any change, and is cheap beside reading all of them anew.
_FINGERPRINT = """
SELECT sum(hashtextextended(kind || id::text || '.' || xmin::text, 0)) FROM (
    SELECT 't' AS kind, id, xmin FROM targets
    UNION ALL SELECT 'd', id, xmin FROM service_domains
    UNION ALL SELECT 's', id, xmin FROM services
    UNION ALL SELECT 'c', id, xmin FROM cdns
) watched
"""


@dataclass(frozen=True, slots=True)
class Watched:
    """One target as the loop keeps it."""

    id: int
    role: str
    probe: Probe
    interval_seconds: float
    cdn_id: int | None
    domain_id: int | None
    service_id: int | None
    customer_id: int | None
    network: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it at one moment. `clock_off_seconds` is this machine's clock less the database's."""

    points: list[VantagePoint] = field(default_factory=list)
    """Those that are not off."""
    targets: Mapping[int, Watched] = field(default_factory=dict)
    canaries: Mapping[str, Collection[int]] = field(default_factory=dict)
    """Ids of the canaries by network; one that names none stands for itself."""
    maintenance: Mapping[Subject, Span] = field(default_factory=dict)
    clock_off_seconds: float = 0.0
    fingerprint: object = None

    @property
    def shape(self) -> list[tuple[int, int]]:
        """Who probes, and in how many shards: with the targets, all that slots are planned by."""
        return [(point.pk, point.shards) for point in self.points]

    def is_maintained(self, target: Watched, at: datetime) -> bool:
        subjects: tuple[Subject, ...] = (("service", target.service_id or 0), ("cdn", target.cdn_id or 0))
        return any((span := self.maintenance.get(s)) and span.start <= at < span.end for s in subjects)


def read(before: Picture) -> Picture:
    """The picture now. Targets are read again only if something about them changed since `before`."""
    asked = time.time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        clock_off = (asked + time.time()) / 2 - cursor.fetchone()[0]
        cursor.execute(_FINGERPRINT)
        fingerprint = cursor.fetchone()[0]
    changed = before.fingerprint is None or fingerprint != before.fingerprint
    targets = {target.id: target for target in _targets()} if changed else before.targets
    now = datetime.now(UTC)
    return Picture(
        points=list(VantagePoint.objects.exclude(state=VantagePoint.State.OFF).order_by("name")),
        targets=targets,
        canaries=_canaries(targets.values()) if changed else before.canaries,
        maintenance=MaintenanceWindow.spans(now + _MAINTENANCE_AHEAD, _MAINTENANCE_AHEAD + _MAINTENANCE_BEHIND),
        clock_off_seconds=clock_off,
        fingerprint=fingerprint,
    )


def _canaries(targets: Iterable[Watched]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for target in targets:
        if target.role == Target.Role.CANARY:
            found[target.network or f"of {target.probe.address}"].append(target.id)
    return dict(found)


_FIELDS = (
    "id", "role", "facet", "customer_id", "cdn_id", "domain_id", "hostname", "address", "port", "probe_path", "network",
    "facet_of__probe_path", "domain__hostname", "domain__service_id", "domain__service__probe_method",
    "domain__service__probe_path", "domain__service__uncacheable_path", "domain__service__probe_headers",
    "domain__service__probe_ipv4", "domain__service__expected_statuses", "domain__service__body_marker",
    "domain__service__timeout_seconds", "domain__service__interval_seconds",
)  # fmt: skip


def _targets() -> list[Watched]:
    """Of a domain whose owner has not proved it nothing is probed."""
    suffixes = tuple(f".{suffix}" for found in Cdn.objects.values_list("suffixes", flat=True) for suffix in found)
    rows = Target.objects.live().filter(Q(domain__isnull=True) | Q(domain__verified_at__isnull=False))
    return [_watched(dict(zip(_FIELDS, row, strict=True)), suffixes) for row in rows.values_list(*_FIELDS)]


def _watched(row: dict[str, Any], suffixes: tuple[str, ...]) -> Watched:
    if row["domain_id"] is None:
        return Watched(
            row["id"], row["role"],
            Probe(
                row["hostname"], row["address"], row["port"], row["probe_path"] or "/",
                timeout_seconds=OWN_TIMEOUT_SECONDS, allow_private=settings.PROBE_ALLOW_PRIVATE,
            ),
            settings.PROBE_OWN_INTERVAL_SECONDS, row["cdn_id"], None, None, None, row["network"],
        )  # fmt: skip
    service = {name.removeprefix("domain__service__"): value for name, value in row.items()}
    path, is_uncacheable = _path(row, service)
    probe = Probe(
        host=row["domain__hostname"],
        address=row["address"],
        port=row["port"],
        path=path,
        method=service["probe_method"],
        headers=headers.lines(service["probe_headers"]),
        family=_family(row, service),
        is_on_known_cdn=f".{row['address']}".endswith(suffixes),
        expected=statuses.parse(service["expected_statuses"]),
        # The marker stands in the page that the customer named first; another page has its own words.
        body_marker=b"" if is_uncacheable else service["body_marker"].encode(),
        timeout_seconds=float(service["timeout_seconds"]),
        customer_id=row["customer_id"],
        allow_private=settings.PROBE_ALLOW_PRIVATE,
    )
    return Watched(
        row["id"], row["role"], probe, service["interval_seconds"], row["cdn_id"], row["domain_id"],
        row["domain__service_id"], row["customer_id"],
    )  # fmt: skip


def _path(row: dict[str, Any], service: dict[str, Any]) -> tuple[str, bool]:
    """The path to ask for, and whether it is the one that no CDN caches: the origin is always asked for that one."""
    own = row["probe_path"] or row["facet_of__probe_path"] or ""
    asks_past_caches = row["facet"] == Target.Facet.UNCACHEABLE or (row["role"] == Target.Role.ORIGIN and not own)
    if asks_past_caches and service["uncacheable_path"]:
        return service["uncacheable_path"], True
    return own or service["probe_path"], False


def _family(row: dict[str, Any], service: dict[str, Any]) -> Family:
    if row["role"] == Target.Role.ORIGIN:
        return Family.EITHER
    if row["facet"] == Target.Facet.IPV6 or not service["probe_ipv4"]:
        return Family.IPV6
    return Family.IPV4
