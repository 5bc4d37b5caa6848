"""The time that a timeline shows, in cells of equal length."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

ZOOMS = {
    "1h": (timedelta(hours=1), timedelta(minutes=1)),
    "24h": (timedelta(hours=24), timedelta(minutes=10)),
    "7d": (timedelta(days=7), timedelta(hours=1)),
    "30d": (timedelta(days=30), timedelta(hours=4)),
}
"""Length, and length of a cell, by name."""
USUAL = "24h"
MOST_CELLS = 200
CELLS = tuple(timedelta(minutes=n) for n in (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 720, 1440, 10_080, 43_200))
"""What cells of any other span may be long: whole divisors of a day, then a week and thirty days."""


@dataclass(frozen=True, slots=True)
class Span:
    """[start, end), both in whole cells, UTC."""

    start: datetime
    end: datetime
    cell: timedelta

    @property
    def cells(self) -> list[datetime]:
        """Their beginnings."""
        return [self.start + self.cell * n for n in range((self.end - self.start) // self.cell)]

    def share(self, at: datetime) -> float:
        """Where a time lies: 0 at the start or before it, 1 at the end or after it."""
        return min(max((at - self.start) / (self.end - self.start), 0.0), 1.0)

    def place(self, at: datetime) -> int:
        """The cell that a time in the span belongs to."""
        return (at - self.start) // self.cell

    def holds(self, start: datetime, end: datetime | None) -> bool:
        """Whether [start, end), or with None from `start` on, has any time in it."""
        return start < self.end and (end is None or end > self.start)


def zoomed(zoom: str, now: datetime) -> Span:
    """The last hour, day, week or thirty days, to the end of the cell that goes on. Raises KeyError for another name."""
    length, cell = ZOOMS[zoom]
    end = _whole(now, cell, up=True)
    return Span(end - length, end, cell)


def covering(start: datetime, end: datetime) -> Span:
    """All of it, in the shortest cells of which there are not too many."""
    cell = next((cell for cell in CELLS if (end - start) / cell <= MOST_CELLS), CELLS[-1])
    first = _whole(start, cell)
    return Span(first, max(_whole(end, cell, up=True), first + cell), cell)


def _whole(at: datetime, cell: timedelta, *, up: bool = False) -> datetime:
    seconds = int(cell.total_seconds())
    count = -(-at.timestamp() // seconds) if up else at.timestamp() // seconds
    return datetime.fromtimestamp(count * seconds, UTC)
