"""Pairs of replies in tables, and two real TLS servers on loopback that play the CDNs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services import parity
from services.parity import (
    BODY_LIMIT_BYTES,
    DEFAULT_PATHS,
    Cookie,
    ParityReport,
    Reply,
    UrlParity,
    Via,
    compare,
    remarks,
)
from services.probe import Probe
from services.transport import Transport
from tests.servers import free_port
from tests.services import tls
from tests.services.tls import HOST, TlsSite, pki_fixture  # noqa: F401

PAGE = Reply(
    status=200,
    headers={"content-type": ["text/html; charset=utf-8"], "cache-control": ["public, max-age=60"]},
    body_sha256="a" * 64,
    body_bytes=1000,
)


def page(**headers: str | list[str]) -> Reply:
    """PAGE with other headers, in the spelling of keyword arguments."""
    own = {name.replace("_", "-"): [value] if isinstance(value, str) else value for name, value in headers.items()}
    return replace(PAGE, headers={**PAGE.headers, **own})


def redirect(location: str, status: int = 301) -> Reply:
    return Reply(status=status, location=location)


def cookies(*lines: str) -> Reply:
    return replace(PAGE, cookies=frozenset(filter(None, map(parity._cookie, lines))))


def told(primary: Reply, backup: Reply, again: Reply | None = None) -> list[tuple[str, bool]]:
    return [(difference.what, difference.is_blocking) for difference in compare(primary, backup, again)]


# --- what is alike ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primary", "backup"),
    [
        pytest.param(PAGE, PAGE, id="the same"),
        pytest.param(page(content_type="text/html; charset=utf-8"), page(content_type='Text/HTML;charset="UTF-8"'), id="type"),
        pytest.param(page(cache_control="max-age=60, Public"), page(cache_control=["public", "max-age=60"]), id="order"),
        pytest.param(page(vary="Accept-Encoding, Origin"), page(vary="origin"), id="vary by packing"),
        pytest.param(page(x_frame_options="DENY"), page(x_frame_options="deny"), id="case"),
        pytest.param(
            page(strict_transport_security="max-age=1; includeSubDomains"),
            page(strict_transport_security="includesubdomains;max-age=1"),
            id="strict transport",
        ),
        pytest.param(
            page(content_security_policy="default-src 'self'; script-src 'nonce-abc' https:"),
            page(content_security_policy="script-src https: 'nonce-xyz';  default-src 'self';"),
            id="a policy's nonces",
        ),
        pytest.param(
            page(date="x", age="1", via="1.1 a", x_cache="HIT", cf_ray="1", server="cloudflare", server_timing="a"),
            page(x_amz_cf_id="2", x_served_by="y", server="AmazonS3", etag="z", alt_svc="h3"),
            id="a CDN's own",
        ),
        pytest.param(
            redirect("https://WWW.good.test:443/%c3%a9"), redirect("https://www.good.test./%C3%A9"), id="redirect"
        ),
        pytest.param(redirect("https://www.good.test"), redirect("https://www.good.test/#top"), id="root"),
        pytest.param(redirect("http://[bad"), redirect("http://[bad"), id="senseless, but the same"),
        pytest.param(
            cookies("sid=1; Path=/; Secure; HttpOnly; Max-Age=5"), cookies("sid=2; secure; httponly; path=/"), id="cookie"
        ),
        pytest.param(cookies("a=1; Domain=.good.test"), cookies("a=1; domain=GOOD.test; Path=x"), id="domain"),
        pytest.param(cookies("__cf_bm=1; Secure", "incap_ses_1_2=3"), cookies("_abck=1"), id="CDNs' own cookies"),
        pytest.param(Reply(status=404), Reply(status=404), id="missing through both"),
    ],
)  # fmt: skip
def test_what_does_not_matter_makes_no_difference(primary: Reply, backup: Reply) -> None:
    assert compare(primary, backup) == compare(backup, primary) == []


# --- what differs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primary", "backup", "what", "is_blocking"),
    [
        pytest.param(PAGE, Reply(error="deadline passed"), "answer", True, id="backup silent"),
        pytest.param(Reply(error="deadline passed"), PAGE, "answer", True, id="primary silent"),
        pytest.param(Reply(error="a"), Reply(error="a"), "answer", True, id="both silent"),
        *(
            pytest.param(replace(PAGE, status=a), replace(PAGE, status=b), "status", True, id=f"{a}-{b}")
            for a, b in [(200, 503), (200, 403), (200, 301), (301, 302), (404, 200), (200, 404), (200, 204)]
        ),
        pytest.param(redirect("https://a.test/x"), redirect("http://a.test/x"), "redirect", True, id="scheme"),
        pytest.param(redirect("https://a.test/x"), redirect("https://a.cdn.test/x"), "redirect", True, id="host"),
        pytest.param(redirect("https://a.test/x"), redirect("https://a.test:8443/x"), "redirect", True, id="port"),
        pytest.param(redirect("https://a.test/x"), redirect("https://a.test/X"), "redirect", True, id="path"),
        pytest.param(redirect("https://a.test/x"), redirect("http://[bad"), "redirect", True, id="senseless"),
        pytest.param(redirect("https://a.test/?a=1"), redirect("https://a.test/"), "redirect query", False, id="query"),
        pytest.param(cookies("sid=1"), cookies(), "cookie sid", True, id="cookie missing"),
        pytest.param(cookies(), cookies("sid=1"), "cookie sid", False, id="cookie added"),
        pytest.param(cookies("sid=1; Secure"), cookies("sid=1"), "cookie sid", False, id="not secure"),
        pytest.param(cookies("sid=1; HttpOnly"), cookies("sid=1"), "cookie sid", False, id="not HTTP only"),
        pytest.param(cookies("sid=1; SameSite=Lax"), cookies("sid=1; SameSite=None"), "cookie sid", False, id="same site"),
        pytest.param(cookies("sid=1; Domain=a.test"), cookies("sid=1; Domain=b.test"), "cookie sid", False, id="domain"),
        pytest.param(cookies("sid=1; Path=/"), cookies("sid=1; Path=/x"), "cookie sid", False, id="cookie's path"),
        *(
            pytest.param(page(**{name: a}), page(**{name: b}) if b else PAGE, f"header {name.replace('_', '-')}", False, id=name)
            for name, a, b in [
                ("content_type", "text/html", "text/plain"), ("cache_control", "max-age=60", "no-store"), ("vary", "Cookie", ""),
                ("strict_transport_security", "max-age=60", ""), ("content_security_policy", "default-src 'self'", ""),
                ("access_control_allow_origin", "*", ""), ("access_control_allow_headers", "x-a, x-b", "x-a"),
                ("x_frame_options", "DENY", "SAMEORIGIN"), ("x_robots_tag", "all", "noindex"),
            ]
        ),
        pytest.param(PAGE, replace(PAGE, body_sha256="b" * 64), "body", False, id="body"),
        pytest.param(PAGE, replace(PAGE, body_sha256="b" * 64, truncated=True), "body", False, id="body cut"),
    ],
)  # fmt: skip
def test_a_difference_is_named_and_graded(primary: Reply, backup: Reply, what: str, is_blocking: bool) -> None:
    (difference,) = compare(primary, backup)
    assert (difference.what, difference.is_blocking) == (what, is_blocking)
    assert difference.advice
    assert difference.primary and difference.backup


def test_both_sides_are_shown_in_words() -> None:
    (cookie,) = compare(cookies("sid=1; Secure; HttpOnly"), cookies())
    assert (cookie.primary, cookie.backup) == ("httponly; secure", "nothing")
    (body,) = compare(PAGE, replace(PAGE, body_sha256="b" * 64, body_bytes=7))
    assert (body.primary, body.backup) == (f"1000 bytes, SHA-256 {'a' * 16}…", f"7 bytes, SHA-256 {'b' * 16}…")
    assert "made anew for each request" in body.advice
    (silence,) = compare(PAGE, Reply(error="Connection refused"))
    assert (silence.primary, silence.backup) == ("status 200", "no answer: Connection refused")


@pytest.mark.parametrize(
    ("primary", "backup", "words"),
    [
        (200, 502, "origin's address"),
        (200, 403, "firewall"),
        (200, 302, "redirects"),
        (404, 200, "error pages"),
        (200, 404, "missing"),
        (200, 204, "rules for this URL"),
    ],
)
def test_the_advice_follows_from_the_statuses(primary: int, backup: int, words: str) -> None:
    assert words in compare(Reply(status=primary), Reply(status=backup))[0].advice


def test_another_status_says_all_there_is_to_say() -> None:
    error_page = replace(PAGE, status=503, headers={}, body_sha256="c" * 64)
    assert told(PAGE, error_page) == [("status", True)]


def test_the_gravest_comes_first() -> None:
    primary = replace(cookies("a=1", "z=1; Secure"), body_sha256="b" * 64)
    assert told(primary, cookies("a=1; Secure")) == [("cookie z", True), ("cookie a", False), ("body", False)]


def test_what_a_server_says_is_cut_and_made_printable() -> None:
    (difference,) = compare(page(cache_control="a\x1b[31m" + "b" * 5000), PAGE)
    assert difference.primary.startswith("a\N{REPLACEMENT CHARACTER}[31m")
    assert len(difference.primary) == 200


# --- what the primary answers differently each time -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primary", "again", "backup", "what"),
    [
        (PAGE, replace(PAGE, body_sha256="b" * 64), replace(PAGE, body_sha256="c" * 64), "body"),
        (*(page(cache_control=f"max-age={n}") for n in range(3)), "header cache-control"),
        (cookies("once=1"), cookies(), cookies(), "cookie once"),
        (*(redirect(f"https://a.test/?state={n}") for n in range(3)), "redirect query"),
    ],
)
def test_in_what_the_primary_differs_from_itself_nothing_is_compared(
    primary: Reply, again: Reply, backup: Reply, what: str
) -> None:
    assert what in [name for name, _ in told(primary, backup)]
    assert told(primary, backup, again) == []
    (remark,) = remarks(primary, backup, again)
    assert "differently each time" in remark and what in remark


def test_a_steady_primary_is_compared_and_nothing_is_remarked() -> None:
    other = replace(PAGE, body_sha256="b" * 64)
    assert told(PAGE, other, PAGE) == [("body", False)]
    assert remarks(PAGE, other, PAGE) == []


def test_a_primary_that_changes_its_status_is_no_measure() -> None:
    failing = replace(PAGE, status=503)
    for backup in (PAGE, failing):
        assert told(PAGE, backup, failing) == []
        assert "200 and then 503" in remarks(PAGE, backup, failing)[0]
    assert told(PAGE, replace(PAGE, status=404), failing) == [("status", True)]


def test_a_second_answer_that_fails_is_remarked() -> None:
    assert told(PAGE, PAGE, Reply(error="deadline passed")) == []
    assert "did not answer a second time (deadline passed)" in remarks(PAGE, PAGE, Reply(error="deadline passed"))[0]


def test_bodies_that_are_packed_otherwise_are_not_compared() -> None:
    packed = replace(page(content_encoding="gzip"), body_sha256="b" * 64)
    assert told(PAGE, packed) == []
    assert "packs it" in remarks(PAGE, packed)[0]
    assert told(packed, replace(packed, body_sha256="c" * 64)) == [("body", False)]


def test_what_was_cut_and_what_was_refused_twice_is_remarked() -> None:
    cut = replace(PAGE, truncated=True)
    assert remarks(cut, cut) == ["Only the first 1000 bytes of the body are compared."]
    assert "can't be seen by this" in remarks(Reply(status=403), Reply(status=403))[0]


# --- the report -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("urls", "is_blocking", "summary"),
    [
        ([("/", PAGE, PAGE), ("/no", Reply(404), Reply(404))], False, "All 2 URLs of a.test answer alike through both paths."),
        ([("/", PAGE, page(vary="cookie"))], False, "1 of 1 URLs of a.test differ a little between the paths."),
        ([("/", PAGE, PAGE), ("/x", PAGE, Reply(500))], True, "The backup does not answer like the primary: /x (status)."),
        ([("/", Reply(403), Reply(403))], True, "No URL of a.test gives a good answer through both paths"),
    ],
)  # fmt: skip
def test_a_report_sums_up(urls: list[tuple[str, Reply, Reply]], is_blocking: bool, summary: str) -> None:
    report = ParityReport("a.test", tuple(UrlParity(path, primary, backup) for path, primary, backup in urls))
    assert report.is_blocking is is_blocking
    assert report.summary.startswith(summary)


def test_too_few_paths_are_made_up_for() -> None:
    assert parity.to_fetch([]) == list(DEFAULT_PATHS)
    assert parity.to_fetch(["/a", "/", "/a"]) == ["/a", "/", "/robots.txt", "/favicon.ico", "/sitemap.xml"]
    six = [f"/{n}" for n in range(6)]
    assert parity.to_fetch(six) == six


@pytest.mark.parametrize("path", ["", "x", "@evil.test/", ".evil.test/", "/a b", "/ü", "/a\r\nX: y", "/a#b"])
def test_a_path_that_can_t_be_asked_for_is_refused(path: str) -> None:
    assert parity.path_problem(path)
    with pytest.raises(ValueError, match="“"):
        parity.to_fetch(["/", path])


def test_there_is_a_most_of_paths() -> None:
    with pytest.raises(ValueError, match="At most 20"):
        parity.to_fetch([f"/{n}" for n in range(21)])


# --- fetching ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def open_site(pki: Path) -> Iterator[Callable[..., TlsSite]]:
    with contextlib.ExitStack() as stack:

        def open_site(certificate: str = "good.pem") -> TlsSite:
            site = TlsSite(pki / certificate)
            stack.callback(site.close)
            return site

        yield open_site


@pytest.fixture
def site(open_site: Callable[..., TlsSite]) -> TlsSite:
    return open_site()


@pytest.fixture
def ca(pki: Path) -> str:
    return str(pki / "ca.pem")


def via(site: TlsSite) -> Via:
    return Via(site.address, site.port)


def fetch(site: TlsSite | Via, ca: str, path: str = "/", **kw: Any) -> Reply:
    async def run() -> Reply:
        transport = Transport(1, ca)
        try:
            return await parity.fetch(transport, HOST, path, site if isinstance(site, Via) else via(site), **kw)
        finally:
            transport.close()

    return asyncio.run(run())


def test_a_reply_has_all_that_is_compared(site: TlsSite, ca: str) -> None:
    site.answer = tls.respond(
        200, b"all is well", "X-Frame-Options: DENY", "Set-Cookie: a=1; Path=/; Secure", "set-cookie: b=2=3;HttpOnly",
        "Set-Cookie: nameless", "Vary: Cookie", "VARY: Origin",
    )  # fmt: skip
    reply = fetch(site, ca, "/page?x=1", request_headers=("X-Probe: word",))
    assert (reply.status, reply.error, reply.location, reply.truncated) == (200, "", "", False)
    assert reply.headers["x-frame-options"] == ["DENY"]
    assert reply.headers["vary"] == ["Cookie", "Origin"]
    assert reply.cookies == {Cookie("a", frozenset({"path=/", "secure"})), Cookie("b", frozenset({"httponly"}))}
    assert (reply.body_bytes, reply.body_sha256) == (11, hashlib.sha256(b"all is well").hexdigest())
    (request,) = site.requests
    assert (request.method, request.path, request.server_name) == ("GET", "/page?x=1", HOST)
    assert (request.headers["host"], request.headers["x-probe"]) == (HOST, "word")


@pytest.mark.parametrize(
    ("location", "absolute"),
    [
        ("/next?a=1", f"https://{HOST}/next?a=1"),
        ("next", f"https://{HOST}/a/next"),
        ("//other.test/", "https://other.test/"),
        ("http://127.0.0.1:9/", "http://127.0.0.1:9/"),
        ("http://[bad", "http://[bad"),
    ],
)
def test_a_redirect_is_read_and_never_followed(site: TlsSite, ca: str, location: str, absolute: str) -> None:
    site.answer = tls.respond(302, b"", f"Location: {location}")
    reply = fetch(site, ca, "/a/b")
    assert (reply.status, reply.location, site.accepts) == (302, absolute, 1)


def test_only_the_head_of_the_response_itself_counts(site: TlsSite, ca: str) -> None:
    site.answer = tls.raw(
        b"HTTP/1.1 103 Early Hints\r\nX-Frame-Options: hinted\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n  b\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"2\r\nhi\r\n0\r\nX-Frame-Options: trailing\r\n\r\n",
    )
    reply = fetch(site, ca)
    assert (reply.status, reply.body_bytes) == (200, 2)
    assert reply.headers == {"x-folded": ["a b"], "transfer-encoding": ["chunked"]}


@pytest.mark.parametrize(("size", "is_cut"), [(BODY_LIMIT_BYTES - 1, False), (BODY_LIMIT_BYTES + 1, True)])
def test_a_body_is_read_up_to_the_limit(site: TlsSite, ca: str, size: int, is_cut: bool) -> None:
    site.answer = tls.respond(200, b"x" * size)
    reply = fetch(site, ca)
    assert (reply.body_bytes, reply.truncated) == (min(size, BODY_LIMIT_BYTES), is_cut)
    assert reply.body_sha256 == hashlib.sha256(b"x" * reply.body_bytes).hexdigest()


def test_the_deadline_is_for_the_whole_answer(site: TlsSite, ca: str) -> None:
    def drip(secured: ssl.SSLSocket, request: tls.Request) -> None:
        secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        while True:
            secured.sendall(b"x")
            time.sleep(0.02)

    site.answer = drip
    began = time.monotonic()
    assert "deadline" in fetch(site, ca, timeout_seconds=0.3).error
    assert time.monotonic() - began < 1


def test_a_certificate_that_is_not_good_is_no_answer(open_site: Callable[..., TlsSite], ca: str) -> None:
    site = open_site("expired.pem")
    reply = fetch(site, ca)
    assert "expired" in reply.error
    assert (reply.status, site.requests) == (None, [])


def test_the_egress_guard_is_the_probes(site: TlsSite, ca: str, settings: Any) -> None:
    settings.PROBE_ALLOW_PRIVATE, settings.PROBE_PORTS = False, [site.port]
    assert fetch(site, ca).error.startswith("could not be asked: egress guard: 127.0.0.1 is in 127.0.0.0/8")
    assert fetch(Via("8.8.8.8", 25), ca).error == f"could not be asked: egress guard: port 25 is not one of {site.port}"
    assert site.accepts == 0


def test_a_probe_brings_back_a_head_only_if_it_keeps_one(site: TlsSite, ca: str) -> None:
    site.answer = tls.respond(200, b"x" * 100_000, "X-Secret: 1")
    plain = Probe(HOST, site.address, site.port, allow_private=True)

    async def run() -> list[tuple[bool, int, bool]]:
        transport = Transport(1, ca)
        try:
            replies = [await transport.send(replace(plain, keeps_head=keeps)) for keeps in (True, False)]
            replies.append(await transport.send(replace(plain, body_limit_bytes=200_000)))
            return [(b"X-Secret: 1\r\n" in r.head, len(r.body), r.is_cut) for r in replies] + [bool(replies[1].head)]
        finally:
            transport.close()

    assert asyncio.run(run()) == [(True, 65_536, True), (False, 65_536, True), (False, 100_000, False), False]


# --- the whole check --------------------------------------------------------------------------------------------------


def pages(**own: tls.Answer) -> tls.Answer:
    """A small site: `index`, `robots` and others at their paths, and 404 elsewhere."""

    def answer(secured: ssl.SSLSocket, request: tls.Request) -> None:
        name = request.path.strip("/").partition(".")[0] or "index"
        own.get(name, tls.respond(404, b"nothing here"))(secured, request)

    return answer


@pytest.fixture
def backup(open_site: Callable[..., TlsSite]) -> TlsSite:
    return open_site()


def test_two_cdns_that_are_configured_alike(site: TlsSite, backup: TlsSite, ca: str) -> None:
    site.answer = pages(index=tls.respond(200, b"hello", "X-Cache: HIT"), robots=tls.respond(200, b"User-agent: *"))
    backup.answer = pages(index=tls.respond(200, b"hello", "CF-Ray: 1"), robots=tls.respond(200, b"User-agent: *"))
    report = parity.check_parity(HOST, [], via(site), via(backup), ca_file=ca)
    assert (report.is_blocking, report.summary) == (False, f"All 5 URLs of {HOST} answer alike through both paths.")
    assert [url.path for url in report.urls] == list(DEFAULT_PATHS)
    assert not any(url.remarks for url in report.urls)
    assert sorted(request.path for request in site.requests) == sorted(2 * DEFAULT_PATHS)
    assert sorted(request.path for request in backup.requests) == sorted(DEFAULT_PATHS)


def test_two_cdns_that_are_not(site: TlsSite, backup: TlsSite, ca: str) -> None:
    count = iter(range(1000))

    def anew(secured: ssl.SSLSocket, request: tls.Request) -> None:
        tls.respond(200, b"request %d" % next(count))(secured, request)

    site.answer = pages(
        index=anew,
        login=tls.respond(200, b"login", "Set-Cookie: sid=1; Secure"),
        old=tls.respond(301, b"", "Location: /new"),
        a=tls.respond(200, b"a"),
    )
    backup.answer = pages(
        index=anew,
        login=tls.respond(200, b"login"),
        old=tls.respond(301, b"", "Location: https://edge.cdn.test/new"),
        a=tls.respond(200, b"b", "Cache-Control: no-store"),
        gone=tls.respond(200, b"welcome to your new CDN"),
    )
    report = parity.check_parity(HOST, ["/", "/login", "/old", "/a", "/gone"], via(site), via(backup), ca_file=ca)
    found = {url.path: [(d.what, d.is_blocking) for d in url.differences] for url in report.urls}
    assert found == {
        "/": [],
        "/login": [("cookie sid", True)],
        "/old": [("redirect", True)],
        "/a": [("header cache-control", False), ("body", False)],
        "/gone": [("status", True)],
    }
    assert report.is_blocking
    assert report.summary == (
        "The backup does not answer like the primary: /login (cookie sid), /old (redirect), /gone (status)."
    )
    (remark,) = report.urls[0].remarks
    assert remark == "Not compared, since the primary itself answers it differently each time: body."


def test_a_backup_that_does_not_answer(site: TlsSite, ca: str) -> None:
    report = parity.check_parity(HOST, [], via(site), Via("127.0.0.1", free_port()), ca_file=ca)
    assert report.is_blocking
    assert {d.what for url in report.urls for d in url.differences} == {"answer"}
    assert len(site.requests) == 5, "there is nothing to compare a second answer with"
