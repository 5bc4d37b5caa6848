"""The watch on a real Postgres: samples in, storms, verdicts and findings out, at a fixed `now`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from customers.models import Event
from services import samples
from services.models import ServiceDomain, Target, VantagePoint
from services.outcomes import BAD, SET_ASIDE
from services.samples import Row
from storms import evidence, windows
from storms.detector import Attribution
from storms.models import Finding, PathVerdict, StormEvent, StormPolicy, StormPolicyVersion
from storms.verdicts import Verdict
from storms.watch import Report, watch
from tests import factories
from tranche_site.floor import faults

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
INTERVAL = 10
STARTED = NOW - timedelta(seconds=50)
"""When the outage of most tests begins: six bad samples, the sixth at NOW."""


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@dataclass
class Site:
    """One service with its paths, its policy and three voting vantage points; `see` writes what they saw."""

    points: list[VantagePoint]
    policy: StormPolicy
    domain: ServiceDomain
    targets: dict[str, Target] = field(default_factory=dict)

    @classmethod
    def build(
        cls, roles: tuple[str, ...] = Target.DOMAIN_ROLES, points: list[VantagePoint] | None = None, **policy: Any
    ) -> Site:
        domain = factories.domain()
        probing = {"last_probe_at": at(86_400), "sees_since": at(-86_400)}
        kept = cls(
            points if points is not None else [factories.vantage_point(**probing) for _ in range(3)],
            factories.policy(service=domain.service, **policy),
            domain,
        )
        for role in roles:
            kept.targets[role] = factories.target(role, domain=domain)
        return kept

    def see(
        self, first: float = -600, last: float = 0, outcome: str = "ok", *roles: str, points: Any = None, **kw: Any
    ) -> None:
        """One sample every interval from `first` to `last` seconds after NOW, of each target from each vantage point."""
        count = int((last - first) // INTERVAL) + 1
        samples.write(
            [
                self.row(role, point, first + n * INTERVAL, outcome, **kw)
                for role in roles or tuple(self.targets)
                for point in (self.points if points is None else points)
                for n in range(count)
            ]
        )

    def row(self, role: str, point: VantagePoint, seconds: float, outcome: str, **kw: Any) -> Row:
        target, moment = self.targets[role], at(seconds)
        values: dict[str, Any] = {
            "slot_at": moment, "target_id": target.pk, "vantage_point_id": point.pk, "attempt": 0, "at": moment,
            "customer_id": target.customer_id, "service_id": self.policy.service_id if target.domain_id else None,
            "outcome": outcome, "status": None,
            "dns_ms": None, "connect_ms": None, "tls_ms": None, "first_byte_ms": None, "total_ms": None,
            "certificate_expires_at": None, "certificate_issuer": "", "protocol": "", "remote_address": None,
            "reason": "" if outcome == "ok" else f"saw {outcome}", "is_blind": False,
        }  # fmt: skip
        return Row(**values | kw)

    def fail(self, outcome: str = "http_5xx", *, since: float = -50, until: float = 0, **kw: Any) -> None:
        """The primary was good until `since` and has failed from then on; every other path is good."""
        self.see(since - 600, since - INTERVAL, "ok", "primary", **kw)
        self.see(since, until, outcome, "primary", **kw)
        others = [role for role in self.targets if role != "primary"]
        if others:
            self.see(-600, until, "ok", *others, **kw)

    def verdict(self, role: str = "primary") -> PathVerdict:
        return PathVerdict.objects.get(target=self.targets[role])

    @property
    def storm(self) -> StormEvent:
        return StormEvent.objects.get(service=self.policy.service_id)


@pytest.fixture(autouse=True)
def _nothing_armed() -> Iterator[None]:
    yield
    faults.disarm()


def storms() -> int:
    return StormEvent.objects.count()


def events() -> list[str]:
    """Of the customers'; incidents have tests of their own."""
    return list(Event.objects.filter(customer__isnull=False).order_by("id").values_list("kind", flat=True))


# --- a storm opens ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_outage_of_the_primary_is_one_storm() -> None:
    site = Site.build()
    StormPolicy.objects.filter(pk=site.policy.pk).update(window_seconds=61)
    site.policy.refresh_from_db()
    assert site.policy.version == 2
    site.fail()
    report = watch(NOW)
    storm = site.storm
    assert (storm.started_at, storm.detected_at, storm.last_bad_at) == (STARTED, NOW, NOW)
    assert (storm.ended_at, storm.closed_at, storm.relapses, storm.state) == (None, None, 0, "raging")
    assert (storm.customer_id, storm.kind, storm.is_armed) == (site.policy.customer_id, "http_availability", True)
    assert (storm.policy, storm.policy_version) == (site.policy, 2)
    assert (storm.attribution, storm.cdn) == (Attribution.CDN_FAULT, site.targets["primary"].cdn)
    assert storm.regions == ["eu"]
    assert "saw http_5xx" in storm.reason and "origin answers" in storm.reason
    (entry,) = storm.entries.all()
    assert (entry.action, entry.at, entry.reason, entry.policy_version, entry.by) == ("open", NOW, storm.reason, 2, "")
    case = evidence.read_case(entry.case)
    (paths,) = case.domains
    assert {path.target: path.role for path in paths} == {target.pk: role for role, target in site.targets.items()}
    (primary,) = (path for path in paths if path.role == "primary")
    # Six bad samples of each point are in (now - 61 s, now], bounded by each point's newest, and one that was good.
    assert {name: (window.good, window.bad) for name, window in primary.windows.items()} == {
        point.name: (1, 6) for point in site.points
    }
    assert {verdict.target.role: verdict.verdict for verdict in PathVerdict.objects.all()} == {
        "primary": "DOWN", "backup": "UP", "origin": "UP"
    }  # fmt: skip
    assert site.verdict().votes == {point.name: "DOWN" for point in site.points}
    assert (report.services, report.opened) == (1, [site.policy.service_id])
    assert set(report.changed) == {site.policy.service_id}
    (event,) = Event.objects.filter(kind="storm.opened")
    assert (event.customer_id, event.subject_type, event.subject_id) == (storm.customer_id, "stormevent", storm.pk)
    assert event.payload == {
        "service": storm.service_id, "attribution": "cdn_fault", "started_at": STARTED.isoformat(), "policy_version": 2,
        "is_armed": True,
    }  # fmt: skip


