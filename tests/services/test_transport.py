"""Probes through libcurl against real TLS servers on loopback, each misbehaving in its own way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from dnslib import RCODE, RR

from services import addresses, transport
from services.addresses import Resolved
from services.outcomes import Outcome
from services.probe import BODY_LIMIT_BYTES, Family, Fault, Probe, Reply, classify
from services.transport import Transport, trusted_authorities
from tests.servers import ScriptedDns, free_port, scripted_fixture  # noqa: F401
from tests.services import tls
from tests.services.tls import HOST, TlsSite, pki_fixture  # noqa: F401
from tranche_site.demo import certificates

TIMEOUT_SECONDS = 0.6


@pytest.fixture
def open_site(pki: Path) -> Iterator[Callable[..., TlsSite]]:
    with contextlib.ExitStack() as stack:

        def open_site(certificate: Path = pki / "good.pem", address: str = "127.0.0.1") -> TlsSite:
            site = TlsSite(certificate, address)
            stack.callback(site.close)
            return site

        yield open_site


@pytest.fixture
def site(open_site: Callable[..., TlsSite]) -> TlsSite:
    return open_site()


@pytest.fixture
def ca(pki: Path) -> str:
    return str(pki / "ca.pem")


def probe_of(site: TlsSite, **kw: Any) -> Probe:
    probe = Probe(HOST, site.address, site.port, timeout_seconds=TIMEOUT_SECONDS, allow_private=True)
    return replace(probe, **kw)


def send_all(probes: list[Probe], ca_file: str, in_flight: int = 100) -> list[Reply]:
    async def run() -> list[Reply]:
        transport = Transport(in_flight, ca_file)
        try:
            return await asyncio.gather(*map(transport.send, probes))
        finally:
            transport.close()

    return asyncio.run(run())


def send(probe: Probe, ca_file: str) -> Reply:
    return send_all([probe], ca_file)[0]


def outcome(probe: Probe, ca_file: str) -> Outcome:
    return classify(probe, send(probe, ca_file)).outcome


# --- what a good probe brings back ------------------------------------------------------------------------------------


def test_a_good_reply_is_whole(site: TlsSite, ca: str, pki: Path) -> None:
    site.answer = tls.respond(200, b"all is well")
    before = datetime.now(UTC)
    reply = send(probe_of(site), ca)
    assert (reply.status, reply.body, reply.fault, reply.fault_text) == (200, b"all is well", None, "")
    assert before <= reply.at <= datetime.now(UTC)
    assert reply.remote_address == "127.0.0.1"
    leaf = x509.load_pem_x509_certificate((pki / "good.pem").read_bytes())
    assert reply.certificate_expires_at == leaf.not_valid_after_utc


def test_phases_are_durations_that_add_up(site: TlsSite, ca: str) -> None:
    def slow_greeting(connection: socket.socket) -> bool:
        time.sleep(0.1)
        return True

    def slow_answer(secured: ssl.SSLSocket, request: tls.Request) -> None:
        time.sleep(0.2)
        tls.respond()(secured, request)

    site.greet, site.answer = slow_greeting, slow_answer
    reply = send(probe_of(site, timeout_seconds=3), ca)
    phases = (reply.dns_ms, reply.connect_ms, reply.tls_ms, reply.first_byte_ms)
    assert all(phase is not None and phase >= 0 for phase in phases)
    dns, connect, handshake, first_byte = (phase or 0.0 for phase in phases)
    assert dns < 50 and connect < 50
    assert 100 <= handshake < 200 <= first_byte < 300
    assert reply.total_ms is not None
    assert dns + connect + handshake + first_byte <= reply.total_ms + 0.001 < 400


def test_the_server_sees_the_domain_though_it_is_reached_elsewhere(site: TlsSite, ca: str) -> None:
    assert outcome(probe_of(site, path="/health?deep=1"), ca) is Outcome.OK
    (request,) = site.requests
    assert request.server_name == HOST
    assert request.headers["host"] == HOST
    assert (request.method, request.path) == ("GET", "/health?deep=1")


def test_a_name_is_resolved_and_the_host_stays(site: TlsSite, ca: str, scripted: ScriptedDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}
    scripted.script = lambda query, protocol: _zone(query, "edge.cdn.test. 30 A 127.0.0.1")
    reply = send(probe_of(site, address="edge.cdn.test"), ca)
    assert (reply.status, reply.remote_address) == (200, "127.0.0.1")
    assert site.requests[0].server_name == site.requests[0].headers["host"] == HOST
    assert reply.dns_ms


def test_a_name_is_followed_along_its_aliases(site: TlsSite, ca: str, scripted: ScriptedDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}
    records = (
        "edge.cdn.test. 30 CNAME pop.cdn.test.",
        "pop.cdn.test. 30 CNAME ip.cdn.test.",
        "ip.cdn.test. 30 A 127.0.0.1",
    )
    scripted.script = lambda query, protocol: _zone(query, *records)
    assert send(probe_of(site, address="edge.cdn.test"), ca).status == 200


def test_an_alias_that_runs_in_a_circle_ends(ca: str, scripted: ScriptedDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}
    records = ("a.cdn.test. 30 CNAME b.cdn.test.", "b.cdn.test. 30 CNAME a.cdn.test.")
    scripted.script = lambda query, protocol: _zone(query, *records)
    reply = send(Probe(HOST, "a.cdn.test", allow_private=True, timeout_seconds=3), ca)
    assert reply.fault is Fault.DNS
    assert "CNAMEs" in reply.fault_text


def test_nothing_compressed_is_asked_for_and_caches_are_passed(site: TlsSite, ca: str) -> None:
    send(probe_of(site), ca)
    headers = site.requests[0].headers
    assert headers["accept-encoding"] == "identity"
    assert headers["cache-control"] == "no-cache"
    assert "Tranche-Probe" in headers["user-agent"]


def test_a_compressed_answer_is_not_inflated(site: TlsSite, ca: str) -> None:
    site.answer = tls.respond(200, b"\x1f\x8b not really gzip", "Content-Encoding: gzip")
    assert send(probe_of(site), ca).body == b"\x1f\x8b not really gzip"


def test_head_asks_for_no_body(site: TlsSite, ca: str) -> None:
    site.answer = tls.respond(200, b"x" * 500)
    probe = probe_of(site, method="HEAD", body_marker=b"missing")
    reply = send(probe, ca)
    assert site.requests[0].method == "HEAD"
    assert (reply.status, reply.body) == (200, b"")
    assert classify(probe, reply).outcome is Outcome.OK


def test_a_probe_leaves_from_its_vantage_points_address(site: TlsSite, ca: str) -> None:
    for source in ("127.0.2.1", "127.0.2.77"):
        assert outcome(probe_of(site, source_address=source), ca) is Outcome.OK
    assert [request.peer[0] for request in site.requests] == ["127.0.2.1", "127.0.2.77"]


def test_an_ipv6_target(open_site: Callable[..., TlsSite], ca: str) -> None:
    site = open_site(address="::1")
    for address in ("::1", "[::1]"):
        reply = send(probe_of(site, address=address), ca)
        assert (reply.status, reply.remote_address) == (200, "::1")
    assert {request.headers["host"] for request in site.requests} == {HOST}


def test_a_proxy_of_the_environment_is_passed_by(
    site: TlsSite, ca: str, open_site: Callable[..., TlsSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = open_site()
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert os.environ["https_proxy"]
    assert outcome(probe_of(site), ca) is Outcome.OK
    assert proxy.accepts == 0


# --- what the status and the body say ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Outcome.OK),
        (204, Outcome.OK),
        (304, Outcome.OK),
        (403, Outcome.BLOCKED),
        (429, Outcome.BLOCKED),
        (404, Outcome.WRONG_STATUS),
        (500, Outcome.HTTP_5XX),
        (503, Outcome.HTTP_5XX),
        (521, Outcome.EDGE_ERROR),
        (530, Outcome.EDGE_ERROR),
        (999, Outcome.WRONG_STATUS),
    ],
)
def test_a_status_arrives_with_its_class(site: TlsSite, ca: str, status: int, expected: Outcome) -> None:
    site.answer = tls.respond(status, b"" if status in (204, 304) else b"body")
    reply = send(probe_of(site), ca)
    assert (reply.status, reply.fault) == (status, None)
    assert classify(probe_of(site), reply).outcome is expected


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(site: TlsSite, ca: str, code: int, open_site: Callable[..., TlsSite]) -> None:
    elsewhere = open_site()
    site.answer = tls.respond(code, b"", f"Location: https://127.0.0.1:{elsewhere.port}/")
    assert send(probe_of(site), ca).status == code
    assert (elsewhere.accepts, site.accepts) == (0, 1)


@pytest.mark.parametrize("location", ["http://[bad:99999999/", "\x01\x02", "file:///etc/passwd", "//", "ü"])
def test_a_senseless_redirect_is_still_only_a_status(site: TlsSite, ca: str, location: str) -> None:
    site.answer = tls.respond(302, b"", f"Location: {location}")
    assert (send(probe_of(site), ca).status, site.accepts) == (302, 1)


def test_an_endless_body_ends_at_the_limit_and_is_good(site: TlsSite, ca: str) -> None:
    def endless(secured: ssl.SSLSocket, request: tls.Request) -> None:
        secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nmarker")
        while True:
            secured.sendall(b"x" * 16_384)

    site.answer = endless
    probe = probe_of(site, body_marker=b"marker", timeout_seconds=5)
    reply = send(probe, ca)
    assert (reply.status, len(reply.body)) == (200, BODY_LIMIT_BYTES)
    assert classify(probe, reply).outcome is Outcome.OK
    assert reply.total_ms and reply.total_ms < 2000


def test_an_endless_body_with_a_failing_status_still_fails(site: TlsSite, ca: str) -> None:
    site.answer = tls.respond(503, b"x" * (BODY_LIMIT_BYTES + 1))
    assert outcome(probe_of(site), ca) is Outcome.HTTP_5XX


@pytest.mark.parametrize(
    ("size", "is_found"),
    [(BODY_LIMIT_BYTES, True), (BODY_LIMIT_BYTES + 1, False), (BODY_LIMIT_BYTES + 40_000, False)],
)
def test_the_marker_counts_within_the_first_64_kib(site: TlsSite, ca: str, size: int, is_found: bool) -> None:
    site.answer = tls.respond(200, b"x" * (size - 6) + b"marker")
    expected = Outcome.OK if is_found else Outcome.WRONG_BODY
    assert outcome(probe_of(site, body_marker=b"marker"), ca) is expected


def test_a_chunked_body_is_put_together(site: TlsSite, ca: str) -> None:
    site.answer = tls.raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nmar\r\n", b"3\r\nker\r\n", b"0\r\n\r\n"
    )
    assert send(probe_of(site, body_marker=b"marker"), ca).body == b"marker"


# --- what fails, and in which class -----------------------------------------------------------------------------------


def test_nobody_listens(ca: str) -> None:
    reply = send(Probe(HOST, "127.0.0.1", free_port(), allow_private=True), ca)
    assert (reply.fault, reply.status, reply.tls_ms, reply.certificate_expires_at) == (Fault.CONNECT, None, None, None)


@pytest.mark.parametrize(
    ("greet", "fault"),
    [
        (tls.hang_before_handshake, Fault.TIMEOUT),
        # The connection stood, so it is the handshake that did not come about.
        (tls.reset_before_handshake, Fault.TLS),
        (tls.close_at_once, Fault.TLS),
        (tls.talk_plainly, Fault.TLS),
    ],
)
def test_no_handshake(site: TlsSite, ca: str, greet: tls.Greeting, fault: Fault) -> None:
    site.greet = greet
    reply = send(probe_of(site), ca)
    assert (reply.fault, reply.status, reply.tls_ms) == (fault, None, None)
    assert reply.fault_text
    assert reply.connect_ms
    assert site.accepts == 1


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def drip(secured: ssl.SSLSocket, request: tls.Request) -> None:
    """Headers that never end, a byte at a time: each arrives in time, all together don't."""
    secured.sendall(HEAD)
    while True:
        secured.sendall(b"X")
        time.sleep(0.02)


