"""The beacon: what it says to whom, when it is turned, how it is armed; and a storm in which Route 53 takes no writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from customers.models import Event
from dns import accounts, beacon, observation, outbox, reconcile, steering, tasks
from dns.beacon import NotArmable
from dns.models import DnsAccount, Pin, RecordSet, WeightChange
from dns.providers.contract import ProviderError
from services.models import Cdn, Service, Target
from storms.models import StormEvent
from tests import factories, servers
from tests.dns.test_steering import ZONE, answers, newest, split, steered_service, storm_over, verdict
from tests.route53_fake import OWN_ACCOUNT, Route53Fake, route53_fake_fixture  # noqa: F401
from tests.samples import record

pytestmark = pytest.mark.django_db

HOST = "beacon.example.net"
State = WeightChange.State


@pytest.fixture(autouse=True)
def _settings(settings: Any) -> None:
    settings.BEACON_URL = f"https://{HOST}"
    settings.ALLOWED_HOSTS = [HOST, "testserver"]
    settings.FAILBACK_GATE_SECONDS = 0
    settings.FAILBACK_STEPS_PERCENT = [50, 100]
    observation.forget_servers()


@pytest.fixture
def user() -> User:
    return User.objects.create_user("op")


def shifted(**kw: Any) -> RecordSet:
    """A record set whose beacon says “shift”."""
    armed = {"data_plane": True, "health_check_id": "check-1", "is_shifted": True}
    row: RecordSet = factories.record_set(**armed | kw)
    return row


def said(token: str, method: str = "get") -> tuple[int, bytes]:
    response = getattr(Client(), method)(f"/beacon/{token}")
    assert (response["Content-Type"], response["Cache-Control"]) == ("text/plain", "no-store")
    assert not response.cookies
    return response.status_code, response.content


def says_shift(record_set: RecordSet) -> bool:
    return said(beacon.token_of(record_set))[0] == 200


# --- what it says ----------------------------------------------------------------------------------------------------


def test_it_says_shift_with_the_marker_that_the_check_looks_for() -> None:
    record_set = shifted()
    token = beacon.token_of(record_set)
    assert said(token) == (200, f"tranche-shift {token}\n".encode())
    assert beacon.marker_of(record_set) == f"tranche-shift {token}"
    assert beacon.url_of(record_set) == f"https://{HOST}/beacon/{token}"
    assert said(token, "head") == (200, b"")


@pytest.mark.parametrize("lacks", [{"data_plane": False}, {"health_check_id": ""}, {"is_shifted": False}])
def test_otherwise_it_says_stay(lacks: dict[str, Any]) -> None:
    token = beacon.token_of(shifted(**lacks))
    assert said(token) == (404, b"stay\n")
    assert said(token, "head") == (404, b"")


def test_it_takes_nothing_but_a_look() -> None:
    token = beacon.token_of(shifted())
    for method in ("post", "put", "patch", "delete", "options"):
        assert getattr(Client(), method)(f"/beacon/{token}").status_code == 405


FORGED: dict[str, Callable[[str, str], str]] = {
    "another's": lambda own, other: f"{other.partition('-')[0]}-{own.partition('-')[2]}",
    "shorter": lambda own, other: own[:-1],
    "longer": lambda own, other: f"{own}0",
    "upper case": lambda own, other: own.upper(),
    "zero before": lambda own, other: f"0{own}",
    "no mac": lambda own, other: own.partition("-")[0],
    "empty mac": lambda own, other: own.partition("-")[0] + "-",
    "other digits": lambda own, other: f"١-{own.partition('-')[2]}",
    "huge": lambda own, other: f"{'9' * 18}-{own.partition('-')[2]}",
    "line end": lambda own, other: f"{own}%0A",
    "nonsense": lambda own, other: "x" * 2000,
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_token_is_answered_like_one_that_stays(how: str, django_assert_num_queries: Any) -> None:
    own, other = beacon.token_of(shifted()), beacon.token_of(shifted())
    with django_assert_num_queries(1):  # as many as a true one costs
        assert said(FORGED[how](own, other)) == (404, b"stay\n")
    with django_assert_num_queries(1):
        assert said(own)[0] == 200


def test_a_token_outlives_the_secret_key_as_long_as_that_is_kept(settings: Any) -> None:
    record_set = shifted()
    token, settings.SECRET_KEY = beacon.token_of(record_set), "a new one"
    assert said(token)[0] == 404
    settings.SECRET_KEY_FALLBACKS = ["only for tests"]
    assert said(token) == (200, f"tranche-shift {token}\n".encode())


def test_checkers_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Sixteen of them ask every ten seconds, for every domain; and tokens belong in no log."""
    said(beacon.token_of(shifted(is_shifted=False)))
    said("nonsense")
    assert not caplog.records


