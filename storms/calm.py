"""Who needs a closer look: one query over all services, whatever is going on.

A service is calm while all its paths were UP at the last full look and nothing but good samples, often enough, has come
since. Nothing can be decided about it then, so that only its verdicts are kept fresh; slow answers and certificates show
in the counts by the minute. Everybody else is *loud*, and judged in full by the watch. The work is that of one pass over
the samples of the last minute, calm or storm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection

from services.models import SILENT, VantagePoint
from storms import verdicts
from storms.verdicts import Policy, Verdict, Window

HORIZON = timedelta(seconds=60)
"""How far back the pass looks. What was bad earlier, and good since, is over; and bad news is judged at once anyway."""
REFRESH = timedelta(seconds=25)
"""A calm path's verdict is written again this often: what reads it takes an older one for UNKNOWN."""
REFRESH_AT_ONCE = 50_000
TURN_SECONDS = 2
SLOW_TURNS, FINDING_TURNS = 10, 5
"""A service that is probed too seldom for this look is judged in full every tenth turn, and one with a finding every fifth:
bad news of either is judged at once."""

# By the target alone, with one column for each vantage point that sees: half the groups and half the time of a GROUP BY
# over both.
_SQL = f"""
WITH seen AS MATERIALIZED (
    SELECT target_id, count(*) AS good, count(*) FILTER (WHERE outcome <> 'ok') AS odd, max(at) AS newest_at,
        {{oldest_at}} AS oldest_at
    FROM probe_samples
    WHERE slot_at > %(now)s - %(horizon)s AND at <= %(now)s AND NOT is_late AND NOT is_blind AND outcome <> 'unknown'
        AND vantage_point_id = ANY(%(active)s)
    GROUP BY target_id
), policies AS (
    SELECT service_id, max(min_samples) AS min_samples, min(slow_ms) AS slow_ms, max(min_vantages) AS min_vantages
    FROM storm_policies WHERE deleted_at IS NULL GROUP BY service_id
), paths AS (
    SELECT s.id AS service_id, t.id AS target_id, p.min_vantages, p.slow_ms, n.newest_at, v.evaluated_at, v.votes,
        coalesce(v.is_calm, false)
            AND coalesce(n.odd, 0) = 0
            AND coalesce(v.certificate_expires_at, 'infinity')
                > %(now)s + make_interval(days => s.minimum_certificate_days)
            AND ({verdicts.STALE_INTERVALS} * s.interval_seconds <= %(horizon_seconds)s
                OR (%(turn)s + s.id) %% {SLOW_TURNS} <> 0)
            AND ({verdicts.STALE_INTERVALS} * s.interval_seconds > %(horizon_seconds)s OR %(points)s = 0 OR coalesce(
                n.good >= %(points)s * least(p.min_samples, %(horizon_seconds)s / s.interval_seconds - 1)
                AND n.oldest_at > %(now)s - make_interval(secs => {verdicts.STALE_INTERVALS} * s.interval_seconds),
                false)) AS is_calm
    FROM policies p
    JOIN services s ON s.id = p.service_id AND s.deleted_at IS NULL
    JOIN service_domains d ON d.service_id = s.id AND d.deleted_at IS NULL AND d.verified_at IS NOT NULL
    JOIN targets t ON t.domain_id = d.id AND t.enabled
    LEFT JOIN seen n ON n.target_id = t.id
    LEFT JOIN path_verdicts v ON v.target_id = t.id
), loud AS (
    SELECT service_id FROM paths GROUP BY service_id HAVING NOT bool_and(is_calm)
    UNION SELECT service_id FROM storm_events WHERE closed_at IS NULL
    UNION SELECT service_id FROM findings WHERE resolved_at IS NULL AND (%(turn)s + service_id) %% {FINDING_TURNS} = 0
)
SELECT service_id, NULL::bigint, NULL::int, NULL::timestamptz, NULL::timestamptz FROM loud
UNION ALL
SELECT CASE WHEN m.slowest_ms > due.slow_ms THEN service_id END, target_id, min_vantages, newest_at, m.expires_at
FROM (
    SELECT * FROM paths
    WHERE is_calm AND (evaluated_at <= %(now)s - %(refresh)s OR %(settled)s AND votes <> %(votes)s::jsonb)
        AND service_id NOT IN (SELECT service_id FROM loud)
    LIMIT {REFRESH_AT_ONCE}
) due
LEFT JOIN LATERAL (
    SELECT max(total_ms_sum / count_ms) FILTER (WHERE count_ms > 0) AS slowest_ms, min(certificate_expires_at) AS expires_at
    FROM sample_minutes WHERE sample_minutes.target_id = due.target_id AND minute_at > %(now)s - interval '3 minutes'
) m ON true
"""  # noqa: S608

