"""What one probe can end in. The classes of `http_availability` are in the design's semantics; nothing here knows Django."""

from enum import StrEnum


class Outcome(StrEnum):
    OK = "ok"
    HTTP_5XX = "http_5xx"
    EDGE_ERROR = "edge_error"
    TIMEOUT = "timeout"
    CONNECT = "connect"
    TLS = "tls"
    DNS = "dns"
    BLOCKED = "blocked"
    WRONG_BODY = "wrong_body"
    WRONG_STATUS = "wrong_status"
    UNKNOWN = "unknown"


BAD = frozenset(
    {
        Outcome.HTTP_5XX, Outcome.EDGE_ERROR, Outcome.TIMEOUT, Outcome.CONNECT, Outcome.TLS, Outcome.DNS,
        Outcome.WRONG_BODY,
    }
)  # fmt: skip

# Findings only: a challenge page or an odd status says nothing about whether the CDN works.
SET_ASIDE = frozenset({Outcome.BLOCKED, Outcome.WRONG_STATUS})
