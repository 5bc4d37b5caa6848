"""Taking a name over and giving it back, on both rails: no gap in the answers, no name that nobody looks after."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from customers.models import Event
from dns import outbox, ownership, planning, readiness, reconcile, steering, vendors
from dns.models import DnsAccount, RecordSet, WeightChange, WriteAttempt
from dns.providers.contract import ProviderError, Trouble
from services import lookup
from services.models import Target
from tests import factories
from tests.dns import rails
from tests.dns.rails import AmazonRail, PowerRail, Rail
from tests.servers import powerdns_fixture

pytestmark = pytest.mark.django_db

__all__ = ["powerdns_fixture"]

State = WeightChange.State
OLD = "old.cdn.test"


@contextmanager
def opened(name: str, request: pytest.FixtureRequest, settings: Any) -> Iterator[Any]:
    """A rail that the world finds."""
    with rails.amazon() if name == "route53" else rails.power(request.getfixturevalue("powerdns")) as rail:
        rails.led_to(settings, rail)
        yield rail


@pytest.fixture(params=["route53", "powerdns"])
def rail(request: pytest.FixtureRequest, settings: Any) -> Iterator[Rail]:
    with opened(request.param, request, settings) as rail:
        yield rail


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dns.observation.SAMPLES", 5)


@pytest.fixture
def user() -> User:
    return User.objects.create_user("op")


def put(rail: Rail, name: str, qtype: str, *values: str, ttl: int = 300) -> None:
    """What a person has in the zone; nothing, without values."""
    if isinstance(rail, AmazonRail):
        rail.fake.put(rail.zone_id, name, qtype, *values, ttl=ttl)
    else:
        assert isinstance(rail, PowerRail)
        rail.server.put(rail.zone, name, qtype, *values, ttl_seconds=ttl)


def row_on(rail: Rail, *, is_armed: bool = False) -> RecordSet:
    service = rails.service_on(rail, rail.account())
    rails.see(service, timezone.now())
    if not is_armed:
        RecordSet.objects.update(armed_at=None, unarmed_reason="not checked yet")
    return again(service.domains.get().record_set)


def again(row: RecordSet) -> RecordSet:
    return RecordSet.objects.select_related("account", "domain__service").get(pk=row.pk)


def standing_at(rail: Rail, row: RecordSet) -> set[str]:
    return set(rails.answers(rail, row.domain.hostname))


def work(row: RecordSet, seconds: float = 0) -> None:
    """What the tasks do."""
    now = timezone.now() + timedelta(seconds=seconds)
    steering.steer(now, [row.domain.service_id])
    outbox.submit(now)
    outbox.poll(now + timedelta(seconds=6))
    reconcile.observe(now)


def newest(row: RecordSet) -> WeightChange:
    change = row.changes.order_by("-generation").first()
    assert change
    return change


def path(row: RecordSet, role: str) -> str:
    address: str = row.domain.targets.get(role=role).address
    return address


def refused(act: Callable[..., object], row: RecordSet, user: User) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        act(row, user)
    return caught.value


@contextmanager
def asked_all_the_time(rail: Rail, hostname: str, qtype: str = "CNAME") -> Iterator[Counter[str]]:
    """Counts what DNS answers meanwhile, errors and empty answers by their names."""
    seen: Counter[str] = Counter()
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.wait(0.002):
            (answer,) = lookup.ask_all([(rail.address(), hostname, qtype)])
            seen[answer.error or ", ".join(record.value for record in answer.records) or "nothing"] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        rails.until(lambda: seen.total() > 3)
        yield seen
        before = seen.total()
        rails.until(lambda: seen.total() > before + 3)
    finally:
        is_over.set()
        asking.join()


# --- adopted ------------------------------------------------------------------------------------------------------------


def test_a_simple_record_is_adopted_without_a_gap(rail: Rail, user: User) -> None:
    row = row_on(rail)
    hostname = row.domain.hostname
    put(rail, hostname, "CNAME", f"{OLD}.")
    assert OLD in ownership.preview(row)
    with asked_all_the_time(rail, hostname) as seen:
        change = ownership.adopt(row, user)
        work(row)
    assert set(seen) == {OLD, path(row, "primary")}
    row = again(row)
    change.refresh_from_db()
    assert (change.state, change.generation, change.approved_by, row.generation) == (State.OBSERVED, 1, user, 1)
    assert rails.by_lane(change.weights, row.domain.service) == {"primary": 100, "backup-1": 0}
    assert row.written == {"primary": path(row, "primary"), "backup-1": path(row, "backup")}
    assert row.arms_at and timedelta(seconds=290) < row.arms_at - timezone.now() <= timedelta(seconds=300)
    assert row.observed_generation == 1 and row.armed_at is None
    attempt = WriteAttempt.objects.get()
    assert (attempt.outcome, attempt.change_ids) == ("accepted", [change.pk])
    assert attempt.receipt["change_id"] and attempt.live_at
    event = Event.objects.get(kind="record_set.adopted")
    assert OLD in event.summary and event.summary.endswith("was adopted by op")
    assert ownership.preview(row) == "ours stands there already"


def test_addresses_are_adopted(rail: Rail, user: User) -> None:
    row = row_on(rail)
    put(rail, row.domain.hostname, "A", "192.0.2.1", ttl=60)
    put(rail, row.domain.hostname, "AAAA", "2001:db8::1", ttl=600)
    with asked_all_the_time(rail, row.domain.hostname, "A") as seen:
        ownership.adopt(row, user)
    assert set(seen) == {"192.0.2.1", path(row, "primary")}
    row = again(row)
    assert row.arms_at and row.arms_at - timezone.now() > timedelta(seconds=590), "the longest of them"


def test_a_free_name_needs_no_adopting(rail: Rail, user: User) -> None:
    row = row_on(rail)
    assert ownership.preview(row) == "nothing stands there: it needs no adopting"
    error = refused(ownership.adopt, row, user)
    assert str(error) == f"nothing stands at {row.domain}: it needs no adopting, and is written once it is armed"
    assert error.permanent and not WeightChange.objects.exists()
    RecordSet.objects.update(armed_at=timezone.now())
    work(row)
    assert standing_at(rail, row) == {path(row, "primary")}


def test_nobody_adopts_for_a_domain_that_is_not_proven(rail: Rail, user: User) -> None:
    row = row_on(rail)
    put(rail, row.domain.hostname, "CNAME", f"{OLD}.")
    row.domain.verified_at = None
    row.domain.save()
    assert "is not verified" in str(refused(ownership.adopt, again(row), user))
    assert (standing_at(rail, row), rail.writes(), WeightChange.objects.count()) == ({OLD}, 0, 0)


def test_without_a_primary_there_is_nothing_to_lead_to(rail: Rail, user: User) -> None:
    row = row_on(rail)
    put(rail, row.domain.hostname, "CNAME", f"{OLD}.")
    Target.objects.filter(role="primary").update(enabled=False)
    for act in (ownership.adopt, ownership.release):
        assert "has no primary path" in str(refused(act, row, user))
    assert WeightChange.objects.count() == 0


@pytest.mark.parametrize("is_released", [False, True])
def test_what_is_more_than_a_simple_record_is_left_alone(rail: Rail, user: User, is_released: bool) -> None:
    row, at = row_on(rail), timezone.now()
    put(rail, row.domain.hostname, "A", "192.0.2.1")
    put(rail, row.domain.hostname, "TXT", '"a person\'s"')
    RecordSet.objects.update(released_at=at if is_released else None)
    error = refused(ownership.adopt, again(row), user)
    assert (error.permanent, error.trouble) == (True, Trouble.FOREIGN)
    row = again(row)
    assert (row.released_at, row.arms_at) == (at if is_released else None, None), "as it was before"
    assert (newest(row).state, newest(row).trouble) == (State.FAILED, Trouble.FOREIGN)
    assert WriteAttempt.objects.get().outcome == "refused"
    assert standing_at(rail, row) == set() and rail.writes() == 0
    answers = lookup.ask_all([(rail.address(), row.domain.hostname, qtype) for qtype in ("A", "TXT")])
    assert [answer.records[0].value.strip('"') for answer in answers] == ["192.0.2.1", "a person's"]


def test_what_a_person_edits_stays_theirs_if_it_can_not_be_adopted(rail: Rail, user: User) -> None:
    row = row_on(rail, is_armed=True)
    put(rail, row.domain.hostname, "A", "192.0.2.1")
    put(rail, row.domain.hostname, "TXT", '"a person\'s"')
    RecordSet.objects.update(is_held=True, drifted_since=timezone.now())
    refused(ownership.adopt, again(row), user)
    work(row)
    assert again(row).is_held and (newest(row).state, newest(row).refusal) == (State.HELD, "foreign_record")
    assert rail.writes() == 0


def test_what_a_person_edited_is_taken_over(rail: Rail, user: User) -> None:
    row = row_on(rail, is_armed=True)
    put(rail, row.domain.hostname, "CNAME", f"{OLD}.")
    RecordSet.objects.update(is_held=True, drifted_since=timezone.now(), reasserted=2, generation=4)
    ownership.adopt(again(row), user)
    work(row)
    row = again(row)
    assert (row.is_held, row.drifted_since, row.reasserted, row.observed_generation) == (False, None, 0, 5)
    assert row.armed_at, "it goes on being protected while caches forget"


# --- answers that get lost ----------------------------------------------------------------------------------------------


def test_a_lost_answer_ends_in_an_adopted_name(rail: Rail, user: User) -> None:
    account = rail.account()
    for kind in rail.unknown_kinds:
        if kind == "timeout_before":
            continue  # a call that gets lost is like another, and this one takes its time
        service = rails.service_on(rail, account)
        row = again(service.domains.get().record_set)
        put(rail, row.domain.hostname, "CNAME", f"{OLD}.")
        rails.see(service, timezone.now())
        rail.fail_write(kind)
        change = ownership.adopt(row, user)
        work(row)
        change.refresh_from_db()
        assert (change.state, change.error) == (State.OBSERVED, ""), kind
        assert standing_at(rail, row) == {path(row, "primary")}, kind
        assert again(row).arms_at, kind


@pytest.mark.parametrize("is_released", [False, True])
def test_what_stays_unknown_is_looked_after_and_can_be_adopted_again(rail: Rail, user: User, is_released: bool) -> None:
    row = row_on(rail)
    put(rail, row.domain.hostname, "CNAME", f"{OLD}.")
    RecordSet.objects.update(released_at=timezone.now() if is_released else None)
    rail.fail_write("reset_before")
    rail.fail_write("reset_before")
    with asked_all_the_time(rail, row.domain.hostname) as seen:
        assert refused(ownership.adopt, again(row), user).unknown
        row = again(row)
        assert (row.released_at, row.arms_at is not None) == (None, True), "it may be ours"
        assert (newest(row).state, WriteAttempt.objects.get().outcome) == (State.FAILED, "unknown")
        work(row)
        assert newest(row).state == State.FAILED, "what was lost may still come"
        work(row, 61)
        assert (newest(row).state, newest(row).refusal) == (State.HELD, "not_armed")
        readiness.check(row.pk, timezone.now())
        assert again(row).unarmed_reason.startswith("record: not ours")
        ownership.adopt(again(row), user)
        work(row)
    assert set(seen) == {OLD, path(row, "primary")}
    assert (newest(row).state, again(row).observed_generation) == (State.OBSERVED, newest(row).generation)


def test_a_worker_that_dies_in_the_middle_leaves_nothing_behind(
    rail: Rail, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_on(rail)
    put(rail, row.domain.hostname, "CNAME", f"{OLD}.")
    RecordSet.objects.update(released_at=timezone.now())

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ownership, "_accepted", die)
    with pytest.raises(KeyboardInterrupt):
        ownership.adopt(again(row), user)
    work(row, 61)
    work(row, 62)
    row = again(row)
    assert (newest(row).state, row.observed_generation, row.released_at) == (State.OBSERVED, 1, None)
    assert row.arms_at and row.written["primary"] == path(row, "primary")


def test_a_release_whose_answer_is_lost_is_a_release(rail: Rail, user: User) -> None:
    account = rail.account()
    for kind in ("reset_before", "lost_reply"):
        service = rails.service_on(rail, account)
        row = again(service.domains.get().record_set)
        rails.see(service, timezone.now())
        work(row)
        rail.fail_write(kind)
        ownership.release(again(row), user)
        assert again(row).released_at, kind
        assert standing_at(rail, row) == {path(row, "primary")}, kind


def test_what_was_surely_not_released_is_steered_on(rail: Rail, user: User) -> None:
    row = row_on(rail, is_armed=True)
    work(row)
    rail.fail_write("reset_before")
    rail.fail_write("reset_before")
    with asked_all_the_time(rail, row.domain.hostname) as seen:
        assert refused(ownership.release, again(row), user).unknown
        assert again(row).released_at is None
        work(row, 61)
    assert set(seen) == {path(row, "primary")}
    row = again(row)
    assert (newest(row).state, row.observed_generation) == (State.OBSERVED, row.generation), "drift is seen again"
    rails.storm_over(row.domain.service)
    rails.see(row.domain.service, timezone.now(), "DOWN")
    work(row)
    assert standing_at(rail, row) == {path(row, "backup")}


# --- released -----------------------------------------------------------------------------------------------------------


def test_a_released_name_is_a_simple_record_that_nobody_steers(rail: Rail, user: User) -> None:
    row = row_on(rail, is_armed=True)
    service = row.domain.service
    work(row)
    with asked_all_the_time(rail, row.domain.hostname) as seen:
        assert ownership.release(again(row), user) == path(row, "primary")
    assert set(seen) == {path(row, "primary")}
    beacon = lookup.ask_all([(rail.address(), f"_tranche.{row.domain}", "TXT")])[0]
    assert not beacon.records
    row = again(row)
    assert row.released_at and row.armed_at is None and row.written == {} and row.observed_weights == {}
    assert Event.objects.filter(kind="record_set.released").count() == 1
    assert not WeightChange.objects.live().exists() and not reconcile.is_any_on_its_way()

    rails.storm_over(service)
    rails.see(service, timezone.now(), "DOWN")
    writes = rail.writes()
    assert planning.candidates(timezone.now()) == []
    assert steering.steer(timezone.now()) == [] == steering.steer(timezone.now(), [service.pk])
    work(row)
    assert reconcile.sweep(timezone.now(), everything=True) == []
    assert readiness.check_due(timezone.now() + timedelta(days=2)) == 0
    assert rail.writes() == writes and standing_at(rail, row) == {path(row, "primary")}


def test_a_released_name_is_adopted_again(rail: Rail, user: User) -> None:
    row = row_on(rail, is_armed=True)
    work(row)
    ownership.release(again(row), user)
    with asked_all_the_time(rail, row.domain.hostname) as seen:
        change = ownership.adopt(again(row), user)
        work(row)
    assert set(seen) == {path(row, "primary")}
    change.refresh_from_db()
    row = again(row)
    assert (change.state, row.released_at, row.armed_at) == (State.OBSERVED, None, None)
    readiness.check(row.pk, timezone.now() + timedelta(seconds=2))
    assert "record" not in again(row).unarmed_reason
    RecordSet.objects.update(armed_at=timezone.now())
    rails.storm_over(row.domain.service)
    rails.see(row.domain.service, timezone.now(), "DOWN")
    work(row)
    assert standing_at(rail, row) == {path(row, "backup")}


def test_a_released_name_whose_record_is_gone_is_written_anew(rail: Rail, user: User) -> None:
    row = row_on(rail, is_armed=True)
    work(row)
    ownership.release(again(row), user)
    if isinstance(rail, AmazonRail):
        rail.fake.remove(rail.zone_id)
        RecordSet.objects.update(zone_id=rail.fake.zone(rail.zone))
    else:
        put(rail, row.domain.hostname, "CNAME")
    ownership.adopt(again(row), user)
    work(row)
    assert (newest(row).state, again(row).released_at) == (State.OBSERVED, None)
    assert standing_at(rail, row) == {path(row, "primary")}


def test_a_storm_that_comes_while_a_name_is_released_moves_it_no_more(
    rail: Rail, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_on(rail, is_armed=True)
    work(row)
    surely = ownership._surely

    def meanwhile(*args: Any) -> object:
        rails.storm_over(row.domain.service)
        rails.see(row.domain.service, timezone.now(), "DOWN")
        assert len(steering.steer(timezone.now())) == 1
        return surely(*args)

    monkeypatch.setattr(ownership, "_surely", meanwhile)
    ownership.release(again(row), user)
    for _ in range(2):
        work(row)
    assert standing_at(rail, row) == {path(row, "primary")}
    assert not WeightChange.objects.live().exists()


def test_a_data_plane_is_disarmed_before(rail: Rail, user: User) -> None:
    row = row_on(rail, is_armed=True)
    work(row)
    RecordSet.objects.update(data_plane=True)
    assert "disarm its data plane first" in str(refused(ownership.release, again(row), user))
    assert newest(row).generation == 1


def test_who_bears_one_writer_has_one(rail: Rail, user: User) -> None:
    row = row_on(rail)
    put(rail, row.domain.hostname, "CNAME", f"{OLD}.")
    DnsAccount.objects.update(writing_until=timezone.now() + timedelta(seconds=10))
    if rail.name == "powerdns":
        error = refused(ownership.adopt, row, user)
        assert "is being written to just now" in str(error) and not error.permanent
        assert WeightChange.objects.count() == 0
        DnsAccount.objects.update(writing_until=None)
    ownership.adopt(row, user)
    if rail.name == "powerdns":
        assert DnsAccount.objects.get().writing_until is None


def test_a_provider_that_only_logs_gives_and_takes_as_well(user: User) -> None:
    row = factories.record_set(zone="example.com")
    for role in ("primary", "backup"):
        factories.target(role, domain=row.domain)
    ownership.release(again(row), user)
    change = ownership.adopt(again(row), user)
    assert (change.state, again(row).released_at) == (State.OBSERVED, None), "there is nothing to be seen"


@pytest.mark.django_db(transaction=True)
def test_no_vendor_is_called_inside_a_transaction(rail: Rail, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row would stay locked for as long."""
    row = row_on(rail)
    put(rail, row.domain.hostname, "CNAME", f"{OLD}.")
    seen: list[bool] = []
    provider = type(vendors.provider_of(row.account))
    read = provider.read

    def noted(*args: Any) -> Any:
        seen.append(connection.in_atomic_block)
        return read(*args)

    monkeypatch.setattr(provider, "read", noted)
    ownership.adopt(row, user)
    assert seen and not any(seen)
