"""The process that the benches of the watch measure: one JSON line with medians in ms.

Every service has a primary and a backup, seen by three vantage points every ten seconds for the last two minutes.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import django

django.setup()

from django.db import connection  # noqa: E402
from django.db.models import Model  # noqa: E402

from services import partitions  # noqa: E402
from services.models import VantagePoint  # noqa: E402
from storms.models import StormEvent  # noqa: E402
from storms.watch import watch  # noqa: E402
from tests import factories  # noqa: E402

VANTAGE_POINTS, INTERVAL, SEEN_SECONDS, ROUNDS = 3, 10, 120, 7
START = datetime.now(UTC).replace(microsecond=0)

_SAMPLES = """
INSERT INTO probe_samples (slot_at, target_id, vantage_point_id, attempt, at, customer_id, service_id, outcome, total_ms,
    certificate_expires_at)
SELECT x.at, t.id, v.id, 0, x.at, t.customer_id, d.service_id,
    CASE WHEN t.role = 'primary' AND d.service_id %% 100 = 0 AND x.at > %(broken)s THEN 'http_5xx' ELSE 'ok' END, 80,
    %(start)s + interval '90 days'
FROM generate_series(%(first)s::timestamptz, %(last)s, interval '10 seconds') g
CROSS JOIN vantage_points v
CROSS JOIN targets t JOIN service_domains d ON d.id = t.domain_id
CROSS JOIN LATERAL (SELECT g + make_interval(secs => (t.id %% 100 + 33.3 * v.id)::int %% 100 / 10.0) AS at) x
ORDER BY x.at
"""
_GROUP_BY = """
SELECT count(*), sum(n), sum(good) FROM (
    SELECT target_id, vantage_point_id, count(*) AS n, count(*) FILTER (WHERE outcome = 'ok') AS good FROM probe_samples
    WHERE slot_at > %s AND at <= %s GROUP BY target_id, vantage_point_id
) counted
"""


def main(services: int) -> None:
    _fill(services)
    now = START
    _see(now - timedelta(seconds=SEEN_SECONDS), now, broken=now + timedelta(days=1))
    _analyze()
    watch(now)  # the first look makes all verdicts
    told = {"rows": _rows(now), "calm_ms": _median(lambda: watch(now + timedelta(seconds=1)))}
    told["group_by_ms"] = _median(lambda: _group(now))
    then = now + timedelta(seconds=30)
    _see(now, then, broken=now)
    _analyze()
    watch(then)
    told["storms"] = StormEvent.objects.count()
    told["storm_ms"] = _median(lambda: watch(then + timedelta(seconds=1)))
    told["rows_per_second"] = told["rows"] / told["calm_ms"] * 1000
    print(json.dumps({name: round(value, 1) for name, value in told.items()}))


def _median(look: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        look()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def _fill(services: int) -> None:
    for _ in range(VANTAGE_POINTS):
        factories.vantage_point()
    VantagePoint.objects.update(last_probe_at=START + timedelta(hours=1), sees_since=START - timedelta(days=1))
    partitions.maintain(START)
    domain = factories.domain(service=factories.service(interval_seconds=INTERVAL))
    pattern = {
        "services": domain.service, "service_domains": domain, "storm_policies": factories.policy(service=domain.service),
        "primary": factories.target("primary", domain=domain), "backup": factories.target("backup", domain=domain),
    }  # fmt: skip
    _copy(pattern["services"], f"generate_series(2, {services}) n", name="'copy ' || n")
    others = f"services o WHERE o.id <> {domain.service_id}"
    _copy(
        pattern["service_domains"],
        others,
        service_id="o.id",
        hostname="'copy' || o.id || '.example.com'",
        challenge="'c' || o.id",
    )
    _copy(pattern["storm_policies"], others, service_id="o.id")
    for role in ("primary", "backup"):
        _copy(pattern[role], f"service_domains o WHERE o.id <> {domain.pk}", domain_id="o.id")


def _copy(row: Model, others: str, **changed: str) -> None:
    """Insert a copy of a row for each of `others` (the end of a FROM clause), with some columns changed."""
    table = row._meta.db_table
    columns = [field.column for field in row._meta.concrete_fields if not field.primary_key]
    values = ", ".join(changed.get(column, f"pattern.{column}") for column in columns)
    pattern = f"(SELECT * FROM {table} WHERE id = {row.pk}) pattern"
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {pattern} CROSS JOIN {others}")


def _see(first: datetime, last: datetime, broken: datetime) -> None:
    with connection.cursor() as cursor:
        interval = timedelta(seconds=INTERVAL)
        cursor.execute(_SAMPLES, {"first": first, "last": last - interval, "broken": broken, "start": START})


def _analyze() -> None:
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def _rows(now: datetime) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM probe_samples WHERE slot_at > %s AND at <= %s", [now - timedelta(seconds=60), now]
        )
        (count,) = cursor.fetchone()
    return int(count)


def _group(now: datetime) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET work_mem = '256MB'")
        cursor.execute(_GROUP_BY, [now - timedelta(seconds=60), now])
        cursor.fetchall()
        cursor.execute("RESET work_mem")


if __name__ == "__main__":
    main(int(sys.argv[1]))
