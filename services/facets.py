"""The facets of every path: further looks at it, each a target of its own, with its own samples and its own verdict.

A path of a service that is probed over both families has an IPv6 facet; one of a service with an uncacheable path has a
facet that asks for it, since a cache hit beside a dead origin looks like a CDN's fault. Rows are never deleted: what was
seen hangs on them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import connection

# The constraints of `targets` are the referee: one facet of a kind for a path.
_WANTED = """
SELECT t.*, kind.facet AS wanted FROM targets t
JOIN service_domains d ON d.id = t.domain_id
JOIN services s ON s.id = d.service_id
CROSS JOIN LATERAL (
    SELECT 'ipv6' AS facet WHERE s.probe_ipv4 AND s.probe_ipv6
    UNION ALL SELECT 'uncacheable' WHERE s.uncacheable_path <> ''
) kind
WHERE t.role IN ('primary', 'backup') AND t.enabled AND (%(all)s OR s.id = ANY(%(services)s))
"""
_ADD = f"""
INSERT INTO targets (
    customer_id, domain_id, cdn_id, role, facet, facet_of_id, rank, address, port, hostname, probe_path, network,
    capacity_percent, enabled, created_at
)
SELECT customer_id, domain_id, cdn_id, 'facet', wanted, id, rank, address, port, hostname, '', '', capacity_percent,
    true, now()
FROM ({_WANTED}) w
ON CONFLICT (facet_of_id, facet) DO UPDATE SET enabled = true, rank = excluded.rank
WHERE NOT targets.enabled OR targets.rank <> excluded.rank
"""  # noqa: S608
_SWITCH_OFF = f"""
UPDATE targets f SET enabled = false
FROM service_domains d
WHERE f.role = 'facet' AND f.enabled AND d.id = f.domain_id AND (%(all)s OR d.service_id = ANY(%(services)s))
    AND NOT EXISTS (SELECT FROM ({_WANTED}) w WHERE w.id = f.facet_of_id AND w.wanted = f.facet)
"""  # noqa: S608


def keep(service_ids: Collection[int] | None = None) -> None:
    """Make the facets of these services (None: of all) what their services want. Safe to run at any time, twice."""
    parameters: dict[str, Any] = {"all": service_ids is None, "services": list(service_ids or [])}
    with connection.cursor() as cursor:
        cursor.execute(_ADD, parameters)
        cursor.execute(_SWITCH_OFF, parameters)
