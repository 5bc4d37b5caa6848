"""TLS servers of the demo world that can be told to fail: the edges, the origin, the canaries."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tranche_site.demo.world import PROBER_NETWORK

MAX_HEADER_BYTES = 16 * 1024
SLOW_SECONDS = 3.0
FLICKER_SECONDS = 5.0


class Mode(StrEnum):
    OK = "ok"
    ERROR_500 = "500"
    HANG = "hang"
    RESET = "reset"
    SLOW = "slow"
    EXPIRED = "expired"
    BLOCKED = "403"
    FLICKER = "flicker"


@dataclass(frozen=True, slots=True)
class Request:
    at: float
    method: str
    path: str
    host: str
    user_agent: str
    peer: str


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    content_type: str = "text/html; charset=utf-8"

    def encoded(self) -> bytes:
        reason = {200: "OK", 403: "Forbidden", 500: "Internal Server Error"}.get(self.status, "Demo")
        head = (
            f"HTTP/1.1 {self.status} {reason}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + self.body


class TlsServer:
    """One address with one mode. `respond` makes the answer; `note` hears of every request answered with its size."""

    def __init__(
        self,
        address: str,
        port: int,
        good: ssl.SSLContext,
        expired: ssl.SSLContext,
        respond: Callable[[Request], asyncio.Future[Response]] | Callable[[Request], object],
        note: Callable[[Request, int, int], None] = lambda request, status, size: None,
    ) -> None:
        self.mode = Mode.OK
        self.cuts_off_probers = False
        self._address, self._port = address, port
        self._good, self._expired = good, expired
        self._respond, self._note = respond, note
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        listener = socket.create_server((self._address, self._port), family=family, backlog=512)
        listener.setblocking(False)
        self._keep(asyncio.create_task(self._accept(listener)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                connection, peer = await loop.sock_accept(listener)
                if self.cuts_off_probers and peer[0].startswith(PROBER_NETWORK):
                    _reset(connection)
                    continue
                self._keep(asyncio.create_task(self._serve(connection, peer[0])))

    async def _serve(self, connection: socket.socket, peer: str) -> None:
        context = self._expired if self.mode is Mode.EXPIRED else self._good
        with contextlib.suppress(
            OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError
        ):
            loop = asyncio.get_running_loop()
            reader = asyncio.StreamReader(limit=MAX_HEADER_BYTES)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=context, ssl_handshake_timeout=5, ssl_shutdown_timeout=1
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            try:
                await asyncio.wait_for(self._exchange(reader, writer, connection, peer), 30)
            except TimeoutError:
                transport.abort()
            finally:
                writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: socket.socket, peer: str
    ) -> None:
        request = _parse(await reader.readuntil(b"\r\n\r\n"), peer)
        mode = self.mode
        if mode is Mode.FLICKER:
            mode = Mode.ERROR_500 if int(time.time() / FLICKER_SECONDS) % 2 else Mode.OK
        if mode is Mode.HANG:
            await asyncio.sleep(25)
            return
        if mode is Mode.RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        if mode is Mode.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        if mode is Mode.ERROR_500:
            response = Response(500, b"<h1>500 Internal Server Error</h1>")
        elif mode is Mode.BLOCKED:
            response = Response(403, b"<h1>403 Forbidden</h1>")
        else:
            response = await self._respond(request)  # type: ignore[misc]
        if request.method == "HEAD":
            response = Response(response.status, b"", response.content_type)
        data = response.encoded()
        writer.write(data)
        self._note(request, response.status, len(data))
        await writer.drain()


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _parse(head: bytes, peer: str) -> Request:
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Request(time.time(), method, path, headers.get("host", ""), headers.get("user-agent", ""), peer)
