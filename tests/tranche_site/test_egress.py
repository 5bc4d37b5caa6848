"""Where our own connections may go, literal by literal: the registries of special-purpose addresses, and every way to
write an IPv4 address into an IPv6 one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from tranche_site.floor import egress

REFUSED_V4 = [
    # this network, loopback, private use, shared space, link-local with its metadata services
    "0.0.0.0", "0.0.0.1", "0.255.255.255", "127.0.0.0", "127.0.0.1", "127.0.0.53", "127.1.2.3", "127.255.255.255",
    "10.0.0.0", "10.0.0.1", "10.255.255.255", "172.16.0.0", "172.16.0.1", "172.31.255.255", "192.168.0.0",
    "192.168.1.1", "192.168.255.255", "100.64.0.0", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "169.254.0.0", "169.254.169.254", "169.254.170.2", "169.254.255.255",
    # IETF protocol assignments, documentation, benchmarking, AS112, AMT, 6to4 relays
    "192.0.0.0", "192.0.0.1", "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.0.0.192", "192.0.0.255",
    "192.0.2.0", "192.0.2.1", "192.0.2.255", "198.51.100.1", "198.51.100.255", "203.0.113.1", "203.0.113.255",
    "198.18.0.0", "198.18.0.1", "198.19.255.255", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1",
    # multicast, reserved, broadcast
    "224.0.0.0", "224.0.0.1", "224.0.0.251", "232.1.1.1", "239.1.1.1", "239.255.255.255", "240.0.0.0", "240.0.0.1",
    "254.1.2.3", "255.255.255.254", "255.255.255.255",
]  # fmt: skip

REFUSED_V6 = [
    "::", "::1", "0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001",
    # IPv4-compatible, mapped, translated
    "::127.0.0.1", "::7f00:1", "::10.0.0.1", "::169.254.169.254", "::8.8.8.8", "::2",
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::FFFF:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe", "::ffff:192.168.0.1", "::ffff:0.0.0.0", "::ffff:224.0.0.1", "::ffff:100.64.0.1",
    "0:0:0:0:0:ffff:127.0.0.1", "::ffff:0:127.0.0.1", "::ffff:0:169.254.169.254", "::ffff:0:8.8.8.8",
    # NAT64: the well-known prefix decoded, the local one whole, wherever it keeps its IPv4 address
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b::192.168.0.1", "64:ff9b::0.0.0.0",
    "64:ff9b::224.0.0.1", "64:ff9b:1::1", "64:ff9b:1::127.0.0.1", "64:ff9b:1::808:808",
    "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9fe:a9:fe00:808:808", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    # 6to4 and Teredo
    "2002:7f00:1::", "2002:7f00:1::1", "2002:a9fe:a9fe::", "2002:a00:1::1", "2002:c0a8:1::1", "2002:6440:1::",
    "2002:e000:1::", "2002:0:1::", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    # protocol assignments, documentation, benchmarking, ORCHID, AS112
    "2001:1::1", "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:10::1", "2001:20::1", "2001:30::1",
    "2001:1ff:ffff::1", "2001:db8::1", "2001:db8:ffff:ffff::1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1",
    "5f00::1", "5f00:ffff::1", "100::1", "100::ffff:ffff:ffff:ffff", "100:0:0:1::1",
    # unique local, link-local, site-local, multicast
    "fc00::1", "fd00::1", "fd00:ec2::254", "fdff:ffff::1", "fe80::1", "fe80::a9fe:a9fe", "febf::1", "fec0::1",
    "feff::1", "ff00::1", "ff01::1", "ff02::1", "ff02::fb", "ff05::2", "ff0e::1", "ff3e::1",
    # zone ids change nothing
    "fe80::1%eth0", "fe80::1%1", "fe80::1%lo", "::1%lo", "fec0::1%2", "ff02::1%eth0", "::ffff:127.0.0.1%lo",
    "64:ff9b::127.0.0.1%eth0",
    # never given out by IANA
    "1::1", "200::1", "400::1", "1000::1", "1fff::1", "4000::1", "8000::1", "c000::1", "e000::1", "fe00::1",
]  # fmt: skip

ALLOWED = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "104.16.0.1", "126.255.255.255",
    "128.0.0.1", "151.101.1.1", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1",
    "192.0.3.1", "192.31.195.255", "192.88.98.1", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
    "198.51.99.1", "198.51.101.1", "203.0.112.1", "203.0.114.1", "223.255.255.255",
    "2000::1", "2001:200::1", "2001:4860:4860::8888", "2001:db7:ffff::1", "2001:db9::1", "2003::1", "2400:cb00::1",
    "2606:4700::6810:1", "2620:4f:7fff::1", "2620:4f:8001::1", "2a04:4e42::1", "3ffe::1", "3fff:1000::1",
    "2606:4700:0:0:0:0:0:1", "2606:4700:0000::6810:0001",
    # the forms that stand for a public IPv4 address
    "::ffff:8.8.8.8", "::ffff:808:808", "64:ff9b::8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
]  # fmt: skip

NOT_ADDRESSES = [
    "", " ", "%", "%eth0", "localhost", "www.example.com", "127.1", "0x7f.1", "0x7f000001", "2130706433", "017700000001",
    "0177.0.0.1", "127.0.0.01", "127.0.0.1.", "127.0.0.1 ", " 127.0.0.1", "127.0.0.1\n", "127.0.0.1:443", "１２７.0.0.1",
    "[::1]", "[::ffff:127.0.0.1]", "::1/128", "1.1.1.1/32", "1.1.1.1:443", "256.1.1.1", "1.1.1", "1.1.1.1.1", "::g",
    ":::1", "1::2::3", "8.8.8.8\x00", "-1.1.1.1", "0", "1e3.1.1.1", "@8.8.8.8", "8.8.8.8@127.0.0.1", "８.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("address", [*REFUSED_V4, *REFUSED_V6])
def test_what_is_not_the_public_internet_is_refused_and_named(address: str) -> None:
    reason = egress.refusal(address, 443)
    assert reason
    assert "public internet" in reason
    assert str(ipaddress.ip_address(address.partition("%")[0])) in reason


@pytest.mark.parametrize("address", ALLOWED)
@pytest.mark.parametrize("port", [80, 443])
def test_what_is_public_is_allowed(address: str, port: int) -> None:
    assert egress.refusal(address, port) is None


@pytest.mark.parametrize("text", NOT_ADDRESSES)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    assert "is not an IP address" in (egress.refusal(text, 443) or "")


@pytest.mark.parametrize("address", REFUSED_V4)
@pytest.mark.parametrize("form", ["::ffff:{}", "::{}", "64:ff9b::{}", "::ffff:0:{}", "64:ff9b:1::{}", "2002:{hex}::1"])
def test_no_ipv6_form_hides_an_ipv4_address(address: str, form: str) -> None:
    digits = f"{int(ipaddress.IPv4Address(address)):08x}"
    literal = form.format(address, hex=f"{digits[:4]}:{digits[4:]}")
    assert egress.refusal(literal, 443), literal


@pytest.mark.parametrize("port", [0, 1, 22, 25, 53, 79, 81, 444, 5432, 6379, 8080, 8443, 65535])
def test_other_ports_are_refused(port: int) -> None:
    assert egress.refusal("8.8.8.8", port) == f"port {port} is not one of 80, 443"


def test_the_ports_are_the_callers_choice() -> None:
    assert egress.refusal("8.8.8.8", 8443, (8443, 443)) is None
    assert egress.refusal("8.8.8.8", 80, (8443, 443)) == "port 80 is not one of 443, 8443"
    assert egress.refusal("8.8.8.8", 443, ()) is not None


def test_the_address_is_judged_before_the_port() -> None:
    assert "127.0.0.0/8" in (egress.refusal("127.0.0.1", 22) or "")


@given(st.ip_addresses())
def test_nothing_special_to_python_is_public_to_us(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Python's table is incomplete, never too strict: what it calls private we refuse, or decode to IPv4 first."""
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_reserved:
        decoded = isinstance(address, ipaddress.IPv6Address) and (
            address.ipv4_mapped or address in ipaddress.IPv6Network("64:ff9b::/96")
        )
        assert decoded or egress.refusal(str(address), 443)
    if address.is_private and not (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped):
        assert egress.refusal(str(address), 443)


