"""One probe: what is asked, what came back, and which class that is. A failed probe is a result, never an exception."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum

from services.outcomes import Outcome

BODY_LIMIT_BYTES = 64 * 1024


class Fault(StrEnum):
    """What kept a response from arriving, in the words of the transport."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    OURS = "ours"
    """The prober's own trouble (certificate store, descriptors, standing still): says nothing about the target, and who
    has it is blind."""
    UNTRIED = "untried"
    """The probe was not made: the egress guard, a cap, no route or resolver from here, a request that can't be written.
    Says nothing about the target, and nothing about the other ones."""


class Family(IntEnum):
    """Which addresses of a name may be used. EITHER prefers IPv4, so that all vantage points mean the same by it."""

    EITHER = 0
    IPV4 = 4
    IPV6 = 6


@dataclass(frozen=True, slots=True)
class Probe:
    """One request through one path: connect to `address`, speak to `host`."""

    host: str
    address: str
    port: int = 443
    path: str = "/"
    method: str = "GET"
    headers: tuple[str, ...] = ()
    """Further lines of the request, such as "X-Probe: word"."""
    family: Family = Family.EITHER
    is_on_known_cdn: bool = False
    """`address` lies below a suffix of a CDN that we know, which may be asked for many hosts at one address."""
    expected: frozenset[int] = frozenset(range(200, 400))
    body_marker: bytes = b""
    body_limit_bytes: int = BODY_LIMIT_BYTES
    """Reading stops here, and what was read is a whole answer."""
    keeps_head: bool = False
    """Whether the reply brings back the response's header lines."""
    timeout_seconds: float = 5.0
    source_address: str = ""
    customer_id: int | None = None
    """On whose behalf: what many customers ask of one address is shared out among them."""
    allow_private: bool = False
    ca_file: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the transport brought back. Durations in milliseconds, one per phase; None where it was not reached."""

    at: datetime
    status: int | None = None
    head: bytes = b""
    """The header lines as they came, without the status line, of a probe that keeps them."""
    body: bytes = b""
    is_cut: bool = False
    """Reading stopped at the limit."""
    fault: Fault | None = None
    fault_text: str = ""
    dns_ms: float | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    first_byte_ms: float | None = None
    total_ms: float | None = None
    certificate_expires_at: datetime | None = None
    certificate_issuer: str = ""
    protocol: str = ""
    remote_address: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    outcome: Outcome
    reason: str


_FAULTS = {
    Fault.DNS: Outcome.DNS,
    Fault.CONNECT: Outcome.CONNECT,
    Fault.TLS: Outcome.TLS,
    Fault.TIMEOUT: Outcome.TIMEOUT,
    Fault.OURS: Outcome.UNKNOWN,
    Fault.UNTRIED: Outcome.UNKNOWN,
}


def classify(probe: Probe, reply: Reply) -> Verdict:
    """One class and one sentence. An expected status wins over what the code would mean elsewhere."""
    if reply.fault or reply.status is None:
        return Verdict(_FAULTS[reply.fault or Fault.CONNECT], reply.fault_text or "no response arrived")
    status = reply.status
    if status in probe.expected:
        if probe.body_marker and probe.method != "HEAD" and probe.body_marker not in reply.body:
            marker = probe.body_marker.decode(errors="replace")
            return Verdict(Outcome.WRONG_BODY, f"status {status}, but “{marker}” is not in the body")
        return Verdict(Outcome.OK, "")
    if 520 <= status <= 527 or status == 530:
        return Verdict(Outcome.EDGE_ERROR, f"status {status}: the CDN's edge says that it can't get an answer")
    if status in (403, 429):
        return Verdict(Outcome.BLOCKED, f"status {status}: the probe is blocked or limited")
    if 500 <= status <= 599:
        return Verdict(Outcome.HTTP_5XX, f"status {status}")
    return Verdict(Outcome.WRONG_STATUS, f"status {status} is not among the expected ones")
