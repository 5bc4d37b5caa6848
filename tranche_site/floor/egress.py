"""Where our own connections may go: probes, webhooks and log fetching ask here, with the address really used.

The table is our own. `ipaddress.is_global` calls NAT64 and 6to4 forms of loopback global, and multicast too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from functools import lru_cache

_DENIED_V4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    )
]  # fmt: skip
_DENIED_V6 = [
    ipaddress.IPv6Network(text)
    for text in (
        "::/96", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20",
        "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
]  # fmt: skip
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that IANA has given out; what stands elsewhere (local NAT64, translated IPv4, …) is nobody's public address."""


@lru_cache(maxsize=4096)
def refusal(address: str, port: int, ports: Collection[int] = (80, 443)) -> str | None:
    """Why a connection to `address` (a literal, never a name) may not be opened, or None."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"{address} is not an IP address"
    if reason := _denied(parsed):
        return reason
    return None if port in ports else f"port {port} is not one of {', '.join(map(str, sorted(ports)))}"


def _denied(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str | None:
    if isinstance(address, ipaddress.IPv4Address):
        network = next((n for n in _DENIED_V4 if address in n), None)
        return f"{address} is in {network}, which is not the public internet" if network else None
    if inner := _embedded_v4(address):
        reason = _denied(inner)
        return f"{address} stands for {inner}: {reason}" if reason else None
    denied = next((n for n in _DENIED_V6 if address in n), None)
    if denied is None and address not in _GLOBAL_UNICAST:
        return f"{address} is not in {_GLOBAL_UNICAST}, the public internet"
    return f"{address} is in {denied}, which is not the public internet" if denied else None


def _embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
