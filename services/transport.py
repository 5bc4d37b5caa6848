"""Probes over libcurl's multi interface, driven by asyncio: thousands in flight in one thread.

libcurl gives what a prober needs: connect to one address with the Host and server name of another, a total deadline,
phase timings, the certificate, and a hook at socket open where the egress guard sits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import secrets
import select
import socket
import time
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import certifi
import pycurl
from django.conf import settings

from services import lookup
from services.addresses import Addresses
from services.budget import Buckets, Shares
from services.probe import Family, Fault, Probe, Reply
from tranche_site.floor import egress

_DNS = {pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY}
_TLS = {
    pycurl.E_SSL_CONNECT_ERROR, pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CERTPROBLEM, pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_ISSUER_ERROR, pycurl.E_SSL_INVALIDCERTSTATUS, pycurl.E_SSL_PINNEDPUBKEYNOTMATCH,
}  # fmt: skip
_OURS = {
    pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_ENGINE_NOTFOUND, pycurl.E_SSL_ENGINE_INITFAILED, pycurl.E_OUT_OF_MEMORY,
    pycurl.E_INTERFACE_FAILED, pycurl.E_FAILED_INIT,
}  # fmt: skip


_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""What our own machine says when it has no descriptor, memory or port left for a connection."""
_NO_WAY = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES}
)
STALL_SECONDS = 1.0
"""A loop that comes late by this much stood still (stopped, starved): what timed out meanwhile says nothing."""
_PULSE_SECONDS = 0.25


def trusted_authorities() -> str:
    """The PEM file that probes trust: the public authorities, and the demo world's own where settings name it."""
    extra = settings.PROBE_EXTRA_CA_FILE
    if not extra:
        return certifi.where()
    bundle = settings.TRANCHE_HOME / "trusted.pem"
    content = Path(certifi.where()).read_bytes() + b"\n" + Path(extra).read_bytes()
    if not bundle.exists() or bundle.read_bytes() != content:
        making = bundle.with_suffix(f".{secrets.token_hex(4)}")  # several probers may be at it
        making.write_bytes(content)
        making.replace(bundle)
    return str(bundle)


class _Handover(socket.socket):
    """libcurl works on a duplicate that it takes at once; the original goes without a warning that it was left open."""

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was never opened
            self.close()


_WANTED = {
    pycurl.POLL_NONE: 0,
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}
_MOST_EVENTS = 1024


_HEADERS = ("Accept: */*", "Accept-Encoding: identity", "Cache-Control: no-cache")


class _Kind(NamedTuple):
    """What can't be taken back from a handle, or is not worth setting anew for each probe."""

    ca_file: str
    source_address: str
    method: str


