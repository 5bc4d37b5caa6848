"""One contract, every vendor: the same tests against each vendor's own server.

What a vendor rightly can't do is asserted like the rest, and never skipped: each test says in a few words what it saw, and
`BEHAVIOURS` has those words. `table` writes them out for the manual, which shows them below its marker.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dns import vendors
from dns.embedded import EmbeddedDns
from dns.models import EmbeddedRecord, RecordSet
from dns.providers import VENDORS, provider_class
from dns.providers.contract import Member, Provider, ProviderError, Standing, Trouble, WeightedSet, Zone, is_below
from dns.providers.route53 import clients
from services import lookup
from services.models import ServiceDomain, Target
from tests.dns.rails import until
from tests.faulty_proxy import FaultyProxy
from tests.route53_fake import Route53Fake
from tests.servers import API_KEY, PowerDns, free_port, powerdns_fixture

__all__ = ["powerdns_fixture"]

ZONE = "conform.test"
HOSTNAME = f"www.{ZONE}"
KEYS = ["primary", "backup-1", "backup-2", "backup-3"]
EDGES = [f"edge{n}.cdn.test" for n in range(4)]
OLD, OLD_TTL = "old.cdn.test", 300
"""What somebody else leads the name to."""
SECRET = "4-secret-access-key-of-a-test"
MANUAL = Path(__file__).parents[2] / "docs" / "steering.md"
MARKER = "<!-- written by tests/dns/test_conformance.py -->"

YES, LOGS, NOTHING, OURS = "yes", "only logs", "keeps nothing", "no API to call"
UNSAFE = f"refused: {Trouble.UNSAFE}"

BEHAVIOURS: dict[str, tuple[str, Mapping[str, str]]] = {
    "zone": ("finds the zone at a dot, refuses look-alikes", {"log": "takes the last two labels"}),
    "read": ("what was written is read back", {"log": NOTHING}),
    "answers": ("DNS answers by weight, and never who is at 0 %", {"log": LOGS}),
    "repeat": ("a repeat leaves the same records", {"log": NOTHING}),
    "batch": ("a full batch is one call, all of it or nothing", {"log": LOGS, "embedded": "one transaction"}),
    "apex": (
        "weighs answers at a zone's apex",
        {"log": LOGS, "embedded": UNSAFE, "powerdns": UNSAFE, "route53": "addresses and aliases"},
    ),
    "injection": ("what is no hostname is refused before any call", {}),
    "foreign": ("somebody else's record is read and described", {"log": NOTHING}),
    "adopt": ("adopts and releases a name without a gap", {"log": LOGS}),
    "beacon": ("the beacon is written with the members", {"log": LOGS}),
    "ttl": ("a new TTL is every member's at once", {"log": LOGS}),
    "former": ("a member that is no path any more stays at 0 %", {"log": LOGS}),
    "spend": ("each call is paid for, once", {"log": OURS, "embedded": OURS}),
    "broke": ("what can't be paid for is not sent: throttled", {"log": OURS, "embedded": OURS}),
    "credentials": ("wrong credentials: access_denied, for good", {"log": OURS, "embedded": OURS}),
    "unreachable": ("out of reach: unreachable, surely not done", {"log": OURS, "embedded": OURS}),
    "lost": ("a write whose answer is lost: unknown", {"log": OURS, "embedded": OURS}),
    "script": ("writes a break-glass script, without secrets", {"log": "none", "embedded": "none"}),
}
"""By key: what it is, and for each vendor that does not simply do it, what that one does."""
COLUMNS = {"log": "log", "embedded": "embedded", "powerdns": "PowerDNS", "route53": "Route 53"}

_shown: set[str] = set()


def table() -> str:
    """In Markdown: a behaviour a row, a vendor a column."""
    rows = [[title, *(others.get(vendor, YES) for vendor in COLUMNS)] for title, others in BEHAVIOURS.values()]
    lines = [["", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shows(key: str) -> Callable[[Callable[..., str]], Callable[..., None]]:
    """The test returns what it saw, which must be the vendor's cell of the table."""
    _shown.add(key)

    def wrap(test: Callable[..., str]) -> Callable[..., None]:
        @functools.wraps(test)
        def wrapped(bench: Bench, **kw: Any) -> None:
            assert test(bench, **kw) == BEHAVIOURS[key][1].get(bench.vendor, YES)

        return wrapped

    return wrap


