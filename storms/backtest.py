"""What a policy would have done: recorded samples in, storms and findings out. Pure, and the same detector as the watch.

It looks when the watch would have looked: as soon as a primary's bad samples are known, and every few seconds besides. Between
trouble nothing can happen, so that long calm is skipped: no verdict is DOWN, and nothing is found, while no series has
`min_failures` samples within a window that are other than quick and good.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from heapq import merge
from itertools import pairwise

from services import outcomes
from services.outcomes import Outcome
from storms import cases
from storms.cases import Case, Path
from storms.detector import SILENT_INTERVALS, START_LOOKBACK, Action, Decision, Storm
from storms.recordings import EPOCH, OK, OUTCOMES, SECOND, Known, RecordedPath, Recording, Series, TooMuch, to_time
from storms.verdicts import Policy, Window, quorum, window

SWEEP = 5 * SECOND
"""How often the watch looks at everything, come what may."""
NEVER = 1 << 62


@dataclass(slots=True)
class FoundStorm:
    """A storm as it would have been. `spells` are its bad stretches; the quiet between relapses is none."""

    kind: str
    started_at: datetime
    detected_at: datetime
    attribution: str
    domains: tuple[str, ...]
    regions: tuple[str, ...]
    reason: str
    last_bad_at: datetime
    ended_at: datetime | None = None
    closed_at: datetime | None = None
    relapses: int = 0
    spells: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    closings: list[datetime] = field(default_factory=list)
    """Whenever it was closed, so that traffic would have gone home; a relapse may have opened it again."""

    @property
    def detection_seconds(self) -> float:
        return (self.detected_at - self.started_at).total_seconds()

    def state(self) -> Storm:
        return Storm(self.started_at, self.last_bad_at, self.ended_at, self.closed_at, self.relapses)


@dataclass(frozen=True, slots=True)
class Found:
    """A finding, when it came up."""

    at: datetime
    domain: str
    path: str
    kind: str
    reason: str


@dataclass(slots=True)
class Result:
    storms: list[FoundStorm] = field(default_factory=list)
    findings: list[Found] = field(default_factory=list)
    samples: int = 0
    looks: int = 0
    """How many times the detector was asked."""
    until: datetime = EPOCH

    @property
    def covered_seconds(self) -> float:
        """The length of all spells; one that goes on counts up to the recording's end."""
        return sum(
            ((end or self.until) - start).total_seconds() for storm in self.storms for start, end in storm.spells
        )


def replay(recording: Recording, policy: Policy, *, skip_calm: bool = True, most_looks: int | None = None) -> Result:
    """Replay one service under one policy. Raises TooMuch after `most_looks` looks of the detector."""
    return _Replay(recording, policy, most_looks).run(skip_calm=skip_calm)


