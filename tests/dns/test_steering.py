"""From a storm's row to answers that DNS gives: planned, written, proved; killed in the middle, overtaken, held."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from customers.models import Event
from dns import observation, outbox, planning, reconcile, steering, vendors
from dns.embedded import EmbeddedDns
from dns.models import EmbeddedRecord, Freeze, Pin, RecordSet, WeightChange
from dns.providers.contract import Provider, ProviderError, Receipt, Standing, WeightedSet, Zone
from dns.providers.embedded import EmbeddedProvider
from services import lookup
from services.models import Service, ServiceDomain, Target, VantagePoint
from storms import incidents, operators
from storms.models import CdnIncident, PathVerdict, StormEvent
from tests import factories, servers
from tests.samples import record
from tests.together import run_together
from tranche_site.floor import faults

pytestmark = pytest.mark.django_db(transaction=True)

ZONE = "shop.test"
State = WeightChange.State


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the code under test may catch it."""


@pytest.fixture
def dns_port() -> int:
    return servers.free_port()


@pytest.fixture(autouse=True)
def _quick(settings: Any, dns_port: int) -> Iterator[None]:
    settings.AUTHORITY_OVERRIDES = {ZONE: f"127.0.0.1:{dns_port}"}
    settings.FAILBACK_GATE_SECONDS = 0
    settings.FAILBACK_STEPS_PERCENT = [50, 100]
    observation.forget_servers()
    yield
    faults.disarm()


@pytest.fixture
def dns(dns_port: int) -> Iterator[EmbeddedDns]:
    EmbeddedRecord.objects.create(
        zone=ZONE, name=ZONE, type="SOA", value=f"ns1.{ZONE}. root.{ZONE}. 1 3600 600 86400 5"
    )
    server = EmbeddedDns("127.0.0.1", dns_port)
    server.start()
    yield server
    server.stop()


def steered_service(domains: int = 1, vendor: str = "embedded", **kw: Any) -> Service:
    """A service of some domains with a primary and a backup that are up, at home, and never written."""
    service = factories.service(**kw)
    account = factories.dns_account(vendor)
    for n in range(domains):
        domain = factories.domain(service=service, hostname=f"www{n}.{service.pk}.{ZONE}")
        for role in ("primary", "backup"):
            verdict(factories.target(role, domain=domain, address=f"{role}{n}.cdn.test"), "UP")
        factories.record_set(domain=domain, account=account, zone=ZONE, ttl_seconds=1)
    return service


def verdict(target: Target, value: str, **kw: Any) -> None:
    now = timezone.now()
    PathVerdict.objects.update_or_create(
        target=target,
        defaults={
            "verdict": value,
            "reason": "",
            "since": now,
            "evaluated_at": now,
            "newest_good_at": now,
            "availability": 1.0 if value == "UP" else 0.0,
        }
        | kw,
    )


def storm_over(service: Service) -> StormEvent:
    for target in Target.objects.filter(domain__service=service, role="primary"):
        verdict(target, "DOWN", availability=0.0)
    storm = factories.storm(service=service)
    # Three bad samples from one vantage point since it began make it a hard storm.
    target = Target.objects.filter(domain__service=service, role="primary").first()
    assert target
    moments = [storm.started_at + timedelta(seconds=n) for n in range(3)]
    record([target], [VantagePoint(pk=1)], moments, "http_5xx")
    return storm


def tick(service: Service | None = None) -> None:
    now = datetime.now(UTC)
    steering.steer(now, [service.pk] if service else None)
    outbox.submit(datetime.now(UTC))
    deadline = time.monotonic() + 2
    while reconcile.is_any_on_its_way() and time.monotonic() < deadline:
        reconcile.observe(datetime.now(UTC))


def write_again(record_set: RecordSet, change: WeightChange) -> None:
    """As a worker does that slept on it."""
    targets = {str(target.pk): target for target in record_set.domain.targets.all()}
    stale = vendors.weighted_set(record_set, change.weights, change.generation, targets)
    vendors.provider_of(record_set.account).apply([stale])


