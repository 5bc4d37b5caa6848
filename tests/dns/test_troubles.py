"""Drift, bad input, refusals: each trouble has its state in rows and events, and other services go on.

Two rails: what a test does on Route 53 it does on PowerDNS. What needs only rows has a vendor that is never asked in DNS.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dnslib
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from customers.models import Event
from dns import accounts, observation, outbox, reconcile, steering, vendors
from dns.models import DnsAccount, Freeze, Pin, RecordSet, SteeringTerms, WeightChange, WriteAttempt
from dns.providers.contract import Member, Trouble, WeightedSet
from dns.providers.powerdns.lua import content_of
from dns.providers.route53 import records
from dns.weights import Refusal
from services.models import Service, Target
from storms.models import PathVerdict, StormEvent
from tests import factories
from tests.dns import rails
from tests.dns.rails import AmazonRail, PowerRail, Rail
from tests.faulty_proxy import FaultyProxy
from tests.servers import PowerDns, ScriptedDns, powerdns_fixture, scripted_fixture

# What no thread and no DNS server of ours has to see needn't be committed.
pytestmark = pytest.mark.django_db

__all__ = ["powerdns_fixture", "scripted_fixture"]

State = WeightChange.State
HOME, AWAY = {"primary": 100, "backup-1": 0}, {"primary": 0, "backup-1": 100}


@pytest.fixture(params=["route53", "powerdns"])
def rail(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("amazon" if request.param == "route53" else "power")


@pytest.fixture
def amazon(settings: Any) -> Iterator[AmazonRail]:
    with rails.amazon() as amazon:
        lead_to(settings, amazon)
        yield amazon


@pytest.fixture
def power(settings: Any, powerdns: PowerDns) -> Iterator[PowerRail]:
    with rails.power(powerdns) as power:
        lead_to(settings, power)
        yield power


def lead_to(settings: Any, rail: Any) -> None:
    rails.led_to(settings, rail)


@pytest.fixture(autouse=True)
def _quick(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.FAILBACK_GATE_SECONDS = 0
    settings.FAILBACK_STEPS_PERCENT = [100]
    settings.BLAST_RADIUS_FLOOR = 100_000
    monkeypatch.setattr(observation, "SAMPLES", 6)


# --- a world of services, and its clock -------------------------------------------------------------------------------


class World:
    """Some services on one rail, the workers, and the time, which passes only when a test lets it."""

    def __init__(self, rail: Any, services: int = 1) -> None:
        self.rail = rail
        self.account = rail.account()
        self.services = [rails.service_on(rail, self.account) for _ in range(services)]
        self.down: set[int] = set()
        self.now = datetime.now(UTC)
        self._seen = 0
        self.settle()

    def see(self) -> None:
        """Fresh verdicts of every path, of which none is news."""
        for service in self.services[self._seen :]:
            rails.see(service, self.now)
        self._seen = len(self.services)
        verdicts = PathVerdict.objects.filter(target__domain__service__in=self.services)
        verdicts.update(verdict="UP", availability=1.0, evaluated_at=self.now, newest_good_at=self.now)
        verdicts.filter(target__domain__service__in=self.down, target__role="primary").update(
            verdict="DOWN", availability=0.0
        )

    @property
    def service(self) -> Service:
        return self.services[0]

    def settle(self) -> None:
        for _ in range(2):
            self.tick()
            states = {newest(service).state for service in self.services}
            if states == {State.OBSERVED}:
                return
        raise AssertionError(states, record_set(self.service).observation)

    def tick(self, seconds: float = 2) -> None:
        """Plan, write, look at what is on its way."""
        self.plan(seconds)
        self.deliver()

    def plan(self, seconds: float = 2) -> None:
        self.now += timedelta(seconds=seconds)
        self.see()
        steering.steer(self.now, [service.pk for service in self.services])

    def deliver(self) -> None:
        """Write what was planned before, and look at it."""
        outbox.submit(self.now)
        outbox.poll(self.now + timedelta(seconds=6))
        reconcile.observe(self.now)

    def look(self, seconds: float = 10) -> None:
        """One slow sweep, and what follows from it."""
        self.now += timedelta(seconds=seconds)
        reconcile.sweep(self.now, everything=True)
        self.tick(0)

    def storm(self, *services: Service) -> None:
        for service in services:
            rails.storm_over(service)
            self.down.add(service.pk)

    def answers(self, service: Service | None = None) -> set[str]:
        """The lanes that DNS leads to."""
        hostname = (service or self.service).domains.get().hostname
        return {value.partition(".")[0].rstrip("0123456789") for value in rails.answers(self.rail, hostname, 20)}


def newest(service: Service) -> WeightChange:
    change = WeightChange.objects.filter(service=service).order_by("-generation", "-id").first()
    assert change
    return change


def calm(*services: Service) -> None:
    """Their storms are over."""
    at = datetime.now(UTC)
    StormEvent.objects.filter(service__in=services, closed_at=None).update(ended_at=at, closed_at=at)


def lanes(change: WeightChange) -> dict[str, int]:
    return rails.by_lane(change.weights, change.service)


def record_set(service: Service) -> RecordSet:
    return RecordSet.objects.select_related("domain", "account").get(domain__service=service)


def told(service: Service) -> Counter[str]:
    """Events of its customer, by kind, but for those of every change."""
    kinds = Event.objects.filter(customer=service.customer).values_list("kind", flat=True)
    return Counter(kind for kind in kinds if kind not in ("weights.wanted", "weights.observed"))


# --- a person's hand at the vendor ------------------------------------------------------------------------------------


def meant(service: Service, primary: int, ttl_seconds: int | None = None) -> WeightedSet:
    """As it was written last, with other percents."""
    row = record_set(service)
    if ttl_seconds:
        row.ttl_seconds = ttl_seconds
    targets = {str(t.pk): t for t in row.domain.targets.all()}
    percents = {key: primary if t.role == "primary" else 100 - primary for key, t in targets.items()}
    written = WeightChange.objects.filter(record_set=row, attempt__isnull=False, confirmed_at__isnull=False)
    return vendors.weighted_set(row, percents, written.latest("generation").generation, targets)


def edit(rail: Any, service: Service, primary: int = 50, ttl_seconds: int | None = None) -> None:
    """A person gives the primary so many percent, and leaves everything else as it is."""
    wanted = meant(service, primary, ttl_seconds)
    if isinstance(rail, AmazonRail):
        rail.fake.edit(rail.zone_id, *map(records.upsert, records.member_sets(wanted)))
    elif isinstance(rail, PowerRail):
        rail.server.put(rail.zone, wanted.hostname, "LUA", content_of(wanted), ttl_seconds=wanted.ttl_seconds)


def delete(rail: Any, service: Service, *, beacon: bool) -> None:
    wanted = meant(service, 100)
    if isinstance(rail, AmazonRail):
        for name, qtype, identifier in rail.fake.records(rail.zone_id):
            if name == f"{wanted.hostname}." or (beacon and name == f"{wanted.beacon_name}."):
                rail.fake.delete(rail.zone_id, name, qtype, identifier or None)
    elif isinstance(rail, PowerRail):
        rail.server.put(rail.zone, wanted.hostname, "LUA")
        if beacon:
            rail.server.put(rail.zone, wanted.beacon_name, "TXT")


def add_stranger(rail: Any, hostname: str) -> Callable[[], object]:
    """Somebody else's record beside ours. Returns what tells how it stands."""
    if isinstance(rail, AmazonRail):
        fake, zone_id = rail.fake, rail.zone_id
        fake.put(zone_id, hostname, "CNAME", "theirs.test.", ttl=1, SetIdentifier="theirs", Weight=10)
        return lambda: fake.records(zone_id)[f"{hostname}.", "CNAME", "theirs"].fields
    assert isinstance(rail, PowerRail)
    server, zone = rail.server, rail.zone
    server.put(zone, hostname, "A", "192.0.2.7", ttl_seconds=7)
    return lambda: [
        one for one in server._api.get(f"/zones/{zone}.").json()["rrsets"]
        if one["name"] == f"{hostname}." and one["type"] == "A"
    ]  # fmt: skip