@pytest.mark.django_db
def test_a_second_look_opens_no_second_storm() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    report = watch(NOW)
    assert (report.opened, storms(), events()) == ([], 1, ["storm.opened"])
    site.see(10, 30, "http_5xx", "primary")
    site.see(10, 30, "ok", "backup", "origin")
    assert watch(at(30)).changed == []
    assert (storms(), site.storm.last_bad_at, site.storm.detected_at, site.storm.started_at) == (
        1,
        at(30),
        NOW,
        STARTED,
    )
    assert events() == ["storm.opened"]


@pytest.mark.django_db
@pytest.mark.parametrize("outcome", sorted(BAD))
def test_every_bad_outcome_opens_one(outcome: str) -> None:
    site = Site.build()
    site.fail(outcome)
    watch(NOW)
    expected = Attribution.EDGE_TO_ORIGIN if outcome == "edge_error" else Attribution.CDN_FAULT
    assert site.storm.attribution == expected


@pytest.mark.django_db
@pytest.mark.parametrize("outcome", ["ok", "unknown", *sorted(SET_ASIDE)])
def test_no_other_outcome_does(outcome: str) -> None:
    site = Site.build()
    site.fail(outcome, since=-300)
    watch(NOW)
    assert storms() == 0
    expected = Verdict.UP if outcome == "ok" else Verdict.UNKNOWN
    assert site.verdict().verdict == expected


@pytest.mark.django_db
def test_set_aside_and_unknown_samples_are_in_no_denominator() -> None:
    site = Site.build()
    site.fail()
    for n, outcome in enumerate(("blocked", "wrong_status", "unknown"), 1):
        site.see(-49 + n, 0, outcome, "primary", attempt=n)
    watch(NOW)
    assert site.storm.started_at == STARTED
    assert site.verdict().availability == 0.0


@pytest.mark.django_db
def test_the_threshold_is_strict() -> None:
    """9 of 10 is not below 0.9; one more failure is."""
    site = Site.build(window_seconds=100, min_failures=1)
    site.see(-600, 0)
    for point in site.points:
        samples.write([site.row("primary", point, -15 - n, "ok", attempt=1) for n in range(8)])  # 18 in the window
        samples.write([site.row("primary", point, -1 - n, "timeout", attempt=2) for n in range(2)])  # 18 of 20
    watch(NOW)
    assert (storms(), site.verdict().verdict, site.verdict().availability) == (0, "UP", 0.9)
    for point in site.points:
        samples.write([site.row("primary", point, -3, "timeout", attempt=2)])  # 18 of 21
    watch(NOW)
    assert site.verdict().verdict == "DOWN"


@pytest.mark.django_db
def test_the_window_is_open_at_its_old_end_and_begins_at_the_newest_sample() -> None:
    site = Site.build(min_samples=1)
    (target,) = (site.targets["primary"],)
    for point in site.points:
        samples.write(
            [
                site.row("primary", point, -65, "http_5xx"),  # 60 s before the newest: outside
                site.row("primary", point, -64.999, "ok"),
                site.row("primary", point, -5, "ok"),
                site.row("primary", point, 0.001, "http_5xx"),  # of the future
            ]
        )
    (seen,) = (
        seen for key, seen in windows.read(NOW, [site.policy.service_id], []).items() if key.target_id == target.pk
    )
    assert {(window.good, window.bad, window.newest_at) for window in seen.windows.values()} == {(2, 0, at(-5))}


@pytest.mark.django_db
def test_the_start_is_the_first_failure_since_a_long_good_run() -> None:
    """Flicker before the outage belongs to it unless ten good samples in a row lie between."""
    site = Site.build()
    site.see(-600, 0, "ok", "backup", "origin")
    site.see(-600, -410, "ok", "primary")
    site.see(-400, -400, "http_5xx", "primary")  # ten good ones follow: forgotten
    site.see(-390, -300, "ok", "primary")
    site.see(-290, -290, "http_5xx", "primary")  # nine good ones follow: the start
    site.see(-280, -200, "ok", "primary")
    site.see(-190, 0, "http_5xx", "primary")
    watch(NOW)
    assert site.storm.started_at == at(-290)


@pytest.mark.django_db
def test_the_start_is_the_earliest_over_the_points_that_vote_down() -> None:
    site = Site.build()
    early, middle, late = site.points
    site.see(-600, 0, "ok", "backup", "origin")
    for point, since in ((early, -120), (middle, -60), (late, -50)):
        site.see(-600, since - INTERVAL, "ok", "primary", points=[point])
        site.see(since, 0, "timeout", "primary", points=[point])
    watch(NOW)
    assert site.storm.started_at == at(-120)


