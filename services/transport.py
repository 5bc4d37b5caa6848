"""Probes over libcurl's multi interface, driven by asyncio: thousands in flight in one thread.

libcurl gives what a prober needs: connect to one address with the Host and server name of another, a total deadline,
phase timings, the certificate, and a hook at socket open where the egress guard sits.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import certifi
import pycurl
from django.conf import settings

from services.addresses import Addresses
from services.probe import BODY_LIMIT_BYTES, Fault, Probe, Reply
from tranche_site.floor import egress

_DNS = {pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY}
_TLS = {
    pycurl.E_SSL_CONNECT_ERROR, pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CERTPROBLEM, pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_ISSUER_ERROR, pycurl.E_SSL_INVALIDCERTSTATUS, pycurl.E_SSL_PINNEDPUBKEYNOTMATCH,
}  # fmt: skip
_OURS = {
    pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_ENGINE_NOTFOUND, pycurl.E_SSL_ENGINE_INITFAILED, pycurl.E_OUT_OF_MEMORY,
    pycurl.E_INTERFACE_FAILED, pycurl.E_FAILED_INIT, pycurl.E_URL_MALFORMAT,
}  # fmt: skip


def trusted_authorities() -> str:
    """The PEM file that probes trust: the public authorities, and the demo world's own where settings name it."""
    extra = settings.PROBE_EXTRA_CA_FILE
    if not extra:
        return certifi.where()
    bundle = settings.TRANCHE_HOME / "trusted.pem"
    content = Path(certifi.where()).read_bytes() + b"\n" + Path(extra).read_bytes()
    if not bundle.exists() or bundle.read_bytes() != content:
        making = bundle.with_suffix(".new")
        making.write_bytes(content)
        making.replace(bundle)
    return str(bundle)


class _Handover(socket.socket):
    """libcurl works on a duplicate that it takes at once; the original goes without a warning that it was left open."""

    def __del__(self) -> None:
        self.close()


class Transport:
    """One multi handle on the running event loop. `send` never raises: what goes wrong is in the reply."""

    def __init__(self, in_flight: int, ca_file: str = "") -> None:
        self._loop = asyncio.get_running_loop()
        self._slots = asyncio.Semaphore(in_flight)
        self._addresses = Addresses()
        self._ca_file = ca_file or trusted_authorities()
        self._waiting: dict[pycurl.Curl, asyncio.Future[tuple[int, str]]] = {}
        self._watched: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)

    async def send(self, probe: Probe) -> Reply:
        async with self._slots:
            at, began = datetime.now(UTC), time.monotonic()
            resolved = await self._addresses.find(probe.address, probe.timeout_seconds)
            dns_ms = (time.monotonic() - began) * 1000
            if resolved.problem:
                return Reply(at, fault=Fault.DNS, fault_text=resolved.problem, dns_ms=dns_ms, total_ms=dns_ms)
            # One bad address among several is enough: a mixed answer is how a rebinding attack begins.
            for address in resolved.addresses:
                if reason := self._refusal(probe, address, probe.port):
                    return Reply(at, fault=Fault.OURS, fault_text=f"egress guard: {reason}", dns_ms=dns_ms)
            usable = [address for address in resolved.addresses if _can_leave_from(probe.source_address, address)]
            if not usable:
                text = f"{probe.address} has no address of the family of {probe.source_address}"
                return Reply(at, fault=Fault.OURS, fault_text=text, dns_ms=dns_ms)
            try:
                return await self._exchange(probe, usable[0], at, dns_ms)
            except (pycurl.error, OSError, ValueError) as error:
                return Reply(at, fault=Fault.OURS, fault_text=f"the probe could not start: {error}", dns_ms=dns_ms)

    def close(self) -> None:
        for handle, waiter in list(self._waiting.items()):
            with contextlib.suppress(pycurl.error):
                self._multi.remove_handle(handle)
            waiter.cancel()
        self._waiting.clear()
        if self._timer:
            self._timer.cancel()
        self._multi.close()

    def _refusal(self, probe: Probe, address: str, port: int) -> str | None:
        return None if probe.allow_private else egress.refusal(address, port, tuple(settings.PROBE_PORTS))

    async def _exchange(self, probe: Probe, address: str, at: datetime, dns_ms: float) -> Reply:
        body = bytearray()
        handle = self._handle(probe, address, body, max(int(probe.timeout_seconds * 1000 - dns_ms), 1))
        waiter: asyncio.Future[tuple[int, str]] = self._loop.create_future()
        self._waiting[handle] = waiter
        try:
            self._multi.add_handle(handle)
            code, text = await waiter
            return _reply(handle, code, text, at, dns_ms, bytes(body))
        finally:
            self._waiting.pop(handle, None)
            with contextlib.suppress(pycurl.error):
                self._multi.remove_handle(handle)
            handle.close()

    def _handle(self, probe: Probe, address: str, body: bytearray, timeout_ms: int) -> pycurl.Curl:
        c = pycurl.Curl()
        literal = f"[{address}]" if ":" in address else address
        c.setopt(pycurl.URL, f"https://{probe.host}{probe.path}")
        c.setopt(pycurl.CONNECT_TO, [f"{probe.host}:443:{literal}:{probe.port}"])
        c.setopt(pycurl.HTTPHEADER, ["Accept: */*", "Accept-Encoding: identity", "Cache-Control: no-cache"])
        c.setopt(pycurl.USERAGENT, settings.PROBE_USER_AGENT)
        c.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        c.setopt(pycurl.FOLLOWLOCATION, 0)
        c.setopt(pycurl.PROXY, "")
        c.setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
        c.setopt(pycurl.NOSIGNAL, 1)
        c.setopt(pycurl.TIMEOUT_MS, timeout_ms)
        # Every probe makes a fresh connection and a full handshake: a kept one would hide a dead edge.
        c.setopt(pycurl.FRESH_CONNECT, 1)
        c.setopt(pycurl.FORBID_REUSE, 1)
        c.setopt(pycurl.SSL_SESSIONID_CACHE, 0)
        c.setopt(pycurl.CAINFO, probe.ca_file or self._ca_file)
        c.setopt(pycurl.OPT_CERTINFO, 1)
        if probe.method == "HEAD":
            c.setopt(pycurl.NOBODY, 1)
        if probe.source_address:
            c.setopt(pycurl.INTERFACE, f"host!{probe.source_address}")

        def write(chunk: bytes) -> int:
            body.extend(chunk[: BODY_LIMIT_BYTES - len(body)])
            return -1 if len(body) >= BODY_LIMIT_BYTES else len(chunk)

        def open_socket(purpose: int, where: tuple[int, int, int, tuple[str, int]]) -> socket.socket | int:
            family, kind, protocol, peer = where
            if self._refusal(probe, peer[0], peer[1]):
                return int(pycurl.SOCKET_BAD)
            return _Handover(family, kind, protocol)

        c.setopt(pycurl.WRITEFUNCTION, write)
        c.setopt(pycurl.OPENSOCKETFUNCTION, open_socket)
        return c

    # --- libcurl asks us to watch its sockets and its clock ---------------------------------------------------------

    def _on_socket(self, event: int, descriptor: int, multi: object, data: object) -> None:
        watched = self._watched.pop(descriptor, 0)
        if watched & 1:
            self._loop.remove_reader(descriptor)
        if watched & 2:
            self._loop.remove_writer(descriptor)
        if event == pycurl.POLL_REMOVE:
            return
        wanted = 0
        if event in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            self._loop.add_reader(descriptor, self._act, descriptor, pycurl.CSELECT_IN)
            wanted |= 1
        if event in (pycurl.POLL_OUT, pycurl.POLL_INOUT):
            self._loop.add_writer(descriptor, self._act, descriptor, pycurl.CSELECT_OUT)
            wanted |= 2
        self._watched[descriptor] = wanted

    def _on_timer(self, milliseconds: int) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if milliseconds >= 0:
            self._timer = self._loop.call_later(milliseconds / 1000, self._act, pycurl.SOCKET_TIMEOUT, 0)

    def _act(self, descriptor: int, events: int) -> None:
        self._multi.socket_action(descriptor, events)
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


