"""The operations room: what it counts, what storms cost so far, and what is normal."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.models import UsageBucket
from customers.models import WebhookDelivery, WebhookEndpoint
from storms.models import Finding
from tests import factories
from tests.billing.story import billed_customer
from tests.tranche_site import console_rows as rows
from tranche_site import roles
from tranche_site.console.room import burning, counted, normal, reading
from tranche_site.floor import seen

pytestmark = pytest.mark.django_db

LIVE = "/admin/dashboard/live"


def texts(user: Any = None) -> list[str]:
    return [notice.text for notice in counted.read(user or rows.operator(), timezone.now()).notices]


def test_every_kind_that_is_there_is_told_once_and_nothing_else() -> None:
    user = rows.operator()
    assert texts(user) == []
    rows.everything()
    assert sorted(texts(user)) == sorted(EVERYTHING)


EVERYTHING = """
1 CDN incident is open
1 storm is raging
1 page has no answer
1 vantage point is blind or silent
1 plan waits for an operator
1 finding is open
1 freeze is in force
1 webhook of the last week came to nothing
1 draft is past its grace period
1 dispute is open
Canaries stand on 0 of the 3 networks that blindness is told by
1 pin is in force
1 service had no good drill in 30 days
""".strip().splitlines()


def test_a_count_says_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "MOST", 3)
    assert counted.said(2, "finding is open", "findings are open") == "2 findings are open"
    service = factories.service()
    now = timezone.now()
    for kind in ("blocked", "latency", "certificate", "partial"):
        Finding.objects.create(
            customer=service.customer, service=service, kind=kind, reason="x", first_seen_at=now, last_seen_at=now
        )
    assert "3 or more findings are open" in texts()


def test_what_burns_comes_first_and_the_worst_of_it() -> None:
    rows.everything()
    notices = counted.read(rows.operator(), timezone.now()).notices
    order = [(not notice.burns, -counted.TONES.index(notice.tone)) for notice in notices]
    assert order == sorted(order)
    assert notices[0].burns and not notices[-1].burns


def test_webhooks_that_came_to_nothing_are_told_for_a_week() -> None:
    customer = factories.customer()
    endpoint = WebhookEndpoint.objects.create(customer=customer, url="https://hooks.example/x")
    from customers.models import Event

    for n, days in enumerate((1, 8)):
        event = Event.record("storm.opened", customer, "x", customer_id=customer.pk)
        WebhookDelivery.objects.create(
            customer=customer, endpoint=endpoint, event=event, sequence=n, state="dead",
            created_at=timezone.now() - timedelta(days=days),
        )  # fmt: skip
    assert "1 webhook of the last week came to nothing" in texts()


def test_a_storm_tells_its_minutes_what_it_moved_and_what_cover_there_is() -> None:
    customer, service = billed_customer()
    now = timezone.now()
    storm = factories.storm(service=service, started_at=now - timedelta(minutes=12))
    backup = service.domains.get().targets.get(role="backup")
    own = {"customer": customer, "service": service, "target": backup, "requests": 1}
    for minutes, size in ((5, 2_000_000), (300, 7_000_000)):
        at = (now - timedelta(minutes=minutes)).replace(second=0, microsecond=0)
        UsageBucket.objects.create(**own, minute_at=at, minutes=15, bytes=size)
    (told,) = burning.storms(rows.operator(), now)
    assert (told.row.pk, told.minutes, told.moved, told.cover) == (storm.pk, 12, "2.00 MB", "")
    clerk = User.objects.create_user("clerk", is_staff=True)
    assert burning.storms(clerk, now) == []


def test_of_many_services_traffic_is_that_of_those_in_a_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = rows.protected_domain()
    path = domain.targets.get(role="primary")
    UsageBucket.objects.create(
        customer=domain.customer, service=domain.service, target=path, bytes=5, requests=1, minutes=15,
        minute_at=timezone.now().replace(second=0, microsecond=0),
    )  # fmt: skip
    user, now = rows.operator(), timezone.now()
    assert reading.read(user, now).traffic
    monkeypatch.setattr(reading, "MOST_PATHS", 1)
    room = reading.read(user, now)
    assert room.traffic is None and room.traffic_is_of_storms
    factories.storm(service=domain.service)
    assert reading.read(user, now).traffic


def figures() -> dict[str, normal.Figure]:
    return {figure.name: figure for figure in normal.read(timezone.now())}


def test_what_is_normal_and_what_is_not() -> None:
    found = figures()
    assert (found["probes"].value, found["DNS writes due"].value, found["webhooks due"].value) == (
        "0.0 a second",
        "none",
        "none",
    )
    domain = rows.protected_domain()
    now = timezone.now()
    rows.weight_change(domain.record_set, state="wanted", next_attempt_at=now - timedelta(minutes=5), observed_at=None)
    late = figures()["DNS writes due"]
    assert (late.value, late.tone) == ("since 5 min", "warning")


def test_a_broker_that_is_away_is_told_and_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise OSError("no route")

    monkeypatch.setattr(seen, "broker_client", away)
    found = figures()
    assert (found["broker"].value, found["broker"].tone) == ("does not answer", "danger")
    assert "probes" in found


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.44, "0.4 s"), (11.6, "12 s"), (240, "4 min"), (7200, "2 h"), (259_200, "3 days")]
)
def test_ages_in_short(seconds: float, said: str) -> None:
    assert normal.short(seconds) == said


def test_an_operator_gets_it_with_twelve_queries_whatever_there_is() -> None:
    roles.seed()
    rows.everything()
    clerk = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    clerk.groups.set(Group.objects.filter(name="Tranche: operator"))
    client = Client()
    client.force_login(clerk)
    client.get(LIVE)  # the first page of a session notes when it began
    with CaptureQueriesContext(connection) as queries:
        assert client.get(LIVE).status_code == 200
    assert len(queries) <= 12


def test_nobody_is_told_nothing() -> None:
    rows.everything()
    found = counted.read(AnonymousUser(), timezone.now())
    assert (found.notices, found.paths, found.points) == ([], {}, [])