@pytest.mark.django_db(transaction=True)
def test_without_postgres_nobody_is_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    token = beacon.token_of(shifted())
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connection.settings_dict, "PORT", str(servers.free_port()))
    assert said(token) == said("1-forged") == (503, b"stay\n")


# --- when it is turned -----------------------------------------------------------------------------------------------


class Amazon:
    """Route 53, with a service of one domain at home, and checkers that ask our beacon."""

    def __init__(self, fake: Route53Fake) -> None:
        self.fake = fake
        self.service = steered_service(vendor="route53")
        self.account = DnsAccount.objects.get()
        self.account.options = {"endpoint_url": fake.url}
        self.account.save()
        self.hostname = self.service.domains.get().hostname

    @property
    def row(self) -> RecordSet:
        return RecordSet.objects.select_related("account", "domain").get()

    def tick(self, later: timedelta = timedelta()) -> None:
        """Plan, write, and see it; `later` is how much later what is due is written."""
        steering.steer(datetime.now(UTC), [self.service.pk])
        outbox.submit(datetime.now(UTC) + later)
        self.fake.settle()
        outbox.poll(datetime.now(UTC) + timedelta(minutes=1))
        reconcile.observe(datetime.now(UTC))

    def look(self, *, reachable: bool = True) -> None:
        """What the health checkers do until their verdict stands; then DNS is looked at."""
        for check in self.fake.health.of(OWN_ACCOUNT):
            config, found = check.config, False
            assert (config["Type"], config["Port"], config["Inverted"]) == ("HTTPS_STR_MATCH", 443, True)
            if reachable:
                response = Client().get(config["ResourcePath"], headers={"host": config["FullyQualifiedDomainName"]})
                found = response.status_code < 400 and config["SearchString"] in response.content.decode()[:5120]
            self.fake.health.endpoint_up[check.id] = found
        reconcile.observe(datetime.now(UTC))

    def answers(self) -> dict[str, int]:
        return dict(answers(self.fake.dns_address[1], self.hostname))

    def checks(self) -> dict[str, str]:
        """The health checks that records name, by identifier."""
        zone = next(iter(self.fake.zones))
        found = self.fake.records(zone).values()
        return {(r.identifier or "").rpartition(":")[2]: r.health_check for r in found if r.health_check}


@pytest.fixture
def amazon(route53_fake: Route53Fake, settings: Any) -> Amazon:
    settings.AUTHORITY_OVERRIDES = {ZONE: route53_fake.dns_text}
    route53_fake.zone(ZONE)
    amazon = Amazon(route53_fake)
    amazon.tick()
    assert newest(amazon.service).state == State.OBSERVED, newest(amazon.service).error
    return amazon


@pytest.fixture
def armed(amazon: Amazon, user: User) -> Amazon:
    assert beacon.arm(amazon.row, user) == []
    amazon.look()
    amazon.tick(beacon.SETTLES)
    assert newest(amazon.service).state == State.OBSERVED, newest(amazon.service).error
    return amazon


HOME, AWAY = {"primary0.cdn.test": 20}, {"backup0.cdn.test": 20}


def plan(amazon: Amazon) -> WeightChange:
    """What is wanted now; nothing is written."""
    steering.steer(datetime.now(UTC), [amazon.service.pk])
    return newest(amazon.service)


def end_storm(service: Service) -> None:
    for target in Target.objects.filter(domain__service=service):
        verdict(target, "UP")
    now = timezone.now()
    StormEvent.objects.update(ended_at=now, closed_at=now)
    WeightChange.objects.filter(observed_at__isnull=False).update(observed_at=now - timedelta(seconds=10))


def test_it_says_shift_before_anything_is_written_and_until_weights_of_home_are_confirmed(armed: Amazon) -> None:
    record_set = armed.row
    assert not says_shift(record_set)
    storm_over(armed.service)
    assert split(plan(armed)) == {"primary": 0, "backup-1": 100}
    assert says_shift(record_set)
    armed.tick()
    assert newest(armed.service).state == State.OBSERVED
    assert says_shift(record_set)

    end_storm(armed.service)
    assert split(plan(armed)) == {"primary": 50, "backup-1": 50}
    assert says_shift(record_set)
    outbox.submit(datetime.now(UTC))
    assert newest(armed.service).state == State.CONFIRMED
    assert not says_shift(record_set)


