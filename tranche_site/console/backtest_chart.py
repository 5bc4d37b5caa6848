"""A backtest as a picture that needs no script: how the service's paths did, and below that each policy's storms. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from django.utils.html import format_html_join

from services import outcomes
from services.chart import shown, steps
from services.outcomes import Outcome
from storms.backtest import FoundStorm
from storms.cases import BACKUP, PRIMARY
from storms.recordings import OUTCOMES, SECOND, RecordedPath, Recording, Series, to_micros
from storms.verdicts import Policy
from tranche_site.backtests import Backtest, Side

WIDTH, HEIGHT, LANE_HEIGHT = 1000, 120, 12
MARGIN = 4
"""Above 100 % and below 0 %, so that a line there is whole."""
MOST_BUCKETS = 300
BUCKET_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800)
"""Lengths of a bucket, of which the picture takes the first that makes it no wider than MOST_BUCKETS."""
MOST_LINES = 5
LEAST_BAND = 2
"""A storm of seconds within days must be seen, too."""
MOST_IN_WORDS = 8
_CELL = f'<rect class="tr-storm-cell" x="{{}}" width="{{}}" height="{HEIGHT}"><title>{{}}</title></rect>'


@dataclass(frozen=True, slots=True)
class Line:
    """A path, as the worst of its domains and their facets did. `points` are one line for each time without a gap."""

    name: str
    place: int
    is_backup: bool
    points: list[str]
    lowest: str


@dataclass(frozen=True, slots=True)
class Band:
    """A storm's spell, or (`held`) all of the time from its start until traffic could go home."""

    kind: str
    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One policy's storms, and where it draws the line."""

    name: str
    place: int
    bands: list[Band]
    threshold: str
    threshold_y: float
    alternative: str