_FRESH = """
    newest_good_at = coalesce(n.newest_at, v.newest_good_at), evaluated_at = %(now)s,
    certificate_expires_at = coalesce(n.expires_at, v.certificate_expires_at)
FROM unnest(%(targets)s::bigint[], %(verdicts)s::text[], %(newest)s::timestamptz[], %(expires)s::timestamptz[])
    AS n(target_id, verdict, newest_at, expires_at)
WHERE v.target_id = n.target_id
"""
_TOUCH = f"UPDATE path_verdicts v SET {_FRESH}"  # noqa: S608
_UPDATE = f"""
UPDATE path_verdicts v SET verdict = n.verdict, votes = %(votes)s::jsonb, availability = 1, reason = %(reason)s,
    since = CASE WHEN v.verdict = n.verdict THEN v.since ELSE %(now)s END, {_FRESH}
"""  # noqa: S608


@dataclass(slots=True)
class Look:
    loud: list[int] = field(default_factory=list)
    """Services to be judged in full."""
    refreshed: int = 0


def look(now: datetime) -> Look:
    """Find the loud services, and keep the verdicts of the calm ones fresh."""
    points = list(VantagePoint.objects.filter(state=VantagePoint.State.ACTIVE).order_by("name"))
    seeing = _seeing(points, now)
    votes = {p.name: Verdict.UP if p.pk in seeing else Verdict.UNKNOWN for p in points}
    parameters: dict[str, Any] = {
        "now": now, "horizon": HORIZON, "horizon_seconds": int(HORIZON.total_seconds()), "refresh": REFRESH,
        "active": [p.pk for p in points], "points": len(seeing), "votes": json.dumps(votes),
        "turn": int(now.timestamp()) // TURN_SECONDS,
        # What a vantage point votes that has just begun to see is left as the full look had it, until its window is full.
        "settled": not any(_begins_to_see(point, now) for point in points),
    }  # fmt: skip
    with connection.cursor() as cursor:
        # The pass groups some hundred thousand paths: by sorting on disk it would take three times as long.
        cursor.execute("SET LOCAL work_mem = '256MB'")
        cursor.execute(_SQL.format(oldest_at=_oldest_at(seeing)), parameters)
        rows = cursor.fetchall()
        found = Look(sorted({row[0] for row in rows if row[0] is not None}))
        if calm := [row[1:] for row in rows if row[1] is not None]:
            by_minimum = {least: _verdict(points, votes, least, now) for least in {row[1] for row in calm}}
            cursor.execute(
                _UPDATE if parameters["settled"] else _TOUCH,
                {
                    "now": now, "votes": parameters["votes"],
                    "reason": f"nothing but good samples ({len(seeing)} of {len(points)} vantage points see)",
                    "targets": [row[0] for row in calm], "verdicts": [by_minimum[row[1]] for row in calm],
                    "newest": [row[2] for row in calm], "expires": [row[3] for row in calm],
                },
            )  # fmt: skip
            found.refreshed = cursor.rowcount
    return found


def _oldest_at(seeing: set[int]) -> str:
    """SQL for the newest sample of the vantage point that was heard last; before all time where one was not heard."""
    newest = [f"coalesce(max(at) FILTER (WHERE vantage_point_id = {pk:d}), '-infinity')" for pk in sorted(seeing)]
    return f"least({', '.join(newest)})" if newest else "NULL::timestamptz"


def _seeing(points: list[VantagePoint], now: datetime) -> set[int]:
    """The vantage points whose good samples count: neither blind lately nor silent."""
    return {p.pk for p in points if probes(p, now) and p.sees_since and p.sees_since <= now - HORIZON}


def probes(point: VantagePoint, now: datetime) -> bool:
    """Whether it records just now, and is not blind."""
    return not point.blind_since and point.last_probe_at is not None and point.last_probe_at > now - SILENT


def _begins_to_see(point: VantagePoint, now: datetime) -> bool:
    return probes(point, now) and (point.sees_since is None or point.sees_since > now - HORIZON)


def _verdict(points: list[VantagePoint], votes: dict[str, Verdict], min_vantages: int, now: datetime) -> Verdict:
    """What the full look would say of a path that is good wherever somebody sees."""
    policy = Policy(min_samples=1, min_vantages=min_vantages)
    good = Window(good=1, newest_at=now, newest_good_at=now)
    voters = [verdicts.VantagePoint(p.name, p.region, p.network) for p in points]
    windows = {name: good for name, vote in votes.items() if vote is Verdict.UP}
    return verdicts.view(0, windows, voters, policy, now).verdict