def test_a_step_of_a_ramp_is_not_for_the_beacon(armed: Amazon) -> None:
    primary = Target.objects.get(role="primary")
    storm = storm_over(armed.service)
    verdict(primary, "DEGRADED", availability=0.8)
    moments = [storm.started_at + timedelta(seconds=3 + n) for n in range(12)]
    record([primary], [factories.vantage_point(pk=1)], moments, "ok")
    change = plan(armed)
    assert 0 < split(change)["primary"] < 100
    assert not says_shift(armed.row)


def test_what_waits_for_a_person_is_said_once_they_agree(armed: Amazon, settings: Any, user: User) -> None:
    settings.BLAST_RADIUS_FLOOR, settings.BLAST_RADIUS_SHARE = 0, 0.0
    record_set = armed.row
    storm_over(armed.service)
    held = plan(armed)
    assert held.state == State.HELD
    assert not says_shift(record_set)
    steering.approve(held, user)
    assert says_shift(record_set)


def test_among_several_members_at_0_nobody_is_left_to_chance(armed: Amazon) -> None:
    domain = armed.service.domains.get()
    verdict(factories.target("backup", domain=domain, rank=2, address="second.cdn.test"), "UP")
    armed.tick()
    assert set(armed.row.written) == {"primary", "backup-1", "backup-2"}
    storm_over(armed.service)
    assert split(plan(armed)) == {"primary": 0, "backup-1": 100, "backup-2": 0}
    assert not says_shift(armed.row)
    armed.tick()
    assert newest(armed.service).state == State.OBSERVED
    assert not says_shift(armed.row)


def test_a_backup_that_is_not_what_stands_at_the_vendor_is_not_shifted_to(armed: Amazon) -> None:
    Target.objects.filter(role="backup").update(address="elsewhere.cdn.test")
    storm_over(armed.service)
    assert split(plan(armed)) == {"primary": 0, "backup-1": 100}
    assert not says_shift(armed.row)


def test_the_way_back_to_what_stands_at_the_vendor_needs_no_write_either(armed: Amazon, user: User) -> None:
    record_set = armed.row
    storm_over(armed.service)
    plan(armed)
    assert says_shift(record_set)
    Pin.objects.create(
        customer=armed.service.customer, service=armed.service, backup_percent=0, reason="enough", created_by=user,
        expires_at=timezone.now() + timedelta(hours=1),
    )  # fmt: skip
    assert split(plan(armed)) == {"primary": 100, "backup-1": 0}
    assert not says_shift(record_set)


def test_it_never_says_shift_for_a_primary_that_is_to_have_something(armed: Amazon) -> None:
    record_set = armed.row
    primary, backup = Target.objects.get(role="primary"), Target.objects.get(role="backup")
    for percent in range(101):
        weights = {str(primary.pk): percent, str(backup.pk): 100 - percent}
        beacon.turn([WeightChange(record_set=record_set, state=State.WANTED, weights=weights)])
        assert says_shift(record_set) == (percent == 0)
        RecordSet.objects.update(is_shifted=False)


def test_only_the_beacons_of_armed_ones_are_turned(armed: Amazon) -> None:
    RecordSet.objects.update(data_plane=False)
    storm_over(armed.service)
    plan(armed)
    assert not armed.row.is_shifted


# --- armed -----------------------------------------------------------------------------------------------------------


def test_arming_puts_the_check_on_the_primary_alone_once_it_has_settled(amazon: Amazon, user: User) -> None:
    beacon.arm(amazon.row, user)
    row, change = amazon.row, newest(amazon.service)
    assert (row.data_plane, row.is_shifted, row.generation) == (True, False, 2)
    assert (split(change), change.state) == ({"primary": 100, "backup-1": 0}, State.WANTED)
    assert (change.reason, change.approved_by) == ("data-plane mode armed", user)
    # Until checkers have looked, an inverted check counts as failing.
    assert not amazon.fake.health.is_healthy(row.health_check_id)
    amazon.tick()
    assert (newest(amazon.service).state, amazon.checks()) == (State.WANTED, {})
    assert amazon.answers() == HOME
    amazon.look()
    amazon.tick(beacon.SETTLES)
    assert newest(amazon.service).state == State.OBSERVED
    assert amazon.checks() == {"primary": row.health_check_id}
    assert amazon.answers() == HOME
    event = Event.objects.get(kind="data_plane.armed")
    assert event.summary == f"{row.domain}: op armed the data-plane mode"


