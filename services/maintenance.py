"""When a service or a CDN is under maintenance: spans of time, out of a window's wall time and zone. Pure.

A window begins at a wall time of an IANA zone and lasts a number of real seconds, so that it is the clock on the wall
that decides when it begins, and the stopwatch when it ends. On the two nights of the year that are no 24 hours long it
reads the wall as RFC 5545 (3.3.5) does:

* A wall time that does not exist, because the clock jumps over it, is read with the offset from before the jump. In
  Berlin on 2026-03-29 a window of 02:30 begins at 01:30 UTC, when the wall says 03:30.
* A wall time that exists twice is the first of the two. In Berlin on 2026-10-25 a window of 02:30 begins at 00:30 UTC;
  if it lasts an hour it ends when the wall says 02:30 again, and does not begin anew.

So there is exactly one span for each day of the window, and each is exactly as long as the window says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_A_RECURRENCE = 9 * _DAY
"""Longer than from one span of a weekly window to the next, whatever the clock does meanwhile."""


class Recurrence(StrEnum):
    NONE = "none"
    DAILY = "daily"
    WEEKLY = "weekly"


class Weekday(StrEnum):
    """In the order of `date.weekday()`."""

    MONDAY = "mon"
    TUESDAY = "tue"
    WEDNESDAY = "wed"
    THURSDAY = "thu"
    FRIDAY = "fri"
    SATURDAY = "sat"
    SUNDAY = "sun"


WEEK = tuple(Weekday)


@dataclass(frozen=True, slots=True)
class Window:
    """`first_day` and `until` (the last day it may begin on) are days of the zone; `weekdays` is for weekly ones."""

    first_day: date
    local_time: time
    time_zone: str
    duration_seconds: int
    recurrence: Recurrence = Recurrence.NONE
    weekdays: frozenset[Weekday] = frozenset()
    until: date | None = None
    reason: str = ""

    def begins_on(self, day: date) -> bool:
        """Whether a span begins on this day of the zone."""
        if day < self.first_day or (self.until is not None and day > self.until):
            return False
        if self.recurrence is Recurrence.NONE:
            return day == self.first_day
        return self.recurrence is Recurrence.DAILY or WEEK[day.weekday()] in self.weekdays


@dataclass(frozen=True, slots=True)
class Span:
    """Half open, in UTC: [start, end)."""

    start: datetime
    end: datetime
    reason: str = ""


def covers(window: Window, at: datetime) -> bool:
    return bool(next_spans(window, at, at + timedelta.resolution))


def next_spans(window: Window, start: datetime, end: datetime) -> tuple[Span, ...]:
    """The spans that overlap [start, end), in order, each one whole."""
    found = (_span(window, day) for day in _days(window, start, end) if window.begins_on(day))
    return tuple(span for span in found if span.start < end and span.end > start)


def upcoming(window: Window, at: datetime) -> Span | None:
    """The span that goes on at `at`, else the next one; None once the last one is over."""
    eve = datetime.combine(window.first_day, time.min, UTC) - _DAY
    spans = next_spans(window, at, max(at, eve) + _A_RECURRENCE)
    return spans[0] if spans else None


def over_at(window: Window) -> datetime | None:
    """The end of the last span; None if there is always another. A window without any is over before it begins."""
    if window.recurrence is Recurrence.NONE:
        return _span(window, window.first_day).end
    if window.until is None:
        return None
    last = next((day for day in _backwards(window.until) if window.begins_on(day)), None)
    return _span(window, last or window.first_day - _DAY).end


def _span(window: Window, day: date) -> Span:
    # fold=0 reads gaps and repeated hours as described above.
    wall = datetime.combine(day, window.local_time, ZoneInfo(window.time_zone))
    start = wall.astimezone(UTC)
    return Span(start, start + timedelta(seconds=window.duration_seconds), window.reason)


def _days(window: Window, start: datetime, end: datetime) -> Iterator[date]:
    """Every day on which a span could begin that overlaps [start, end): no zone is more than a day from UTC."""
    first = (start - timedelta(seconds=window.duration_seconds) - _DAY).date()
    last = (end + _DAY).date()
    day = max(first, window.first_day)
    last = min(last, window.first_day if window.recurrence is Recurrence.NONE else window.until or last)
    while day <= last:
        yield day
        day += _DAY


def _backwards(day: date) -> Iterator[date]:
    """This day and the six before it."""
    return (day - n * _DAY for n in range(7))
