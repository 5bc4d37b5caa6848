"""Google Cloud CDN: the load balancer's LogEntry as JSON lines, one for each request. The host is in requestUrl."""

from __future__ import annotations

from billing.logs.format import Column, Format, RowQuery
from billing.logs.scans import json_lines
from billing.logs.values import given, host_of_url, minute_of_timestamp, whole_bytes

_QUERY = RowQuery(
    scan=json_lines(("timestamp", "insertId"), structs=("httpRequest(requestUrl, responseSize)",)),
    at=Column("timestamp", given("timestamp"), minute_of_timestamp("at_text")),
    host=Column("httpRequest.requestUrl", "httpRequest.requestUrl", host_of_url("host_text")),
    bytes=Column("httpRequest.responseSize", "httpRequest.responseSize", whole_bytes("bytes_text")),
    malformed="timestamp IS NULL AND insertId IS NULL AND httpRequest IS NULL",
    malformed_reason="not a JSON object with LogEntry fields",
    flaw="CASE WHEN httpRequest IS NULL THEN 'httpRequest is missing' END",
    identity=given("insertId"),
)

FORMAT = Format("gcp_cdn", "Google Cloud CDN (LogEntry, JSON lines)", lambda head: _QUERY)