# --- each vendor's own server -----------------------------------------------------------------------------------------


class Bench:
    """A vendor with one zone in it, as a test holds it: here with nothing behind it."""

    vendor = "log"
    zone = Zone(ZONE)
    address: tuple[str, int] | None = None
    """Of its name server."""
    secrets: Sequence[str] = ()

    def provider(self, spend: Callable[[], None] = lambda: None, **options: Any) -> Provider:
        return provider_class(self.vendor)(options, {"api_key": "unused"}, spend)

    def calls(self, *, writes: bool = False) -> int:
        """That came to its API so far."""
        return 0

    def records(self) -> list[tuple[Any, ...]]:
        """All that stands in the zone, in a form to compare."""
        return []

    def occupy(self, hostname: str) -> None:
        """Somebody else leads the name to OLD."""

    def lock_out(self) -> Provider:
        """With credentials that serve no more."""
        return self.provider()

    def far_away(self) -> Provider:
        """At an address where nobody listens."""
        return self.provider(api_url=f"http://127.0.0.1:{free_port()}")

    def lose_reply(self) -> None:
        """Of the next write."""


class EmbeddedBench(Bench):
    vendor = "embedded"

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        soa = f"ns1.{ZONE}. root.{ZONE}. 1 3600 600 86400 5"
        EmbeddedRecord.objects.create(zone=ZONE, name=ZONE, type="SOA", value=soa)

    def records(self) -> list[tuple[Any, ...]]:
        fields = "name", "type", "value", "ttl_seconds", "weight", "owner"
        return sorted(EmbeddedRecord.objects.exclude(type="SOA").values_list(*fields), key=str)

    def occupy(self, hostname: str) -> None:
        EmbeddedRecord.objects.create(zone=ZONE, name=hostname, type="CNAME", value=OLD, ttl_seconds=OLD_TTL)


class PowerBench(Bench):
    vendor = "powerdns"
    secrets = (API_KEY,)

    def __init__(self, server: PowerDns, proxy: FaultyProxy) -> None:
        self.server, self.proxy, self.address = server, proxy, server.address
        server.zone(ZONE)

    def provider(self, spend: Callable[[], None] = lambda: None, key: str = API_KEY, **options: Any) -> Provider:
        return provider_class(self.vendor)({"api_url": self.proxy.url} | options, {"api_key": key}, spend)

    def calls(self, *, writes: bool = False) -> int:
        return sum(method == "PATCH" or not writes for method, _ in self.proxy.calls)

    def records(self) -> list[tuple[Any, ...]]:
        found = self.server._api.get(f"/zones/{ZONE}.").json()["rrsets"]
        return sorted(
            (one["name"], one["type"], one["ttl"], record["content"])
            for one in found
            for record in one["records"]
            if one["type"] not in ("SOA", "NS")
        )

    def occupy(self, hostname: str) -> None:
        self.server.put(ZONE, hostname, "CNAME", f"{OLD}.", ttl_seconds=OLD_TTL)

    def lock_out(self) -> Provider:
        return self.provider(key="another-key")

    def lose_reply(self) -> None:
        self.proxy.fail("PATCH", "lost_reply")


