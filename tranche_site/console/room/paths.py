"""The services that are worst off, with the paths of each. One query."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min
from django.urls import reverse

from services.models import Target
from tranche_site.console.verdicts import VERDICTS, severity
from tranche_site.floor.console_admin import percent

MOST = 10
_ORDER = ("primary", "backup", "origin")


@dataclass(frozen=True, slots=True)
class Path:
    """The worst of one role's targets of a service."""

    role: str
    rank: int
    cdn: str
    verdict: str
    availability: float | None
    certificate_days: int | None
    targets: int
    url: str

    @property
    def share(self) -> str:
        return percent(self.availability)

    @property
    def certificate_is_near(self) -> bool:
        return self.certificate_days is not None and self.certificate_days < 14


@dataclass(frozen=True, slots=True)
class ServicePaths:
    pk: int
    name: str
    customer: str
    paths: list[Path]


def worst(now: datetime) -> list[ServicePaths]:
    targets = Target.objects.live().filter(role__in=Target.DOMAIN_ROLES, domain__isnull=False)
    first = (
        targets.values("domain__service").annotate(severity=Max(severity(now)))
        .order_by("-severity", "domain__service").values("domain__service")[:MOST]
    )  # fmt: skip
    rows = (
        targets.filter(domain__service__in=first)
        .values(
            "domain__service", "domain__service__name", "domain__service__customer__name", "role", "rank", "cdn__name"
        )
        .annotate(
            severity=Max(severity(now)),
            availability=Min("verdict__availability"),
            certificate=Min("verdict__certificate_expires_at"),
            targets=Count("id"),
        )
        .order_by("domain__service", "role", "rank")
    )
    services: dict[int, ServicePaths] = {}
    for row in rows[: MOST * 10]:
        pk = row["domain__service"]
        names = row["domain__service__name"], row["domain__service__customer__name"]
        services.setdefault(pk, ServicePaths(pk, *names, [])).paths.append(_path(row, now))
    for entry in services.values():
        entry.paths.sort(key=lambda path: (_ORDER.index(path.role), path.rank))
    return sorted(services.values(), key=lambda entry: (-max(VERDICTS.index(p.verdict) for p in entry.paths), entry.pk))


def _path(row: Any, now: datetime) -> Path:
    query = f"?target__domain__service__id__exact={row['domain__service']}&target__role__exact={row['role']}"
    return Path(
        role=row["role"],
        rank=row["rank"],
        cdn=row["cdn__name"] or "",
        verdict=VERDICTS[row["severity"]],
        availability=row["availability"],
        certificate_days=(row["certificate"] - now).days if row["certificate"] else None,
        targets=row["targets"],
        url=reverse("admin:storms_pathverdict_changelist") + query,
    )
