"""The HTTP server: from bytes to a request, and from a reply to bytes, whole or spoilt."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from tests.route53_fake.sockets import StoppableServer

_RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing then resets the connection."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str]
    manner: Literal["whole", "half", "close", "reset"] = "whole"
    """How it reaches the client; after "close" and "reset" not a byte of it does."""
    after_seconds: float = 0.0


class HttpServer(StoppableServer):
    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.answer = answer
        self.ending = threading.Event()
        super().__init__(0, _Handler)

    def stop(self) -> None:
        self.ending.set()
        super().stop()


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        reply = self.server.answer(Request(self.command, parts.path, query, self.headers, body))
        if reply.after_seconds and self.server.ending.wait(reply.after_seconds):
            self.close_connection = True
            return
        if reply.manner in ("close", "reset"):
            self._hang_up(reply.manner == "reset")
            return
        lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        head = "\r\n".join([*lines, f"Content-Length: {len(reply.body)}", "", ""]).encode("latin-1")
        # In one piece: a second packet would wait for the client's acknowledgement of the first.
        if reply.manner == "half":
            self.wfile.write(head + reply.body[: len(reply.body) // 2])
            self._hang_up(False)
        else:
            self.wfile.write(head + reply.body)

    def _hang_up(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        else:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_POST = do_DELETE = do_PUT = _serve

    def log_message(self, format: str, *args: Any) -> None:
        pass