class _Easy:
    """One libcurl handle with all that its probes share; `aim` sets the rest."""

    def __init__(self, kind: _Kind) -> None:
        self.kind = kind
        self.head = bytearray()
        self.body = bytearray()
        self.body_limit = 0
        self.trouble = ""
        self.is_head_whole = False
        self._keeps_head = False
        self._probe: Probe | None = None
        self.handle = c = pycurl.Curl()
        self._headers: tuple[str, ...] | None = None
        c.setopt(pycurl.USERAGENT, settings.PROBE_USER_AGENT)
        c.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        c.setopt(pycurl.FOLLOWLOCATION, 0)
        c.setopt(pycurl.PROXY, "")
        c.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
        c.setopt(pycurl.NOSIGNAL, 1)
        # Every probe makes a fresh connection and a full handshake: a kept one would hide a dead edge.
        c.setopt(pycurl.FRESH_CONNECT, 1)
        c.setopt(pycurl.FORBID_REUSE, 1)
        c.setopt(pycurl.SSL_SESSIONID_CACHE, 0)
        # Every edge speaks these, and there is nothing in a probe to keep secret. OpenSSL would also make a key for the
        # post-quantum group with each hello, and prefer a cipher whose hash costs more: a fifth of a probe, together.
        c.setopt(pycurl.SSL_EC_CURVES, "X25519:P-256:P-384")
        c.setopt(pycurl.TLS13_CIPHERS, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256")
        # No DHE: there the server chooses the modulus, and one of 10,000 bits stops the loop for a second. OpenSSL reads
        # this anew for each connection, so it is short.
        c.setopt(pycurl.SSL_CIPHER_LIST, "ECDHE+AES:ECDHE+CHACHA20:kRSA+AES")
        c.setopt(pycurl.CAINFO, kind.ca_file)
        c.setopt(pycurl.OPT_CERTINFO, 1)
        if kind.method == "HEAD":
            c.setopt(pycurl.NOBODY, 1)
        if kind.source_address:
            c.setopt(pycurl.INTERFACE, f"host!{kind.source_address}")
        c.setopt(pycurl.WRITEFUNCTION, self._write)
        c.setopt(pycurl.HEADERFUNCTION, self._note_header)
        c.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)

    def aim(self, probe: Probe, address: str, timeout_ms: int) -> None:
        self._probe, self.body, self.trouble, self.is_head_whole = probe, bytearray(), "", False
        self.body_limit = probe.body_limit_bytes
        self._keeps_head = probe.keeps_head
        if probe.headers != self._headers:
            self._headers = probe.headers
            self.handle.setopt(pycurl.HTTPHEADER, [*_HEADERS, *probe.headers])
        literal = f"[{address}]" if ":" in address else address
        self.handle.setopt(pycurl.URL, f"https://{probe.host}{probe.path}")
        self.handle.setopt(pycurl.CONNECT_TO, [f"{probe.host}:443:{literal}:{probe.port}"])
        self.handle.setopt(pycurl.TIMEOUT_MS, timeout_ms)

    def _write(self, chunk: bytes) -> int:
        self.body.extend(chunk[: self.body_limit - len(self.body)])
        return -1 if len(self.body) >= self.body_limit else len(chunk)

    def _note_header(self, line: bytes) -> None:
        """libcurl takes a connection that closes within the headers for a whole response."""
        if line.startswith(b"HTTP/"):
            self.is_head_whole = False  # interim responses have heads of their own
            self.head.clear()
        elif line in (b"\r\n", b"\n"):
            self.is_head_whole = True
        elif self._keeps_head and not self.is_head_whole:  # what follows a body in chunks is no part of the head
            self.head.extend(line)

    def _open_socket(self, purpose: int, where: tuple[int, int, int, tuple[str, int]]) -> socket.socket | int:
        """The egress guard, on the address really used."""
        family, kind, protocol, peer = where
        if self._probe is None or _refusal(self._probe, peer[0], peer[1]):
            return int(pycurl.SOCKET_BAD)
        try:
            return _Handover(family, kind, protocol)
        except OSError as error:
            self.trouble = f"no socket could be opened: {error.strerror}"
            return int(pycurl.SOCKET_BAD)


def _refusal(probe: Probe, address: str, port: int) -> str | None:
    return None if probe.allow_private else egress.refusal(address, port, tuple(settings.PROBE_PORTS))