def drip_body(secured: ssl.SSLSocket, request: tls.Request) -> None:
    secured.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
    while True:
        secured.sendall(b"x")
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        pytest.param(tls.hang_after_request, Fault.TIMEOUT, id="hang"),
        pytest.param(drip, Fault.TIMEOUT, id="dripping headers"),
        pytest.param(drip_body, Fault.TIMEOUT, id="dripping body"),
        pytest.param(tls.reset_after_request, Fault.CONNECT, id="reset"),
        pytest.param(tls.raw(), Fault.CONNECT, id="close"),
        pytest.param(tls.raw(close_notify=False), Fault.CONNECT, id="close without notice"),
        pytest.param(tls.respond(length=5000), Fault.CONNECT, id="cut body"),
        pytest.param(tls.raw(HEAD + b"Content-Length: 9\r\n\r\nhi", close_notify=False), Fault.CONNECT, id="cut off"),
        pytest.param(tls.raw(HEAD + CHUNKED + b"5\r\nhe"), Fault.CONNECT, id="cut chunk"),
        pytest.param(tls.raw(HEAD + CHUNKED + b"zz\r\nhe"), Fault.CONNECT, id="senseless chunk"),
        pytest.param(tls.raw(HEAD + b"Content-Length: many\r\n\r\nhi"), Fault.CONNECT, id="senseless length"),
        pytest.param(tls.raw(b"\x00\xff\xfe garbage \x80\x81\r\n\r\n"), Fault.CONNECT, id="garbage"),
        pytest.param(tls.raw(b"SSH-2.0-OpenSSH_9.9\r\n"), Fault.CONNECT, id="another protocol"),
        pytest.param(tls.raw(b"HTTP/1.1 abc\r\n\r\n"), Fault.CONNECT, id="senseless status"),
        pytest.param(tls.raw(b"HTTP/9.1 200 OK\r\n\r\n"), Fault.CONNECT, id="another version"),
        pytest.param(tls.raw(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), Fault.CONNECT, id="switching"),
        pytest.param(tls.raw(HEAD + b"X-Long: " + b"a" * 400_000 + b"\r\n\r\nhi"), Fault.CONNECT, id="huge header"),
        pytest.param(tls.raw(HEAD + b"X-Many: a\r\n" * 20_000 + b"\r\nhi"), Fault.CONNECT, id="many headers"),
        pytest.param(tls.raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20_000), Fault.CONNECT, id="endless hints"),
    ],
)
def test_no_response(site: TlsSite, ca: str, answer: tls.Answer, fault: Fault) -> None:
    site.answer = answer
    reply = send(probe_of(site), ca)
    assert (reply.fault, reply.status) == (fault, None)
    assert reply.fault_text
    assert reply.tls_ms
    assert reply.certificate_expires_at


