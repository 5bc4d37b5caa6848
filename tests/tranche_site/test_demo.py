"""The demo world as a client on the wire sees it: what each mode does, and what the logs say of it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dnslib
import httpx
import pytest

from billing import logs
from tests.servers import ScriptedDns, free_port, scripted_fixture  # noqa: F401
from tests.stack import until
from tranche_site.demo import access_logs, certificates, servers, world
from tranche_site.demo.access_logs import AccessLog, Entry
from tranche_site.demo.run import World, page
from tranche_site.demo.servers import Mode, Request, Response, TlsServer

HOST = world.HOSTNAME


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pems")
    certificates.make(directory, world.CERTIFICATE_NAMES)
    return directory


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop

    async def end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)  # transports close in the next turns of the loop

    asyncio.run_coroutine_threadsafe(end(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


Note = Callable[[Request, int, int], None]


class Edge:
    """One server on loopback, and a client of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pems: Path, note: Note = lambda *_: None) -> None:
        self.port = free_port()
        self._ca = pems / "ca.pem"
        self.asked: list[Request] = []
        good, expired = (certificates.server_context(pems / name) for name in ("good.pem", "expired.pem"))

        async def respond(request: Request) -> Response:
            self.asked.append(request)
            return page(request.path)

        async def start() -> TlsServer:
            server = TlsServer("127.0.0.1", self.port, good, expired, respond, note)
            server.start()
            return server

        self.server = asyncio.run_coroutine_threadsafe(start(), loop).result(5)

    def get(self, path: str = "/", verify: bool = True, source: str = "127.0.0.1", timeout: float = 10) -> bytes:
        """The whole answer, header and body, as it came over TLS."""
        return self.send(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode("latin-1"), verify, source, timeout)

    def send(self, data: bytes, verify: bool = True, source: str = "127.0.0.1", timeout: float = 10) -> bytes:
        with self.connected(verify, source, timeout) as connection:
            connection.sendall(data)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
            return answer

    def connected(
        self, verify: bool = True, source: str = "127.0.0.1", timeout: float = 10, name: str = HOST
    ) -> AbstractContextManager[ssl.SSLSocket]:
        return _connected(("127.0.0.1", self.port), name, self._ca if verify else None, source, timeout)


