"""What reading one log object gives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

WHOLE, SAMPLED = "E2", "E4"  # grades of evidence; what a sample says is never final

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HostMinute(NamedTuple):
    """What one host delivered in one minute."""

    host: str  # in normal form
    minute: int  # minutes since 1970, UTC
    bytes: int
    requests: int

    @property
    def minute_at(self) -> datetime:
        return _EPOCH + timedelta(minutes=self.minute)


@dataclass(frozen=True)
class BadRow:
    line: int
    reason: str


@dataclass(frozen=True)
class LogReading:
    """What one object holds: `rows` = `counted` + `excluded` + `duplicates` + `bad_rows`, all as they stand there.

    Blank lines and comments are no rows. `excluded` rows are good, but by the format's rule not a visitor's request.
    `bad` keeps the first 100. Of a sampled log, `usage` is what the counted rows stand for; else it is their sum.
    """

    rows: int
    counted: int
    excluded: int
    duplicates: int
    bad_rows: int
    bad: tuple[BadRow, ...]
    usage: list[HostMinute]  # one for each host and minute, in no order
    grade: str = WHOLE