# --- drift ------------------------------------------------------------------------------------------------------------


def fight(world: World, service: Service, rounds: int = 3) -> None:
    """A person edits, whatever is written over it."""
    for number in range(rounds):
        edit(world.rail, service, 40 + number)
        world.look()
        world.look()


@pytest.mark.parametrize(
    ("rail", "pause_seconds"), [("route53", 0), ("route53", 3600), ("powerdns", 0)], indirect=["rail"]
)
def test_a_persons_edits_are_written_over_twice_and_then_left_alone(rail: Rail, pause_seconds: int) -> None:
    world = World(rail)
    edit(rail, world.service)
    world.look()
    assert told(world.service) == {"weights.drifted": 1}
    row = record_set(world.service)
    assert row.drifted_since and "at 50 %, and 0 % was written" in row.observation
    assert rail.writes() == 1, "the first look only tells"
    world.look()
    assert rail.writes() == 2 and world.answers() == {"primary"}
    for number in range(4):
        if pause_seconds:
            world.look()
            world.look(pause_seconds)  # as it was written, for all that is seen
        edit(rail, world.service, 40 + number)
        world.look()
        world.look()
    row, held = record_set(world.service), newest(world.service)
    assert rail.writes() == 3
    assert row.is_held and held.state == State.HELD
    assert (held.refusal, held.trouble, lanes(held)) == ("foreign_record", Trouble.FOREIGN, HOME)
    assert held.held_reason.startswith("foreign_record: ") and "was written" in held.held_reason
    kinds = told(world.service)
    assert (kinds["weights.reasserted"], kinds["weights.held"]) == (2, 1)
    assert world.answers() == {"primary", "backup"}, "what the person wrote stands"


def test_a_day_later_an_edit_is_a_new_one(amazon: AmazonRail) -> None:
    world = World(amazon)
    for _ in range(3):
        edit(amazon, world.service)
        world.look()
        world.look()
        world.look(24 * 3600)
    assert not record_set(world.service).is_held
    assert told(world.service)["weights.reasserted"] == 3


def test_a_persons_word_writes_over_an_edit(amazon: AmazonRail) -> None:
    world = World(amazon)
    fight(world, world.service)
    writes = amazon.writes()
    steering.approve(newest(world.service), User.objects.create_user("op"))
    world.tick()
    assert amazon.writes() == writes + 1
    row = record_set(world.service)
    assert (row.is_held, row.reasserted, newest(world.service).state) == (False, 0, State.OBSERVED)
    assert world.answers() == {"primary"}
    edit(amazon, world.service)
    world.look()
    world.look()
    assert world.answers() == {"primary"}, "that was a new edit, and is written over again"


