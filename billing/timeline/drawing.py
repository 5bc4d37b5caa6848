"""Draws a timeline as one SVG: no scripts, no files, readable in print and by those who can't see it.

`draw` is pure. The picture has the width that it is given, so that its letters are as large on a phone as on a desk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from itertools import groupby

from billing.timeline.facts import Band, Lane, Mark, Shares, Step, Timeline, Way, at_time, shortly
from services.grades import colour, shown

TITLE, GAP, STRIP, PLOT, ROW, AXIS = 17, 9, 18, 54, 17, 20
"""Heights: of a lane's title, of the space below it, of a strip, of a plot, of a mark, of the axis."""
WIDE, NARROW = 1120, 360
"""Of a picture on a page."""
LETTER, BOLD_LETTER = 6.1, 6.6
"""How wide a letter is, about; texts that would be too long are cut, and whole in their tooltip."""
LEAST_BAND = 2.0
"""A storm of seconds within days must be seen, too."""
MOST_ROWS = 6
"""Of marks that lie above each other."""

Links = Callable[[str, int], str]
"""The page of a storm or mark, by kind and id; empty: none."""

PRINTED: Mapping[str, str] = {
    "ink": "#1c1917", "dim": "#57534e", "line": "#d6d3d1", "ground": "none", "storm": "#dc2626", "all": "#16a34a",
    "most": "#84cc16", "some": "#f59e0b", "few": "#dc2626", "none": "#e7e5e4", "primary": "#6366f1", "backup": "#f59e0b",
    "other": "#0d9488", "mark": "#0284c7",
}  # fmt: skip
"""Colours by name, of a picture that stands alone."""
ON_A_PAGE: Mapping[str, str] = {name: f"var(--tl-{name},{colour})" for name, colour in PRINTED.items()}
"""The same, that a page's stylesheet may set otherwise, as for the dark."""

_STYLE = """
.tl{{font:12px system-ui,-apple-system,"Segoe UI","Liberation Sans",Helvetica,Arial,sans-serif}}
.tl text{{fill:{ink}}}.tl .d{{fill:{dim}}}.tl .r{{text-anchor:end}}.tl .m{{text-anchor:middle}}.tl .b{{font-weight:600}}
.tl .n{{font-size:11px}}.tl .g{{stroke:{line};fill:none}}.tl .frame{{stroke:{line};fill:{ground}}}
.tl .storm{{fill:{storm};fill-opacity:.16}}.tl .watch{{fill:{storm};fill-opacity:.07}}.tl .edge{{stroke:{storm};stroke-width:1}}
.tl .when{{stroke:{ink};stroke-dasharray:3 3}}.tl .stormy{{fill:{storm};font-size:11px;font-weight:600}}
.tl .all{{fill:{all}}}.tl .most{{fill:{most}}}.tl .some{{fill:{some}}}.tl .few{{fill:{few}}}.tl .none{{fill:{none}}}
.tl .w-primary{{fill:{primary}}}.tl .w-backup{{fill:{backup}}}.tl .w-other{{fill:{other}}}
.tl .wanted{{stroke:{ink};stroke-width:1.5;stroke-dasharray:4 3;fill:none}}
.tl .mark{{fill:{mark};fill-opacity:.85}}.tl .hit{{fill:transparent}}.tl .hit:hover{{fill:{dim};fill-opacity:.18}}
.tl a:hover .storm{{fill-opacity:.3}}.tl a{{cursor:pointer}}
"""


def draw(
    timeline: Timeline,
    width: int = 960,
    *,
    colours: Mapping[str, str] = PRINTED,
    links: Links = lambda kind, pk: "",
    tooltips: bool = True,
) -> str:
    """A whole SVG document, `width` units wide and as high as it must be."""
    canvas = _Canvas(timeline, width, links)
    parts = [*canvas.lanes(), *canvas.weights(), *canvas.traffic(), *canvas.marks()]
    bottom = canvas.y
    axis = [*canvas.axis()]
    height = round(canvas.y)
    hits = canvas.tooltips(bottom) if tooltips else ()
    body = "\n".join([*canvas.bands(bottom), *parts, *canvas.moments(bottom), *axis, *hits, *canvas.labels()])
    role = "group" if "<a " in body else "img"  # what is in a picture nobody can reach by the keyboard
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tl" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="{role}" aria-label="{_text(in_words(timeline))}">\n'
        f"<style>{_STYLE.format_map(dict(colours))}</style>\n{body}\n</svg>"
    )