@given(st.ip_addresses(v=6, network="2000::/3"))
def test_inside_global_unicast_only_the_table_refuses(address: ipaddress.IPv6Address) -> None:
    special = ["2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"]
    if not any(address in ipaddress.IPv6Network(network) for network in special):
        assert egress.refusal(str(address), 443) is None


# --- our own addresses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:4860::8888"]
)
def test_our_own_networks_are_refused_in_any_form(form: str, settings: Any) -> None:
    settings.EGRESS_OWN_NETWORKS = egress.networks(["8.8.8.0/24", " 2001:4860::/32"])
    reason = egress.refusal(form, 443)
    assert reason
    assert "which is ours (EGRESS_OWN_NETWORKS)" in reason
    assert egress.refusal("8.8.4.4", 443) is None
    settings.EGRESS_OWN_NETWORKS = ()
    assert egress.refusal(form, 443) is None


@pytest.mark.parametrize("text", ["8.8.8.8/24", "8.8.8", "8.8.8.0/33", "www.example.com", "", "8.8.8.0-8.8.8.9"])
def test_an_own_network_that_is_none_is_said_at_the_start(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"EGRESS_OWN_NETWORKS: .+\. Write networks .+ 198\.51\.100\.0/24"):
        egress.networks(["1.1.1.0/24", text])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_an_address_of_this_machine_is_known(address: str) -> None:
    """Loopback stands for the others here, below the table; tests/test_tripwires.py gives a machine public ones."""
    assert "is an address of this machine" in (egress._ours(address, (), 0) or "")
    assert egress._ours("8.8.8.8", (), 0) is None