def test_an_edit_that_is_undone_by_hand_is_forgotten(rail: Rail) -> None:
    world = World(rail)
    fight(world, world.service)
    writes = rail.writes()
    edit(rail, world.service, 100)
    world.look()
    row = record_set(world.service)
    assert (row.is_held, row.drifted_since, row.reasserted) == (False, None, 0)
    assert newest(world.service).state == State.SUPERSEDED
    assert told(world.service)["weights.restored"] == 1
    world.tick()
    assert rail.writes() == writes

    before = told(world.service)["weights.drifted"]
    edit(rail, world.service)
    world.look()
    assert told(world.service)["weights.drifted"] == before + 1, "a new edit is seen"
    world.look()
    assert rail.writes() == writes + 1 and world.answers() == {"primary"}
    assert newest(world.service).state == State.OBSERVED


def test_drift_is_seen_while_a_plan_waits_and_after_it_was_dropped(amazon: AmazonRail, settings: Any) -> None:
    world = World(amazon)
    settings.BLAST_RADIUS_FLOOR, settings.BLAST_RADIUS_SHARE = 0, 0.0
    world.storm(world.service)
    world.tick()
    assert newest(world.service).refusal == "blast_radius"
    edit(amazon, world.service)
    world.look()
    assert told(world.service)["weights.drifted"] == 1
    world.look()
    assert (newest(world.service).state, amazon.writes()) == (State.HELD, 1), "a person is asked already"

    world.down.clear()
    calm(world.service)
    world.tick()
    world.look()
    assert amazon.writes() == 2 and world.answers() == {"primary"}
    change = newest(world.service)
    assert (change.state, lanes(change)) == (State.OBSERVED, HOME)


def test_an_edit_in_a_storm_is_met_alike_and_other_services_move(amazon: AmazonRail) -> None:
    world = World(amazon, services=3)
    edited, early, late = world.services
    world.storm(edited, early)
    world.tick()
    assert [world.answers(service) for service in world.services] == [{"backup"}, {"backup"}, {"primary"}]
    writes = amazon.writes()
    for number in range(4):
        edit(amazon, edited, 90 + number)
        world.look()
        world.look()
        if number == 2:
            world.storm(late)
    assert record_set(edited).is_held and told(edited)["weights.reasserted"] == 2
    assert amazon.writes() == writes + 3, "twice over the edit, and once for the service that came later"
    assert (newest(edited).state, lanes(newest(edited))) == (State.HELD, AWAY)
    for service in (early, late):
        assert (newest(service).state, world.answers(service)) == (State.OBSERVED, {"backup"})
        assert told(service) == {}


def test_a_storm_does_not_write_over_what_was_left_to_a_person(amazon: AmazonRail) -> None:
    world = World(amazon, services=2)
    edited, other = world.services
    fight(world, edited)
    writes = amazon.writes()
    world.storm(edited, other)
    world.tick()
    assert amazon.writes() == writes + 1 and world.answers(other) == {"backup"}
    held = newest(edited)
    assert (held.state, held.refusal, lanes(held)) == (State.HELD, "foreign_record", AWAY)
    assert world.answers(edited) == {"primary", "backup"}

    world.down.clear()
    calm(edited)
    world.tick()
    held = newest(edited)
    assert (held.state, lanes(held)) == (State.HELD, HOME), "what a person may approve is what is wanted now"
    steering.approve(held, User.objects.create_user("op"))
    world.tick()
    assert world.answers(edited) == {"primary"}


def test_an_edit_before_the_write_was_seen_is_met_alike(amazon: AmazonRail) -> None:
    world = World(amazon)
    world.storm(world.service)
    world.plan()
    for number in range(6):
        outbox.submit(world.now)
        edit(amazon, world.service, 90 - number)
        world.now += timedelta(seconds=60)
        outbox.poll(world.now)
        reconcile.observe(world.now)
    change = newest(world.service)
    assert (amazon.writes(), change.attempts, change.observed_at) == (1 + 3, 3, None)
    assert told(world.service) == {"weights.reasserted": 2}
    assert "primary" in record_set(world.service).observation
    edit(amazon, world.service, 0)
    world.tick()
    assert (newest(world.service).state, amazon.writes()) == (State.OBSERVED, 4), "undone by hand"


def test_a_strangers_record_is_never_touched_nor_written_over(rail: Rail) -> None:
    world = World(rail, services=2)
    hostname = record_set(world.service).domain.hostname
    strangers = add_stranger(rail, hostname)
    before, writes = strangers(), rail.writes()
    world.look()
    row, held = record_set(world.service), newest(world.service)
    assert (row.is_held, held.state, held.refusal) == (True, State.HELD, "foreign_record")
    assert "a record that is not ours" in row.observation and hostname in row.observation
    assert told(world.service) == {"weights.drifted": 1, "weights.held": 1}
    world.storm(*world.services)
    for _ in range(3):
        world.look()
    assert (rail.writes(), strangers()) == (writes + 1, before), "the other service's"
    assert newest(world.services[1]).state == State.OBSERVED and world.answers(world.services[1]) == {"backup"}

    steering.approve(newest(world.service), User.objects.create_user("op"))
    world.tick()
    assert strangers() == before, "even then ours are written beside it"


def test_an_edited_ttl_is_drift(rail: Rail) -> None:
    world = World(rail)
    edit(rail, world.service, 100, ttl_seconds=200)
    world.look()
    assert record_set(world.service).observation == "the TTL is 200 s, and 1 s was written"
    assert told(world.service) == {"weights.drifted": 1}
    world.look()
    assert told(world.service)["weights.reasserted"] == 1
    world.look()
    assert (record_set(world.service).drifted_since, rail.writes()) == (None, 2)


