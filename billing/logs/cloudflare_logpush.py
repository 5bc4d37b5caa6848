"""Cloudflare Logpush, HTTP requests as NDJSON; all three timestamp formats.

Only what visitors asked for is counted: a Worker's own fetches run through the same log.
"""

from __future__ import annotations

from billing.logs.format import Column, Format, RowQuery, json_lines, minute_of_timestamp, whole_bytes

_QUERY = RowQuery(
    scan=json_lines(
        "EdgeStartTimestamp",
        "ClientRequestHost",
        "EdgeResponseBytes",
        "ClientRequestSource",
        "WorkerSubrequest",
        "RayID",
    ),
    at=Column("EdgeStartTimestamp", "EdgeStartTimestamp", minute_of_timestamp("at_text")),
    host=Column("ClientRequestHost", "ClientRequestHost", "host_text"),
    bytes=Column("EdgeResponseBytes", "EdgeResponseBytes", whole_bytes("bytes_text")),
    malformed="EdgeStartTimestamp IS NULL AND ClientRequestHost IS NULL AND EdgeResponseBytes IS NULL",
    malformed_reason="not a JSON object with Logpush fields",
    excluded="lower(WorkerSubrequest) = 'true' OR lower(nullif(ClientRequestSource, '')) <> 'eyeball'",
    identity="nullif(RayID, '')",
)

FORMAT = Format("cloudflare_logpush", "Cloudflare Logpush (HTTP requests, NDJSON)", lambda head: _QUERY)
