"""TLS servers for probes that do whatever a test scripts, and leaf certificates that the demo world has no use for."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from tranche_site.demo import certificates

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a server read before its script answered."""

    peer: tuple[str, int]
    server_name: str | None
    head: str

    @property
    def method(self) -> str:
        return self.head.split(" ", 1)[0]

    @property
    def path(self) -> str:
        return self.head.split(" ", 2)[1]

    @property
    def headers(self) -> dict[str, str]:
        pairs = (line.partition(":") for line in self.head.split("\r\n")[1:] if line)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}


Answer = Callable[[ssl.SSLSocket, Request], None]
Greeting = Callable[[socket.socket], bool]


class TlsSite:
    """One address, one thread a connection. `greet` runs before the handshake and may end it there; `answer` runs after
    the request was read."""

    def __init__(self, certificate: Path, address: str = "127.0.0.1", port: int = 0) -> None:
        self._context = certificates.server_context(certificate)
        self._context.sni_callback = self._note_name  # type: ignore[assignment]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family, backlog=512)
        self.address: str = address
        self.port: int = self._listener.getsockname()[1]
        self.greet: Greeting = go_on
        self.answer: Answer = respond()
        self.accepts = 0
        self.requests: list[Request] = []
        self._here = threading.local()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # below TLS, whose thread may be at work
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE_SECONDS)

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            self.accepts += 1
            thread = threading.Thread(target=self._serve, args=(connection, peer), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), self._kept(connection):
            if self.greet(connection):
                with self._context.wrap_socket(connection, server_side=True) as secured, self._kept(secured):
                    self._exchange(secured, peer)

    @contextlib.contextmanager
    def _kept(self, connection: socket.socket) -> Iterator[None]:
        """Known to `close` meanwhile, and closed afterwards."""
        with self._lock:
            self._open.add(connection)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _exchange(self, secured: ssl.SSLSocket, peer: tuple[str, int]) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = secured.recv(4096)
            if not chunk:
                return
            head += chunk
        name = getattr(self._here, "name", None)
        request = Request((peer[0], peer[1]), name, head.partition(b"\r\n\r\n")[0].decode("latin-1"))
        self.requests.append(request)
        with contextlib.suppress(OSError):
            self.answer(secured, request)

    def _note_name(self, secured: ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        self._here.name = name


# --- greetings: what happens before the handshake ---------------------------------------------------------------------


def go_on(connection: socket.socket) -> bool:
    return True


def close_at_once(connection: socket.socket) -> bool:
    return False


def hang_before_handshake(connection: socket.socket) -> bool:
    hang(connection)
    return False


def reset_before_handshake(connection: socket.socket) -> bool:
    connection.recv(1, socket.MSG_PEEK)
    reset(connection)
    return False


def talk_plainly(connection: socket.socket) -> bool:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    return False


# --- answers: what happens after the request --------------------------------------------------------------------------


def respond(status: int = 200, body: bytes = b"hello", *headers: str, length: int | None = None) -> Answer:
    """A whole response; another `length` than the body's makes it a truncated one."""

    def answer(secured: ssl.SSLSocket, request: Request) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body) if length is None else length}", *headers]
        head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
        secured.sendall(head + (b"" if request.method == "HEAD" else body))
        with contextlib.suppress(OSError):
            secured.unwrap()

    return answer


def raw(*chunks: bytes, close_notify: bool = True) -> Answer:
    def answer(secured: ssl.SSLSocket, request: Request) -> None:
        for chunk in chunks:
            secured.sendall(chunk)
        if close_notify:
            with contextlib.suppress(OSError):
                secured.unwrap()

    return answer


def hang_after_request(secured: ssl.SSLSocket, request: Request) -> None:
    hang(secured)


def reset_after_request(secured: ssl.SSLSocket, request: Request) -> None:
    reset(secured)


def hang(connection: socket.socket) -> None:
    """Read until the other side goes."""
    while connection.recv(4096):
        pass


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# --- certificates: import `pki_fixture`, ask for `pki` ------------------------------------------------------------------


HOST, OTHER_HOST, CANARY_HOST = "www.good.test", "shop.good.test", "canary.good.test"


@pytest.fixture(scope="session", name="pki")
def pki_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, good.pem and expired.pem for the three hosts."""
    directory = tmp_path_factory.mktemp("pki")
    certificates.make(directory, [HOST, OTHER_HOST, CANARY_HOST])
    return directory


def self_signed(
    path: Path, common_name: str, names: tuple[str, ...] = (), organization: str = "", encoding: _ASN1Type | None = None
) -> Path:
    """A leaf that is its own authority, with its key, valid for 30 days; `encoding` is that of the organization."""
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization, _type=encoding))
    name, now = x509.Name(attributes), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private)
    return path
