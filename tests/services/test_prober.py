"""The resident prober against real TLS servers and a real Postgres, in real time, with intervals below a second."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from customers.models import Event
from services import prober as prober_module
from services import samples
from services.models import ProbeSample, Service, Target, VantagePoint
from services.prober import Prober
from tests import factories
from tests.services import tls
from tests.services.tls import CANARY_HOST, HOST, OTHER_HOST, TlsSite, pki_fixture  # noqa: F401

INTERVAL_SECONDS = 0.4

pytestmark = pytest.mark.django_db(transaction=True)


def until(condition: Callable[[], object], seconds: float = 8.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@dataclass
class World:
    """One service with a domain behind three sites, a canary, two vantage points, and a prober that is not started."""

    open_site: Callable[[], TlsSite]
    make_prober: Callable[..., Prober]
    service: Service = field(init=False)
    targets: dict[str, Target] = field(default_factory=dict)
    sites: dict[str, TlsSite] = field(default_factory=dict)
    points: list[VantagePoint] = field(default_factory=list)
    bad: list[tuple[set[int], int]] = field(default_factory=list)
    """What `on_bad` heard, and how many bad rows the database had by then."""
    first_bad: list[tuple[int, float]] = field(default_factory=list)
    prober: Prober = field(init=False)

    def build(self, points: int = 2) -> World:
        self.points = [
            factories.vantage_point(name=f"point-{n}", source_address=f"127.0.2.{n}") for n in range(1, points + 1)
        ]
        self.service = factories.service(interval_seconds=1, probe_path="/health", timeout_seconds=1)
        domain = factories.domain(service=self.service, hostname=HOST)
        for role in Target.DOMAIN_ROLES:
            self.add(role, domain=domain)
        self.add(Target.Role.CANARY, hostname=CANARY_HOST)
        self.prober = self.make_prober(
            [point.name for point in self.points],
            on_bad=lambda ids: self.bad.append((ids, self.rows(outcome="http_5xx").count())),
            on_first_bad=lambda domain_id, slot: self.first_bad.append((domain_id, slot)),
        )
        return self

    def add(self, role: str, **kw: Any) -> Target:
        site = self.sites[role] = self.open_site()
        self.targets[role] = factories.target(role, address=site.address, port=site.port, **kw)
        return self.targets[role]

    def start(self) -> None:
        """Returns when every target has been seen good from every vantage point, none of them blind."""
        self.prober.ensure_running()
        pairs = len(self.targets) * len(self.points)
        until(
            lambda: (
                self.rows(outcome="ok", is_blind=False).values("target_id", "vantage_point_id").distinct().count()
                == pairs
            )
        )

    def rows(self, role: str = "", **kw: Any) -> Any:
        found = ProbeSample.objects.filter(**kw).order_by("at")
        return found.filter(target_id=self.targets[role].pk) if role else found

    def assert_that_nothing_is_missing(self) -> None:
        """Every probe that a site answered is a row, but what the end cut off."""
        self.prober.stop()
        for role, site in self.sites.items():
            assert 0 <= len(site.requests) - self.rows(role).exclude(outcome="connect").count() <= 1

    def break_with_500(self, role: str = Target.Role.PRIMARY) -> None:
        self.sites[role].answer = tls.respond(500)

    def mend(self, role: str = Target.Role.PRIMARY) -> None:
        self.sites[role].answer = tls.respond()


@pytest.fixture
def world(pki: Path, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    settings.TRANCHE_HOME, settings.PROBE_EXTRA_CA_FILE = tmp_path, str(pki / "ca.pem")
    settings.PROBE_OWN_INTERVAL_SECONDS, settings.PROBE_BURST_SPACING_SECONDS = INTERVAL_SECONDS, 0.1
    monkeypatch.setattr(prober_module, "FLUSH_SECONDS", 0.05)
    watched = prober_module._watched

    def shortened(target: Target) -> prober_module.Watched | None:
        """The loop itself knows no shortest interval; only customers may not choose less than a second."""
        return (kept := watched(target)) and replace(kept, interval_seconds=INTERVAL_SECONDS)

    monkeypatch.setattr(prober_module, "_watched", shortened)
    with contextlib.ExitStack() as stack:

        def open_site() -> TlsSite:
            site = TlsSite(pki / "good.pem")
            stack.callback(site.close)
            return site

        def make_prober(*arguments: Any, **kw: Any) -> Prober:
            prober = Prober(*arguments, **kw)
            stack.callback(prober.stop)
            return prober

        yield World(open_site, make_prober)


def test_every_target_is_recorded_from_every_vantage_point(world: World) -> None:
    world.build().start()
    until(lambda: world.rows(Target.Role.PRIMARY).count() >= 4)
    customer, service = world.service.customer_id, world.service.pk
    for role, target in world.targets.items():
        is_ours = role == Target.Role.CANARY
        for point in world.points:
            row = world.rows(role, vantage_point_id=point.pk, is_blind=False)[0]
            assert (row.outcome, row.status, row.attempt, row.reason) == ("ok", 200, 0, "")
            assert (row.customer_id, row.service_id) == ((None, None) if is_ours else (customer, service))
            assert row.remote_address == "127.0.0.1"
            assert row.certificate_expires_at > timezone.now()
            assert None not in (row.dns_ms, row.connect_ms, row.tls_ms, row.first_byte_ms, row.total_ms)
            assert 0 <= (row.at - row.slot_at).total_seconds() < INTERVAL_SECONDS
        seen = world.sites[role].requests
        assert {request.peer[0] for request in seen} == {"127.0.2.1", "127.0.2.2"}
        assert {request.headers["host"] for request in seen} == {target.host}
        assert {request.path for request in seen} == {"/" if is_ours else "/health"}
    for point in world.points:
        # Each slot is probed once, half an interval apart from the other vantage point.
        slots = [row.slot_at.timestamp() for row in world.rows(Target.Role.PRIMARY, vantage_point_id=point.pk)]
        steps = [(later - earlier) / INTERVAL_SECONDS for earlier, later in pairwise(slots)]
        assert steps == pytest.approx([max(round(step), 1) for step in steps], abs=1e-3)
    first, second = (
        world.rows(Target.Role.PRIMARY, vantage_point_id=point.pk)[0].slot_at.timestamp() / INTERVAL_SECONDS
        for point in world.points
    )
    assert (first - second) % 1 == pytest.approx(0.5, abs=1e-2)
    assert all(point.last_probe_at for point in VantagePoint.objects.all())
    assert not world.bad and not world.first_bad


def test_what_may_not_be_probed_never_is_and_changes_are_taken_up(world: World) -> None:
    """No claim before its proof; no service after its deletion; no target while it is off; no other worker's point."""
    world.build(points=1)
    factories.vantage_point(name="elsewhere", source_address="127.0.2.99")
    off = factories.vantage_point(name="off", state=VantagePoint.State.OFF, source_address="127.0.2.98")
    world.prober._names.append(off.name)
    claim = factories.domain(service=world.service, hostname=OTHER_HOST, verified=False)
    site = world.open_site()
    target = factories.target(domain=claim, address=site.address, port=site.port)
    asleep = world.open_site()
    sleeper = factories.target(
        "backup",
        domain=world.targets["primary"].domain,
        rank=2,
        enabled=False,
        address=asleep.address,
        port=asleep.port,
    )
    world.start()
    assert site.accepts == asleep.accepts == 0

    claim.verified_at = timezone.now()
    claim.save()
    Target.objects.filter(pk=sleeper.pk).update(enabled=True)
    world.prober.look_for_changes()
    until(lambda: world.rows(target_id=target.pk).exists() and world.rows(target_id=sleeper.pk).exists())

    Target.objects.filter(pk=sleeper.pk).update(enabled=False)
    Service.objects.filter(pk=world.service.pk).update(deleted_at=timezone.now())
    world.prober.look_for_changes()
    until(lambda: set(world.prober._targets) == {world.targets["canary"].pk})
    until(lambda: not world.prober._running)
    counts = [s.accepts for s in (site, asleep, *world.sites.values())]
    until(lambda: world.sites["canary"].accepts >= counts[-1] + 2)
    assert [s.accepts for s in (site, asleep, *world.sites.values())][:-1] == counts[:-1]
    sources = {request.peer[0] for s in (site, asleep, *world.sites.values()) for request in s.requests}
    assert sources == {"127.0.2.1"}