class Transport:
    """One multi handle on the running event loop. `send` never raises: what goes wrong is in the reply.

    `is_capped`: one host, and one address outside the known CDNs, are asked only so often from one vantage point.
    `is_cached`: names are resolved as often as DNS wants; else for each probe.
    """

    def __init__(self, in_flight: int, ca_file: str = "", *, is_capped: bool = False, is_cached: bool = True) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(in_flight)
        self._addresses = Addresses(is_cached=is_cached)
        self._ca_file = ca_file or trusted_authorities()
        self._idle: dict[_Kind, list[_Easy]] = defaultdict(list)
        self._closed = False
        self._host_caps: Buckets[tuple[str, str, str]] = Buckets(settings.PROBE_MOST_PER_HOST if is_capped else 0)
        self._address_caps: Shares[tuple[str, str], int | None] = Shares(
            settings.PROBE_MOST_PER_ADDRESS if is_capped else 0
        )
        self._pulse_at = self._stalled_at = time.monotonic()
        self._pulse = self._loop.call_later(_PULSE_SECONDS, self._beat)
        self.in_flight = 0
        self._waiting: dict[pycurl.Curl, asyncio.Future[tuple[int, str]]] = {}
        self._watched: set[int] = set()
        # An epoll of our own, itself one descriptor of the loop's: a probe turns its socket's wishes some four times, and
        # the loop's own bookkeeping for that costs more than all else around the handshake.
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._on_ready)
        self._timer: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)

    async def send(self, probe: Probe) -> Reply:
        async with self._slots:
            self.in_flight += 1
            try:
                return await self._send(probe)
            finally:
                self.in_flight -= 1

    async def _send(self, probe: Probe) -> Reply:
        at, began = datetime.now(UTC), time.monotonic()
        # A probe that leaves from one address can use no other family than its own.
        here = _family_of(probe.source_address) if probe.source_address else probe.family
        if probe.family and here is not probe.family:
            text = f"{probe.source_address} is no address to probe from over IPv{probe.family:d}"
            return Reply(at, fault=Fault.UNTRIED, fault_text=text)
        resolved = await self._addresses.find(probe.address, here, probe.timeout_seconds)
        dns_ms = (time.monotonic() - began) * 1000
        if resolved.problem:
            # A vantage point whose address is of the other family can't use what there is.
            is_unusable = resolved.lacks_family and probe.source_address and not probe.family
            fault = Fault.UNTRIED if resolved.is_ours or is_unusable else Fault.DNS
            if self._stood_still_since(began):
                fault = Fault.OURS
            return Reply(at, fault=fault, fault_text=resolved.problem, dns_ms=dns_ms, total_ms=dns_ms)
        # One bad address among several is enough: a mixed answer is how a rebinding attack begins.
        for address in resolved.addresses:
            if reason := _refusal(probe, address, probe.port):
                return Reply(at, fault=Fault.UNTRIED, fault_text=f"egress guard: {reason}", dns_ms=dns_ms)
        address = resolved.addresses[0]
        if reason := self._cap(probe, address):
            return Reply(at, fault=Fault.UNTRIED, fault_text=reason, dns_ms=dns_ms)
        try:
            reply = await self._exchange(probe, address, at, dns_ms)
        except (pycurl.error, OSError, ValueError) as error:
            fault = Fault.OURS if isinstance(error, OSError) else Fault.UNTRIED
            return Reply(at, fault=fault, fault_text=f"the probe could not start: {error}", dns_ms=dns_ms)
        if reply.fault is Fault.TIMEOUT and self._stood_still_since(began):
            return replace(reply, fault=Fault.OURS, fault_text=f"the prober stood still: {reply.fault_text}")
        return reply

    def _cap(self, probe: Probe, address: str) -> str:
        """Why this probe would be one too many, or "". Nobody can have us flood an address, its owner neither."""
        now, here = time.monotonic(), probe.source_address
        if not self._host_caps.take((here, address, probe.host), now):
            return f"{address} is asked {self._host_caps.rate:g} times a second for {probe.host} already"
        if not probe.is_on_known_cdn and not self._address_caps.take((here, address), probe.customer_id, now):
            return f"{address} is asked {self._address_caps.rate:g} times a second already, for all hosts together"
        return ""

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._pulse_at > _PULSE_SECONDS + STALL_SECONDS:
            self._stalled_at = now
        self._pulse_at = now
        self._pulse = self._loop.call_later(_PULSE_SECONDS, self._beat)

    def _stood_still_since(self, began: float) -> bool:
        """Whether the loop stood still at some moment since: until its next beat it is the clock that tells."""
        return self._stalled_at > began or time.monotonic() - self._pulse_at > _PULSE_SECONDS + STALL_SECONDS

    def close(self) -> None:
        self._closed = True
        self._pulse.cancel()
        self._addresses.close()
        for handle, waiter in list(self._waiting.items()):
            with contextlib.suppress(pycurl.error):
                self._multi.remove_handle(handle)
            waiter.cancel()
        self._waiting.clear()
        if self._timer:
            self._timer.cancel()
        for easy in (easy for idle in self._idle.values() for easy in idle):
            easy.handle.close()
        self._idle.clear()
        self._multi.close()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    async def _exchange(self, probe: Probe, address: str, at: datetime, dns_ms: float) -> Reply:
        easy = self._easy(probe)
        waiter: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._waiting[easy.handle] = waiter
        is_whole = False
        try:
            easy.aim(probe, address, max(int(probe.timeout_seconds * 1000 - dns_ms), 1))
            self._multi.add_handle(easy.handle)
            code, text = await waiter
            reply = _reply(easy, code, text, at, dns_ms, address)
            easy.head, easy.body = bytearray(), bytearray()  # it may rest for long
            is_whole = True
            return reply
        finally:
            self._waiting.pop(easy.handle, None)
            with contextlib.suppress(pycurl.error):
                self._multi.remove_handle(easy.handle)
            if is_whole and not self._closed:
                self._idle[easy.kind].append(easy)
            else:
                easy.handle.close()

    def _easy(self, probe: Probe) -> _Easy:
        """A handle for this kind of probe, used before if there is one: setting up a new one costs as much as its answer."""
        kind = _Kind(probe.ca_file or self._ca_file, probe.source_address, probe.method)
        idle = self._idle[kind]
        return idle.pop() if idle else _Easy(kind)

    # --- libcurl asks us to watch its sockets and its clock ---------------------------------------------------------

    def _on_socket(self, event: int, descriptor: int, multi: object, data: object) -> None:
        if event == pycurl.POLL_REMOVE:
            if descriptor in self._watched:
                self._watched.remove(descriptor)
                with contextlib.suppress(OSError):
                    self._epoll.unregister(descriptor)
        elif descriptor in self._watched:
            self._epoll.modify(descriptor, _WANTED[event])
        else:
            self._watched.add(descriptor)
            self._epoll.register(descriptor, _WANTED[event])

    def _on_timer(self, milliseconds: int) -> None:
        """libcurl has one alarm, and moves it with every probe: a timer that rings too early looks again, so that most
        moves cost nothing."""
        self._alarm_at = self._loop.time() + milliseconds / 1000 if milliseconds >= 0 else math.inf
        if self._timer is None or self._alarm_at < self._timer.when():
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None if self._alarm_at == math.inf else self._loop.call_at(self._alarm_at, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        if self._loop.time() < self._alarm_at:
            self._set_timer()
            return
        self._alarm_at = math.inf
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._collect()

    def _on_ready(self) -> None:
        for descriptor, events in self._epoll.poll(0, _MOST_EVENTS):
            # An error or a hang-up is for libcurl to read.
            bits = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
            if events & ~select.EPOLLOUT:
                bits |= pycurl.CSELECT_IN
            self._multi.socket_action(descriptor, bits)
        self._collect()

    def _collect(self) -> None:
        while True:
            queued, done, failed = self._multi.info_read()
            for handle in done:
                self._finish(handle, 0, "")
            for handle, code, text in failed:
                self._finish(handle, code, text)
            if not queued:
                return

    def _finish(self, handle: pycurl.Curl, code: int, text: str) -> None:
        waiter = self._waiting.get(handle)
        if waiter and not waiter.done():
            waiter.set_result((code, text))


def _family_of(address: str) -> Family:
    return Family.IPV6 if ":" in address else Family.IPV4


def _reply(easy: _Easy, code: int, text: str, at: datetime, dns_ms: float, address: str) -> Reply:
    handle, body = easy.handle, bytes(easy.body)
    connect = handle.getinfo(pycurl.CONNECT_TIME) * 1000
    tls = handle.getinfo(pycurl.APPCONNECT_TIME) * 1000
    first_byte = handle.getinfo(pycurl.STARTTRANSFER_TIME) * 1000
    total = handle.getinfo(pycurl.TOTAL_TIME) * 1000
    status = handle.getinfo(pycurl.RESPONSE_CODE) or None
    is_cut = code == pycurl.E_WRITE_ERROR and len(body) >= easy.body_limit
    if is_cut:
        code = 0  # we stopped reading; the response itself is fine
    elif not code and not easy.is_head_whole:
        code, text = pycurl.E_RECV_ERROR, "the connection was closed within the headers"
    fault, fault_text = _fault(code, text, connect, tls, first_byte) if code else (None, "")
    if fault is Fault.CONNECT and not connect:
        fault, fault_text = _blame(easy, fault_text, address)
    expires_at, issuer = _certificate(handle) if tls or code in _TLS else (None, "")
    return Reply(
        at=at,
        status=None if fault else status,
        head=bytes(easy.head),
        body=body,
        is_cut=is_cut,
        fault=fault,
        fault_text=fault_text,
        dns_ms=dns_ms,
        connect_ms=connect or None,
        tls_ms=tls - connect if tls else None,
        first_byte_ms=first_byte - tls if tls and first_byte else None,
        total_ms=dns_ms + total,
        certificate_expires_at=expires_at,
        certificate_issuer=issuer,
        protocol=_PROTOCOLS.get(handle.getinfo(pycurl.INFO_HTTP_VERSION), "") if status else "",
        remote_address=handle.getinfo(pycurl.PRIMARY_IP) or None,
    )


_PROTOCOLS = {pycurl.CURL_HTTP_VERSION_1_0: "HTTP/1.0", pycurl.CURL_HTTP_VERSION_1_1: "HTTP/1.1"}


def _blame(easy: _Easy, text: str, address: str) -> tuple[Fault, str]:
    """Whose fault it is that there is no connection. "No route" is not the target's only if the route is missing here:
    a router far away says the same of a CDN's withdrawn prefix."""
    number = easy.handle.getinfo(pycurl.OS_ERRNO)
    if easy.trouble or number in _EXHAUSTED:
        return Fault.OURS, f"the prober's own trouble: {easy.trouble or os.strerror(number)}"
    if number in _NO_WAY and not lookup.has_route(address):
        return Fault.UNTRIED, f"there is no route from here to {address}"
    return Fault.CONNECT, text


_TOO_LARGE = 100  # of libcurl's errors; pycurl has no name for it
_MEANT = {
    pycurl.E_GOT_NOTHING: "the connection was closed without a response",
    pycurl.E_UNSUPPORTED_PROTOCOL: "what came is no HTTP/1 response",
    _TOO_LARGE: "a line of the headers is longer than 100 KB",
}
"""What we say where libcurl says nothing, or nothing that helps."""


def _fault(code: int, text: str, connect_ms: float, tls_ms: float, first_byte_ms: float) -> tuple[Fault, str]:
    """The class of a libcurl error, with libcurl's own words where they help."""
    said = _MEANT.get(code) or text.strip() or f"libcurl error {code}"
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return Fault.TIMEOUT, f"deadline passed {_phase(connect_ms, tls_ms, first_byte_ms)}: {said}"
    if code in _DNS:
        return Fault.DNS, said
    if code in _TLS:
        return Fault.TLS, said
    if code == pycurl.E_URL_MALFORMAT:
        return Fault.UNTRIED, f"the request can't be written: {said}"
    if code in _OURS:
        return Fault.OURS, f"the prober's own trouble: {said}"
    return Fault.CONNECT, said


def _phase(connect_ms: float, tls_ms: float, first_byte_ms: float) -> str:
    if not connect_ms:
        return "while connecting"
    if not tls_ms:
        return "in the TLS handshake"
    return "while reading the response" if first_byte_ms else "while waiting for the response"


def _certificate(handle: pycurl.Curl) -> tuple[datetime | None, str]:
    """When the leaf certificate expires, and who issued it; libcurl lists the leaf first."""
    expires_at, issuer = None, ""
    for certificate in handle.getinfo(pycurl.INFO_CERTINFO)[:1]:
        for key, value in certificate:
            if key == "Expire date":
                expires_at = _parsed(value)
            elif key == "Issuer":
                issuer = value[:200]
    return expires_at, issuer


@lru_cache(maxsize=4096)
def _parsed(expiry: str) -> datetime | None:
    with contextlib.suppress(ValueError):
        return datetime.strptime(expiry.removesuffix(" GMT"), "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    return None
