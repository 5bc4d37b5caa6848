"""The process that the bench of the console's pages measures: one JSON line, medians in ms by page."""

from __future__ import annotations

import json
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta

import django

django.setup()

from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import reverse  # noqa: E402

from services import partitions, rollups  # noqa: E402
from services.models import Service, Target  # noqa: E402
from tests import factories  # noqa: E402
from tests.tranche_site import console_rows  # noqa: E402

SERVICES, VANTAGE_POINTS, DAYS = 28, 3, 35
"""With two paths each: 8.5 million minutes of six samples."""
SAMPLE_DAYS = 1
"""The page reads no older samples than those."""
CUSTOMERS, USAGE_DAYS = 1000, 90
"""With ten services each. A twentieth of them has every hour of its usage."""
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


# Beside the services that were seen: the others, with what a page could look through.
_OTHERS = [
    "INSERT INTO customers (name, billing_email, alert_email, wants_alerts, created_at)"
    " SELECT 'Big ' || n, '', '', false, now() FROM generate_series(1, %(customers)s) n",
    "INSERT INTO services (customer_id, name, probe_method, probe_path, expected_statuses, body_marker, timeout_seconds,"
    " interval_seconds, created_at) SELECT c.id, 'service ' || n, 'GET', '/', '200-399', '', 5, 10, now()"
    " FROM customers c CROSS JOIN generate_series(1, 10) n WHERE c.name LIKE 'Big %%'",
    "INSERT INTO service_domains (customer_id, service_id, hostname, challenge, check_result, verified_at, created_at)"
    " SELECT customer_id, id, 'www' || id || '.big.example', 'x', '', now(), now() FROM services"
    " WHERE id NOT IN (SELECT service_id FROM service_domains)",
    "INSERT INTO targets (customer_id, domain_id, cdn_id, role, rank, address, port, hostname, probe_path, capacity_percent,"
    " enabled, created_at) SELECT d.customer_id, d.id, (SELECT min(id) FROM cdns), r, 1, 'edge.example', 443, '', '', 100, true,"
    " now() FROM service_domains d CROSS JOIN unnest(ARRAY['primary', 'backup', 'origin']) r"
    " WHERE d.id NOT IN (SELECT domain_id FROM targets WHERE domain_id IS NOT NULL)",
    "INSERT INTO path_verdicts (customer_id, target_id, verdict, availability, reason, votes, newest_good_at,"
    " certificate_expires_at, since, evaluated_at)"
    " SELECT customer_id, id, 'UP', 1, 'good', '{}', now(), now() + interval '60 days', now(), now() + interval '1 hour'"
    " FROM targets",
    "INSERT INTO storm_policies (customer_id, service_id, kind, mode, threshold_avail, window_seconds, cooldown_seconds,"
    " max_coverage_factor, min_samples, min_failures, min_vantages, minimum_seconds, closing_samples, holdoff_seconds,"
    " holdoff_max_seconds, version, created_at)"
    " SELECT customer_id, id, 'http_availability', 'armed', 0.9, 30, 30, 1, 3, 3, 2, 60, 10, 60, 600, 1, now() FROM services",
    "INSERT INTO record_sets (customer_id, domain_id, account_id, zone, zone_id, ttl_seconds, apex_addresses, generation,"
    " observed_weights, observed_generation, observation, armed_at, next_look_at)"
    " SELECT d.customer_id, d.id, (SELECT min(id) FROM dns_accounts), 'big.example', '', 30, '{}', 3,"
    " jsonb_build_object(t.id::text, 100), 3, '', now(), now() FROM service_domains d"
    " JOIN targets t ON t.domain_id = d.id AND t.role = 'primary'",
    "INSERT INTO weight_changes (customer_id, service_id, record_set_id, generation, weights, previous_weights,"
    " is_reversal, state, reason, held_reason, error, attempts, next_attempt_at, receipt, wanted_at, observed_at)"
    " SELECT r.customer_id, d.service_id, r.id, n, r.observed_weights, r.observed_weights, false, 'observed', 'a plan', '', '',"
    " 1, now(), '{}', now() - n * interval '9 days', now() - n * interval '9 days'"
    " FROM record_sets r JOIN service_domains d ON d.id = r.domain_id CROSS JOIN generate_series(1, 10) n",
    "INSERT INTO storm_events (customer_id, service_id, kind, regions, is_armed, attribution, started_at, detected_at, ended_at,"
    " closed_at, last_bad_at, spells, relapses, reason, closing_reason) SELECT customer_id, id, 'http_availability', '[]', true,"
    " 'cdn_fault', at, at, at + interval '1 hour', at + interval '2 hours', at, '[]', 0, 'half fails', '' FROM services"
    " CROSS JOIN LATERAL (SELECT now() - n * interval '8 days' AS at FROM generate_series(1, 10) n) x",
    "INSERT INTO usage_snapshots (customer_id, service_id, target_id, window_start, window_end, bytes, requests, grade,"
    " updated_at) SELECT t.customer_id, d.service_id, t.id, at, at + interval '1 hour', 1000000, 10, 'E2', now()"
    " FROM targets t JOIN service_domains d ON d.id = t.domain_id"
    " CROSS JOIN generate_series(date_trunc('hour', now()) - %(usage_days)s * interval '1 day', now(), '1 hour') at"
    " WHERE t.role = 'primary' AND (d.service_id %% 20 = 0 OR d.service_id = %(service)s)",
    "INSERT INTO usage_buckets (customer_id, service_id, target_id, minute_at, minutes, bytes, requests, grade)"
    " SELECT t.customer_id, d.service_id, t.id, at, 15, 1000000, 10, 'E2'"
    " FROM targets t JOIN service_domains d ON d.id = t.domain_id"
    " CROSS JOIN generate_series(date_trunc('hour', now()) - interval '2 hours', now(), '15 minutes') at"
    " WHERE t.role = 'primary'",
    "INSERT INTO events (customer_id, kind, subject_type, subject_id, summary, payload, created_at, processed_at)"
    " SELECT customer_id, 'weights.observed', 'service', id, 'moved', '{}', now(), now() FROM services"
    " CROSS JOIN generate_series(1, 30)",
]
_STORMS = """
INSERT INTO storm_events (customer_id, service_id, kind, regions, is_armed, attribution, started_at, detected_at,
    last_bad_at, spells, relapses, reason, closing_reason)
SELECT customer_id, id, 'http_availability', '[]', true, 'cdn_fault', now() - interval '20 minutes',
    now() - interval '20 minutes', now(), '[]', 0, 'half of the probes fail', ''
FROM services ORDER BY id LIMIT 1000
"""
_LISTS = (
    "services_service", "services_servicedomain", "services_target", "storms_stormevent", "storms_pathverdict",
    "dns_weightchange", "dns_recordset", "billing_usagesnapshot", "customers_event", "customers_customer",
)  # fmt: skip


