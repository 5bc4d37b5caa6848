"""Cloudflare Logpush, HTTP requests as NDJSON; all three timestamp formats.

Only what visitors asked for is counted: a Worker's own fetches run through the same log. A job may sample; that is not
in its rows, so `read` has to be told.
"""

from __future__ import annotations

import re
from dataclasses import replace

from billing.logs.format import Column, Format, RowQuery
from billing.logs.scans import json_lines
from billing.logs.values import given, minute_of_nanoseconds, minute_of_timestamp, whole_bytes

_QUERY = RowQuery(
    scan=json_lines(
        (
            "EdgeStartTimestamp",
            "ClientRequestHost",
            "EdgeResponseBytes",
            "ClientRequestSource",
            "WorkerSubrequest",
            "RayID",
        )
    ),
    at=Column("EdgeStartTimestamp", "EdgeStartTimestamp", minute_of_timestamp("at_text")),
    host=Column("ClientRequestHost", "ClientRequestHost", "host_text"),
    bytes=Column("EdgeResponseBytes", "EdgeResponseBytes", whole_bytes("bytes_text")),
    malformed="EdgeStartTimestamp IS NULL AND ClientRequestHost IS NULL AND EdgeResponseBytes IS NULL",
    malformed_reason="not a JSON object with Logpush fields",
    # What nearly all rows are is asked first, because it costs least.
    excluded=(
        "CASE WHEN ClientRequestSource = 'eyeball' AND WorkerSubrequest = 'false' THEN false"
        f" ELSE lower(WorkerSubrequest) = 'true' OR lower({given('ClientRequestSource')}) <> 'eyeball' END"
    ),
    identity=given("RayID"),
)

# What Cloudflare writes if nothing else was chosen: nanoseconds, and a RayID in every row.
_USUAL = replace(
    _QUERY,
    at=replace(_QUERY.at, value=minute_of_nanoseconds("at_text")),
    malformed="false",
    all_identified=True,
)
_USUAL_ROW = re.compile(r'(?=.*"EdgeStartTimestamp":\s*"?\d{19}\b)(?=.*"RayID":\s*"\w)')


def _query(head: str) -> RowQuery:
    return replace(_QUERY, quick=_USUAL) if _USUAL_ROW.match(head) else _QUERY


FORMAT = Format("cloudflare_logpush", "Cloudflare Logpush (HTTP requests, NDJSON)", _query)
