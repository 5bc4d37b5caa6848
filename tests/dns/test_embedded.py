"""The embedded authoritative server, asked over real sockets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest
from dnslib import DNSRecord

from dns.embedded import EmbeddedDns
from dns.models import EmbeddedRecord
from dns.providers.contract import Member, ProviderError, WeightedSet
from dns.providers.embedded import EmbeddedProvider
from services import lookup
from tests import servers

pytestmark = pytest.mark.django_db(transaction=True)

TO_A = ("plain.demo.test", "CNAME", 7, "a.cdn.demo.test")
RECORDS = [
    ("demo.test", "SOA", "ns1.demo.test. root.demo.test. 1 3600 600 86400 5"),
    ("demo.test", "NS", "ns1.demo.test."),
    ("ns1.demo.test", "A", "127.0.0.1"),
    ("a.cdn.demo.test", "A", "127.0.1.1"),
    ("plain.demo.test", "CNAME", "a.cdn.demo.test"),
    ("away.demo.test", "CNAME", "edge.example.net"),
    ("note.demo.test", "TXT", "x" * 300),
]


@pytest.fixture
def port() -> Iterator[int]:
    EmbeddedRecord.objects.bulk_create(
        [EmbeddedRecord(zone="demo.test", name=n, type=t, value=v, ttl_seconds=7) for n, t, v in RECORDS]
    )
    port = servers.free_port()
    server = EmbeddedDns("127.0.0.1", port)
    server.start()
    yield port
    server.stop()


def ask(port: int, name: str, qtype: str) -> lookup.Answer:
    return lookup.ask_all([(("127.0.0.1", port), name, qtype)])[0]


def weighted(percents: tuple[int, int], generation: int = 1, hostname: str = "www.demo.test") -> WeightedSet:
    members = (Member("primary", "a.cdn.demo.test", percents[0]), Member("backup-1", "b.cdn.demo.test", percents[1]))
    return WeightedSet(hostname, "demo.test", "", 5, generation, members)


@pytest.mark.parametrize(
    ("name", "qtype", "rcode", "records"),
    [
        ("ns1.demo.test", "A", "NOERROR", [("ns1.demo.test", "A", 7, "127.0.0.1")]),
        ("NS1.Demo.Test", "A", "NOERROR", [("ns1.demo.test", "A", 7, "127.0.0.1")]),
        ("plain.demo.test", "A", "NOERROR", [TO_A, ("a.cdn.demo.test", "A", 7, "127.0.1.1")]),
        ("plain.demo.test", "CNAME", "NOERROR", [TO_A]),
        ("away.demo.test", "A", "NOERROR", [("away.demo.test", "CNAME", 7, "edge.example.net")]),
        ("note.demo.test", "TXT", "NOERROR", [("note.demo.test", "TXT", 7, "x" * 300)]),
        ("note.demo.test", "A", "NOERROR", []),
        ("cdn.demo.test", "A", "NOERROR", []),  # exists, because a name below it does
        ("none.demo.test", "A", "NXDOMAIN", []),
    ],
)  # fmt: skip
def test_answers(port: int, name: str, qtype: str, rcode: str, records: list[tuple[str, str, int, str]]) -> None:
    answer = ask(port, name, qtype)
    assert (answer.rcode, answer.authoritative) == (rcode, True)
    assert [(r.name, r.type, r.ttl_seconds, r.value) for r in answer.records] == records


@pytest.mark.parametrize("name", ["example.com", "evildemo.test", "test"])
def test_refuses_what_is_not_its_own(port: int, name: str) -> None:
    assert ask(port, name, "A").error == "answered REFUSED"


def test_answers_over_tcp_too(port: int) -> None:
    reply = DNSRecord.parse(DNSRecord.question("ns1.demo.test").send("127.0.0.1", port, tcp=True, timeout=2))
    assert [str(rr.rdata) for rr in reply.rr] == ["127.0.0.1"]


def shares(port: int, count: int = 400) -> Counter[str]:
    answers = lookup.ask_all([(("127.0.0.1", port), "www.demo.test", "CNAME")] * count)
    assert all(len(answer.records) == 1 for answer in answers)
    return Counter(answer.records[0].value for answer in answers)


def until_revision(port: int, generation: int) -> None:
    deadline = time.monotonic() + 3
    while lookup.txt_values(ask(port, "_tranche.www.demo.test", "TXT")) != [f"rev={generation}"]:
        assert time.monotonic() < deadline, "the change was never served"


def test_weights_are_served_per_query_and_a_change_shows_at_once(port: int) -> None:
    provider = EmbeddedProvider({})
    provider.apply([weighted((100, 0))])
    until_revision(port, 1)
    assert shares(port) == {"a.cdn.demo.test": 400}
    provider.apply([weighted((75, 25), 2)])
    until_revision(port, 2)
    assert 60 < shares(port)["b.cdn.demo.test"] < 145  # 100 expected; five standard deviations either way
    provider.apply([weighted((0, 100), 3)])
    provider.apply([weighted((0, 100), 3)])  # again: the same records
    until_revision(port, 3)
    assert shares(port) == {"b.cdn.demo.test": 400}
    assert EmbeddedRecord.objects.filter(name="www.demo.test").count() == 2


def test_the_provider_touches_only_its_own(port: int) -> None:
    with pytest.raises(ProviderError, match="not ours"):
        EmbeddedProvider({}).apply([weighted((100, 0), hostname="plain.demo.test")])
    with pytest.raises(ProviderError, match="apex"):
        EmbeddedProvider({}).apply([weighted((100, 0), hostname="demo.test")])
    assert ask(port, "plain.demo.test", "CNAME").records[0].value == "a.cdn.demo.test"


def test_the_provider_finds_the_zone_at_a_dot(port: int) -> None:
    provider = EmbeddedProvider({})
    assert provider.find_zone("www.demo.test").name == "demo.test"
    with pytest.raises(ProviderError, match="no zone"):
        provider.find_zone("www.evildemo.test")
