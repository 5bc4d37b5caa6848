"""One incident for what fails at one CDN: when it is suspected, what confirms it, and when it is over."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from customers.models import Event
from services.models import Cdn, Service, Target
from storms import incidents
from storms.models import CdnIncident, PathVerdict, StormEvent
from storms.watch import watch
from tests import factories
from tests.storms.test_watch import NOW, Site, at
from tests.tranche_site import console_rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def cdn() -> Cdn:
    return factories.cdn()


def hit(cdn: Cdn, *, customer: Any = None, verdict: str = "DOWN", **storm: Any) -> Service:
    """A service whose primary on this CDN is DOWN, and with fields of a storm in one."""
    service = factories.service(**({"customer": customer} if customer else {}))
    target = factories.target("primary", domain=factories.domain(service=service), cdn=cdn)
    console_rows.verdict(target, verdict)
    if storm:
        factories.storm(service=service, cdn=cdn, **storm)
    return service


def tend(minutes: float = 0) -> CdnIncident | None:
    incidents.tend(timezone.now() + timedelta(minutes=minutes))
    return CdnIncident.objects.first()


def told() -> list[str]:
    return list(Event.objects.filter(kind__startswith="incident.").order_by("id").values_list("kind", flat=True))


def test_a_storm_is_an_incident_that_one_customer_alone_only_suspects(cdn: Cdn) -> None:
    hit(cdn, regions=["eu"])
    hit(cdn, verdict="UP")
    incident = tend()
    assert incident and (incident.cdn, incident.state, incident.kind, incident.regions) == (
        cdn,
        "suspected",
        "fault",
        ["eu"],
    )
    assert (incident.services_hit, incident.services_total, incident.share_hit) == (1, 2, 0.5)
    assert StormEvent.objects.get().incident == incident
    assert told() == ["incident.opened"]
    assert Event.objects.get(kind="incident.opened").customer is None


def test_many_storms_are_one_incident_and_one_alert(cdn: Cdn) -> None:
    for region in ("eu", "na", "eu", "sa", "eu"):
        hit(cdn, regions=[region])
        tend()
    incident = tend()
    assert incident and (CdnIncident.objects.count(), incident.services_hit, incident.regions) == (
        1,
        5,
        ["eu", "na", "sa"],
    )
    assert {storm.incident for storm in StormEvent.objects.all()} == {incident}
    assert told() == ["incident.opened", "incident.confirmed"]
    assert incident.witnesses == ["3 unrelated customers are hit"]
    assert [entry.action for entry in incident.entries.all()] == ["opened", "grew", "grew", "confirmed", "grew", "grew"]


def test_services_of_one_customer_are_one_witness(cdn: Cdn) -> None:
    customer = factories.customer()
    for _ in range(4):
        hit(cdn, customer=customer, regions=["eu"])
    incident = tend()
    assert incident and (incident.services_hit, incident.state) == (4, "suspected")


def test_a_reference_site_of_ours_is_enough(cdn: Cdn) -> None:
    site = factories.target("reference", cdn=cdn, hostname="reference.example.net")
    console_rows.verdict(site, "DOWN")
    incident = tend()
    assert incident and (incident.state, incident.services_hit) == ("confirmed", 0)
    assert incident.witnesses == ["reference site reference.example.net is DOWN"]


def test_a_person_can_confirm_it(cdn: Cdn) -> None:
    hit(cdn, regions=["eu"])
    incident = tend()
    assert incident
    incidents.confirm(incident, ["their status page says so"], timezone.now(), by="kim")
    incidents.note(incident, "called them", timezone.now(), "kim")
    assert (incident.state, incident.witnesses) == ("confirmed", ["kim: their status page says so"])
    assert [(entry.action, entry.by) for entry in incident.entries.all()] == [
        ("opened", ""), ("confirmed", "kim"), ("note", "kim"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["origin_fault", "always_failing"])
def test_a_path_is_no_witness_where_its_origin_fails_or_where_it_never_worked(cdn: Cdn, kind: str) -> None:
    for _ in range(3):
        factories.finding(service=hit(cdn), kind=kind)
    assert tend() is None


def test_bad_paths_of_three_customers_are_one_even_before_a_storm(cdn: Cdn) -> None:
    hit(cdn), hit(cdn)
    assert tend() is None
    hit(cdn)
    incident = tend()
    assert incident and (incident.state, incident.services_hit) == ("confirmed", 3)


def test_an_old_verdict_is_no_witness(cdn: Cdn) -> None:
    for _ in range(3):
        hit(cdn)
    assert tend(minutes=3) is None


def test_another_cdn_has_another_incident(cdn: Cdn) -> None:
    hit(cdn, regions=["eu"])
    hit(factories.cdn(), regions=["eu"])
    tend()
    assert CdnIncident.objects.count() == 2


def test_it_is_over_after_a_quiet_quarter_of_an_hour_and_what_comes_before_belongs_to_it(cdn: Cdn) -> None:
    hit(cdn, regions=["eu"])
    first = tend()
    assert first
    now = timezone.now()
    StormEvent.objects.update(ended_at=now)
    Target.objects.get(role="primary").verdict.delete()
    tend(14)
    first.refresh_from_db()
    assert first.state == "suspected"
    hit(cdn, regions=["eu"], started_at=now)
    tend(14)
    StormEvent.objects.update(ended_at=now)
    tend(28)
    assert CdnIncident.objects.open().count() == 1
    tend(30)
    first.refresh_from_db()
    assert (first.state, CdnIncident.objects.count()) == ("over", 1)
    assert first.ended_at == first.last_bad_at
    assert told()[-1] == "incident.over"
    hit(cdn, regions=["eu"], started_at=now + timedelta(minutes=31))
    tend(31)
    assert CdnIncident.objects.count() == 2


def test_a_storm_by_hand_is_no_witness(cdn: Cdn) -> None:
    hit(cdn, verdict="UP", kind="manual", attribution="manual")
    assert tend() is None


def test_the_watch_opens_one_and_a_calm_look_costs_as_much_as_ever() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    incident = CdnIncident.objects.get()
    assert (incident.detected_at, incident.started_at) == (NOW, at(-50))
    assert site.storm.incident == incident


def test_what_is_bad_for_weeks_is_no_incident(cdn: Cdn) -> None:
    for _ in range(3):
        service = hit(cdn)
        factories.finding(
            service=service, kind="blocked", target=Target.objects.get(domain__service=service),
            first_seen_at=timezone.now() - timedelta(days=20),
        )  # fmt: skip
    PathVerdict.objects.update(since=timezone.now() - timedelta(days=20))
    assert tend() is None


def test_an_outage_of_hours_goes_on_to_be_one(cdn: Cdn) -> None:
    for _ in range(3):
        hit(cdn, regions=["eu"])
    tend()
    PathVerdict.objects.update(evaluated_at=timezone.now() + timedelta(hours=5))
    incident = tend(minutes=300)
    assert incident and (incident.state, CdnIncident.objects.count()) == ("confirmed", 1)
    assert timezone.now() + timedelta(hours=4) < incident.last_bad_at
