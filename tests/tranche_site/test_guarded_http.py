"""Calls to APIs whose URL somebody typed: where they may go, and how long they may take."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.services.tls import HOST, TlsSite, pki_fixture, respond  # noqa: F401
from tranche_site.floor import egress
from tranche_site.floor.guarded_http import GuardedTransport, is_distrusted


def client(*ports: int, allow_private: bool = True, authorities: ssl.SSLContext | None = None) -> httpx.Client:
    transport = GuardedTransport(ports, allow_private=allow_private, authorities=authorities)
    return httpx.Client(transport=transport, trust_env=False, timeout=httpx.Timeout(0.4, connect=0.2))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        opened.settimeout(5)
        yield opened


def is_untouched(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return True
    return False


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_private_address_is_not_connected_to(scheme: str, host: str, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with pytest.raises(egress.Refused, match=r"egress guard: .+ which is not the public internet"):
        client(port, allow_private=False).get(f"{scheme}://{host}:{port}/")
    assert is_untouched(listener)


def test_another_port_is_not_connected_to() -> None:
    with pytest.raises(egress.Refused, match="port 25 is not one of 443"):
        client(443, allow_private=False).get("https://8.8.8.8:25/")


def test_a_proxy_of_the_environment_is_passed_by(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
    with pytest.raises(egress.Refused):
        client(443, allow_private=False).get("https://127.0.0.2/")
    assert is_untouched(listener)


def test_who_drips_is_cut_off_at_the_deadline(listener: socket.socket) -> None:
    """Each byte is in time for the read timeout, and all of them would take forever."""
    done = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while not done.wait(0.05):
                    connection.sendall(b"x")
            except OSError:
                pass  # hung up

    thread = threading.Thread(target=drip)
    thread.start()
    began = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        client().get(f"http://127.0.0.1:{listener.getsockname()[1]}/")
    took = time.monotonic() - began
    done.set()
    thread.join()
    assert 0.5 < took < 2


def test_nobody_listening_is_an_error_of_the_connection() -> None:
    with pytest.raises(httpx.ConnectError) as caught:
        client().get("http://127.0.0.1:9/")
    assert not is_distrusted(caught.value)


def test_the_certificate_must_be_for_the_name(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = TlsSite(pki / "good.pem")
    site.answer = respond(200, b"hello")
    found: Any = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (site.address, site.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    trusting = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    try:
        assert client(authorities=trusting).get(f"https://{HOST}:{site.port}/").text == "hello"
        assert site.requests[0].server_name == HOST
        for url, authorities in (
            (f"https://elsewhere.test:{site.port}/", trusting),
            (f"https://{HOST}:{site.port}/", None),
        ):
            with pytest.raises(httpx.ConnectError) as caught:
                client(authorities=authorities).get(url)
            assert is_distrusted(caught.value)
    finally:
        site.close()