@pytest.mark.django_db
def test_a_point_that_does_not_vote_down_dates_no_storm() -> None:
    site = Site.build()
    *down, lonely = site.points
    site.see(-600, 0, "ok", "backup", "origin")
    site.see(-600, -310, "ok", "primary")
    site.see(-300, -100, "timeout", "primary", points=[lonely])
    site.see(-90, 0, "ok", "primary", points=[lonely])
    site.see(-300, -60, "ok", "primary", points=down)
    site.see(-50, 0, "timeout", "primary", points=down)
    watch(NOW)
    assert site.storm.started_at == STARTED


@pytest.mark.django_db
def test_duplicates_of_a_sample_add_no_weight() -> None:
    site = Site.build()
    site.fail(since=-10)  # two failures, not three
    site.fail(since=-10)
    watch(NOW)
    assert (storms(), site.verdict().verdict) == (0, "DEGRADED")


@pytest.mark.django_db
def test_a_burst_of_shots_opens_a_storm_before_the_third_slot() -> None:
    """Shots have their slot's time as key and their own as `at`."""
    site = Site.build()
    site.fail(since=-10)
    site.see(-4, -4, "http_5xx", "primary", attempt=1, slot_at=at(-10))
    site.see(-3, -3, "http_5xx", "primary", attempt=2, slot_at=at(-10))
    watch(NOW)
    assert site.storm.started_at == at(-10)


@pytest.mark.django_db
def test_attribution_needs_the_other_paths() -> None:
    unproven, origin, alone, unseen = (
        Site.build(("primary", "backup")), Site.build(), Site.build(("primary",)), Site.build(("primary", "backup"))
    )  # fmt: skip
    for site in (unproven, alone):
        site.fail()
    origin.see(-600, -60)
    origin.see(-50, 0, "timeout")
    unseen.see(-600, -60)
    unseen.see(-50, 0, "timeout", "primary")
    # Each site has points of its own: make all of them agree, or no region has a quorum.
    VantagePoint.objects.update(state=VantagePoint.State.OFF)
    found = {}
    for name, site in {"unproven": unproven, "origin": origin, "alone": alone, "unseen": unseen}.items():
        VantagePoint.objects.filter(pk__in=[point.pk for point in site.points]).update(state=VantagePoint.State.ACTIVE)
        watch(NOW, [site.policy.service_id])
        found[name] = list(StormEvent.objects.filter(service=site.policy.service).values_list("attribution", flat=True))
        VantagePoint.objects.update(state=VantagePoint.State.OFF)
    assert found == {"unproven": ["unproven"], "origin": [], "alone": [], "unseen": []}
    (finding,) = Finding.objects.all()
    assert (finding.kind, finding.target, finding.service) == (
        "origin_fault", origin.targets["primary"], origin.policy.service
    )  # fmt: skip


# --- whose vote counts ------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_blind_samples_do_not_vote() -> None:
    site = Site.build()
    site.fail(is_blind=True)
    watch(NOW)
    assert storms() == 0
    verdict = site.verdict()
    assert verdict.verdict == "UNKNOWN"
    assert all(point.name in verdict.reason for point in site.points)


@pytest.mark.django_db
def test_blind_samples_in_between_count_for_nothing() -> None:
    """Failures seen blind neither make a window worse nor break a good run nor date a storm."""
    site = Site.build()
    site.see(-600, 0)
    site.see(-95, -35, "timeout", "primary", is_blind=True)
    (seen,) = (
        s
        for key, s in windows.read(NOW, [site.policy.service_id], []).items()
        if key.target_id == site.targets["primary"].pk
    )
    for window in seen.windows.values():
        assert (window.good, window.bad, window.is_blind, dict(window.bad_outcomes)) == (6, 0, False, {})
        assert window.good_run > 10
    watch(NOW)
    assert site.verdict().verdict == "UP"
    site.see(10, 60, "timeout", "primary")
    site.see(10, 60, "ok", "backup", "origin")
    watch(at(60))
    assert site.storm.started_at == at(10)


@pytest.mark.django_db
@pytest.mark.parametrize(("blind", "opens"), [(0, True), (1, True), (2, False), (3, False)])
def test_a_blind_vantage_point_is_a_missing_vote_and_no_smaller_quorum(blind: int, opens: bool) -> None:
    site = Site.build()
    site.fail()
    for point in site.points[:blind]:
        VantagePoint.objects.filter(pk=point.pk).update(blind_since=at(-10))
    watch(NOW)
    assert storms() == opens
    votes = site.verdict().votes
    assert [votes[point.name] for point in site.points] == ["UNKNOWN"] * blind + ["DOWN"] * (3 - blind)


@pytest.mark.django_db
@pytest.mark.parametrize(("silent", "opens"), [(1, True), (2, False)])
def test_a_silent_vantage_point_is_a_missing_vote_too(silent: int, opens: bool) -> None:
    site = Site.build()
    site.fail(points=site.points[silent:])
    watch(NOW)
    assert storms() == opens


@pytest.mark.django_db
@pytest.mark.parametrize("state", [VantagePoint.State.SHADOW, VantagePoint.State.OFF])
def test_points_without_a_vote_are_not_counted(state: str) -> None:
    site = Site.build()
    site.fail(points=site.points[:1])
    site.see(-600, 0, "ok", points=site.points[1:])
    VantagePoint.objects.filter(pk__in=[point.pk for point in site.points[1:]]).update(state=state)
    StormPolicy.objects.update(min_vantages=1)
    watch(NOW)
    assert storms() == 1
    assert site.verdict().votes == {site.points[0].name: "DOWN"}


@pytest.mark.django_db
def test_two_points_of_one_network_are_one_witness() -> None:
    site = Site.build()
    VantagePoint.objects.update(network="AS64500")
    site.fail()
    watch(NOW)
    assert (storms(), site.verdict().verdict) == (0, "DEGRADED")


