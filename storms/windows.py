"""Reads what every vantage point saw of every watched target within its policy's window: one query for however many services."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection

from services import outcomes
from storms.verdicts import STALE_INTERVALS, Policy, Window

SLACK_SECONDS = 40
"""A sample's slot may begin this long before its probe is recorded (the longest timeout, and a margin)."""


@dataclass(frozen=True, slots=True)
class Key:
    policy_id: int | None
    target_id: int


@dataclass(frozen=True, slots=True)
class Seen:
    """All windows of one target under one policy, by vantage point id."""

    windows: dict[int, Window]
    newest_good_at: datetime | None
    certificate_expires_at: datetime | None


_BAD = ", ".join(f"'{outcome}'" for outcome in sorted(outcomes.BAD))
_IS_BAD = f"CASE WHEN w.kind = 'http_availability' THEN x.outcome IN ({_BAD}) ELSE x.outcome = w.kind END"
_SET_ASIDE = ", ".join(f"'{outcome}'" for outcome in sorted(outcomes.SET_ASIDE))

# A storm that is open is judged by the version of the policy that it began under.
# The window of each (target, vantage point) ends at its own newest sample, so that a sample in flight never makes it
# shorter; staleness is judged apart. What has no availability policy is
# read under the default one: reference sites, canaries, and paths of services that only watch TLS or DNS.
# `storms.verdicts.Policy.lookback`; a slot begins earlier than its probe.
_LOOKBACK = (
    f"greatest(w.window_seconds + {STALE_INTERVALS} * w.interval_seconds, (w.closing_samples + 2) * w.interval_seconds)"
)
_OF_SERVICES = """
    SELECT p.id AS policy_id, t.id AS target_id, s.id AS service_id, p.kind,
        coalesce((v.terms ->> 'window_seconds')::int, p.window_seconds) AS window_seconds,
        coalesce((v.terms ->> 'closing_samples')::int, p.closing_samples) AS closing_samples, s.interval_seconds,
        coalesce((v.terms ->> 'slow_ms')::int, p.slow_ms) AS slow_ms
    FROM storm_policies p
    JOIN services s ON s.id = p.service_id AND s.deleted_at IS NULL
    LEFT JOIN storm_events e ON e.service_id = s.id AND e.kind = p.kind AND e.closed_at IS NULL
    LEFT JOIN storm_policy_versions v ON v.policy_id = e.policy_id AND v.version = e.policy_version
    JOIN service_domains d ON d.service_id = s.id AND d.deleted_at IS NULL AND d.verified_at IS NOT NULL
    JOIN targets t ON t.domain_id = d.id AND t.enabled
    WHERE p.deleted_at IS NULL AND s.id = ANY(%(services)s)
    UNION ALL
    SELECT NULL, t.id, s.id, 'http_availability', %(own_window)s, %(own_closing)s, s.interval_seconds, %(own_slow)s
    FROM services s
    JOIN service_domains d ON d.service_id = s.id AND d.deleted_at IS NULL AND d.verified_at IS NOT NULL
    JOIN targets t ON t.domain_id = d.id AND t.enabled
    WHERE s.deleted_at IS NULL AND s.id = ANY(%(services)s)
        AND EXISTS (SELECT FROM storm_policies p WHERE p.service_id = s.id AND p.deleted_at IS NULL)
        AND NOT EXISTS (
            SELECT FROM storm_policies p
            WHERE p.service_id = s.id AND p.deleted_at IS NULL AND p.kind = 'http_availability')
"""
_OF_OWN = """
    SELECT NULL::bigint AS policy_id, t.id AS target_id, NULL::bigint AS service_id, 'http_availability' AS kind,
        %(own_window)s AS window_seconds, %(own_closing)s AS closing_samples, %(own_interval)s AS interval_seconds,
        %(own_slow)s AS slow_ms
    FROM targets t WHERE t.role IN ('reference', 'canary') AND t.enabled
"""
# By the service, since that and the slot's time is how samples are found.
_HERE = "x.service_id = w.service_id"
_OWN = "x.service_id IS NULL"

