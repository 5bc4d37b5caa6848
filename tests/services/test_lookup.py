"""Questions to a real PowerDNS, and to a server that misbehaves by script."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from itertools import pairwise
from pathlib import Path
from typing import Any

import dnslib
import pytest
from dnslib import QTYPE, RCODE, RR

from services import lookup
from services.lookup import Answer, LookupFailed, Record, ask_all, authoritative_servers, override_for, txt_values
from tests.servers import PowerDns, ScriptedDns, free_port, powerdns_fixture, scripted_fixture  # noqa: F401

TIMEOUT = 0.3


def ask(server: tuple[str, int], name: str, qtype: str) -> Answer:
    return asyncio.run(lookup.ask(server, name, qtype, timeout_seconds=TIMEOUT))


def reply(query: Any, *lines: str, rcode: str = "NOERROR") -> Any:
    message = query.reply(aa=1)
    message.header.rcode = getattr(RCODE, rcode)
    for line in lines:
        message.add_answer(*RR.fromZone(line))
    return message


# --- PowerDNS -------------------------------------------------------------------------------------------------------


@pytest.fixture
def zone(powerdns: PowerDns) -> PowerDns:
    powerdns.zone("cust.test")
    powerdns.put("cust.test", "www.cust.test", "CNAME", "Primary.CDN-A.test.", ttl_seconds=30)
    return powerdns


def test_an_answer_has_records_rcode_and_authority(zone: PowerDns) -> None:
    answer = ask(zone.address, "WWW.cust.test.", "CNAME")
    assert answer == Answer(
        server=zone.text,
        name="www.cust.test",
        type="CNAME",
        rcode="NOERROR",
        authoritative=True,
        records=(Record("www.cust.test", "CNAME", 30, "primary.cdn-a.test"),),
    )


def test_a_missing_name_and_a_missing_type_are_answers(zone: PowerDns) -> None:
    missing_name, missing_type = ask_all(
        [(zone.address, "none.cust.test", "A"), (zone.address, "cust.test", "TXT")], timeout_seconds=TIMEOUT
    )
    assert (missing_name.rcode, missing_name.error, missing_name.records) == ("NXDOMAIN", "", ())
    assert (missing_type.rcode, missing_type.error, missing_type.records) == ("NOERROR", "", ())


def test_split_strings_are_joined(zone: PowerDns) -> None:
    zone.put("cust.test", "t.cust.test", "TXT", f'"{"a" * 255}" "{"b" * 10}"', '"token=1"')
    values = txt_values(ask(zone.address, "t.cust.test", "TXT"))
    assert sorted(values) == ["a" * 255 + "b" * 10, "token=1"]


def test_text_values_behind_a_cname_do_not_count(zone: PowerDns) -> None:
    zone.put("cust.test", "other.cust.test", "TXT", '"token=1"')
    zone.put("cust.test", "t.cust.test", "CNAME", "other.cust.test.")
    answer = ask(zone.address, "t.cust.test", "TXT")
    assert [record.type for record in answer.records] == ["CNAME", "TXT"]
    assert txt_values(answer) == []


def test_a_long_answer_comes_over_tcp(zone: PowerDns) -> None:
    values = [f'"{number:03}-{"x" * 200}"' for number in range(20)]
    zone.put("cust.test", "long.cust.test", "TXT", *values)
    assert len(txt_values(ask(zone.address, "long.cust.test", "TXT"))) == 20


def test_every_sample_of_a_weighted_name_is_a_query_of_its_own(zone: PowerDns) -> None:
    lua = "CNAME \"pickwrandom({{50,'a.cdn.test.'},{50,'b.cdn.test.'}})\""
    zone.put("cust.test", "split.cust.test", "LUA", lua)
    answers = ask_all([(zone.address, "split.cust.test", "CNAME")] * 200, timeout_seconds=2)
    assert not [answer.error for answer in answers if answer.error]
    share = sum(answer.records[0].value == "a.cdn.test" for answer in answers) / 200
    assert 0.3 < share < 0.7


def test_another_zones_name_is_refused(zone: PowerDns) -> None:
    answer = ask(zone.address, "www.elsewhere.test", "A")
    assert (answer.rcode, answer.error, answer.records) == ("REFUSED", "answered REFUSED", ())


# --- a server that misbehaves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rcode", ["REFUSED", "SERVFAIL", "NOTIMP", "FORMERR"])
def test_refusals_are_errors_and_their_records_are_dropped(scripted: ScriptedDns, rcode: str) -> None:
    scripted.script = lambda query, _: reply(query, "a.test. 5 IN A 192.0.2.1", rcode=rcode)
    answer = ask(scripted.address, "a.test", "A")
    assert (answer.rcode, answer.error, answer.records) == (rcode, f"answered {rcode}", ())


def test_a_refusal_may_leave_out_the_question(scripted: ScriptedDns) -> None:
    def script(query: Any, _protocol: str) -> Any:
        return dnslib.DNSRecord(dnslib.DNSHeader(id=query.header.id, qr=1, rcode=RCODE.FORMERR))

    scripted.script = script
    assert ask(scripted.address, "a.test", "A").error == "answered FORMERR"


def test_an_answer_to_another_question_is_an_error(scripted: ScriptedDns) -> None:
    def script(query: Any, _protocol: str) -> Any:
        other = dnslib.DNSRecord.question("b.test", "A").reply()
        other.header.id = query.header.id
        other.add_answer(*RR.fromZone("b.test. 5 IN A 192.0.2.1"))
        return other

    scripted.script = script
    answer = ask(scripted.address, "a.test", "A")
    assert (answer.error, answer.records) == ("answered another question: b.test IN A", ())


def test_another_messages_id_is_an_error(scripted: ScriptedDns) -> None:
    def script(query: Any, _protocol: str) -> Any:
        query.header.id ^= 1
        return query.reply()

    scripted.script = script
    assert ask(scripted.address, "a.test", "A").error == "answered with another message's id"


def test_our_own_query_sent_back_is_an_error(scripted: ScriptedDns) -> None:
    scripted.script = lambda query, _: query
    assert ask(scripted.address, "a.test", "A").error == "answered with another message's id"


def test_noise_is_an_error(scripted: ScriptedDns) -> None:
    scripted.script = lambda _query, _protocol: b"hello"
    assert ask(scripted.address, "a.test", "A").error.startswith("answered with what is no DNS message")


def test_silence_is_an_error(scripted: ScriptedDns) -> None:
    scripted.script = lambda _query, _protocol: None
    answer = ask(scripted.address, "a.test", "A")
    assert answer == Answer(server=scripted.text, name="a.test", type="A", error="no answer within 0.3 s")


def test_nobody_listening_is_an_error() -> None:
    assert ask(("127.0.0.1", free_port()), "a.test", "A").error == "can't be reached: Connection refused"


def test_a_name_that_does_not_fit_is_an_error() -> None:
    assert ask(("127.0.0.1", 9), f"{'a' * 64}.test", "A").error.startswith("can't be asked for")
    assert ask(("127.0.0.1", 9), "a.test", "NOTYPE").error.startswith("can't be asked for")


def test_one_bad_server_does_not_lose_the_others(zone: PowerDns, scripted: ScriptedDns) -> None:
    scripted.script = lambda _query, _protocol: None
    good = (zone.address, "www.cust.test", "CNAME")
    answers = ask_all([good, (scripted.address, "a.test", "A"), good], timeout_seconds=TIMEOUT)
    assert [bool(answer.error) for answer in answers] == [False, True, False]


def test_the_samples_have_ids_and_ports_of_their_own(scripted: ScriptedDns) -> None:
    scripted.script = lambda query, _: reply(query, "a.test. 5 IN A 192.0.2.1")
    answers = ask_all([(scripted.address, "a.test", "A")] * 100, timeout_seconds=2, in_flight=100)
    assert {answer.error for answer in answers} == {""}
    assert len({identity for _, _, identity in scripted.seen}) == 100
    ports = [port for _, port, _ in scripted.seen]
    assert len(set(ports)) > 90
    steps = {later - earlier for earlier, later in pairwise(ports)}
    assert len(steps) > 50, "the ports follow each other, so the next one can be guessed"


def test_no_recursion_is_desired_unless_asked_for(scripted: ScriptedDns) -> None:
    desired = []

    def script(query: Any, _protocol: str) -> Any:
        desired.append(query.header.rd)
        return query.reply()

    scripted.script = script
    for recursive in (False, True):
        ask_all([(scripted.address, "a.test", "A")], recursive=recursive)
    assert desired == [0, 1]


# --- TCP ------------------------------------------------------------------------------------------------------------


def cut_over_udp(over_tcp: Any) -> Any:
    def script(query: Any, protocol: str) -> Any:
        return over_tcp(query) if protocol == "tcp" else reply(query, "a.test. 5 IN A 192.0.2.1").truncate()

    return script


def test_a_cut_answer_is_asked_for_again_over_tcp(scripted: ScriptedDns) -> None:
    scripted.script = cut_over_udp(lambda query: reply(query, "a.test. 5 IN A 192.0.2.9"))
    answer = ask(scripted.address, "a.test", "A")
    assert [record.value for record in answer.records] == ["192.0.2.9"]
    assert [protocol for protocol, _, _ in scripted.seen] == ["udp", "tcp"]


def test_an_answer_cut_inside_a_record_still_leads_to_tcp(scripted: ScriptedDns) -> None:
    def script(query: Any, protocol: str) -> Any:
        whole = reply(query, "a.test. 5 IN A 192.0.2.9")
        if protocol == "tcp":
            return whole
        whole.header.tc = 1
        return whole.pack()[:-3]

    scripted.script = script
    assert [record.value for record in ask(scripted.address, "a.test", "A").records] == ["192.0.2.9"]


def test_no_answer_over_tcp_is_an_error(scripted: ScriptedDns) -> None:
    scripted.script = cut_over_udp(lambda query: None)
    assert ask(scripted.address, "a.test", "A").error == "closed the TCP connection in mid-answer"


def test_an_endless_answer_is_not_read(scripted: ScriptedDns) -> None:
    scripted.script = cut_over_udp(lambda query: bytes(20_000))
    assert ask(scripted.address, "a.test", "A").error == "answered with 20000 bytes, more than the 16384 that we read"


def test_no_mangled_message_gets_past_the_error(scripted: ScriptedDns) -> None:
    """Whoever owns a name chooses what its servers send; whatever that is, it is an answer or an error."""
    lines = [
        "a.test. 5 IN TXT one two",
        "a.test. 5 IN CNAME b.test.",
        "a.test. 5 IN MX 1 c.test.",
        "a.test. 5 IN AAAA ::1",
    ]
    dice = random.Random(4)

    def script(query: Any, _protocol: str) -> bytes:
        mangled = bytearray(reply(query, *lines).pack())
        for _ in range(dice.randint(1, 4)):
            mangled[dice.randrange(4, len(mangled))] = dice.choice([0, 12, 16, 35, 41, 43, 46, 64, 0xC0, 0xFF])
        return bytes(mangled)

    scripted.script = script
    answers = ask_all([(scripted.address, "a.test", "TXT")] * 1000, timeout_seconds=0.1, in_flight=100)
    assert len(answers) == 1000
    assert any(answer.error for answer in answers)


# --- whom to ask ----------------------------------------------------------------------------------------------------


def test_an_override_is_taken_by_the_longest_suffix_at_a_dot(settings: Any) -> None:
    settings.AUTHORITY_OVERRIDES = {
        "test": "127.0.0.1:1",
        "demo.test": "127.0.0.1:2; [::1]:3",
        "mo.test": "127.0.0.1:4",
    }
    assert authoritative_servers("www.demo.test") == ("demo.test", [("127.0.0.1", 2), ("::1", 3)])
    assert authoritative_servers("Demo.Test.") == ("demo.test", [("127.0.0.1", 2), ("::1", 3)])
    assert authoritative_servers("evildemo.test") == ("test", [("127.0.0.1", 1)])
    assert override_for("www.demo.test") == [("127.0.0.1", 2), ("::1", 3)]
    assert override_for("www.example.com") == []


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_servers_are_written_with_or_without_a_port(settings: Any, text: str, server: tuple[str, int]) -> None:
    settings.AUTHORITY_OVERRIDES = {"demo.test": text}
    assert override_for("demo.test") == [server]


@pytest.mark.parametrize("text", ["", "127.0.0.1:", "127.0.0.1:dns", "127.0.0.1:1;"])
def test_an_override_without_a_server_fails(settings: Any, text: str) -> None:
    settings.AUTHORITY_OVERRIDES = {"demo.test": text}
    with pytest.raises(LookupFailed, match="is not the address of a server"):
        authoritative_servers("demo.test")


@pytest.fixture
def delegated(powerdns: PowerDns, settings: Any, monkeypatch: pytest.MonkeyPatch) -> PowerDns:
    """PowerDNS plays the resolver: it knows the zone, a zone below it, and their name servers' addresses."""
    powerdns.zone("cust.test", ("ns1.cust.test", "ns2.cust.test"))
    powerdns.put("cust.test", "ns1.cust.test", "A", "192.0.2.1")
    powerdns.put("cust.test", "ns1.cust.test", "AAAA", "2001:db8::1")
    powerdns.put("cust.test", "ns2.cust.test", "A", "192.0.2.2")
    powerdns.zone("sub.cust.test", ("ns2.cust.test",))
    settings.DNS_RESOLVERS = [powerdns.text]
    monkeypatch.setattr(lookup, "has_route", lambda address: True)
    return powerdns


