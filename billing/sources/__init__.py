"""Where usage comes from: places where CDNs leave their logs, and APIs of theirs that estimate.

    contract             what a place or an estimator offers; SourceUnavailable, ObjectGone
    directory, s3, bunny places of logs
    cloudflare_graphql, fastly_stats
                         estimates, to compare with what was metered: no invoice reads them
    calls                vendors' APIs, through the egress guard
    names                what names of log files say

A new vendor is a new file, and a line in VENDORS.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from billing.sources import bunny, cloudflare_graphql, directory, fastly_stats, s3
from billing.sources.contract import (
    Access,
    Estimator,
    HostHour,
    ListedObject,
    ObjectGone,
    Place,
    SourceUnavailable,
    Vendor,
    one_line,
)
from billing.sources.directory import Directory
from billing.sources.s3 import Bucket
from tranche_site.floor.sealed import SealedError

if TYPE_CHECKING:
    from billing.models import UsageSource

VENDORS: dict[str, Vendor] = {
    "directory": directory.VENDOR,
    "s3": s3.VENDOR,
    "bunny": bunny.VENDOR,
    "cloudflare_graphql": cloudflare_graphql.VENDOR,
    "fastly_stats": fastly_stats.VENDOR,
}


def place_of(source: UsageSource, now: datetime | None = None) -> Place:
    """Raises SourceUnavailable."""
    make = VENDORS[source.kind].place
    if make is None:
        raise SourceUnavailable(f"{source.get_kind_display()} is no place of logs")
    return make(_access(source), now or datetime.now(UTC))


def estimator_of(source: UsageSource, now: datetime) -> Estimator:
    """Raises SourceUnavailable."""
    make = VENDORS[source.kind].estimator
    if make is None:
        raise SourceUnavailable(f"{source.get_kind_display()} has no estimates")
    return make(_access(source), now)


def _access(source: UsageSource) -> Access:
    try:
        return source.access(source.secret())
    except SealedError as error:
        raise SourceUnavailable(str(error)) from error


__all__ = [
    "VENDORS",
    "Access",
    "Bucket",
    "Directory",
    "Estimator",
    "HostHour",
    "ListedObject",
    "ObjectGone",
    "Place",
    "SourceUnavailable",
    "Vendor",
    "estimator_of",
    "one_line",
    "place_of",
]