@pytest.mark.django_db
def test_one_failing_region_is_enough_and_is_named() -> None:
    here, there = ([factories.vantage_point(region=region) for _ in range(2)] for region in ("eu", "us"))
    site = Site.build(points=[*here, *there])
    site.fail(points=there)
    site.see(-600, 0, points=here)
    watch(NOW)
    assert site.storm.regions == ["us"]
    site.see(10, 60, "http_5xx", "primary")
    site.see(10, 60, "ok", "backup", "origin")
    watch(at(60))
    assert site.storm.regions == ["eu", "us"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("age", "verdict"), [(0, "UP"), (30, "UP"), (30.001, "UNKNOWN"), (300, "UNKNOWN"), (5000, "UNKNOWN")]
)
def test_stale_samples_are_unknown(age: float, verdict: str) -> None:
    site = Site.build()
    site.see(-600, 0)
    watch(at(age))
    assert site.verdict().verdict == verdict
    assert site.verdict().newest_good_at == (NOW if age < 300 else None)


@pytest.mark.django_db
def test_a_stale_outage_opens_nothing_and_a_stale_storm_stays() -> None:
    site = Site.build()
    site.fail()
    watch(at(31))
    assert storms() == 0
    watch(NOW)
    before = StormEvent.objects.values().get()
    assert watch(at(4000)).opened == []
    assert StormEvent.objects.values().get() == before
    assert site.verdict().verdict == "UNKNOWN"


@pytest.mark.django_db
def test_no_sample_at_all_is_unknown() -> None:
    site = Site.build()
    report = watch(NOW)
    assert {verdict.verdict for verdict in PathVerdict.objects.all()} == {"UNKNOWN"}
    assert (PathVerdict.objects.count(), report.services, storms(), events()) == (3, 1, 0, [])
    assert site.verdict().newest_good_at is None


@pytest.mark.django_db
def test_no_vantage_point_is_unknown() -> None:
    site = Site.build(points=[])
    watch(NOW)
    assert (site.verdict().verdict, storms()) == ("UNKNOWN", 0)


# --- who is watched ---------------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("what", ["policy", "service", "domain", "unverified", "no policy", "disabled"])
def test_what_is_gone_or_unproven_is_not_judged(what: str) -> None:
    site = Site.build()
    site.fail()
    match what:
        case "policy":
            StormPolicy.objects.update(deleted_at=NOW)
        case "service":
            site.policy.service.deleted_at = NOW
            site.policy.service.save()
        case "domain":
            ServiceDomain.objects.update(deleted_at=NOW)
        case "unverified":
            ServiceDomain.objects.update(verified_at=None)
        case "no policy":
            StormPolicyVersion.objects.all().delete()
            StormPolicy.objects.all().delete()
        case "disabled":
            Target.objects.filter(role="primary").update(enabled=False)
    watch(NOW)
    assert storms() == 0
    assert PathVerdict.objects.filter(target=site.targets["primary"]).count() == 0
    assert events() == []


@pytest.mark.django_db
def test_only_the_named_services_are_judged() -> None:
    one = Site.build()
    other = Site.build(points=one.points)
    one.fail()
    other.fail()
    assert watch(NOW, [other.policy.service_id]).opened == [other.policy.service_id]
    assert not StormEvent.objects.filter(service=one.policy.service).exists()
    assert watch(NOW, []).opened == []
    assert watch(NOW).opened == [one.policy.service_id]


@pytest.mark.django_db
def test_one_failing_domain_is_a_storm_of_the_whole_service() -> None:
    site = Site.build()
    good = Site(site.points, site.policy, factories.domain(service=site.policy.service))
    good.targets = {role: factories.target(role, domain=good.domain) for role in Target.DOMAIN_ROLES}
    good.see()
    site.fail()
    watch(NOW)
    assert site.storm.cdn == site.targets["primary"].cdn
    (entry,) = site.storm.entries.all()
    assert [len(paths) for paths in entry.case["domains"]] == [3, 3]
    assert good.verdict().verdict == "UP"


@pytest.mark.django_db
def test_a_policy_that_only_watches_moves_nothing() -> None:
    site = Site.build(mode=StormPolicy.Mode.WATCH_ONLY)
    site.fail()
    watch(NOW)
    assert site.storm.is_armed is False
    assert not StormEvent.objects.moving_traffic().exists()
    assert Event.objects.get(kind="storm.opened").payload["is_armed"] is False


# --- a storm ends -----------------------------------------------------------------------------------------------------


@pytest.fixture
def raging(db: None) -> Site:
    """A storm that was declared at NOW; from NOW on all is good, as far as a test lets it be seen."""
    site = Site.build(
        cooldown_seconds=60, minimum_seconds=120, closing_samples=5, holdoff_seconds=300, holdoff_max_seconds=600
    )
    site.fail()
    watch(NOW)
    assert storms() == 1
    return site


def test_it_ends_with_the_first_good_sample_of_the_closing_run(raging: Site) -> None:
    raging.see(10, 40)
    assert watch(at(40)).opened == []
    assert raging.storm.state == "raging", "the window still holds failures, and the run is too short"
    raging.see(50, 60)
    report = watch(at(60))
    storm = raging.storm
    assert (storm.state, storm.ended_at, storm.closed_at) == ("ended", at(10), None)
    assert "5 good samples in a row" in storm.closing_reason
    assert raging.policy.service_id in report.changed
    assert events() == ["storm.opened", "storm.ended"]


