"""A prober in virtual time: faults in, the samples that it would have recorded out. Pure, and the same for the same seed.

Slots, phases and bursts are those of `services.prober`: the first bad sample of a path brings three confirming shots, a
second apart, at every path and witness of the domain from every vantage point.
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop

from services.schedule import phase_seconds
from storms.cases import BACKUP, ORIGIN, PRIMARY
from storms.recordings import CODES, OK, SECOND, RecordedPath, Recording, Series
from storms.verdicts import VantagePoint

BURST_SHOTS, BURST_SPACING = 3, SECOND
GOOD_MS, FAILED_MS, TIMEOUT_MS = 80.0, 120.0, 5000.0
PATHS = (PRIMARY, BACKUP, ORIGIN)
HOUR = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the probes of some paths from some vantage points in [start, end), in microseconds since 1970.

    `share` of them end in `outcome`; the good ones take `latency_ms`, where it says so. With `on` and `off` (microseconds)
    it comes and goes. `blinds`: the vantage point's own network fails, and its canaries show it.
    """

    start: int
    end: int
    outcome: str
    share: float = 1.0
    paths: frozenset[str] = frozenset({PRIMARY})
    vantage_points: frozenset[str] | None = None
    latency_ms: float | None = None
    on: int = 0
    off: int = 0
    blinds: bool = False

    def is_on(self, at: int) -> bool:
        if not self.start <= at < self.end:
            return False
        return not self.on or (at - self.start) % (self.on + self.off) < self.on

    def hits(self, path: str, vantage_point: str) -> bool:
        return path in self.paths and (self.vantage_points is None or vantage_point in self.vantage_points)


@dataclass(slots=True)
class Prober:
    """One domain, probed at `interval_seconds` from every vantage point."""

    vantage_points: Sequence[VantagePoint]
    domain: str = "www.example.com"
    paths: Sequence[str] = PATHS
    interval_seconds: int = 10
    timeout_ms: float = TIMEOUT_MS
    clocks: Mapping[str, int] = field(default_factory=dict)
    """How far each vantage point's clock is off, in microseconds."""

    def run(self, start: int, end: int, faults: Iterable[Fault], seed: int) -> Recording:
        """Everything recorded of probes that start in [start, end)."""
        return _Run(self, start, end, list(faults), random.Random(seed)).recording()  # noqa: S311