def test_arming_goes_through_a_crash_after_the_call(amazon: Amazon, user: User) -> None:
    """The same reference gives the same check, so that none is left behind."""
    WeightChange.objects.filter(record_set=amazon.row).update(state=State.SUPERSEDED)
    with pytest.raises(NotArmable, match="never written"):
        beacon.arm(amazon.row, user)
    assert [*amazon.fake.health.of(OWN_ACCOUNT)] == []
    WeightChange.objects.update(state=State.OBSERVED)
    row = amazon.row
    amazon.fake.fail("CreateHealthCheck", "lost_reply")
    with pytest.raises(ProviderError):
        beacon.arm(row, user)
    assert not amazon.row.data_plane
    beacon.arm(row, user)
    assert [check.id for check in amazon.fake.health.of(OWN_ACCOUNT)] == [amazon.row.health_check_id]
    with pytest.raises(NotArmable, match="armed already"):
        beacon.arm(amazon.row, user)


def _own_dns(amazon: Amazon, settings: Any) -> None:
    Cdn.objects.update(name_servers=["ns-*.awsdns-*.test"])


def _second_backup(amazon: Amazon, settings: Any) -> None:
    factories.target("backup", domain=amazon.service.domains.get(), rank=2)


def _beacon_on_the_cdn(amazon: Amazon, settings: Any) -> None:
    Cdn.objects.update(suffixes=["edge.example"])
    settings.BEACON_URL = "https://b.edge.example"


