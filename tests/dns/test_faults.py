"""Workers that die, lose the database, or sleep, at every side-effect boundary; and vendors of whom nobody learns what they
did. Real processes, real servers. However it goes: the newest plan stands, once, and no older one stays.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dns import locks, observation, outbox, reconcile, steering
from dns.models import DnsAccount, Pin, WeightChange, WriteAttempt
from dns.providers.route53 import clients
from services.models import Service
from tests import forked
from tests.dns import rails
from tests.dns.rails import Rail
from tests.servers import PowerDns, powerdns_fixture
from tranche_site.floor import faults

pytestmark = pytest.mark.django_db(transaction=True)

__all__ = ["powerdns_fixture"]

State = WeightChange.State
HOME, AWAY = {"primary": 100, "backup-1": 0}, {"primary": 0, "backup-1": 100}

POINTS = [
    "dns.wanted", "dns.stored",  # before and after a plan is kept
    "dns.claiming", "dns.submitting",  # before and after a change is taken
    "dns.sending", "dns.submitted",  # before and after the vendor is called
    "dns.refused", "dns.confirmed",  # after its answer, and after that is kept
    "dns.polling", "dns.polled",  # before and after the vendor says that it is live
    "dns.read_back",  # after it was asked what it has
    "dns.looking", "dns.looked", "dns.observed",  # before and after DNS is asked, and after that is kept
]  # fmt: skip
FAULTS = {"kill": forked.die, "cut": forked.lose_the_database, "stop": forked.sleep_on}
STORIES = ["away", "home", "overtaken", "unknown"]
ALL = os.environ.get("FAULT_CASES") == "all"
"""All are 150 cases at Route 53 and 126 at PowerDNS; else each pair of point and fault is tried in one story, on one rail."""


@pytest.fixture(params=["route53", "powerdns"])
def rail(request: pytest.FixtureRequest, settings: Any, powerdns: PowerDns) -> Iterator[Rail]:
    settings.FAILBACK_GATE_SECONDS = 0
    settings.FAILBACK_STEPS_PERCENT = [100]
    settings.BLAST_RADIUS_FLOOR = 100_000
    with rails.amazon() if request.param == "route53" else rails.power(powerdns) as rail:
        rails.led_to(settings, rail)
        try:
            yield rail
        finally:
            forked.end_all()
    faults.disarm()


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "SAMPLES", 5)


class Case:
    """One service whose weights are to be moved, by a worker with something wrong."""

    def __init__(self, rail: Rail, service: Service) -> None:
        self.rail, self.service = rail, service
        self.hostname = service.domains.get().hostname
        self.start = datetime.now(UTC)
        self.primary, self.backup = "UP", "UP"
        self.generations = 1
        self.wanted = HOME

    def work(self, now: datetime) -> None:
        """What the task does."""
        steering.steer(now, [self.service.pk])
        outbox.submit(now)
        outbox.poll(now + timedelta(seconds=6))
        reconcile.observe(now)

    def tick(self, seconds: float) -> None:
        """The workers that are well, so long after the beginning."""
        now = self.start + timedelta(seconds=seconds)
        rails.see(self.service, now, self.primary, self.backup)
        self.work(now)
        reconcile.sweep(now)

    def settle(self) -> None:
        # The later ones are for a machine so slow that the first calls take seconds; vendors are asked again by the real clock.
        for seconds in (0, 1, 2, 5, 10, 20, 40):
            self.tick(seconds)
            if self.newest().state == State.OBSERVED:
                break
        assert self.newest().state == State.OBSERVED, (self.newest().error, self.newest().record_set.observation)

    def newest(self) -> WeightChange:
        change = WeightChange.objects.filter(service=self.service).order_by("-generation").first()
        assert change
        return change

    def prepare(self, story: str) -> None:
        """Up to the moment before the move."""
        self.settle()
        if story == "home":
            self.go_away()
            self.tick(3)
            self.tick(4)
            assert rails.by_lane(self.newest().weights, self.service) == AWAY
            rails.calm(self.service)
            self.primary, self.generations, self.wanted = "UP", 3, HOME
            at = datetime.now(UTC) - timedelta(seconds=30)
            WeightChange.objects.filter(service=self.service).update(observed_at=at, wanted_at=at)
        else:
            self.go_away()
        self.start = datetime.now(UTC)
        rails.see(self.service, self.start, self.primary, self.backup)

    def go_away(self) -> None:
        rails.storm_over(self.service)
        self.primary, self.generations, self.wanted = "DOWN", 2, AWAY

    def overtake(self) -> None:
        """A person pins everything to the primary, whatever the storm."""
        expires = datetime.now(UTC) + timedelta(hours=1)
        Pin.objects.create(
            customer=self.service.customer, service=self.service, backup_percent=0, reason="a person knows better",
            expires_at=expires,
        )  # fmt: skip
        self.wanted = HOME

    def check(self, what: str) -> None:
        newest = self.newest()
        told = f"{what}: {newest.state} {newest.weights} {newest.error} {newest.record_set.observation}"
        assert newest.state == State.OBSERVED, told
        assert rails.by_lane(newest.weights, self.service) == self.wanted, told
        lane = "primary" if self.wanted is HOME else "backup"
        seen = rails.answers(self.rail, self.hostname)
        assert list(seen) == [t.address for t in self.service.domains.get().targets.filter(role=lane)], told
        live = WeightChange.objects.filter(service=self.service, state__in=WeightChange.LIVE)
        assert not live.exists(), told
        rows = WeightChange.objects.filter(service=self.service).order_by("generation")
        told += "".join(f"\n{r.generation} {r.state} {r.weights} {r.reason} {r.held_reason}" for r in rows)
        made = sorted(WeightChange.objects.filter(service=self.service).values_list("generation", flat=True))
        # One logical change, however often it was written; where a person overtook it, theirs comes after it or instead.
        assert made in (list(range(1, self.generations + 1)), list(range(1, self.generations + 2))[: len(made)]), told
        assert len(made) <= self.generations + (self.wanted is HOME and self.generations == 2), told


@pytest.mark.parametrize("story", STORIES)
def test_whatever_happens_to_a_worker_the_newest_plan_stands(rail: Rail, story: str) -> None:
    account = rail.account()
    cases: Counter[str] = Counter()
    for point, fault in cases_of(rail, story):
        service = rails.service_on(rail, account)
        DnsAccount.objects.update(writing_until=None)  # of a case that is an hour ago, by its own clock
        case = Case(rail, service)
        case.prepare(story)
        run_with(case, story, point, fault)
        cases[fault] += 1
        rails.calm(service)
        service.domains.update(deleted_at=datetime.now(UTC))
    print(f"{rail.name} {story}: {dict(cases)} cases, 0 lost, 0 twice, 0 stale")
    assert cases


def cases_of(rail: Rail, story: str) -> list[tuple[str, str]]:
    """Points that the story's worker comes to, each with every fault; or those of them that are this story's turn."""
    skipped = set() if story == "unknown" else {"dns.refused", "dns.read_back"}  # only lost calls are read back
    skipped |= {"dns.polling", "dns.polled"} if rail.name == "powerdns" else set()  # it copies to nobody
    cases = []
    for number, (point, fault) in enumerate((point, fault) for point in POINTS for fault in FAULTS):
        turn = STORIES[(number + 2 * (rail.name == "powerdns")) % len(STORIES)]
        if point in ("dns.refused", "dns.read_back"):
            turn = "unknown"
        if point not in skipped and (ALL or story == turn):
            cases.append((point, fault))
    return cases


def run_with(case: Case, story: str, point: str, fault: str) -> None:
    what = f"{case.rail.name} {story} {point} {fault}"
    faults.arm(point, lambda: (faults.disarm(), FAULTS[fault]()))
    if story == "unknown":
        case.rail.fail_write("reset_before")
    child = forked.Child(lambda: as_a_worker(case, case.start, case.start + timedelta(seconds=3)))
    faults.disarm()
    end = child.wait()
    assert end == {"kill": "killed", "cut": "failed", "stop": "stopped"}[fault], what
    case.rail.recover()
    if end == "stopped" and point in ("dns.wanted", "dns.claiming"):
        time.sleep(IDLE_MS / 1000 + 0.1)  # it holds locks, until Postgres ends its session
    case.tick(0.5)
    if story == "overtaken":
        case.overtake()
    for seconds in (1, 21, 26, 31):
        case.tick(seconds)
    case.check(f"{what}, before it goes on")
    if end == "stopped":
        assert child.go_on() in ("done", "failed")
        for seconds in (42, 52, 62, 72):  # within 60 s of its going on
            case.tick(seconds)
        case.check(f"{what}, after it went on")


IDLE_MS = 1_500


def as_a_worker(case: Case, *times: datetime) -> None:
    """In a child: the parent's connections are not its own, and its locks end soon after it stops."""
    clients._held.clear()
    locks.IDLE_MS = IDLE_MS
    for now in times:
        case.work(now)
    for seconds in (10, 20, 40):  # on a machine so slow that it has not come to the place yet
        if not faults.is_armed():
            break
        case.work(times[-1] + timedelta(seconds=seconds))


