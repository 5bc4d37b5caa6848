from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test.utils import CaptureQueriesContext

from services.availability import Point, series
from services.models import SampleMinute

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def minute(offset: int, target: int = 1, point: int = 1, **kw: Any) -> None:
    at = NOON + timedelta(minutes=offset)
    SampleMinute.objects.create(minute_at=at, target_id=target, vantage_point_id=point, **kw)


def test_no_minute_is_no_point() -> None:
    assert series([1], NOON, NOON + HOUR, 300) == []
    assert series([], NOON, NOON + HOUR, 300) == []


def test_minutes_add_up_to_steps_over_all_vantage_points() -> None:
    minute(0, good=6, total_ms_sum=60, count_ms=6)
    minute(4, good=3, bad=3, total_ms_sum=60, count_ms=3)
    minute(4, point=2, good=3, bad=3)
    minute(5, bad=6)
    assert series([1], NOON, NOON + HOUR, 300) == [
        Point(1, None, NOON, 12, 6, 12 / 18, 120 / 9),
        Point(1, None, NOON + timedelta(minutes=5), 0, 6, 0.0, None),
    ]


def test_each_vantage_point_by_itself() -> None:
    minute(0, point=1, good=2)
    minute(1, point=2, bad=2)
    assert series([1], NOON, NOON + HOUR, 300, by_vantage_point=True) == [
        Point(1, 1, NOON, 2, 0, 1.0, None),
        Point(1, 2, NOON, 0, 2, 0.0, None),
    ]


def test_what_has_no_vote_is_no_availability() -> None:
    minute(0, blind=5, set_aside=2)
    assert series([1], NOON, NOON + HOUR, 300) == [Point(1, None, NOON, 0, 0, None, None)]


def test_the_time_is_half_open_and_other_targets_are_left_out() -> None:
    for offset in (-1, 0, 59, 60):
        minute(offset, good=1)
        minute(offset, target=2, good=1)
    minute(0, target=3, good=1)
    found = series([2, 1], NOON, NOON + HOUR, 86_400)
    assert [(point.target_id, point.at, point.good) for point in found] == [(1, NOON, 2), (2, NOON, 2)]


def test_steps_are_counted_from_the_start() -> None:
    for offset in range(10):
        minute(offset, good=1)
    start = NOON + timedelta(minutes=1)
    found = series([1], start, NOON + HOUR, 420)
    assert [(point.at, point.good) for point in found] == [(start, 7), (start + timedelta(minutes=7), 2)]


def test_it_is_one_query_that_reads_no_sample(django_assert_num_queries: Any) -> None:
    queries: CaptureQueriesContext
    with django_assert_num_queries(1) as queries:
        series(range(50), NOON, NOON + HOUR, 60)
    assert "probe_samples" not in queries.captured_queries[0]["sql"]
