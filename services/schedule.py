"""When a target is probed: a phase that is stable for ever, slots that are dropped when late. Pure.

Times are seconds since 1970, UTC. A slot is the moment k × interval + phase; all that shares an interval is one ring.
"""

from __future__ import annotations

import math
import zlib
from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


def phase_seconds(target_id: int, rank: int, vantage_points: int, interval_seconds: float) -> float:
    """Where in its interval a target is probed: a hash spreads targets, the rank spreads the vantage points of one target.

    `rank` is the vantage point's place (0 …) among the `vantage_points` that probe.
    """
    spread = zlib.crc32(str(target_id).encode()) / 2**32 * interval_seconds
    return (spread + rank / max(vantage_points, 1) * interval_seconds) % interval_seconds


def shard_of(key: int, shards: int) -> int:
    """Which of a vantage point's workers probes it: all targets of one domain go by the domain's id."""
    return zlib.crc32(f"shard {key}".encode()) % shards


class Ring(Generic[Entry]):
    """What is probed at one interval, in the order of phases: to find what is due is to cut a slice."""

    def __init__(self, interval_seconds: float, entries: Iterable[tuple[float, Entry]]) -> None:
        """`entries` are (phase, entry), with 0 ≤ phase < interval."""
        self.interval_seconds = interval_seconds
        ordered = sorted(entries, key=itemgetter(0))
        self._phases = [phase for phase, _ in ordered]
        self._entries = [entry for _, entry in ordered]

    def due(self, since: float, now: float) -> tuple[list[tuple[float, Entry]], int]:
        """(slot, entry) of the slots in (since, now], oldest first, and how many more were too late.

        What is later than half an interval is dropped, not caught up: a backlog would only measure the backlog.
        """
        start = max(since, now - self.interval_seconds / 2)
        dropped = self._count(since, start) if start > since else 0
        if now <= start:
            return [], dropped
        first, last = self._place(start), self._place(now)
        if first[0] == last[0]:
            return self._slots(first[0], first[1], last[1]), dropped
        return [*self._slots(first[0], first[1], len(self._phases)), *self._slots(last[0], 0, last[1])], dropped

    def next_after(self, now: float) -> float:
        """The next slot; infinite where the ring is empty."""
        if not self._phases:
            return math.inf
        turn, place = self._place(now)
        if place == len(self._phases):
            turn, place = turn + 1, 0
        return turn * self.interval_seconds + self._phases[place]

    def _place(self, moment: float) -> tuple[int, int]:
        """The turn of the ring that `moment` is in, and how many of its slots are over by then."""
        turn = math.floor(moment / self.interval_seconds)
        return turn, bisect_right(self._phases, moment - turn * self.interval_seconds)

    def _slots(self, turn: int, first: int, last: int) -> list[tuple[float, Entry]]:
        base = turn * self.interval_seconds
        return [
            (base + phase, entry)
            for phase, entry in zip(self._phases[first:last], self._entries[first:last], strict=True)
        ]

    def _count(self, since: float, until: float) -> int:
        (turn, place), (last_turn, last_place) = self._place(since), self._place(until)
        return (last_turn - turn) * len(self._phases) + last_place - place