REFUSALS: dict[str, tuple[Callable[[Amazon, Any], Any], str]] = {
    "vendor": (lambda a, s: DnsAccount.objects.update(vendor="log"), "log has no health checks"),
    "no beacon": (lambda a, s: setattr(s, "BEACON_URL", ""), "BEACON_URL is not set to an https URL"),
    "plain beacon": (lambda a, s: setattr(s, "BEACON_URL", f"http://{HOST}"), "BEACON_URL is not set to an https URL"),
    "beacon in AWS": (lambda a, s: setattr(s, "BEACON_URL", "https://x.amazonaws.com"), "hangs on what it is to lead"),
    "beacon on the CDN": (_beacon_on_the_cdn, "hangs on what it is to lead away from"),
    "its own DNS": (_own_dns, "can’t steer away from the CDN that it falls with"),
    "unarmed": (
        lambda a, s: RecordSet.objects.update(armed_at=None, unarmed_reason="proof: lost"),
        "is not steered: proof: lost",
    ),
    "by hand": (lambda a, s: RecordSet.objects.update(is_held=True), "waits for a decision"),
    "held": (lambda a, s: WeightChange.objects.update(state=State.HELD), "waits for a decision"),
    "two backups": (_second_backup, "exactly one member besides the primary.*backup-1, backup-2"),
    "former lane": (
        lambda a, s: RecordSet.objects.update(written={"primary": "p", "backup-1": "b", "backup-4": "old"}),
        "exactly one member besides the primary.*backup-1, backup-4",
    ),
    "no backup": (
        lambda a, s: (Target.objects.filter(role="backup").delete(), RecordSet.objects.update(written={})),
        "exactly one member besides the primary.*none",
    ),
    "old check": (lambda a, s: RecordSet.objects.update(health_check_id="old"), "still to be deleted"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_speaks_against_it_is_told_before_anything_is_made(
    amazon: Amazon, user: User, settings: Any, what: str
) -> None:
    spoil, words = REFUSALS[what]
    spoil(amazon, settings)
    with pytest.raises(NotArmable, match=words):
        beacon.arm(amazon.row, user)
    assert not amazon.row.data_plane
    assert [*amazon.fake.health.of(OWN_ACCOUNT)] == []


@pytest.mark.parametrize("name_servers", [[], ["ns-*.awsdns-*.test"]])
def test_amazon_on_both_sides_is_what_the_beacon_is_for_and_is_said(
    amazon: Amazon, user: User, name_servers: list[str]
) -> None:
    primary = Target.objects.select_related("cdn").get(role="primary")
    Target.objects.filter(pk=primary.pk).update(address="d111.cloudfront.net")
    Cdn.objects.filter(pk=primary.cdn_id).update(name_servers=name_servers)
    [warning] = beacon.arm(amazon.row, user)
    assert "hang on one vendor" in warning


def test_a_beacon_that_django_would_not_answer_is_said(amazon: Amazon, user: User, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["console.example.net"]
    [warning] = beacon.arm(amazon.row, user)
    assert "not among ALLOWED_HOSTS" in warning


# --- disarmed --------------------------------------------------------------------------------------------------------


def test_disarming_takes_the_check_off_first_and_deletes_it_once_dns_shows_that(armed: Amazon, user: User) -> None:
    check = armed.row.health_check_id
    beacon.disarm(armed.row, user)
    later = timezone.now() + timedelta(hours=1)
    assert beacon.tidy(later) == 0
    armed.tick()
    assert (armed.checks(), armed.answers()) == ({}, HOME)
    assert beacon.tidy(timezone.now()) == 0  # a worker may sleep on an older write
    assert armed.fake.health.has(OWN_ACCOUNT, check)
    armed.fake.fail("DeleteHealthCheck", "error_500")
    assert beacon.tidy(later) == 0
    WeightChange.objects.update(observed_at=timezone.now() - timedelta(minutes=1))
    tasks.refresh_break_glass()
    assert not armed.fake.health.has(OWN_ACCOUNT, check)
    assert (armed.row.health_check_id, armed.row.data_plane) == ("", False)
    with pytest.raises(NotArmable, match="is not armed"):
        beacon.disarm(armed.row, user)
    beacon.arm(armed.row, user)  # with another reference, since Amazon takes none twice
    assert armed.row.health_check_id not in ("", check)


def test_nobody_is_disarmed_who_is_away_by_the_beacon_alone(armed: Amazon, user: User) -> None:
    armed.fake.fail("ChangeResourceRecordSets", "access_denied", math.inf)
    storm_over(armed.service)
    armed.tick()
    with pytest.raises(NotArmable, match="by the beacon alone"):
        beacon.disarm(armed.row, user)
    armed.fake.recover()
    accounts.retry(armed.account)
    armed.tick()
    beacon.disarm(armed.row, user)
    armed.look()
    assert armed.answers() == AWAY


# --- the whole story -------------------------------------------------------------------------------------------------


def test_a_storm_moves_the_answers_while_the_api_refuses_every_write(armed: Amazon) -> None:
    armed.fake.fail("ChangeResourceRecordSets", "access_denied", math.inf)
    storm_over(armed.service)
    armed.tick()
    assert (newest(armed.service).state, newest(armed.service).trouble) == (State.FAILED, "access_denied")
    assert armed.answers() == HOME  # nobody has looked yet
    armed.look()
    assert armed.answers() == AWAY
    for _ in range(3):
        armed.tick()
        armed.look()
    assert armed.answers() == AWAY

    # The API is back in the storm: the weights follow, and the answers stay where they are.
    armed.fake.recover()
    accounts.retry(armed.account)
    armed.tick()
    assert (split(newest(armed.service)), newest(armed.service).state) == (
        {"primary": 0, "backup-1": 100},
        State.OBSERVED,
    )
    armed.look()
    assert armed.answers() == AWAY

    end_storm(armed.service)
    armed.tick()
    armed.look()
    assert set(armed.answers()) == {*HOME, *AWAY}
    end_storm(armed.service)
    armed.tick()
    armed.look()
    assert armed.answers() == HOME
    assert armed.checks() == {"primary": armed.row.health_check_id}


def test_with_the_beacon_dead_nothing_shifts(armed: Amazon) -> None:
    armed.look(reachable=False)
    assert armed.answers() == HOME
    armed.fake.fail("ChangeResourceRecordSets", "access_denied", math.inf)
    storm_over(armed.service)
    armed.tick()
    armed.look(reachable=False)
    assert armed.answers() == HOME
    armed.look()
    assert armed.answers() == AWAY
    # Should it die after that, traffic goes back to where the records point.
    armed.look(reachable=False)
    assert armed.answers() == HOME


def test_a_backup_that_fails_is_left_by_the_beacon_too(armed: Amazon) -> None:
    armed.fake.fail("ChangeResourceRecordSets", "access_denied", math.inf)
    storm_over(armed.service)
    armed.tick()
    armed.look()
    assert armed.answers() == AWAY
    verdict(Target.objects.get(role="primary"), "UP")
    verdict(Target.objects.get(role="backup"), "DOWN")
    WeightChange.objects.update(next_attempt_at=timezone.now())
    armed.tick()
    armed.look()
    assert armed.answers() == HOME
