"""CloudFront standard logging v2 as JSON lines, with whichever fields were chosen; its W3C output is `cloudfront`'s."""

from __future__ import annotations

from urllib.parse import unquote

from billing.logs.format import Column, Format, RowQuery
from billing.logs.scans import json_lines
from billing.logs.values import given, minute_of_date_and_time, minute_of_timestamp, whole_bytes

# Of several, the first that is given counts. cs(Host) is the distribution's own name.
_INSTANTS = ("timestamp(ms)", "timestamp")
_HOSTS = ("x-host-header", "cs-host", "cs(Host)")


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(_cell(name) for name in names)


def _cell(name: str) -> str:
    return given(f'"{name}"', "-")


_QUERY = RowQuery(
    scan=json_lines((*_INSTANTS, "date", "time", *_HOSTS, "sc-bytes", "x-edge-request-id")),
    at=Column(
        "timestamp, or date and time",
        f"coalesce({_first(_INSTANTS)}, {_cell('date')} || ' ' || {_cell('time')})",
        f"CASE WHEN at_text[11] = ' ' THEN {minute_of_date_and_time('at_text')}"
        f" ELSE {minute_of_timestamp('at_text')} END",
    ),
    host=Column("x-host-header", f"coalesce({_first(_HOSTS)})", "host_text"),
    bytes=Column("sc-bytes", _cell("sc-bytes"), whole_bytes("bytes_text")),
    malformed=f"coalesce({_first((*_INSTANTS, 'date', 'time', *_HOSTS, 'sc-bytes'))}) IS NULL",
    malformed_reason="not a JSON object with CloudFront fields",
    identity=_cell("x-edge-request-id"),
    decode_host=unquote,
)

FORMAT = Format("cloudfront_v2", "CloudFront standard logging v2 (JSON lines)", lambda head: _QUERY)
