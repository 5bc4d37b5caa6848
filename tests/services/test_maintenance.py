"""Windows against a table of cases, and against an oracle that walks every minute of a year with both DST nights."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.maintenance import WEEK, Recurrence, Span, Weekday, Window, covers, next_spans, over_at, upcoming

MINUTE = timedelta(minutes=1)
HOUR = 3600


def utc(*when: int) -> datetime:
    return datetime(*when, tzinfo=UTC)  # type: ignore[arg-type,misc]


def window(zone: str = "UTC", **kw: Any) -> Window:
    """Monday 2026-03-02, 02:30 for an hour."""
    return Window(
        **{"first_day": date(2026, 3, 2), "local_time": time(2, 30), "time_zone": zone, "duration_seconds": HOUR} | kw
    )


# --- once, daily, weekly ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "inside"),
    [
        (utc(2026, 3, 2, 2, 29, 59), False),
        (utc(2026, 3, 2, 2, 30), True),
        (utc(2026, 3, 2, 3, 29, 59), True),
        (utc(2026, 3, 2, 3, 30), False),
        (utc(2026, 3, 3, 3), False),
    ],
)
def test_once_is_half_open_and_does_not_recur(at: datetime, inside: bool) -> None:
    assert covers(window(), at) is inside


def test_daily_begins_on_the_first_day_and_ends_with_the_last() -> None:
    daily = window(recurrence=Recurrence.DAILY, until=date(2026, 3, 4))
    spans = next_spans(daily, utc(2026, 1, 1), utc(2027, 1, 1))
    assert [span.start for span in spans] == [utc(2026, 3, day, 2, 30) for day in (2, 3, 4)]
    assert over_at(daily) == spans[-1].end == utc(2026, 3, 4, 3, 30)


def test_weekly_begins_on_its_weekdays() -> None:
    weekly = window(recurrence=Recurrence.WEEKLY, weekdays=frozenset({Weekday.TUESDAY, Weekday.SUNDAY}))
    spans = next_spans(weekly, utc(2026, 3, 2), utc(2026, 3, 16))
    assert [span.start.day for span in spans] == [3, 8, 10, 15]
    assert over_at(weekly) is None


@pytest.mark.parametrize(
    ("until", "over"),
    [
        (date(2026, 3, 9), utc(2026, 3, 8, 3, 30)),
        (date(2026, 3, 8), utc(2026, 3, 8, 3, 30)),
        (date(2026, 3, 7), utc(2026, 3, 1, 3, 30)),  # no Sunday left: over before it begins
    ],
)
def test_a_weekly_window_is_over_with_its_last_weekday(until: date, over: datetime) -> None:
    sundays = window(recurrence=Recurrence.WEEKLY, weekdays=frozenset({Weekday.SUNDAY}), until=until)
    assert over_at(sundays) == over
    assert all(span.end <= over for span in next_spans(sundays, utc(2026, 1, 1), utc(2027, 1, 1)))


def test_a_weekday_is_that_of_the_zone() -> None:
    monday = window("Pacific/Auckland", recurrence=Recurrence.WEEKLY, weekdays=frozenset({Weekday.MONDAY}))
    assert next_spans(monday, utc(2026, 3, 1), utc(2026, 3, 8))[0].start == utc(2026, 3, 1, 13, 30)  # a Sunday in UTC


def test_one_that_began_days_ago_still_goes_on() -> None:
    week = window(duration_seconds=7 * 24 * HOUR, recurrence=Recurrence.DAILY, until=date(2026, 3, 2))
    assert covers(week, utc(2026, 3, 9, 2, 29)) and not covers(week, utc(2026, 3, 9, 2, 30))


def test_spans_are_whole_and_carry_the_reason() -> None:
    once = window(reason="an upgrade")
    whole = Span(utc(2026, 3, 2, 2, 30), utc(2026, 3, 2, 3, 30), "an upgrade")
    assert next_spans(once, utc(2026, 3, 2, 3), utc(2026, 3, 2, 3, 1)) == (whole,)
    assert next_spans(once, whole.end, utc(2027, 1, 1)) == ()
    assert next_spans(once, utc(2026, 1, 1), whole.start) == ()


@pytest.mark.parametrize(
    ("at", "start"),
    [
        (utc(2026, 3, 2, 3), utc(2026, 3, 2, 2, 30)),
        (utc(2026, 3, 2, 3, 30), utc(2026, 3, 9, 2, 30)),
        (utc(2020, 1, 1), utc(2026, 3, 2, 2, 30)),
    ],
)
def test_what_comes_next_is_what_goes_on_or_the_next_one(at: datetime, start: datetime) -> None:
    mondays = window(recurrence=Recurrence.WEEKLY, weekdays=frozenset({Weekday.MONDAY}))
    span = upcoming(mondays, at)
    assert span and span.start == start


def test_after_the_last_one_nothing_comes() -> None:
    assert upcoming(window(), utc(2026, 3, 2, 3, 30)) is None


# --- the nights of a year that are no 24 hours long -------------------------------------------------------------------

# The clock jumps: a wall time within the gap is read with the offset from before it.
# It is put back: of the two, the first; the length is real time.
NIGHTS = [
    ("Europe/Berlin", date(2026, 3, 29), time(2, 30), utc(2026, 3, 29, 1, 30)),
    ("Europe/Berlin", date(2026, 3, 29), time(1, 59), utc(2026, 3, 29, 0, 59)),
    ("Europe/Berlin", date(2026, 3, 29), time(3, 0), utc(2026, 3, 29, 1, 0)),
    ("Europe/Berlin", date(2026, 10, 25), time(2, 30), utc(2026, 10, 25, 0, 30)),
    ("Europe/Berlin", date(2026, 10, 25), time(3, 0), utc(2026, 10, 25, 2, 0)),
    ("America/New_York", date(2026, 3, 8), time(2, 30), utc(2026, 3, 8, 7, 30)),
    ("America/New_York", date(2026, 11, 1), time(1, 30), utc(2026, 11, 1, 5, 30)),
    ("America/New_York", date(2026, 11, 1), time(2, 30), utc(2026, 11, 1, 7, 30)),
    ("Australia/Lord_Howe", date(2026, 10, 4), time(2, 15), utc(2026, 10, 3, 15, 45)),  # a jump of half an hour
    ("Australia/Lord_Howe", date(2026, 10, 4), time(2, 30), utc(2026, 10, 3, 15, 30)),
    ("Australia/Lord_Howe", date(2026, 4, 5), time(1, 45), utc(2026, 4, 4, 14, 45)),
]


@pytest.mark.parametrize(("zone", "day", "wall", "start"), NIGHTS)
def test_a_night_of_dst(zone: str, day: date, wall: time, start: datetime) -> None:
    once = window(zone, first_day=day, local_time=wall)
    daily = window(zone, first_day=date(2026, 1, 1), local_time=wall, recurrence=Recurrence.DAILY)
    expected = Span(start, start + timedelta(hours=1))
    assert next_spans(once, utc(2026, 1, 1), utc(2027, 1, 1)) == (expected,)
    assert expected in next_spans(daily, start - timedelta(hours=12), start + timedelta(hours=12))


ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]
START, END = utc(2025, 12, 20), utc(2027, 1, 10)
MINUTES = (END - START) // MINUTE


@cache
def clock(zone: str) -> tuple[dict[time, list[tuple[int, date]]], list[int]]:
    """Walks the minutes and notes when the wall says what, for the first time; and the minutes at which it was set.

    The wall is only ever read from UTC, which is never ambiguous. What it jumps over it says as much later as it jumps.
    """
    there = ZoneInfo(zone)
    heard: dict[time, list[tuple[int, date]]] = defaultdict(list)
    late: dict[datetime, datetime] = {}
    changes = []
    before = (START - MINUTE).astimezone(there).replace(tzinfo=None)
    for n in range(MINUTES):
        wall = (START + n * MINUTE).astimezone(there)
        is_repeated, naive = bool(wall.fold), wall.replace(tzinfo=None, fold=0)
        jump = naive - before - MINUTE
        if jump:
            changes.append(n)
        for k in range(jump // MINUTE):
            skipped = before + (k + 1) * MINUTE
            late[skipped + jump] = skipped
        says = [] if is_repeated else [naive]
        if naive in late:
            says.append(late[naive])
        for said in says:
            heard[said.time()].append((n, said.date()))
        before = naive
    return heard, changes


def oracle(asked: Window) -> bytearray:
    """Which minutes are covered: a clock says when it begins, a stopwatch when it ends."""
    covered = bytearray(MINUTES)
    for n, day in clock(asked.time_zone)[0][asked.local_time]:
        if _is_day(asked, day):
            for minute in range(n, min(n + asked.duration_seconds // 60, MINUTES)):
                covered[minute] = 1
    return covered


def _is_day(asked: Window, day: date) -> bool:
    if asked.recurrence == "none":
        return day == asked.first_day
    last = asked.until or date.max
    return asked.first_day <= day <= last and (
        asked.recurrence == "daily" or day.strftime("%a").lower() in asked.weekdays
    )


SHAPES: dict[str, dict[str, Any]] = {
    "daily": {"recurrence": Recurrence.DAILY},
    "25 hours on weekends": {
        "recurrence": Recurrence.WEEKLY, "weekdays": frozenset(WEEK[5:]), "duration_seconds": 25 * HOUR,
    },
    "until the summer": {"recurrence": Recurrence.DAILY, "until": date(2026, 6, 30), "duration_seconds": 90 * 60},
}  # fmt: skip


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    "wall", [time(0), time(1, 30), time(1, 45), time(2), time(2, 15), time(2, 30), time(3)], ids=str
)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_minute_of_a_year_is_as_the_oracle_says(zone: str, wall: time, shape: str) -> None:
    asked = window(zone, first_day=date(2026, 1, 1), local_time=wall, **SHAPES[shape])
    expected = oracle(asked)
    found = bytearray(MINUTES)
    for span in next_spans(asked, START, END):
        first, last = (span.start - START) // MINUTE, min((span.end - START) // MINUTE, MINUTES)
        found[first:last] = b"\1" * (last - first)
    assert found == expected
    assert 0 < sum(expected) < MINUTES
    changes = clock(zone)[1]
    assert len(changes) == 2
    nights = {n + k for n in changes for k in range(-300, 300)}
    for n in sorted(nights | set(range(0, MINUTES, 997))):
        assert covers(asked, START + n * MINUTE) == bool(expected[n]), START + n * MINUTE


def test_the_oracle_knows_both_nights() -> None:
    """It would find a window that is read with the other offset, or that begins twice."""
    asked = window("Europe/Berlin", first_day=date(2026, 1, 1), recurrence=Recurrence.DAILY)
    covered = oracle(asked)

    def minutes_of(day: int, month: int) -> list[int]:
        begin = (utc(2026, month, day) - START) // MINUTE
        return [n for n in range(24 * 60) if covered[begin + n]]

    assert minutes_of(29, 3) == [*range(90, 150)]
    assert minutes_of(25, 10) == [*range(30, 90)]
