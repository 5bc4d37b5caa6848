"""One log object in, bytes and requests per host and minute out. DuckDB reads the file; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from billing.logs import hosts, opening, statements
from billing.logs.engine import Refused, Workspace, workspace
from billing.logs.format import Column, Format, LogUnreadable, RowQuery
from billing.logs.reading import SAMPLED, BadRow, HostMinute, LogReading
from billing.logs.sampling import rate_of, scaled

BAD_ROWS_KEPT = 100


def read(
    format: Format,
    path: Path,
    *,
    fields: Mapping[str, str | None] | None = None,
    sample_rate: Fraction | Decimal | int | None = None,
) -> LogReading:
    """Read one object. Raises LogUnreadable if it can't be read to its end or is not of this format.

    `fields`: see Format.with_fields. `sample_rate`: the share of requests that the log holds, in (0, 1]. Raises
    ValueError if either can't be.
    """
    rate = rate_of(sample_rate)
    if fields is not None:
        format = format.with_fields(fields)
    reading = _read_object(format, path)
    return reading if rate == 1 else replace(reading, usage=scaled(reading.usage, rate), grade=SAMPLED)


def _read_object(format: Format, path: Path) -> LogReading:
    start = opening.look_at(path)
    if start.is_empty:
        return LogReading(0, 0, 0, 0, 0, (), [])
    query = format.query(start.head)
    with workspace(path, start.size_bytes) as work:
        if start.has_mark or (query.is_text and start.has_carriage_returns):
            return _read_mended(work, query)
        try:
            return _read(work, query, work.log, start.compression)
        except Refused as refused:
            if query.is_text and refused.is_about_text:
                return _read_mended(work, query)
            raise LogUnreadable(refused.reason) from refused


def _read_mended(work: Workspace, query: RowQuery) -> LogReading:
    mended = work.directory / "mended"
    opening.mend(work.log, mended, is_text=query.is_text)
    try:
        return _read(work, query, mended, "none")
    except Refused as refused:
        raise LogUnreadable(refused.reason) from refused


def _read(work: Workspace, query: RowQuery, log: Path, compression: str) -> LogReading:
    if query.quick and (reading := _read_quick(work, query.quick, log, compression)):
        return reading
    scan = _scan(query, log, compression)
    groups = work.rows(statements.counting(query, scan))
    rows = _fates(groups)
    if rows[statements.OTHER]:
        raise LogUnreadable(query.of_another_kind_reason)
    total = rows.total()
    if total and rows[statements.MALFORMED] == total:
        raise LogUnreadable(f"of another format: each of its {total} rows is {query.malformed_reason}")
    bad_rows = rows[statements.MALFORMED] + rows[statements.BAD]
    bad = tuple(_bad_rows(work, query, scan, log, compression)) if bad_rows else ()
    return _reading(query, groups, rows, bad_rows, bad)


def _read_quick(work: Workspace, query: RowQuery, log: Path, compression: str) -> LogReading | None:
    """None if there is any bad row: which line it is, and what is wrong with it, only the slow way tells."""
    try:
        groups = work.rows(statements.counting(query, _scan(query, log, compression)))
    except Refused as refused:
        if refused.is_about_text:
            return None
        raise
    rows = _fates(groups)
    if rows.keys() - {statements.COUNTED, statements.EXCLUDED}:
        return None
    return _reading(query, groups, rows, 0, ())


def _scan(query: RowQuery, log: Path, compression: str) -> str:
    return query.scan.format(log=f"'{log}'", compression=f"'{compression}'")


def _fates(groups: list[tuple[Any, ...]]) -> Counter[int]:
    rows: Counter[int] = Counter()
    for state, read_rows, *_ in groups:
        rows[state] += read_rows
    return rows


def _reading(
    query: RowQuery, groups: list[tuple[Any, ...]], rows: Counter[int], bad_rows: int, bad: tuple[BadRow, ...]
) -> LogReading:
    usage = [group[2:] for group in groups if group[0] == statements.COUNTED]
    counted = sum(requests for _, _, _, requests in usage)
    return LogReading(
        rows=rows.total(),
        counted=counted,
        excluded=rows[statements.EXCLUDED],
        duplicates=rows[statements.COUNTED] - counted,
        bad_rows=bad_rows,
        bad=bad,
        usage=_by_normal_form(query, usage),
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


def _bad_rows(work: Workspace, query: RowQuery, scan: str, log: Path, compression: str) -> Iterator[BadRow]:
    """The first bad rows, in a second reading that only damaged objects need."""
    if compression == "gzip":
        opening.verify(log)  # DuckDB does not look at checksums, and bad rows may come from a flipped bit
    found = work.rows(statements.bad_rows(query, scan, BAD_ROWS_KEPT))
    numbers = [row[0] for row in found]
    if not query.is_text:  # DuckDB skips blank lines between JSON objects without counting them
        numbers = opening.numbers_of_rows(log, numbers)
    for number, (_, is_malformed, flaw, *cells) in zip(numbers, found, strict=True):
        yield BadRow(number, query.malformed_reason if is_malformed else flaw or _reason(query, cells))


def _reason(query: RowQuery, cells: list[Any]) -> str:
    columns: list[tuple[Column, str]] = [
        (query.at, "a time"), (query.host, "a host"), (query.bytes, "a plausible whole number"),
    ]  # fmt: skip
    for (column, wanted), text, value in zip(columns, cells[::2], cells[1::2], strict=True):
        if value is None:
            return f"{column.label} is not {wanted}: {text[:60]!a}" if text else f"{column.label} is missing"
    raise AssertionError("a bad row lacks a value")
