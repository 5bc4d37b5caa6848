"""Receivers of webhooks on loopback: good, failing, slow, dead and lying ones, each a real server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[["Receiver", socket.socket], None]


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())

    def say(receiver: Receiver, connection: socket.socket) -> None:
        connection.sendall(
            f"HTTP/1.1 {status} X\r\n{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        )

    return say


def garbage(receiver: Receiver, connection: socket.socket) -> None:
    connection.sendall(b"\x00\xff not HTTP at all\r\n\r\n")


def endless(receiver: Receiver, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    for _ in range(1000):
        connection.sendall(chunk)


def hang_up(receiver: Receiver, connection: socket.socket) -> None:
    return


def silent(receiver: Receiver, connection: socket.socket) -> None:
    receiver.closing.wait(30)


def after(seconds: float, then: Answer) -> Answer:
    def say(receiver: Receiver, connection: socket.socket) -> None:
        time.sleep(seconds)
        then(receiver, connection)

    return say


@dataclass
class Receiver:
    """What it was sent, and how it answers: by turns, the last one for ever."""

    answers: list[Answer]
    port: int = 0
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def serve(self, listener: socket.socket) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(30)
            try:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                raw = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
                headers = {name.lower(): value for name, value in raw.items()}
                while len(body) < int(headers.get("content-length", "0")):
                    body += connection.recv(65536)
                self.got.append((headers, body))
                say = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                say(self, connection)
            except OSError:
                return


@contextmanager
def receiver(*answers: Answer) -> Iterator[Receiver]:
    made = Receiver(list(answers or (answer(200),)))
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    made.port = listener.getsockname()[1]
    thread = threading.Thread(target=made.serve, args=(listener,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.closing.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
