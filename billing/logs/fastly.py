"""Fastly, JSON lines whose fields the customer names, alone or after a syslog prefix.

With shielding, a request passes two of Fastly's caches and both log it. Only the one at the edge met the visitor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from billing.logs.format import Column, FieldMap, Format, RowQuery
from billing.logs.scans import json_lines, text_lines
from billing.logs.values import given, minute_of_timestamp, whole_bytes

# The bytes must be all that was written, headers too: Fastly bills those. `is_edge` and `id` may be None.
FIELDS: Mapping[str, str | None] = {
    "at": "timestamp", "host": "host", "bytes": "bytes", "is_edge": "fastly_is_edge", "id": "request_id",
}  # fmt: skip

# “<134>2026-03-01T10:00:00Z cache-fra123 name[1234]: ” and its relatives.
_PREFIX = r"^<\d{1,3}>[^{]*\{"


def query_of(names: Mapping[str, str | None]) -> Callable[[str], RowQuery]:
    fields = [name for name in dict.fromkeys(names.values()) if name is not None]
    plain = replace(_rows(names, lambda name: f'"{name}"'), scan=json_lines(fields))
    record = f"CASE WHEN regexp_matches(line, '{_PREFIX}') THEN line[strpos(line, '{{'):] ELSE ltrim(line) END"
    paths = ", ".join(f"""'$."{name}"'""" for name in fields)
    by_line = replace(
        _rows(names, lambda name: f"f[{fields.index(name) + 1}]"),
        scan=text_lines(),
        is_row="trim(line, ' ' || chr(9) || chr(11) || chr(12)) <> ''",  # as between JSON lines
        derived=(
            f"CASE WHEN starts_with({record}, '{{') AND json_valid({record})"
            f" THEN json_extract_string({record}, [{paths}]) END AS f"
        ),
        is_text=True,
    )
    quick = replace(by_line, quick=plain)
    return lambda head: quick if head.lstrip().startswith("{") else by_line


def _rows(names: Mapping[str, str | None], cell: Callable[[str], str]) -> RowQuery:
    at, host, size = (str(names[key]) for key in ("at", "host", "bytes"))
    edge, identity = names["is_edge"], names["id"]
    query = RowQuery(
        scan="",
        at=Column(at, given(cell(at), "-"), minute_of_timestamp("at_text")),
        host=Column(host, given(cell(host), "-"), "host_text"),
        bytes=Column(size, given(cell(size), "-"), whole_bytes("bytes_text")),
        malformed=f"coalesce({cell(at)}, {cell(host)}, {cell(size)}) IS NULL",
        malformed_reason=f"not a JSON object with {at}, {host} or {size}",
        identity=given(cell(identity), "-") if identity else "NULL",
    )
    if edge is None:
        return query
    # Whether a row without the flag is a second telling can't be known, so it is neither counted nor left out.
    flag = f"lower({given(cell(edge))})"
    return replace(
        query,
        flaw=(
            f"CASE WHEN {flag} IS NULL THEN '{edge} is missing'"
            f" WHEN {flag} NOT IN ('true', 'false', '1', '0') THEN '{edge} is neither true nor false' END"
        ),
        excluded=f"{flag} IN ('false', '0')",
    )


FORMAT = Format(
    "fastly",
    "Fastly (JSON lines, fields by a map)",
    query_of(FIELDS),
    FieldMap(FIELDS, frozenset({"is_edge", "id"}), query_of),
)
