"""PowerDNS: over the wire against a real server, and against scripted answers that a healthy one doesn't give."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dns.providers.contract import Check, Member, ProviderError, Standing, Trouble, WeightedSet, Zone
from dns.providers.powerdns import PowerDnsProvider
from dns.providers.powerdns import provider as module
from dns.providers.powerdns.provider import POINT_READS
from services import lookup
from tests.servers import API_KEY, PowerDns, powerdns_fixture  # noqa: F401

HOSTNAME, BEACON = "www.cust.test", "_tranche.www.cust.test"
ZONE = Zone("cust.test")
P, B = "p.cdn.test", "b.cdn.test"


@pytest.fixture(autouse=True)
def _private_apis(settings: Any) -> None:
    settings.DNS_API_ALLOW_PRIVATE = True


@pytest.fixture
def server(powerdns: PowerDns) -> PowerDns:
    powerdns.zone("cust.test")
    return powerdns


class Counting(httpx.BaseTransport):
    """To the real server, noting each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._transport = httpx.HTTPTransport(trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode().removeprefix("/api/v1/servers/localhost")
        self.calls.append((request.method, path))
        return self._transport.handle_request(request)


def provider_of(server: PowerDns, key: str = API_KEY, **options: Any) -> PowerDnsProvider:
    return PowerDnsProvider({"api_url": server.api_url, **options}, {"api_key": key})


@pytest.fixture
def provider(server: PowerDns) -> PowerDnsProvider:
    return provider_of(server)


def wanted(
    primary: int = 90, backup: int = 10, *, generation: int = 7, hostname: str = HOSTNAME, zone: str = "cust.test"
) -> WeightedSet:
    members = (Member("primary", P, primary), Member("backup-1", B, backup))
    return WeightedSet(hostname, zone, "", ttl_seconds=30, generation=generation, members=members)


def tampered(one: Any, **fields: Any) -> Any:
    """What the constructor would refuse, as if it had come another way."""
    for name, value in fields.items():
        object.__setattr__(one, name, value)
    return one


def refused(call: Callable[..., Any], *args: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(*args)
    assert API_KEY not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    return caught.value


def answers(server: PowerDns, name: str = HOSTNAME, qtype: str = "A", times: int = 1) -> list[lookup.Answer]:
    return lookup.ask_all([(server.address, name, qtype)] * times)


def shares(server: PowerDns, times: int = 200) -> Counter[str]:
    """To whom the answers lead."""
    return Counter(record.value for answer in answers(server, times=times) for record in answer.records)


def beacon(server: PowerDns, name: str = BEACON) -> list[str]:
    return lookup.txt_values(answers(server, name, "TXT")[0])


# --- zones ------------------------------------------------------------------------------------------------------------


def test_the_zone_with_the_longest_suffix_is_found(server: PowerDns, provider: PowerDnsProvider) -> None:
    server.zone("app.cust.test")
    assert provider.find_zone("WWW.app.cust.test.") == Zone("app.cust.test")
    assert provider.find_zone(HOSTNAME) == ZONE
    assert provider.find_zone("wwwapp.cust.test") == ZONE
    assert provider.find_zone("cust.test") == ZONE


def test_a_zone_that_only_looks_alike_is_not_found(provider: PowerDnsProvider) -> None:
    error = refused(provider.find_zone, "www.evilcust.test")
    assert (error.trouble, error.permanent) == (Trouble.ZONE, True)
    assert str(error) == "www.evilcust.test: this server has none of the zones www.evilcust.test, evilcust.test"


def test_zones_beyond_those_of_the_account_are_neither_found_nor_touched(server: PowerDns) -> None:
    server.zone("app.cust.test")
    provider = provider_of(server, zones=["cust.test."])
    assert provider.find_zone("www.app.cust.test") == ZONE
    inner = wanted(hostname="www.app.cust.test", zone="app.cust.test")
    for call, *args in (
        (provider.find_zone, "www.other.test"), (provider.apply, [inner]), (provider.adopt, inner),
        (provider.release, inner, P), (provider.read, Zone("app.cust.test"), ["www.app.cust.test"]),
    ):  # fmt: skip
        assert refused(call, *args).trouble == Trouble.ZONE


def test_a_zone_with_an_underscore_is_a_zone(server: PowerDns, provider: PowerDnsProvider) -> None:
    server.zone("a_b.test")
    assert provider.find_zone("www.a_b.test") == Zone("a_b.test")
    provider.apply([wanted(hostname="www.a_b.test", zone="a_b.test")])
    assert provider.read(Zone("a_b.test"), ["www.a_b.test"])["www.a_b.test"].generation == 7


def test_what_is_no_powerdns_is_told_from_one_without_the_zone(server: PowerDns) -> None:
    error = refused(provider_of(server, server_id="elsewhere").find_zone, HOSTNAME)
    assert (error.trouble, error.permanent) == (Trouble.MISCONFIGURED, True)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_targets_are_served_by_weight_beside_the_beacon(server: PowerDns, provider: PowerDnsProvider) -> None:
    receipt = provider.apply([wanted(70, 30)])
    served = shares(server)
    assert set(served) == {P, B}
    assert 100 < served[P] < 180  # 140, give or take six sigma
    (answer,) = answers(server)
    assert [(record.type, record.ttl_seconds) for record in answer.records] == [("CNAME", 30)]
    assert beacon(server) == ["rev=7"]
    assert receipt.change_id == "www.cust.test@7"
    assert set(receipt.details) == {"names", "serial"}


def test_who_is_at_0_is_never_served(server: PowerDns, provider: PowerDnsProvider) -> None:
    for generation, (primary, backup) in enumerate([(100, 0), (0, 100)]):
        provider.apply([wanted(primary, backup, generation=generation)])
        assert set(shares(server)) == ({P} if primary else {B})
        assert beacon(server) == [f"rev={generation}"]


def test_a_repeat_leaves_the_same_records(server: PowerDns, provider: PowerDnsProvider) -> None:
    provider.apply([wanted()])
    before = provider.read(ZONE, [HOSTNAME])
    provider.apply([wanted()])
    assert provider.read(ZONE, [HOSTNAME]) == before


def test_many_hostnames_are_written_in_one_call(server: PowerDns) -> None:
    names = [f"host-{number}.cust.test" for number in range(PowerDnsProvider.most_per_write)]
    transport = Counting()
    provider = PowerDnsProvider({"api_url": server.api_url}, {"api_key": API_KEY}, transport=transport)
    provider.apply([wanted(0, 100, hostname=name) for name in names])
    assert [call for call in transport.calls if call[0] != "GET"] == [("PATCH", "/zones/cust.test.")]
    found = lookup.ask_all([(server.address, name, "CNAME") for name in names])
    assert {record.value for answer in found for record in answer.records} == {B}
    transport.calls.clear()
    assert {standing.generation for standing in provider.read(ZONE, names).values()} == {7}
    assert transport.calls == [("GET", "/zones/cust.test.")]


def test_one_bad_hostname_keeps_all_of_a_write_from_being_done(server: PowerDns, provider: PowerDnsProvider) -> None:
    server.put("cust.test", "taken.cust.test", "CNAME", "elsewhere.test.")
    error = refused(provider.apply, [wanted(), wanted(hostname="taken.cust.test")])
    assert (error.trouble, error.permanent, error.unknown) == (Trouble.FOREIGN, True, False)
    assert provider.read(ZONE, [HOSTNAME])[HOSTNAME] == Standing(HOSTNAME)


def test_a_write_is_of_one_zone_and_not_too_long(provider: PowerDnsProvider) -> None:
    assert refused(provider.apply, [wanted()] * 201).permanent
    assert refused(provider.apply, []).permanent
    other = wanted(hostname="www.other.test", zone="other.test")
    assert refused(provider.apply, [wanted(), other]).trouble == Trouble.UNSAFE


def test_the_apex_is_refused(server: PowerDns, provider: PowerDnsProvider) -> None:
    for hostname in ("cust.test", "Cust.TEST."):
        apex = wanted(hostname=hostname)
        for call, *args in ((provider.apply, [apex]), (provider.adopt, apex), (provider.release, apex, P)):
            error = refused(call, *args)
            assert (error.trouble, error.permanent) == (Trouble.UNSAFE, True)
            assert str(error) == "cust.test is the zone's apex, where no CNAME may stand"


@pytest.mark.parametrize(
    "field",
    [
        {"hostname": "www.cust.test'}})--.cust.test"},
        {"hostname": "www\u212a.cust.test"},
        {"hostname": f"{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 57}.cust.test"},  # its beacon would be too long a name
        {"zone": "cust.test/../other.test"},
        {"members": (tampered(Member("primary", P, 100), target="p.cdn.test'..os.getenv('HOME')..'"),)},
        {"members": (Member("primary", HOSTNAME, 100),)},
    ],
)
def test_what_is_no_hostname_is_refused_before_any_call(field: dict[str, Any]) -> None:
    def call(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.method} {request.url}")

    provider = scripted(call)
    unsafe = tampered(wanted(), **field)
    for call_, *args in ((provider.apply, [unsafe]), (provider.script, unsafe)):
        error = refused(call_, *args)
        assert (error.trouble, error.permanent) == (Trouble.UNSAFE, True)
    with pytest.raises((AssertionError, ProviderError)):
        provider.adopt(unsafe)
    assert refused(provider.release, wanted(), "p.cdn.test'").trouble == Trouble.UNSAFE
    assert refused(provider.release, wanted(), HOSTNAME).trouble == Trouble.UNSAFE
    assert refused(provider.find_zone, "www.cust.test/x").trouble == Trouble.UNSAFE
    assert refused(provider.read, ZONE, ["www.cust.test&rrset_name=x"]).trouble == Trouble.UNSAFE


@given(st.lists(st.integers(0, 100), min_size=1, max_size=2).map(sorted))
@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the zone may well be used again
def test_what_is_written_is_read_back(provider: PowerDnsProvider, cuts: list[int]) -> None:
    percents = [after - before for before, after in zip([0, *cuts], [*cuts, 100], strict=True)]
    keys = ("primary", "backup-1", "backup-2")
    members = tuple(Member(key, f"{key}.cdn.test", percent) for key, percent in zip(keys, percents, strict=False))
    one = tampered(wanted(generation=sum(cuts)), members=members)
    provider.apply([one])
    standing = provider.read(ZONE, [HOSTNAME])[HOSTNAME]
    assert standing.difference(one) == ""
    assert standing.members == tuple(member for member in members if member.percent)


# --- what is read -----------------------------------------------------------------------------------------------------

FOREIGN = [
    ("A", "192.0.2.1"),
    ("TXT", '"text"'),
    ("CNAME", "elsewhere.test."),
    ("MX", "10 mail.cust.test."),
    ("LUA", "A \"pickrandom({'192.0.2.1'})\""),
    ("LUA", "CNAME \"pickwrandom({{100,'elsewhere.test.'}})\""),
]


@pytest.mark.parametrize(("qtype", "value"), FOREIGN)
@pytest.mark.parametrize("more", [[], [f"free-{number}.cust.test" for number in range(POINT_READS)]])
def test_a_foreign_record_is_seen(
    server: PowerDns, provider: PowerDnsProvider, qtype: str, value: str, more: list[str]
) -> None:
    server.put("cust.test", HOSTNAME, qtype, value, ttl_seconds=300)
    standing = provider.read(ZONE, [HOSTNAME, *more])
    assert standing.pop(HOSTNAME) == Standing(
        HOSTNAME, foreign=(f"{HOSTNAME} {qtype} {value}",), foreign_ttl_seconds=300
    )
    assert standing == {name: Standing(name) for name in more}


def test_what_joins_ours_is_seen(server: PowerDns, provider: PowerDnsProvider) -> None:
    """The server hides it from every question, so that nothing else would show it."""
    provider.apply([wanted()])
    server.put("cust.test", HOSTNAME, "A", "192.0.2.1")
    standing = provider.read(ZONE, [HOSTNAME])[HOSTNAME]
    assert standing.generation == 7
    assert standing.foreign == ("www.cust.test A 192.0.2.1",)
    assert "not ours" in standing.difference(wanted())


def test_a_second_lua_record_and_a_disabled_one_are_foreign(server: PowerDns, provider: PowerDnsProvider) -> None:
    provider.apply([wanted()])
    (ours,) = lua_contents(server)
    server.put("cust.test", HOSTNAME, "LUA", ours, "A \"'192.0.2.1'\"")
    assert len(provider.read(ZONE, [HOSTNAME])[HOSTNAME].foreign) == 1
    provider.apply([wanted()])
    disable(server, HOSTNAME, ours)
    many = [HOSTNAME, *(f"free-{number}.cust.test" for number in range(POINT_READS))]
    standing = provider.read(ZONE, many)[HOSTNAME]
    assert (standing.members, standing.foreign) == ((), (f"{HOSTNAME} LUA (disabled) {ours}",))
    # Asked for one name, the server doesn't list what it doesn't serve.
    assert provider.read(ZONE, [HOSTNAME])[HOSTNAME].members == ()


def test_what_hides_the_beacon_is_foreign_and_its_text_is_ours(server: PowerDns, provider: PowerDnsProvider) -> None:
    server.put("cust.test", BEACON, "CNAME", "elsewhere.test.")
    assert provider.read(ZONE, [HOSTNAME])[HOSTNAME].foreign == (f"{BEACON} CNAME elsewhere.test.",)
    assert refused(provider.apply, [wanted()]).trouble == Trouble.FOREIGN
    server.put("cust.test", BEACON, "CNAME")
    server.put("cust.test", BEACON, "TXT", '"somebody else"', '"rev=12345678901234567890123456789"')
    assert provider.read(ZONE, [HOSTNAME])[HOSTNAME] == Standing(HOSTNAME)


def test_an_older_record_that_was_put_back_is_older_whatever_the_beacon_says(
    server: PowerDns, provider: PowerDnsProvider
) -> None:
    provider.apply([wanted(generation=6)])
    (older,) = lua_contents(server)
    provider.apply([wanted(generation=7)])
    server.put("cust.test", HOSTNAME, "LUA", older)
    assert provider.read(ZONE, [HOSTNAME])[HOSTNAME].generation == 6


def test_what_a_person_changed_is_told(server: PowerDns, provider: PowerDnsProvider) -> None:
    provider.apply([wanted()])
    (ours,) = lua_contents(server)
    server.put("cust.test", HOSTNAME, "LUA", ours.replace("{90,", "{50,"))
    standing = provider.read(ZONE, [HOSTNAME])[HOSTNAME]
    assert standing.difference(wanted()).startswith("primary is p.cdn.test at 50 %, and ")
    server.put("cust.test", HOSTNAME, "LUA", ours, ttl_seconds=300)
    standing = provider.read(ZONE, [HOSTNAME])[HOSTNAME]
    assert standing.difference(wanted()) == "the TTL is 300 s, and 30 s was written"


def test_comments_of_other_sets_are_no_records(server: PowerDns, provider: PowerDnsProvider) -> None:
    comment = {"content": "hands off", "account": "ops"}
    change = {"name": "mail.cust.test.", "type": "A", "ttl": 60, "changetype": "REPLACE", "comments": [comment]}
    records = [{"content": "192.0.2.1", "disabled": False}]
    api(server).patch("/zones/cust.test.", json={"rrsets": [change | {"records": records}]}).raise_for_status()
    assert provider.read(ZONE, [HOSTNAME])[HOSTNAME] == Standing(HOSTNAME)


def test_names_are_read_as_they_were_asked_for(provider: PowerDnsProvider) -> None:
    provider.apply([wanted()])
    assert provider.read(ZONE, ["WWW.Cust.test."])["WWW.Cust.test."].generation == 7
    assert provider.read(ZONE, []) == {}


def test_a_zone_that_is_not_there_is_no_empty_one(provider: PowerDnsProvider) -> None:
    nowhere = Zone("nowhere.test")
    for names in (["www.nowhere.test"], [f"{letter}.nowhere.test" for letter in "abcd"]):
        assert refused(provider.read, nowhere, names).trouble == Trouble.ZONE
    error = refused(provider.apply, [wanted(hostname="www.nowhere.test", zone="nowhere.test")])
    assert (error.trouble, error.permanent, error.unknown) == (Trouble.ZONE, True, False)


def api(server: PowerDns) -> httpx.Client:
    return server._api


def lua_contents(server: PowerDns) -> list[str]:
    found = api(server).get("/zones/cust.test.", params={"rrset_name": f"{HOSTNAME}."}).json()["rrsets"]
    return [record["content"] for one in found if one["type"] == "LUA" for record in one["records"]]


def disable(server: PowerDns, name: str, content: str) -> None:
    change = {"name": f"{name}.", "type": "LUA", "ttl": 30, "changetype": "REPLACE"}
    records = [{"content": content, "disabled": True}]
    api(server).patch("/zones/cust.test.", json={"rrsets": [change | {"records": records}]}).raise_for_status()


# --- adopting and releasing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "records", [{"CNAME": ["old.test."]}, {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]}]
)
def test_a_simple_record_is_adopted(
    server: PowerDns, provider: PowerDnsProvider, records: dict[str, list[str]]
) -> None:
    for qtype, values in records.items():
        server.put("cust.test", HOSTNAME, qtype, *values)
    provider.adopt(wanted(100, 0))
    assert provider.read(ZONE, [HOSTNAME])[HOSTNAME].difference(wanted(100, 0)) == ""
    assert set(shares(server, 20)) == {P}
    provider.adopt(wanted(100, 0))  # once more, as after an answer that was lost


def test_no_question_goes_unanswered_while_a_record_is_adopted_and_released(
    server: PowerDns, provider: PowerDnsProvider
) -> None:
    server.put("cust.test", HOSTNAME, "CNAME", "old.test.")
    done, seen = threading.Event(), []

    def watch() -> None:
        while not done.is_set():
            seen.extend(answers(server, times=5))

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(8):
        provider.adopt(wanted())
        provider.release(wanted(), "old.test")
    done.set()
    thread.join()
    assert len(seen) > 20
    assert {len(answer.records) for answer in seen} == {1}
    assert {record.value for answer in seen for record in answer.records} == {"old.test", P, B}


def test_nothing_else_is_adopted(server: PowerDns, provider: PowerDnsProvider) -> None:
    error = refused(provider.adopt, wanted())
    assert (str(error), error.permanent) == ("www.cust.test has no record to adopt", True)
    for qtype, value in [one for one in FOREIGN if one[0] not in ("A", "CNAME")]:
        server.put("cust.test", HOSTNAME, qtype, value)
        error = refused(provider.adopt, wanted())
        assert (error.trouble, error.permanent) == (Trouble.FOREIGN, True)
        assert str(error) == f"a record that is not ours: {HOSTNAME} {qtype} {value}"
        server.put("cust.test", HOSTNAME, qtype)
    server.put("cust.test", HOSTNAME, "A", "192.0.2.1")
    server.put("cust.test", HOSTNAME, "TXT", '"text"')
    assert refused(provider.adopt, wanted()).trouble == Trouble.FOREIGN
    assert answers(server)[0].records[0].value == "192.0.2.1"


def test_a_released_name_has_a_plain_cname_and_no_beacon(server: PowerDns, provider: PowerDnsProvider) -> None:
    provider.apply([wanted()])
    for _ in range(2):  # once more, as after an answer that was lost
        receipt = provider.release(wanted(), "Old.test")
        assert provider.read(ZONE, [HOSTNAME])[HOSTNAME] == Standing(
            HOSTNAME, foreign=("www.cust.test CNAME old.test.",), foreign_ttl_seconds=30
        )
    assert set(shares(server, 5)) == {"old.test"}
    assert answers(server, BEACON, "TXT")[0].rcode == "NXDOMAIN"
    assert receipt.change_id == "www.cust.test released"
    assert refused(provider.release, wanted(), P).trouble == Trouble.FOREIGN


def test_somebody_elses_lua_record_is_not_released(server: PowerDns, provider: PowerDnsProvider) -> None:
    server.put("cust.test", HOSTNAME, "LUA", FOREIGN[-1][1])
    assert refused(provider.release, wanted(), P).trouble == Trouble.FOREIGN
    assert lua_contents(server) == [FOREIGN[-1][1]]


# --- what makes a write known sooner ----------------------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Path]:
    """Not tmp_path, which another user can't enter."""
    made = Path(tempfile.mkdtemp(prefix="tranche-pdns-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def node(server: PowerDns, home: Path) -> Iterator[PowerDns]:
    """A second one on the same database."""
    started = PowerDns(home, database=server.database)
    try:
        started.start()
        yield started
    finally:
        started.stop()


def test_the_caches_of_other_nodes_are_emptied(server: PowerDns, node: PowerDns) -> None:
    names = [HOSTNAME, "shop.cust.test"]
    alone = provider_of(server)
    alone.apply([wanted(100, 0, generation=1, hostname=name) for name in names])
    for name in names:
        assert (beacon(node, f"_tranche.{name}"), answers(node, "later.cust.test")[0].rcode) == (["rev=1"], "NXDOMAIN")
    alone.apply([wanted(100, 0, generation=2, hostname=name) for name in names])
    assert beacon(node) == ["rev=1"]  # for up to 20 s
    both = provider_of(server, flush_urls=[node.api_url])
    receipt = both.apply([wanted(0, 100, generation=3, hostname=name) for name in [*names, "later.cust.test"]])
    assert "warnings" not in receipt.details
    for name in [*names, "later.cust.test"]:
        assert beacon(node, f"_tranche.{name}") == ["rev=3"]
        assert [record.value for record in answers(node, name)[0].records] == [B]


def test_a_node_that_is_away_is_a_warning(server: PowerDns) -> None:
    receipt = provider_of(server, flush_urls=["http://127.0.0.1:9"]).apply([wanted()])
    (warning,) = receipt.details["warnings"]
    assert warning.startswith("the cache of http://127.0.0.1:9 was not emptied: http://127.0.0.1:9 can't be reached")
    assert beacon(server) == ["rev=7"]


@pytest.mark.parametrize(
    ("kind", "option", "calls"),
    [
        ("Native", "auto", ["GET"]),
        ("Master", "auto", ["GET", "PUT"]),
        ("Native", True, ["PUT"]),
        ("Master", False, []),
    ],
)
def test_secondaries_are_told_where_there_are_any(kind: str, option: Any, calls: list[str]) -> None:
    said = answering(200, {"kind": kind})
    provider = scripted(said, notify=option)
    assert provider.apply([wanted()]).details == {"names": 1}
    assert [method for method, _ in said.seen] == ["PATCH", *calls]
    assert all(path.endswith("/notify") for method, path in said.seen if method == "PUT")


def test_what_goes_wrong_after_the_write_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = []

    def spend() -> None:
        spent.append(1)
        if len(spent) > 1:
            raise ProviderError("used up", permanent=False, trouble=Trouble.THROTTLED)

    others = {"notify": True, "flush_urls": ["https://two.test"]}
    assert scripted(answering(200), spend=spend, **others).apply([wanted()]).details["warnings"] == [
        "secondaries were not notified: used up",
        "the cache of https://two.test was not emptied: used up",
    ]
    said = answering(500, {"error": "busy"})
    assert scripted(said, **others).apply([wanted()]).details["warnings"] == [
        "secondaries were not notified: PowerDNS PUT /zones/cust.test./notify: 500: busy",
        "the cache of https://two.test was not emptied: PowerDNS PUT /cache/flush: 500: busy",
    ]
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.0)
    assert scripted(answering(200), **others).apply([wanted()]).details["warnings"] == [
        "secondaries were not notified: no time was left",
        "the cache of https://two.test was not emptied: no time was left",
    ]


# --- what the server may answer ---------------------------------------------------------------------------------------


class Answering:
    """One answer to every call, but 204 to a PATCH if the answer is of another kind."""

    def __init__(self, status: int, body: Any = None, *, of: str = "", **kw: Any) -> None:
        self.status, self.body, self.of, self.kw = status, body, of, kw
        self.seen: list[tuple[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((request.method, request.url.path))
        if request.method == "PATCH" and self.of != "PATCH":
            return httpx.Response(204)
        if isinstance(self.body, bytes):
            return httpx.Response(self.status, content=self.body, **self.kw)
        return httpx.Response(self.status, json=self.body, **self.kw)


def answering(status: int, body: Any = None, **kw: Any) -> Answering:
    return Answering(status, body, **kw)


def scripted(
    handler: Callable[[httpx.Request], httpx.Response],
    spend: Callable[[], None] = lambda: None,
    key: Any = API_KEY,
    **options: Any,
) -> PowerDnsProvider:
    transport = httpx.MockTransport(handler)
    return PowerDnsProvider(
        {"api_url": "https://one.test:8081", **options}, {"api_key": key}, spend, transport=transport
    )


HTML = b"<html><body>Service temporarily out of order</body></html>"
KEY_BACK = {"error": f"no: X-API-Key: {API_KEY}"}


@pytest.mark.parametrize(
    ("status", "body", "trouble", "permanent", "unknown"),
    [
        (401, b"Unauthorized", Trouble.ACCESS, True, False),
        (403, HTML, Trouble.ACCESS, True, False),
        (404, b"Not Found", Trouble.ZONE, True, False),
        (405, b"", Trouble.MISCONFIGURED, True, False),
        (302, b"", Trouble.MISCONFIGURED, True, False),
        (308, b"", Trouble.MISCONFIGURED, True, False),
        (400, b"Bad Request", Trouble.REFUSED, True, False),
        (422, {"error": "RRset x IN LUA: Conflicts with pre-existing RRset"}, Trouble.FOREIGN, True, False),
        (422, {"error": "something else"}, Trouble.REFUSED, True, False),
        (422, {"error": "enable-lua-record-updates is off"}, Trouble.MISCONFIGURED, True, False),
        (500, {"error": "no enable-lua-record-updates"}, Trouble.MISCONFIGURED, True, False),
        (500, {"error": "database is locked"}, Trouble.REFUSED, False, True),
        (500, KEY_BACK, Trouble.REFUSED, False, True),
        (502, HTML, Trouble.UNREACHABLE, False, True),
        (504, HTML, Trouble.UNREACHABLE, False, True),
        (503, HTML, Trouble.UNREACHABLE, False, False),
        (429, HTML, Trouble.THROTTLED, False, False),
        (200, HTML, Trouble.UNREACHABLE, False, True),
        (200, {}, Trouble.UNREACHABLE, False, True),
    ],
)
def test_what_an_answer_to_a_write_means(
    status: int, body: Any, trouble: Trouble, permanent: bool, unknown: bool
) -> None:
    said = answering(status, body, of="PATCH", headers={"Location": "http://127.0.0.1/"} if status // 100 == 3 else {})
    error = refused(scripted(said).apply, [wanted()])
    assert (error.trouble, error.permanent, error.unknown) == (trouble, permanent, unknown)
    assert "html" not in str(error)
    assert len(said.seen) == 1


@pytest.mark.parametrize(
    ("error", "is_sent"),
    [
        (httpx.ConnectError("refused"), False),
        (httpx.ConnectTimeout("slow"), False),
        (httpx.ReadTimeout("slow"), True),
        (httpx.WriteTimeout("slow"), True),
        (httpx.ReadError("reset"), True),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), True),
    ],
)
def test_what_was_sent_may_have_been_done(error: httpx.HTTPError, is_sent: bool) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    provider = scripted(fail)
    written = refused(provider.apply, [wanted()])
    assert (written.trouble, written.permanent, written.unknown) == (Trouble.UNREACHABLE, False, is_sent)
    read = refused(provider.read, ZONE, [HOSTNAME])
    assert (read.trouble, read.permanent, read.unknown) == (Trouble.UNREACHABLE, False, False)


@pytest.mark.parametrize(
    "body",
    [
        HTML, b"", b"\xff", b"[" * 100_000, [], {}, {"name": "cust.test."}, {"name": "cust.test.", "rrsets": {}},
        {"name": "cust.test.", "rrsets": [{}]}, {"name": "other.test.", "rrsets": []}, {"name": "cust.test.", "rrsets": ["x"]},
        {"name": "cust.test.", "rrsets": [{"name": "www.cust.test.", "type": "A", "ttl": None, "records": [{"content": "x"}]}]},
    ],
)  # fmt: skip
def test_garbage_is_never_taken_for_an_empty_zone(body: Any) -> None:
    provider = scripted(answering(200, body))
    if body != {"name": "cust.test.", "rrsets": {}}:  # nothing, in another language
        error = refused(provider.read, ZONE, [HOSTNAME])
        assert (error.permanent, error.unknown) == (False, False)
    assert isinstance(preflight_of(provider), list | ProviderError)
    with pytest.raises(ProviderError):
        provider.find_zone("www.elsewhere.test")


def preflight_of(provider: PowerDnsProvider) -> Any:
    try:
        return provider.preflight(ZONE, HOSTNAME)
    except ProviderError as error:
        return error


@pytest.mark.parametrize("headers", [{"Content-Encoding": "gzip"}, {}])
def test_an_answer_is_read_only_so_far(headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dns.providers.powerdns.api._MOST_BYTES", 1000)
    handler = answering(200, b"x" * 1001)

    def handle(request: httpx.Request) -> httpx.Response:
        answer = handler(request)
        answer.headers.update(headers)
        return answer

    assert "answered " in str(refused(scripted(handle).read, ZONE, [HOSTNAME]))


def test_every_call_is_paid_for_first() -> None:
    spent: list[int] = []
    said = answering(200, {"name": "cust.test.", "kind": "Master", "rrsets": []})
    provider = scripted(said, spend=lambda: spent.append(len(said.seen)), flush_urls=["https://two.test"])
    provider.apply([wanted()])
    provider.read(ZONE, [HOSTNAME])
    provider.find_zone(HOSTNAME)
    provider.release(wanted(), P)
    provider.preflight(ZONE, HOSTNAME)
    assert spent == list(range(len(said.seen)))

    def refuse() -> None:
        raise ProviderError("used up", permanent=False, trouble=Trouble.THROTTLED)

    calls = len(said.seen)
    provider = scripted(said, spend=refuse)
    for call, *args in (
        (provider.apply, [wanted()]), (provider.read, ZONE, [HOSTNAME]), (provider.preflight, ZONE, HOSTNAME),
    ):  # fmt: skip
        assert refused(call, *args).trouble == Trouble.THROTTLED
    assert len(said.seen) == calls


# --- access -----------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_for_a_person_to_mend(server: PowerDns) -> None:
    for call, *args in calls_of(provider_of(server, key="wrong")):
        error = refused(call, *args)
        assert (error.trouble, error.permanent, error.unknown) == (Trouble.ACCESS, True, False)
        assert "wrong" not in str(error)


@pytest.mark.parametrize("key", ["", None, 7, "with space", "with\nline", "schlüssel", "x" * 501])
def test_a_key_that_cant_be_sent_is_not_quoted(key: Any) -> None:
    error = refused(scripted(answering(200, {}), key=key).apply, [wanted()])
    assert (error.trouble, error.permanent) == (Trouble.ACCESS, True)
    assert not key or str(key) not in str(error)


def test_the_key_is_in_no_error_and_in_no_text(server: PowerDns) -> None:
    provider = provider_of(server)
    shown = f"{provider!r} {provider._api!r} {vars(provider._api).keys()} {provider._api._client!r}"
    texts = [provider.script(wanted()), provider.permissions(ZONE, [HOSTNAME]), shown]
    texts += [
        str(refused(scripted(answering(status, KEY_BACK, of="PATCH")).apply, [wanted()])) for status in (401, 500)
    ]
    assert all(API_KEY not in text for text in texts)
    assert "[key]" in texts[-1]


def test_nobody_listening_may_be_tried_again() -> None:
    provider = PowerDnsProvider({"api_url": "http://127.0.0.1:9"}, {"api_key": API_KEY})
    for call, *args in calls_of(provider):
        error = refused(call, *args)
        assert (error.trouble, error.permanent, error.unknown) == (Trouble.UNREACHABLE, False, False)


def test_our_own_networks_are_not_called(server: PowerDns, settings: Any) -> None:
    settings.DNS_API_ALLOW_PRIVATE = False
    for url in ("https://127.0.0.1:8081", "https://localhost", "https://[::1]:8443", "https://169.254.169.254"):
        provider = PowerDnsProvider({"api_url": url}, {"api_key": API_KEY})
        for call, *args in calls_of(provider):
            error = refused(call, *args)
            assert (error.trouble, error.permanent) == (Trouble.MISCONFIGURED, True)
            assert "egress guard" in str(error)
    assert "or its key could be read on the way" in str(refused(provider_of(server).find_zone, HOSTNAME))
    away = PowerDnsProvider({"api_url": "https://8.8.8.8:25"}, {"api_key": API_KEY})
    assert "port 25 is not one of 443, 8081, 8443" in str(refused(away.find_zone, HOSTNAME))


@pytest.mark.parametrize(
    "options",
    [
        {"api_url": ""}, {"api_url": 7}, {"api_url": "ns-api.example"}, {"api_url": "ftp://x.test"}, {"api_url": "https://"},
        {"api_url": "https://user:pass@x.test"}, {"api_url": "https://x.test?a=b"}, {"api_url": "https://x.test:port"},
        {"server_id": "../x"}, {"server_id": 7}, {"notify": "yes"}, {"flush_urls": "https://x.test"}, {"flush_urls": ["x"]},
        {"zones": "cust.test"}, {"zones": [1]}, {"timeout_seconds": 0}, {"timeout_seconds": "8"}, {"timeout_seconds": True},
        {"timeout_seconds": 60},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_said(options: dict[str, Any]) -> None:
    provider = scripted(answering(200), **options)
    for call, *args in (*calls_of(provider), (provider.script, wanted())):
        error = refused(call, *args)
        assert (error.trouble, error.permanent) == (Trouble.MISCONFIGURED, True)
        assert "pass" not in str(error)
    error = refused(PowerDnsProvider({}).find_zone, HOSTNAME)
    assert str(error) == "the account has no api_url, such as https://ns-api.example:8081"


def calls_of(provider: PowerDnsProvider) -> list[tuple[Any, ...]]:
    return [
        (provider.find_zone, HOSTNAME), (provider.apply, [wanted()]), (provider.read, ZONE, [HOSTNAME]),
        (provider.adopt, wanted()), (provider.release, wanted(), P),
    ]  # fmt: skip


# --- preflight --------------------------------------------------------------------------------------------------------


def missing(checks: list[Check]) -> dict[str, Check]:
    assert all(check.advice for check in checks if not check.holds)
    assert not any(check.advice for check in checks if check.holds)
    return {check.name: check for check in checks if not check.holds}


def test_a_name_that_is_free_or_ours_lacks_nothing(provider: PowerDnsProvider) -> None:
    checks = provider.preflight(ZONE, HOSTNAME)
    assert missing(checks) == {}
    assert [check.name for check in checks] == ["API", "version", "Lua", "zone kind", "DNSSEC", "apex", "record"]
    assert checks[-1].text == "the name is free"
    provider.apply([wanted()])
    checks = provider.preflight(ZONE, HOSTNAME)
    assert (missing(checks), checks[-1].text) == ({}, "ours")


def test_what_stands_at_the_name_is_said(server: PowerDns, provider: PowerDnsProvider) -> None:
    server.put("cust.test", HOSTNAME, "CNAME", "old.test.", ttl_seconds=3600)
    lacks = missing(provider.preflight(ZONE, HOSTNAME))
    assert set(lacks) == {"record", "old TTL"}
    assert lacks["record"].text == "not ours: www.cust.test CNAME old.test."
    assert not lacks["old TTL"].is_must
    assert "3600 s later" in lacks["old TTL"].advice
    assert set(missing(provider.preflight(ZONE, "cust.test"))) == {"apex"}


def test_a_server_or_zone_that_is_not_there_is_said(server: PowerDns, provider: PowerDnsProvider) -> None:
    assert set(missing(provider.preflight(Zone("nowhere.test"), "www.nowhere.test"))) == {"zone"}
    assert set(missing(provider_of(server, zones=["other.test"]).preflight(ZONE, HOSTNAME))) == {"zone"}
    assert set(missing(provider_of(server, key="wrong").preflight(ZONE, HOSTNAME))) == {"API"}
    assert set(missing(provider_of(server, server_id="elsewhere").preflight(ZONE, HOSTNAME))) == {"API"}


def test_what_cant_be_asked_now_is_unclear(server: PowerDns) -> None:
    away = missing(provider_of(server, flush_urls=["http://127.0.0.1:9"]).preflight(ZONE, HOSTNAME))
    assert set(away) == {"API at http://127.0.0.1:9"}
    assert [(check.is_must, check.is_unclear) for check in away.values()] == [(False, True)]
    nobody = PowerDnsProvider({"api_url": "http://127.0.0.1:9"}, {"api_key": API_KEY})
    assert [(check.is_must, check.is_unclear) for check in nobody.preflight(ZONE, HOSTNAME)] == [(True, True)]
    babble = scripted(answering(200, {"name": "cust.test.", "rrsets": []})).preflight(ZONE, HOSTNAME)
    lacks = missing(babble)
    assert set(lacks) == {"version", "Lua", "zone kind"}
    assert all(check.is_unclear for check in lacks.values())


def test_zones_of_other_kinds_are_judged(server: PowerDns, provider: PowerDnsProvider) -> None:
    def judged(**fields: Any) -> dict[str, Check]:
        api(server).put("/zones/cust.test.", json=fields).raise_for_status()
        return missing(provider.preflight(ZONE, HOSTNAME))

    assert judged(kind="Master") == {}
    assert set(judged(soa_edit_api="")) == {"serial"}
    assert set(judged(kind="Slave", masters=["127.0.0.1"])) == {"zone kind"}


def test_without_lua_the_name_would_be_gone(home: Path) -> None:
    """What the check is for, and that a zone can have it of its own."""
    dark = PowerDns(home, "enable-lua-records=no\ngsqlite3-dnssec=yes\ndomain-metadata-cache-ttl=0")
    try:
        dark.start()
        dark.zone("cust.test")
        provider = provider_of(dark)
        lacks = missing(provider.preflight(ZONE, HOSTNAME))
        assert set(lacks) == {"Lua"}
        assert lacks["Lua"].is_must
        provider.apply([wanted()])
        assert answers(dark)[0].rcode == "NXDOMAIN"

        def set_metadata(kind: str) -> None:
            row = f"SELECT id, '{kind}', '1' FROM domains"
            sql = f"INSERT INTO domainmetadata (domain_id, kind, content) {row}"
            subprocess.run(["sqlite3", dark.database, sql], check=True)
            api(dark).put("/cache/flush?domain=cust.test.").raise_for_status()

        set_metadata("ENABLE-LUA-RECORDS")
        assert missing(provider.preflight(ZONE, HOSTNAME)) == {}
        assert answers(dark)[0].records
        set_metadata("PRESIGNED")
        assert set(missing(provider.preflight(ZONE, HOSTNAME))) == {"DNSSEC"}
        assert answers(dark)[0].records == ()
    finally:
        dark.stop()


@pytest.mark.parametrize(
    ("server", "config", "lacks"),
    [
        ({"version": "4.6.3"}, {}, {"version"}),
        ({"version": "4.7.0-beta1"}, {}, set()),
        ({"version": "5.0.2"}, {}, set()),
        ({"version": "5.1.0"}, {}, {"Lua by API"}),
        ({"version": "5.1.0"}, {"enable-lua-record-updates": "no"}, {"Lua by API"}),
        ({"version": "5.1.0"}, {"enable-lua-record-updates": "yes"}, set()),
        ({"version": "10.0.0"}, {"enable-lua-record-updates": "yes"}, set()),
        ({"version": "0.0.1234gabcdef"}, {}, set()),
        ({"version": "4.9.1"}, {"enable-lua-records": "shared"}, set()),
        ({"version": "4.9.1"}, {"enable-lua-records": "no"}, {"Lua"}),
        ({"version": "4.9.1", "daemon_type": "recursor"}, {}, {"version"}),
    ],
)
def test_versions_and_settings_are_judged(server: dict[str, str], config: dict[str, str], lacks: set[str]) -> None:
    listed = [{"name": name, "value": value} for name, value in ({"enable-lua-records": "yes"} | config).items()]

    def answer(request: httpx.Request) -> httpx.Response:
        bodies: dict[str, Any] = {
            "": {"daemon_type": "authoritative"} | server,
            "/config": listed,
            "/zones/cust.test.": {"name": "cust.test.", "kind": "Native", "rrsets": []},
            "/zones/cust.test./metadata": [],
        }
        return httpx.Response(200, json=bodies[request.url.path.removeprefix("/api/v1/servers/localhost")])

    assert set(missing(scripted(answer).preflight(ZONE, HOSTNAME))) == lacks


def test_what_a_proxy_hides_is_said(server: PowerDns) -> None:
    class Hiding(Counting):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/metadata"):
                return httpx.Response(403)
            return super().handle_request(request)

    provider = PowerDnsProvider({"api_url": server.api_url}, {"api_key": API_KEY}, transport=Hiding())
    lacks = missing(provider.preflight(ZONE, HOSTNAME))
    assert [(name, check.is_must, check.is_unclear) for name, check in lacks.items()] == [("DNSSEC", False, True)]


# --- texts ------------------------------------------------------------------------------------------------------------


def test_what_the_server_needs_is_written_down(provider: PowerDnsProvider) -> None:
    text = provider.permissions(ZONE, [HOSTNAME, "app.cust.test"])
    for line in ("api=yes", "enable-lua-records=yes", "enable-lua-record-updates=yes"):
        assert line in text.splitlines()
    assert "#   LUA at app.cust.test, TXT at _tranche.app.cust.test" in text


@pytest.mark.skipif(shutil.which("curl") is None, reason="the script calls curl")
def test_the_script_does_what_apply_does(server: PowerDns, node: PowerDns) -> None:
    provider = provider_of(server, flush_urls=[node.api_url])
    provider.apply([wanted(100, 0, generation=1)])
    assert beacon(node) == ["rev=1"]
    one = wanted(0, 100, generation=8)
    run = run_script(provider.script(one), server.api_url)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert provider.read(ZONE, [HOSTNAME])[HOSTNAME].difference(one) == ""
    assert beacon(node) == ["rev=8"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the script calls curl")
def test_a_script_that_fails_says_so(server: PowerDns) -> None:
    nowhere = provider_of(server).script(wanted(hostname="www.nowhere.test", zone="nowhere.test"))
    assert run_script(nowhere, server.api_url).returncode != 0
    without = subprocess.run(["sh", "-c", nowhere], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert "PDNS_API_URL" in without.stderr
    away = provider_of(server, flush_urls=["http://127.0.0.1:9/it's"]).script(wanted())
    run = run_script(away, server.api_url)
    assert run.returncode == 0
    assert "the change shows all the same" in run.stderr


def run_script(script: str, url: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PDNS_API_URL": url, "PDNS_API_KEY": API_KEY}
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=environment, timeout=30)


def test_the_script_is_json_in_a_heredoc(provider: PowerDnsProvider) -> None:
    script = provider.script(wanted())
    body = script.split("<<'JSON'\n")[1].split("\nJSON\n")[0]
    assert [change["type"] for change in json.loads(body)["rrsets"]] == ["LUA", "TXT"]
    assert "dig +norecurse" in script