def test_early_hints_are_not_the_status(site: TlsSite, ca: str) -> None:
    site.answer = tls.raw(b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD + b"Content-Length: 2\r\n\r\nhi")
    assert send(probe_of(site), ca).status == 200


def test_an_expired_certificate(open_site: Callable[..., TlsSite], ca: str, pki: Path) -> None:
    site = open_site(pki / "expired.pem")
    reply = send(probe_of(site), ca)
    assert (reply.fault, reply.status) == (Fault.TLS, None)
    assert "expired" in reply.fault_text
    assert reply.certificate_expires_at and reply.certificate_expires_at < datetime.now(UTC)
    assert not site.requests


def test_a_certificate_for_another_host(site: TlsSite, ca: str) -> None:
    reply = send(probe_of(site, host="other.test"), ca)
    assert reply.fault is Fault.TLS
    assert "other.test" in reply.fault_text
    assert not site.requests


def test_a_self_signed_certificate(open_site: Callable[..., TlsSite], ca: str, tmp_path: Path) -> None:
    site = open_site(tls.self_signed(tmp_path / "self.pem", HOST, (HOST,)))
    reply = send(probe_of(site), ca)
    assert reply.fault is Fault.TLS
    assert "self-signed" in reply.fault_text
    assert not site.requests


def test_an_authority_that_nobody_knows(open_site: Callable[..., TlsSite], ca: str, tmp_path: Path) -> None:
    certificates.make(tmp_path, [HOST])
    site = open_site(tmp_path / "good.pem")
    assert send(probe_of(site), ca).fault is Fault.TLS
    assert not site.requests
    assert send(probe_of(site, ca_file=str(tmp_path / "ca.pem")), ca).status == 200