class _Run:
    def __init__(self, prober: Prober, start: int, end: int, faults: list[Fault], chance: random.Random) -> None:
        self._prober, self._start, self._end, self._faults, self._chance = prober, start, end, faults, chance
        # What differs from a good sample by (path, vantage point): start of the probe → (outcome, ms, blind).
        self._odd: dict[tuple[str, str], dict[int, tuple[int, float, bool]]] = {
            (path, point.name): {} for path in prober.paths for point in prober.vantage_points
        }
        self._shots: dict[tuple[str, str], list[int]] = {key: [] for key in self._odd}
        self._by_hour: dict[tuple[str, str, int], list[Fault]] = defaultdict(list)
        for fault in faults:
            for path, point in self._odd:
                if fault.hits(path, point):
                    for hour in range(max(fault.start, start) // HOUR, min(fault.end, end) // HOUR + 1):
                        self._by_hour[path, point, hour].append(fault)
        self._bursting: dict[str, int] = {}

    def recording(self) -> Recording:
        slots = {key: self._slots(*key) for key in self._odd}
        for (path, point), times in slots.items():
            for fault in self._faults:
                if fault.hits(path, point):
                    self._spoil((path, point), times, fault)
        self._burst(slots)
        return Recording(
            tuple(self._prober.vantage_points),
            [
                [
                    RecordedPath(
                        number, self._prober.domain, path, path,
                        series={p.name: self._series((path, p.name), slots[path, p.name]) for p in self._prober.vantage_points},
                    )
                    for number, path in enumerate(self._prober.paths, 1)
                ]
            ],
        )  # fmt: skip

    def _slots(self, path: str, point: str) -> array[int]:
        names = [p.name for p in self._prober.vantage_points]
        interval = self._prober.interval_seconds
        number = self._prober.paths.index(path) + 1 + self._chance.randrange(1 << 30)
        phase = phase_seconds(number, names.index(point), len(names), interval)
        step = interval * SECOND
        first = self._start + (round(phase * SECOND) - self._start) % step
        return array("q", range(first, self._end, step))

    def _spoil(self, key: tuple[str, str], times: array[int], fault: Fault) -> None:
        """Draw which slots of one fault fail: by leaps, since most of a small share's are good."""
        low, high = bisect_left(times, fault.start), bisect_left(times, fault.end)
        odd = self._odd[key]
        if fault.latency_ms is not None:
            for place in range(low, high):
                odd.setdefault(times[place], (OK, fault.latency_ms, False))
        if fault.share <= 0:
            return
        place = low - 1 + self._leap(fault.share)
        while place < high:
            if fault.is_on(times[place]):
                odd[times[place]] = self._failed(fault)
            place += self._leap(fault.share)

    def _leap(self, share: float) -> int:
        return 1 if share >= 1 else 1 + int(math.log(1 - self._chance.random()) / math.log(1 - share))

    def _failed(self, fault: Fault) -> tuple[int, float, bool]:
        took = self._prober.timeout_ms if fault.outcome in ("timeout", "dns") else FAILED_MS
        return CODES[fault.outcome], took, fault.blinds

    def _shot(self, key: tuple[str, str], at: int) -> tuple[int, float, bool]:
        sample = (OK, GOOD_MS, False)
        for fault in self._by_hour.get((*key, at // HOUR), ()):
            if fault.is_on(at):
                if fault.latency_ms is not None:
                    sample = (OK, fault.latency_ms, False)
                if self._chance.random() < fault.share:
                    return self._failed(fault)
        return sample

    def _burst(self, slots: Mapping[tuple[str, str], array[int]]) -> None:
        """Confirming shots, from the first bad slot of each path and vantage point on, in the order of what is known."""
        news = []
        for (path, name), times in slots.items():
            if path == ORIGIN:
                continue
            odd = self._odd[path, name]
            step = self._prober.interval_seconds * SECOND
            first = times[0] if times else 0
            for at, (code, took, _) in odd.items():
                before = odd.get(at - step, (OK, 0.0, False))[0] if at > first else OK
                if code != OK and before == OK:
                    news.append((at + round(took * 1000), path, name))
        heapify(news)
        while news:
            known, *_ = heappop(news)
            for point in self._prober.vantage_points:
                if self._bursting.get(point.name, 0) > known:
                    continue
                self._bursting[point.name] = known + 2 * BURST_SHOTS * BURST_SPACING
                for shot in range(BURST_SHOTS):
                    for path in self._prober.paths:
                        at = known + shot * BURST_SPACING
                        if at < self._end:
                            self._shots[path, point.name].append(at)
                            self._odd[path, point.name].setdefault(at, self._shot((path, point.name), at))

    def _series(self, key: tuple[str, str], slots: array[int]) -> Series:
        odd, shots = self._odd[key], sorted(set(self._shots[key]).difference(slots))
        times = array("q", sorted([*slots, *shots])) if shots else slots
        series = Series(times, bytearray([OK]) * len(times), array("f", [GOOD_MS]) * len(times))
        if any(is_blind for _, _, is_blind in odd.values()):
            series.blind = bytearray(len(times))
        for at, (code, took, is_blind) in odd.items():
            place = bisect_left(times, at)
            if place < len(times) and times[place] == at:
                series.outcome[place], series.total_ms[place] = code, took
                if series.blind:
                    series.blind[place] = is_blind
        if off := self._prober.clocks.get(key[1]):
            series.at = array("q", [at + off for at in times])
        return series