def test_it_is_closed_when_cooldown_and_minimum_have_passed(raging: Site) -> None:
    raging.see(10, 200)
    watch(at(60))
    assert raging.storm.state == "ended"
    for seconds in (65, 69):  # started at -50, so the minimum length is over at 70, the cooldown at 60
        watch(at(seconds))
        assert raging.storm.state == "ended"
    assert watch(at(70)).changed == [raging.policy.service_id]
    storm = raging.storm
    assert (storm.state, storm.ended_at, storm.closed_at) == ("closed", at(10), at(70))
    assert events() == ["storm.opened", "storm.ended", "storm.closed"]
    assert watch(at(80)).changed == []
    assert storms() == 1


def test_the_cooldown_counts_from_the_last_evaluation_that_was_bad(raging: Site) -> None:
    raging.see(10, 60, "http_5xx", "primary")
    raging.see(10, 60, "ok", "backup", "origin")
    watch(at(60))
    raging.see(70, 300)
    watch(at(120))
    assert (raging.storm.ended_at, raging.storm.last_bad_at) == (at(70), at(60))
    watch(at(125))
    assert raging.storm.state == "closed", "60 s after 60"


def test_a_relapse_before_it_is_closed_is_the_same_storm(raging: Site) -> None:
    raging.see(10, 60)
    watch(at(60))
    raging.see(61, 69, "http_5xx", "primary")
    for n in range(1, 8):
        raging.see(61 + n / 10, 61 + n / 10, "http_5xx", "primary")
    raging.see(65, 65, "ok", "backup", "origin")
    report = watch(at(69))
    storm = raging.storm
    assert (storm.state, storm.ended_at, storm.relapses, storm.started_at) == ("raging", None, 1, STARTED)
    assert storm.last_bad_at == at(69)
    assert report.opened == [raging.policy.service_id]
    assert (storms(), events()[-1]) == (1, "storm.relapsed")


def close(site: Site) -> None:
    site.see(10, 120)
    watch(at(60))
    watch(at(70))
    assert site.storm.state == "closed"


def fail_again(site: Site, since: float) -> datetime:
    """Six failures after `since`; returns when they have been seen."""
    site.see(130, since - INTERVAL)
    site.see(since, since + 50, "http_5xx", "primary")
    site.see(since, since + 50, "ok", "backup", "origin")
    return at(since + 50)


def test_a_relapse_within_the_hold_off_reopens_it(raging: Site) -> None:
    close(raging)
    report = watch(fail_again(raging, 200))  # closed at 70, held off until 370
    storm = raging.storm
    assert (storm.state, storm.ended_at, storm.closed_at, storm.relapses) == ("raging", None, None, 1)
    assert (storm.started_at, storm.last_bad_at) == (STARTED, at(250))
    assert report.opened == [raging.policy.service_id]
    assert events()[-2:] == ["storm.closed", "storm.relapsed"]
    # From now on it stays open for the hold-off as well.
    raging.see(260, 900)
    watch(at(320))
    assert raging.storm.ended_at == at(260)
    watch(at(400))
    assert raging.storm.state == "ended", "the minimum and the cooldown have passed, the hold-off has not"
    watch(at(560))
    assert raging.storm.state == "closed"


def test_after_the_hold_off_it_is_another_storm(raging: Site) -> None:
    close(raging)
    report = watch(fail_again(raging, 371))  # closed at 70, held off until 370
    assert (storms(), len(report.opened)) == (2, 1)
    new, old = StormEvent.objects.order_by("-started_at")
    assert (old.state, old.relapses) == ("closed", 0)
    assert (new.state, new.started_at, new.relapses) == ("raging", at(371), 0)


def test_a_new_storm_never_begins_before_the_last_one_ended(raging: Site) -> None:
    """Even where no run of good samples lies between the two."""
    close(raging)
    StormEvent.objects.update(ended_at=at(75), closed_at=at(75))
    StormPolicy.objects.update(holdoff_seconds=0, closing_samples=100)
    raging.see(76, 130, "http_5xx", "primary", attempt=1)
    site_now = at(126)
    samples.write([raging.row(role, p, 126, "ok", attempt=2) for role in ("backup", "origin") for p in raging.points])
    watch(site_now)
    new, old = StormEvent.objects.order_by("-started_at")
    assert (old.ended_at, new.started_at) == (at(75), at(76))


def test_blindness_neither_ends_nor_prolongs_it(raging: Site) -> None:
    raging.see(10, 60)
    VantagePoint.objects.update(blind_since=at(5))
    before = StormEvent.objects.values().get()
    watch(at(60))
    assert StormEvent.objects.values().get() == before


def test_a_deleted_policy_closes_its_storm_where_it_was_last_bad(raging: Site) -> None:
    StormPolicy.objects.update(deleted_at=at(20))
    watch(at(30))
    storm = raging.storm
    assert (storm.state, storm.ended_at, storm.closed_at) == ("closed", NOW, at(30))
    assert events() == ["storm.opened", "storm.closed"]


# --- two policies -----------------------------------------------------------------------------------------------------


def with_tls(site: Site, **kw: Any) -> StormPolicy:
    return factories.policy(service=site.policy.service, kind="tls", **kw)


@pytest.mark.django_db
def test_a_tls_fault_opens_the_availability_storm_alone() -> None:
    site = Site.build()
    with_tls(site)
    site.fail("tls")
    watch(NOW)
    watch(NOW)
    assert site.storm.kind == "http_availability"


@pytest.mark.django_db
def test_that_holds_whichever_policy_is_older() -> None:
    site = Site.build(kind="tls")
    factories.policy(service=site.policy.service)
    site.fail("tls")
    watch(NOW)
    assert site.storm.kind == "http_availability"