@pytest.mark.parametrize(
    ("rail", "beacon"), [("route53", False), ("route53", True), ("powerdns", True)], indirect=["rail"]
)
def test_a_deleted_record_set_is_told_and_written_again(rail: Rail, beacon: bool) -> None:
    world = World(rail)
    delete(rail, world.service, beacon=beacon)
    world.look()
    assert told(world.service) == {"weights.drifted": 1} and rail.writes() == 1
    world.look()
    world.look()
    assert (record_set(world.service).drifted_since, rail.writes()) == (None, 2)
    assert world.answers() == {"primary"}


class Secondary:
    """A second name server, which answers what it is given, or what it once heard."""

    def __init__(self, rail: Any, scripted: ScriptedDns, settings: Any) -> None:
        self.rail, self.is_stale = rail, False
        self._heard: dict[tuple[str, int], bytes] = {}
        scripted.script = self._answer
        settings.AUTHORITY_OVERRIDES = {rail.zone: f"{rail.address()[0]}:{rail.address()[1]};{scripted.text}"}
        observation.forget_servers()

    def _answer(self, query: Any, protocol: str) -> Any:
        key = str(query.q.qname).lower(), query.q.qtype
        if not self.is_stale or key not in self._heard:
            self._heard[key] = query.send(*self.rail.address(), timeout=1)
        reply = dnslib.DNSRecord.parse(self._heard[key])
        reply.header.id, reply.questions = query.header.id, query.questions
        return reply


def test_what_only_a_stale_secondary_serves_is_told_and_not_written_again(
    rail: Rail, scripted: ScriptedDns, settings: Any
) -> None:
    secondary = Secondary(rail, scripted, settings)
    world = World(rail)
    secondary.is_stale = True
    world.storm(world.service)
    for _ in range(4):
        world.tick(20)
    change = newest(world.service)
    assert (change.state, rail.writes()) == (State.CONFIRMED, 2), "its vendor has it: writing again changes nothing"
    assert "shows rev=1, and rev=2 was written" in record_set(world.service).observation
    secondary.is_stale = False
    world.tick()
    assert newest(world.service).state == State.OBSERVED

    secondary.is_stale = True
    secondary._heard = {key: heard.replace(b"rev=2", b"rev=1") for key, heard in secondary._heard.items()}
    for _ in range(4):
        world.look()
    row = record_set(world.service)
    assert rail.writes() == 2 and row.drifted_since and not row.is_held
    assert "shows rev=1, and rev=2 was written" in row.observation
    assert told(world.service) == {"weights.drifted": 1}
    secondary.is_stale = False
    world.look()
    assert record_set(world.service).drifted_since is None


def test_fifty_drifts_are_found_at_the_next_look_and_fought_twice(amazon: AmazonRail) -> None:
    world = World(amazon, services=50)
    for number, service in enumerate(world.services):
        edit(amazon, service, 20 + number)
    world.look()
    assert Event.objects.filter(kind="weights.drifted").count() == 50
    world.look()
    for number in range(2):
        for service in world.services:
            edit(amazon, service, 70 + number)
        world.look()
    counted = [told(service) for service in world.services]
    assert {kinds["weights.reasserted"] for kinds in counted} == {2}
    assert {kinds["weights.held"] for kinds in counted} == {1}
    assert RecordSet.objects.filter(is_held=True).count() == 50
    assert max(WeightChange.objects.values_list("attempts", flat=True)) == 3


# --- a provider that says yes ----------------------------------------------------------------------------------------


class Swallowing(FaultyProxy):
    """Answers writes with 204 and does nothing, for the names that it swallows."""

    swallows: tuple[str, ...] = ()

    def _ask(self, handler: Any, body: bytes) -> tuple[int, Any, bytes]:
        if handler.command == "PATCH" and any(name.encode() in body for name in self.swallows):
            return 204, {}, b""
        return super()._ask(handler, body)


def test_a_write_that_was_only_said_to_be_done_is_never_observed(powerdns: PowerDns, settings: Any) -> None:
    proxy = Swallowing(int(powerdns.api_url.rpartition(":")[2]))
    proxy.start()
    try:
        rail = PowerRail(powerdns, proxy)
        lead_to(settings, rail)
        world = World(rail, services=2)
        bad, good = world.services
        other = rail.account()  # a batch is all or none, so a batch of its own
        RecordSet.objects.filter(domain__service=good).update(account=other)
        proxy.swallows = (record_set(bad).domain.hostname,)
        world.storm(bad, good)
        states = []
        for _ in range(12):
            world.tick(5)
            states.append(newest(bad).state)
        assert set(states) <= {State.CONFIRMED, State.UNKNOWN, State.WANTED} and newest(bad).observed_at is None
        assert "shows rev=1, and rev=2 was written" in record_set(bad).observation
        assert 2 <= newest(bad).attempts <= 4, "written again, ever more seldom"
        assert (newest(good).state, world.answers(good)) == (State.OBSERVED, {"backup"})
        proxy.swallows = ()
        world.tick(120)
        world.tick()
        assert newest(bad).state == State.OBSERVED
    finally:
        proxy.stop()


