from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test.utils import CaptureQueriesContext

from services import samples
from services.availability import Certificate, Point, certificates, series
from services.models import SampleMinute
from tests.services.test_samples import ROW

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
    found = series([1], NOON, NOON + HOUR, 300)
    assert found == [
        Point(1, None, NOON, good=12, bad=6, total_ms=120, timed=9),
        Point(1, None, NOON + timedelta(minutes=5), good=0, bad=6),
    ]
    assert [(point.availability, point.mean_ms) for point in found] == [(12 / 18, 120 / 9), (0.0, None)]


def test_each_vantage_point_by_itself() -> None:
    minute(0, point=1, good=2)
    minute(1, point=2, bad=2)
    assert series([1], NOON, NOON + HOUR, 300, apart=[2, 1]) == [
        Point(1, 1, NOON, good=2, bad=0),
        Point(1, 2, NOON, good=0, bad=2),
    ]


def test_those_that_are_not_told_apart_stand_together() -> None:
    for point in (1, 2, 3):
        minute(0, point=point, good=point)
    found = series([1], NOON, NOON + HOUR, 300, apart=[2])
    assert found == [Point(1, None, NOON, good=4, bad=0), Point(1, 2, NOON, good=2, bad=0)]


def test_what_has_no_vote_is_no_availability() -> None:
    minute(0, blind=5, set_aside=2)
    (point,) = series([1], NOON, NOON + HOUR, 300)
    assert (point.good, point.bad, point.availability, point.mean_ms) == (0, 0, None, None)


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


# --- certificates --------------------------------------------------------------------------------------------------


def test_the_newest_certificate_that_was_seen() -> None:
    minute(0, certificate_expires_at=NOON + 9 * HOUR)
    minute(1, certificate_expires_at=NOON + 90 * HOUR)
    minute(2)  # failed before one was shown
    assert certificates([1, 2], NOON, NOON + HOUR) == {1: Certificate(NOON + 90 * HOUR, "")}


def test_of_two_certificates_at_once_the_one_that_expires_first() -> None:
    minute(0, point=1, certificate_expires_at=NOON + 9 * HOUR)
    minute(0, point=2, certificate_expires_at=NOON + 8 * HOUR)
    assert certificates([1], NOON, NOON + HOUR)[1].expires_at == NOON + 8 * HOUR


def test_certificates_outside_the_time_are_not_looked_for() -> None:
    minute(-1, certificate_expires_at=NOON)
    minute(60, certificate_expires_at=NOON)
    assert certificates([1], NOON, NOON + HOUR) == {}


def test_the_issuer_stands_in_the_samples_of_that_minute() -> None:
    minute(0, service_id=7, certificate_expires_at=NOON + HOUR)
    row = replace(ROW, target_id=1, service_id=7, certificate_expires_at=NOON + HOUR, certificate_issuer="CN = CA")
    old = replace(row, slot_at=NOON - HOUR, certificate_issuer="CN = old")
    samples.write([old, replace(row, slot_at=NOON + timedelta(seconds=59))])
    assert certificates([1], NOON, NOON + HOUR) == {1: Certificate(NOON + HOUR, "CN = CA")}