@pytest.mark.django_db
def test_a_tls_storm_opens_where_availability_is_content() -> None:
    """The availability policy asks for more failures than there are."""
    site = Site.build(threshold_avail=Decimal("0.01"))
    with_tls(site)
    site.fail("tls", since=-30)
    watch(NOW)
    assert (site.storm.kind, site.storm.started_at) == ("tls", at(-30))
    assert site.verdict().verdict == "UP", "a target has one verdict: that of availability"


@pytest.mark.django_db
def test_tls_counts_only_its_class() -> None:
    site = Site.build(threshold_avail=Decimal("0.01"))
    with_tls(site)
    site.fail("http_5xx", since=-30)
    watch(NOW)
    assert storms() == 0


@pytest.mark.django_db
def test_what_one_policy_finds_another_does_not_resolve() -> None:
    site = Site.build()
    with_tls(site)
    site.see(-600, 0)
    site.see(-50, 0, "http_5xx", "backup", attempt=1)
    site.see(-50, 0, "http_5xx", "backup", attempt=2)
    for seconds in (0, 1, 2, 15):
        watch(at(seconds))
    (finding,) = Finding.objects.all()
    assert (finding.kind, finding.resolved_at, finding.first_seen_at, finding.last_seen_at) == (
        "backup_unfit", None, NOW, at(15)
    )  # fmt: skip
    assert events() == ["finding.backup_unfit"]


# --- findings ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_unfit_backup_is_found_and_resolved() -> None:
    site = Site.build()
    site.see(-600, 0, "ok", "primary", "origin")
    site.see(-600, 0, "tls", "backup")
    watch(NOW)
    never, finding = Finding.objects.open().order_by("kind")
    assert never.kind == "always_failing"
    assert (finding.kind, finding.target, finding.customer) == (
        "backup_unfit", site.targets["backup"], site.policy.customer
    )  # fmt: skip
    assert (finding.first_seen_at, finding.last_seen_at) == (NOW, NOW)
    assert "saw tls" in finding.reason
    site.see(10, 70)
    watch(at(70))
    finding.refresh_from_db()
    assert finding.resolved_at == at(70)
    assert (storms(), sorted(events())) == (0, ["finding.always_failing", "finding.backup_unfit"])
    site.see(80, 140, "tls", "backup")
    site.see(80, 140, "ok", "primary", "origin")
    watch(at(140))
    assert list(Finding.objects.open().values_list("kind", flat=True)) == ["backup_unfit"]  # it was good meanwhile


@pytest.mark.django_db
def test_blocked_probes_are_found() -> None:
    site = Site.build()
    site.see(-600, 0, "ok", "backup", "origin")
    site.see(-600, 0, "blocked", "primary")
    watch(NOW)
    (finding,) = Finding.objects.all()
    assert (finding.kind, finding.target, storms()) == ("blocked", site.targets["primary"], 0)


@pytest.mark.django_db
def test_an_origin_fault_is_found_and_no_storm() -> None:
    site = Site.build(("primary", "backup"))
    site.see(-600, -60)
    site.see(-50, 0, "timeout")
    watch(NOW)
    (finding,) = Finding.objects.all()
    assert (finding.kind, storms(), events()) == ("origin_fault", 0, ["finding.origin_fault"])
    (event,) = Event.objects.all()
    assert (event.subject_type, event.subject_id, event.customer_id) == ("finding", finding.pk, site.policy.customer_id)


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_verdicts_are_kept_one_a_target() -> None:
    site = Site.build()
    expiry = at(86_400)
    site.see(-600, 0, certificate_expires_at=expiry)
    report = watch(NOW)
    assert report.changed == [site.policy.service_id] * 3
    verdict = site.verdict()
    assert (verdict.verdict, verdict.availability, verdict.since, verdict.evaluated_at) == ("UP", 1.0, NOW, NOW)
    assert (verdict.newest_good_at, verdict.certificate_expires_at) == (NOW, expiry)
    assert verdict.customer_id == site.policy.customer_id
    assert verdict.votes == {point.name: "UP" for point in site.points}

    site.see(10, 50, "ok", certificate_expires_at=expiry)
    assert watch(at(5)).changed == []
    verdict.refresh_from_db()
    assert verdict.evaluated_at == NOW, "what did not change is written again only every ten seconds"
    watch(at(10))
    verdict.refresh_from_db()
    assert (verdict.since, verdict.evaluated_at, verdict.newest_good_at) == (NOW, at(10), at(10))

    site.see(20, 70, "http_5xx", "primary", attempt=1)
    site.see(20, 70, "http_5xx", "primary", attempt=2)
    report = watch(at(50))
    verdict.refresh_from_db()
    assert (verdict.verdict, verdict.since, verdict.evaluated_at) == ("DOWN", at(50), at(50))
    assert (PathVerdict.objects.count(), set(report.changed)) == (3, {site.policy.service_id})


@pytest.mark.django_db
def test_what_was_last_known_good_is_not_forgotten_in_a_long_outage() -> None:
    site = Site.build()
    site.see(-600, 0, certificate_expires_at=at(86_400))
    watch(NOW)
    site.see(10, 400, "timeout", "primary")
    watch(at(400))
    assert (site.verdict().verdict, site.verdict().newest_good_at) == ("DOWN", NOW)
    assert site.verdict().certificate_expires_at == at(86_400)


@pytest.mark.django_db
def test_the_soonest_expiry_among_the_newest_certificates_is_shown() -> None:
    site = Site.build()
    for n, point in enumerate(site.points):
        site.see(-60, -10, "ok", points=[point], certificate_expires_at=at(1000))
        site.see(0, 0, "ok", points=[point], certificate_expires_at=at(5000 + n))
    watch(NOW)
    assert site.verdict().certificate_expires_at == at(5000)