def test_what_answers_servfail_after_a_write_is_never_observed(power: PowerRail) -> None:
    world = World(power, services=2)
    bad, good = world.services
    hostname = record_set(bad).domain.hostname
    world.storm(bad, good)
    world.plan()
    outbox.submit(world.now)
    power.server.put(power.zone, hostname, "LUA", 'CNAME "pickwrandom({{100,"', ttl_seconds=1)
    for _ in range(12):
        world.tick(5)
    assert newest(bad).state in (State.CONFIRMED, State.UNKNOWN) and newest(bad).observed_at is None
    assert "SERVFAIL" in record_set(bad).observation
    assert (newest(good).state, world.answers(good)) == (State.OBSERVED, {"backup"})


def test_a_record_that_begins_to_answer_servfail_is_drift(power: PowerRail) -> None:
    world = World(power)
    hostname = record_set(world.service).domain.hostname
    power.server.put(power.zone, hostname, "LUA", 'CNAME "pickwrandom({{100,"', ttl_seconds=1)
    world.look()
    assert told(world.service)["weights.drifted"] == 1
    assert record_set(world.service).is_held, "it is somebody's, broken or not"


# --- bad input --------------------------------------------------------------------------------------------------------

LUA = "edge.cdn.test'..os.execute('id')..'"


@pytest.mark.parametrize(
    ("rail", "what"), [("route53", "target"), ("route53", "hostname"), ("powerdns", "target")], indirect=["rail"]
)
def test_lua_in_a_name_is_refused_before_it_is_sent(rail: Rail, what: str) -> None:
    world = World(rail, services=2)
    bad, good = world.services
    if what == "target":
        Target.objects.filter(domain__service=bad, role="backup").update(address=LUA)
    else:
        bad.domains.update(hostname=f"{LUA}.{rail.zone}"[-63:])
    world.storm(bad, good)
    writes = rail.writes()
    for _ in range(3):
        world.tick()
    change = newest(bad)
    assert (change.state, change.trouble) == (State.FAILED, Trouble.UNSAFE)
    assert "is not a hostname" in change.error
    assert told(bad) == {"weights.failed": 1}
    assert rail.writes() == writes + 1, "the other service's"
    assert (newest(good).state, world.answers(good)) == (State.OBSERVED, {"backup"})
    assert not WriteAttempt.objects.filter(outcome="").exists(), "no attempt looks as if its worker died"


@pytest.mark.parametrize("spoilt", ["address", "rank"])
def test_paths_that_can_not_be_compared_any_more_do_not_stop_the_looks(amazon: AmazonRail, spoilt: str) -> None:
    world = World(amazon, services=2)
    bad, good = world.services
    old = Target.objects.get(domain__service=bad, role="backup")
    new = factories.target("backup", domain=old.domain, address="new.cdn.test", rank=2)
    world.storm(bad)
    world.tick()
    world.tick()
    assert (newest(bad).state, newest(bad).weights[str(old.pk)]) == (State.OBSERVED, 100)
    if spoilt == "address":
        Target.objects.filter(pk=old.pk).update(address=LUA)  # past the validators
    else:
        old.enabled, new.rank = False, 1  # two members of one plan are now one lane
        for target in (old, new):
            target.full_clean()
            target.save()
    edit(amazon, good)
    reconcile.sweep(world.now + timedelta(seconds=10), everything=True)
    assert told(good) == {"weights.drifted": 1}
    assert told(bad) == ({"weights.drifted": 1} if spoilt == "address" else {}), "told, if DNS shows it, and no more"


def test_a_path_that_is_spoilt_after_a_lost_reply_does_not_stop_the_outbox(amazon: AmazonRail) -> None:
    world = World(amazon, services=2)
    bad, good = world.services
    world.storm(bad)
    amazon.fail_write("lost_reply")
    world.plan()
    outbox.submit(world.now)
    assert newest(bad).state == State.UNKNOWN
    Target.objects.filter(domain__service=bad, role="primary").update(address=LUA)
    world.storm(good)
    world.tick(5)
    assert (newest(good).state, newest(bad).state) == (State.OBSERVED, State.OBSERVED)


@pytest.mark.parametrize("percents", [(256, 0), (-1, 101), (50, 51), (99, 0), (0, 0), (100, 100)])
def test_percents_are_0_to_100_and_sum_to_100(percents: tuple[int, int]) -> None:
    members = tuple(Member(key, "edge.cdn.test", percent) for key, percent in zip("ab", percents, strict=True))
    with pytest.raises(ValueError, match="percents must be 0 to 100 with sum 100"):
        WeightedSet("www.cust.test", "cust.test", "", 30, 1, members)


def test_weights_that_make_no_sense_fail_alone(amazon: AmazonRail) -> None:
    world = World(amazon, services=2)
    bad, good = world.services
    world.storm(bad, good)
    world.plan()
    change = newest(bad)
    WeightChange.objects.filter(pk=change.pk).update(weights=dict.fromkeys(change.weights, 256))
    world.deliver()
    assert (newest(bad).state, newest(bad).trouble) == (State.FAILED, Trouble.UNSAFE)
    assert (newest(good).state, world.answers(good)) == (State.OBSERVED, {"backup"})


@pytest.mark.parametrize("ttl_seconds", [0, 301, 86_400])
def test_a_ttl_that_makes_failover_useless_is_refused_by_name(ttl_seconds: int) -> None:
    row = factories.record_set()
    row.ttl_seconds = ttl_seconds
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    assert list(caught.value.message_dict) == ["ttl_seconds"]
    assert ("300" if ttl_seconds else "1") in caught.value.message_dict["ttl_seconds"][0]
    with pytest.raises(IntegrityError, match="record_sets_ttl_range"), transaction.atomic():
        RecordSet.objects.filter(pk=row.pk).update(ttl_seconds=ttl_seconds)


