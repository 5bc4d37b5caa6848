"""How the paths of a service did, as a picture that needs no script, and what failed last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

from django.db.models import Case, OuterRef, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce
from django.utils.html import format_html_join

from services.availability import Certificate, Point, certificates, series
from services.grades import colour, shown
from services.models import ProbeSample, Service, Target, VantagePoint
from services.outcomes import BAD

SPANS = {1: timedelta(minutes=15), 7: timedelta(hours=2)}
"""Length of a cell by the days that are shown."""
MAX_ROWS = 40
MAX_STRIPS = 240
"""Of paths and their vantage points: the fewer paths there are, the more vantage points of each have room."""
FAILURES = 10
CERTIFICATE_DAYS = 7
"""How far back a certificate is looked for: a path that fails before it shows one keeps the last."""
CELL_WIDTH, CELL_HEIGHT, LATENCY_HEIGHT = 10, 16, 24
_LATENCY_TOP = CELL_HEIGHT + 4
_CELL = (
    f'<rect class="tr-cell-{{}}" x="{{}}" width="{CELL_WIDTH - 1}" height="{CELL_HEIGHT}"><title>{{}}</title></rect>'
)
_ROLE_ORDER = Case(*(When(looks_at=role, then=Value(n)) for n, role in enumerate(Target.DOMAIN_ROLES)))


@dataclass(frozen=True, slots=True)
class Cell:
    x: int
    colour: str
    title: str


@dataclass(frozen=True, slots=True)
class Strip:
    """What was seen of one path, from everywhere or from one vantage point.

    `lines` are the points of its latency, one line for each time without a gap.
    """

    name: str
    availability: float | None
    mean_ms: float | None
    cells: list[Cell]
    lines: list[str]

    @property
    def shown(self) -> str:
        return "no data" if self.availability is None else f"{shown(self.availability)} available"

    @property
    def drawn(self) -> str:
        """There are thousands of cells: a template's loop would take several times as long."""
        return format_html_join("\n", _CELL, ((cell.colour, cell.x, cell.title) for cell in self.cells))


