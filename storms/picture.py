"""A storm as a picture that needs no script: how the service's paths did meanwhile, and what was made of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import F
from django.db.models.functions import Coalesce
from django.utils.html import format_html_join

from services.availability import Point, series
from services.chart import shown, steps
from services.models import Target
from services.outcomes import BAD, Outcome
from storms.keeping import AROUND
from storms.models import StormEvent, StormPolicyVersion

WIDTH, HEIGHT = 1000, 120
MARGIN = 4
"""Above 100 % and below 0 %, so that a line there is whole."""
MOST_CELLS = 240
CELL_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 360, 720, 1440)
"""Lengths of a cell, of which the picture takes the first that makes it no wider than MOST_CELLS."""
MOST_TARGETS = 400
MOST_LINES = 5
LEAST_BAND = 2
"""A spell of seconds within hours must be seen, too."""
_CELL = f'<rect class="tr-storm-cell" x="{{}}" width="{{}}" height="{HEIGHT}"><title>{{}}</title></rect>'

# What the minutes of a month that was dropped would have counted.
_KEPT = """
SELECT target_id, date_bin(make_interval(secs => %(step)s), slot_at, %(start)s),
    count(*) FILTER (WHERE outcome = %(ok)s), count(*) FILTER (WHERE outcome = ANY(%(bad)s))
FROM storm_samples
WHERE storm_id = %(storm)s AND target_id = ANY(%(targets)s) AND slot_at >= %(start)s AND slot_at < %(end)s
    AND NOT is_blind
GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Band:
    """One spell."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of the storm's own."""

    kind: str
    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A path, as the worst of its domains and their facets did. `points` are one line for each time without a gap."""

    name: str
    role: str
    place: int
    points: list[str]
    lowest: str


@dataclass(frozen=True, slots=True)
class Picture:
    start: datetime
    end: datetime
    cell_minutes: int
    lines: list[Line]
    cells: str
    bands: list[Band]
    marks: list[Mark]
    threshold: str
    threshold_y: float
    alternative: str
    """All of it in words."""
    width: int = WIDTH
    height: int = HEIGHT
    grid: tuple[int, ...] = (MARGIN, HEIGHT // 2, HEIGHT - MARGIN)


@dataclass(frozen=True, slots=True)
class _Path:
    """Primary, or the backup of one rank, over all domains of a service."""

    role: str
    name: str
    targets: list[int]

    def worst(self, points: Iterable[Point]) -> dict[datetime, float]:
        mine, worst = set(self.targets), dict[datetime, float]()
        for point in points:
            if point.target_id in mine and point.availability is not None:
                worst[point.at] = min(worst.get(point.at, 1.0), point.availability)
        return worst


@dataclass(frozen=True, slots=True)
class _Span:
    start: datetime
    end: datetime
    step: timedelta

    @property
    def times(self) -> list[datetime]:
        return [self.start + self.step * n for n in range((self.end - self.start) // self.step)]

    def clock(self, at: datetime) -> str:
        """The day only where the picture shows more than one."""
        form = "%H:%M:%S" if self.start.date() == self.end.date() else "%Y-%m-%d %H:%M:%S"
        return f"{at.astimezone(UTC).strftime(form)} UTC"

    def x(self, at: datetime) -> float:
        return round(WIDTH * min(max((at - self.start) / (self.end - self.start), 0), 1), 1)


def read(storm: StormEvent, now: datetime) -> Picture:
    """Three queries: its service's paths, what was counted of them, and the policy that it began under."""
    span = _span(storm, now)
    paths = _paths(storm.service_id)
    points = _points(storm, [target for path in paths for target in path.targets], span, now)
    seen = [(path, worst) for path in paths if (worst := path.worst(points))][:MOST_LINES]
    lines = [_line(path, worst, span, place) for place, (path, worst) in enumerate(seen)]
    threshold = _threshold(storm)
    bands, marks = _bands(storm, span, now), _marks(storm, span)
    return Picture(
        start=span.start,
        end=span.end,
        cell_minutes=span.step // timedelta(minutes=1),
        lines=lines,
        cells=format_html_join("\n", _CELL, _cells(seen, span)),
        bands=bands,
        marks=marks,
        threshold="" if threshold is None else f"{threshold * 100:g} %",
        threshold_y=_y(threshold or 0),
        alternative=_in_words(span, lines, bands, marks, threshold),
    )


def _span(storm: StormEvent, now: datetime) -> _Span:
    """From an hour before it to an hour after it, or to now, in whole cells."""
    last = max(storm.ended_at + AROUND, storm.closed_at or storm.ended_at) if storm.ended_at else now
    first, last = storm.started_at - AROUND, max(min(last, now), storm.started_at)
    minutes = (last - first) / timedelta(minutes=1)
    length = next((length for length in CELL_MINUTES if minutes / length <= MOST_CELLS), CELL_MINUTES[-1])
    seconds = length * 60
    start, end = first.timestamp() // seconds * seconds, -(-last.timestamp() // seconds) * seconds
    return _Span(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC), timedelta(seconds=seconds))


