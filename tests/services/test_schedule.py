from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
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


@given(slots(), NOW)
def test_now_lies_between_two_slots(slot: tuple[int, float], now: float) -> None:
    interval, phase = slot
    before, after = schedule.slot_at_or_before(now, interval, phase), schedule.next_slot(now, interval, phase)
    assert before <= now < after
    assert after - before == pytest.approx(interval, abs=1e-6)


@given(slots(), NOW)
def test_following_slots_are_equidistant_and_never_repeat(slot: tuple[int, float], now: float) -> None:
    """Each slot asks for the next, as the prober does when it is not a moment late."""
    interval, phase = slot
    first = following = schedule.next_slot(now, interval, phase)
    for count in range(1, 200):
        following = schedule.next_slot(following, interval, phase)
        assert following == pytest.approx(first + count * interval, abs=1e-6)


@given(slots(), NOW, st.floats(0, 0.999), st.floats(0, 0.999))
def test_two_workers_name_a_slot_alike(slot: tuple[int, float], now: float, early: float, late: float) -> None:
    """The same slot, asked for at two moments, is the same microsecond: the second row of a redelivery adds nothing."""
    interval, phase = slot
    start = schedule.next_slot(now, interval, phase) + 1e-3
    moments = (start + share * (interval - 2e-3) for share in (early, late))
    one, other = (schedule.slot_at_or_before(moment, interval, phase) for moment in moments)
    assert datetime.fromtimestamp(one, UTC) == datetime.fromtimestamp(other, UTC)


@pytest.mark.parametrize(
    ("behind", "is_late"), [(-1.0, False), (0.0, False), (4.9, False), (5.0, False), (5.001, True), (60.0, True)]
)
def test_half_an_interval_is_late(behind: float, is_late: bool) -> None:
    assert schedule.is_late(1_000_000 + behind, 1_000_000, 10) is is_late


@given(slots(), NOW)
@example((10, 0.0), 1_700_000_005.0)
def test_the_newest_slot_is_late_in_the_second_half_of_its_interval(slot: tuple[int, float], now: float) -> None:
    interval, phase = slot
    newest = schedule.slot_at_or_before(now, interval, phase)
    share = (now - newest) / interval
    if not math.isclose(share, 0.5, abs_tol=1e-6):
        assert schedule.is_late(now, newest, interval) is (share > 0.5)