@dataclass(frozen=True, slots=True)
class Expiry:
    """What is said of a path's certificate, and how urgently."""

    text: str
    tone: str
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One path or facet. `strips`: over all vantage points, then from each that has probed it."""

    target: Target
    strips: list[Strip]
    certificate: Expiry | None


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
    points_left_out: bool
    slowest_ms: float | None
    failures: list[Failure]
    width: int
    height: int = _LATENCY_TOP + LATENCY_HEIGHT


@dataclass(frozen=True, slots=True)
class _View:
    """What all rows have in common."""

    now: datetime
    spans: dict[datetime, str]
    """Of the cells, in words, by their beginning."""
    slowest_ms: float | None
    vantage_points: list[VantagePoint]


def read(service_id: int, now: datetime, days: int = 1) -> Chart:
    """Five queries, whatever there is: paths, vantage points, their series, certificates, and the last failures."""
    step = SPANS[days]
    start, end = _span(now, days)
    targets = list(_targets(service_id)[: MAX_ROWS + 1])
    left_out, targets = len(targets) > MAX_ROWS, targets[:MAX_ROWS]
    room = MAX_STRIPS // max(len(targets), 1) - 1
    vantage_points = list(_vantage_points()[:room])
    ids = [target.pk for target in targets]
    points = series(ids, start, end, int(step.total_seconds()), [point.pk for point in vantage_points])
    expiring = certificates(ids, now - timedelta(days=CERTIFICATE_DAYS), end)
    by_target: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        by_target[point.target_id].append(point)
    slowest = max((point.mean_ms for point in points if point.mean_ms is not None), default=None)
    times = [start + step * n for n in range((end - start) // step)]
    spans = {at: f"{at:%Y-%m-%d %H:%M}–{at + step:%H:%M} UTC" for at in times}
    view = _View(now, spans, slowest, vantage_points)
    in_use = [target for target in targets if target.enabled and target.domain and not target.domain.deleted_at]
    return Chart(
        days=days,
        start=start,
        end=end,
        rows=[_row(target, by_target[target.pk], expiring.get(target.pk), view) for target in in_use],
        left_out=left_out,
        points_left_out=any(point.vantage_point_id is None for point in points),
        slowest_ms=slowest,
        failures=_failures(service_id, now, {target.pk: str(target) for target in targets}, [] if left_out else points),
        width=len(times) * CELL_WIDTH,
    )


def _targets(service_id: int) -> QuerySet[Target]:
    """Every facet behind its path. Also those that are off: what they saw may be among the last failures."""
    return (
        Target.objects.filter(domain__service=service_id)
        .select_related("domain__service", "cdn")
        .annotate(looks_at=Coalesce("facet_of__role", "role"), path=Coalesce("facet_of_id", "id"))
        .order_by("-enabled", "domain_id", _ROLE_ORDER, "rank", "path", "facet")
    )


def _vantage_points() -> QuerySet[VantagePoint]:
    is_off = Case(When(state=VantagePoint.State.OFF, then=Value(1)), default=Value(0))
    return VantagePoint.objects.order_by(is_off, "name")


def _span(now: datetime, days: int) -> tuple[datetime, datetime]:
    """Cells begin at full quarters (or even hours), so that they stay what they are from one look to the next."""
    seconds = int(SPANS[days].total_seconds())
    end = datetime.fromtimestamp(-(-now.timestamp() // seconds) * seconds, UTC)
    return end - timedelta(days=days), end


def _row(target: Target, points: Sequence[Point], certificate: Certificate | None, view: _View) -> Row:
    by_place: dict[int | None, dict[datetime, Point]] = defaultdict(dict)
    by_time: dict[datetime, list[Point]] = defaultdict(list)
    for point in points:
        by_place[point.vantage_point_id][point.at] = point
        by_time[point.at].append(point)
    everywhere = _strip("all vantage points", {at: _together(found) for at, found in by_time.items()}, view)
    places = [place for place in view.vantage_points if place.pk in by_place]
    return Row(
        target=target,
        strips=[everywhere, *(_strip(place.name, by_place[place.pk], view) for place in places)],
        certificate=_expiry(certificate, view.now, target.domain.service) if certificate and target.domain else None,
    )


def _together(points: Collection[Point]) -> Point:
    first = next(iter(points))
    return Point(
        first.target_id,
        None,
        first.at,
        good=sum(point.good for point in points),
        bad=sum(point.bad for point in points),
        total_ms=sum(point.total_ms for point in points),
        timed=sum(point.timed for point in points),
    )


def _strip(name: str, points: Mapping[datetime, Point], view: _View) -> Strip:
    whole = _together(points.values()) if points else None
    return Strip(
        name=name,
        availability=whole.availability if whole else None,
        mean_ms=whole.mean_ms if whole else None,
        cells=[_cell(n, span, points.get(at)) for n, (at, span) in enumerate(view.spans.items())],
        lines=_lines([points.get(at) for at in view.spans], view.slowest_ms),
    )


def _expiry(certificate: Certificate, now: datetime, service: Service) -> Expiry:
    day, left = f"{certificate.expires_at:%Y-%m-%d}", certificate.expires_at - now
    issuer = f", issued by {certificate.issuer}" if certificate.issuer else ""
    title = f"{certificate.expires_at:%Y-%m-%d %H:%M} UTC{issuer}"
    if left <= timedelta():
        return Expiry(f"certificate expired on {day}", "expired", title)
    tone = "soon" if left < timedelta(days=service.minimum_certificate_days) else ""
    return Expiry(f"certificate: {left.days} day{'' if left.days == 1 else 's'} left, to {day}", tone, title)


def _cell(place: int, span: str, point: Point | None) -> Cell:
    title = f"{span}: "
    if point is None or point.availability is None:
        title += "no data" if point is None else "no sample with a vote"
    else:
        title += f"{shown(point.availability)} available, {point.bad} of {point.good + point.bad} bad"
        if point.mean_ms is not None:
            title += f", {point.mean_ms:.0f} ms"
    return Cell(place * CELL_WIDTH, colour(point.availability if point else None), title)


def _lines(points: Sequence[Point | None], slowest: float | None) -> list[str]:
    def height(point: Point | None) -> float | None:
        if point is None or point.mean_ms is None:
            return None
        return _LATENCY_TOP + LATENCY_HEIGHT - 1 - (LATENCY_HEIGHT - 2) * point.mean_ms / (slowest or 1)

    return steps([height(point) for point in points], CELL_WIDTH)


def steps(heights: Sequence[float | None], width: float) -> list[str]:
    """The points of a line, or of several where there are gaps.

    Steps, not slopes: what was seen in a cell is as wide as the cell, so that one alone can be seen, too.
    """
    lines = []
    for there, run in groupby(enumerate(heights), key=lambda pair: pair[1] is not None):
        if there:
            corners = (f"{x * width:g},{y:.1f}" for n, y in run for x in (n, n + 1))
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
