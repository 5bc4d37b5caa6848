"""What planning costs: every slot of 10,000 services with two paths at 10 s, in simulated time."""

from __future__ import annotations

import statistics
import time

from services import schedule
from tests.bench import Result

TARGETS, INTERVAL_SECONDS, TURNS = 20_000, 10.0, 60
STEP_SECONDS = 0.25  # the prober looks at least this often
START = 1_700_000_000.0


def plan_slot_ms() -> Result:
    """A whole turn: all 20,000 targets come due once. The median over ten minutes."""
    ring = schedule.Ring(
        INTERVAL_SECONDS,
        [(schedule.phase_seconds(target, 0, 3, INTERVAL_SECONDS), (target, 1)) for target in range(1, TARGETS + 1)],
    )
    turns = [_turn(ring, START + turn * INTERVAL_SECONDS) for turn in range(TURNS)]
    return Result("plan_slot_ms", round(statistics.median(turns), 2), "ms", "limit", 20)


def _turn(ring: schedule.Ring[tuple[int, int]], start: float) -> float:
    planned, spent = 0, 0.0
    for step in range(round(INTERVAL_SECONDS / STEP_SECONDS)):
        since = start + step * STEP_SECONDS
        began = time.perf_counter()
        due, dropped = ring.due(since, since + STEP_SECONDS)
        ring.next_after(since + STEP_SECONDS)
        spent += time.perf_counter() - began
        planned += len(due)
        if dropped:
            raise SystemExit("a slot was dropped in simulated time")
    if planned != TARGETS:
        raise SystemExit(f"{planned} slots were planned instead of {TARGETS}")
    return spent * 1000
