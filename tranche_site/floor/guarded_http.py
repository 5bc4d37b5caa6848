"""httpx through the egress guard: where an API lives is whatever somebody typed.

What was judged is what is connected to. A call ends by its deadline too, however slowly the other side drips: it has the
seconds of its connect and its read timeout, once. Proxies of the environment are passed by, since a proxy would open the
last socket where we can't see it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

import httpcore
import httpx

from tranche_site.floor import egress


class GuardedTransport(httpx.HTTPTransport):
    """Raises egress.Refused, beside what httpx raises. For one thread; every call has a connection of its own."""

    def __init__(
        self, ports: tuple[int, ...], *, allow_private: bool = False, authorities: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(verify=authorities or _public_authorities(), trust_env=False)
        self._network = _Network(ports, allow_private)
        # httpx has no parameter for it.
        self._pool = httpcore.ConnectionPool(
            ssl_context=authorities or _public_authorities(), max_keepalive_connections=0, network_backend=self._network
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        seconds = request.extensions["timeout"]
        self._network.until = time.monotonic() + seconds["connect"] + seconds["read"]
        return super().handle_request(request)


def is_distrusted(error: BaseException) -> bool:
    """Whether the other side's certificate was refused."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


@cache
def _public_authorities() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


class _Network(httpcore.NetworkBackend):
    def __init__(self, ports: tuple[int, ...], allow_private: bool) -> None:
        self.until = 0.0
        self._ports = ports
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            opened = egress.connect(host, port, timeout or 0.001, self._ports, allow_private=self._allow_private)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return _Stream(opened, self.until)


class _Stream(httpcore.NetworkStream):
    """A socket that is done with at `until`."""

    def __init__(self, opened: Any, until: float) -> None:
        self._socket = opened
        self._until = until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._limit(timeout)
            got: bytes = self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error
        return got

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._limit(timeout)
            self._socket.sendall(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            self._limit(timeout)
            return _Stream(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname), self._until)
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            self.close()
            raise httpcore.ConnectError(str(error)) from error

    def _limit(self, timeout: float | None) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("out of time")
        self._socket.settimeout(left if timeout is None else min(left, timeout))
