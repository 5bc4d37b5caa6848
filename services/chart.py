"""How the paths of a service did, as a picture that needs no script, and what failed last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

from django.db.models import Case, OuterRef, Subquery, Value, When

from services.availability import Point, series
from services.models import ProbeSample, Target, VantagePoint
from services.outcomes import BAD

SPANS = {1: timedelta(minutes=15), 7: timedelta(hours=2)}
"""Length of a cell by the days that are shown."""
MAX_ROWS = 40
FAILURES = 10
CELL_WIDTH, CELL_HEIGHT, LATENCY_HEIGHT = 10, 16, 24
_LATENCY_TOP = CELL_HEIGHT + 4
_ROLE_ORDER = Case(*(When(role=role, then=Value(n)) for n, role in enumerate(Target.DOMAIN_ROLES)))


@dataclass(frozen=True, slots=True)
class Cell:
    x: int
    colour: str
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One path. `lines` are the points of its latency, one line for each time without a gap."""

    target: Target
    availability: float | None
    mean_ms: float | None
    cells: list[Cell]
    lines: list[str]

    @property
    def shown(self) -> str:
        return "" if self.availability is None else shown(self.availability)


@dataclass(frozen=True, slots=True)
class Failure:
    sample: ProbeSample
    path: str
    vantage_point: str


@dataclass(frozen=True, slots=True)
class Chart:
    days: int
    start: datetime
    end: datetime
    rows: list[Row]
    left_out: bool
    slowest_ms: float | None
    failures: list[Failure]
    width: int
    height: int = _LATENCY_TOP + LATENCY_HEIGHT
    cell_width: int = CELL_WIDTH - 1
    cell_height: int = CELL_HEIGHT


def read(service_id: int, now: datetime, days: int = 1) -> Chart:
    """Three queries, whatever there is: paths, their series, and the last failures."""
    step = SPANS[days]
    start, end = _span(now, days)
    # Also those that are off: what they saw may be among the last failures.
    targets = list(
        Target.objects.filter(domain__service=service_id)
        .select_related("domain", "cdn")
        .order_by("-enabled", "domain_id", _ROLE_ORDER, "rank", "id")[: MAX_ROWS + 1]
    )
    left_out, targets = len(targets) > MAX_ROWS, targets[:MAX_ROWS]
    points = series([target.pk for target in targets], start, end, int(step.total_seconds()))
    by_target: dict[int, dict[datetime, Point]] = defaultdict(dict)
    for point in points:
        by_target[point.target_id][point.at] = point
    slowest = max((point.mean_ms for point in points if point.mean_ms is not None), default=None)
    times = [start + step * n for n in range((end - start) // step)]
    in_use = [target for target in targets if target.enabled and target.domain and not target.domain.deleted_at]
    return Chart(
        days=days,
        start=start,
        end=end,
        rows=[_row(target, by_target[target.pk], times, step, slowest) for target in in_use],
        left_out=left_out,
        slowest_ms=slowest,
        failures=_failures(service_id, now, {target.pk: str(target) for target in targets}, [] if left_out else points),
        width=len(times) * CELL_WIDTH,
    )


def _span(now: datetime, days: int) -> tuple[datetime, datetime]:
    """Cells begin at full quarters (or even hours), so that they stay what they are from one look to the next."""
    seconds = int(SPANS[days].total_seconds())
    end = datetime.fromtimestamp(-(-now.timestamp() // seconds) * seconds, UTC)
    return end - timedelta(days=days), end


def _row(
    target: Target, points: dict[datetime, Point], times: Sequence[datetime], step: timedelta, slowest: float | None
) -> Row:
    seen = list(points.values())
    good, bad = sum(point.good for point in seen), sum(point.bad for point in seen)
    timed = [point for point in seen if point.mean_ms is not None]
    weight = sum(point.good for point in timed)
    return Row(
        target=target,
        availability=good / (good + bad) if good + bad else None,
        mean_ms=sum((point.mean_ms or 0) * point.good for point in timed) / weight if weight else None,
        cells=[_cell(n, at, step, points.get(at)) for n, at in enumerate(times)],
        lines=_lines([points.get(at) for at in times], slowest),
    )


def _cell(place: int, at: datetime, step: timedelta, point: Point | None) -> Cell:
    title = f"{at:%Y-%m-%d %H:%M}–{at + step:%H:%M} UTC: "
    if point is None or point.availability is None:
        title += "no data" if point is None else "no sample with a vote"
    else:
        title += f"{shown(point.availability)} available, {point.bad} of {point.good + point.bad} bad"
        if point.mean_ms is not None:
            title += f", {point.mean_ms:.0f} ms"
    return Cell(place * CELL_WIDTH, _colour(point.availability if point else None), title)


def _colour(availability: float | None) -> str:
    if availability is None:
        return "none"
    for least, colour in ((1.0, "all"), (0.99, "most"), (0.9, "some")):
        if availability >= least:
            return colour
    return "few"


def shown(availability: float) -> str:
    """Rounded down: what is not quite 100 % never reads as 100 %."""
    return f"{int(availability * 10_000) / 100:.2f} %"


def _lines(points: Sequence[Point | None], slowest: float | None) -> list[str]:
    """Steps, not slopes: a cell's latency is as wide as the cell, so that one alone can be seen, too."""
    lines = []
    timed = [(n, point.mean_ms if point else None) for n, point in enumerate(points)]
    for there, run in groupby(timed, key=lambda pair: pair[1] is not None):
        if there:
            corners = []
            for n, mean in run:
                y = _LATENCY_TOP + LATENCY_HEIGHT - 1 - (LATENCY_HEIGHT - 2) * (mean or 0) / (slowest or 1)
                corners += [f"{n * CELL_WIDTH},{y:.1f}", f"{(n + 1) * CELL_WIDTH},{y:.1f}"]
            lines.append(" ".join(corners))
    return lines


def _failures(service_id: int, now: datetime, paths: dict[int, str], points: Sequence[Point]) -> list[Failure]:
    """Bad samples with a vote, newest first, of the last day."""
    name = VantagePoint.objects.filter(pk=OuterRef("vantage_point_id")).values("name")
    found = (
        ProbeSample.objects.filter(
            service_id=service_id, slot_at__gte=_since(now, points), slot_at__lte=now, outcome__in=BAD, is_blind=False
        )
        .annotate(vantage_point=Subquery(name))
        .order_by("-slot_at", "-at")[:FAILURES]
    )
    return [
        Failure(
            sample,
            paths.get(sample.target_id, f"path {sample.target_id}"),
            sample.vantage_point or f"vantage point {sample.vantage_point_id}",
        )
        for sample in found
    ]


def _since(now: datetime, points: Sequence[Point]) -> datetime:
    """From where on the samples are read: a day that went well is not searched for failures that the minutes rule out."""
    day_ago = now - timedelta(days=1)
    if not points:
        return day_ago
    first = max(point.at for point in points)  # what is newer may not be counted yet
    count = 0
    for point in sorted((point for point in points if point.bad), key=lambda point: point.at, reverse=True):
        first = min(first, point.at)
        count += point.bad
        if count >= FAILURES:
            break
    return max(first, day_ago)
