"""The table functions of DuckDB that rows come from. {log} and {compression} stay open until an object is read."""

from __future__ import annotations

from collections.abc import Iterable

from billing.logs.format import LINE_LIMIT

# A delimiter that no line contains, so that DuckDB's CSV reader gives whole lines. A line that is this would be blank.
_NOWHERE = "chr(1) || chr(2) || chr(1)"


def json_lines(fields: Iterable[str], structs: Iterable[str] = ()) -> str:
    """Newline-delimited JSON. All fields come as text, so that a number in quotes is a number too.

    A struct is “name(field, field)”: a field that is an object itself.
    """
    columns = [f"'{field}': 'VARCHAR'" for field in dict.fromkeys(fields)]
    for struct in structs:
        name, inner = struct.rstrip(")").split("(")
        columns.append(f"'{name}': 'STRUCT({', '.join(f'{field.strip()} VARCHAR' for field in inner.split(','))})'")
    return (
        f"read_json({{log}}, columns = {{{{{', '.join(columns)}}}}}, format = 'newline_delimited',"
        f" compression = {{compression}}, ignore_errors = true, maximum_object_size = {LINE_LIMIT})"
    )


def text_lines() -> str:
    """Plain lines, in one column `line`; blank lines are NULL."""
    return _csv("line: 'VARCHAR'", f"delim = {_NOWHERE}")


def text_cells(count: int, delimiter: str, skip: int = 0) -> str:
    """Lines of exactly `count` cells, in columns c1, c2, …; an empty cell is NULL.

    DuckDB refuses the object if a line has more or fewer.
    """
    columns = ", ".join(f"c{number}: 'VARCHAR'" for number in range(1, count + 1))
    return _csv(columns, f"delim = {delimiter}, skip = {skip}")


def _csv(columns: str, options: str) -> str:
    return (
        f"read_csv({{log}}, columns = {{{{{columns}}}}}, header = false, auto_detect = false, quote = '', escape = '',"
        f" {options}, new_line = '\\n',"
        f" compression = {{compression}}, max_line_size = {LINE_LIMIT})"
    )