def test_the_first_bad_sample_calls_for_shots_at_every_path_and_for_the_others(world: World) -> None:
    world.build(points=2).start()
    world.break_with_500()
    until(lambda: world.rows("primary", attempt=0, outcome="http_5xx").count() >= 4)
    slot = world.rows("primary", outcome="http_5xx", attempt=0)[0].slot_at
    for role in world.targets:
        expected = "http_5xx" if role == "primary" else "ok"
        for point in world.points:
            shots = world.rows(role, vantage_point_id=point.pk, attempt__gt=0)
            assert list(shots.values_list("attempt", "slot_at", "outcome")) == [(n, slot, expected) for n in (1, 2, 3)]
            gap = (shots[2].at - shots[0].at).total_seconds()
            assert 0.15 < gap < 0.6
    assert world.first_bad == [(world.targets["primary"].domain_id, pytest.approx(slot.timestamp(), abs=1e-3))]
    # Each time after the rows were recorded.
    assert {frozenset(ids) for ids, _ in world.bad} == {frozenset({world.service.pk})}
    assert all(count >= 1 for _, count in world.bad)
    assert [count for _, count in world.bad] == sorted(count for _, count in world.bad)


def test_a_bad_witness_or_canary_alarms_nobody(world: World) -> None:
    world.build(points=1).start()
    world.break_with_500("origin")
    until(lambda: world.rows("origin", outcome="http_5xx").count() >= 2)
    assert not world.rows(attempt__gt=0).exists()
    assert not world.first_bad


