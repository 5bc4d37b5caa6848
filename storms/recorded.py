"""Recorded samples of one service out of the database, as columns for a backtest."""

from __future__ import annotations

from datetime import datetime

from django.db import connection

from services.models import Service, ServiceDomain, Target, VantagePoint
from storms import verdicts
from storms.recordings import CODES, NOT_MEASURED, RecordedPath, Recording, Series, TooMuch, to_micros

MOST_SAMPLES = 2_000_000

_SQL = """
SELECT target_id, vantage_point_id, at, outcome, total_ms, is_blind FROM probe_samples
WHERE service_id = %s AND slot_at >= %s AND slot_at < %s AND target_id = ANY(%s) AND NOT is_late
ORDER BY target_id, vantage_point_id, at
"""


def read(service: Service, start: datetime, end: datetime) -> Recording:
    """What the active vantage points saw of a service in [start, end).

    Raises TooMuch above MOST_SAMPLES. Samples are kept for some days only (SAMPLE_DAYS_KEPT), and with storms.
    """
    points = list(VantagePoint.objects.filter(state=VantagePoint.State.ACTIVE).order_by("name"))
    names = {point.pk: point.name for point in points}
    domains = []
    paths: dict[int, RecordedPath] = {}
    for domain in ServiceDomain.objects.verified().filter(service=service).order_by("pk"):
        targets = domain.targets.filter(enabled=True, role__in=Target.WATCHED_ROLES).order_by("rank", "pk")
        domains.append([_path(target, domain) for target in targets])
        paths |= {path.target: path for path in domains[-1]}
    _fill(paths, names, service, start, end)
    voters = tuple(verdicts.VantagePoint(point.name, point.region, point.network) for point in points)
    return Recording(voters, domains)


def _path(target: Target, domain: ServiceDomain) -> RecordedPath:
    name = f"{target.role} {target.cdn}" if target.cdn else str(target.role)
    return RecordedPath(
        target.pk, domain.hostname, name, target.role, target.rank, target.facet, target.facet_of_id
    )  # fmt: skip


def _fill(
    paths: dict[int, RecordedPath], names: dict[int, str], service: Service, start: datetime, end: datetime
) -> None:
    count = 0
    with connection.chunked_cursor() as cursor:
        cursor.execute(_SQL, [service.pk, start, end, sorted(paths)])
        while rows := cursor.fetchmany(10_000):
            count += len(rows)
            if count > MOST_SAMPLES:
                raise TooMuch(f"more than {MOST_SAMPLES:,} samples: take a shorter time")
            for target, point, at, outcome, total_ms, is_blind in rows:
                if name := names.get(point):
                    series = paths[target].series.setdefault(name, Series())
                    took = NOT_MEASURED if total_ms is None else min(total_ms, 60_000.0)
                    series.append(to_micros(at), CODES[outcome], took, is_blind=is_blind)
    for path in paths.values():
        path.series = {name: series.in_order() for name, series in sorted(path.series.items())}