# --- refusals ---------------------------------------------------------------------------------------------------------


def another_zone(rail: Any, settings: Any) -> tuple[str, str]:
    """Name and id of a second zone, of another customer's account where the vendor has accounts."""
    name = f"other.{rail.zone}"
    zone_id = ""
    if isinstance(rail, AmazonRail):
        zone_id = rail.fake.zone(name, account="other")
    elif isinstance(rail, PowerRail):
        rail.server.zone(name)
    settings.AUTHORITY_OVERRIDES |= {name: settings.AUTHORITY_OVERRIDES[rail.zone]}
    return name, zone_id


def service_in(rail: Any, account: DnsAccount, zone: tuple[str, str]) -> Service:
    service = rails.service_on(rail, account)
    domain = service.domains.get()
    service.domains.update(hostname=f"{domain.hostname.partition('.')[0]}.{zone[0]}")
    RecordSet.objects.filter(domain=domain).update(zone=zone[0], zone_id=zone[1])
    return service


def revoke(rail: Any, account: DnsAccount, code: str) -> Callable[[], None]:
    """Refuse all that the account's credentials ask for. Returns what undoes it."""
    if isinstance(rail, AmazonRail):
        fake = rail.fake
        fake.revoke("default", code)
        return lambda: fake.restore("default")
    key = account.credentials()
    seal(account, {"api_key": "revoked"})
    return lambda: seal(account, key)


def seal(account: DnsAccount, credentials: dict[str, Any]) -> None:
    account.seal(credentials)
    account.save(update_fields=["sealed_credentials"])


@pytest.mark.parametrize(
    ("rail", "code"),
    [("route53", "InvalidClientTokenId"), ("route53", "AccessDenied"), ("powerdns", "")],
    indirect=["rail"],
)
def test_revoked_credentials_stop_their_account_alone(rail: Rail, settings: Any, code: str) -> None:
    world = World(rail, services=3)
    theirs = world.services[:]
    zone = another_zone(rail, settings)
    other = rail.account()
    if isinstance(rail, AmazonRail):
        seal(other, {"access_key_id": rail.fake.access.key("other"), "secret_access_key": "s"})
    good = service_in(rail, other, zone)
    world.services.append(good)
    world.settle()
    restore = revoke(rail, world.account, code)
    world.storm(*world.services)
    world.tick()
    world.look()
    world.tick()
    for service in theirs:
        change = newest(service)
        assert (change.state, change.trouble, told(service)) == (State.FAILED, Trouble.ACCESS, {"weights.failed": 1})
    world.account.refresh_from_db()
    assert world.account.trouble == Trouble.ACCESS and world.account.trouble_since and world.account.trouble_text
    failing = Event.objects.filter(kind="dns_account.failing")
    assert [event.subject_id for event in failing] == [world.account.pk]
    assert (newest(good).state, world.answers(good), told(good)) == (State.OBSERVED, {"backup"}, {})

    restore()
    accounts.retry(world.account)
    world.now = max(world.now, datetime.now(UTC))
    world.tick()
    for service in theirs:
        assert (newest(service).state, world.answers(service)) == (State.OBSERVED, {"backup"})
    assert StormEvent.objects.count() == 4
    world.account.refresh_from_db()
    assert world.account.trouble == ""
    assert Event.objects.filter(kind="dns_account.recovered").count() == 1


def test_a_deleted_zone_is_no_zone_and_stops_no_other(rail: Rail, settings: Any) -> None:
    world = World(rail)
    gone, good = world.service, service_in(rail, world.account, zone_of_account(rail, settings))
    world.services.append(good)
    world.settle()
    if isinstance(rail, AmazonRail):
        rail.fake.remove(rail.zone_id)
    elif isinstance(rail, PowerRail):
        rail.server._api.delete(f"/zones/{rail.zone}.")
    world.storm(gone, good)
    world.tick()
    change = newest(gone)
    assert (change.state, change.trouble, told(gone)) == (State.FAILED, Trouble.ZONE, {"weights.failed": 1})
    assert (newest(good).state, world.answers(good)) == (State.OBSERVED, {"backup"})
    world.account.refresh_from_db()
    assert world.account.trouble == ""


def zone_of_account(rail: Any, settings: Any) -> tuple[str, str]:
    """A second zone of the same account."""
    if isinstance(rail, AmazonRail):
        name = "second.test"
        settings.AUTHORITY_OVERRIDES |= {name: settings.AUTHORITY_OVERRIDES[rail.zone]}
        return name, rail.fake.zone(name)
    return another_zone(rail, settings)


def test_a_protected_record_is_named_protected(amazon: AmazonRail) -> None:
    world = World(amazon, services=3)
    bad, *good = world.services
    hostname = record_set(bad).domain.hostname
    amazon.fake.protect(amazon.zone_id, hostname, "CNAME", "ask the network team")
    world.storm(*world.services)
    world.tick()
    change = newest(bad)
    assert (change.state, change.trouble, told(bad)) == (State.FAILED, Trouble.PROTECTED, {"weights.failed": 1})
    assert hostname in change.error and "ask the network team" in change.error
    assert {newest(service).state for service in good} == {State.OBSERVED}
    amazon.fake.unprotect(amazon.zone_id, hostname, "CNAME")
    world.tick(outbox.PERMANENT_WAIT_SECONDS)
    assert newest(bad).state == State.OBSERVED, "once it is lifted the storm's plan goes by itself"