class _Replay:
    def __init__(self, recording: Recording, policy: Policy, most_looks: int | None) -> None:
        self._recording, self._most_looks = recording, most_looks
        self._policy = policy
        self._bad = bytes(policy.is_bad(outcome) for outcome in OUTCOMES)
        self._lookback = policy.lookback // timedelta(microseconds=1)
        self._width = policy.window_seconds * SECOND
        self._silent = SILENT_INTERVALS * policy.interval_seconds * SECOND
        self._paths = {path.target: path for path in recording.paths}
        self._first_good = {path.target: self._good_from(path) for path in recording.paths}
        self._result = Result(samples=len(recording))
        self._storm: FoundStorm | None = None
        self._windows: dict[int, tuple[Known, Window]] = {}
        self._open: dict[tuple[str, int | None], None] = {}

    def run(self, *, skip_calm: bool) -> Result:
        span = self._recording.span
        if span is None:
            return self._result
        known = [s.known_at(n) for s in self._recording.series for n in range(max(len(s) - 200, 0), len(s))]
        first, last = span[0], max(*known, span[1])
        last = -(-last // SWEEP) * SWEEP
        self._result.until = to_time(last)
        self._first = first
        bad_news = self._bad_news()
        stretches = self._stretches(first, last) if skip_calm else [(first, last)]
        now = first - 1
        for start, end in stretches:
            now = max(now, start - 1)
            while (moment := self._next(now, bad_news)) <= last:
                if moment > end and not self._is_open:
                    break
                now = moment
                self._look(now)
        return self._result

    @property
    def _is_open(self) -> bool:
        return self._storm is not None and self._storm.closed_at is None

    # --- when to look -----------------------------------------------------------------------------------------------

    def _next(self, now: int, bad_news: array[int]) -> int:
        """The next sweep or, unless a storm rages anyway, the next moment at which a bad sample is known."""
        sweep = (now // SWEEP + 1) * SWEEP
        if self._storm and self._storm.ended_at is None:
            return sweep
        place = bisect_right(bad_news, now)
        return min(sweep, bad_news[place]) if place < len(bad_news) else sweep

    def _bad_news(self) -> array[int]:
        """When bad samples of a primary were known that may turn a vote, in order: those of `min_failures` within a window.

        Nothing but the primary's own failures can begin a storm; the sweep hears of the others.
        """
        found = array("q")
        primaries = {path.target for path in self._recording.paths if path.role == cases.PRIMARY}
        watched = [path for path in self._recording.paths if (path.facet_of or path.target) in primaries]
        for series in (series for path in watched for series in path.series.values()):
            places = list(_places(series.outcome, self._bad))
            near = {n for first, last in self._clusters(series, places) for n in range(first, last + 1)}
            found.extend(series.known_at(places[n]) for n in near)
        return array("q", sorted(found))

    def _clusters(self, series: Series, places: Sequence[int]) -> Iterator[tuple[int, int]]:
        """First and last of every `min_failures` of `places` in a row that lie within a window."""
        at, most = series.at, self._policy.min_failures
        for last in range(most - 1, len(places)):
            if at[places[last]] - at[places[last - most + 1]] < self._width:
                yield last - most + 1, last

    def _stretches(self, first: int, last: int) -> list[tuple[int, int]]:
        """When anything can come to pass while no storm is open, in order and apart from each other."""
        reach = self._lookback + self._width
        merged: list[tuple[int, int]] = []
        troubles = [self._troubles(series, first, last, reach) for series in self._recording.series]
        for start, end in merge(*troubles):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        return merged

    def _troubles(self, series: Series, first: int, last: int, reach: int) -> Iterator[tuple[int, int]]:
        """When this series has enough within a window that is not good, or is silent. In order of their start."""
        notable = list(_places(series.outcome, bytes(code != OK for code in range(len(OUTCOMES)))))
        if max(series.total_ms, default=0.0) > self._policy.slow_ms:
            slow = (n for n, ms in enumerate(series.total_ms) if ms > self._policy.slow_ms)
            notable = sorted({*notable, *slow})
        near = [
            (series.at[notable[start]], series.known_at(notable[end]) + reach)
            for start, end in self._clusters(series, notable)
        ]
        return iter(sorted(near + list(self._silences(series.at, first, last, reach))))

    def _silences(self, at: array[int], first: int, last: int, reach: int) -> Iterator[tuple[int, int]]:
        """Around the beginning of a silence, when it is found, and its end."""
        times = array("q", (first,)) + at + array("q", (last,))
        if max(map(int.__sub__, times[1:], times)) <= self._silent:
            return
        for before, after in pairwise(times):
            if after - before > self._silent:
                yield before, before + self._silent + reach
                yield after, after + reach

    # --- one look ---------------------------------------------------------------------------------------------------

    def _look(self, now: int) -> None:
        self._result.looks += 1
        if self._most_looks is not None and self._result.looks > self._most_looks:
            raise TooMuch("there is too much trouble in this time to replay it in one go: take a shorter time")
        case = self._case(now)
        seen = cases.views(case)
        decision = cases.decide(case, seen)
        self._note(decision, case.now)
        start = cases.start(case, decision, seen, partial(self._judged, now)) if decision.begins else case.now
        self._carry_out(decision, case.now, start)

    def _case(self, now: int) -> Case:
        moment, policy = to_time(now), self._policy
        domains = []
        for paths in self._recording.domains:
            looks = []
            for path in paths:
                windows = {name: self._window(series, now) for name, series in path.series.items()}
                looks.append(
                    Path(
                        path.target, path.role, windows, path.rank, path.facet, path.facet_of,
                        ever_good=self._first_good[path.target] <= now,
                        silent_since=self._silent_since(path, now),
                    )
                )  # fmt: skip
            domains.append(tuple(looks))
        storm = self._storm.state() if self._storm else None
        is_closed = storm is not None and storm.closed_at is not None
        return Case(
            policy, moment, self._recording.vantage_points, tuple(domains),
            current=None if is_closed else storm, previous=storm if is_closed else None,
        )  # fmt: skip

    def _window(self, series: Series, now: int) -> Window:
        """The series' window, kept for as long as it holds the same samples."""
        known = series.known(now - self._lookback, now)
        before = self._windows.get(id(series))
        if before is None or before[0] != known:
            before = known, window(series.seen(known), self._policy, to_time(now))
            self._windows[id(series)] = before
        return before[1]

    def _silent_since(self, path: RecordedPath, now: int) -> datetime | None:
        """When the newest sample started that made a quorum; the recording's begin where there was none."""
        heard = []
        for series in path.series.values():
            place = bisect_right(series.at, now)
            while place and series.known_at(place - 1) > now:
                place -= 1
            heard.append(series.at[place - 1] if place else self._first)
        needed = quorum(len(self._recording.vantage_points))
        heard.sort(reverse=True)
        since = heard[needed - 1] if len(heard) >= needed else self._first
        return to_time(since)

    def _good_from(self, path: RecordedPath) -> int:
        """When the path's first good sample was known."""
        is_good = bytes(
            not self._policy.is_bad(o) and o not in outcomes.SET_ASIDE and o is not Outcome.UNKNOWN for o in OUTCOMES
        )
        firsts = [(series, next(_places(series.outcome, is_good), None)) for series in path.series.values()]
        return min((series.known_at(place) for series, place in firsts if place is not None), default=NEVER)

    # --- what comes of it -------------------------------------------------------------------------------------------

    def _note(self, decision: Decision, at: datetime) -> None:
        found = {(finding.kind.value, finding.target): finding for finding in decision.findings}
        for key, finding in found.items():
            if key not in self._open:
                path = self._paths[finding.target] if finding.target is not None else None
                name, domain = (path.name, path.domain) if path else ("", "")
                self._result.findings.append(Found(at, domain, name, finding.kind.value, finding.reason))
        self._open = dict.fromkeys(found)

    def _carry_out(self, decision: Decision, moment: datetime, start: datetime) -> None:
        storm = self._storm
        if decision.action is Action.OPEN:
            self._storm = FoundStorm(
                self._policy.kind.value, start, moment, decision.attribution.value,
                tuple(dict.fromkeys(self._paths[target].domain for target in decision.down_targets)),
                decision.regions, decision.reason, moment, spells=[(start, None)],
            )  # fmt: skip
            self._result.storms.append(self._storm)
        elif storm is None:
            return
        elif decision.action in (Action.REOPEN, Action.RELAPSE):
            storm.ended_at = storm.closed_at = None
            storm.relapses += 1
            storm.last_bad_at = moment
            storm.spells.append((start, None))
        elif decision.action is Action.RAGE:
            storm.last_bad_at = moment
            storm.regions = tuple(sorted({*storm.regions, *decision.regions}))
        elif decision.action is Action.END:
            storm.ended_at = decision.at
            storm.spells[-1] = (storm.spells[-1][0], decision.at)
        elif decision.action is Action.CLOSE:
            storm.closed_at = moment
            storm.closings.append(moment)

    def _judged(self, now: int, target: int, point: str) -> Iterator[tuple[datetime, str]]:
        """What is known of the last hour."""
        column = self._paths[target].series.get(point, Series())
        since = now - START_LOOKBACK // timedelta(microseconds=1)
        return ((s.at, s.outcome) for s in column.seen(column.known(since, now)) if s.has_vote)


def _places(codes: bytearray, wanted: bytes) -> Iterator[int]:
    """Where `codes` are wanted, found at the speed of a search for bytes. `wanted` holds a 1 for each code that is."""
    members = b"".join(re.escape(bytes((code,))) for code, is_wanted in enumerate(wanted) if is_wanted)
    return (hit.start() for hit in re.finditer(b"[" + members + b"]", codes)) if members else iter(())