class AmazonBench(Bench):
    vendor = "route53"
    customer = "conform"

    def __init__(self, fake: Route53Fake) -> None:
        self.fake, self.address = fake, fake.dns_address
        fake.pending_polls = 0
        fake.limit(1e6, 1e6)
        self.zone = Zone(ZONE, fake.zone(ZONE, account=self.customer))
        self.secrets = (fake.access.key(self.customer), SECRET)

    def provider(self, spend: Callable[[], None] = lambda: None, **options: Any) -> Provider:
        keys = {"access_key_id": self.fake.access.key(self.customer), "secret_access_key": SECRET}
        return provider_class(self.vendor)({"endpoint_url": self.fake.url} | options, keys, spend)

    def calls(self, *, writes: bool = False) -> int:
        return sum(call.action == "ChangeResourceRecordSets" or not writes for call in self.fake.calls)

    def records(self) -> list[tuple[Any, ...]]:
        found = self.fake.records(self.zone.id).items()
        return sorted((*key, there.weight, there.ttl, there.values) for key, there in found)

    def occupy(self, hostname: str) -> None:
        self.fake.put(self.zone.id, hostname, "CNAME", f"{OLD}.", ttl=OLD_TTL)

    def lock_out(self) -> Provider:
        self.fake.revoke(self.customer, "InvalidClientTokenId")
        return self.provider()

    def far_away(self) -> Provider:
        return self.provider(endpoint_url=f"http://127.0.0.1:{free_port()}")

    def lose_reply(self) -> None:
        self.fake.fail("ChangeResourceRecordSets", "lost_reply")


@contextmanager
def opened(vendor: str, request: pytest.FixtureRequest) -> Iterator[Bench]:
    with ExitStack() as stack:
        if vendor == "log":
            yield Bench()
        elif vendor == "embedded":
            yield EmbeddedBench(request.getfixturevalue("embedded_dns"))
        elif vendor == "powerdns":
            real: PowerDns = request.getfixturevalue("powerdns")
            proxy = FaultyProxy(int(real.api_url.rpartition(":")[2]))
            proxy.start()
            stack.callback(proxy.stop)
            yield PowerBench(real, proxy)
        else:
            fake = Route53Fake()
            fake.start()
            stack.callback(fake.stop)
            stack.callback(clients._held.clear)
            yield AmazonBench(fake)
            assert fake.bugs == []


@pytest.fixture(scope="module")
def embedded_dns() -> Iterator[tuple[str, int]]:
    """Its address. It takes a second to stop, so there is one for all tests."""
    address = ("127.0.0.1", free_port())
    server = EmbeddedDns(*address)
    server.start()
    yield address
    server.stop()


COMMITTED = pytest.mark.django_db(transaction=True, available_apps=["dns"])
"""The embedded server sees only what was committed; and only the tables of `dns` are emptied after it."""


@pytest.fixture(params=[pytest.param(v, marks=[COMMITTED] if v == "embedded" else ()) for v in COLUMNS])
def bench(request: pytest.FixtureRequest, settings: Any) -> Iterator[Bench]:
    settings.DNS_API_ALLOW_PRIVATE = True
    with opened(request.param, request) as bench:
        yield bench


# --- what is written and seen -----------------------------------------------------------------------------------------


def weighted(
    bench: Bench, *percents: int, generation: int = 7, hostname: str = HOSTNAME, ttl_seconds: int = 30, **kw: Any
) -> WeightedSet:
    members = tuple(Member(key, edge, percent, **kw) for key, edge, percent in zip(KEYS, EDGES, percents, strict=False))
    return WeightedSet(hostname, bench.zone.name, bench.zone.id, ttl_seconds, generation, members)


def standing(bench: Bench, hostname: str = HOSTNAME) -> Standing:
    return bench.provider().read(bench.zone, [hostname])[hostname]


def ask(bench: Bench, name: str, qtype: str, times: int = 1) -> list[lookup.Answer]:
    assert bench.address
    return lookup.ask_all([(bench.address, name, qtype)] * times)


def edges(bench: Bench, times: int = 60) -> set[str]:
    """To whom DNS leads."""
    found = ask(bench, HOSTNAME, "CNAME", times)
    assert all(len(answer.records) == 1 for answer in found)
    return {answer.records[0].value for answer in found}


def await_beacon(bench: Bench, *values: str, hostname: str = HOSTNAME) -> None:
    until(lambda: lookup.txt_values(ask(bench, f"_tranche.{hostname}", "TXT")[0]) == list(values))


