"""Bunny CDN: 12 fields with | between them. The host is in the URL.

Bunny does not say how it writes a | within a URL or user agent, so a line with another number of fields is bad.
"""

from __future__ import annotations

from billing.logs.format import Column, Format, RowQuery
from billing.logs.separated import Cell, separated
from billing.logs.values import given, host_of_url, minute_of_timestamp, whole_bytes

_FIELDS = 12
_AT, _BYTES, _URL, _REQUEST_ID = 3, 4, 8, 11


def _query_of(cell: Cell) -> RowQuery:
    return RowQuery(
        scan="",
        is_row="trim(line, ' ' || chr(9)) <> ''",
        malformed="",
        malformed_reason=f"not {_FIELDS} fields with | between them",
        at=Column("the timestamp", given(cell(_AT), "-"), minute_of_timestamp("at_text")),
        host=Column("the URL", given(cell(_URL), "-"), host_of_url("host_text")),
        bytes=Column("the bytes", given(cell(_BYTES), "-"), whole_bytes("bytes_text")),
        identity=given(cell(_REQUEST_ID), "-"),
    )


_QUERY = separated(_FIELDS, "'|'", 0, _query_of)

FORMAT = Format("bunny", "Bunny CDN log (12 fields)", lambda head: _QUERY)
