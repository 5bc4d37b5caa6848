"""The process that the bench of the service's page measures: one JSON line, medians in ms by the days that are shown."""

from __future__ import annotations

import json
import statistics
import time
from datetime import UTC, datetime, timedelta

import django

django.setup()

from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import reverse  # noqa: E402

from services import partitions  # noqa: E402
from services.models import Service, Target  # noqa: E402
from tests import factories  # noqa: E402
from tests.tranche_site import console_rows  # noqa: E402

SERVICES, VANTAGE_POINTS, DAYS = 28, 3, 35
"""With two paths each: 8.5 million minutes of six samples."""
SAMPLE_DAYS = 1
"""The page reads no older samples than those."""
WARM_UP, ROUNDS = 3, 15
NOW = datetime.now(UTC).replace(second=0, microsecond=0)

_SEEN = """
FROM generate_series(%(start)s, %(now)s, %(every)s) at CROSS JOIN vantage_points v
CROSS JOIN targets t JOIN service_domains d ON d.id = t.domain_id
CROSS JOIN LATERAL (SELECT hashint8(extract(epoch FROM at)::bigint + t.id) & 1023 AS chance) c
CROSS JOIN LATERAL (SELECT chance = 0 AS is_bad, 40 + chance / 50.0 AS ms) x
"""
_MINUTES = f"""
INSERT INTO sample_minutes (
    minute_at, target_id, vantage_point_id, customer_id, service_id, good, bad, total_ms_sum, total_ms_max, count_ms,
    worst_outcome, certificate_expires_at
)
SELECT at, t.id, v.id, t.customer_id, d.service_id, CASE WHEN is_bad THEN 5 ELSE 6 END, is_bad::int,
    ms * CASE WHEN is_bad THEN 5 ELSE 6 END, ms, CASE WHEN is_bad THEN 5 ELSE 6 END,
    CASE WHEN is_bad THEN 'http_5xx' ELSE 'ok' END, '2030-01-01Z'
{_SEEN}
"""
_SAMPLES = f"""
INSERT INTO probe_samples (
    slot_at, target_id, vantage_point_id, attempt, at, customer_id, service_id, outcome, total_ms, certificate_expires_at,
    certificate_issuer
)
SELECT at, t.id, v.id, 0, at, t.customer_id, d.service_id, CASE WHEN is_bad THEN 'http_5xx' ELSE 'ok' END, ms,
    '2030-01-01Z', 'C = US, O = Test, CN = CA'
{_SEEN}
"""


def main() -> None:
    service = _fill()
    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(console_rows.operator())
    page = reverse("admin:services_service_change", args=[service.pk])
    told = {days: _median_ms(client, f"{page}?days={days}") for days in (1, 7)}
    print(json.dumps(told))


def _median_ms(client: Client, url: str) -> float:
    taken = []
    for _ in range(WARM_UP + ROUNDS):
        began = time.perf_counter()
        answer = client.get(url)
        taken.append(1000 * (time.perf_counter() - began))
        assert answer.status_code == 200
        assert answer.content.count(b"<rect") > 2 * VANTAGE_POINTS * 80
    return statistics.median(taken[WARM_UP:])


def _fill() -> Service:
    """Services with a primary and a backup each, seen every 10 s. Returns one from the middle."""
    for _ in range(VANTAGE_POINTS):
        factories.vantage_point()
    services = [factories.service() for _ in range(SERVICES)]
    for service in services:
        domain = factories.domain(service=service)
        for role in Target.PATH_ROLES:
            factories.target(role, domain=domain)
    start, day_ago = NOW - timedelta(days=DAYS), NOW - timedelta(days=SAMPLE_DAYS)
    for at in (start, NOW):  # each makes its month and the next
        partitions.maintain_months(at)
    for at in (day_ago, NOW):
        partitions.maintain(at)
    with connection.cursor() as cursor:
        cursor.execute(_MINUTES, {"start": start, "now": NOW, "every": timedelta(minutes=1)})
        cursor.execute(_SAMPLES, {"start": day_ago, "now": NOW, "every": timedelta(seconds=10)})
        cursor.execute("VACUUM ANALYZE sample_minutes, probe_samples")
    return services[SERVICES // 2]


if __name__ == "__main__":
    main()