@pytest.mark.parametrize("encoding", [_ASN1Type.UTF8String, _ASN1Type.T61String, _ASN1Type.BMPString])
def test_an_owner_with_accents_is_no_trouble(
    open_site: Callable[..., TlsSite], tmp_path: Path, encoding: _ASN1Type
) -> None:
    certificate = tls.self_signed(tmp_path / "accents.pem", HOST, (HOST,), "Société Générale", encoding)
    reply = send(probe_of(open_site(certificate)), str(certificate))
    assert reply.status == 200
    assert reply.certificate_expires_at
    assert timedelta(days=29) < reply.certificate_expires_at - datetime.now(UTC) < timedelta(days=31)


def test_a_name_with_accents_can_be_told(open_site: Callable[..., TlsSite], tmp_path: Path) -> None:
    certificate = tls.self_signed(tmp_path / "accents.pem", "bücher société")
    reply = send(probe_of(open_site(certificate)), str(certificate))
    assert reply.fault is Fault.TLS
    assert "bücher société" in reply.fault_text


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_that_does_not_exist(ca: str, scripted: ScriptedDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}

    def nowhere(query: Any, protocol: str) -> Any:
        reply = query.reply()
        reply.header.rcode = RCODE.NXDOMAIN
        return reply

    scripted.script = nowhere
    reply = send(Probe(HOST, "edge.cdn.test", allow_private=True), ca)
    assert (reply.fault, reply.connect_ms) == (Fault.DNS, None)
    assert "edge.cdn.test" in reply.fault_text


def test_a_name_without_an_address(ca: str, scripted: ScriptedDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}
    assert send(Probe(HOST, "edge.cdn.test", allow_private=True), ca).fault is Fault.DNS


@pytest.mark.parametrize("address", ["a..test", f"{'a' * 64}.test", "", "ü" * 70])
def test_what_is_no_name_is_a_reply_too(ca: str, address: str) -> None:
    assert send(Probe(HOST, address, allow_private=True), ca).fault is Fault.DNS


def test_a_name_server_that_is_silent_costs_no_more_than_the_deadline(
    ca: str, scripted: ScriptedDns, settings: Any
) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}
    scripted.script = lambda query, protocol: None
    began = time.monotonic()
    reply = send(Probe(HOST, "edge.cdn.test", allow_private=True, timeout_seconds=0.3), ca)
    assert reply.fault is Fault.DNS
    assert 0.29 < time.monotonic() - began < 0.6


