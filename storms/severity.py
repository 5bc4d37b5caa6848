"""How bad a raging storm is: the share of the primary's samples that were bad since it began (at most 15 minutes back).

Where the primary is probed past the cache too, the worse of both shares counts."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import connection

from services import outcomes
from storms.models import StormEvent
from storms.windows import SLACK_SECONDS

MIN_SAMPLES_PER_POINT = 3

_SQL = """
SELECT service_id, max(share) FROM (
SELECT service_id, sum(bad)::float / sum(judged) AS share FROM (
    SELECT s.service_id, t.facet, x.vantage_point_id,
        count(*) FILTER (WHERE x.outcome = ANY(%(bad)s)) AS bad,
        count(*) FILTER (WHERE x.outcome = ANY(%(bad)s) OR x.outcome = 'ok') AS judged
    FROM storm_events s
    JOIN service_domains d ON d.service_id = s.service_id AND d.deleted_at IS NULL
    JOIN targets t ON t.domain_id = d.id AND t.enabled
        AND (t.role = 'primary' OR t.facet = 'uncacheable' AND EXISTS (
            SELECT FROM targets p WHERE p.id = t.facet_of_id AND p.role = 'primary'))
    JOIN probe_samples x ON x.target_id = t.id AND x.at >= s.started_at
        AND x.service_id = s.service_id
        AND x.slot_at > greatest(s.started_at, now() - interval '15 minutes') - make_interval(secs => %(slack)s)
    WHERE s.id = ANY(%(storms)s) AND NOT x.is_blind AND NOT x.is_late
    GROUP BY s.service_id, t.facet, x.vantage_point_id
) points WHERE judged >= %(least)s GROUP BY service_id, facet
) facets GROUP BY service_id
"""


def shares_bad(storms: Iterable[StormEvent]) -> dict[int, float]:
    """Share of bad samples (0 to 1) by service id, over vantage points with at least three samples since the start."""
    ids = [storm.pk for storm in storms]
    if not ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            _SQL,
            {
                "bad": sorted(outcomes.BAD), "storms": ids, "least": MIN_SAMPLES_PER_POINT,
                "slack": SLACK_SECONDS,
            },
        )  # fmt: skip
        return {service: float(share) for service, share in cursor.fetchall()}