def newest(service: Service) -> WeightChange:
    change = WeightChange.objects.filter(service=service).order_by("-id").first()
    assert change
    return change


def split(change: WeightChange) -> dict[str, int]:
    return {planning.lane_of(t): change.weights[str(t.pk)] for t in change.record_set.domain.targets.all()}


def written() -> list[tuple[str, int | None]]:
    """The weighted records as they stand."""
    records = EmbeddedRecord.objects.filter(owner__startswith="tranche:").order_by("owner", "name")
    return [(record.owner, record.weight) for record in records]


def answers(dns_port: int, hostname: str, count: int = 20) -> Counter[str]:
    seen = lookup.ask_all([(("127.0.0.1", dns_port), hostname, "CNAME")] * count)
    return Counter(record.value for answer in seen for record in answer.records)


def test_a_storm_moves_the_answers_and_its_end_brings_them_home(dns: EmbeddedDns, dns_port: int) -> None:
    service = steered_service()
    hostname = f"www0.{service.pk}.{ZONE}"
    tick()
    assert (newest(service).generation, newest(service).state) == (1, State.OBSERVED)
    assert answers(dns_port, hostname) == {"primary0.cdn.test": 20}

    storm = storm_over(service)
    tick(service)
    away = newest(service)
    assert (split(away), away.state, away.storm_id) == ({"primary": 0, "backup-1": 100}, State.OBSERVED, storm.pk)
    assert answers(dns_port, hostname) == {"backup0.cdn.test": 20}
    assert away.observed_at and away.submitted_at and away.wanted_at <= away.submitted_at <= away.observed_at

    verdict(Target.objects.get(domain__service=service, role="primary"), "UP")
    now = timezone.now()
    StormEvent.objects.update(ended_at=now, closed_at=now)
    WeightChange.objects.update(observed_at=now - timedelta(seconds=10))
    tick(service)
    assert split(newest(service)) == {"primary": 50, "backup-1": 50}
    WeightChange.objects.update(observed_at=now - timedelta(seconds=10))
    tick(service)
    assert split(newest(service)) == {"primary": 100, "backup-1": 0}
    assert answers(dns_port, hostname) == {"primary0.cdn.test": 20}
    kinds = Event.objects.filter(customer=service.customer).values_list("kind", flat=True)
    assert Counter(kinds)["weights.observed"] == 4


def test_calm_ticks_write_nothing(dns: EmbeddedDns) -> None:
    service = steered_service()
    for _ in range(4):
        tick()
    assert WeightChange.objects.filter(service=service).count() == 1


def test_a_service_moves_with_all_its_domains_or_not_at_all(dns: EmbeddedDns) -> None:
    service = steered_service(domains=3)
    tick()
    storm_over(service)
    verdict(Target.objects.filter(domain__service=service, role="backup")[1], "DOWN")
    tick()
    assert set(RecordSet.objects.values_list("generation", flat=True)) == {1}  # one unfit backup keeps all at home
    verdict(Target.objects.filter(domain__service=service, role="backup")[1], "UP")
    tick()
    assert set(RecordSet.objects.values_list("generation", flat=True)) == {2}
    moved = [split(change) for change in WeightChange.objects.filter(generation=2)]
    assert moved == [{"primary": 0, "backup-1": 100}] * 3


@pytest.mark.parametrize(
    "spoil",
    [
        {"value": "UNKNOWN"},
        {"value": "DEGRADED"},
        {"value": "UP", "evaluated_at": timezone.now() - timedelta(minutes=5)},
        {"value": "UP", "newest_good_at": timezone.now() - timedelta(minutes=5)},
        {"value": "UP", "certificate_expires_at": timezone.now() - timedelta(minutes=5)},
    ],
)
def test_nothing_moves_onto_a_backup_that_is_not_proven(dns: EmbeddedDns, spoil: dict[str, Any]) -> None:
    service = steered_service()
    tick()
    storm_over(service)
    verdict(Target.objects.get(domain__service=service, role="backup"), **spoil)
    tick()
    assert RecordSet.objects.get().generation == 1


