from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import schedule

INTERVALS = st.integers(1, 300)
TARGETS = st.integers(1, 2**63 - 1)
NOW = st.floats(1_600_000_000, 2_500_000_000)
POINTS = st.integers(1, 40)


@st.composite
def slots(draw: st.DrawFn) -> tuple[int, float]:
    """An interval and a phase that schedule makes within it."""
    interval, points = draw(INTERVALS), draw(POINTS)
    return interval, schedule.phase_seconds(draw(TARGETS), draw(st.integers(0, points - 1)), points, interval)


@given(TARGETS, POINTS, INTERVALS, st.data())
def test_a_phase_is_stable_and_within_the_interval(
    target: int, points: int, interval: int, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, points - 1))
    phase = schedule.phase_seconds(target, rank, points, interval)
    assert 0 <= phase < interval
    assert phase == schedule.phase_seconds(target, rank, points, interval)


def test_a_phase_is_the_same_for_ever() -> None:
    """A deployment that changed these would shift every slot once, and could doubly probe one."""
    assert schedule.phase_seconds(1, 0, 3, 10) == pytest.approx(5.15090, abs=1e-5)
    assert schedule.phase_seconds(1, 1, 3, 10) == pytest.approx(8.48423, abs=1e-5)
    assert schedule.phase_seconds(1, 2, 3, 10) == pytest.approx(1.81757, abs=1e-5)


@given(TARGETS, POINTS, INTERVALS)
def test_vantage_points_of_one_target_share_its_interval_evenly(target: int, points: int, interval: int) -> None:
    phases = sorted(schedule.phase_seconds(target, rank, points, interval) for rank in range(points))
    gaps = [after - before for before, after in zip(phases, [*phases[1:], phases[0] + interval], strict=True)]
    assert gaps == pytest.approx([interval / points] * points)


def test_targets_are_spread_over_the_interval() -> None:
    tenths = [0] * 10
    for target in range(1, 10_001):
        tenths[int(schedule.phase_seconds(target, 0, 1, 10))] += 1
    assert min(tenths) > 800 and max(tenths) < 1200


def test_no_vantage_point_is_no_crash() -> None:
    assert 0 <= schedule.phase_seconds(1, 0, 0, 10) < 10


# --- rings ------------------------------------------------------------------------------------------------------------


@st.composite
def rings(draw: st.DrawFn) -> tuple[schedule.Ring[int], list[float]]:
    """A ring of a few targets, and their phases."""
    interval, points = draw(INTERVALS), draw(POINTS)
    targets = draw(st.lists(TARGETS, min_size=1, max_size=12))
    phases = [schedule.phase_seconds(target, 0, points, interval) for target in targets]
    return schedule.Ring(interval, [(phase, n) for n, phase in enumerate(phases)]), phases


def every_slot(phases: list[float], interval: float, since: float, now: float) -> list[tuple[float, int]]:
    """The slots in (since, now], found the long way."""
    turns = range(math.floor(since / interval) - 1, math.floor(now / interval) + 2)
    return sorted(
        (turn * interval + phase, n)
        for turn in turns
        for n, phase in enumerate(phases)
        if since < turn * interval + phase <= now
    )


@given(rings(), NOW, st.lists(st.floats(0.001, 0.499), min_size=1, max_size=30))
def test_no_slot_is_missed_and_none_comes_twice(
    made: tuple[schedule.Ring[int], list[float]], start: float, steps: list[float]
) -> None:
    """Whatever the steps in which time is looked at, as long as none is late."""
    ring, phases = made
    seen, since = [], start
    for step in steps:
        now = since + step * ring.interval_seconds
        due, dropped = ring.due(since, now)
        assert due == sorted(due, key=lambda pair: pair[0]) and dropped == 0
        seen += due
        since = now
    near = {slot for slot, _ in every_slot(phases, ring.interval_seconds, start - 1e-5, start + 1e-5)}
    near |= {slot for slot, _ in every_slot(phases, ring.interval_seconds, since - 1e-5, since + 1e-5)}
    expected = [pair for pair in every_slot(phases, ring.interval_seconds, start, since) if pair[0] not in near]
    assert sorted(pair for pair in seen if pair[0] not in near) == expected
    assert len({(round(slot, 5), n) for slot, n in seen}) == len(seen)


@given(rings(), NOW)
def test_the_next_slot_is_the_first_that_comes_due(made: tuple[schedule.Ring[int], list[float]], now: float) -> None:
    ring, phases = made
    following = ring.next_after(now)
    assert now - 1e-6 <= following <= now + ring.interval_seconds + 1e-6
    assert following == pytest.approx(
        min(every_slot(phases, ring.interval_seconds, now + 1e-6, now + 301))[0], abs=2e-6
    )


@given(slots(), NOW, st.floats(0, 0.4), st.floats(0, 0.4))
def test_two_workers_name_a_slot_alike(slot: tuple[int, float], now: float, early: float, late: float) -> None:
    """The same slot, seen at two moments, is the same microsecond: the second row of a redelivery adds nothing."""
    interval, phase = slot
    ring = schedule.Ring(interval, [(phase, 0)])
    start = ring.next_after(now)
    found = [ring.due(start - 1e-3, start + share * interval)[0] for share in (early + 1e-3, late + 1e-3)]
    assert datetime.fromtimestamp(found[0][0][0], UTC) == datetime.fromtimestamp(found[1][0][0], UTC)


def test_what_is_later_than_half_an_interval_is_dropped_and_counted() -> None:
    ring = schedule.Ring(10, [(1.0, "early"), (7.0, "late")])
    base = 1_000_000.0
    assert ring.due(base, base + 0.9) == ([], 0)
    assert ring.due(base, base + 1.0) == ([(base + 1, "early")], 0)
    assert ring.due(base, base + 6.0) == ([], 1), "five seconds late is half an interval, and (since, now] is half open"
    assert ring.due(base, base + 8.0) == ([(base + 7, "late")], 1)
    slots, dropped = ring.due(base, base + 65.5)
    assert slots == [(base + 61, "early")]
    assert dropped == 12, "six turns of two and the first of the seventh, less the one that is due"


def test_a_clock_that_is_set_back_repeats_no_slot_at_once() -> None:
    ring = schedule.Ring(10, [(1.0, 0)])
    assert ring.due(1_000_005.0, 1_000_005.0) == ([], 0)


def test_an_empty_ring_has_no_next() -> None:
    ring: schedule.Ring[int] = schedule.Ring(10, [])
    assert ring.next_after(5.0) == math.inf and ring.due(0, 5) == ([], 0)


# --- shards -----------------------------------------------------------------------------------------------------------


def test_shards_share_evenly_and_for_ever() -> None:
    counts = [0] * 4
    for key in range(10_000):
        counts[schedule.shard_of(key, 4)] += 1
    assert min(counts) > 2300
    assert [schedule.shard_of(key, 4) for key in range(8)] == [schedule.shard_of(key, 4) for key in range(8)]
    assert {schedule.shard_of(key, 1) for key in range(50)} == {0}
