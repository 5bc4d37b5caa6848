"""Akamai DataStream 2 as JSON lines. Every value is text; “-”, “^”, nothing and a field left out are the same.

totalBytes is all that was sent. Where it was not chosen, bytes is the body, and overheadBytes what went around it.
"""

from __future__ import annotations

from billing.logs.format import Column, Format, RowQuery
from billing.logs.scans import json_lines
from billing.logs.values import given, minute_of_timestamp, whole_bytes


def _cell(name: str) -> str:
    return given(name, "-", "^")


def _sum(left: str, right: str) -> str:
    """The sum as text; NULL if either is missing; both as they stand, which is no number, if either is bad."""
    return f"coalesce(({whole_bytes(left)} + {whole_bytes(right)})::VARCHAR, {left} || ' + ' || {right})"


_QUERY = RowQuery(
    scan=json_lines(("reqTimeSec", "reqHost", "totalBytes", "bytes", "overheadBytes", "reqId")),
    at=Column("reqTimeSec", _cell("reqTimeSec"), minute_of_timestamp("at_text")),
    host=Column("reqHost", _cell("reqHost"), "host_text"),
    bytes=Column(
        "totalBytes or bytes",
        f"coalesce({_cell('totalBytes')}, {_sum(_cell('bytes'), _cell('overheadBytes'))}, {_cell('bytes')})",
        whole_bytes("bytes_text"),
    ),
    malformed="coalesce(reqTimeSec, reqHost, totalBytes, bytes) IS NULL",
    malformed_reason="not a JSON object with DataStream fields",
    identity=_cell("reqId"),
)

FORMAT = Format("akamai_ds2", "Akamai DataStream 2 (JSON lines)", lambda head: _QUERY)