def _can_leave_from(source_address: str, address: str) -> bool:
    return not source_address or (":" in source_address) == (":" in address)


def _reply(handle: pycurl.Curl, code: int, text: str, at: datetime, dns_ms: float, body: bytes) -> Reply:
    connect = handle.getinfo(pycurl.CONNECT_TIME) * 1000
    tls = handle.getinfo(pycurl.APPCONNECT_TIME) * 1000
    first_byte = handle.getinfo(pycurl.STARTTRANSFER_TIME) * 1000
    total = handle.getinfo(pycurl.TOTAL_TIME) * 1000
    status = handle.getinfo(pycurl.RESPONSE_CODE) or None
    if code == pycurl.E_WRITE_ERROR and len(body) >= BODY_LIMIT_BYTES:
        code = 0  # we stopped reading; the response itself is fine
    fault, fault_text = _fault(code, text, connect, tls) if code else (None, "")
    return Reply(
        at=at,
        status=None if fault else status,
        body=body,
        fault=fault,
        fault_text=fault_text,
        dns_ms=dns_ms,
        connect_ms=connect or None,
        tls_ms=tls - connect if tls else None,
        first_byte_ms=first_byte - tls if tls and first_byte else None,
        total_ms=dns_ms + total,
        certificate_expires_at=_expiry(handle) if tls or code in _TLS else None,
        remote_address=handle.getinfo(pycurl.PRIMARY_IP) or None,
    )


def _fault(code: int, text: str, connect_ms: float, tls_ms: float) -> tuple[Fault, str]:
    """The class of a libcurl error, with libcurl's own words where they help."""
    said = text.strip() or f"libcurl error {code}"
    if code == pycurl.E_OPERATION_TIMEDOUT:
        phase = "connecting" if not connect_ms else "the TLS handshake" if not tls_ms else "waiting for the response"
        return Fault.TIMEOUT, f"deadline passed while {phase}: {said}"
    if code in _DNS:
        return Fault.DNS, said
    if code in _TLS:
        return Fault.TLS, said
    if code in _OURS:
        return Fault.OURS, f"the prober's own trouble: {said}"
    return Fault.CONNECT, said


_EXPIRE = re.compile(r"expire date", re.IGNORECASE)


def _expiry(handle: pycurl.Curl) -> datetime | None:
    """When the leaf certificate expires; libcurl lists the leaf first."""
    for certificate in handle.getinfo(pycurl.INFO_CERTINFO)[:1]:
        for key, value in certificate:
            if _EXPIRE.fullmatch(key):
                with contextlib.suppress(ValueError):
                    return datetime.strptime(value.removesuffix(" GMT"), "%b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    return None