def test_another_vantage_points_word_is_confirmed_at_every_path(world: World) -> None:
    world.build(points=1).start()
    domain_id = world.targets["backup"].domain_id
    assert domain_id
    slot = float(int(time.time()))
    world.prober.confirm(domain_id, slot)
    world.prober.confirm(domain_id, slot + 0.001)  # a second call during the burst adds none
    world.prober.confirm(10**9, slot)  # a domain that this worker doesn't know
    until(lambda: world.rows(attempt=3).count() == 4)
    assert {row.slot_at.timestamp() for row in world.rows(attempt__gt=0)} == {slot}
    assert world.rows(attempt__gt=0, service_id=world.service.pk).count() == 9
    assert not world.first_bad


def test_a_vantage_point_whose_canaries_fail_is_blind_until_they_answer(world: World) -> None:
    world.build(points=1).start()
    (point,) = world.points
    world.sites["canary"].greet = tls.close_at_once
    world.break_with_500()
    until(lambda: VantagePoint.objects.filter(pk=point.pk, blind_since__isnull=False).exists())
    # The first bad sample sends shots at the canary too, so that blindness is known before a window fills.
    point.refresh_from_db()
    assert "1 of 1 canaries" in point.blind_reason
    until(lambda: world.rows("primary", is_blind=True, outcome="http_5xx").count() >= 2)
    assert [event.kind for event in Event.objects.filter(subject_id=point.pk)] == ["vantage_point.blind"]

    world.sites["canary"].greet = tls.go_on
    until(lambda: VantagePoint.objects.filter(pk=point.pk, blind_since__isnull=True, blind_reason="").exists())
    sighted = timezone.now()
    until(lambda: world.rows("primary", at__gt=sighted, is_blind=False).count() >= 2)
    kinds = Event.objects.filter(subject_type="vantagepoint", subject_id=point.pk).order_by("id")
    assert list(kinds.values_list("kind", "customer_id")) == [
        ("vantage_point.blind", None),
        ("vantage_point.sees", None),
    ]


def test_removing_the_canaries_ends_blindness(world: World) -> None:
    """A canary that is gone for good is taken out by an operator; the vantage point must not stay blind over it."""
    world.build(points=1).start()
    world.sites["canary"].greet = tls.close_at_once
    until(lambda: VantagePoint.objects.filter(blind_since__isnull=False).exists())
    Target.objects.filter(role=Target.Role.CANARY).update(enabled=False)
    world.prober.look_for_changes()
    until(lambda: VantagePoint.objects.filter(blind_since__isnull=True).exists())
    until(lambda: not world.rows("primary").last().is_blind)