# --- unknown outcomes ------------------------------------------------------------------------------------------------

RUNS = int(os.environ.get("UNKNOWN_RUNS", "1"))
"""For each of eight kinds on each of two rails; 75 make the 1,200 of the table."""


def test_of_no_write_is_it_unknown_for_long_whether_it_was_made(rail: Rail) -> None:
    account = rail.account()
    states: Counter[str] = Counter()
    for kind in rail.unknown_kinds:
        for run in range(RUNS):
            service = rails.service_on(rail, account)
            case = Case(rail, service)
            case.settle()
            case.go_away()
            case.start = datetime.now(UTC)
            rails.see(service, case.start, "DOWN", "UP")
            rail.fail_write(kind)
            case.work(case.start)
            states[case.newest().state] += 1
            for seconds in (1, 3, 6, 12, 20, 30, 45, 60):
                if case.newest().state == State.OBSERVED:
                    break
                case.tick(seconds)
            case.check(f"{rail.name} {kind} {run}")
            rails.calm(service)
            service.domains.update(deleted_at=datetime.now(UTC))
    attempts = WriteAttempt.objects.filter(outcome="unknown").count()
    print(
        f"{rail.name}: {len(rail.unknown_kinds) * RUNS} runs, {attempts} of unknown outcome, 0 lost, 0 twice; {dict(states)}"
    )
    assert attempts >= 0.6 * len(rail.unknown_kinds) * RUNS


def test_a_worker_that_slept_between_lock_and_call_sends_nothing(rail: Rail, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(rail, rails.service_on(rail, rail.account()))
    case.settle()
    monkeypatch.setattr(outbox, "SEND_WITHIN_SECONDS", 0.05)
    case.go_away()
    rails.see(case.service, case.start, "DOWN", "UP")
    faults.arm("dns.submitting", lambda: (faults.disarm(), forked.sleep_on()))
    child = forked.Child(lambda: as_a_worker(case, case.start))
    assert child.wait() == "stopped"
    before = rail.writes()
    time.sleep(0.1)
    child.go_on()
    assert rail.writes() == before