def test_a_machine_that_can_bind_anything_goes_by_the_table(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: "1\n")
    egress._warn.cache_clear()
    assert egress._ours("127.0.0.1", (), 1) is None
    assert egress._ours("127.0.0.1", (), 2) is None
    assert [record.getMessage() for record in caplog.records] == [
        "/proc/sys/net/ipv4/ip_nonlocal_bind is on, so this machine can't tell its addresses: "
        "list them in EGRESS_OWN_NETWORKS"
    ]


def test_what_can_t_be_told_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptors(*_: Any) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", no_descriptors)
    assert egress._ours("8.8.8.8", (), 3) == "whether 8.8.8.8 is this machine's can't be told: Too many open files"


# --- connecting -----------------------------------------------------------------------------------------------------


Answers = Callable[..., list[str]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Make every name have these addresses; what comes back lists the names that were asked for."""

    def answers(*addresses: str) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
            asked.append(host)
            families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
            return [
                (family, socket.SOCK_STREAM, 0, "", (address, port))
                for family, address in zip(families, addresses, strict=True)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return answers


@pytest.fixture
def tripwire() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def accepts(listener: socket.socket) -> int:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return 0
    return 1 + accepts(listener)


def test_a_name_is_asked_for_once_and_its_address_connected_to(answers: Answers, tripwire: socket.socket) -> None:
    port = tripwire.getsockname()[1]
    asked = answers("127.0.0.1")
    with egress.connect("www.example.com", port, 5.0, allow_private=True) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)
        assert connection.gettimeout() == 5.0
    assert asked == ["www.example.com"]
    assert accepts(tripwire) == 1


@pytest.mark.parametrize("others", [(), ("8.8.8.8",), ("2001:4860:4860::8888", "8.8.8.8")])
def test_one_bad_address_is_enough(others: tuple[str, ...], answers: Answers, tripwire: socket.socket) -> None:
    port = tripwire.getsockname()[1]
    answers(*others, "127.0.0.1")
    with pytest.raises(egress.Refused, match=r"egress guard: 127\.0\.0\.1 is in 127\.0\.0\.0/8"):
        egress.connect("www.example.com", port, 5.0, (port,))
    assert accepts(tripwire) == 0


def test_the_next_address_is_tried_if_one_is_dead(answers: Answers, tripwire: socket.socket) -> None:
    answers("127.0.0.2", "127.0.0.1")
    egress.connect("www.example.com", tripwire.getsockname()[1], 5.0, allow_private=True).close()
    assert accepts(tripwire) == 1


def test_nobody_there_is_an_os_error(answers: Answers) -> None:
    answers("127.0.0.2", "127.0.0.3")
    with pytest.raises(ConnectionRefusedError):
        egress.connect("www.example.com", 1, 5.0, allow_private=True)


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "..", "nobody.invalid"])
def test_what_does_not_resolve_is_an_os_error(host: str) -> None:
    with pytest.raises(OSError):
        egress.connect(host, 443, 5.0)


def test_ports_are_judged_before_anything_is_opened(answers: Answers) -> None:
    answers("8.8.8.8")
    with pytest.raises(egress.Refused, match="port 9000 is not one of 80, 443"):
        egress.connect("www.example.com", 9000, 5.0)