@pytest.mark.django_db
def test_reference_sites_are_judged_and_silence_is_unknown(settings: Any) -> None:
    settings.PROBE_OWN_INTERVAL_SECONDS = INTERVAL
    site = Site.build()
    site.targets["reference"] = factories.target("reference")
    site.see(-600, 0)
    site.see(-50, 0, "http_5xx", "reference", attempt=1)
    site.see(-50, 0, "http_5xx", "reference", attempt=2)
    report = watch(NOW)
    assert (site.verdict("reference").verdict, site.verdict("reference").customer_id) == ("DOWN", None)
    assert (storms(), Finding.objects.count()) == (0, 0)
    assert set(report.changed) == {site.policy.service_id}
    # It must not stay DOWN because nobody looks any more: a failing reference site lifts a safety limit.
    watch(at(3600))
    assert site.verdict("reference").verdict == "UNKNOWN"
    # A look at single services leaves it alone.
    site.see(3600, 3700)
    watch(at(3700), [site.policy.service_id])
    assert site.verdict("reference").verdict == "UNKNOWN"
    watch(at(3700))
    assert site.verdict("reference").verdict == "UP"


# --- all or nothing, one at a time ------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def kill() -> None:
    raise Killed


@pytest.mark.django_db
@pytest.mark.parametrize("point", ["storms.decided", "storms.recorded"])
def test_a_run_that_is_killed_leaves_nothing(point: str) -> None:
    site = Site.build()
    site.fail()
    site.see(-600, 0, "blocked", "backup", attempt=1)
    faults.arm(point, kill)
    with pytest.raises(Killed), transaction.atomic():
        watch(NOW)
    assert (storms(), PathVerdict.objects.count(), Finding.objects.count(), events()) == (0, 0, 0, [])
    faults.disarm()
    watch(NOW)
    assert (storms(), PathVerdict.objects.count(), Finding.objects.count()) == (1, 3, 1)
    assert sorted(events()) == ["finding.blocked", "storm.opened"]


@pytest.mark.django_db
def test_a_run_that_is_killed_leaves_all_services_alone() -> None:
    one = Site.build()
    other = Site.build(points=one.points)
    one.fail()
    other.fail()
    faults.arm("storms.decided", kill)
    with pytest.raises(Killed), transaction.atomic():
        watch(NOW)
    assert (storms(), events()) == (0, [])


@pytest.mark.django_db(transaction=True)
def test_two_watches_at_once_open_one_storm() -> None:
    site = Site.build()
    site.fail()
    barrier, reports, errors = threading.Barrier(4), [], []

    def run() -> None:
        try:
            barrier.wait(10)
            reports.append(watch(NOW))
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [report.opened for report in reports].count([site.policy.service_id]) == 1
    assert (storms(), events()) == (1, ["storm.opened"])


@pytest.mark.django_db(transaction=True)
def test_a_watch_waits_for_another_only_so_long() -> None:
    """The first is stopped in the middle; the second gives up after two seconds and leaves it to the sweep."""
    site = Site.build()
    site.fail()
    inside, go_on, reports = threading.Event(), threading.Event(), []

    def stop_here() -> None:
        faults.disarm()
        inside.set()
        go_on.wait(20)

    def run() -> None:
        try:
            reports.append(watch(NOW))
        finally:
            connection.close()

    faults.arm("storms.decided", stop_here)
    first: threading.Thread = threading.Thread(target=run)
    first.start()
    try:
        assert inside.wait(10)
        assert watch(NOW) == Report()
        assert storms() == 0
    finally:
        go_on.set()
        first.join()
    assert isinstance(reports[0], Report)
    assert (reports[0].opened, storms()) == ([site.policy.service_id], 1)


# --- what it costs ----------------------------------------------------------------------------------------------------


def queries(now: datetime) -> int:
    with CaptureQueriesContext(connection) as captured:
        watch(now)
    return len(captured)


def grow(site: Site, count: int) -> list[Site]:
    sites = []
    for _ in range(count):
        more = Site.build(points=site.points)
        with_tls(more)
        sites.append(more)
    return sites


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["quiet", "silent", "findings"])
def test_twenty_services_cost_as_many_queries_as_one(state: str) -> None:
    def look(site: Site) -> None:
        if state != "silent":
            site.see(-600, 0)
        if state == "findings":
            site.see(-55, 0, "tls", "backup", attempt=1)
            site.see(-54, 0, "tls", "backup", attempt=2)

    site = Site.build()
    with_tls(site)
    look(site)
    first, steady = queries(NOW), queries(at(1))
    sites = grow(site, 19)
    for more in sites:
        look(more)
    if state != "findings":  # each new finding is a row and an event of its own
        assert queries(at(2)) <= first
    watch(at(2))
    assert queries(at(3)) <= steady
    assert PathVerdict.objects.count() == 60
    assert Finding.objects.open().count() == (20 if state == "findings" else 0)


@pytest.mark.django_db
def test_a_storm_asks_no_more_questions_than_calm_does() -> None:
    """Within a tenth, all that is read is the same; a storm only adds the writes of its own."""

    def reads(now: datetime) -> int:
        with CaptureQueriesContext(connection) as captured:
            watch(now)
        return sum(query["sql"].lstrip().startswith(("SELECT", "WITH")) for query in captured)

    site = Site.build()
    others = [Site.build(points=site.points) for _ in range(10)]
    for one in (site, *others):
        one.see(-600, 0)
    watch(NOW)
    calm = reads(at(1))
    site.see(10, 60, "http_5xx", "primary")
    site.see(10, 60, "ok", "backup", "origin")
    for one in others:
        one.see(10, 60)
    watch(at(60))
    assert storms() == 1
    assert calm <= reads(at(61)) <= 1.1 * calm


