"""Recorded samples as columns, for a backtest: millions of them in little memory. Pure.

A recording is of one service: its domains, their paths, and a series of each path from each vantage point. It comes out
of a CSV file here, out of the database in `storms.recorded`, and out of a simulated prober in `storms.simulation`.
"""

from __future__ import annotations

import csv
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.outcomes import Outcome
from storms.cases import BACKUP, ORIGIN, PRIMARY
from storms.verdicts import Seen, VantagePoint

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
"""Microseconds: times within a recording are whole microseconds since 1970, UTC."""
OUTCOMES = tuple(Outcome)
CODES = {outcome.value: code for code, outcome in enumerate(OUTCOMES)}
OK = CODES["ok"]
NOT_MEASURED = -1.0
MADE_AT_MOST = 10_000
COLUMNS = ("at", "domain", "path", "vantage", "outcome", "status", "latency_ms")
REQUIRED = COLUMNS[:5]
PATHS = (PRIMARY, BACKUP, ORIGIN)


Known = tuple[int, int, tuple[int, ...]]
"""Places [low, high) of a series, and those among them whose outcome was not known yet."""


class RecordingError(Exception):
    """A line that can't be taken, with its number and what to write instead."""


class TooMuch(Exception):
    """More than one backtest does in one go; says what to take less of."""


def to_micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def to_time(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


@dataclass(slots=True)
class Series:
    """What one vantage point saw of one path, in order of time. `total_ms` is below 0 where it was not measured."""

    at: array[int] = field(default_factory=lambda: array("q"))
    outcome: bytearray = field(default_factory=bytearray)
    total_ms: array[float] = field(default_factory=lambda: array("f"))
    blind: bytearray = field(default_factory=bytearray)
    """1 where the vantage point was blind; empty where it never was."""
    _slowest: int = field(default=-1, repr=False, compare=False)
    _made: dict[int, Seen] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.at)

    def append(self, at: int, outcome: int, total_ms: float = NOT_MEASURED, *, is_blind: bool = False) -> None:
        if is_blind and not self.blind:
            self.blind = bytearray(len(self.at))
        self.at.append(at)
        self.outcome.append(outcome)
        self.total_ms.append(total_ms)
        if self.blind or is_blind:
            self.blind.append(is_blind)

    def known_at(self, place: int) -> int:
        """When the sample's outcome was known: its start, and what it took."""
        return self.at[place] + max(round(self.total_ms[place] * 1000), 0)

    def known(self, after: int, now: int) -> Known:
        """Which samples of (after, now] were known at `now`."""
        at, low, high = self.at, bisect_right(self.at, after), bisect_right(self.at, now)
        pending = []
        place = high - 1
        while place >= low and at[place] > now - self._slowest_us:
            if self.known_at(place) > now:
                pending.append(place)
            place -= 1
        return low, high, tuple(pending)

    def seen(self, known: Known) -> list[Seen]:
        """The samples that `known` names."""
        low, high, pending = known
        if len(self._made) > MADE_AT_MOST:
            self._made.clear()
        made = self._made
        return [made.get(n) or self._make(n) for n in range(low, high) if n not in pending]

    @property
    def _slowest_us(self) -> int:
        """The longest that any sample took; the columns don't change once they are replayed."""
        if self._slowest < 0:
            self._slowest = max(round(max(self.total_ms, default=0) * 1000), 0)
        return self._slowest

    def _make(self, place: int) -> Seen:
        """One sample as a window takes it, kept, since many windows in a row hold the same."""
        is_blind = bool(self.blind and self.blind[place])
        made = Seen(to_time(self.at[place]), OUTCOMES[self.outcome[place]], self.total_ms[place], "", is_blind)
        self._made[place] = made
        return made

    def in_order(self) -> Series:
        """The same, sorted by time, of equal times only the first."""
        if all(earlier < later for earlier, later in zip(self.at, self.at[1:])):  # noqa: B905
            return self
        tidy, last = Series(), None
        for n in sorted(range(len(self)), key=self.at.__getitem__):
            if self.at[n] != last:
                tidy.append(self.at[n], self.outcome[n], self.total_ms[n], is_blind=bool(self.blind and self.blind[n]))
                last = self.at[n]
        return tidy