_SQL = f"""
WITH watched AS ({{watched}}
), seen AS (
    SELECT w.*, x.vantage_point_id, x.at, x.outcome, x.reason, x.is_blind, x.certificate_expires_at,
        x.total_ms, {_IS_BAD} AS is_bad,
        x.outcome IN ({_SET_ASIDE}) AS is_set_aside,
        max(x.at) OVER pair AS newest_at,
        max(x.at) FILTER (
            WHERE NOT x.is_blind
                AND {_IS_BAD}
        ) OVER pair AS last_bad_at
    FROM watched w
    JOIN probe_samples x ON {{where}} AND x.target_id = w.target_id
        AND x.slot_at > %(now)s - make_interval(secs =>
            {_LOOKBACK} + {SLACK_SECONDS})
        AND x.at > %(now)s - make_interval(secs => {_LOOKBACK})
        AND x.at <= %(now)s
    WHERE x.outcome <> 'unknown' AND NOT x.is_late
    WINDOW pair AS (PARTITION BY w.policy_id, w.target_id, x.vantage_point_id)
), judged AS (
    SELECT *, NOT is_bad AND NOT is_set_aside AND NOT is_blind AS is_good,
        at > newest_at - make_interval(secs => window_seconds) AS is_in_window
    FROM seen
)
SELECT policy_id, target_id, vantage_point_id,
    count(*) FILTER (WHERE is_in_window AND is_good),
    count(*) FILTER (WHERE is_in_window AND is_bad AND NOT is_blind),
    count(*) FILTER (WHERE is_in_window AND outcome = 'blocked' AND NOT is_blind),
    count(*) FILTER (WHERE is_in_window AND is_set_aside AND NOT is_blind),
    max(newest_at),
    count(*) FILTER (WHERE is_good AND at > coalesce(last_bad_at, '-infinity')),
    min(at) FILTER (WHERE is_good AND at > coalesce(last_bad_at, '-infinity')),
    array_agg(outcome) FILTER (WHERE is_in_window AND is_bad AND NOT is_blind),
    (array_agg(reason ORDER BY at DESC) FILTER (WHERE is_in_window AND is_bad AND NOT is_blind))[1],
    bool_or(is_blind) FILTER (WHERE at = newest_at),
    max(at) FILTER (WHERE is_good),
    (array_agg(at ORDER BY at DESC) FILTER (WHERE is_good))[3],
    array_agg(at ORDER BY at) FILTER (WHERE is_in_window AND is_bad AND NOT is_blind),
    count(*) FILTER (WHERE is_in_window AND is_good AND total_ms > slow_ms),
    (array_agg(certificate_expires_at ORDER BY at DESC) FILTER (WHERE certificate_expires_at IS NOT NULL))[1]
FROM judged
GROUP BY policy_id, target_id, vantage_point_id
"""  # noqa: S608


def read(now: datetime, service_ids: Collection[int], blind_points: Collection[int]) -> dict[Key, Seen]:
    """Windows of some services, by policy and target."""
    sql = _SQL.format(watched=_OF_SERVICES, where=_HERE)
    return _read(sql, now, blind_points, services=sorted(service_ids))


def read_own(now: datetime, blind_points: Collection[int]) -> dict[int, Seen]:
    """Windows of our reference sites and canaries, by target."""
    seen = _read(_SQL.format(watched=_OF_OWN, where=_OWN), now, blind_points)
    return {key.target_id: there for key, there in seen.items()}


def good_once(targets: Collection[int], service_ids: Collection[int], now: datetime) -> set[int]:
    """Which of some targets have a good sample on record: by the minute of the last day, or of the last hour."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT t FROM unnest(%(targets)s::bigint[]) AS t
            WHERE EXISTS (
                    SELECT FROM sample_minutes m
                    WHERE m.target_id = t AND m.minute_at > %(now)s - interval '1 day' AND m.good > 0)
                OR EXISTS (
                    SELECT FROM probe_samples x WHERE x.service_id = ANY(%(services)s) AND x.target_id = t
                        AND x.slot_at > %(now)s - interval '1 hour' AND x.at <= %(now)s AND x.outcome = 'ok')
            """,
            {"targets": list(targets), "services": list(service_ids), "now": now},
        )
        return {target for (target,) in cursor.fetchall()}


def _read(sql: str, now: datetime, blind_points: Collection[int], **more: Any) -> dict[Key, Seen]:
    default = Policy()
    parameters = {
        "now": now,
        "own_window": default.window_seconds,
        "own_closing": default.closing_samples,
        "own_interval": settings.PROBE_OWN_INTERVAL_SECONDS,
        "own_slow": default.slow_ms,
    }
    windows: dict[Key, dict[int, Window]] = defaultdict(dict)
    newest_good: dict[Key, datetime] = {}
    expiries: dict[Key, datetime] = {}
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters | more)
        for (
            policy, target, point, good, bad, blocked, set_aside, newest, run, run_start, bad_outcomes, reason, blind, last_good,
            third_good, bad_times, slow, expiry
        ) in cursor.fetchall():  # fmt: skip
            key = Key(policy, target)
            windows[key][point] = Window(
                good, bad, blocked, set_aside, newest, last_good, _first_after(third_good, bad_times), run, run_start,
                Counter(bad_outcomes or ()), reason or "", bool(blind) or point in blind_points, slow,
            )  # fmt: skip
            if last_good:
                newest_good[key] = max(newest_good.get(key, last_good), last_good)
            if expiry:
                expiries[key] = min(expiries.get(key, expiry), expiry)
    return {key: Seen(seen, newest_good.get(key), expiries.get(key)) for key, seen in windows.items()}


def _first_after(moment: datetime | None, times: list[datetime] | None) -> datetime | None:
    return next((at for at in times or () if moment is None or at > moment), None)