def test_resolving_counts_against_the_deadline(site: TlsSite, ca: str, scripted: ScriptedDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}

    def slowly(query: Any, protocol: str) -> Any:
        time.sleep(0.4)
        return _zone(query, "edge.cdn.test. 30 A 127.0.0.1")

    scripted.script, site.answer = slowly, tls.hang_after_request
    reply = send(probe_of(site, address="edge.cdn.test", timeout_seconds=0.7), ca)
    assert reply.fault is Fault.TIMEOUT
    assert reply.total_ms and 690 < reply.total_ms < 850


def test_an_answer_is_kept_and_a_failure_only_for_a_moment(
    ca: str, scripted: ScriptedDns, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}
    clock = [1000.0]
    monkeypatch.setattr(addresses, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    async def run() -> list[Resolved]:
        known, found = addresses.Addresses(), []
        for seconds, records in ((0, []), (0.5, ["edge.cdn.test. 20 A 127.0.0.9"]), (0.6, None), (19.0, []), (2.0, [])):
            clock[0] += seconds
            if records is not None:
                scripted.script = lambda query, protocol, records=records: _zone(query, *records)
            found.append(await known.find("edge.cdn.test", Family.IPV4, 1.0))
        return found

    assert [resolved.addresses for resolved in asyncio.run(run())] == [
        (), (), ("127.0.0.9",), ("127.0.0.9",), (),
    ]  # fmt: skip


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_seconds", [0.2, 0.5])
@pytest.mark.parametrize("stage", ["handshake", "response", "headers", "body"])
def test_the_deadline_is_for_the_whole_probe(site: TlsSite, ca: str, stage: str, timeout_seconds: float) -> None:
    match stage:
        case "handshake":
            site.greet = tls.hang_before_handshake
        case "response":
            site.answer = tls.hang_after_request
        case "headers":
            site.answer = drip
        case "body":
            site.answer = drip_body
    began = time.monotonic()
    reply = send(probe_of(site, timeout_seconds=timeout_seconds), ca)
    assert reply.fault is Fault.TIMEOUT
    assert timeout_seconds - 0.01 < time.monotonic() - began < timeout_seconds + 0.3
    said = {"handshake": "TLS handshake", "response": "response", "headers": "response", "body": "response"}[stage]
    assert said in reply.fault_text


# --- our own trouble says nothing about the target --------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_certificate_store_that_is_missing_or_broken_is_ours(
    site: TlsSite, tmp_path: Path, content: str | None
) -> None:
    store = tmp_path / "store.pem"
    if content is not None:
        store.write_text(content)
    probe = probe_of(site, ca_file=str(store))
    reply = send(probe, str(store))
    assert reply.fault is Fault.OURS
    assert classify(probe, reply).outcome is Outcome.UNKNOWN


def test_a_source_address_that_we_don_t_have_is_ours(site: TlsSite, ca: str) -> None:
    assert send(probe_of(site, source_address="192.0.2.77"), ca).fault is Fault.OURS
    assert site.accepts == 0


def test_a_source_address_of_the_other_family_is_no_fault_of_the_targets(site: TlsSite, ca: str) -> None:
    reply = send(probe_of(site, source_address="::1"), ca)
    assert (reply.fault, site.accepts) == (Fault.UNTRIED, 0)
    assert classify(probe_of(site), reply).outcome is Outcome.UNKNOWN
    assert send(probe_of(site, source_address="127.0.2.1", family=Family.IPV6), ca).fault is Fault.UNTRIED


def test_of_a_name_with_both_families_the_chosen_one_is_used(
    open_site: Callable[..., TlsSite], ca: str, scripted: ScriptedDns, settings: Any
) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}
    site = open_site()
    other = tls.TlsSite(Path(ca).with_name("good.pem"), "::1", site.port)
    records = ("edge.cdn.test. 30 A 127.0.0.1", "edge.cdn.test. 30 AAAA ::1")
    scripted.script = lambda query, protocol: _zone(query, *records)
    try:
        for kw, expected in (
            ({"family": Family.EITHER}, "127.0.0.1"),
            ({"family": Family.IPV4}, "127.0.0.1"),
            ({"family": Family.IPV6}, "::1"),
            ({"source_address": "127.0.2.3"}, "127.0.0.1"),
            ({"source_address": "::1"}, "::1"),
        ):
            reply = send(probe_of(site, address="edge.cdn.test", timeout_seconds=2, **kw), ca)
            assert (reply.status, reply.remote_address) == (200, expected)
    finally:
        other.close()


def test_a_name_without_the_chosen_family_fails_in_dns(ca: str, scripted: ScriptedDns, settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}
    scripted.script = lambda query, protocol: _zone(query, "edge.cdn.test. 30 A 127.0.0.1")
    reply = send(Probe(HOST, "edge.cdn.test", allow_private=True, family=Family.IPV6), ca)
    assert (reply.fault, reply.fault_text) == (Fault.DNS, "edge.cdn.test has no IPv6 address")


