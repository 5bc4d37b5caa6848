"""One log object in, bytes and requests per host and minute out. DuckDB reads the file; nothing is written."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from billing.logs import hosts, opening, statements
from billing.logs.format import Column, Format, LogUnreadable, RowQuery

if TYPE_CHECKING:
    import duckdb

THREADS = 2
MEMORY_LIMIT = "256MB"  # beyond it, DuckDB spills to the temporary directory
SECONDS_LIMIT = 30.0  # a gigabyte of rows takes three; what takes longer was made to
BAD_ROWS_KEPT = 100

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
    """What one object holds: `rows` = `counted` + `excluded` + `duplicates` + `bad_rows`.

    Blank lines and comments are no rows. `excluded` rows are good, but by the format's rule not a visitor's request.
    `bad` keeps the first 100.
    """

    rows: int
    excluded: int
    duplicates: int
    bad_rows: int
    bad: tuple[BadRow, ...]
    usage: list[HostMinute]  # one for each host and minute, in no order

    @property
    def counted(self) -> int:
        return sum(line.requests for line in self.usage)


def read(format: Format, path: Path) -> LogReading:
    """Read one object. Raises LogUnreadable if it can't be read to its end or is not of this format."""
    start = opening.look_at(path)
    if start.is_empty:
        return LogReading(0, 0, 0, 0, (), [])
    query = format.query(start.head)
    with _workspace(path) as (duck, directory, log):
        if start.has_mark or (query.is_text and start.has_carriage_returns):
            return _read_mended(duck, query, log, directory)
        try:
            return _read(duck, query, log, start.compression)
        except _Refused as refused:
            if query.is_text and refused.is_about_text:
                return _read_mended(duck, query, log, directory)
            raise LogUnreadable(refused.reason) from refused


def _read_mended(duck: duckdb.DuckDBPyConnection, query: RowQuery, log: Path, directory: Path) -> LogReading:
    mended = directory / "mended"
    opening.mend(log, mended, is_text=query.is_text)
    try:
        return _read(duck, query, mended, "none")
    except _Refused as refused:
        raise LogUnreadable(refused.reason) from refused


class _Refused(Exception):
    """DuckDB did not read the file."""

    def __init__(self, error: duckdb.Error) -> None:
        import duckdb

        text = str(error).split("\n")[0]
        super().__init__(text)
        self.is_about_text = isinstance(error, duckdb.InvalidInputException | duckdb.NotImplementedException)
        if "Unexpected end of GZIP stream" in text:
            self.reason = opening.TRUNCATED
        elif "GZIP" in text.upper():
            self.reason = "broken gzip, or something else after its end"
        elif "maximum_object_size" in text:
            self.reason = "a line is too long for a log"
        elif isinstance(error, duckdb.InterruptException):
            self.reason = f"not read within {SECONDS_LIMIT:.0f} seconds"
        else:
            self.reason = text[:300]


@contextmanager
def _workspace(path: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path, Path]]:
    """A DuckDB with limits, a directory that it may spill to, and the object under a plain name."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="tranche-log-") as name:
        directory = Path(name)
        log = directory / "log"  # DuckDB would expand * and [ ] in a path
        log.symlink_to(path.resolve())
        config: dict[str, Any] = {
            "threads": THREADS,
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(directory / "spill"),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        with duckdb.connect(config=config) as duck:
            duck.execute("SET TimeZone = 'UTC'")
            stop = threading.Timer(SECONDS_LIMIT, duck.interrupt)
            stop.daemon = True
            stop.start()
            try:
                yield duck, directory, log
            finally:
                stop.cancel()


def _read(duck: duckdb.DuckDBPyConnection, query: RowQuery, log: Path, compression: str) -> LogReading:
    scan = query.scan.format(log=f"'{log}'", compression=f"'{compression}'")
    groups = _execute(duck, statements.counting(query, scan))
    rows: Counter[int] = Counter()
    for state, read_rows, *_ in groups:
        rows[state] += read_rows
    counted = [group[2:] for group in groups if group[0] == statements.COUNTED]
    if rows[statements.OTHER]:
        raise LogUnreadable(query.of_another_kind_reason)
    total = rows.total()
    if total and rows[statements.MALFORMED] == total:
        raise LogUnreadable(f"of another format: each of its {total} rows is {query.malformed_reason}")
    bad_rows = rows[statements.MALFORMED] + rows[statements.BAD]
    return LogReading(
        rows=total,
        excluded=rows[statements.EXCLUDED],
        duplicates=rows[statements.COUNTED] - sum(requests for _, _, _, requests in counted),
        bad_rows=bad_rows,
        bad=tuple(_bad_rows(duck, query, scan, log, compression)) if bad_rows else (),
        usage=_by_normal_form(query, counted),
    )


def _by_normal_form(query: RowQuery, counted: list[tuple[Any, ...]]) -> list[HostMinute]:
    names = {host: hosts.normal_form(query.decode_host(host)) for host in {host for host, *_ in counted}}
    if len(set(names.values())) == len(names):
        return [HostMinute(names[host], minute, size, requests) for host, minute, size, requests in counted]
    sums: dict[tuple[str, int], tuple[int, int]] = {}
    for host, minute, size, requests in counted:
        key = (names[host], minute)
        earlier = sums.get(key, (0, 0))
        sums[key] = (earlier[0] + size, earlier[1] + requests)
    return [HostMinute(*key, *volume) for key, volume in sums.items()]


def _bad_rows(
    duck: duckdb.DuckDBPyConnection, query: RowQuery, scan: str, log: Path, compression: str
) -> Iterator[BadRow]:
    """The first bad rows, in a second reading that only damaged objects need."""
    if compression == "gzip":
        for _ in opening.inflated(log):  # DuckDB does not look at checksums, and bad rows may come from a flipped bit
            pass
    found = _execute(duck, statements.bad_rows(query, scan, BAD_ROWS_KEPT))
    numbers = [row[0] for row in found]
    if not query.is_text:  # DuckDB skips blank lines between JSON objects without counting them
        numbers = opening.numbers_of_rows(log, numbers)
    for number, (_, is_malformed, *cells) in zip(numbers, found, strict=True):
        yield BadRow(number, query.malformed_reason if is_malformed else _reason(query, cells))


def _reason(query: RowQuery, cells: list[Any]) -> str:
    columns: list[tuple[Column, str]] = [
        (query.at, "a time"), (query.host, "a host"), (query.bytes, "a plausible whole number"),
    ]  # fmt: skip
    for (column, wanted), text, value in zip(columns, cells[::2], cells[1::2], strict=True):
        if value is None:
            return f"{column.label} is not {wanted}: {text[:60]!a}" if text else f"{column.label} is missing"
    raise AssertionError("a bad row lacks a value")


def _execute(duck: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    import duckdb

    try:
        return duck.execute(sql).fetchall()
    except duckdb.Error as error:
        raise _Refused(error) from error