@pytest.mark.parametrize(("rail", "position"), [("route53", 0), ("route53", 19), ("powerdns", 7)], indirect=["rail"])
def test_one_bad_record_of_twenty_stands_alone(rail: Rail, position: int) -> None:
    world = World(rail, services=20)
    bad = world.services[position]
    if isinstance(rail, AmazonRail):
        fake, zone_id = rail.fake, rail.zone_id
        fake.protect(zone_id, record_set(bad).domain.hostname, "CNAME")
    elif isinstance(rail, PowerRail):
        rail.server.put(rail.zone, record_set(bad).domain.hostname, "LUA")
        rail.server.put(rail.zone, record_set(bad).domain.hostname, "CNAME", "theirs.test.")
    before = WriteAttempt.objects.count()
    world.storm(*world.services)
    world.plan()
    outbox.submit(world.now)
    states = Counter(newest(service).state for service in world.services)
    assert states == {State.FAILED: 1, State.CONFIRMED: 19} and newest(bad).state == State.FAILED
    calls = WriteAttempt.objects.count() - before
    assert calls <= 2 * math.ceil(math.log2(20)) + 1
    if isinstance(rail, AmazonRail):
        written = [call for call in rail.fake.calls if call.action == "ChangeResourceRecordSets"]
        assert len(written) == calls + before
    world.tick()
    assert all(newest(service).state == State.OBSERVED for service in world.services if service != bad)


def test_a_bucket_is_never_overdrawn_and_what_protects_goes_first(amazon: AmazonRail) -> None:
    """One call a zone, so that nine services take nine calls of a bucket of five."""
    amazon.fake.limit(7, 2)  # more than the account's, since calls need their time to get there
    account = amazon.account()
    DnsAccount.objects.filter(pk=account.pk).update(calls_per_second=2, burst_calls=5, calls_left=5)
    zones = [(f"zone{n}.test", amazon.fake.zone(f"zone{n}.test")) for n in range(9)]
    services = [service_in(amazon, account, zone) for zone in zones]
    urgent = services[3:]
    at = datetime.now(UTC)
    for service in services:
        rails.see(service, at, "DOWN" if service in urgent else "UP")
    for service in urgent:
        rails.storm_over(service)
    steering.steer(at, [service.pk for service in services])
    waiting = WeightChange.objects.filter(state=State.WANTED)
    assert Counter(waiting.values_list("is_urgent", flat=True)) == {True: 6, False: 3}
    while waiting.exists() and datetime.now(UTC) < at + timedelta(seconds=20):
        outbox.submit(datetime.now(UTC))
        time.sleep(0.05)  # storms make for many ticks, which must not keep each other from their calls
    calls = [call for call in amazon.fake.calls if call.action == "ChangeResourceRecordSets"]
    assert {call.error for call in amazon.fake.calls} == {""}, "Amazon never had to say no"
    assert {call.zone_id for call in calls[:6]} == {zone_id for _, zone_id in zones[3:]}
    assert len(calls) == WriteAttempt.objects.count() == 9, "what can't be paid for is not even tried"
    for last, call in enumerate(calls):
        assert all(last - first + 1 <= 7 + 2 * (call.at - calls[first].at) for first in range(last))
    assert calls[-1].at - calls[0].at < 10, "and what can is"


# --- freezes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["service", "customer", "everything"])
def test_a_freeze_holds_what_was_planned_already(amazon: AmazonRail, scope: str) -> None:
    world = World(amazon, services=2)
    frozen, other = world.services
    world.storm(frozen, other)
    world.plan()
    assert newest(frozen).state == newest(other).state == State.WANTED
    freeze = Freeze.objects.create(
        reason="a deploy", service=frozen if scope == "service" else None,
        customer=frozen.customer if scope == "customer" else None,
    )  # fmt: skip
    world.tick()
    assert (newest(frozen).state, world.answers(frozen)) == (State.WANTED, {"primary"})
    moved = {"primary"} if scope == "everything" else {"backup"}
    assert world.answers(other) == moved
    edit(amazon, frozen)
    for _ in range(3):
        world.look()
    assert world.answers(frozen) == {"primary", "backup"}, "not even an edit is written over"
    Freeze.objects.filter(pk=freeze.pk).update(lifted_at=world.now)
    world.tick()
    assert world.answers(frozen) == world.answers(other) == {"backup"}
    assert newest(frozen).state == newest(other).state == State.OBSERVED


# --- what waits for a person ------------------------------------------------------------------------------------------


class Case:
    """One service, as the guard sees it; its vendor is never asked in DNS."""

    def __init__(self, settings: Any, vendor: str = "log") -> None:
        self.settings = settings
        self.service = factories.service()
        self.domain = factories.domain(service=self.service, hostname="www.guarded.test")
        self.primary, self.backup = (
            factories.target(role, domain=self.domain, address=f"{role}.cdn.test") for role in ("primary", "backup")
        )
        zone = "guarded.test"
        self.row = factories.record_set(
            domain=self.domain, account=factories.dns_account(vendor), zone=zone, ttl_seconds=1
        )
        self.now = datetime.now(UTC)
        self.down = False
        self.tick()

    def tick(self, seconds: float = 3) -> None:
        self.now += timedelta(seconds=seconds)
        rails.see(self.service, self.now, "DOWN" if self.down else "UP")
        steering.steer(self.now, [self.service.pk])
        outbox.submit(self.now)
        seen = WeightChange.objects.filter(state__in=[State.CONFIRMED, State.OBSERVED])
        seen.update(state=State.OBSERVED, observed_at=self.now)

    def storm(self) -> None:
        rails.storm_over(self.service)
        self.down = True

    def calm(self) -> None:
        calm(self.service)
        self.down = False

    def newest(self) -> WeightChange:
        return newest(self.service)