def test_a_storm_that_only_watches_moves_nothing(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    storm_over(service)
    StormEvent.objects.update(is_armed=False)
    tick()
    assert RecordSet.objects.get().generation == 1


def test_a_domain_that_lost_its_proof_is_held(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    service.domains.update(verified_at=None)
    storm_over(service)
    tick()
    assert newest(service).state == State.HELD
    assert newest(service).held_reason.startswith("unproven_domain")


def test_nobodys_word_replaces_a_proof(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    service.domains.update(verified_at=None)
    storm_over(service)
    tick()
    before = written()
    steering.approve(newest(service), User.objects.create_user("op"))
    tick()
    assert newest(service).state == State.HELD
    assert written() == before


@pytest.mark.parametrize("trouble", ["lost", "contested", "missing since yesterday"])
def test_a_proof_in_trouble_freezes_what_is_new_and_withdraws_nothing(dns: EmbeddedDns, trouble: str) -> None:
    service = steered_service()
    tick()
    before = written()
    if trouble == "contested":
        factories.domain(hostname=service.domains.get().hostname, verified=False, contested_since=datetime.now(UTC))
    else:
        service.domains.update(lost_since=datetime.now(UTC) - timedelta(days=3 if trouble == "lost" else 1))
    storm_over(service)
    tick()
    moves = trouble == "missing since yesterday"
    assert (newest(service).state == State.HELD) is not moves
    assert (written() == before) is not moves
    service.domains.update(lost_since=None)
    ServiceDomain.objects.filter(verified_at__isnull=True).update(contested_since=None)
    tick()
    assert written() != before, "the plan goes by itself once the proof is whole"


def test_a_mass_move_is_held_until_a_person_agrees(dns: EmbeddedDns, settings: Any) -> None:
    settings.BLAST_RADIUS_FLOOR = 1
    settings.BLAST_RADIUS_SHARE = 0.0
    first, second = steered_service(), steered_service()
    tick()
    storm_over(first), storm_over(second)
    tick()
    assert [newest(s).state for s in (first, second)] == [State.OBSERVED, State.HELD]
    held = newest(second)
    assert "blast_radius" in held.held_reason
    tick()
    assert WeightChange.objects.filter(service=second).count() == 2  # held, not made anew with every tick

    steering.approve(held, User.objects.create_user("op"))
    tick()
    held.refresh_from_db()
    assert (held.state, held.approved_by and held.approved_by.username) == (State.OBSERVED, "op")


def test_a_held_plan_that_nobody_wants_any_more_is_overtaken(dns: EmbeddedDns, settings: Any) -> None:
    settings.BLAST_RADIUS_FLOOR = 0
    settings.BLAST_RADIUS_SHARE = 0.0
    service = steered_service()
    tick()
    storm_over(service)
    tick()
    assert newest(service).state == State.HELD
    now = timezone.now()
    StormEvent.objects.update(ended_at=now, closed_at=now)
    verdict(Target.objects.get(domain__service=service, role="primary"), "UP")
    tick()
    assert newest(service).state == State.SUPERSEDED


@pytest.mark.parametrize("scope", ["service", "customer", "everything"])
def test_a_freeze_stops_everything_and_lifting_it_goes_on(dns: EmbeddedDns, scope: str) -> None:
    service = steered_service()
    tick()
    freeze = Freeze.objects.create(
        reason="deploy",
        service=service if scope == "service" else None,
        customer=service.customer if scope == "customer" else None,
    )
    storm_over(service)
    tick()
    assert RecordSet.objects.get().generation == 1
    freeze.lifted_at = timezone.now()
    freeze.save()
    tick()
    assert RecordSet.objects.get().generation == 2


def test_a_pin_holds_until_it_expires(dns: EmbeddedDns, dns_port: int) -> None:
    service = steered_service()
    tick()
    pin = Pin.objects.create(
        customer=service.customer,
        service=service,
        backup_percent=100,
        reason="try it",
        expires_at=timezone.now() + timedelta(hours=1),
    )
    tick()
    assert split(newest(service)) == {"primary": 0, "backup-1": 100}
    Pin.objects.filter(pk=pin.pk).update(expires_at=timezone.now())
    WeightChange.objects.update(observed_at=timezone.now() - timedelta(seconds=10))
    tick()
    assert split(newest(service)) == {"primary": 50, "backup-1": 50}


# --- killed, overtaken, refused -------------------------------------------------------------------------------------


def kill_at(point: str) -> None:
    def die() -> None:
        faults.disarm()
        raise Killed

    faults.arm(point, die)


@pytest.mark.parametrize("point", ["dns.wanted", "dns.submitting", "dns.submitted"])
def test_killed_at_every_boundary_it_ends_in_one_change_that_is_observed(
    dns: EmbeddedDns, dns_port: int, point: str
) -> None:
    service = steered_service()
    tick()
    storm_over(service)
    kill_at(point)
    with pytest.raises(Killed):
        tick()
    WeightChange.objects.filter(state=State.SUBMITTED).update(next_attempt_at=timezone.now())  # its lease is over
    tick()
    assert WeightChange.objects.filter(service=service, generation__gt=1).count() == 1
    assert (newest(service).state, newest(service).generation) == (State.OBSERVED, 2)
    assert answers(dns_port, f"www0.{service.pk}.{ZONE}") == {"backup0.cdn.test": 20}


def test_an_older_generation_can_not_act(dns: EmbeddedDns, dns_port: int) -> None:
    service = steered_service()
    tick()
    storm_over(service)
    steering.steer(timezone.now())
    old = newest(service)
    RecordSet.objects.update(generation=old.generation + 1)
    assert outbox.submit(timezone.now()) == []
    old.refresh_from_db()
    assert old.state == State.SUPERSEDED
    assert answers(dns_port, f"www0.{service.pk}.{ZONE}") == {"primary0.cdn.test": 20}


def test_a_zombie_that_wrote_an_old_plan_last_is_found_and_repaired(dns: EmbeddedDns, dns_port: int) -> None:
    """The stale write lands after the new one; the beacon tells, and the newest plan is written again."""
    service = steered_service()
    tick()
    stale = newest(service)
    storm_over(service)
    steering.steer(timezone.now())
    outbox.submit(timezone.now())
    record_set = RecordSet.objects.select_related("account", "domain").get()
    write_again(record_set, stale)

    reconcile.observe(timezone.now())
    assert newest(service).state == State.CONFIRMED
    assert "rev=1" in RecordSet.objects.get().observation
    later = timezone.now() + outbox.READ_BACK
    reconcile.observe(later)
    outbox.submit(later)
    reconcile.observe(later)
    assert newest(service).state == State.OBSERVED
    assert answers(dns_port, f"www0.{service.pk}.{ZONE}") == {"backup0.cdn.test": 20}


def test_two_workers_write_each_change_once(dns: EmbeddedDns, monkeypatch: pytest.MonkeyPatch) -> None:
    services = [steered_service() for _ in range(6)]
    steering.steer(timezone.now())
    written: list[str] = []
    apply = EmbeddedProvider.apply

    def counted(self: EmbeddedProvider, wanted: Sequence[WeightedSet]) -> Receipt:
        written.extend(one.hostname for one in wanted)
        return apply(self, wanted)

    monkeypatch.setattr(EmbeddedProvider, "apply", counted)
    run_together(*[lambda: outbox.submit(timezone.now())] * 3)
    assert sorted(written) == sorted(f"www0.{s.pk}.{ZONE}" for s in services)


def test_two_planners_want_a_change_once(dns: EmbeddedDns) -> None:
    service = steered_service(domains=2)
    tick()
    storm_over(service)
    run_together(*[lambda: steering.steer(timezone.now())] * 4)
    assert sorted(WeightChange.objects.filter(generation__gt=1).values_list("generation", flat=True)) == [2, 2]


class Refusing(Provider):
    """A vendor that says no, for good or for now."""

    permanent = True
    calls = 0

    def find_zone(self, hostname: str) -> Zone:
        return Zone(ZONE)

    def read(self, zone: Zone, hostnames: Collection[str]) -> dict[str, Standing]:
        return {hostname: Standing(hostname) for hostname in hostnames}

    def adopt(self, wanted: WeightedSet) -> Receipt:
        raise ProviderError("access denied", permanent=True)

    def release(self, wanted: WeightedSet, target: str) -> Receipt:
        raise ProviderError("access denied", permanent=True)

    def apply(self, wanted: Sequence[WeightedSet]) -> Receipt:
        type(self).calls += 1
        raise ProviderError("access denied", permanent=self.permanent)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Refusing]]:
    monkeypatch.setattr(vendors, "provider_class", lambda vendor: Refusing)
    Refusing.permanent, Refusing.calls = True, 0
    yield Refusing


def test_a_vendor_that_refuses_for_good_is_said_and_not_asked_again_at_once(refusing: type[Refusing]) -> None:
    service = steered_service()
    storm_over(service)
    for _ in range(3):
        steering.steer(timezone.now())
        outbox.submit(timezone.now())
    assert refusing.calls == 1
    assert (newest(service).state, newest(service).error) == (State.FAILED, "access denied")
    assert Event.objects.filter(kind="weights.failed", customer=service.customer).exists()


def test_a_vendor_that_refuses_for_now_is_asked_again_later(refusing: type[Refusing]) -> None:
    refusing.permanent = False
    service = steered_service()
    now = timezone.now()
    steering.steer(now)
    outbox.submit(now)
    outbox.submit(now)
    assert (refusing.calls, newest(service).state) == (1, State.WANTED)
    outbox.submit(timezone.now() + timedelta(seconds=3))
    assert refusing.calls == 2


def test_one_service_that_fails_does_not_stop_the_others(dns: EmbeddedDns) -> None:
    bad, good = steered_service(), steered_service()
    EmbeddedRecord.objects.create(zone=ZONE, name=f"www0.{bad.pk}.{ZONE}", type="TXT", value="a person's")
    tick()
    assert newest(bad).state == State.FAILED
    assert "not ours" in newest(bad).error
    assert newest(good).state == State.OBSERVED


def test_the_log_provider_is_never_asked_in_dns() -> None:
    service = steered_service(vendor="log")
    tick()
    assert newest(service).state == State.OBSERVED
    assert RecordSet.objects.get().observation == "not asked: this provider only logs"


def test_drift_is_noticed_by_the_slow_sweep(dns: EmbeddedDns, dns_port: int) -> None:
    service = steered_service()
    tick()
    EmbeddedRecord.objects.filter(owner="tranche:primary").update(weight=50)
    EmbeddedRecord.objects.filter(owner="tranche:backup-1").update(weight=50)
    deadline = timezone.now() + timedelta(seconds=5)
    while answers(dns_port, f"www0.{service.pk}.{ZONE}") == {"primary0.cdn.test": 20} and timezone.now() < deadline:
        pass
    reconcile.sweep(timezone.now(), everything=True)
    assert "backup-1 is backup0.cdn.test at 50 %, and 0 % was written" in RecordSet.objects.get().observation
    assert Event.objects.filter(kind="weights.drifted").count() == 1


# --- the command ----------------------------------------------------------------------------------------------------


def steer_command(*arguments: str) -> str:
    out = StringIO()
    call_command("steer", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_prints_the_plan_and_acts_only_when_told() -> None:
    service = steered_service(vendor="log")
    tick()
    storm_over(service)
    said = steer_command("--service", str(service.pk))
    assert "primary: 100 % → 0 %" in said and "nothing was written" in said
    assert RecordSet.objects.get().generation == 1
    assert "1 changes wanted, 1 written" in steer_command("--apply")
    assert split(newest(service)) == {"primary": 0, "backup-1": 100}


def test_the_command_prints_refusals() -> None:
    service = steered_service(vendor="log")
    tick()
    service.domains.update(verified_at=None)
    storm_over(service)
    assert "held: unproven_domain" in steer_command()


def test_the_command_knows_its_services() -> None:
    assert "no service is steered" in steer_command()
    with pytest.raises(CommandError, match="no such service"):
        steer_command("--service", "99")


# --- found by reading: each of these once went wrong ----------------------------------------------------------------


def test_a_domain_whose_write_failed_is_tried_again_alone(dns: EmbeddedDns) -> None:
    service = steered_service(domains=2)
    tick()
    in_the_way = EmbeddedRecord.objects.create(
        zone=ZONE, name=f"www1.{service.pk}.{ZONE}", type="TXT", value="a person's"
    )
    storm_over(service)
    tick()
    assert sorted(WeightChange.objects.filter(generation=2).values_list("state", flat=True)) == ["failed", "observed"]
    in_the_way.delete()
    tick()
    assert WeightChange.objects.filter(generation=3).count() == 0  # not asked again at once
    WeightChange.objects.filter(state=State.FAILED).update(next_attempt_at=timezone.now())
    tick()
    again = WeightChange.objects.get(generation=3)
    assert (again.state, split(again)) == (State.OBSERVED, {"primary": 0, "backup-1": 100})
    assert sorted(RecordSet.objects.values_list("generation", flat=True)) == [2, 3]


def test_a_change_that_dns_never_shows_is_written_ever_more_seldom() -> None:
    service = steered_service()  # no server answers
    account = service.domains.get().record_set.account
    EmbeddedRecord.objects.create(
        zone=ZONE, name=ZONE, type="SOA", value=f"ns1.{ZONE}. root.{ZONE}. 1 3600 600 86400 5"
    )
    assert account.vendor == "embedded"
    now = timezone.now()
    steering.steer(now)
    waits = []
    for _ in range(4):
        outbox.submit(now)
        change = newest(service)
        assert change.confirmed_at
        waits.append(round((change.next_attempt_at - change.confirmed_at).total_seconds()))
        now = change.next_attempt_at
        reconcile.observe(now)
    assert waits == [10, 20, 40, 80]


def test_a_stale_write_over_an_observed_one_is_repaired_by_the_sweep(dns: EmbeddedDns, dns_port: int) -> None:
    service = steered_service()
    tick()
    stale = newest(service)
    storm_over(service)
    tick()
    assert newest(service).state == State.OBSERVED
    record_set = RecordSet.objects.select_related("account", "domain").get()
    write_again(record_set, stale)
    hostname = f"www0.{service.pk}.{ZONE}"
    deadline = time.monotonic() + 3
    while answers(dns_port, hostname, 5) != {"primary0.cdn.test": 5} and time.monotonic() < deadline:
        pass
    reconcile.sweep(timezone.now(), everything=True)
    tick()
    assert answers(dns_port, hostname) == {"backup0.cdn.test": 20}
    assert Event.objects.filter(kind="weights.reasserted").count() == 1


def test_a_freeze_also_stops_what_was_planned_already(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    storm_over(service)
    steering.steer(timezone.now())
    freeze = Freeze.objects.create(reason="stop", service=None)
    assert outbox.submit(timezone.now()) == []
    freeze.lifted_at = timezone.now()
    freeze.save()
    assert len(outbox.submit(timezone.now() + timedelta(seconds=2))) == 1


def test_no_failback_on_an_old_verdict(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    storm_over(service)
    tick()
    now = timezone.now()
    StormEvent.objects.update(ended_at=now, closed_at=now)
    WeightChange.objects.update(observed_at=now - timedelta(hours=3))
    primary = Target.objects.get(domain__service=service, role="primary")
    verdict(primary, "UP", evaluated_at=now - timedelta(hours=2))
    tick()
    assert RecordSet.objects.get().generation == 2
    verdict(primary, "UP")
    tick()
    assert RecordSet.objects.get().generation == 3


def test_a_raging_storm_counts_beside_one_that_is_over(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    storm = storm_over(service)
    earlier = storm.started_at - timedelta(hours=1)
    factories.storm(service=service, kind="tls", started_at=earlier, ended_at=earlier + timedelta(minutes=5))
    tick()
    assert split(newest(service)) == {"primary": 0, "backup-1": 100}


def test_a_failing_reference_site_lifts_the_blast_radius(dns: EmbeddedDns, settings: Any) -> None:
    settings.BLAST_RADIUS_FLOOR = 1
    settings.BLAST_RADIUS_SHARE = 0.0
    first, second = steered_service(), steered_service()
    tick()
    storm_over(first)
    tick()
    WeightChange.objects.filter(generation=2).update(
        wanted_at=timezone.now() - timedelta(seconds=60)
    )  # an earlier wave
    storm_over(second)
    cdn = Target.objects.get(domain__service=second, role="primary").cdn
    reference = factories.target("reference", cdn=cdn)
    verdict(reference, "UP")
    tick()
    assert newest(second).state == State.HELD
    verdict(reference, "DOWN")
    tick()
    assert newest(second).state == State.OBSERVED


def test_paths_that_were_replaced_at_the_same_addresses_are_recognized(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    domain = service.domains.get()
    old = {target.role: target for target in domain.targets.all()}
    domain.targets.update(enabled=False)
    for role, other in (("primary", "backup"), ("backup", "primary")):
        verdict(factories.target(role, domain=domain, address=old[other].address), "UP")
    tick()
    assert (newest(service).generation, newest(service).state) == (2, State.OBSERVED)


def test_a_tick_asks_the_same_number_of_questions_for_many_services(dns: EmbeddedDns) -> None:
    def questions() -> int:
        with CaptureQueriesContext(connection) as captured:
            steering.steer(timezone.now())
        return len(captured)

    steered_service()
    tick()
    one = questions()
    for _ in range(5):
        steered_service()
    tick()
    assert questions() == one


# --- refused probes, and storms by hand -------------------------------------------------------------------------------


def test_probes_that_a_cdn_refuses_everybody_wait_for_a_person(dns: EmbeddedDns) -> None:
    cdn = factories.cdn()
    services = [steered_service() for _ in range(3)]
    for service in services:
        Target.objects.filter(domain__service=service, role="primary").update(cdn=cdn)
    tick()
    for service in services[:2]:
        factories.finding(service=service, kind="blocked", target=_primary(service))
    incidents.tend(timezone.now())
    tick()
    assert not WeightChange.objects.filter(state=State.HELD).exists(), "two customers may have the same rule by chance"

    factories.finding(service=services[2], kind="blocked", target=_primary(services[2]))
    incidents.tend(timezone.now())
    (incident,) = CdnIncident.objects.all()
    assert (incident.kind, incident.state, incident.services_hit) == ("blocked", "confirmed", 3)
    assert Event.objects.filter(kind="incident.opened").count() == 1
    tick()
    held = [newest(service) for service in services]
    assert {(change.state, split(change)["backup-1"]) for change in held} == {(State.HELD, 100)}
    assert "refuses probes of several customers" in held[0].held_reason
    assert {weight for owner, weight in written() if owner == "tranche:backup-1"} == {0}

    steering.approve(held[0], User.objects.create_user("op"))
    tick()
    assert newest(services[0]).state == State.OBSERVED and split(newest(services[0]))["primary"] == 0
    tick()
    assert split(newest(services[0]))["primary"] == 0, "it stays away while the CDN refuses"


def _primary(service: Service) -> Target:
    return Target.objects.get(domain__service=service, role="primary")


def test_a_storm_declared_by_hand_moves_traffic_and_its_end_brings_it_home(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    storm = operators.declare(service, "the CDN called", "kim", timezone.now())
    tick()
    assert split(newest(service)) == {"primary": 0, "backup-1": 100}
    assert newest(service).storm == storm
    operators.finish(storm, "they called again", "kim", timezone.now())
    for _ in range(3):
        time.sleep(2.1)
        tick()
    assert split(newest(service)) == {"primary": 100, "backup-1": 0}


def test_a_plan_that_was_never_sent_is_dropped_with_its_storm(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    storm_over(service)
    steering.steer(timezone.now())
    freeze = Freeze.objects.create(reason="a freeze that outlasts the storm")
    tick()
    now = timezone.now()
    StormEvent.objects.update(ended_at=now, closed_at=now)
    verdict(Target.objects.get(domain__service=service, role="primary"), "UP")
    freeze.lifted_at = now
    freeze.save()
    weights_written = []
    for _ in range(3):
        tick()
        weights_written.append(dict(written())["tranche:backup-1"])
    assert (weights_written, split(newest(service))) == ([0, 0, 0], {"primary": 100, "backup-1": 0})


def test_a_replaced_backup_gets_no_share_before_it_is_proven(dns: EmbeddedDns, dns_port: int) -> None:
    service = steered_service()
    tick()
    storm_over(service)
    tick()
    domain = service.domains.get()
    domain.targets.filter(role="backup").update(enabled=False)
    other = factories.target("backup", domain=domain, address="other.cdn.test")
    tick()
    assert (newest(service).state, newest(service).refusal) == (State.HELD, "unproven_path")
    assert answers(dns_port, domain.hostname) == {"backup0.cdn.test": 20}
    verdict(other, "UP")
    tick()
    assert newest(service).state == State.OBSERVED
    assert answers(dns_port, domain.hostname) == {"other.cdn.test": 20}


def test_a_write_that_was_overtaken_on_its_way_is_not_forgotten(dns: EmbeddedDns, dns_port: int) -> None:
    """It landed, what overtook it was held and dropped: what stands there is known to nobody, and is written anew."""
    service = steered_service()
    tick()
    storm_over(service)
    kill_at("dns.submitted")
    with pytest.raises(Killed):
        tick()
    lost = newest(service)
    WeightChange.objects.filter(pk=lost.pk).update(state=State.SUPERSEDED)
    now = timezone.now()
    StormEvent.objects.update(ended_at=now, closed_at=now)
    verdict(Target.objects.get(domain__service=service, role="primary"), "UP")
    for _ in range(4):
        tick()
        WeightChange.objects.update(observed_at=timezone.now() - timedelta(seconds=10))
    assert split(newest(service)) == {"primary": 100, "backup-1": 0}
    assert answers(dns_port, service.domains.get().hostname) == {"primary0.cdn.test": 20}


def test_what_was_never_written_does_not_keep_others_from_being_looked_at(dns: EmbeddedDns, monkeypatch: Any) -> None:
    monkeypatch.setattr(reconcile, "LOOKS_AT_ONCE", 2)
    unarmed = [steered_service() for _ in range(3)]
    RecordSet.objects.update(armed_at=None, unarmed_reason="not yet", next_look_at=timezone.now() - timedelta(hours=1))
    service = steered_service()
    for _ in range(2):
        tick()
    assert len(unarmed) == RecordSet.objects.filter(observed_at__isnull=True).count()
    EmbeddedRecord.objects.filter(owner="tranche:backup-1").update(weight=50)
    RecordSet.objects.filter(domain__service=service).update(next_look_at=timezone.now())
    for _ in range(3):
        reconcile.sweep(timezone.now())
    assert Event.objects.filter(kind="weights.drifted").count() == 1


def test_a_database_that_was_restored_plans_above_what_stands(dns: EmbeddedDns) -> None:
    service = steered_service()
    tick()
    EmbeddedRecord.objects.filter(name__startswith="_tranche.").update(value="rev=40")
    WeightChange.objects.update(state=State.UNKNOWN, next_attempt_at=timezone.now())
    for _ in range(3):
        tick()
    assert (newest(service).state, newest(service).generation) == (State.OBSERVED, 41)


def test_an_account_that_nobody_thought_of_stops_no_other(dns: EmbeddedDns, monkeypatch: pytest.MonkeyPatch) -> None:
    odd, good = steered_service(), steered_service()
    apply = EmbeddedProvider.apply

    def broken(self: EmbeddedProvider, wanted: Sequence[WeightedSet]) -> Receipt:
        if wanted[0].hostname == odd.domains.get().hostname:
            raise TypeError("unhashable")
        return apply(self, wanted)

    monkeypatch.setattr(EmbeddedProvider, "apply", broken)
    tick()
    assert newest(good).state == State.OBSERVED