def on_a_page(timeline: Timeline, links: Links = lambda kind, pk: "") -> tuple[str, str]:
    """For a desk and for a phone, where nothing hovers; a page shows the one that fits, in its own colours."""
    wide = draw(timeline, WIDE, colours=ON_A_PAGE, links=links)
    return wide, draw(timeline, NARROW, colours=ON_A_PAGE, links=links, tooltips=False)


def in_words(timeline: Timeline) -> str:
    """All that the picture shows, for those who can't see it."""
    span = timeline.span
    said = [f"{timeline.title} from {span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} UTC"]
    said += [f"{lane.name}: {_lowest(lane, timeline)}" for lane in timeline.lanes] or ["nothing is probed"]
    said += [band.text for band in timeline.bands] or ["no storm"]
    said += [f"{moment.text} {_clock(moment.at)}" for moment in timeline.moments]
    if share := _away(at_time(timeline.observed, min(timeline.now, span.end))):
        said.append(f"DNS sent {share:g} % to backups at its end")
    said += [
        f"{mark.text}, {_clock(mark.start)} to {_clock(mark.end) if mark.end else 'now'}" for mark in timeline.marks
    ]
    return ". ".join(said) + "."


@dataclass(slots=True)
class _Canvas:
    """Draws from top to bottom: `y` is how far it has come."""

    timeline: Timeline
    width: int
    links: Links
    y: float = 0

    def __post_init__(self) -> None:
        self.y = TITLE + 3 if self.timeline.bands else 3

    def x(self, at: datetime) -> float:
        return round(self.width * self.timeline.span.share(at), 1)

    @property
    def cell(self) -> float:
        return self.width / len(self.timeline.span.cells)

    def title(self, name: str, told: str, classes: str = "") -> str:
        self.y += TITLE
        room = int(self.width / LETTER)
        left = _cut(name, max(room - len(told) - 3, 12))
        base = self.y - 5
        return (
            f'<text class="b" x="0" y="{base:g}">{_text(left)}</text>'
            f'<text class="d r{classes}" x="{self.width}" y="{base:g}">{_text(told)}</text>'
        )

    # lanes

    def lanes(self) -> Iterable[str]:
        for lane in self.timeline.lanes:
            yield self.title(lane.name, _lowest(lane, self.timeline))
            place = 0
            for shade, run in groupby(colour(share) for share in lane.availability):
                length = len(list(run))
                yield _rect(shade, place * self.cell, self.y, length * self.cell, STRIP)
                place += length
            self.y += STRIP + GAP
        if not self.timeline.lanes:
            yield self.title("No path is probed", "")

    # weights

    def weights(self) -> Iterable[str]:
        timeline = self.timeline
        now = at_time(timeline.observed, timeline.now)
        told = "not steered" if now is None and not timeline.wanted else _shares(now) if now else "not observed yet"
        yield self.title("Weights", told)
        yield _rect("frame", 0, self.y, self.width, PLOT)
        below = dict.fromkeys(range(len(timeline.observed) + 1), 0.0)
        for way in timeline.ways:
            for n, (start, end, shares) in enumerate(self._spans(timeline.observed)):
                height = PLOT * shares.get(way, 0) / 100
                below[n] += height
                yield _rect(_way(way), start, self.y + PLOT - below[n], end - start, height)
        heights = [
            (start, end, self.y + PLOT * (1 - shares.get(("primary", 1), 0) / 100))
            for start, end, shares in self._spans(timeline.wanted)
        ]
        if heights:
            points = " ".join(f"{x:g},{y:.1f}" for start, end, y in heights for x in (start, end))
            yield f'<polyline class="wanted" points="{points}"/>'
        self.y += PLOT + 2
        yield from self._key([*(way for way in timeline.ways), None])
        self.y += GAP

    def _spans(self, steps: Sequence[Step]) -> Iterable[tuple[float, float, Shares]]:
        """Of each step that reaches into the picture, from where to where it is in force."""
        span, now = self.timeline.span, self.timeline.now
        ends = [*(step.at for step in steps[1:]), min(now, span.end)]
        for step, end in zip(steps, ends, strict=False):  # of no step there is no end either
            if step.at < span.end and end > span.start:
                yield self.x(step.at), self.x(end), step.shares

    def _key(self, ways: Sequence[Way | None]) -> Iterable[str]:
        x = 0.0
        self.y += TITLE
        for way in ways:
            name = "wanted for the primary" if way is None else shortly(way)
            if way is None:
                yield f'<line class="wanted" x1="{x:g}" x2="{x + 14:g}" y1="{self.y - 9:g}" y2="{self.y - 9:g}"/>'
            else:
                yield _rect(_way(way), x, self.y - 13, 9, 9)
            yield f'<text class="n d" x="{x + (18 if way is None else 13):g}" y="{self.y - 5:g}">{_text(name)}</text>'
            x += 26 + LETTER * len(name)

    # traffic

    def traffic(self) -> Iterable[str]:
        traffic = self.timeline.traffic
        totals = [sum(sizes) for sizes in zip(*traffic.values(), strict=True)]
        peak = max(totals, default=0)
        if not peak:
            yield self.title("Traffic", "none in the CDNs’ logs")
            self.y += 2
            return
        told = f"{size(sum(totals))} in all, at most {size(peak)} in {_length(self.timeline.span.cell)}"
        yield self.title("Traffic", told)
        below = [0.0] * len(totals)
        for way, sizes in traffic.items():
            for n, value in enumerate(sizes):
                if value:
                    height = PLOT * value / peak
                    below[n] += height
                    yield _rect(_way(way), n * self.cell, self.y + PLOT - below[n], max(self.cell - 0.6, 0.5), height)
        self.y += PLOT
        yield f'<line class="g" x1="0" x2="{self.width}" y1="{self.y:g}" y2="{self.y:g}"/>'
        self.y += GAP

    # marks

    def marks(self) -> Iterable[str]:
        if not self.timeline.marks:
            return
        yield self.title("By hand", "")
        ends: list[float] = []
        beyond = 0
        for mark in self.timeline.marks:
            start, end = self.x(mark.start), self.x(mark.end or self.timeline.now)
            end = max(end, start + 4)
            name = _cut(mark.text, int(self.width * 0.6 / LETTER))
            long = LETTER * len(name) + 6
            # Its words stand in it where there is room, else after it, else before it.
            inside, after = end - start > long, end + long <= self.width
            left, right = (start, end) if inside else (start, end + long) if after else (max(start - long, 0), end)
            row = next((n for n, busy in enumerate(ends) if busy <= left), len(ends))
            if row >= MOST_ROWS:
                beyond += 1
                continue
            ends[row : row + 1] = [right + 4]
            top = self.y + row * ROW
            x = end + 4 if after else start - 4
            words = (
                f'<text class="n" x="{start + 4:g}" y="{top + 12:g}" style="fill:#fff">{_text(name)}</text>'
                if inside
                else f'<text class="n{"" if after else " r"}" x="{x:g}" y="{top + 12:g}">{_text(name)}</text>'
            )
            title = f"<title>{_text(self._told(mark))}</title>"
            box = f'x="{start:g}" y="{top + 2:g}" width="{end - start:g}" height="{ROW - 4}"'
            body = f'<g>{title}<rect class="mark" rx="2" {box}/>{words}</g>'
            yield self._linked(mark.kind, mark.row, body)
        self.y += len(ends) * ROW + GAP
        if beyond:
            yield self.title(f"and {beyond} more", "")

    @staticmethod
    def _told(mark: Mark) -> str:
        return f"{mark.text} · {_clock(mark.start)} to {_clock(mark.end) if mark.end else 'now'}"

    def _linked(self, kind: str, pk: int, body: str) -> str:
        url = self.links(kind, pk)
        return f'<a href="{_text(url)}">{body}</a>' if url else body

    # over all of it

    def bands(self, bottom: float) -> Iterable[str]:
        for band in self.timeline.bands:
            start = self.x(band.start)
            width = max(self.x(band.end or self.timeline.now) - start, LEAST_BAND)
            yield _rect("storm" if band.is_armed else "watch", start, 0, width, bottom)
            yield f'<line class="edge" x1="{start:g}" x2="{start:g}" y1="0" y2="{bottom:g}"/>'

    def labels(self) -> Iterable[str]:
        """Of storms: above the lanes, and above the places that tell what stands there, so that they can be clicked."""
        busy = -1.0
        for storm, bands in groupby(self.timeline.bands, key=lambda band: band.storm):
            stretches: list[Band] = list(bands)
            name = f"storm {storm}" + ("" if stretches[0].is_armed else " (watch only)")
            long = BOLD_LETTER * len(name) + 6
            start = max(min(self.x(stretches[0].start), self.width - long), 0)
            if start < busy:
                continue  # told in words, and by the list that stands with the picture
            busy = start + long + 8
            title = f"<title>{_text('; '.join(band.text for band in stretches))}</title>"
            yield self._linked(
                "storm", storm, f'<text class="stormy" x="{start + 3:g}" y="13">{_text(name)}{title}</text>'
            )

    def moments(self, bottom: float) -> Iterable[str]:
        for moment in self.timeline.moments:
            x = self.x(moment.at)
            title = f"<title>{_text(moment.text)} {_clock(moment.at)}</title>"
            yield f'<line class="when" x1="{x:g}" x2="{x:g}" y1="{TITLE}" y2="{bottom:g}">{title}</line>'

    def axis(self) -> Iterable[str]:
        top, self.y = self.y, self.y + AXIS
        span = self.timeline.span
        yield f'<line class="g" x1="0" x2="{self.width}" y1="{top:g}" y2="{top:g}"/>'
        for at, word in _ticks(span.start, span.end, self.width):
            x = self.x(at)
            anchor = "" if x < 24 else " r" if x > self.width - 24 else " m"
            yield f'<line class="g" x1="{x:g}" x2="{x:g}" y1="{top:g}" y2="{top + 4:g}"/>'
            yield f'<text class="n d{anchor}" x="{x:g}" y="{top + 16:g}">{word}</text>'

    def tooltips(self, bottom: float) -> Iterable[str]:
        timeline = self.timeline
        for n, at in enumerate(timeline.span.cells):
            if at > timeline.now:
                break
            said = [f"{lane.name} {_said(lane.availability[n])}" for lane in timeline.lanes]
            if shares := at_time(timeline.observed, min(at + timeline.span.cell, timeline.now)):
                said.append(f"weights {_shares(shares)}")
            if moved := [f"{shortly(way)} {size(sizes[n])}" for way, sizes in timeline.traffic.items() if sizes[n]]:
                said.append(f"traffic {', '.join(moved)}")
            words = f"{at:%Y-%m-%d %H:%M}–{at + timeline.span.cell:%H:%M} UTC: {'; '.join(said)}"
            top = TITLE + 3
            yield (
                f'<rect class="hit" x="{n * self.cell:.1f}" y="{top}" width="{self.cell:.1f}" height="{bottom - top:g}">'
                f"<title>{_text(words)}</title></rect>"
            )