def test_sight_that_could_not_be_stored_is_stored_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build(points=1).start()
    store, failures = prober_module._store_sight, []

    def fail_twice(point_id: int, reason: str) -> None:
        if len(failures) < 2:
            failures.append(reason)
            raise OperationalError("Postgres is away")
        store(point_id, reason)

    monkeypatch.setattr(prober_module, "_store_sight", fail_twice)
    world.sites["canary"].greet = tls.close_at_once
    until(lambda: VantagePoint.objects.filter(blind_since__isnull=False).exists())
    assert len(failures) == 2


def test_before_its_canaries_have_answered_a_vantage_point_has_no_vote(world: World) -> None:
    world.build(points=1)
    world.sites["canary"].greet = tls.hang_before_handshake
    world.prober.ensure_running()
    until(lambda: world.rows("primary").count() >= 2)
    assert set(world.rows("primary").values_list("is_blind", flat=True)) == {True}
    # It is not announced: nothing is known yet.
    assert not VantagePoint.objects.filter(blind_since__isnull=False).exists()


def test_samples_wait_in_memory_while_postgres_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build(points=1).start()
    write, tries = samples.write, []

    def away(rows: Any) -> None:
        tries.append(len(rows))
        if len(tries) <= 2:
            raise OperationalError("the database system is shutting down")
        write(rows)

    world.break_with_500()
    monkeypatch.setattr(samples, "write", away)
    monkeypatch.setattr(prober_module, "_load", _raise_operational_error)
    world.prober.look_for_changes()
    until(lambda: len(tries) >= 3)
    monkeypatch.setattr(samples, "write", write)
    assert tries[2] > tries[1] > tries[0], "later batches hold the earlier ones"
    until(lambda: world.bad)
    until(lambda: world.rows("primary", attempt=0, outcome="http_5xx").count() >= 3)
    world.assert_that_nothing_is_missing()


def _raise_operational_error(names: list[str]) -> None:
    raise OperationalError("the database system is shutting down")


def test_a_connection_that_is_cut_under_the_recorder_costs_no_sample(world: World) -> None:
    world.build(points=1).start()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE probe_samples IN ACCESS EXCLUSIVE MODE")

        def cut() -> list[Any]:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = 'probe_samples'::regclass AND NOT granted"
            )
            return cursor.fetchall()

        until(cut)
    count = world.rows("primary").count()
    until(lambda: world.rows("primary").count() >= count + 3)
    world.assert_that_nothing_is_missing()


def test_something_unforeseen_in_the_recorder_ends_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build(points=1).start()
    write, stumbled = samples.write, threading.Event()

    def stumble(rows: Any) -> None:
        if not stumbled.is_set():
            stumbled.set()
            raise RuntimeError("unforeseen")
        write(rows)

    monkeypatch.setattr(samples, "write", stumble)
    assert stumbled.wait(5)
    count = world.rows().count()
    until(lambda: world.rows().count() > count)


def test_listeners_that_hang_or_fail_do_not_hold_up_the_recording(world: World) -> None:
    """A broker that swallows connections makes every message take seconds; samples must not wait for it."""
    world.build(points=1)
    release, calls = threading.Event(), []

    def hang(ids: set[int]) -> None:
        calls.append(ids)
        release.wait(10)
        raise ConnectionError("no broker")

    world.prober._on_bad = hang
    world.start()
    world.break_with_500()
    try:
        until(lambda: calls)
        count = world.rows("primary").count()
        until(lambda: world.rows("primary").count() >= count + 2, 4)
        assert len(calls) == 1
    finally:
        release.set()
    until(lambda: len(calls) >= 2)


def test_the_last_samples_are_recorded_when_it_stops(world: World) -> None:
    world.build(points=1).start()
    world.prober.stop()
    assert not any(thread.name == "prober" for thread in threading.enumerate())
    world.assert_that_nothing_is_missing()
    world.prober.look_for_changes()
    world.prober.confirm(1, 0.0)
    world.prober.stop()