@dataclass(frozen=True, slots=True)
class Picture:
    start: datetime
    end: datetime
    bucket: str
    lines: list[Line]
    cells: str
    lanes: list[Lane]
    alternative: str
    """All of it in words."""
    width: int = WIDTH
    height: int = HEIGHT
    lane_height: int = LANE_HEIGHT
    grid: tuple[int, ...] = (MARGIN, HEIGHT // 2, HEIGHT - MARGIN)


@dataclass(frozen=True, slots=True)
class _Span:
    start: datetime
    end: datetime
    step: timedelta

    @property
    def times(self) -> list[datetime]:
        return [self.start + self.step * n for n in range(-((self.start - self.end) // self.step))]

    @property
    def width(self) -> float:
        """Of one bucket; the last one may reach beyond the end."""
        return WIDTH * (self.step / (self.end - self.start))

    def clock(self, at: datetime) -> str:
        """The day only where the picture shows more than one."""
        form = "%H:%M:%S" if self.start.date() == self.end.date() else "%Y-%m-%d %H:%M:%S"
        return f"{at.astimezone(UTC).strftime(form)} UTC"

    def x(self, at: datetime) -> float:
        return round(WIDTH * min(max((at - self.start) / (self.end - self.start), 0), 1), 1)


@dataclass(frozen=True, slots=True)
class _Group:
    """The primary, or the backups of one rank, of all domains."""

    name: str
    is_backup: bool
    paths: list[RecordedPath]


Shares = list[float | None]
"""Availability by bucket; None without a sample that counts."""


def draw(backtest: Backtest) -> Picture:
    policy = backtest.side.policy
    span = _Span(backtest.start, backtest.end, _step(backtest.end - backtest.start, policy.interval_seconds))
    seen = [(group, _worst(group.paths, policy, span)) for group in _groups(backtest.recording)]
    seen = [(group, shares) for group, shares in seen if any(share is not None for share in shares)][:MOST_LINES]
    lines = [_line(place, group, shares, span) for place, (group, shares) in enumerate(seen)]
    sides = [("Policy", backtest.side), *([("Against", backtest.against)] if backtest.against else [])]
    lanes = [_lane(place, name, side, span) for place, (name, side) in enumerate(sides)]
    return Picture(
        start=span.start,
        end=span.end,
        bucket=_length(span.step),
        lines=lines,
        cells=format_html_join("\n", _CELL, _cells(seen, span)),
        lanes=lanes,
        alternative=_in_words(span, lines, lanes),
    )


def _step(length: timedelta, interval_seconds: int) -> timedelta:
    """Never so short that some buckets hold no sample only because probes are not due exactly then."""
    least = max(length.total_seconds() / MOST_BUCKETS, 2 * interval_seconds)
    return timedelta(seconds=next((step for step in BUCKET_SECONDS if step >= least), BUCKET_SECONDS[-1]))


def _length(step: timedelta) -> str:
    minutes, seconds = divmod(int(step.total_seconds()), 60)
    if seconds:
        return f"{seconds} seconds"
    return "minute" if minutes == 1 else f"{minutes} minutes"


# --- availability --------------------------------------------------------------------------------------------------


def _groups(recording: Recording) -> list[_Group]:
    """Primary first, then backups by rank: each over all domains, with its facets."""
    owners = {path.target: path for path in recording.paths}
    grouped: dict[tuple[bool, int], list[tuple[RecordedPath, RecordedPath]]] = defaultdict(list)
    for path in recording.paths:
        owner = path if path.facet_of is None else owners.get(path.facet_of, path)
        if owner.role in (PRIMARY, BACKUP):
            grouped[owner.role == BACKUP, owner.rank].append((path, owner))
    return [
        _Group(_name([owner for _, owner in found]), is_backup, [path for path, _ in found])
        for (is_backup, _), found in sorted(grouped.items())
    ]


def _name(owners: Sequence[RecordedPath]) -> str:
    names, domains = {owner.name for owner in owners}, {owner.domain for owner in owners}
    name = owners[0].name if len(names) == 1 else owners[0].role
    return name + (f", the worst of {len(domains)} domains" if len(domains) > 1 else "")


def _worst(paths: Sequence[RecordedPath], policy: Policy, span: _Span) -> Shares:
    each = [_shares(path, policy, span) for path in paths]
    return [min((share for share in shares if share is not None), default=None) for shares in zip(*each, strict=True)]


def _shares(path: RecordedPath, policy: Policy, span: _Span) -> Shares:
    """Over all vantage points: what was good, of what counts."""
    bad = bytes(code for code, outcome in enumerate(OUTCOMES) if policy.is_bad(outcome))
    unjudged = bytes(
        code for code, outcome in enumerate(OUTCOMES) if outcome in outcomes.SET_ASIDE or outcome is Outcome.UNKNOWN
    )
    first, step = to_micros(span.start), int(span.step.total_seconds()) * SECOND
    edges = [first + step * n for n in range(len(span.times) + 1)]
    good_counts, all_counts = [0] * len(span.times), [0] * len(span.times)
    for series in path.series.values():
        for place, codes in enumerate(_split(series, edges)):
            judged = codes.translate(None, delete=unjudged)
            good_counts[place] += len(judged.translate(None, delete=bad))
            all_counts[place] += len(judged)
    return [good / count if count else None for good, count in zip(good_counts, all_counts, strict=True)]


def _split(series: Series, edges: Sequence[int]) -> Iterator[bytearray]:
    """The outcomes between each two edges, without those of a blind vantage point."""
    places = [bisect_left(series.at, edge) for edge in edges]
    for low, high in pairwise(places):
        codes = series.outcome[low:high]
        if series.blind:
            codes = bytearray(code for code, blind in zip(codes, series.blind[low:high], strict=True) if not blind)
        yield codes


def _y(availability: float) -> float:
    return round(MARGIN + (HEIGHT - 2 * MARGIN) * (1 - availability), 1)


def _line(place: int, group: _Group, shares: Shares, span: _Span) -> Line:
    least, at = min((share, at) for share, at in zip(shares, span.times, strict=True) if share is not None)
    return Line(
        name=group.name,
        place=place,
        is_backup=group.is_backup,
        points=steps([None if share is None else _y(share) for share in shares], span.width),
        lowest=f"{shown(least)} at its lowest" + (f", at {span.clock(at)}" if least < 1 else ""),
    )


def _cells(seen: Sequence[tuple[_Group, Shares]], span: _Span) -> Iterator[tuple[str, str, str]]:
    """Invisible, over everything else: they tell what stands at each place."""
    for n, at in enumerate(span.times):
        said = [f"{group.name} {_share(shares[n])}" for group, shares in seen]
        yield (
            f"{n * span.width:g}",
            f"{span.width:g}",
            f"{at:%Y-%m-%d %H:%M:%S}–{min(at + span.step, span.end):%H:%M:%S} UTC: {'; '.join(said) or 'no data'}",
        )


def _share(share: float | None) -> str:
    return "no data" if share is None else shown(share)


# --- storms --------------------------------------------------------------------------------------------------------


def _lane(place: int, name: str, side: Side, span: _Span) -> Lane:
    storms = side.result.storms
    bands = [band for storm in storms for band in _bands(storm, side, span)]
    told = [band.text for band in bands if band.kind == "spell"]
    said = told[:MOST_IN_WORDS] + ([f"{len(told)} spells in all"] if len(told) > MOST_IN_WORDS else [])
    return Lane(
        name=name,
        place=place,
        bands=bands,
        threshold=f"{float(side.policy.threshold_avail) * 100:g} %",
        threshold_y=_y(float(side.policy.threshold_avail)),
        alternative=f"{name}: {'; '.join(said) or 'no storm'}",
    )


def _bands(storm: FoundStorm, side: Side, span: _Span) -> Iterator[Band]:
    """What is held first, so that the spells lie upon it."""
    until = side.result.until
    only = ", which only this policy has" if storm in side.alone else ""
    home = f"home from {span.clock(storm.closed_at)}" if storm.closed_at else "not home yet"
    yield _band("held", storm.started_at, storm.closed_at or until, f"traffic away, {home}", span)
    for start, end in storm.spells:
        text = f"storm {span.clock(start)} to {span.clock(end)}" if end else f"storm since {span.clock(start)}"
        yield _band("spell", start, end or until, text + only, span)


def _band(kind: str, start: datetime, end: datetime, text: str, span: _Span) -> Band:
    x = min(span.x(start), WIDTH - LEAST_BAND)
    return Band(kind, x, round(max(span.x(end) - x, LEAST_BAND), 1), text)


def _in_words(span: _Span, lines: Sequence[Line], lanes: Sequence[Lane]) -> str:
    said = [f"Availability from {span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M} UTC"]
    said += [f"{line.name}: {line.lowest}" for line in lines] or ["nothing was recorded"]
    said += [f"{lane.alternative}, bad is below {lane.threshold}" for lane in lanes]
    return ". ".join(said)