def main() -> None:
    service = _fill()
    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(console_rows.operator())
    page, settings = (reverse(f"admin:{name}", args=[service.pk]) for name in ("service", "services_service_change"))
    told = {f"service {zoom}": _median_ms(client, f"{page}?zoom={zoom}") for zoom in ("1h", "24h", "7d", "30d")}
    told |= {f"service settings {days}": _median_ms(client, f"{settings}?days={days}") for days in (1, 7)}
    told |= {f"list {name}": _median_ms(client, reverse(f"admin:{name}_changelist")) for name in _LISTS}
    told["room calm"] = _median_ms(client, reverse("admin:dashboard_live"))
    with connection.cursor() as cursor:
        cursor.execute(_STORMS)
    told["room stormy"] = _median_ms(client, reverse("admin:dashboard_live"))
    print(json.dumps(told), file=sys.stderr)
    print(json.dumps(told))


def _median_ms(client: Client, url: str) -> float:
    taken = []
    for _ in range(WARM_UP + ROUNDS):
        began = time.perf_counter()
        answer = client.get(url)
        taken.append(1000 * (time.perf_counter() - began))
        assert answer.status_code == 200
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
        while rollups.roll_up_hours(NOW):
            pass
        chosen = services[SERVICES // 2]
        factories.dns_account()
        asked = {"customers": CUSTOMERS, "usage_days": USAGE_DAYS, "service": chosen.pk}
        for statement in _OTHERS:
            cursor.execute(statement, asked)
        cursor.execute("VACUUM ANALYZE")
    return chosen


if __name__ == "__main__":
    main()
