"""Whose a hostname was at a time, and over which path of a CDN its traffic went."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from billing.models import UsageSource
from services.models import ServiceDomain, Target

_MOST_NAMED = 5_000
"""More hosts than this are made up by visitors; then all our domains are fewer."""
NOBODY = "no verified domain has this hostname"


class Path(NamedTuple):
    customer_id: int
    service_id: int
    target_id: int


@dataclass(frozen=True)
class Owner:
    """Whose a hostname is from its proof until `until`, and over which path of this CDN; or why it has none."""

    since: datetime | None
    until: datetime | None
    path: Path | None
    reason: str


def owners_of(source: UsageSource, hosts: set[str] | None = None) -> dict[str, list[Owner]]:
    """The owners of these hostnames (None: of all), earliest end first, the one without end last."""
    domains = ServiceDomain.objects.filter(verified_at__isnull=False).select_related("service")
    if hosts is not None and len(hosts) <= _MOST_NAMED:
        domains = domains.filter(hostname__in=hosts)
    paths: dict[int | None, Target] = {}
    candidates = Target.objects.filter(domain__in=domains, cdn=source.cdn_id, role__in=Target.PATH_ROLES)
    # Of several paths over one CDN, the one in use counts, the primary before its backups.
    for target in sorted(candidates, key=lambda t: (t.enabled, t.role == Target.Role.PRIMARY, -t.rank, -t.pk)):
        paths[target.domain_id] = target
    owners = defaultdict[str, list[Owner]](list)
    for domain in domains:
        ends = [end for end in (domain.deleted_at, domain.service.deleted_at) if end]
        target_or_none = paths.get(domain.pk)
        path, reason = None, ""
        if source.customer_id is not None and domain.customer_id != source.customer_id:
            reason = "the hostname belongs to another customer than this source"
        elif target_or_none is None:
            reason = f"the domain has no path over {source.cdn}"
        else:
            path = Path(domain.customer_id, domain.service_id, target_or_none.pk)
        owners[domain.hostname].append(Owner(domain.verified_at, min(ends, default=None), path, reason))
    for versions in owners.values():
        versions.sort(key=lambda owner: owner.until or datetime.max.replace(tzinfo=UTC))
    return owners


def owner_at(owners: list[Owner], at: datetime) -> Owner:
    """Who had proven the hostname within that minute and not been deleted before it: of those, the one that ended first."""
    after = at + timedelta(minutes=1)
    return next(
        (o for o in owners if (o.until is None or at < o.until) and o.since is not None and o.since < after),
        Owner(None, None, None, NOBODY),
    )


def owner_throughout(owners: list[Owner], start: datetime, end: datetime) -> Owner | None:
    """Who had it for all of that time, so that nothing in it is another's; None if nobody did."""
    return next(
        (o for o in owners if o.since is not None and o.since <= start and (o.until is None or o.until >= end)), None
    )
