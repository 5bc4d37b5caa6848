"""`manage.py probe` as the command line has it: real TLS, one JSON document, exit 0 for any outcome."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from services.management.commands.probe import _target
from tests.services import tls
from tranche_site.demo import certificates

HOST = "www.shop.test"


@pytest.fixture
def ca(tmp_path: Path) -> str:
    certificates.make(tmp_path, [HOST])
    return str(tmp_path / "ca.pem")


@pytest.fixture
def site(tmp_path: Path, ca: str) -> Iterator[tls.TlsSite]:
    site = tls.TlsSite(tmp_path / "good.pem")
    site.answer = tls.respond(200, b"hello shop")
    yield site
    site.close()


def probe(*arguments: str) -> dict[str, Any]:
    out = StringIO()
    call_command("probe", *arguments, "--json", stdout=out)
    told: dict[str, Any] = json.loads(out.getvalue())
    return told


def through(site: tls.TlsSite, ca: str, *more: str) -> dict[str, Any]:
    return probe(HOST, "--via", f"127.0.0.1:{site.port}", "--ca", ca, "--allow-private", *more)


def test_a_good_probe(site: tls.TlsSite, ca: str) -> None:
    told = through(site, ca, "--body", "hello")
    assert (told["outcome"], told["status"], told["reason"], told["remote_address"]) == ("ok", 200, "", "127.0.0.1")
    assert 85 <= told["certificate_days"] <= 90
    assert list(told["phases_ms"]) == ["dns", "connect", "tls", "first_byte", "total"]
    assert all(ms is not None and ms >= 0 for ms in told["phases_ms"].values())
    assert told["phases_ms"]["total"] >= told["phases_ms"]["tls"]
    assert [request.headers["host"] for request in site.requests] == [HOST]


def test_headers_and_the_family_are_the_callers_choice(site: tls.TlsSite, ca: str) -> None:
    assert through(site, ca, "--header", "X-Probe: word", "--header", "Accept-Language: de")["outcome"] == "ok"
    assert site.requests[0].headers["x-probe"] == "word"
    assert site.requests[0].headers["accept-language"] == "de"
    told = through(site, ca, "--family", "6")
    assert (told["outcome"], told["reason"]) == ("dns", "127.0.0.1 has no IPv6 address")
    with pytest.raises(CommandError, match="is set by the probe itself"):
        through(site, ca, "--header", "Host: other.test")


def test_it_reads_well(site: tls.TlsSite, ca: str) -> None:
    out = StringIO()
    call_command(
        "probe", HOST, "--via", f"127.0.0.1:{site.port}", "--ca", ca, "--allow-private", "--body", "absent", stdout=out
    )
    lines = out.getvalue().splitlines()
    assert lines[0] == "wrong_body: status 200, but “absent” is not in the body"
    assert lines[3].endswith(", by CN = Tranche demo authority") and "days left, until 20" in lines[3]


@pytest.mark.parametrize(
    ("answer", "more", "outcome"),
    [
        (tls.respond(500), [], "http_5xx"),
        (tls.respond(500), ["--expect", "500"], "ok"),
        (tls.respond(522), [], "edge_error"),
        (tls.respond(403), [], "blocked"),
        (tls.respond(404), [], "wrong_status"),
        (tls.reset_after_request, [], "connect"),
        (tls.hang_after_request, ["--timeout", "0.5"], "timeout"),
        (tls.respond(200), ["--body", "somebody else's page"], "wrong_body"),
    ],
)
def test_every_outcome_is_told(site: tls.TlsSite, ca: str, answer: tls.Answer, more: list[str], outcome: str) -> None:
    site.answer = answer
    told = through(site, ca, *more)
    assert told["outcome"] == outcome
    assert bool(told["reason"]) == (outcome != "ok")


def test_an_authority_that_is_not_trusted(site: tls.TlsSite) -> None:
    assert probe(HOST, "--via", f"127.0.0.1:{site.port}", "--allow-private")["outcome"] == "tls"


def test_private_targets_are_refused_unless_allowed(site: tls.TlsSite, settings: Any) -> None:
    settings.PROBE_ALLOW_PRIVATE = False
    told = probe(HOST, "--via", f"127.0.0.1:{site.port}")
    assert told["outcome"] == "unknown"
    assert "not the public internet" in told["reason"]
    assert site.requests == []


def test_the_readable_form(site: tls.TlsSite, ca: str) -> None:
    out = StringIO()
    call_command("probe", HOST, "--via", f"127.0.0.1:{site.port}", "--ca", ca, "--allow-private", stdout=out)
    assert out.getvalue().startswith("ok\n")
    assert "days left" in out.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ["https://www.shop.test"],
        ["127.0.0.1"],
        [HOST, "--via", "127.0.0.1:0"],
        [HOST, "--via", "[::1]:x"],
        [HOST, "--via", "not a host"],
        [HOST, "--path", "x"],
        [HOST, "--expect", "abc"],
        [HOST, "--timeout", "0"],
        [HOST, "--ca", "/nowhere.pem"],
    ],
)
def test_bad_arguments_are_said(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        call_command("probe", *arguments)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("edge.cdn.test", ("edge.cdn.test", 443)),
        ("edge.cdn.test:8443", ("edge.cdn.test", 8443)),
        ("192.0.2.1:8443", ("192.0.2.1", 8443)),
        ("::1", ("::1", 443)),
        ("[::1]", ("::1", 443)),
        ("[::1]:8443", ("::1", 8443)),
    ],
)
def test_targets(text: str, target: tuple[str, int]) -> None:
    assert _target(text) == target
