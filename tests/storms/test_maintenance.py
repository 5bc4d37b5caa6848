"""Maintenance on a real Postgres: what was seen within a window starts no storm, and everything else goes on."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from services.maintenance import Span
from services.models import MaintenanceWindow, ServiceDomain, Target
from storms import detector
from storms.detector import START_LOOKBACK, Action, Decision
from storms.models import StormEvent
from storms.verdicts import Policy, Verdict
from storms.watch import watch
from tests import factories
from tests.storms.test_watch import NOW, Site, at, storms

pytestmark = pytest.mark.django_db


def maintain(site: Site, start: float = -300, seconds: int = 600, **kw: object) -> MaintenanceWindow:
    """A window that begins `start` seconds after NOW, of the site's service unless `kw` names a CDN."""
    subject = {} if "cdn" in kw else {"service": site.policy.service}
    return factories.maintenance_window(at(start), **{"duration_seconds": seconds} | subject | kw)


def cdn_of(site: Site, role: str = "primary") -> object:
    return site.targets[role].cdn


# --- within -----------------------------------------------------------------------------------------------------------


def test_no_storm_starts_and_the_verdict_is_shown() -> None:
    site = Site.build()
    maintain(site)
    site.fail()
    report = watch(NOW)
    assert (storms(), report.opened) == (0, [])
    assert site.verdict().verdict == Verdict.DOWN
    assert "saw http_5xx" in site.verdict().reason


def test_without_a_window_the_same_outage_is_a_storm() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    assert storms() == 1


@pytest.mark.parametrize("start", [1, 3600])
def test_a_window_to_come_spares_nothing(start: float) -> None:
    site = Site.build()
    maintain(site, start)
    site.fail()
    watch(NOW)
    assert storms() == 1


def test_somebody_elses_window_spares_nothing() -> None:
    site = Site.build()
    maintain(site, service=factories.service())
    maintain(site, cdn=cdn_of(site, "backup"))
    site.fail()
    watch(NOW)
    assert storms() == 1


def test_a_lifted_window_spares_nothing() -> None:
    site = Site.build()
    window = maintain(site)
    site.fail()
    watch(NOW)
    assert storms() == 0
    window.lift(NOW)
    watch(at(1))
    assert site.storm.started_at == at(-50)


def test_the_window_of_a_cdn_spares_every_service_whose_primary_it_is() -> None:
    site = Site.build()
    others = [Site.build(points=site.points) for _ in range(2)]
    Target.objects.filter(pk=others[0].targets["primary"].pk).update(cdn=site.targets["primary"].cdn)
    maintain(site, cdn=cdn_of(site))
    for each in (site, *others):
        each.fail()
    watch(NOW)
    assert StormEvent.objects.get().service_id == others[1].policy.service_id


def test_a_watch_of_one_service_knows_the_windows_too() -> None:
    site = Site.build()
    by_cdn = Site.build(points=site.points)
    maintain(site)
    maintain(by_cdn, cdn=cdn_of(by_cdn))
    for each in (site, by_cdn):
        each.fail()
        watch(NOW, [each.policy.service_id])
    assert storms() == 0


def test_a_service_on_two_cdns_is_spared_for_the_one_alone() -> None:
    """The other domain's primary fails on a CDN that nobody works on: that is the storm, and dates it."""
    site = Site.build()
    second = Site(site.points, site.policy, _second_domain(site))
    second.targets = {role: factories.target(role, domain=second.domain) for role in Target.DOMAIN_ROLES}
    maintain(site, cdn=cdn_of(site))
    site.fail(since=-200)
    second.fail()
    watch(NOW)
    assert site.storm.cdn == second.targets["primary"].cdn
    assert site.storm.started_at == at(-50)


def _second_domain(site: Site) -> ServiceDomain:
    return factories.domain(service=site.policy.service)


def test_a_zone_that_this_machine_does_not_know_stops_nothing() -> None:
    site = Site.build()
    maintain(site)
    MaintenanceWindow.objects.update(time_zone="Europe/Atlantis")
    site.fail()
    watch(NOW)
    assert storms() == 1


# --- after ------------------------------------------------------------------------------------------------------------


def test_what_still_fails_afterwards_is_a_storm_from_then_on() -> None:
    """Judged by what was seen since: it opens once the policy's window of 60 s holds nothing else."""
    site = Site.build()
    maintain(site, -600, 600)
    site.fail(since=-300, until=120)
    for seconds in (0, 30, 59):
        watch(at(seconds))
        assert storms() == 0
    watch(at(60))
    assert (site.storm.started_at, site.storm.detected_at) == (NOW, at(60))
    assert site.storm.spells == [[NOW.isoformat(), None]]