@pytest.mark.parametrize("kw", [{"path": "/a b"}, {"host": "bücher.test"}, {"host": "a b.test"}])
def test_a_request_that_can_t_be_written_blinds_nobody(site: TlsSite, ca: str, kw: dict[str, str]) -> None:
    assert send(probe_of(site, **kw), ca).fault is Fault.UNTRIED
    assert site.accepts == 0


def test_the_demo_authority_is_trusted_beside_the_public_ones(
    site: TlsSite, pki: Path, tmp_path: Path, settings: Any
) -> None:
    settings.TRANCHE_HOME, settings.PROBE_EXTRA_CA_FILE = tmp_path, str(pki / "ca.pem")
    bundle = Path(trusted_authorities()).read_text()
    assert (pki / "ca.pem").read_text() in bundle
    assert bundle.count("BEGIN CERTIFICATE") > 50
    assert send(probe_of(site), "").status == 200
    settings.PROBE_EXTRA_CA_FILE = ""
    assert send(probe_of(site), "").fault is Fault.TLS


# --- the egress guard -------------------------------------------------------------------------------------------------


@pytest.fixture
def tripwires() -> Iterator[list[socket.socket]]:
    """Listeners on both families; a connection that was made, accepted or not, shows up in their queue."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))),
            stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6)),
        ]


def accepts(listeners: list[socket.socket]) -> int:
    count = 0
    for listener in listeners:
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                count += 1
    return count


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "[::1]", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "::ffff:7f00:1",
        "::127.0.0.1", "::", "0.0.0.0", "64:ff9b::7f00:1", "2002:7f00:1::", "localhost", "LOCALHOST", "localhost.",
        "127.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "１２７.0.0.1", "127.0.0.1%lo", "::1%lo",
    ],
)  # fmt: skip
def test_a_private_target_opens_no_connection(
    address: str, tripwires: list[socket.socket], ca: str, settings: Any
) -> None:
    ports = [listener.getsockname()[1] for listener in tripwires]
    settings.PROBE_PORTS = ports
    probes = [Probe(HOST, address, port, timeout_seconds=2, allow_private=False) for port in ports]
    for probe in probes:
        reply = send(probe, ca)
        # A spelling that the resolver does not know is a DNS fault; either way nothing was opened.
        assert reply.fault in (Fault.UNTRIED, Fault.DNS)
        assert reply.fault is Fault.DNS or "egress guard" in reply.fault_text
        assert (reply.connect_ms, reply.remote_address) == (None, None)
    assert accepts(tripwires) == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "[::1]"])
def test_the_tripwire_would_have_noticed(address: str, tripwires: list[socket.socket], ca: str) -> None:
    for listener in tripwires:
        send(Probe(HOST, address, listener.getsockname()[1], timeout_seconds=0.2, allow_private=True), ca)
    assert accepts(tripwires) > 0


@pytest.mark.parametrize("inner", ["127.0.0.1", "10.0.0.1", "169.254.169.254"])
def test_one_private_answer_among_public_ones_refuses_the_probe(
    inner: str, tripwires: list[socket.socket], ca: str, scripted: ScriptedDns, settings: Any
) -> None:
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}
    port = tripwires[0].getsockname()[1]
    settings.PROBE_PORTS = [port]
    records = ("edge.cdn.test. 30 A 8.8.8.8", f"edge.cdn.test. 30 A {inner}")
    scripted.script = lambda query, protocol: _zone(query, *records)
    reply = send(Probe(HOST, "edge.cdn.test", port, timeout_seconds=1), ca)
    assert reply.fault is Fault.UNTRIED
    assert inner in reply.fault_text
    assert accepts(tripwires) == 0


def test_a_name_that_turns_private_after_it_was_checked_opens_nothing(
    tripwires: list[socket.socket], ca: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard sits at socket open as well: even an address that slipped past the first check is refused there."""
    port = tripwires[0].getsockname()[1]
    settings.PROBE_PORTS = [port]
    judged: list[str] = []
    refusal = transport._refusal

    def blind_once(probe: Probe, address: str, port: int) -> str | None:
        judged.append(address)
        return None if len(judged) == 1 else refusal(probe, address, port)

    monkeypatch.setattr(transport, "_refusal", blind_once)
    reply = send(Probe(HOST, "127.0.0.1", port, timeout_seconds=1), ca)
    assert reply.fault
    assert judged == ["127.0.0.1", "127.0.0.1"]
    assert accepts(tripwires) == 0


def test_a_port_that_is_not_probed_opens_nothing(ca: str) -> None:
    reply = send(Probe(HOST, "8.8.8.8", 25, timeout_seconds=1), ca)
    assert (reply.fault, reply.fault_text) == (Fault.UNTRIED, "egress guard: port 25 is not one of 80, 443")