@pytest.mark.django_db
def test_five_raging_storms_cost_as_many_queries_as_one() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    steady = queries(at(1))
    sites = [Site.build(points=site.points) for _ in range(4)]
    for more in sites:
        more.fail()
    watch(at(1))
    assert storms() == 5
    assert queries(at(2)) == steady


@pytest.mark.django_db
def test_a_policy_made_anew_in_mid_storm_takes_the_storm_over() -> None:
    site = Site.build()
    site.see(-600, -50)
    site.see(-40, 0, "http_5xx", "primary")
    site.see(-40, 0, "ok", "backup", "origin")
    watch(NOW)
    before = StormEvent.objects.get()
    StormPolicy.objects.update(deleted_at=NOW)
    heir = factories.policy(service=before.service)
    for tick in range(3):
        watch(NOW + timedelta(seconds=tick))
    storm = StormEvent.objects.get()
    assert (storm.pk, storm.closed_at, storm.relapses) == (before.pk, None, 0)
    assert heir.pk != storm.policy_id  # it keeps what it began under


@pytest.mark.django_db
def test_a_storm_that_lost_its_policy_is_closed_where_it_was_last_seen() -> None:
    site = Site.build()
    site.see(-600, -50)
    site.see(-40, 0, "http_5xx", "primary")
    site.see(-40, 0, "ok", "backup", "origin")
    watch(NOW)
    StormPolicy.objects.update(deleted_at=NOW)
    watch(NOW + timedelta(seconds=5))
    storm = StormEvent.objects.get()
    assert (storm.ended_at, storm.closed_at) == (NOW, NOW + timedelta(seconds=5))
    assert storm.spells == [[storm.started_at.isoformat(), NOW.isoformat()]]


# --- what must neither hold a storm up nor keep it going --------------------------------------------------------------


@pytest.mark.django_db
def test_a_domain_that_never_worked_does_not_keep_anothers_storm_open() -> None:
    site = Site.build()
    dead = Site(site.points, site.policy, factories.domain(service=site.policy.service))
    dead.targets = {role: factories.target(role, domain=dead.domain) for role in Target.DOMAIN_ROLES}
    dead.see(-600, 1200, "http_5xx", "primary")
    dead.see(-600, 1200, "ok", "backup", "origin")
    site.fail()
    watch(NOW)
    site.see(10, 1200)
    for seconds in (120, 700, 1200):
        watch(at(seconds))
    assert (site.storm.state, site.storm.ended_at) == ("closed", at(10))


@pytest.mark.django_db
def test_a_storm_whose_last_primary_is_gone_is_closed() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    Target.objects.filter(role="primary").update(enabled=False)
    watch(at(5))
    assert (site.storm.state, site.storm.ended_at) == ("closed", NOW)


@pytest.mark.django_db
def test_a_finding_that_nobody_watches_any_more_is_resolved() -> None:
    site = Site.build()
    site.see(-600, 0, "blocked", "primary")
    site.see(-600, 0, "ok", "backup", "origin")
    watch(NOW)
    assert Finding.objects.open().exists()
    StormPolicy.objects.update(deleted_at=at(1))
    watch(at(2))
    assert not Finding.objects.open().exists()


@pytest.mark.django_db
def test_an_older_look_decides_nothing() -> None:
    site = Site.build()
    site.fail()
    watch(NOW, [site.policy.service_id])
    before = StormEvent.objects.values().get()
    watch(at(-31), [site.policy.service_id])
    assert StormEvent.objects.values().get() == before
    assert site.verdict().verdict == "DOWN"


@pytest.mark.django_db
def test_a_region_that_cannot_vote_yet_takes_nobodys_protection_away() -> None:
    site = Site.build()
    site.points.append(factories.vantage_point(region="ap"))
    site.fail()
    watch(NOW)
    assert site.storm.regions == ["eu"]


@pytest.mark.django_db
def test_good_under_a_policy_of_tls_is_not_good_all_round() -> None:
    site = Site.build()
    with_tls(site)
    site.see(-600, 0, "http_5xx", "primary")
    site.see(-600, 0, "ok", "backup", "origin")
    watch(NOW)
    assert storms() == 0
    assert set(Finding.objects.values_list("kind", flat=True)) == {"always_failing"}


@pytest.mark.parametrize("mode", ["watch_only", "armed"])
def test_trouble_under_another_mode_is_a_storm_of_its_own(raging: Site, mode: str) -> None:
    StormPolicy.objects.update(mode="armed" if mode == "watch_only" else "watch_only")
    StormEvent.objects.update(is_armed=mode == "watch_only")
    close(raging)
    StormPolicy.objects.update(mode=mode)
    watch(fail_again(raging, 200))
    new, old = StormEvent.objects.order_by("-started_at")
    assert (old.state, old.is_armed, new.state, new.is_armed) == (
        "closed",
        mode == "watch_only",
        "raging",
        mode == "armed",
    )


@pytest.mark.django_db
def test_a_longer_interval_is_refused_and_would_not_make_a_storm_endless() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    service = site.policy.service
    service.interval_seconds = 30
    with pytest.raises(ValidationError, match="widen the window first"):
        service.full_clean()
    type(service).objects.filter(pk=service.pk).update(interval_seconds=30)
    rows = [site.row(role, p, n * 30, "ok") for role in site.targets for p in site.points for n in range(1, 60)]
    samples.write(rows)
    for seconds in range(30, 1501, 30):
        watch(at(seconds))
    assert (site.storm.state, site.storm.ended_at) == ("closed", at(30))