# --- words ----------------------------------------------------------------------------------------------------------


def _text(said: str) -> str:
    """Escaped, without the control characters that no XML may hold."""
    return escape("".join(c for c in said if c.isprintable() or c == " "))


def _cut(said: str, most: int) -> str:
    return said if len(said) <= most else said[: most - 1].rstrip() + "…"


def _clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _said(availability: float | None) -> str:
    return "no data" if availability is None else shown(availability)


def _lowest(lane: Lane, timeline: Timeline) -> str:
    lowest = lane.lowest
    if lowest is None:
        return "no data"
    if lowest == 1:
        return "100 % throughout"
    bad = "" if timeline.threshold is None or lowest >= timeline.threshold else f", bad below {timeline.threshold:.4g}"
    at = timeline.span.cells[list(lane.availability).index(lowest)]
    return f"{shown(lowest)} at its lowest, {at:%b} {at.day}, {at:%H:%M}{bad}"


def _away(shares: Shares | None) -> float:
    return sum(percent for (role, _), percent in (shares or {}).items() if role != "primary")


def _shares(shares: Shares) -> str:
    return ", ".join(f"{shortly(way)} {percent:.3g} %" for way, percent in shares.items())


def size(count: int) -> str:
    """Decimal units, as CDNs bill them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} PB"


def _length(cell: timedelta) -> str:
    minutes = cell // timedelta(minutes=1)
    return "a minute" if minutes == 1 else f"{minutes} min" if minutes < 60 else f"{minutes / 60:g} h"


def _way(way: Way) -> str:
    role, rank = way
    return "w-primary" if role == "primary" else "w-backup" if rank == 1 else "w-other"


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"/>'


_MINUTES = (5, 10, 15, 30, 60, 120, 180, 360, 720)
_DAYS = (1, 2, 4, 7, 14, 30, 60, 120, 360, 720, 1440)
_TICKS = (*(timedelta(minutes=n) for n in _MINUTES), *(timedelta(days=n) for n in _DAYS))


def _ticks(start: datetime, end: datetime, width: int) -> Iterable[tuple[datetime, str]]:
    """At round times, so many as there is room for. Days where the clock says midnight."""
    most = max(width // 72, 2)
    step = next((step for step in _TICKS if (end - start) / step <= most), _TICKS[-1])
    seconds = int(step.total_seconds())
    at = datetime.fromtimestamp(-(-start.timestamp() // seconds) * seconds, UTC)
    while at <= end:
        yield at, f"{at:%b} {at.day}" if (at.hour, at.minute) == (0, 0) else f"{at:%H:%M}"
        at += step
