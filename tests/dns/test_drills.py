"""Rehearsals: asked for by the terms, begun in good weather, seen in DNS, judged, called off; and home again afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from customers.models import Event
from dns import drills, outbox, reconcile, steering
from dns.models import Drill, Freeze, Pin, RecordSet, SteeringTerms, WeightChange
from services.models import MaintenanceWindow, Service, Target
from storms.models import PathVerdict
from tests import factories
from tests.dns import rails
from tests.dns.rails import Rail
from tests.dns.test_ownership import opened
from tests.dns.test_steering import newest, split, steered_service
from tests.servers import powerdns_fixture
from tests.together import run_together

pytestmark = pytest.mark.django_db

__all__ = ["powerdns_fixture"]

State = Drill.State
DAY, MINUTE, SECOND = (timedelta(seconds=n) for n in (86_400, 60, 1))
HOME = {"primary": 100, "backup-1": 0}


@pytest.fixture
def service() -> Service:
    """Steered by a provider that only logs, so that what is written is seen at once; at rest."""
    service = steered_service(vendor="log")
    work(service, timezone.now())
    return service


def work(service: Service, now: datetime, **seen: str) -> None:
    """What the tasks do beside drills, with fresh verdicts."""
    rails.see(service, now, **seen)
    steering.steer(now, [service.pk])
    outbox.submit(now)
    outbox.poll(now + 6 * SECOND)
    reconcile.observe(now)


def drill_of(service: Service, **kw: Any) -> Drill:
    return Drill.objects.create(
        **{
            "customer": service.customer,
            "service": service,
            "percent": 5,
            "minutes": 15,
            "scheduled_at": timezone.now(),
        }
        | kw
    )


def tended(drill: Drill, now: datetime) -> Drill:
    """After a turn in which weights moved first, if they had to."""
    drills.tend(now)
    drill.refresh_from_db()
    return drill


def running(service: Service, now: datetime, **kw: Any) -> Drill:
    """One that DNS sends the share of."""
    drill = tended(drill_of(service, scheduled_at=now, **kw), now)
    assert drill.state == State.RUNNING, drill.outcome
    work(service, now)
    assert tended(drill, now).observed_at == now
    return drill


def target(service: Service, role: str) -> Target:
    return Target.objects.get(domain__service=service, role=role)


def told(service: Service) -> list[str]:
    events = Event.objects.filter(customer=service.customer, kind__startswith="drill.")
    return list(events.order_by("pk").values_list("kind", flat=True))


# --- its size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [0, 6, 100])
def test_it_is_small(service: Service, percent: int) -> None:
    with pytest.raises(ValidationError, match="percent"):
        Drill(service=service, customer=service.customer, percent=percent).full_clean()
    with pytest.raises(IntegrityError, match="drills_percent_range"), transaction.atomic():
        drill_of(service, percent=percent)


@pytest.mark.parametrize("percent", [1, 5])
def test_a_few_percent_are_right(service: Service, percent: int) -> None:
    Drill(service=service, customer=service.customer, percent=percent).full_clean()


def test_a_service_has_one_at_a_time(service: Service) -> None:
    first = drill_of(service)
    with pytest.raises(ValidationError, match="This service has a drill that is not over"):
        Drill(service=service, customer=service.customer).full_clean()
    with pytest.raises(IntegrityError, match="drills_one_open"), transaction.atomic():
        drill_of(service)
    drills.cancel(first, "kim", timezone.now())
    drill_of(service)


# --- asked for by the terms ---------------------------------------------------------------------------------------------


@pytest.fixture
def terms(service: Service) -> SteeringTerms:
    return SteeringTerms.objects.create(
        customer=service.customer, service=service, drill_every_days=7, drill_percent=3, drill_minutes=20
    )


def test_the_terms_ask_every_so_many_days(terms: SteeringTerms) -> None:
    start = terms.created_at
    drills.tend(start + 7 * DAY - SECOND)
    assert not Drill.objects.exists()
    for _ in range(2):
        drills.tend(start + 7 * DAY)
    drill = Drill.objects.get()
    assert (drill.percent, drill.minutes, drill.customer_id) == (3, 20, terms.customer_id)
    Drill.objects.update(state=State.FAILED, ended_at=start + 8 * DAY)
    drills.tend(start + 14 * DAY - SECOND)
    assert Drill.objects.count() == 1
    drills.tend(start + 14 * DAY)
    assert Drill.objects.count() == 2


def test_one_that_was_called_off_comes_back_tomorrow(terms: SteeringTerms) -> None:
    start = terms.created_at + 7 * DAY
    drills.tend(start)
    drills.cancel(Drill.objects.get(), "kim", start)
    drills.tend(start + DAY - SECOND)
    assert Drill.objects.count() == 1, "else nobody could call it off"
    drills.tend(start + DAY)
    assert Drill.objects.count() == 2


@pytest.mark.parametrize("how", ["never asked", "not steered", "deleted"])
def test_nobody_else_is_asked(terms: SteeringTerms, how: str) -> None:
    if how == "never asked":
        SteeringTerms.objects.update(drill_every_days=0)
    elif how == "not steered":
        RecordSet.objects.update(released_at=timezone.now())
    else:
        Service.objects.update(deleted_at=timezone.now())
    drills.tend(terms.created_at + 60 * DAY)
    assert not Drill.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_workers_ask_and_begin_once(terms: SteeringTerms) -> None:
    now = terms.created_at + 7 * DAY
    rails.see(terms.service, now)
    run_together(*[lambda: drills.tend(now)] * 3)
    rails.see(terms.service, now)
    run_together(*[lambda: drills.tend(now)] * 3)
    assert Drill.objects.get().state == State.RUNNING
    assert told(terms.service) == ["drill.running"]


# --- the weather --------------------------------------------------------------------------------------------------------


def a_storm(service: Service, now: datetime) -> Callable[[], object]:
    factories.storm(service=service)
    return lambda: rails.calm(service)


def a_freeze(service: Service, now: datetime) -> Callable[[], object]:
    Freeze.objects.create(customer=service.customer, reason="the sales begin")
    return lambda: Freeze.objects.update(lifted_at=now)


def a_pin(service: Service, now: datetime) -> Callable[[], object]:
    Pin.objects.create(
        customer=service.customer, service=service, backup_percent=0, reason="it is", expires_at=now + DAY
    )
    return lambda: Pin.objects.update(expires_at=now)


def its_maintenance(service: Service, now: datetime) -> Callable[[], object]:
    factories.maintenance_window(now - MINUTE, service=service)
    return MaintenanceWindow.objects.all().delete


def maintenance_of_the_backups_cdn(service: Service, now: datetime) -> Callable[[], object]:
    factories.maintenance_window(now - MINUTE, cdn=target(service, "backup").cdn)
    return MaintenanceWindow.objects.all().delete


def another_hour(service: Service, now: datetime) -> Callable[[], object]:
    starts = (now + timedelta(hours=2)).time()
    SteeringTerms.objects.create(customer=service.customer, service=service, window_start=starts, window_seconds=3600)
    return lambda: SteeringTerms.objects.update(window_start=(now - MINUTE).time())


def spoilt(role: str, **fields: Any) -> Callable[[Service, datetime], Callable[[], object]]:
    def spoil(service: Service, now: datetime) -> Callable[[], object]:
        PathVerdict.objects.filter(target=target(service, role)).update(**fields)
        return lambda: rails.see(service, now)

    return spoil


def weights_on_their_way(service: Service, now: datetime) -> Callable[[], object]:
    seen_at = newest(service).observed_at
    WeightChange.objects.update(state="confirmed", observed_at=None)
    return lambda: WeightChange.objects.update(state="observed", observed_at=seen_at)


def a_must_that_fails(service: Service, now: datetime) -> Callable[[], object]:
    RecordSet.objects.update(armed_at=None, unarmed_reason="delegation: elsewhere")
    return lambda: RecordSet.objects.update(armed_at=now)


def no_backup(service: Service, now: datetime) -> Callable[[], object]:
    Target.objects.filter(role="backup").update(enabled=False)
    return lambda: Target.objects.filter(role="backup").update(enabled=True)


def given_back(service: Service, now: datetime) -> Callable[[], object]:
    RecordSet.objects.update(released_at=now)
    return lambda: RecordSet.objects.update(released_at=None)


WEATHER: dict[str, tuple[Callable[[Service, datetime], Callable[[], object]], str]] = {
    "storm": (a_storm, "a storm is open"),
    "freeze": (a_freeze, "frozen: the sales begin"),
    "pin": (a_pin, "its weights are pinned"),
    "maintenance": (its_maintenance, "maintenance"),
    "maintenance of a CDN": (maintenance_of_the_backups_cdn, "maintenance"),
    "window": (another_hour, "outside of its window"),
    "primary unwell": (spoilt("primary", verdict="DEGRADED"), "the primary is DEGRADED"),
    "primary unknown": (spoilt("primary", evaluated_at=timezone.now() - DAY), "the primary is UNKNOWN"),
    "backup unfit": (spoilt("backup", verdict="UNKNOWN"), "the backup is not fit: backup0.cdn.test is UNKNOWN"),
    "backup worse": (spoilt("backup", availability=0.95), "backup-1 is UP: 5% of its samples bad"),
    "change": (weights_on_their_way, "weights are being changed"),
    "unarmed": (a_must_that_fails, "is not armed: delegation: elsewhere"),
    "no backup": (no_backup, "there is no backup"),
    "released": (given_back, "the service is not steered"),
}


@pytest.mark.parametrize("kind", WEATHER)
def test_it_waits_for_good_weather(service: Service, kind: str) -> None:
    spoil, text = WEATHER[kind]
    now = timezone.now()
    drill = drill_of(service, scheduled_at=now)
    rails.see(service, now)
    mend = spoil(service, now)
    tended(drill, now)
    assert drill.state == State.SCHEDULED and drill.outcome.startswith("waits: ") and text in drill.outcome
    mend()
    assert tended(drill, now).state == State.RUNNING, drill.outcome
    assert (drill.started_at, told(service)) == (now, ["drill.running"])


def test_it_does_not_begin_before_its_time(service: Service) -> None:
    now = timezone.now()
    drill = drill_of(service, scheduled_at=now + MINUTE)
    assert tended(drill, now).outcome == ""
    rails.see(service, now + MINUTE)
    assert tended(drill, now + MINUTE).state == State.RUNNING


def test_a_second_backup_is_not_drilled_instead_of_the_first(service: Service) -> None:
    now = timezone.now()
    factories.target("backup", domain=service.domains.get(), rank=2, address="third.cdn.test")
    work(service, now)
    PathVerdict.objects.filter(target__address="backup0.cdn.test").update(verdict="DOWN")
    assert "the backup is not fit: backup0.cdn.test is DOWN" in tended(drill_of(service), timezone.now()).outcome


def test_after_a_week_of_bad_weather_it_is_called_off(service: Service) -> None:
    now = timezone.now()
    drill = drill_of(service, scheduled_at=now)
    a_freeze(service, now)
    assert tended(drill, now + 7 * DAY).state == State.SCHEDULED
    assert tended(drill, now + 7 * DAY + SECOND).state == State.CANCELLED
    assert drill.outcome == "cancelled: no good weather for a week (frozen: the sales begin)"
    assert (drill.ended_at, told(service)) == (now + 7 * DAY + SECOND, ["drill.cancelled"])


def test_those_that_wait_stand_in_nobodys_way(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drills, "MOST_AT_ONCE", 1)
    now = timezone.now()
    waiting, other = steered_service(vendor="log"), steered_service(vendor="log")
    for each in (waiting, other):
        work(each, now)
    Freeze.objects.create(service=waiting, reason="stop")
    drill_of(waiting, scheduled_at=now)
    late = drill_of(other, scheduled_at=now)
    runs = drill_of(service, scheduled_at=now, state=State.RUNNING, started_at=now - 11 * MINUTE)
    work(service, now)
    assert any(tended(late, now).state == State.RUNNING for _ in range(40))
    runs.refresh_from_db()
    assert runs.observed_at == now


# --- it runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["route53", "powerdns"])
def rail(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rail]:
    monkeypatch.setattr("dns.observation.SAMPLES", 5)
    settings.FAILBACK_GATE_SECONDS = 0
    with opened(request.param, request, settings) as rail:
        yield rail


def shares(rail: Rail, service: Service, samples: int = 300) -> dict[str, float]:
    seen = rails.answers(rail, service.domains.get().hostname, samples)
    assert seen.total() == samples
    return {t.role: seen[t.address] / samples for t in Target.objects.filter(domain__service=service)}


def test_dns_sends_the_share_and_it_passes(rail: Rail) -> None:
    service, start = rails.service_on(rail, rail.account()), timezone.now()
    drill = drill_of(service, scheduled_at=start)
    work(service, start)
    assert tended(drill, start).state == State.RUNNING
    assert tended(drill, start).observed_at is None
    work(service, start + 2 * SECOND)
    seen = shares(rail, service)
    assert 0.005 < seen["backup"] < 0.12, seen
    assert rails.by_lane(newest(service).weights, service) == {"primary": 95, "backup-1": 5}
    assert newest(service).reason == "drill: 5 % to backup-1"

    assert tended(drill, start + 10 * SECOND).observed_at == start + 10 * SECOND
    work(service, start + 15 * MINUTE)
    assert tended(drill, start + 15 * MINUTE).state == State.RUNNING
    work(service, over := start + 10 * SECOND + 15 * MINUTE)
    assert newest(service).generation == 2, "it stays as it is"
    assert tended(drill, over).state == State.PASSED
    assert drill.outcome == "5 % for 15 min; DNS sent it after 10 s; the backup stayed up"
    assert (drill.ended_at, told(service)) == (over, ["drill.running", "drill.passed"])
    work(service, over + 2 * SECOND)
    assert rails.by_lane(newest(service).weights, service) == HOME and newest(service).state == "observed"
    assert shares(rail, service, 100) == {"primary": 1, "backup": 0}


def test_a_storm_calls_it_off_and_moves_everything(rail: Rail) -> None:
    service, start = rails.service_on(rail, rail.account()), timezone.now()
    work(service, start)
    drill = running(service, start, percent=2)
    rails.storm_over(service)
    rails.see(service, start, "DOWN")
    assert tended(drill, start).state == State.CANCELLED
    assert (drill.outcome, drill.ended_at) == ("cancelled: a storm is open", start)
    work(service, start + SECOND, primary="DOWN")
    assert shares(rail, service, 100) == {"primary": 0, "backup": 1}


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        ({"verdict": "DOWN", "availability": 0.0}, "backup-1 is DOWN: 100% of its samples bad"),
        ({"verdict": "DEGRADED", "availability": 0.99}, "backup-1 is DEGRADED: 1% of its samples bad"),
        ({"verdict": "UP", "availability": 0.97}, "backup-1 is UP: 3% of its samples bad"),
    ],
)
def test_it_fails_when_the_backup_worsens(service: Service, seen: dict[str, Any], text: str) -> None:
    now = timezone.now()
    drill = running(service, now)
    PathVerdict.objects.filter(target=target(service, "backup")).update(**seen)
    assert tended(drill, now).state == State.FAILED
    assert (drill.outcome, drill.ended_at, told(service)[-1]) == (text, now, "drill.failed")
    steering.steer(now, [service.pk])
    assert split(newest(service)) == HOME


def test_it_fails_when_dns_never_sends_the_share(service: Service) -> None:
    now = timezone.now()
    drill = tended(drill_of(service, scheduled_at=now), now)
    work(service, now)
    assert split(newest(service))["backup-1"] == 5
    WeightChange.objects.filter(pk=newest(service).pk).update(state="confirmed", observed_at=None)
    rails.see(service, now + 10 * MINUTE)
    assert tended(drill, now + 10 * MINUTE).state == State.RUNNING
    rails.see(service, late := now + 10 * MINUTE + SECOND)
    assert tended(drill, late).state == State.FAILED
    assert drill.outcome == "DNS did not send the share within 10 minutes"
    steering.steer(late, [service.pk])
    assert split(newest(service)) == HOME


def test_one_domain_that_lags_behind_is_waited_for() -> None:
    service, now = steered_service(domains=2, vendor="log"), timezone.now()
    work(service, now)
    drill = tended(drill_of(service, scheduled_at=now), now)
    work(service, now)
    lagging = newest(service)
    WeightChange.objects.filter(pk=lagging.pk).update(state="failed", observed_at=None)
    assert tended(drill, now).observed_at is None
    WeightChange.objects.filter(pk=lagging.pk).update(state="observed", observed_at=now)
    assert tended(drill, now).observed_at == now


CALLS_OFF = {
    "storm": "a storm is open",
    "freeze": "frozen: the sales begin",
    "pin": "its weights are pinned",
    "primary unwell": "the primary is DEGRADED",
    "primary unknown": "the primary is UNKNOWN",
    "backup unfit": "backup-1: backup0.cdn.test is UNKNOWN",
    "unarmed": "is not armed: delegation: elsewhere",
    "no backup": "there is no backup any more",
    "released": "the service is not steered",
}


@pytest.mark.parametrize("kind", CALLS_OFF)
def test_what_comes_in_between_calls_it_off(service: Service, kind: str) -> None:
    now = timezone.now()
    drill = running(service, now)
    rails.see(service, over := now + 20 * MINUTE)
    WEATHER[kind][0](service, over)
    assert tended(drill, over).state == State.CANCELLED, "it passes for nothing that was not sent"
    assert drill.outcome.startswith("cancelled: ") and CALLS_OFF[kind] in drill.outcome
    assert told(service) == ["drill.running", "drill.cancelled"]


@pytest.mark.parametrize("kind", ["maintenance", "window"])
def test_what_only_keeps_it_from_beginning_lets_it_end(service: Service, kind: str) -> None:
    now = timezone.now()
    drill = running(service, now)
    rails.see(service, over := now + 15 * MINUTE)
    WEATHER[kind][0](service, over)
    assert tended(drill, over).state == State.PASSED


def test_whatever_else_takes_the_share_back_calls_it_off(service: Service) -> None:
    """Its weights are what `weights` wants of all things; a drill that they no longer show has proved nothing."""
    now = timezone.now()
    drill = running(service, now)
    Drill.objects.update(percent=4)
    plan = drills.planning.plan_services(now, [service.pk])[0]
    assert drills._taken_back(Drill.objects.get(), plan) == ""
    assert drills._taken_back(drill, plan) == "drill: 4 % to backup-1"


def test_a_backup_that_can_take_less_is_drilled_with_that(service: Service) -> None:
    Target.objects.filter(role="backup").update(capacity_percent=2)
    now = timezone.now()
    drill = running(service, now, percent=5)
    assert split(newest(service)) == {"primary": 98, "backup-1": 2}
    rails.see(service, over := now + 15 * MINUTE)
    assert tended(drill, over).state == State.PASSED


def test_a_person_calls_it_off_once(service: Service) -> None:
    now = timezone.now()
    drill = running(service, now)
    same = Drill.objects.get()
    assert drills.cancel(drill, "kim", now)
    assert (drill.state, drill.outcome) == (State.CANCELLED, "cancelled by kim")
    assert not drills.cancel(same, "joe", now), "it went on meanwhile"
    steering.steer(now, [service.pk])
    assert split(newest(service)) == HOME
    assert told(service) == ["drill.running", "drill.cancelled"]