# --- many at once -----------------------------------------------------------------------------------------------------


def test_two_probes_never_share_a_connection(site: TlsSite, ca: str) -> None:
    site.answer = tls.respond(200, b"hello")
    sessions: list[bool] = []
    plain = site.answer

    def noting(secured: ssl.SSLSocket, request: tls.Request) -> None:
        sessions.append(bool(secured.session_reused))
        plain(secured, request)

    site.answer = noting

    async def run() -> None:
        transport = Transport(10, ca)
        for _ in range(3):
            assert (await transport.send(probe_of(site))).status == 200
        assert [r.status for r in await asyncio.gather(*(transport.send(probe_of(site)) for _ in range(3)))] == [
            200
        ] * 3
        transport.close()

    asyncio.run(run())
    assert site.accepts == 6
    assert len({request.peer for request in site.requests}) == 6
    assert sessions == [False] * 6


def test_a_server_that_would_keep_the_connection_gets_a_new_one(site: TlsSite, ca: str) -> None:
    def keep(secured: ssl.SSLSocket, request: tls.Request) -> None:
        secured.sendall(HEAD + b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\nhi")
        tls.hang(secured)

    site.answer = keep

    async def run() -> None:
        transport = Transport(10, ca)
        for _ in range(3):
            assert (await transport.send(probe_of(site))).body == b"hi"
        transport.close()

    asyncio.run(run())
    assert site.accepts == 3


def test_hundreds_of_probes_complete_beside_each_other(
    open_site: Callable[..., TlsSite], ca: str, tripwires: list[socket.socket]
) -> None:
    good, failing, hanging, resetting = (open_site() for _ in range(4))
    failing.answer, hanging.answer = tls.respond(500), tls.hang_after_request
    resetting.answer = tls.reset_after_request
    probes = [probe_of(site, timeout_seconds=8) for site in (good, failing, resetting) for _ in range(60)]
    probes += [probe_of(hanging, timeout_seconds=0.5) for _ in range(20)]
    replies = send_all(probes, ca, in_flight=200)
    outcomes = [classify(probe, reply).outcome for probe, reply in zip(probes, replies, strict=True)]
    assert outcomes == [
        *[Outcome.OK] * 60, *[Outcome.HTTP_5XX] * 60, *[Outcome.CONNECT] * 60, *[Outcome.TIMEOUT] * 20
    ]  # fmt: skip


def test_no_more_than_the_limit_are_in_flight(site: TlsSite, ca: str) -> None:
    here, most, lock = 0, 0, threading.Lock()

    def counting(secured: ssl.SSLSocket, request: tls.Request) -> None:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        time.sleep(0.8)
        with lock:
            here -= 1
        tls.respond()(secured, request)

    site.answer = counting
    # Four turns of 0.8 s: were waiting for a place the target's time, the last turn would be too late.
    replies = send_all([probe_of(site, timeout_seconds=3) for _ in range(16)], ca, in_flight=4)
    assert [reply.status for reply in replies] == [200] * 16
    assert 2 <= most <= 4


def test_descriptors_are_given_back(site: TlsSite, ca: str) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def run() -> tuple[int, int]:
        transport = Transport(20, ca)
        await transport.send(probe_of(site))
        before = descriptors()
        for _ in range(5):
            await asyncio.gather(*(transport.send(probe_of(site)) for _ in range(20)))
        site.answer = tls.reset_after_request
        await asyncio.gather(*(transport.send(probe_of(site)) for _ in range(20)))
        deadline = time.monotonic() + 5  # the server, in this process too, closes its own in threads
        while (after := descriptors()) > before and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        transport.close()
        return before, after

    before, after = asyncio.run(run())
    assert after <= before


def test_closing_ends_what_is_in_flight(site: TlsSite, ca: str) -> None:
    site.answer = tls.hang_after_request

    async def run() -> None:
        transport = Transport(10, ca)
        waiting = [asyncio.create_task(transport.send(probe_of(site, timeout_seconds=30))) for _ in range(3)]
        while len(site.requests) < 3:
            await asyncio.sleep(0.01)
        transport.close()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*waiting, return_exceptions=True)
        )

    began = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - began < 5


def test_a_probe_that_is_cancelled_leaves_the_others_alone(site: TlsSite, ca: str) -> None:
    site.answer = tls.hang_after_request

    async def run() -> Reply:
        transport = Transport(10, ca)
        hanging = asyncio.create_task(transport.send(probe_of(site, timeout_seconds=30)))
        while not site.requests:
            await asyncio.sleep(0.01)
        hanging.cancel()
        site.answer = tls.respond()
        reply = await transport.send(probe_of(site))
        transport.close()
        return reply

    assert asyncio.run(run()).status == 200