def test_what_was_mended_in_time_is_no_storm() -> None:
    site = Site.build()
    maintain(site, -600, 600)
    site.fail(since=-300, until=-10)
    site.see(0, 120)
    for seconds in range(0, 121, 10):
        watch(at(seconds))
    assert storms() == 0


def test_a_window_of_long_ago_dates_nothing() -> None:
    site = Site.build()
    maintain(site, -START_LOOKBACK.total_seconds() - 600, 600)
    site.fail()
    watch(NOW)
    assert site.storm.started_at == at(-50)


def test_a_recurring_window_spares_each_time() -> None:
    site = Site.build()
    yesterday = (NOW - timedelta(days=1)).date()
    maintain(site, recurrence="daily", first_day=yesterday)
    site.fail()
    watch(NOW)
    assert storms() == 0


# --- an open storm goes on --------------------------------------------------------------------------------------------


def run(site: Site, first: int, last: int) -> None:
    for seconds in range(first, last + 1, 10):
        watch(at(seconds))


def test_a_storm_that_began_before_rages_ends_and_closes_as_ever() -> None:
    site = Site.build(cooldown_seconds=60, minimum_seconds=60)
    site.fail()
    watch(NOW)
    maintain(site, 5, 3600)
    site.see(10, 60, "http_5xx", "primary")
    site.see(10, 60, "ok", "backup", "origin")
    run(site, 10, 60)
    assert site.storm.last_bad_at == at(60)
    site.see(70, 600)
    run(site, 70, 600)
    assert (site.storm.ended_at, site.storm.state) == (at(70), "closed")


@pytest.mark.parametrize("state", ["ended", "closed"])
def test_a_storm_that_is_over_does_not_relapse_within_one(state: str) -> None:
    long = {"cooldown_seconds": 3000} if state == "ended" else {"cooldown_seconds": 60, "minimum_seconds": 60}
    site = Site.build(holdoff_seconds=3600, **long)
    site.fail()
    watch(NOW)
    site.see(10, 400)
    run(site, 10, 400)
    assert (site.storm.state, site.storm.relapses) == (state, 0)
    window = maintain(site, 405, 3600)
    site.see(410, 500, "http_5xx", "primary")
    site.see(410, 500, "ok", "backup", "origin")
    run(site, 410, 500)
    assert (site.storm.state, site.storm.relapses) == (state, 0)
    window.lift(at(500))
    watch(at(501))
    assert (site.storm.state, site.storm.relapses) == ("raging", 1)


# --- the decision alone -----------------------------------------------------------------------------------------------

SPAN = Span(NOW - timedelta(hours=1), NOW, "an upgrade")


def spared(action: Action, now: datetime, spans: dict[int, Span], targets: tuple[int, ...] = (1, 2)) -> Decision:
    return detector.spare(Decision(action, "down", down_targets=targets), Policy(window_seconds=60), now, spans)


@pytest.mark.parametrize("action", [Action.OPEN, Action.REOPEN, Action.RELAPSE])
def test_a_beginning_is_refused_with_the_reason_of_the_window(action: Action) -> None:
    decision = spared(action, at(-1), {1: SPAN, 2: SPAN})
    assert (decision.action, decision.reason) == (Action.NOTHING, "maintenance: an upgrade")


@pytest.mark.parametrize("action", [Action.NOTHING, Action.RAGE, Action.END, Action.CLOSE])
def test_nothing_else_is(action: Action) -> None:
    assert spared(action, at(-1), {1: SPAN, 2: SPAN}) == Decision(action, "down", down_targets=(1, 2))


def test_what_is_left_is_what_nobody_works_on_and_is_dated_after_the_work() -> None:
    assert spared(Action.OPEN, at(-1), {1: SPAN}).down_targets == (2,)
    late = spared(Action.OPEN, at(60), {1: SPAN})
    assert (late.action, late.down_targets, late.not_before) == (Action.OPEN, (1, 2), {1: NOW})


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_one_query_whatever_the_number_of_services_and_windows() -> None:
    def queries(now: datetime) -> tuple[int, int]:
        with CaptureQueriesContext(connection) as captured:
            watch(now)
        return len(captured), sum("maintenance_windows" in query["sql"] for query in captured)

    site = Site.build()
    site.see()
    watch(NOW)
    before = queries(at(1))
    for _ in range(9):
        more = Site.build(points=site.points)
        more.see()
        maintain(more)
        maintain(more, cdn=cdn_of(more))
    watch(at(2))
    assert queries(at(3)) == before == (before[0], 1)


def test_what_is_over_for_an_hour_is_not_even_read() -> None:
    site = Site.build()
    maintain(site, -2 * 3600, 3600 - 1)
    assert not MaintenanceWindow.objects.since(NOW - START_LOOKBACK).exists()
    maintain(site, -2 * 3600, 3600 + 1)
    assert MaintenanceWindow.objects.since(NOW - START_LOOKBACK).count() == 1
