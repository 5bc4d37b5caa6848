"""Visitors of the shop: they resolve its name, honour the TTL, and fetch from the edge that they get."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections import deque
from dataclasses import dataclass

from services import lookup
from tranche_site.demo import world

PAGES = ("/", "/products", "/products/lamp", "/cart", "/images/hero.jpg", "/images/lamp.jpg", "/app.js")
TIMEOUT_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Visit:
    """`edge` is the role of the edge that DNS gave; `status` None when no answer came."""

    at: float
    edge: str
    status: int | None


class Visitors:
    def __init__(self, dns_port: int, https_port: int, per_second: float, ca_file: str) -> None:
        self._server = ("127.0.0.1", dns_port)
        self._port = https_port
        self._per_second = per_second
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._edges = {edge.target: edge for edge in world.EDGES}
        self._known: tuple[float, str] = (0.0, "")
        self.visits: deque[Visit] = deque(maxlen=500)

    async def run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        while True:
            task = asyncio.create_task(self._visit())
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(1 / self._per_second)

    async def _visit(self) -> None:
        target = await self._resolve()
        edge = self._edges.get(target)
        if edge is None:
            return
        at, status = time.time(), None
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            status = await asyncio.wait_for(self._fetch(edge.address), TIMEOUT_SECONDS)
        self.visits.append(Visit(at, edge.role, status))

    async def _resolve(self) -> str:
        """The CNAME target that DNS gives now; kept for its TTL."""
        expires, target = self._known
        if time.monotonic() < expires:
            return target
        answer = await lookup.ask(self._server, world.HOSTNAME, "CNAME")
        for record in answer.records:
            if record.type == "CNAME":
                self._known = (time.monotonic() + record.ttl_seconds, record.value.rstrip("."))
        return self._known[1]

    async def _fetch(self, address: str) -> int:
        reader, writer = await asyncio.open_connection(
            address, self._port, ssl=self._tls, server_hostname=world.HOSTNAME, local_addr=(world.VISITOR_ADDRESS, 0)
        )
        try:
            path = random.choice(PAGES)  # noqa: S311
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: {world.HOSTNAME}\r\nUser-Agent: Mozilla/5.0 (demo visitor)\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            while await reader.read(65536):
                pass
            return int(head.split(b" ", 2)[1])
        finally:
            writer.transport.abort()
