"""An HTTP proxy in front of one server that loses what a test tells it to lose: before the server hears of it, or after."""

from __future__ import annotations

import socket
import struct
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BEFORE = ("reset_before", "error_500", "timeout_before")
AFTER = ("lost_reply", "applied_500", "garbled", "half", "timeout_after")
KINDS = (*BEFORE, *AFTER)
"""In the first line the server never hears of the call, in the second it does it: then it is answered badly, or not."""


class FaultyProxy:
    """`fail` orders faults for the next calls of a method; everything else is passed on. `calls` are those passed on."""

    def __init__(self, port: int, silence_seconds: float = 0.6) -> None:
        self._port = port
        self._silence_seconds = silence_seconds
        self._ordered: list[tuple[str, str]] = []
        self.calls: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, BrokenPipeError):
                    self.close_connection = True

            def pass_on(self) -> None:
                proxy._answer(self)

            do_GET = do_PATCH = do_PUT = do_POST = do_DELETE = pass_on

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fail(self, method: str, kind: str, times: int = 1) -> None:
        assert kind in KINDS
        self._ordered += [(method, kind)] * times

    def recover(self) -> None:
        self._ordered.clear()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        kind = next((kind for method, kind in self._ordered if method == handler.command), "")
        if kind:
            self._ordered.remove((handler.command, kind))
        if kind in BEFORE:
            self._spoil(handler, kind, 500, b"")
            return
        status, headers, answer = self._ask(handler, body)
        self.calls.append((handler.command, handler.path))
        if kind:
            self._spoil(handler, kind, status, answer)
            return
        handler.send_response(status)
        for name in ("Content-Type", "Location"):
            if name in headers:
                handler.send_header(name, headers[name])
        if status != 204:
            handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def _ask(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any, bytes]:
        there = HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "connection")}
            there.request(handler.command, handler.path, body or None, headers)
            reply = there.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            there.close()

    def _spoil(self, handler: BaseHTTPRequestHandler, kind: str, status: int, answer: bytes) -> None:
        handler.close_connection = True
        if kind in ("error_500", "applied_500"):
            handler.send_response(500)
            handler.send_header("Content-Length", "5")
            handler.end_headers()
            handler.wfile.write(b"sorry")
        elif kind == "garbled":
            handler.wfile.write(b"\x00\x01 this is no HTTP \x02\r\n\r\n")
        elif kind == "half":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        elif kind in ("timeout_before", "timeout_after"):
            time.sleep(self._silence_seconds)
        else:
            linger = struct.pack("ii", 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if kind in ("reset_before", "lost_reply"):
            handler.connection.shutdown(socket.SHUT_RD)
