"""Traffic by path over the last half hour, from the CDNs' own logs, as a picture that needs no script."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Sum

from billing.models import UsageBucket

MINUTES = 30
WIDTH, HEIGHT = 600, 96
_STEP = WIDTH / MINUTES


@dataclass(frozen=True, slots=True)
class Bar:
    """One minute: the primary's bytes below, the backup's above them; in the picture's own units."""

    x: float
    width: float
    primary_y: float
    primary_height: float
    backup_y: float
    backup_height: float
    title: str


@dataclass(frozen=True, slots=True)
class Traffic:
    bars: list[Bar]
    start: datetime
    end: datetime
    peak: str
    width: int = WIDTH
    height: int = HEIGHT


def read(now: datetime, services: Collection[int] | None = None) -> Traffic | None:
    """Of these services, or with None of all. None when no log told of traffic in this time."""
    end = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    start = end - timedelta(minutes=MINUTES)
    rows = UsageBucket.objects.filter(minute_at__gte=start, minute_at__lt=end)
    found = (
        rows.filter(**{} if services is None else {"service__in": services})
        .values("minute_at", "target__role")
        .annotate(total=Sum("bytes"))
        .order_by()
    )
    sizes = {(row["minute_at"], row["target__role"]): row["total"] for row in found}
    if not sizes:
        return None
    minutes = [start + timedelta(minutes=n) for n in range(MINUTES)]
    peak = max(sizes.get((m, "primary"), 0) + sizes.get((m, "backup"), 0) for m in minutes) or 1
    bars = [
        _bar(n, minute, sizes.get((minute, "primary"), 0), sizes.get((minute, "backup"), 0), peak)
        for n, minute in enumerate(minutes)
    ]
    return Traffic(bars, start, end, f"{megabytes(peak)} MB a minute at most")


def _bar(place: int, minute: datetime, primary: int, backup: int, peak: int) -> Bar:
    below, above = HEIGHT * primary / peak, HEIGHT * backup / peak
    return Bar(
        x=round(place * _STEP, 1),
        width=round(_STEP - 2, 1),
        primary_y=round(HEIGHT - below, 1),
        primary_height=round(below, 1),
        backup_y=round(HEIGHT - below - above, 1),
        backup_height=round(above, 1),
        title=f"{minute:%H:%M} UTC: primary {megabytes(primary)} MB, backup {megabytes(backup)} MB",
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f}"
