from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from services import hostnames

LONGEST = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("www.example.com", "www.example.com"),
        ("WWW.Example.COM", "www.example.com"),
        ("www.example.com.", "www.example.com"),
        ("  www.example.com\n", "www.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("www。example．com", "www.example.com"),
        ("www.example.com。", "www.example.com"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ],
)
def test_one_normal_form(typed: str, normal: str) -> None:
    assert hostnames.normalize(typed) == normal
    hostnames.validate(typed)


@given(st.text(max_size=80))
def test_normalizing_twice_is_normalizing_once(text: str) -> None:
    once = hostnames.normalize(text)
    if hostnames.problem(once) is None:
        assert hostnames.normalize(once) == once
        assert once.isascii() and once == once.lower()


@pytest.mark.parametrize(
    "hostname",
    [
        "a.example",
        "1.example",
        "1and1.example",
        "a-b.example",
        "a--b.example",
        "3.14.example",
        "1.2.3.4.example",
        "x.0xyz",
        f"{'a' * 63}.example",
        LONGEST,
    ],
)
def test_names_that_may_be_protected(hostname: str) -> None:
    hostnames.validate(hostname)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("https://www.example.com", "scheme"),
        ("https://www.example.com/path", "scheme"),
        ("www.example.com/", "path"),
        ("www.example.com/path", "path"),
        ("www.example.com:443", "port"),
        ("user:secret@www.example.com", "port"),
        ("user@www.example.com", "user@www"),
        ("www example.com", "spaces"),
        ("www.exam\tple.com", "spaces"),
        ("*.example.com", "Wildcards"),
        ("www.*.com", "“\\*”"),
        ("localhost", "full name"),
        ("com", "full name"),
        ("", "full name"),
        (".", "full name"),
        ("192.0.2.1", "IP address"),
        ("[2001:db8::1]", "IP address"),
        ("2001:db8::1", "IP address"),
        ("::ffff:127.0.0.1", "IP address"),
        ("１２７.0.0.1", "IP address"),
        ("127.1", "IP address"),
        ("127.0.0.01", "IP address"),
        ("0x7f.1", "IP address"),
        ("127.0x1", "IP address"),
        ("1.2.3.0xff", "IP address"),
        ("127.0x", "IP address"),
        ("999.999.999.999", "IP address"),
        ("www..com", "“”"),
        (".example.com", "“”"),
        ("-www.example.com", "“-www”"),
        ("www-.example.com", "“www-”"),
        ("under_score.example.com", "“under_score”"),
        ("www.example.com\x00", "“com"),
        ("www.example.com;", "“com;”"),
        (f"{'a' * 64}.example", "is not a valid label"),
        (f"a{LONGEST}", "253"),
        (f"{LONGEST}d", "253"),
        ("é" * 70 + ".example", "is not a valid label"),
    ],
)
def test_what_to_change_is_said(typed: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says) as refused:
        hostnames.validate(typed)
    assert refused.value.code == "invalid_hostname"


@pytest.mark.parametrize("target", ["edge.example.net", "192.0.2.1", "2001:db8::1", "[2001:db8::1]"])
def test_targets_are_names_or_addresses(target: str) -> None:
    hostnames.validate_target(target)


@pytest.mark.parametrize("target", ["", "edge", "edge.example.net:443", "192.0.2.1:443", "2130706433", "0x7f.1"])
def test_nothing_else_is_a_target(target: str) -> None:
    with pytest.raises(ValidationError):
        hostnames.validate_target(target)


@pytest.mark.parametrize(
    ("text", "is_fine"), [("/a?b=c%20d", True), ("/a b", False), ("/ä", False), ("/a\n", False), ("/a\x7f", False)]
)
def test_printable_ascii(text: str, is_fine: bool) -> None:
    assert hostnames.is_printable_ascii(text) is is_fine