@contextlib.contextmanager
def _connected(
    place: tuple[str, int], name: str, ca: Path | None, source: str, timeout: float = 5
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection for this name; without `ca` the certificate is not looked at."""
    context = ssl.create_default_context(cafile=ca)
    if ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        socket.create_connection(place, timeout, source_address=(source, 0)) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        yield connection


@pytest.fixture
def edge(loop: asyncio.AbstractEventLoop, pems: Path) -> Edge:
    return Edge(loop, pems)


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def _body(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    (length,) = (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    assert length == len(body)
    return body


# --- modes --------------------------------------------------------------------------------------------------------------


def test_ok_passes_the_request_on(edge: Edge) -> None:
    answer = edge.get("/products?colour=red")
    assert _status(answer) == 200
    assert _body(answer) == page("/products?colour=red").body
    (asked,) = edge.asked
    assert (asked.method, asked.path, asked.host, asked.peer) == ("GET", "/products?colour=red", HOST, "127.0.0.1")
    # HEAD tells the same head without a body.
    assert edge.send(f"HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("mode", "status"), [(Mode.ERROR_500, 500), (Mode.BLOCKED, 403)])
def test_a_status_comes_from_the_edge_itself(mode: Mode, status: int, edge: Edge) -> None:
    edge.server.mode = mode
    answer = edge.get()
    assert _status(answer) == status and _body(answer)
    assert edge.asked == []


def test_hang_shakes_hands_and_says_nothing(edge: Edge) -> None:
    edge.server.mode = Mode.HANG
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        edge.get(timeout=0.5)
    assert time.monotonic() - began < 5
    edge.server.mode = Mode.OK
    assert _status(edge.get()) == 200


def test_reset_cuts_the_connection_after_the_request(edge: Edge) -> None:
    edge.server.mode = Mode.RESET
    for _ in range(5):
        with edge.connected() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            # Below TLS, because Python's takes a reset for an end.
            with socket.socket(fileno=connection.detach()) as plain, pytest.raises(ConnectionResetError):
                plain.settimeout(5)
                while plain.recv(4096):
                    pass


def test_slow_answers_late(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "SLOW_SECONDS", 0.5)
    edge.server.mode = Mode.SLOW
    began = time.monotonic()
    assert _status(edge.get()) == 200
    assert time.monotonic() - began >= 0.5


def test_expired_fails_for_who_looks_at_the_certificate(edge: Edge) -> None:
    edge.server.mode = Mode.EXPIRED
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        edge.get()
    assert _status(edge.get(verify=False)) == 200
    edge.server.mode = Mode.OK
    assert _status(edge.get()) == 200


def test_flicker_is_now_good_and_now_bad(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "FLICKER_SECONDS", 0.2)
    edge.server.mode = Mode.FLICKER
    seen: set[int] = set()
    until(lambda: seen.add(_status(edge.get())) or seen >= {200, 500})
    assert seen == {200, 500}


def test_who_probes_can_be_cut_off_alone(edge: Edge) -> None:
    edge.server.cuts_off_probers = True
    # Over TCP alone: nothing is sent, so that a server which waited for a greeting would let this time out. (Python's
    # SSLSocket forgets to close itself where the reset comes before its handshake.)
    prober = (world.VANTAGE_POINTS[0].source_address, 0)
    with (
        contextlib.suppress(ConnectionResetError),
        socket.create_connection(("127.0.0.1", edge.port), 5, source_address=prober) as plain,
    ):
        assert plain.recv(1) == b""
    assert _status(edge.get(source=world.VISITOR_ADDRESS)) == 200
    edge.server.cuts_off_probers = False
    assert _status(edge.get(source=world.VANTAGE_POINTS[0].source_address)) == 200


@pytest.mark.parametrize(
    "rubbish", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x00\xff\r\n\r\n", b"X" * 20_000, b"GET / HTTP/1.1\r\n"]
)
def test_rubbish_does_not_stop_the_edge(rubbish: bytes, edge: Edge) -> None:
    with contextlib.suppress(OSError):
        edge.send(rubbish, timeout=0.3)
    with socket.create_connection(("127.0.0.1", edge.port), 2) as plain:
        plain.sendall(b"this is no TLS\r\n\r\n")
    assert _status(edge.get()) == 200


# --- certificates -------------------------------------------------------------------------------------------------------


def test_the_good_certificate_is_good_for_every_name_and_no_other(edge: Edge) -> None:
    for name in world.CERTIFICATE_NAMES:
        with edge.connected(name=name):
            pass
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"), edge.connected(name="www.other.test"):
        pass


def test_certificates_stay_while_they_are_good(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["a.test"])
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(first) == {"ca.pem", "good.pem", "expired.pem"}
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600 for name in ("good.pem", "expired.pem"))
    certificates.make(tmp_path, ["a.test"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    certificates.make(tmp_path, ["a.test", "b.test"])
    assert (tmp_path / "good.pem").read_bytes() != first["good.pem"]


# --- access logs --------------------------------------------------------------------------------------------------------


def _noting(log: AccessLog) -> Note:
    def note(request: Request, status: int, size: int) -> None:
        log.add(
            Entry(
                request.at, request.host, request.method, request.path, status, size, request.peer, request.user_agent
            )
        )  # fmt: skip

    return note


@pytest.mark.parametrize("log_format", access_logs.FORMATS)
def test_logs_read_back_as_what_the_clients_received(
    log_format: str, loop: asyncio.AbstractEventLoop, pems: Path, tmp_path: Path
) -> None:
    log = AccessLog(tmp_path / "logs", access_logs.FORMATS[log_format])
    edge = Edge(loop, pems, _noting(log))
    received = [
        len(edge.get(path)) for path in ("/", "/images/hero.jpg", "/app.js", "/a?b=c&d=%20", '/"quoted"\\', "/ü\x7f")
    ]
    edge.server.mode = Mode.ERROR_500
    received.append(len(edge.get()))
    edge.server.mode = Mode.OK
    agents = ("curl/8.0", "with spaces and 100 %", "a\ttab", 'quotes " and \\', "ü", "")
    for agent in agents:
        data = f"GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: {agent}\r\n\r\n".encode("latin-1")
        received.append(len(edge.send(data)))
    other = len(edge.send(b"GET / HTTP/1.1\r\nHost: WWW.Other.test:8443\r\n\r\n"))
    log.rotate()
    (path,) = (tmp_path / "logs").iterdir()
    reading = logs.read(logs.FORMATS[log_format], path)
    assert (reading.rows, reading.bad_rows, reading.excluded, reading.duplicates) == (len(received) + 1, 0, 0, 0)
    by_host: dict[str, tuple[int, int]] = {}
    for line in reading.usage:
        size, requests = by_host.get(line.host, (0, 0))
        by_host[line.host] = size + line.bytes, requests + line.requests
        assert abs(line.minute_at.timestamp() - time.time()) < 120
    assert by_host == {HOST: (sum(received), len(received)), "www.other.test": (other, 1)}


def test_rotation_makes_finished_objects_and_forgets_old_ones(tmp_path: Path) -> None:
    log = AccessLog(tmp_path, access_logs.logpush)
    log.rotate()
    assert list(tmp_path.iterdir()) == []  # nothing came, so there is nothing to deliver
    entry = Entry(time.time(), HOST, "GET", "/", 200, 10, "127.0.0.1", "")
    log.add(entry)
    log.rotate()
    (first,) = tmp_path.iterdir()
    assert gzip.decompress(first.read_bytes()).count(b"\n") == 1
    log.rotate()
    assert list(tmp_path.iterdir()) == [first]
    log.add(entry)
    os.utime(first, (time.time() - access_logs.KEPT_SECONDS - 1,) * 2)
    log.rotate()
    (second,) = tmp_path.iterdir()
    assert second != first and second.suffix == ".gz"


# --- the world ----------------------------------------------------------------------------------------------------------


class Controls:
    def __init__(self, port: int, https_port: int, ca: Path) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=5)
        self._https_port, self._ca = https_port, ca

    def post(self, path: str) -> httpx.Response:
        return self._client.post(path)

    def get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    def through(self, edge: world.Edge, host: str = HOST) -> int:
        """The status that a visitor gets from this edge."""
        place = (edge.address, self._https_port)
        with _connected(place, host, self._ca, world.VISITOR_ADDRESS) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return _status(connection.recv(4096))

    def answer(self) -> bool:
        try:
            self.get("/state")
        except httpx.TransportError:
            return False
        return True

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def controls(
    settings: Any, tmp_path: Path, scripted: ScriptedDns, loop: asyncio.AbstractEventLoop
) -> Iterator[Controls]:
    """The whole world but its database: DNS says what the test's script says."""
    settings.TRANCHE_HOME = tmp_path
    settings.DEMO_DNS_PORT = scripted.address[1]
    settings.DEMO_HTTPS_PORT, settings.DEMO_CONTROL_PORT = free_port(), free_port()
    settings.DEMO_VISITS_PER_SECOND, settings.DEMO_LOG_SECONDS = 50, 60
    certificates.make(world.home(), world.CERTIFICATE_NAMES)
    running = asyncio.run_coroutine_threadsafe(World().run(), loop)
    controls = Controls(settings.DEMO_CONTROL_PORT, settings.DEMO_HTTPS_PORT, world.home() / "ca.pem")
    until(controls.answer)
    yield controls
    controls.close()
    running.cancel()
    # The visits that are under way end by themselves; what goes on is one task a server.
    until(lambda: len(asyncio.all_tasks(loop)) <= len(world.EDGES) + 1 + len(world.CANARIES))


def test_the_world_hears_what_it_is_told(controls: Controls) -> None:
    assert set(controls.get("/state")["modes"].values()) == {"ok"}
    for mode in Mode:
        assert controls.post(f"/primary/{mode}").status_code == 200
        assert controls.get("/state")["modes"]["primary"] == mode
    assert controls.post("/prober/blind").json()["at"] <= time.time()
    assert controls.get("/state")["prober"] == "blind"
    unknown = controls.post("/primary/tired")
    assert unknown.status_code == 400 and "not one of ok, 500, hang" in unknown.json()["error"]
    assert controls.post("/secondary/500").status_code == 404
    assert controls.post("/").status_code == 404


def test_an_origin_fault_shows_through_every_edge_but_not_at_their_own_sites(controls: Controls) -> None:
    primary, backup = world.EDGES
    assert [controls.through(edge) for edge in world.EDGES] == [200, 200]
    for mode, seen in (("500", [500, 500]), ("reset", [520, 502]), ("expired", [520, 502])):
        controls.post(f"/origin/{mode}")
        assert [controls.through(edge) for edge in world.EDGES] == seen
        assert [controls.through(edge, edge.reference) for edge in world.EDGES] == [200, 200]
    controls.post("/origin/ok")
    # An edge's own fault is its own alone, and takes its reference site with it.
    controls.post("/primary/500")
    assert controls.through(primary) == controls.through(primary, primary.reference) == 500
    assert controls.through(backup) == 200


def test_visitors_go_where_dns_sends_them(controls: Controls, scripted: ScriptedDns) -> None:
    def sends_to(edge: world.Edge) -> None:
        def script(query: Any, protocol: str) -> Any:
            reply = query.reply()
            reply.add_answer(dnslib.RR(HOST, dnslib.QTYPE.CNAME, ttl=0, rdata=dnslib.CNAME(edge.target)))
            return reply

        scripted.script = script

    def last() -> list[tuple[str, int]]:
        return [(visit["edge"], visit["status"]) for visit in controls.get("/visits")[-3:]]

    primary, backup = world.EDGES
    sends_to(primary)
    until(lambda: last() == [("primary", 200)] * 3)
    controls.post("/primary/500")
    until(lambda: last() == [("primary", 500)] * 3)
    sends_to(backup)
    until(lambda: last() == [("backup", 200)] * 3)
    # What they fetched is in the logs of the edge that they fetched it from.
    assert controls.post("/rotate").status_code == 200
    for edge in world.EDGES:
        (path,) = world.log_directory(edge).iterdir()
        reading = logs.read(logs.FORMATS[edge.log_format], path)
        assert {line.host for line in reading.usage} == {HOST}
        assert reading.counted >= 3 and reading.bad_rows == 0
