"""What a log format is: where its rows are, and which SQL over a row gives time, host and bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# A longer line is no log row; the largest CloudFront row, with 20 KB of headers and an 8 KB URL, is far below.
LINE_LIMIT = 1 << 20
# A delimiter that no line contains, so that DuckDB's CSV reader gives whole lines.
NO_DELIMITER = "chr(1) || chr(2) || chr(1)"


class LogUnreadable(Exception):
    """This object as a whole can't be counted, so nothing of it is. The text is the reason, in one line."""


@dataclass(frozen=True)
class Column:
    """One value of a row: its name in the format, the SQL for its text, and the SQL over that for its value or NULL."""

    label: str
    text: str
    value: str


@dataclass(frozen=True)
class RowQuery:
    """How the rows of one object are read. All SQL is over `scan`'s columns, then over those of `derived`."""

    scan: str  # a table function call; {log} and {compression} are filled in
    at: Column  # value: minutes since 1970, UTC
    host: Column
    bytes: Column
    malformed: str  # SQL condition: this is no row of the format at all
    malformed_reason: str
    is_row: str = "true"  # false for blank lines and comments
    derived: str = ""  # further columns, computed once per row
    excluded: str = "false"  # a good row that by rule is not counted
    identity: str = "NULL"  # with the time it tells a request; the same twice counts once; NULL: no dedupe
    of_another_kind: str = "false"  # SQL condition: a line after which nothing read so far can be trusted
    of_another_kind_reason: str = ""
    is_text: bool = False  # lines as they stand, not JSON: they may need mending before DuckDB takes them
    decode_host: Callable[[str], str] = str


@dataclass(frozen=True)
class Format:
    """One log format. `query` looks at the object's first lines, and raises LogUnreadable if it is something else."""

    name: str
    title: str
    query: Callable[[str], RowQuery]


def json_lines(*fields: str) -> str:
    """The scan of newline-delimited JSON. All fields come as text, so that a number in quotes is a number too."""
    columns = ", ".join(f"{field}: 'VARCHAR'" for field in fields)
    return (
        f"read_json({{log}}, columns = {{{{{columns}}}}}, format = 'newline_delimited', compression = {{compression}},"
        f" ignore_errors = true, maximum_object_size = {LINE_LIMIT})"
    )


def text_lines() -> str:
    """The scan of plain lines, in one column `line`; blank lines are NULL."""
    return (
        "read_csv({log}, columns = {{line: 'VARCHAR'}}, header = false, auto_detect = false, quote = '', escape = '',"
        f" delim = {NO_DELIMITER}, new_line = '\\n', compression = {{compression}}, max_line_size = {LINE_LIMIT})"
    )


# A value beyond these is damage, not traffic; the bounds also keep sums far from the end of 64 bits.
_FROM_SECONDS, _TO_SECONDS = 946_684_800, 4_102_444_800  # 2000 to 2100
_MAX_BYTES = 10**13


def plausible_minute(minute: str) -> str:
    return f"CASE WHEN {minute} BETWEEN {_FROM_SECONDS // 60} AND {_TO_SECONDS // 60 - 1} THEN {minute} END"


def minute_of_timestamp(text: str) -> str:
    """Unix seconds, milli-, micro- or nanoseconds, by their size; or RFC 3339, with any offset."""
    number = f"TRY_CAST(split_part({text}, '.', 1) AS BIGINT)"
    scales = " ".join(
        f"WHEN {number} BETWEEN {_FROM_SECONDS * scale} AND {_TO_SECONDS * scale - 1} THEN {number} // {60 * scale}"
        for scale in (10**9, 1, 10**3, 10**6)
    )
    instant = plausible_minute(f"(epoch_us(TRY_CAST({text} AS TIMESTAMPTZ)) // 60000000)")
    return f"CASE {scales} WHEN length({text}) >= 19 THEN {instant} END"


def minute_of_date_and_time(text: str) -> str:
    """“2026-03-01 10:00:00”, UTC."""
    instant = plausible_minute(f"(epoch_us(TRY_CAST({text} AS TIMESTAMP)) // 60000000)")
    return f"CASE WHEN length({text}) = 19 THEN {instant} END"


def whole_bytes(text: str) -> str:
    """A whole number in its plain form. DuckDB's own cast would round 12.5 and take 1e3 and 0x10."""
    number = f"TRY_CAST({text} AS BIGINT)"
    return f"CASE WHEN {number} BETWEEN 0 AND {_MAX_BYTES} AND {number}::VARCHAR = {text} THEN {number} END"