def refusal(call: Callable[..., Any], *args: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(*args)
    return caught.value


# --- what every vendor does -------------------------------------------------------------------------------------------


@shows("zone")
def test_the_zone_is_found_at_a_dot(bench: Bench) -> str:
    provider = bench.provider()
    assert provider.find_zone(HOSTNAME) == provider.find_zone(f"deep.down.{ZONE}") == bench.zone
    for name in (f"www.evil{ZONE}", f"{ZONE}.evil.test", f"evil{ZONE}"):
        if bench.vendor == "log":
            assert provider.find_zone(name) == Zone(".".join(name.split(".")[-2:]))
        else:
            error = refusal(provider.find_zone, name)
            assert (error.trouble, error.permanent, error.unknown) == (Trouble.ZONE, True, False)
    return "takes the last two labels" if bench.vendor == "log" else YES


def shares(cuts: list[int]) -> list[int]:
    """Percents between these cuts of 100."""
    bounds = [0, *sorted(cuts), 100]
    return [after - before for before, after in pairwise(bounds)]


PERCENTS = st.lists(st.sampled_from([0, 1, 10, 50, 90, 100]) | st.integers(0, 100), min_size=1, max_size=3).map(shares)


@shows("read")
def test_what_was_written_is_read_back(bench: Bench) -> str:
    @hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(percents=PERCENTS, generation=st.integers(1, 10**9), ttl_seconds=st.integers(1, 300))
    def written_and_read(percents: list[int], generation: int, ttl_seconds: int) -> None:
        hostname = f"n{len(percents)}.{ZONE}"
        wanted = weighted(bench, *percents, generation=generation, hostname=hostname, ttl_seconds=ttl_seconds)
        bench.provider().apply([wanted])
        there = standing(bench, hostname)
        if not bench.provider().answers:
            assert there == Standing(hostname)
            return
        assert there.difference(wanted) == ""
        assert {m.key: (m.target, m.percent) for m in there.members if m.percent} == {
            m.key: (m.target, m.percent) for m in wanted.members if m.percent
        }
        assert (there.generation, there.ttl_seconds, there.foreign) == (generation, ttl_seconds, ())

    written_and_read()
    return YES if bench.provider().answers else NOTHING


@shows("answers")
def test_dns_answers_by_weight(bench: Bench) -> str:
    provider = bench.provider()
    if not provider.answers:
        return log_of(provider.apply([weighted(bench, 70, 30, 0)]).details)
    provider.apply([weighted(bench, 70, 30, 0)])
    await_beacon(bench, "rev=7")
    counted = Counter(answer.records[0].value for answer in ask(bench, HOSTNAME, "CNAME", 300))
    assert set(counted) == set(EDGES[:2]) and 45 < counted[EDGES[1]] < 145  # 90 expected; over five standard deviations
    provider.apply([weighted(bench, 0, 0, 100, generation=8)])
    await_beacon(bench, "rev=8")
    assert edges(bench) == {EDGES[2]}
    return YES


def log_of(details: Mapping[str, Any]) -> str:
    assert "70 % edge0.cdn.test, 30 % edge1.cdn.test" in str(details["logged"])
    return LOGS


@shows("repeat")
def test_a_repeat_leaves_the_same_records(bench: Bench) -> str:
    wanted = [weighted(bench, 70, 30, 0), weighted(bench, 0, 100, hostname=f"app.{ZONE}")]
    bench.provider().apply(wanted)
    first = bench.records()
    for _ in range(2):
        bench.provider().apply(wanted)
        assert bench.records() == first
    return YES if first else NOTHING


@shows("batch")
def test_a_batch_is_one_call_and_all_or_none(bench: Bench) -> str:
    provider = bench.provider()
    assert provider.most_per_write > 1
    batch = [weighted(bench, 100, 0, hostname=f"a{n}.{ZONE}") for n in range(provider.most_per_write)]
    before = bench.calls(writes=True)
    receipt = provider.apply(batch)
    writes = bench.calls(writes=True) - before
    names = [one.hostname for one in batch]
    if bench.vendor == "log":
        assert len(receipt.details["logged"]) == len(batch)
        return LOGS
    there = provider.read(bench.zone, names[:: len(names) - 1])
    assert [one.generation for one in there.values()] == [7, 7]

    bench.occupy(names[len(names) // 2].replace("a", "b", 1))
    stood = bench.records()
    bad = [weighted(bench, 100, 0, hostname=f"b{n}.{ZONE}") for n in range(len(batch))]
    error = refusal(provider.apply, bad)
    assert (error.trouble, error.permanent, error.unknown) == (Trouble.FOREIGN, True, False)
    assert bench.records() == stood
    assert writes == (0 if bench.vendor == "embedded" else 1)
    return YES if writes else "one transaction"


@shows("apex")
def test_an_apex_has_no_cname(bench: Bench) -> str:
    provider = bench.provider()
    wanted = weighted(bench, 100, 0, hostname=ZONE)
    if bench.vendor == "log":
        provider.apply([wanted])
        return LOGS
    before = bench.records()
    error = refusal(provider.apply, [wanted])
    assert (error.trouble, error.permanent) == (Trouble.UNSAFE, True)
    assert (bench.records(), bench.calls(writes=True)) == (before, 0)
    assert provider.has_apex is isinstance(bench, AmazonBench)
    if not isinstance(bench, AmazonBench):
        return f"refused: {error.trouble}"

    bench.fake.distribution("d1.cloudfront.net", ZONE, addresses=["192.0.2.9", "2001:db8::9"])
    members = (
        Member("primary", "d1.cloudfront.net", 0), Member("backup-1", EDGES[1], 100, ("192.0.2.1", "2001:db8::1")),
    )  # fmt: skip
    provider.apply([WeightedSet(ZONE, ZONE, bench.zone.id, 30, 8, members)])
    assert a_records(bench) == {"192.0.2.1"}
    away = tuple(Member(m.key, m.target, 100 - m.percent, m.addresses) for m in members)
    provider.apply([WeightedSet(ZONE, ZONE, bench.zone.id, 30, 9, away)])
    assert a_records(bench) == {"192.0.2.9"}
    return "addresses and aliases"


def a_records(bench: Bench) -> set[str]:
    return {record.value for answer in ask(bench, ZONE, "A", 30) for record in answer.records}


EVIL = [
    "edge.cdn.test'},{100,'evil.test", "edge.cdn.test'..os.execute('id')..'", "edge.cdn.test;evil", "edge.cdn.test\\000",
    "edge cdn.test", " edge.cdn.test", "edge.cdn.test ", "edge.cdn.test\n", "edge.cdn.test. evil.test.", "*.cdn.test",
    "ed\N{KELVIN SIGN}e.cdn.test", "-edge.cdn.test", "edge..cdn.test", ".cdn.test", f"{'a' * 64}.test", "x." * 130 + "y",
    "192.0.2.1", "2001:db8::1", "edge", "",
]  # fmt: skip


@shows("injection")
def test_what_is_no_hostname_is_refused_before_any_call(bench: Bench) -> str:
    provider, before = bench.provider(), bench.records()
    for evil in EVIL:
        with pytest.raises(ValueError, match="is not a hostname"):
            provider.apply([from_rows(bench, {"primary": EDGES[0], "backup-1": evil}, {"primary": 100, "backup-1": 0})])
    for evil in EVIL[:-4]:
        with pytest.raises(ValueError, match="is not a hostname"):
            provider.apply([weighted(bench, 100, hostname=f"{evil.replace('cdn.test', ZONE)}.{ZONE}")])
    assert (bench.calls(), bench.records()) == (0, before)
    return YES


def from_rows(
    bench: Bench, addresses: Mapping[str, str], percents: Mapping[str, int], written: Mapping[str, str] | None = None
) -> WeightedSet:
    """As the outbox makes it, of rows that need not be stored."""
    domain = ServiceDomain(hostname=HOSTNAME)
    record_set = RecordSet(domain=domain, zone=bench.zone.name, zone_id=bench.zone.id, written=written or {})
    targets = {
        key: Target(pk=n, role=key.partition("-")[0], rank=n, address=address)
        for n, (key, address) in enumerate(addresses.items())
    }
    return vendors.weighted_set(record_set, percents, 8, targets)


@shows("foreign")
def test_somebody_elses_record_is_read_and_described(bench: Bench) -> str:
    bench.occupy(HOSTNAME)
    there = standing(bench)
    assert (there.generation, there.members) == (None, ())
    if not there.foreign:
        return NOTHING
    (told,) = there.foreign
    assert HOSTNAME in told and OLD in told and "CNAME" in told
    assert there.foreign_ttl_seconds == OLD_TTL
    assert there.difference(weighted(bench, 100)).startswith("a record that is not ours")
    return YES


@shows("adopt")
def test_adopting_and_releasing_leave_no_gap(bench: Bench) -> str:
    provider = bench.provider()
    if bench.vendor == "log":
        assert (
            provider.adopt(weighted(bench, 100, 0)).details and provider.release(weighted(bench, 100, 0), OLD).details
        )
        return LOGS
    bench.occupy(HOSTNAME)
    until(lambda: bool(ask(bench, HOSTNAME, "CNAME")[0].records))
    with watched(bench) as seen:
        provider.adopt(weighted(bench, 100, 0))
        await_beacon(bench, "rev=7")
        assert standing(bench).difference(weighted(bench, 100, 0)) == ""
        provider.release(weighted(bench, 100, 0, generation=8), EDGES[1])
        await_beacon(bench)
    assert set(seen) == {OLD, EDGES[0], EDGES[1]}
    assert edges(bench) == {EDGES[1]}
    after = standing(bench)
    assert (after.members, after.generation, len(after.foreign)) == ((), None, 1)
    return YES


@contextmanager
def watched(bench: Bench) -> Iterator[Counter[str]]:
    """Asks all the time; "" counts answers that led nowhere."""
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for answer in ask(bench, HOSTNAME, "CNAME", 5):
                seen[answer.records[0].value if answer.records else answer.error or ""] += 1

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        until(lambda: bool(seen))
        yield seen
        count = seen.total()
        until(lambda: seen.total() > count + 10)
    finally:
        stop.set()
        thread.join()


@shows("beacon")
def test_the_beacon_is_written_with_the_members(bench: Bench) -> str:
    provider = bench.provider()
    for generation in (7, 8):
        receipt = provider.apply([weighted(bench, 70, 30, generation=generation)])
        if bench.address:
            await_beacon(bench, f"rev={generation}")
            assert standing(bench).generation == generation
    return YES if bench.address else log_of(receipt.details)


@shows("ttl")
def test_a_new_ttl_is_every_members_at_once(bench: Bench) -> str:
    provider = bench.provider()
    for generation, ttl_seconds in ((7, 30), (8, 5)):
        receipt = provider.apply([weighted(bench, 70, 30, 0, generation=generation, ttl_seconds=ttl_seconds)])
        if bench.address:
            await_beacon(bench, f"rev={generation}")
            found = [*ask(bench, HOSTNAME, "CNAME", 40), *ask(bench, f"_tranche.{HOSTNAME}", "TXT")]
            assert {record.ttl_seconds for answer in found for record in answer.records} == {ttl_seconds}
            assert standing(bench).ttl_seconds == ttl_seconds
    return YES if bench.address else log_of(receipt.details)


@shows("former")
def test_a_member_that_is_no_path_any_more_stays_at_nothing(bench: Bench) -> str:
    provider = bench.provider()
    provider.apply([weighted(bench, 0, 0, 100)])
    former = dict(zip(KEYS, EDGES[:3], strict=False))
    paths = {key: former[key] for key in KEYS[:2]}
    wanted = from_rows(bench, paths, {"primary": 70, "backup-1": 30}, former)
    assert [(member.key, member.percent) for member in wanted.members] == list(zip(KEYS, (70, 30, 0), strict=False))
    receipt = provider.apply([wanted])
    if not bench.address:
        assert "0 % edge2.cdn.test" in receipt.details["logged"]
        return log_of(receipt.details)
    await_beacon(bench, "rev=8")
    assert edges(bench) == set(EDGES[:2])
    assert standing(bench).difference(wanted) == ""
    return YES


# --- what every vendor's API does -------------------------------------------------------------------------------------


def everything(bench: Bench, provider: Provider) -> list[Callable[[], object]]:
    """One of each kind of call, in an order in which they succeed."""
    wanted = weighted(bench, 70, 30)
    return [
        lambda: provider.find_zone(HOSTNAME),
        lambda: provider.read(bench.zone, [HOSTNAME]),
        lambda: provider.adopt(wanted),
        lambda: provider.apply([wanted]),
        lambda: provider.release(wanted, EDGES[0]),
    ]


@shows("spend")
def test_each_call_is_paid_for_once(bench: Bench) -> str:
    paid: list[int] = []
    provider = bench.provider(lambda: paid.append(bench.calls()))
    bench.occupy(HOSTNAME)
    for call in everything(bench, provider):
        before = len(paid)
        call()
        assert bench.calls() == len(paid)
        assert (len(paid) > before) is provider.is_metered
    assert paid == list(range(len(paid)))  # each before its call
    return YES if paid else OURS


@shows("broke")
def test_what_can_not_be_paid_for_is_not_sent(bench: Bench) -> str:
    def spend() -> None:
        raise ProviderError("the bucket is empty", permanent=False, trouble=Trouble.THROTTLED)

    provider = bench.provider(spend)
    bench.occupy(HOSTNAME)
    before = bench.records()
    for call in everything(bench, provider):
        if not provider.is_metered:
            call()  # there is no call to pay for
            continue
        error = refusal(call)
        assert (error.trouble, error.permanent, error.unknown) == (Trouble.THROTTLED, False, False)
        assert (bench.calls(), bench.records()) == (0, before)
    return YES if provider.is_metered else OURS


@shows("credentials")
def test_wrong_credentials_are_told_for_good(bench: Bench) -> str:
    bench.occupy(HOSTNAME)
    before, provider = bench.records(), bench.lock_out()
    for call in everything(bench, provider):
        if not provider.is_metered:
            call()
            continue
        error = refusal(call)
        assert (error.trouble, error.permanent, error.unknown) == (Trouble.ACCESS, True, False)
        assert error.is_accounts
        assert not any(secret in str(error) for secret in bench.secrets)
    if provider.is_metered:
        assert bench.records() == before
    return YES if provider.is_metered else OURS


@shows("unreachable")
def test_out_of_reach_is_surely_not_done(bench: Bench) -> str:
    bench.occupy(HOSTNAME)
    provider = bench.far_away()
    for call in everything(bench, provider):
        if not provider.is_metered:
            call()
            continue
        error = refusal(call)
        assert (error.trouble, error.permanent, error.unknown) == (Trouble.UNREACHABLE, False, False)
    return YES if provider.is_metered else OURS


@shows("lost")
def test_a_write_whose_answer_is_lost_is_unknown(bench: Bench) -> str:
    provider, wanted = bench.provider(), weighted(bench, 70, 30)
    bench.lose_reply()
    if not provider.is_metered:
        provider.apply([wanted])  # in our own transaction, or nowhere: there is no answer to lose
        return OURS
    error = refusal(provider.apply, [wanted])
    assert (error.trouble, error.permanent, error.unknown) == (Trouble.UNREACHABLE, False, True)
    assert standing(bench).difference(wanted) == "", "it was done all the same, and reading tells"
    provider.apply([wanted])
    assert standing(bench).difference(wanted) == ""
    return YES


@shows("script")
def test_a_script_has_no_secrets_in_it(bench: Bench) -> str:
    script = bench.provider().script(weighted(bench, 70, 30))
    assert not any(secret in script for secret in bench.secrets)
    if not script:
        return "none"
    assert script.startswith("#!/") and HOSTNAME in script and "rev=7" in script
    assert all(edge in script for edge in EDGES[:2])
    return YES


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_is_whole_and_the_manuals_own() -> None:
    print(table())
    assert set(COLUMNS) == set(VENDORS)
    assert _shown == set(BEHAVIOURS)
    assert is_below(HOSTNAME, ZONE)
    manual = MANUAL.read_text() if MANUAL.exists() else ""
    if MARKER in manual:
        assert manual.partition(MARKER)[2].lstrip().startswith(table())
