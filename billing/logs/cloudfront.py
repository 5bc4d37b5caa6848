"""CloudFront standard logs (W3C, tab-separated) of any generation: columns are found by name in #Fields.

The viewer's host is x-host-header; cs(Host) is the distribution's own name, and all that the oldest logs have.
"""

from __future__ import annotations

import hashlib
from urllib.parse import unquote

from billing.logs.format import Column, Format, LogUnreadable, RowQuery
from billing.logs.separated import Cell, separated
from billing.logs.values import given, minute_of_date_and_time, whole_bytes


def _query(head: str) -> RowQuery:
    header, names, skip = _fields(head)
    places = {name: position for position, name in reversed(list(enumerate(names, start=1)))}
    if missing := [name for name in ("date", "time", "sc-bytes") if name not in places]:
        raise LogUnreadable(f"#Fields does not name {' and '.join(missing)}")
    hosts = [places[name] for name in ("x-host-header", "cs(host)") if name in places]
    if not hosts:
        raise LogUnreadable("#Fields names neither x-host-header nor cs(Host)")
    digest = hashlib.sha256(header.encode()).hexdigest()

    def query_of(cell: Cell) -> RowQuery:
        at = f"{cell(places['date'])} || ' ' || {cell(places['time'])}"
        host = ", ".join(given(cell(place), "-") for place in hosts)
        identity = places.get("x-edge-request-id")
        return RowQuery(
            scan="",
            # Nearly all lines pass by their first character. A later #Fields that differs is kept, to be noticed.
            is_row=(
                "line >= '$' OR trim(line, ' ' || chr(9)) <> '' AND"
                f" (NOT starts_with(line, '#') OR starts_with(line, '#Fields:') AND sha256(line) <> '{digest}')"
            ),
            of_another_kind="starts_with(line, '#')",
            of_another_kind_reason="#Fields changes in the middle of the file",
            malformed="",
            malformed_reason=f"not the {len(names)} tab-separated columns that #Fields names",
            at=Column("date and time", at, minute_of_date_and_time("at_text")),
            host=Column("x-host-header", f"coalesce({host})", "host_text"),
            bytes=Column("sc-bytes", given(cell(places["sc-bytes"]), "-"), whole_bytes("bytes_text")),
            identity=given(cell(identity), "-") if identity else "NULL",
            decode_host=unquote,
        )

    return separated(len(names), "chr(9)", skip, query_of)


def _fields(head: str) -> tuple[str, list[str], int | None]:
    """The #Fields line, its names in lower case, and how many lines stand before the first row, if that is plain."""
    lines = [line.rstrip("\r") for line in head.split("\n")]
    first = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    headers = [line for line in lines[:first] if line.startswith("#Fields:")]
    if not headers:
        raise LogUnreadable(f"no #Fields line{' before the first row' if first < len(lines) else ''}")
    while not lines[first - 1]:  # what the last line end leaves, if there is no row
        first -= 1
    is_plain = len(headers) == 1 and all(line.startswith("#") for line in lines[:first])
    return headers[0], headers[0].removeprefix("#Fields:").lower().split(), first if is_plain else None


FORMAT = Format("cloudfront", "CloudFront standard log (W3C)", _query)
