"""Reads the room: eight queries, whatever there is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db.models import Case, When

from dns.models import WeightChange
from storms.models import CdnIncident
from tranche_site.console import traffic
from tranche_site.console.changes import Change, named, with_shares
from tranche_site.console.room import burning, counted, normal, paths
from tranche_site.console.room.burning import Storm
from tranche_site.console.room.counted import TONES, Counted, Notice
from tranche_site.console.room.normal import Figure
from tranche_site.console.room.paths import ServicePaths
from tranche_site.console.traffic import Traffic

if TYPE_CHECKING:
    from django.contrib.auth.models import AnonymousUser, User

MOST_CHANGES = 8
MOST_PATHS = 500
"""Of more, traffic is that of the services in a storm: the minutes of all are too many to add up for each look."""


@dataclass(frozen=True, slots=True)
class Room:
    now: datetime
    counted: Counted
    incidents: list[CdnIncident]
    storms: list[Storm]
    services: list[ServicePaths]
    held: list[Change]
    changes: list[Change]
    traffic: Traffic | None
    traffic_is_of_storms: bool
    figures: list[Figure]
    may: frozenset[str]
    """Which parts of the page the user may see."""

    @property
    def tone(self) -> str:
        """The worst of the notices: it colours the headline."""
        return max((notice.tone for notice in self.counted.notices), key=TONES.index, default="success")

    @property
    def burning(self) -> list[Notice]:
        return [notice for notice in self.counted.notices if notice.burns]

    @property
    def waiting(self) -> list[Notice]:
        return [notice for notice in self.counted.notices if not notice.burns]

    @property
    def is_calm(self) -> bool:
        return not self.counted.notices and bool(self.counted.paths)

    @property
    def is_empty(self) -> bool:
        return not self.counted.paths

    @property
    def points(self) -> list[dict[str, Any]]:
        return self.counted.points

    @property
    def seeing(self) -> int:
        return sum(1 for point in self.points if not point["is_dark"])


_PARTS = {
    "incidents": "storms.view_cdnincident",
    "storms": "storms.view_stormevent",
    "paths": "storms.view_pathverdict",
    "points": "services.view_vantagepoint",
    "changes": "dns.view_weightchange",
    "usage": "billing.view_usagesnapshot",
}


def read(user: User | AnonymousUser, now: datetime) -> Room:
    may = frozenset(name for name, permission in _PARTS.items() if user.has_perm(permission))
    found, storms = counted.read(user, now), burning.storms(user, now)
    is_many = sum(found.paths.values()) > MOST_PATHS
    moved = [storm.row.service_id for storm in storms] if is_many else None
    held, changes = _changes() if "changes" in may else ([], [])
    return Room(
        now=now,
        counted=found,
        incidents=burning.incidents(user),
        storms=storms,
        services=paths.worst(now) if "paths" in may else [],
        held=held,
        changes=changes,
        traffic=traffic.read(now, moved) if "usage" in may and moved != [] else None,
        traffic_is_of_storms=is_many,
        figures=normal.read(now) if "points" in may else [],
        may=may,
    )


def _changes() -> tuple[list[Change], list[Change]]:
    """Held plans, and the last changes of any other state."""
    held_first = Case(When(state=WeightChange.State.HELD, then=0), default=1)
    rows = list(
        WeightChange.objects.select_related("service__customer", "record_set__domain", "storm")
        .filter(pk__in=_newest()).order_by(held_first, "-id")[: 2 * MOST_CHANGES]
    )  # fmt: skip
    found = with_shares(rows, named(rows))
    held = [change for change in found if change.row.state == WeightChange.State.HELD]
    others = [change for change in found if change.row.state != WeightChange.State.HELD]
    return held[:MOST_CHANGES], others[:MOST_CHANGES]


def _newest() -> Any:
    """Without reading all that ever was: what is held is among the live ones, of which each record set has one."""
    newest = WeightChange.objects.order_by("-id").values("pk")[: 2 * MOST_CHANGES]
    live = WeightChange.objects.live().filter(state=WeightChange.State.HELD).order_by("-id").values("pk")[:MOST_CHANGES]
    return newest.union(live)
