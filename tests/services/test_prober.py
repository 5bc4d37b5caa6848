"""The resident prober against real TLS servers and a real Postgres, in real time, with intervals below a second."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
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
from services import samples, schedule, watched
from services.models import ProbeSample, Service, Target, VantagePoint
from services.prober import Prober
from tests import factories
from tests.servers import free_port
from tests.services import tls
from tests.services.tls import CANARY_HOST, HOST, OTHER_HOST, TlsSite, pki_fixture  # noqa: F401

INTERVAL_SECONDS = 0.4

pytestmark = pytest.mark.django_db(transaction=True)


def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
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
                self.rows(outcome="ok", is_blind=False, target_id__in=[t.pk for t in self.targets.values()])
                .values("target_id", "vantage_point_id")
                .distinct()
                .count()
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
    made = watched._watched

    def shortened(*arguments: Any) -> watched.Watched:
        """The loop itself knows no shortest interval; only customers may not choose less than a second."""
        return replace(made(*arguments), interval_seconds=INTERVAL_SECONDS)

    monkeypatch.setattr(watched, "_watched", shortened)
    settings.PROBE_SPOOL_DIR = tmp_path / "spool"
    settings.PROBE_MOST_PER_HOST = settings.PROBE_MOST_PER_ADDRESS = 0  # all sites stand at one address
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
    world.prober._shards[off.name].add(0)
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
    until(lambda: set(world.prober._picture.targets) == {world.targets["canary"].pk})
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
    assert "1 of 1 networks" in point.blind_reason
    until(lambda: world.rows("primary", is_blind=True, outcome="http_5xx").count() >= 2)
    assert [event.kind for event in Event.objects.filter(subject_id=point.pk)] == ["vantage_point.blind"]

    world.sites["canary"].greet = tls.go_on
    until(lambda: VantagePoint.objects.filter(pk=point.pk, blind_since__isnull=True, blind_reason="").exists())
    sighted = timezone.now()
    until(lambda: world.rows("primary", at__gt=sighted, is_blind=False).count() >= 2)
    kinds = Event.objects.filter(subject_type="vantagepoint", subject_id=point.pk).order_by("id")
    told = list(kinds.values_list("kind", "customer_id"))
    # Each change of sight is told once. (A machine that is too busy to answer itself may go blind a second time.)
    assert told[:2] == [("vantage_point.blind", None), ("vantage_point.sees", None)]
    assert all(before != after for before, after in pairwise(told))


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

    def fail_twice(point_id: int, shard: int, reason: str) -> None:
        if len(failures) < 2:
            failures.append(reason)
            raise OperationalError("Postgres is away")
        store(point_id, shard, reason)

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


def test_samples_wait_on_disk_while_postgres_is_away_and_come_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build(points=1).start()
    write, is_away = samples.write, threading.Event()
    is_away.set()

    def away(rows: Any) -> None:
        if is_away.is_set():
            raise OperationalError("the database system is shutting down")
        write(rows)

    world.break_with_500()
    monkeypatch.setattr(samples, "write", away)
    monkeypatch.setattr(watched, "read", _raise_operational_error)
    world.prober.look_for_changes()
    began = timezone.now()
    until(lambda: "".join(p.read_text() for p in world.prober._spool._directory.glob("*")).count('"http_5xx"') >= 3)
    assert not world.rows("primary", at__gt=began).exists() and not world.bad
    is_away.clear()
    until(lambda: world.bad)
    until(lambda: world.rows("primary", is_late=True, outcome="http_5xx").count() >= 3)
    until(lambda: world.rows("primary", is_late=False, outcome="http_5xx").exists())
    until(lambda: world.prober._spool.size_bytes == 0)
    world.assert_that_nothing_is_missing()


def test_samples_that_come_in_while_postgres_hangs_go_to_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build(points=1).start()
    monkeypatch.setattr(prober_module, "PATIENCE_SECONDS", 0.3)
    write, wakes = samples.write, threading.Event()

    def hang(rows: Any) -> None:
        wakes.wait(10)
        write(rows)

    monkeypatch.setattr(samples, "write", hang)
    until(lambda: world.prober._spool.size_bytes > 0)
    wakes.set()
    until(lambda: world.rows(is_late=True).exists() and world.prober._spool.size_bytes == 0)
    world.assert_that_nothing_is_missing()


def test_what_the_last_prober_left_on_disk_is_back_filled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build(points=1).start()
    write = samples.write

    def refuse(rows: Any) -> None:
        raise OperationalError("the database system is shutting down")

    monkeypatch.setattr(samples, "write", refuse)
    count = len(world.sites["primary"].requests)
    until(lambda: len(world.sites["primary"].requests) >= count + 2)
    world.prober.stop()
    assert world.prober._spool.size_bytes > 0
    monkeypatch.setattr(samples, "write", write)
    world.prober = world.make_prober([point.name for point in world.points])
    world.prober.ensure_running()
    until(lambda: world.prober._spool.size_bytes == 0 and world.rows("primary", is_late=True).count() >= 2)
    world.assert_that_nothing_is_missing()


def _raise_operational_error(before: watched.Picture) -> watched.Picture:
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


# --- shards, clocks, bursts, marks ------------------------------------------------------------------------------------


def test_two_shards_share_the_domains_and_both_look_at_the_canaries(world: World) -> None:
    world.build(points=1)
    (point,) = world.points
    VantagePoint.objects.update(shards=2)
    for n in range(8):
        domain = factories.domain(service=world.service, hostname=f"d{n}.good.test")
        site = world.sites["primary"]
        factories.target(domain=domain, address=site.address, port=site.port)
    first, second = world.make_prober([point.name]), world.make_prober([f"{point.name}.1"])
    first.ensure_running()
    second.ensure_running()
    primaries = Target.objects.filter(role="primary")
    shares = [{t.pk for t in primaries if schedule.shard_of(t.domain_id or 0, 2) == shard} for shard in (0, 1)]
    assert all(shares)
    seen = lambda: set(world.rows(is_blind=False, target_id__in=primaries).values_list("target_id", flat=True))  # noqa: E731
    until(lambda: seen() >= shares[0] | shares[1])
    assert second._sights[point.pk].canaries, "each shard knows for itself whether it sees"
    before = seen()
    first.stop()
    stopped = timezone.now()
    until(lambda: set(world.rows(at__gt=stopped).values_list("target_id", flat=True)) >= shares[1])
    assert before == shares[0] | shares[1]
    later = set(world.rows(at__gt=stopped).values_list("target_id", flat=True))
    assert not later & (shares[0] | {world.targets["canary"].pk}), "the second shard's canaries are not recorded"


def test_a_vantage_point_is_blind_while_one_of_its_shards_is() -> None:
    point = factories.vantage_point(shards=3)
    for shard, reason, blind, said in (
        (1, "no descriptors", True, "no descriptors"),
        (2, "no canaries", True, "no descriptors"),
        (1, "", True, "no canaries"),
        (2, "", False, ""),
    ):
        prober_module._store_sight(point.pk, shard, reason)
        point.refresh_from_db()
        assert (bool(point.blind_since), point.blind_reason) == (blind, said)
    assert [e.kind for e in Event.objects.order_by("id")] == ["vantage_point.blind", "vantage_point.sees"]
    prober_module._store_sight(point.pk, 2, "no canaries")
    VantagePoint.objects.update(shards=2)
    prober_module._store_sight(point.pk, 0, "")
    point.refresh_from_db()
    assert point.blind_since is None, "a shard that is no more blinds nobody"


def test_a_clock_that_is_off_takes_the_vote(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build(points=1).start()
    read = watched.read
    monkeypatch.setattr(watched, "read", lambda before: replace(read(before), clock_off_seconds=-31.0))
    world.prober.look_for_changes()
    until(lambda: VantagePoint.objects.filter(blind_reason__startswith="its clock is -31 s off").exists())
    monkeypatch.setattr(watched, "read", lambda before: replace(read(before), clock_off_seconds=29.0))
    world.prober.look_for_changes()
    until(lambda: VantagePoint.objects.filter(blind_since__isnull=True).exists())


def test_the_clock_is_compared_with_the_databases(world: World) -> None:
    assert abs(watched.read(watched.Picture()).clock_off_seconds) < 1


def test_bursts_end_with_their_budget(world: World, settings: Any) -> None:
    settings.PROBE_BURSTS_PER_SECOND = 0.5  # one at once, and none for two seconds
    world.build(points=1).start()
    domain_id = world.targets["backup"].domain_id
    other = factories.domain(service=world.service, hostname=OTHER_HOST)
    site = world.sites["backup"]
    factories.target(domain=other, address=site.address, port=site.port)
    world.prober.look_for_changes()
    until(lambda: other.pk in world.prober._by_domain)
    assert domain_id
    world.prober.confirm(domain_id, time.time())
    world.prober.confirm(other.pk, time.time())
    until(lambda: world.rows(attempt=3).count() == 4)
    assert not world.rows(attempt__gt=0, target_id__in=Target.objects.filter(domain=other)).exists()


def test_samples_say_when_work_was_done(world: World) -> None:
    world.build(points=1).start()
    assert not world.rows(in_maintenance=True).exists()
    window = factories.maintenance_window(service=world.service)
    world.prober.look_for_changes()
    until(lambda: world.rows("primary", in_maintenance=True, outcome="ok").exists())
    assert not world.rows("canary", in_maintenance=True).exists()
    window.lift(timezone.now())
    world.prober.look_for_changes()
    until(lambda: not world.rows("primary").last().in_maintenance)


def test_headers_facets_and_the_uncacheable_path_are_asked_for(world: World) -> None:
    world.build(points=1)
    world.service.probe_headers = {"X-Probe": "word"}
    world.service.uncacheable_path = "/never-cached"
    world.service.save()
    facets = {target.facet_of_id: target.pk for target in Target.objects.filter(facet="uncacheable")}
    assert set(facets) == {world.targets["primary"].pk, world.targets["backup"].pk}
    world.start()
    for role in ("primary", "backup"):
        until(lambda role=role: world.rows(target_id=facets[world.targets[role].pk], outcome="ok").exists())
        assert {request.path for request in world.sites[role].requests} == {"/health", "/never-cached"}
        assert {request.headers["x-probe"] for request in world.sites[role].requests} == {"word"}
    assert {request.path for request in world.sites["origin"].requests} == {"/never-cached"}
    assert "x-probe" not in world.sites["canary"].requests[0].headers
    world.service.uncacheable_path = ""
    world.service.save()
    world.prober.look_for_changes()
    until(lambda: not set(facets.values()) & set(world.prober._picture.targets))


def test_targets_are_read_again_only_when_something_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.build(points=1)
    first = watched.read(watched.Picture())
    assert {target.role for target in first.targets.values()} == set(world.targets)
    VantagePoint.objects.update(last_probe_at=timezone.now())
    assert watched.read(first).targets is first.targets
    for change in (
        lambda: Service.objects.update(interval_seconds=7),
        lambda: Target.objects.filter(role="backup").update(enabled=False),
        lambda: world.targets["primary"].cdn and world.targets["primary"].cdn.save(),
    ):
        before = watched.read(first)
        change()
        after = watched.read(before)
        assert after.targets is not before.targets
        first = after
    assert "backup" not in {target.role for target in first.targets.values()}


def test_figures_for_prometheus(world: World, settings: Any) -> None:
    settings.PROBE_METRICS = str(free_port())
    world.build(points=1).start()
    world.break_with_500()
    until(lambda: world.rows("primary", outcome="http_5xx").exists())
    with urllib.request.urlopen(f"http://127.0.0.1:{settings.PROBE_METRICS}/metrics") as response:
        text = response.read().decode()
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures['tranche_probes_total{outcome="http_5xx",vantage_point="point-1"}']) >= 1
    assert float(figures['tranche_probes_total{outcome="ok",vantage_point="point-1"}']) >= 4
    assert figures['tranche_vantage_point_blind{vantage_point="point-1"}'] == "0.0"
    assert float(figures['tranche_probe_slip_seconds_count{vantage_point="point-1"}']) >= 5
    assert {"tranche_probes_in_flight", "tranche_spool_bytes", "tranche_samples_waiting"} <= set(figures)


def test_a_port_for_figures_that_is_taken_stops_no_probing(world: World, settings: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings.PROBE_METRICS = f"127.0.0.1:{taken.getsockname()[1]}"
        world.build(points=1).start()


def test_nobody_is_asked_more_often_than_the_caps_allow(world: World, settings: Any) -> None:
    """However many targets of however many customers lead to one address; what is too much is seen as unknown."""
    settings.PROBE_MOST_PER_ADDRESS, settings.PROBE_MOST_PER_HOST = 3.0, 0
    world.build(points=1)
    site = world.open_site()
    for n in range(10):
        domain = factories.domain(service=factories.service(interval_seconds=1), hostname=f"d{n}.good.test")
        factories.target(domain=domain, address=site.address, port=site.port)
    world.prober.ensure_running()
    until(lambda: world.rows(outcome="unknown", reason__contains="3 times a second").exists())
    began, count = time.monotonic(), site.accepts
    time.sleep(2)
    assert (
        site.accepts - count <= 3 * (time.monotonic() - began) + 6 + 1
    )  # and the bucket's depth, which may have filled
    assert not VantagePoint.objects.filter(blind_since__isnull=False).exists(), "a cap is nobody's trouble"


@dataclass(frozen=True)
class Piece:
    """As much of a target as room is given by."""

    id: int
    customer_id: int | None
    role: str = "primary"


def test_what_hangs_takes_no_room_from_others(settings: Any, tmp_path: Path) -> None:
    settings.PROBE_IN_FLIGHT, settings.PROBE_SPOOL_DIR = 10, tmp_path
    prober, point = Prober([]), VantagePoint(pk=1)

    def obstacle(customer: int | None, *, target: int = 9, role: str = "primary", attempt: int = 0) -> str:
        return prober._obstacle(Piece(target, customer, role), point, attempt)  # type: ignore[arg-type]

    prober._slot_running.add((9, 1))
    assert (obstacle(1), obstacle(1, attempt=1), obstacle(1, target=8)) == ("overlap", "", "")
    prober._slot_running.clear()
    prober._running = set(range(9))  # type: ignore[arg-type]
    prober._customer_running[1] = 9
    assert obstacle(1) == "", "while there is room anybody may have it"
    prober._running = set(range(12))  # type: ignore[arg-type]
    prober._customer_running[1] = 12
    assert (obstacle(1), obstacle(2), obstacle(None, role="canary")) == ("share", "", "")
    prober._running = set(range(20))  # type: ignore[arg-type]
    assert (obstacle(2), obstacle(None, role="canary")) == ("busy", "")
    prober.stop()


def test_old_news_does_not_pile_up_behind_a_broker_that_hangs(world: World) -> None:
    world.build(points=1)
    release = threading.Event()
    heard: list[int] = []

    def hang(number: int) -> None:
        release.wait(10)
        heard.append(number)

    for number in range(200):
        world.prober._pass_on(hang, number)
    release.set()
    until(lambda: len(heard) == prober_module.MOST_UNTOLD)
    world.prober._pass_on(hang, 999)
    until(lambda: heard[-1] == 999)


def test_a_blind_vantage_point_calls_for_no_shots(world: World) -> None:
    world.build(points=1).start()
    world.sites["canary"].greet = tls.close_at_once
    until(lambda: VantagePoint.objects.filter(blind_since__isnull=False).exists())
    world.break_with_500()
    until(lambda: world.rows("primary", outcome="http_5xx", attempt=0).count() >= 3)
    assert not world.rows("primary", attempt__gt=0).exists() and not world.first_bad


def test_a_canary_that_is_added_blinds_nobody_before_it_has_answered(world: World) -> None:
    """Nor does another change of targets, whatever was stored of a vantage point's sight by then."""
    world.build(points=1)
    site, silent = world.sites["canary"], world.open_site()
    for n in (2, 3):
        factories.target("canary", address=site.address, port=site.port, hostname=CANARY_HOST, network=f"AS{n}")
    world.start()
    reasons: list[str] = []
    look = world.prober._look_around

    def noting(target: watched.Watched, point: VantagePoint, *rest: Any) -> None:
        look(target, point, *rest)
        reasons.append(world.prober._blind[point.pk])

    world.prober._look_around = noting  # type: ignore[method-assign]
    silent.greet = tls.hang_before_handshake
    factories.target("canary", address=silent.address, port=silent.port, hostname=CANARY_HOST, network="AS4")
    world.prober.look_for_changes()
    until(lambda: len(world.prober._picture.canaries) == 4)
    count = len(reasons)
    until(lambda: len(reasons) >= count + 20)
    assert set(reasons) == {""}
    assert not VantagePoint.objects.filter(blind_since__isnull=False).exists()