def _zone(query: Any, *records: str) -> Any:
    """The answer of a small zone: what it has of the name and type, and its alias."""
    reply = query.reply()
    name = str(query.q.qname)
    for record in records:
        (rr,) = RR.fromZone(record)
        if str(rr.rname) == name:
            reply.add_answer(rr)
    return reply


def test_who_must_see_a_resolver_lie_keeps_no_answer(
    site: TlsSite, ca: str, scripted: ScriptedDns, settings: Any
) -> None:
    """A canary that still lives on an old answer would call a vantage point seeing that resolves nothing any more."""
    settings.AUTHORITY_OVERRIDES = {"cdn.test": scripted.text}

    async def run(is_cached: bool) -> list[Fault | None]:
        transport, found = Transport(10, ca, is_cached=is_cached), []
        try:
            for records in (["edge.cdn.test. 30 A 127.0.0.1"], []):
                scripted.script = lambda query, protocol, records=records: _zone(query, *records)
                found.append((await transport.send(probe_of(site, address="edge.cdn.test"))).fault)
        finally:
            transport.close()
        return found

    assert asyncio.run(run(True)) == [None, None]
    assert asyncio.run(run(False)) == [None, Fault.DNS]


@pytest.fixture
def as_resolver(scripted: ScriptedDns, settings: Any, monkeypatch: pytest.MonkeyPatch) -> ScriptedDns:
    """The scripted server as our resolver, which is not waited for long."""
    settings.DNS_RESOLVERS = [scripted.text]
    monkeypatch.setattr(addresses, "TRY_SECONDS", 0.2)
    return scripted


def test_a_lost_datagram_is_no_fault_of_the_name(site: TlsSite, ca: str, as_resolver: ScriptedDns) -> None:
    asked: list[str] = []

    def lose_the_first(query: Any, protocol: str) -> Any:
        asked.append(protocol)
        return None if len(asked) == 1 else _zone(query, "edge.cdn.test. 30 A 127.0.0.1")

    as_resolver.script = lose_the_first
    reply = send(probe_of(site, address="edge.cdn.test", family=Family.IPV4, timeout_seconds=2), ca)
    assert (reply.status, asked) == (200, ["udp", "udp"])


@pytest.mark.parametrize(("later", "fault"), [(None, None), ("SERVFAIL", Fault.DNS), ("NXDOMAIN", Fault.DNS)])
def test_a_silent_resolver_is_no_news_about_a_name_and_an_answer_is(
    site: TlsSite, ca: str, as_resolver: ScriptedDns, later: str | None, fault: Fault | None
) -> None:
    def answer(query: Any, protocol: str) -> Any:
        return _zone(query, "edge.cdn.test. 0 A 127.0.0.1")

    def change_its_mind(query: Any, protocol: str) -> Any:
        reply = query.reply()
        reply.header.rcode = getattr(RCODE, later or "NOERROR")
        return reply if later else None

    async def run() -> list[Fault | None]:
        transport, found = Transport(10, ca), []
        probe = probe_of(site, address="edge.cdn.test", family=Family.IPV4, timeout_seconds=2)
        try:
            for script in (answer, change_its_mind):
                as_resolver.script = script
                found.append((await transport.send(probe)).fault)
        finally:
            transport.close()
        return found

    assert asyncio.run(run()) == [None, fault]


# --- what a hostile owner may not do to the others ----------------------------------------------------------------------

DHE_SUITES = {0x0033, 0x0039, 0x0067, 0x006B, 0x006C, 0x006D, 0x0088, 0x0045, 0x009E, 0x009F, 0xC09E, 0xC09F, 0xCCAA}


def test_no_server_may_choose_a_modulus_that_stops_the_loop(site: TlsSite, ca: str) -> None:
    hellos: list[bytes] = []

    def keep(connection: socket.socket) -> bool:
        hellos.append(connection.recv(4096, socket.MSG_PEEK))
        return True

    site.greet = keep
    assert send(probe_of(site), ca).status == 200
    hello = hellos[0]
    after_session = 44 + hello[43]  # record and handshake headers, version, random, session id
    count = int.from_bytes(hello[after_session : after_session + 2], "big")
    suites = hello[after_session + 2 : after_session + 2 + count]
    offered = {int.from_bytes(suites[n : n + 2], "big") for n in range(0, count, 2)}
    assert 0x1301 in offered and len(offered) > 5
    assert not offered & DHE_SUITES


def test_handles_are_shared_whatever_headers_they_send(site: TlsSite, ca: str) -> None:
    async def run() -> int:
        transport = Transport(10, ca)
        try:
            for n in range(5):
                await transport.send(probe_of(site, headers=(f"X-Probe: {n}",)))
            await transport.send(probe_of(site))
            return sum(map(len, transport._idle.values()))
        finally:
            transport.close()

    assert asyncio.run(run()) == 1
    sent = [request.headers.get("x-probe") for request in site.requests]
    assert sent == ["0", "1", "2", "3", "4", None], "no customer's header is sent to another"
