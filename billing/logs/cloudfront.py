"""CloudFront standard logs (W3C, tab-separated) of any generation: columns are found by name in #Fields.

The viewer's host is x-host-header; cs(Host) is the distribution's own name, and all that the oldest logs have.
"""

from __future__ import annotations

import hashlib
from urllib.parse import unquote

from billing.logs.format import (
    Column,
    Format,
    LogUnreadable,
    RowQuery,
    minute_of_date_and_time,
    text_lines,
    whole_bytes,
)


def _query(head: str) -> RowQuery:
    header, names = _fields(head)
    columns = {name: f"f[{position}]" for position, name in reversed(list(enumerate(names, start=1)))}
    if missing := [name for name in ("date", "time", "sc-bytes") if name not in columns]:
        raise LogUnreadable(f"#Fields does not name {' and '.join(missing)}")
    hosts = [f"nullif(nullif({columns[name]}, '-'), '')" for name in ("x-host-header", "cs(host)") if name in columns]
    if not hosts:
        raise LogUnreadable("#Fields names neither x-host-header nor cs(Host)")
    digest = hashlib.sha256(header.encode()).hexdigest()
    return RowQuery(
        scan=text_lines(),
        derived="string_split(line, chr(9)) AS f",
        # Nearly all lines pass by their first character. A later #Fields that differs is kept, so that it is noticed.
        is_row=(
            "line >= '$' OR trim(line, ' ' || chr(9)) <> '' AND"
            f" (NOT starts_with(line, '#') OR starts_with(line, '#Fields:') AND sha256(line) <> '{digest}')"
        ),
        of_another_kind="starts_with(line, '#')",
        of_another_kind_reason="#Fields changes in the middle of the file",
        malformed=f"len(f) <> {len(names)}",
        malformed_reason=f"not the {len(names)} tab-separated columns that #Fields names",
        at=Column(
            "date and time", f"{columns['date']} || ' ' || {columns['time']}", minute_of_date_and_time("at_text")
        ),
        host=Column("x-host-header", f"coalesce({', '.join(hosts)})", "host_text"),
        bytes=Column("sc-bytes", f"nullif({columns['sc-bytes']}, '-')", whole_bytes("bytes_text")),
        is_text=True,
        decode_host=unquote,
    )


def _fields(head: str) -> tuple[str, list[str]]:
    """The #Fields line, and its names in lower case."""
    for line in head.split("\n"):
        text = line.rstrip("\r")
        if text.startswith("#Fields:"):
            return text, text.removeprefix("#Fields:").lower().split()
        if text.strip() and not text.startswith("#"):
            raise LogUnreadable("no #Fields line before the first row")
    raise LogUnreadable("no #Fields line")


FORMAT = Format("cloudfront", "CloudFront standard log (W3C)", _query)
