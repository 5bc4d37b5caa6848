"""Where our own connections may go: probes, webhooks and log fetching ask here, with the address really used.

The table is our own. `ipaddress.is_global` calls NAT64 and 6to4 forms of loopback global, and multicast too. Beside it
stand our own addresses: those of this machine, and what EGRESS_OWN_NETWORKS names, such as ours on the other side of NAT.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import time
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

logger = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

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


_OWN_SECONDS = 5
"""For how long we may miss that this machine got another address: asking costs as much as all else here."""


class Refused(Exception):
    """A connection that may not be opened. The text says why, in one line."""


def refusal(address: str, port: int, ports: tuple[int, ...] = (80, 443)) -> str | None:
    """Why a connection to `address` (a literal, never a name) may not be opened, or None."""
    if reason := _listed(address, port, ports):
        return reason
    return _ours(address, settings.EGRESS_OWN_NETWORKS, int(time.monotonic() / _OWN_SECONDS))


def connect(
    host: str, port: int, timeout_seconds: float, ports: tuple[int, ...] = (80, 443), *, allow_private: bool = False
) -> socket.socket:
    """A TCP connection to `host`, a name or a literal, for callers that speak TLS and HTTP themselves.

    The name is resolved once, and what was judged is what is connected to, so that a name that changes its mind gains
    nothing. One bad address among several is enough: a mixed answer is how a rebinding attack begins. Raises Refused, or
    OSError if nobody can be reached.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"{host} is no hostname") from error
    for *_, where in found:
        if not allow_private and (reason := refusal(str(where[0]), port, ports)):
            raise Refused(f"egress guard: {reason}")
    deadline = time.monotonic() + timeout_seconds
    trouble = OSError(f"{host} has no address")
    for family, kind, protocol, _, where in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.connect(where)
        except OSError as error:
            connection.close()
            trouble = error
        else:
            connection.settimeout(timeout_seconds)
            return connection
    raise trouble


def networks(texts: Iterable[str], setting: str = "EGRESS_OWN_NETWORKS") -> tuple[Network, ...]:
    """The value of a setting that names networks. Raises ImproperlyConfigured."""
    return tuple(_network(text, setting) for text in texts)


def _network(text: str, setting: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip())
    except ValueError as error:
        raise ImproperlyConfigured(
            f"{setting}: {error}. Write networks separated by commas, such as 198.51.100.0/24,2001:db8::/48."
        ) from error


# --- the table ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _listed(address: str, port: int, ports: tuple[int, ...]) -> str | None:
    try:
        parsed = _parsed(address)
    except ValueError:
        return f"{address} is not an IP address"
    if reason := _denied(parsed):
        return reason
    return None if port in ports else f"port {port} is not one of {', '.join(map(str, sorted(ports)))}"


def _parsed(address: str) -> Address:
    return ipaddress.ip_address(address.partition("%")[0])


def _denied(address: Address) -> str | None:
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


# --- our own addresses --------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _ours(address: str, own: tuple[Network, ...], moment: int) -> str | None:
    """Whether this is us, in any of its forms. The answer is kept for as long as `moment` stays the same."""
    parsed = _parsed(address)
    inner = _embedded_v4(parsed) if isinstance(parsed, ipaddress.IPv6Address) else None
    for form in (parsed, inner) if inner else (parsed,):
        if network := next((n for n in own if form in n), None):
            return f"{address} is in {network}, which is ours (EGRESS_OWN_NETWORKS)"
        if reason := _at_home(form):
            return reason
    return None


def _at_home(address: Address) -> str | None:
    """A socket can be bound to what is ours, on whatever interface it is; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        return f"whether {address} is this machine's can't be told: {error.strerror}"
    if _binds_anything(address.version):
        return None
    return f"{address} is an address of this machine"


def _binds_anything(version: int) -> bool:
    """With ip_nonlocal_bind, as balancers set it, every address can be bound and binding tells nothing."""
    switch = Path(f"/proc/sys/net/ipv{version}/ip_nonlocal_bind")
    if not switch.exists() or switch.read_text().strip() == "0":
        return False
    _warn(switch)
    return True


@cache
def _warn(switch: Path) -> None:
    """Once for each process."""
    logger.warning("%s is on, so this machine can't tell its addresses: list them in EGRESS_OWN_NETWORKS", switch)
