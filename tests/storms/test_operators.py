"""What a person may do to a storm, and what is refused."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from customers.models import Event
from services.models import ServiceDomain
from storms import operators
from storms.models import StormEvent
from storms.watch import watch
from tests import factories
from tests.storms.test_watch import NOW, Site, at

pytestmark = pytest.mark.django_db


def entries(storm: StormEvent) -> list[tuple[str, str, str]]:
    return [(entry.action, entry.by, entry.reason) for entry in storm.entries.all()]


def test_a_storm_by_hand_is_marked_moves_traffic_and_is_ended_by_hand() -> None:
    site = Site.build()
    storm = operators.declare(site.policy.service, "visitors complain", "kim", NOW)
    assert (storm.kind, storm.attribution, storm.is_armed, storm.state) == ("manual", "manual", True, "raging")
    assert (storm.cdn, storm.started_at) == (site.targets["primary"].cdn, NOW)
    assert StormEvent.objects.moving_traffic().get() == storm
    site.see(-600, 3600)
    watch(at(3600))  # the probes see nothing, and that does not end it
    storm.refresh_from_db()
    assert storm.state == "raging"
    operators.finish(storm, "all quiet", "lee", at(3700))
    storm.refresh_from_db()
    assert (storm.state, storm.ended_at, storm.closed_at) == ("closed", at(3700), at(3700))
    assert storm.spells == [[NOW.isoformat(), at(3700).isoformat()]]
    assert entries(storm) == [("declare", "kim", "visitors complain"), ("finish", "lee", "all quiet")]
    assert list(Event.objects.order_by("id").values_list("kind", flat=True)) == ["storm.opened", "storm.closed"]


def test_there_is_one_at_a_time_and_something_to_protect() -> None:
    site = Site.build()
    operators.declare(site.policy.service, "a", "kim", NOW)
    with pytest.raises(ValidationError, match="open for this service already"):
        operators.declare(site.policy.service, "b", "lee", NOW)
    with pytest.raises(ValidationError, match="nothing to move"):
        operators.declare(factories.service(), "c", "lee", NOW)
    ServiceDomain.objects.update(verified_at=None)
    with pytest.raises(ValidationError, match="nothing to move"):
        operators.declare(site.policy.service, "d", "lee", NOW)
    assert StormEvent.objects.count() == 1


def test_a_storm_that_the_probes_still_see_is_not_ended_by_hand() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    with pytest.raises(ValidationError, match="still DOWN"):
        operators.finish(site.storm, "enough", "kim", at(5))
    assert site.storm.state == "raging"
    site.see(10, 70)
    watch(at(70))
    assert site.storm.state == "raging"  # not good for long enough yet
    operators.finish(site.storm, "enough", "kim", at(75))
    assert (site.storm.state, site.storm.ended_at, site.storm.closing_reason) == (
        "closed", at(75), "ended by kim: enough"
    )  # fmt: skip
    with pytest.raises(ValidationError, match="closed already"):
        operators.finish(site.storm, "again", "kim", at(80))


def test_seeing_it_and_noting_something_changes_nothing_else() -> None:
    site = Site.build()
    site.fail()
    watch(NOW)
    before = StormEvent.objects.values().get()
    operators.acknowledge(site.storm, "on it", "kim", at(1))
    operators.acknowledge(site.storm, "me too", "lee", at(2))
    operators.annotate(site.storm, "their status page is green", "kim", at(3))
    assert StormEvent.objects.values().get() == before | {"acknowledged_at": at(1)}
    assert entries(site.storm)[1:] == [
        ("acknowledge", "kim", "on it"), ("acknowledge", "lee", "me too"), ("note", "kim", "their status page is green"),
    ]  # fmt: skip