def blast_radius(case: Case) -> None:
    case.settings.BLAST_RADIUS_FLOOR, case.settings.BLAST_RADIUS_SHARE = 0, 0.0
    case.storm()


def reversals(case: Case) -> None:
    for number in range(3):
        case.storm()
        case.tick()
        assert lanes(case.newest()) == AWAY
        case.calm()
        if number < 2:
            case.tick()
            assert (lanes(case.newest()), case.newest().is_reversal) == (HOME, True)


def failback_approval(case: Case) -> None:
    SteeringTerms.objects.create(customer=case.service.customer, service=case.service, failback="approval")
    case.storm()
    case.tick()
    case.calm()


def apex(case: Case) -> None:
    RecordSet.objects.filter(pk=case.row.pk).update(zone="www.guarded.test")
    case.storm()


def unproven_domain(case: Case) -> None:
    case.service.domains.update(verified_at=None)
    case.storm()


def foreign_record(case: Case) -> None:
    RecordSet.objects.filter(pk=case.row.pk).update(is_held=True)
    case.storm()


def not_armed(case: Case) -> None:
    RecordSet.objects.filter(pk=case.row.pk).update(armed_at=None, unarmed_reason="delegation: not to this account")
    case.storm()


def blocked(case: Case) -> None:
    factories.incident(kind="blocked", cdn=case.primary.cdn)
    factories.finding(service=case.service, kind="blocked", target=case.primary)


REFUSALS = [blast_radius, reversals, failback_approval, apex, unproven_domain, foreign_record, not_armed, blocked]


@pytest.mark.parametrize("provoke", REFUSALS, ids=lambda provoke: provoke.__name__)
def test_what_the_guard_refuses_waits_for_a_person_by_name(settings: Any, provoke: Callable[[Case], None]) -> None:
    case = Case(settings)
    provoke(case)
    before = WeightChange.objects.filter(state=State.OBSERVED).latest("generation")
    case.tick()
    held = case.newest()
    assert (held.state, held.refusal) == (State.HELD, provoke.__name__)
    assert held.held_reason.startswith(f"{provoke.__name__}: ") and len(held.held_reason) > len(held.refusal) + 10
    assert held.weights != before.weights
    event = Event.objects.filter(kind="weights.held", customer=case.service.customer).get()
    assert event.summary.endswith(held.held_reason.partition(": ")[2])
    case.tick()
    assert case.newest() == held, "it waits, and is not made anew"

    steering.approve(held, User.objects.create_user("op"))
    case.tick()
    held.refresh_from_db()
    assert held.approved_by and held.approved_by.username == "op"
    if provoke is unproven_domain:
        assert (held.state, held.refusal) == (State.HELD, "unproven_domain"), "nobody's word replaces a proof"
        case.service.domains.update(verified_at=case.now)
        case.tick()
        assert case.newest().state == State.OBSERVED
    else:
        assert (held.state, case.newest()) == (State.OBSERVED, held)


def test_every_refusal_is_provoked_but_one_that_can_not_be_and_one_that_test_steering_does() -> None:
    assert {provoke.__name__ for provoke in REFUSALS} == set(Refusal) - {Refusal.UNSAFE_TTL, Refusal.UNPROVEN_PATH}


def test_an_apex_that_was_approved_is_refused_by_who_can_not_serve_it(settings: Any) -> None:
    case = Case(settings, vendor="embedded")
    apex(case)
    case.tick()
    steering.approve(case.newest(), User.objects.create_user("op"))
    case.tick()
    assert (case.newest().state, case.newest().trouble) == (State.FAILED, Trouble.UNSAFE)


def test_an_unsafe_ttl_can_not_even_be_stored_past_the_validators(settings: Any) -> None:
    case = Case(settings)
    with pytest.raises(IntegrityError, match="record_sets_ttl_range"), transaction.atomic():
        RecordSet.objects.filter(pk=case.row.pk).update(ttl_seconds=301)


def test_a_plan_that_waits_does_not_forget_what_is_on_its_way(amazon: AmazonRail) -> None:
    """Its proof is lost while the move is being written, and it is pinned home: what was written stays known."""
    world = World(amazon)
    amazon.fake.pending_polls = 10_000
    world.storm(world.service)
    world.tick()
    assert newest(world.service).state == State.CONFIRMED
    world.service.domains.update(verified_at=None)
    pin = Pin.objects.create(
        customer=world.service.customer, service=world.service, backup_percent=0, reason="home",
        expires_at=world.now + timedelta(hours=1),
    )  # fmt: skip
    world.tick()
    pin.delete()
    amazon.fake.pending_polls = 0
    amazon.fake.settle()
    world.down.clear()
    calm(world.service)
    for _ in range(3):
        world.tick()
    assert world.answers() == {"backup"}
    world.service.domains.update(verified_at=world.now)
    for _ in range(3):
        world.tick(6)
    assert (newest(world.service).state, world.answers()) == (State.OBSERVED, {"primary"})
