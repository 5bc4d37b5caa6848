"""Rows of cells with a delimiter between them: read as cells while all is well, else line by line.

DuckDB's own splitting is twice as fast, but refuses an object in which one line has too many or too few cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from billing.logs.format import RowQuery
from billing.logs.scans import text_cells, text_lines

Cell = Callable[[int], str]  # the SQL of the cell at a position, from 1


def separated(count: int, delimiter: str, skip: int | None, query_of: Callable[[Cell], RowQuery]) -> RowQuery:
    """`skip`: lines before the first row, or None if they can't be told. `query_of` leaves the scan to this."""
    by_line = replace(
        query_of(lambda position: f"f[{position}]"),
        scan=text_lines(),
        derived=f"string_split(line, {delimiter}) AS f",
        malformed=f"len(f) <> {count}",
        is_text=True,
    )
    if skip is None:
        return by_line
    by_cell = replace(
        query_of(lambda position: f"c{position}"),
        scan=text_cells(count, delimiter, skip),
        is_row="true",
        malformed="false",
        of_another_kind="false",
    )
    return replace(by_line, quick=by_cell)