@dataclass(slots=True)
class RecordedPath:
    """`series` are by the vantage point's name."""

    target: int
    domain: str
    name: str
    role: str
    rank: int = 0
    facet: str = ""
    facet_of: int | None = None
    series: dict[str, Series] = field(default_factory=dict)


@dataclass(slots=True)
class Recording:
    """One service as it was probed."""

    vantage_points: tuple[VantagePoint, ...]
    domains: list[list[RecordedPath]]

    @property
    def paths(self) -> Iterator[RecordedPath]:
        return (path for paths in self.domains for path in paths)

    @property
    def series(self) -> Iterator[Series]:
        return (series for path in self.paths for series in path.series.values())

    def __len__(self) -> int:
        return sum(len(series) for series in self.series)

    @property
    def span(self) -> tuple[int, int] | None:
        """The first and the last start of a probe."""
        ends = [(series.at[0], series.at[-1]) for series in self.series if series]
        return (min(first for first, _ in ends), max(last for _, last in ends)) if ends else None


def read_csv(lines: Iterable[str]) -> list[Recording]:
    """One recording per domain of a file with the columns `at,domain,path,vantage,outcome,status,latency_ms`.

    Every vantage point of the file counts as configured, in one region, each on a network of its own. Lines may come in any
    order; of equal times of one path and vantage point the first counts. Times must say their zone.
    """
    reader = csv.reader(lines, strict=True)
    places = _places(next(reader, None))
    names: set[str] = set()
    domains: dict[str, dict[str, dict[str, Series]]] = {}
    times: dict[str, int] = {}
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != len(places):
                raise ValueError(f"{len(row)} values, and the header names {len(places)}")
            cells = {name: row[place].strip() for name, place in places.items()}
            path, vantage, outcome = cells["path"], cells["vantage"], cells["outcome"]
            if path not in PATHS:
                raise ValueError(f"path “{path}” is none of {', '.join(PATHS)}")
            if not cells["domain"] or not vantage:
                raise ValueError("domain and vantage must not be empty")
            if outcome not in CODES:
                raise ValueError(f"outcome “{outcome}” is none of {', '.join(CODES)}")
            at = times.get(cells["at"])
            if at is None:
                times = {} if len(times) > 10_000 else times
                at = times[cells["at"]] = _time(cells["at"])
            names.add(vantage)
            series = domains.setdefault(cells["domain"], {}).setdefault(path, {}).setdefault(vantage, Series())
            _check_status(cells.get("status", ""))
            series.append(at, CODES[outcome], _milliseconds(cells.get("latency_ms", "")))
    except (ValueError, csv.Error) as error:
        raise RecordingError(f"line {reader.line_num}: {error}") from error
    points = tuple(VantagePoint(name, "all", name) for name in sorted(names))
    return [
        Recording(
            points,
            [
                [
                    RecordedPath(
                        target, domain, path, path, series={v: s.in_order() for v, s in sorted(paths[path].items())}
                    )
                    for target, path in enumerate(PATHS, 1)
                    if path in paths
                ]
            ],
        )
        for domain, paths in sorted(domains.items())
    ]


def _places(header: list[str] | None) -> dict[str, int]:
    names = [name.strip().lstrip("\ufeff") for name in header or []]
    wanted = ",".join(COLUMNS)
    if unknown := [name for name in names if name not in COLUMNS]:
        raise RecordingError(f"line 1: unknown column “{unknown[0]}”; the columns are {wanted}")
    if missing := [name for name in REQUIRED if name not in names]:
        raise RecordingError(f"line 1: column “{missing[0]}” is missing; the columns are {wanted}")
    if len(set(names)) < len(names):
        raise RecordingError(f"line 1: a column comes twice; the columns are {wanted}")
    return {name: place for place, name in enumerate(names)}


def _time(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"at “{text}” is no time; write it like 2026-03-01T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError(f"at “{text}” says no time zone; end it with Z or an offset such as +02:00")
    return to_micros(moment)


def _milliseconds(text: str) -> float:
    if not text:
        return NOT_MEASURED
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 60_000:
        raise ValueError(f"latency_ms “{text}” is no number of milliseconds from 0 to 60000")
    return value


def _check_status(text: str) -> None:
    if text and not (text.isascii() and text.isdigit() and 100 <= int(text) <= 999):
        raise ValueError(f"status “{text}” is no HTTP status; leave it empty where there was none")
