"""A vendor's API on loopback: a real HTTP server, whose answers a subclass gives."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit


class Call(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes


class Reply(NamedTuple):
    status: int
    body: bytes = b""
    headers: dict[str, str] | None = None
    is_chunked: bool = False
    """Without a length, as what is made while it is sent."""
    is_cut: bool = False
    """The connection ends before the body does."""


def as_json(status: int, document: Any, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(document).encode(), {"Content-Type": "application/json"} | (headers or {}))


class FakeApi:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.next: list[Reply] = []
        """Given before anything else is looked at: what goes wrong."""
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, call: Call) -> Reply:
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    api: FakeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self.send_error(405)

    def _respond(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        call = Call(self.command, url.path, dict(parse_qsl(url.query)), headers, body)
        self.api.calls.append(call)
        reply = self.api.next.pop(0) if self.api.next else self.api.answer(call)
        self.send_response(reply.status)
        for name, value in (reply.headers or {}).items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.close_connection = True
        if reply.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(reply.body), 1000):
                chunk = reply.body[start : start + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.wfile.write(b"" if reply.is_cut else b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(reply.body) + (10 if reply.is_cut else 0)))
            self.end_headers()
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