def test_the_zone_cut_is_found_from_the_name_upwards(delegated: PowerDns) -> None:
    servers = [("192.0.2.1", 53), ("2001:db8::1", 53), ("192.0.2.2", 53)]
    assert authoritative_servers("_tranche-challenge.www.cust.test") == ("cust.test", servers)
    assert authoritative_servers("cust.test") == ("cust.test", servers)
    assert authoritative_servers("www.sub.cust.test") == ("sub.cust.test", [("192.0.2.2", 53)])


def test_the_name_servers_of_a_cnames_target_are_not_those_of_the_name(delegated: PowerDns) -> None:
    delegated.put("cust.test", "www.cust.test", "CNAME", "sub.cust.test.")
    assert authoritative_servers("www.cust.test")[0] == "cust.test"


def test_no_zone_no_address_and_no_resolver_are_failures(
    delegated: PowerDns, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    delegated.zone("lonely.test", ("ns1.nowhere.cust.test",))
    with pytest.raises(LookupFailed, match=r"no name server of lonely\.test has an address"):
        authoritative_servers("www.lonely.test")
    settings.DNS_RESOLVERS = [f"127.0.0.1:{free_port()}"]
    with pytest.raises(LookupFailed, match=r"asked for the name servers of www\.cust\.test: can't be reached"):
        authoritative_servers("www.cust.test")
    settings.DNS_RESOLVERS = []
    monkeypatch.setattr(lookup, "_system_resolvers", lambda path: [])
    with pytest.raises(LookupFailed, match="no resolver is known"):
        authoritative_servers("www.cust.test")


def test_a_resolver_that_fails_is_passed_over(delegated: PowerDns, settings: Any) -> None:
    settings.DNS_RESOLVERS = [f"127.0.0.1:{free_port()}", delegated.text]
    assert authoritative_servers("cust.test")[0] == "cust.test"


def test_a_failing_zone_is_not_mistaken_for_its_parent(scripted: ScriptedDns, settings: Any) -> None:
    def script(query: Any, _protocol: str) -> Any:
        if str(query.q.qname) == "sub.cust.test." and query.q.qtype == QTYPE.NS:
            return reply(query, rcode="SERVFAIL")
        return reply(query, "cust.test. 5 IN NS ns.cust.test.")

    scripted.script = script
    settings.DNS_RESOLVERS = [scripted.text]
    with pytest.raises(LookupFailed, match=r"sub\.cust\.test: answered SERVFAIL"):
        authoritative_servers("sub.cust.test")


def test_no_top_level_domain_is_a_zone(scripted: ScriptedDns, settings: Any) -> None:
    scripted.script = lambda query, _: (
        reply(query, "test. 5 IN NS ns.test.") if str(query.q.qname) == "test." else reply(query, rcode="NXDOMAIN")
    )
    settings.DNS_RESOLVERS = [scripted.text]
    with pytest.raises(LookupFailed, match=r"no zone holds www\.cust\.test"):
        authoritative_servers("www.cust.test")


def test_name_servers_in_our_own_networks_are_not_asked(delegated: PowerDns, settings: Any) -> None:
    settings.PROBE_ALLOW_PRIVATE = False
    delegated.put("cust.test", "ns1.cust.test", "A", "10.0.0.1", "127.0.0.1", "8.8.8.8")
    delegated.put("cust.test", "ns1.cust.test", "AAAA", "::ffff:a9fe:a9fe")
    assert authoritative_servers("www.cust.test") == ("cust.test", [("8.8.8.8", 53)])
    with pytest.raises(LookupFailed, match=r"may not be asked: 192\.0\.2\.2 is in"):
        authoritative_servers("www.sub.cust.test")


def test_addresses_without_a_route_are_left_out(delegated: PowerDns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "has_route", lambda address: ":" not in address)
    assert authoritative_servers("cust.test") == ("cust.test", [("192.0.2.1", 53), ("192.0.2.2", 53)])


def test_an_address_that_cannot_be_connected_to_has_no_route(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(_socket: object, _address: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    assert lookup.has_route("127.0.0.1")
    monkeypatch.setattr(socket.socket, "connect", connect)
    assert not lookup.has_route("2001:db8::1")


def test_the_systems_resolvers_are_read(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# comment\nsearch test\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0\n")
    assert lookup._system_resolvers(file) == [("192.0.2.53", 53), ("2001:db8::53", 53)]
    assert lookup._system_resolvers(tmp_path / "none") == []


@pytest.mark.parametrize(
    "name", ["a" * 64 + ".test", ".".join(["a" * 63] * 4) + ".test", "a..test", "\\255" * 70 + ".test"]
)
def test_a_name_that_can_t_be_asked_for_is_an_answer_too(name: str) -> None:
    (answer,) = lookup.ask_all([(("127.0.0.1", 9), name, "TXT")], timeout_seconds=0.2)
    assert answer.error


def test_a_delegation_is_looked_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_DELEGATION_SECONDS", 0.0)
    monkeypatch.setattr(lookup, "_resolve", lambda questions: [lookup.Answer("r", "n", "NS", "NOERROR")])
    with pytest.raises(LookupFailed, match="took longer than"):
        authoritative_servers(".".join(["a"] * 120) + ".test")
