"""Runs the demo world in one event loop, with controls to break and mend it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from django.conf import settings

from dns.embedded import EmbeddedDns
from tranche_site.demo import access_logs, certificates, world
from tranche_site.demo.access_logs import AccessLog, Entry
from tranche_site.demo.servers import Mode, Request, Response, TlsServer
from tranche_site.demo.visitors import Visitors

_FILL = "The quick brown fox jumps over the lazy dog. " * 40


def page(path: str) -> Response:
    """What the shop serves: pages of some kilobytes, images of some more, always the same for the same path."""
    if path.startswith("/images/"):
        return Response(200, b"\xff\xd8" + path.encode() * 3000, "image/jpeg")
    if path.endswith(".js"):
        return Response(200, b"/* app */ " * 2000, "text/javascript")
    body = f"<!doctype html><title>Demo shop</title><h1>Demo shop</h1><p>{path}</p><p>{_FILL}</p>"
    return Response(200, body.encode())


class World:
    def __init__(self) -> None:
        directory, port = world.home(), settings.DEMO_HTTPS_PORT
        good = certificates.server_context(directory / "good.pem")
        expired = certificates.server_context(directory / "expired.pem")
        self.logs = {
            edge.role: AccessLog(world.log_directory(edge), access_logs.FORMATS[edge.log_format])
            for edge in world.EDGES
        }
        self.origin = TlsServer(world.ORIGIN_ADDRESS, port, good, expired, self._from_origin)
        self.servers: dict[str, TlsServer] = {"origin": self.origin}
        for edge in world.EDGES:
            self.servers[edge.role] = TlsServer(
                edge.address, port, good, expired, self._through(edge), self._logging(edge)
            )
        for number, (_, address) in enumerate(world.CANARIES, 1):
            self.servers[f"canary-{number}"] = TlsServer(address, port, good, expired, self._from_origin)
        self.visitors = Visitors(
            settings.DEMO_DNS_PORT, port, settings.DEMO_VISITS_PER_SECOND, str(directory / "ca.pem")
        )

    async def run(self) -> None:
        for server in self.servers.values():
            server.start()
        control = await asyncio.start_server(self._control, "127.0.0.1", settings.DEMO_CONTROL_PORT)
        async with control:
            await asyncio.gather(self.visitors.run(), self._keep_rotating())

    async def _keep_rotating(self) -> None:
        while True:
            await asyncio.sleep(settings.DEMO_LOG_SECONDS)
            self.rotate()

    def rotate(self) -> None:
        for log in self.logs.values():
            log.rotate()

    async def _from_origin(self, request: Request) -> Response:
        return page(request.path)

    def _through(self, edge: world.Edge) -> Callable[[Request], Awaitable[Response]]:
        """An edge passes requests for the shop to the origin, and serves its own reference site itself."""

        async def respond(request: Request) -> Response:
            if request.host == edge.reference:
                return Response(200, b"<h1>reference</h1>")
            # The edge shares the origin's process: what the origin would answer in its present mode.
            mode = self.origin.mode
            if mode in (Mode.RESET, Mode.EXPIRED):
                return Response(520 if edge.slug == "cloudflare" else 502, b"<h1>the origin does not answer</h1>")
            if mode is Mode.HANG:
                await asyncio.sleep(25)
            if mode is Mode.ERROR_500:
                return Response(500, b"<h1>500 from the origin</h1>")
            if mode is Mode.SLOW:
                await asyncio.sleep(3)
            return await self._from_origin(request)

        return respond

    def _logging(self, edge: world.Edge) -> Callable[[Request, int, int], None]:
        log = self.logs[edge.role]

        def note(request: Request, status: int, size: int) -> None:
            log.add(
                Entry(
                    request.at,
                    request.host,
                    request.method,
                    request.path,
                    status,
                    size,
                    request.peer,
                    request.user_agent,
                )
            )

        return note

    # --- controls ---------------------------------------------------------------------------------------------------

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            status, answer = self._act(method, path)
            body = json.dumps(answer).encode()
            writer.write(
                f"HTTP/1.1 {status} .\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        writer.close()

    def _act(self, method: str, path: str) -> tuple[int, object]:
        parts = [part for part in path.split("/") if part]
        if method == "GET" and parts == ["state"]:
            return 200, self.state()
        if method == "GET" and parts == ["visits"]:
            return 200, [asdict(visit) for visit in self.visitors.visits]
        if method == "POST" and parts == ["rotate"]:
            self.rotate()
            return 200, {}
        if method == "POST" and len(parts) == 2 and parts[0] == "prober" and parts[1] in ("blind", "ok"):
            for server in self.servers.values():
                server.cuts_off_probers = parts[1] == "blind"
            return 200, {"at": time.time()}
        if method == "POST" and len(parts) == 2 and parts[0] in self.servers:
            if parts[1] not in list(Mode):
                return 400, {"error": f"“{parts[1]}” is not one of {', '.join(Mode)}"}
            self.servers[parts[0]].mode = Mode(parts[1])
            return 200, {"at": time.time()}
        return 404, {"error": "try GET /state, GET /visits, POST /rotate, POST /prober/blind, POST /primary/500"}

    def state(self) -> dict[str, object]:
        return {
            "modes": {name: server.mode.value for name, server in self.servers.items()},
            "prober": "blind" if self.origin.cuts_off_probers else "ok",
        }


def serve(when_dns_answers: Callable[[], None]) -> None:
    """Serve until the process is told to stop."""
    dns = EmbeddedDns("127.0.0.1", settings.DEMO_DNS_PORT)
    dns.start()
    try:
        when_dns_answers()
        asyncio.run(World().run())
    finally:
        dns.stop()