def _paths(service_id: int) -> list[_Path]:
    """Also of what is off by now: it was on, perhaps, when the storm raged."""
    rows = (
        Target.objects.filter(domain__service=service_id)
        .annotate(looks_at=Coalesce("facet_of__role", "role"), place=Coalesce("facet_of__rank", "rank"))
        .filter(looks_at__in=Target.PATH_ROLES)
        .order_by(F("looks_at").desc(), "place", "id")  # the primary first
        .values_list("pk", "looks_at", "place", "cdn__name", "domain")
    )
    grouped = defaultdict(list)
    for pk, role, rank, cdn, domain in rows[:MOST_TARGETS]:
        grouped[role, rank].append((pk, cdn, domain))
    return [_path(role, rank, found) for (role, rank), found in grouped.items()]


def _path(role: str, rank: int, found: Sequence[tuple[int, str | None, int]]) -> _Path:
    place = f"{role} {rank}" if role == Target.Role.BACKUP and rank > 1 else role
    cdns = sorted({cdn for _, cdn, _ in found if cdn})
    domains = len({domain for _, _, domain in found})
    said = [place, *([" and ".join(cdns)] if 0 < len(cdns) < 3 else [])]
    name = " ".join(said) + (f", the worst of {domains} domains" if domains > 1 else "")
    return _Path(role, name, [pk for pk, _, _ in found])


def _points(storm: StormEvent, targets: Sequence[int], span: _Span, now: datetime) -> list[Point]:
    seconds = int(span.step.total_seconds())
    if span.start > now - timedelta(days=settings.ROLLUP_DAYS_KEPT):
        return series(targets, span.start, span.end, seconds)
    with connection.cursor() as cursor:
        cursor.execute(
            _KEPT,
            {
                "storm": storm.pk, "targets": list(targets), "start": span.start, "end": span.end, "step": seconds,
                "ok": Outcome.OK, "bad": sorted(BAD),
            },
        )  # fmt: skip
        return [Point(target, None, at.astimezone(UTC), *counts) for target, at, *counts in cursor.fetchall()]


def _threshold(storm: StormEvent) -> float | None:
    """As its policy had it when it began; a storm by hand has none."""
    if storm.policy_version is None:
        return None
    version = StormPolicyVersion.objects.filter(policy=storm.policy_id, version=storm.policy_version).first()
    return float(version.terms["threshold_avail"]) if version else None


def _y(availability: float) -> float:
    return round(MARGIN + (HEIGHT - 2 * MARGIN) * (1 - availability), 1)


def _line(path: _Path, worst: dict[datetime, float], span: _Span, place: int) -> Line:
    at, least = min(worst.items(), key=lambda pair: (pair[1], pair[0]))
    heights = [_y(worst[at]) if at in worst else None for at in span.times]
    return Line(
        name=path.name,
        role=path.role,
        place=place,
        points=steps(heights, WIDTH / len(heights)),
        lowest=f"{shown(least)} at its lowest" + (f", at {at:%H:%M} UTC" if least < 1 else ""),
    )


def _cells(seen: Sequence[tuple[_Path, dict[datetime, float]]], span: _Span) -> Iterable[tuple[str, str, str]]:
    """Invisible, over everything else: they tell what stands at each place."""
    width = WIDTH / len(span.times)
    for n, at in enumerate(span.times):
        said = [f"{path.name} {shown(worst[at]) if at in worst else 'no data'}" for path, worst in seen]
        yield (
            f"{n * width:g}",
            f"{width:g}",
            f"{at:%Y-%m-%d %H:%M}–{at + span.step:%H:%M} UTC: {'; '.join(said) or 'no data'}",
        )


def _bands(storm: StormEvent, span: _Span, now: datetime) -> list[Band]:
    spells: list[tuple[datetime, datetime | None]] = [
        (datetime.fromisoformat(start), datetime.fromisoformat(end) if end else None) for start, end in storm.spells
    ] or [(storm.started_at, storm.ended_at)]
    return [_band(start, end, span, now) for start, end in spells]


def _band(start: datetime, end: datetime | None, span: _Span, now: datetime) -> Band:
    x = span.x(start)
    text = f"storm {span.clock(start)} to {span.clock(end)}" if end else f"storm since {span.clock(start)}"
    return Band(x, max(span.x(end or now) - x, LEAST_BAND), text)


def _marks(storm: StormEvent, span: _Span) -> list[Mark]:
    moments = [("detected", storm.detected_at), ("closed", storm.closed_at)]
    return [Mark(kind, span.x(at), f"{kind} {span.clock(at)}") for kind, at in moments if at]


def _in_words(
    span: _Span, lines: Sequence[Line], bands: Sequence[Band], marks: Sequence[Mark], threshold: float | None
) -> str:
    said = [f"Availability from {span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} UTC"]
    said += [f"{line.name}: {line.lowest}" for line in lines] or ["nothing was counted"]
    said += [band.text for band in bands] + [mark.text for mark in marks]
    said += [f"bad is below {threshold * 100:g} %"] if threshold is not None else []
    return ". ".join(said)
