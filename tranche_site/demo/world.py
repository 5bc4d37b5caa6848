"""Names and places of the demo world, and its rows in the database. All of it is on loopback."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

ZONE = "demo.test"
HOSTNAME = f"www.shop.{ZONE}"
ORIGIN_HOST = f"origin.shop.{ZONE}"
ORIGIN_ADDRESS = "127.0.1.3"
VISITOR_ADDRESS = "127.0.3.1"
PROBER_NETWORK = "127.0.2."


@dataclass(frozen=True, slots=True)
class Edge:
    role: str
    cdn: str
    slug: str
    address: str
    log_format: str

    @property
    def target(self) -> str:
        """The CNAME target that the shop was given by this CDN."""
        return f"shop.{self.slug}.{ZONE}"

    @property
    def reference(self) -> str:
        return f"reference.{self.slug}.{ZONE}"


EDGES = (
    Edge("primary", "Cloudflare", "cloudflare", "127.0.1.1", "cloudflare_logpush"),
    Edge("backup", "CloudFront", "cloudfront", "127.0.1.2", "cloudfront"),
)


@dataclass(frozen=True, slots=True)
class Point:
    name: str
    network: str
    source_address: str


VANTAGE_POINTS = (
    Point("demo-ams-1", "AS64500", f"{PROBER_NETWORK}1"),
    Point("demo-ams-2", "AS64500", f"{PROBER_NETWORK}2"),
    Point("demo-fra-1", "AS64501", f"{PROBER_NETWORK}3"),
)
CANARIES = tuple((f"canary-{n}.{ZONE}", f"127.0.1.{10 + n}") for n in (1, 2, 3))

CERTIFICATE_NAMES = [HOSTNAME, ORIGIN_HOST, *(edge.reference for edge in EDGES), *(host for host, _ in CANARIES)]


def home() -> Path:
    return settings.TRANCHE_HOME / "demo"


def log_directory(edge: Edge) -> Path:
    return home() / "logs" / edge.slug


def environment() -> dict[str, str]:
    """What the children of `up` need beside their own settings: the limits that only the demo loosens."""
    return {
        "AUTHORITY_OVERRIDES": f"{ZONE}=127.0.0.1:{settings.DEMO_DNS_PORT}",
        "PROBE_ALLOW_PRIVATE": "1",
        "DNS_API_ALLOW_PRIVATE": "1",
        "PROBE_MINIMUM_INTERVAL_SECONDS": "1",
        "PROBE_EXTRA_CA_FILE": str(home() / "ca.pem"),
        "PROBE_OWN_INTERVAL_SECONDS": os.environ.get("PROBE_OWN_INTERVAL_SECONDS", "5"),
        "FAILBACK_GATE_SECONDS": os.environ.get("FAILBACK_GATE_SECONDS", "10"),
    }


def ports() -> list[tuple[str, int, str, socket.SocketKind]]:
    """(address, port, purpose, kind) of every port that the demo world listens on."""
    https, tcp, udp = settings.DEMO_HTTPS_PORT, socket.SOCK_STREAM, socket.SOCK_DGRAM
    return [
        ("127.0.0.1", settings.DEMO_DNS_PORT, "the demo's DNS server", tcp),
        ("127.0.0.1", settings.DEMO_DNS_PORT, "the demo's DNS server", udp),
        ("127.0.0.1", settings.DEMO_CONTROL_PORT, "the demo's controls", tcp),
        *((edge.address, https, f"the demo's {edge.cdn} edge", tcp) for edge in EDGES),
        (ORIGIN_ADDRESS, https, "the demo's origin", tcp),
        *((address, https, f"the demo's {host}", tcp) for host, address in CANARIES),
    ]
