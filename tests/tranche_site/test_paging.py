"""People are called about what burns, once each, until somebody answers or it is over."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core import mail
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from customers.models import Event
from services.models import VantagePoint
from storms.models import CdnIncident
from tests import factories, forked
from tests.together import run_together
from tests.tranche_site import console_rows as rows
from tests.tranche_site.vendors import API_KEY, ROUTING_KEY, SLACK_PATH, Refused, Vendors, vendors
from tranche_site.floor import faults
from tranche_site.models import Page, PageNotice, PagingChannel
from tranche_site.paging import alerts, sending, sync
from tranche_site.paging.channels import VENDORS, Alarm, ChannelError

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
PRESSED = {"_form_submitted": "True"}
"""The button of a dialog."""
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


@pytest.fixture
def world(settings: Any) -> Iterator[Vendors]:
    settings.PAGING_ALLOW_PRIVATE = True
    settings.PUBLIC_URL = "https://console.example.net/"
    with vendors() as made:
        yield made
    faults.disarm()


def needs(world: Vendors, kind: str) -> dict[str, str]:
    return {
        "pagerduty": {"routing_key": ROUTING_KEY, "api_url": f"{world.base}/v2/enqueue"},
        "opsgenie": {"api_key": API_KEY, "api_url": world.base},
        "slack": {"url": world.base + SLACK_PATH},
        "email": {"to": "ann@example.net, bob@example.net"},
    }[kind]


def channel(world: Vendors, kind: str = "pagerduty", **kw: Any) -> PagingChannel:
    row = PagingChannel.objects.create(**{"name": kind, "kind": kind} | kw)
    row.seal(needs(world, kind))
    row.save()
    return row


def turn(now: datetime) -> None:
    sync.sync(now)
    sending.send_due(now)


def notices(action: str = "") -> list[tuple[str, str]]:
    found = PageNotice.objects.order_by("id").values_list("action", "state")
    return [pair for pair in found if action in ("", pair[0])]


def person() -> User:
    return User.objects.create_superuser("ann", "ann@example.net", "a long enough word")


def burn(**kw: Any) -> CdnIncident:
    return factories.incident(**{"confirmed_at": NOW, "started_at": NOW} | kw)


def put_out(row: CdnIncident, at: datetime) -> None:
    CdnIncident.objects.filter(pk=row.pk).update(ended_at=at)


# --- what burns -----------------------------------------------------------------------------------------------------


def keys(now: datetime = NOW) -> dict[str, str]:
    return {alert.key: alert.severity for alert in alerts.burning(now)}


def test_nothing_burns_in_an_empty_world(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(5):
        assert keys() == {}


def test_incidents_are_warnings_until_they_are_confirmed() -> None:
    suspected, confirmed = factories.incident(), burn()
    put_out(burn(), NOW)
    assert keys() == {f"incident:{suspected.pk}": "warning", f"incident:{confirmed.pk}": "critical"}


def hold(count: int, **kw: Any) -> None:
    for _ in range(count):
        held = {"wanted_at": NOW - MINUTE, "held_reason": "blast_radius: too many"} | kw
        rows.weight_change(rows.protected_domain().record_set, "held", **held)


def test_held_plans_of_an_incident_are_one_alert_and_others_one_a_service(django_assert_num_queries: Any) -> None:
    incident = burn()
    for _ in range(3):
        domain = rows.protected_domain()
        storm = factories.storm(service=domain.service, incident=incident)
        change = {"wanted_at": NOW - MINUTE, "held_reason": "blast_radius: too many"}
        rows.weight_change(domain.record_set, "held", storm=storm, **change)
    hold(2)
    found = keys()
    assert found.pop(f"held:incident:{incident.pk}") == "critical"
    assert sorted(key.rpartition(":")[0] for key in found) == ["held:service", "held:service", "incident"]
    hold(12)
    found = keys()
    assert sum(key.startswith("held:service:") for key in found) == alerts.MOST_SERVICES
    assert found["held:more"] == "critical"
    with django_assert_num_queries(5):
        alerts.burning(NOW)


def test_a_plan_that_was_let_go_or_held_for_a_moment_burns_not() -> None:
    hold(1, wanted_at=NOW)
    assert keys(NOW + 14 * SECOND) == {}
    assert len(keys(NOW + 15 * SECOND)) == 1
    hold(1)
    assert len(keys()) == 1
    rows.WeightChange.objects.update(state="wanted")
    assert keys() == {}


def test_points_without_a_vote_are_one_alert_a_region() -> None:
    well = {"last_probe_at": NOW}
    for region in ("eu", "eu", "eu", "na", "na"):
        factories.vantage_point(region=region, **well)
    factories.vantage_point(region="sa")  # it never probed: it is being set up
    assert keys() == {}
    eu, na = VantagePoint.objects.filter(region="eu").first(), VantagePoint.objects.filter(region="na").first()
    assert eu and na
    VantagePoint.objects.filter(pk=eu.pk).update(blind_since=NOW, blind_reason="canaries fail")
    assert keys(NOW + 30 * SECOND) == {}  # a moment's blindness wakes nobody
    VantagePoint.objects.filter(pk=na.pk).update(last_probe_at=NOW - 5 * MINUTE)
    assert keys(NOW + MINUTE) == {"sight:eu": "error", "sight:na": "critical"}
    VantagePoint.objects.update(state=VantagePoint.State.SHADOW)
    assert keys(NOW + MINUTE) == {}


def test_what_the_audit_found_burns_for_a_day() -> None:
    for text in ("one row", "two rows"):
        Event.objects.create(
            kind="selfcheck.violated", subject_type="invariant", subject_id=0, summary=f"I6 does not hold: {text}",
            payload={"id": "I6"}, created_at=NOW,
        )  # fmt: skip
    (alert,) = alerts.burning(NOW)
    assert (alert.key, alert.summary) == ("selfcheck:I6", "I6 does not hold: two rows")
    assert keys(NOW + timedelta(hours=27)) == {}


# --- pages ----------------------------------------------------------------------------------------------------------


def test_an_incident_is_one_page_from_its_beginning_to_its_end(world: Vendors) -> None:
    channel(world)
    incident = burn()
    for _ in range(25):
        factories.storm(incident=incident)
    for second in range(5):
        turn(NOW + second * SECOND)
    page = Page.objects.get()
    assert world.incidents == {page.dedup_key: "triggered"} and world.calls == 1
    (told,) = world.triggers
    assert told["payload"]["severity"] == "critical"
    assert told["client_url"] == f"https://console.example.net{page.path}"
    put_out(incident, NOW)
    turn(NOW + MINUTE)
    turn(NOW + 2 * MINUTE)
    page.refresh_from_db()
    assert (page.state, world.incidents, world.calls) == ("over", {page.dedup_key: "resolved"}, 2)


def test_it_is_repeated_until_somebody_answers(world: Vendors) -> None:
    channel(world, "slack")
    burn()
    for minute in range(0, 50, 5):
        turn(NOW + minute * MINUTE)
    assert notices("repeat") == [("repeat", "sent")] * 3
    page = Page.objects.get()
    assert sync.acknowledge(page, person(), NOW + 50 * MINUTE)
    assert not sync.acknowledge(page, User.objects.get(), NOW + 50 * MINUTE)
    for minute in range(50, 120, 5):
        turn(NOW + minute * MINUTE)
    said = [text.partition(" ")[2].partition(":")[0] for text in world.messages]
    assert said == [
        "CDN incident at " + str(CdnIncident.objects.get().cdn) + ", confirmed",
        *["Still burning"] * 3,
        "Seen by ann",
    ]


def test_whoever_acknowledged_less_is_called_again_when_it_grows_worse(world: Vendors) -> None:
    channel(world)
    channel(world, "opsgenie", name="only the worst", minimum_severity="critical", is_enabled=False)
    PagingChannel.objects.filter(name="only the worst").update(is_enabled=True)
    incident = factories.incident(started_at=NOW)
    sync.sync(NOW)
    assert {notice.channel.name for notice in PageNotice.objects.all()} == {"pagerduty"}
    page = Page.objects.get()
    PageNotice.objects.update(state="sent", attempts=1)
    sync.acknowledge(page, person(), NOW)
    CdnIncident.objects.filter(pk=incident.pk).update(confirmed_at=NOW)
    sync.sync(NOW + MINUTE)
    page.refresh_from_db()
    assert (page.severity, page.state, page.repeats) == ("critical", "burning", 1)
    found = {(notice.channel.name, notice.action) for notice in PageNotice.objects.pending()}
    assert found == {("pagerduty", "acknowledge"), ("only the worst", "trigger")}
    PageNotice.objects.update(state="sent")
    sync.sync(NOW + 20 * MINUTE)
    assert PageNotice.objects.filter(action="repeat").count() == 2
    sync.acknowledge(page, User.objects.get(), NOW + 21 * MINUTE)
    again = PageNotice.objects.filter(action="acknowledge", channel__name="pagerduty").order_by("id")
    assert [notice.number for notice in again] == [0, 1]


def test_what_nobody_has_heard_of_is_dropped_when_it_is_over(world: Vendors) -> None:
    channel(world)
    incident = burn()
    sync.sync(NOW)
    put_out(incident, NOW)
    turn(NOW + SECOND)
    assert notices() == [("trigger", "dropped")] and world.calls == 0


def test_what_somebody_may_have_heard_of_is_resolved(world: Vendors) -> None:
    channel(world)
    incident = burn()
    world.refusing.append(Refused(502, "bad gateway"))
    turn(NOW)
    put_out(incident, NOW)
    turn(NOW + SECOND)
    assert notices() == [("trigger", "dropped"), ("resolve", "sent")]


def test_the_same_burning_again_is_another_incident(world: Vendors) -> None:
    channel(world)
    point = factories.vantage_point(last_probe_at=NOW - 10 * MINUTE)
    turn(NOW)
    VantagePoint.objects.filter(pk=point.pk).update(last_probe_at=NOW)
    turn(NOW + MINUTE)
    turn(NOW + 5 * MINUTE)
    assert sorted(world.incidents.values()) == ["resolved", "triggered"]


def test_a_channel_that_is_added_meanwhile_is_told(world: Vendors) -> None:
    burn()
    turn(NOW)
    assert notices() == []
    channel(world, "opsgenie")
    turn(NOW + MINUTE)
    assert list(world.alerts.values()) == ["open"]


@pytest.mark.django_db(transaction=True)
def test_two_workers_make_one_page_and_tell_it_once(world: Vendors) -> None:
    channel(world)
    channel(world, "slack")
    burn()
    run_together(*[lambda: turn(NOW)] * 4)
    turn(NOW)
    assert Page.objects.count() == 1
    assert (len(world.triggers), len(world.messages)) == (1, 1)


# --- sending --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VENDORS)
def test_every_vendor_hears_of_beginning_answer_and_end(world: Vendors, kind: str) -> None:
    channel(world, kind)
    incident = burn(reason="it fails: <!channel> & *all*\r\nBcc: eve@example.net " + "é" * 3000)
    turn(NOW)
    page = Page.objects.get()
    turn(NOW + 15 * MINUTE)
    sync.acknowledge(page, person(), NOW + 16 * MINUTE)
    turn(NOW + 16 * MINUTE)
    seen = [dict(world.incidents), dict(world.alerts)]
    put_out(incident, NOW)
    turn(NOW + 17 * MINUTE)
    assert notices() == [(action, "sent") for action in ("trigger", "repeat", "acknowledge", "resolve")]
    assert PagingChannel.objects.get().trouble == ""
    if kind == "pagerduty":
        assert (seen[0], world.incidents) == ({page.dedup_key: "acknowledged"}, {page.dedup_key: "resolved"})
        assert len(world.triggers) == 2
    elif kind == "opsgenie":
        assert (seen[1], world.alerts) == ({page.dedup_key: "acknowledged"}, {page.dedup_key: "closed"})
        assert (world.created[0]["priority"], len(world.created[0]["message"])) == ("P1", 130)
    elif kind == "slack":
        assert len(world.messages) == 4 and "<!channel>" not in "".join(world.messages)
    else:
        assert len(mail.outbox) == 4
        for sent in mail.outbox:
            assert sent.recipients() == ["ann@example.net", "bob@example.net"]
            assert "\n" not in sent.subject and "Bcc" not in dict(sent.message().items())
        assert len({sent.extra_headers["References"] for sent in mail.outbox}) == 1


def test_a_vendor_that_is_down_is_tried_again_and_again(world: Vendors) -> None:
    row = channel(world)
    burn()
    world.refusing += [Refused(503, "later"), Refused(429, "slow down", Retry_After="40")]
    turn(NOW)
    row.refresh_from_db()
    assert row.trouble == "answered 503: later" and row.trouble_since == NOW
    turn(NOW + 4 * SECOND)
    assert world.calls == 1
    turn(NOW + 5 * SECOND)
    turn(NOW + 40 * SECOND)
    assert world.calls == 2  # it had asked for 40 seconds
    turn(NOW + 45 * SECOND)
    row.refresh_from_db()
    assert (notices(), row.trouble) == ([("trigger", "sent")], "")


def test_what_a_vendor_refuses_is_said_and_tried_with_the_next_repeat(world: Vendors) -> None:
    row = channel(world)
    row.seal({"routing_key": "f" * 32, "api_url": f"{world.base}/v2/enqueue"})
    row.save()
    burn()
    turn(NOW)
    turn(NOW + 10 * MINUTE)
    row.refresh_from_db()
    assert notices() == [("trigger", "failed")] and "Invalid routing key" in row.trouble and world.calls == 1
    row.seal(needs(world, "pagerduty"))
    row.save(update_fields=["sealed_credentials"])
    turn(NOW + 15 * MINUTE)
    assert notices("repeat") == [("repeat", "sent")] and len(world.incidents) == 1


def test_one_page_keeps_its_order_and_holds_no_other_up(world: Vendors) -> None:
    channel(world)
    first = burn()
    world.refusing.append(Refused(500, "oops"))
    turn(NOW)
    burn()
    sync.sync(NOW + SECOND)
    sending.send_due(NOW + SECOND)
    assert [state for _, state in notices("trigger")] == ["pending", "sent"]
    sync.acknowledge(Page.objects.get(key=f"incident:{first.pk}"), person(), NOW + SECOND)
    sending.send_due(NOW + 2 * SECOND)
    assert [told["event_action"] for told in world.triggers] == ["trigger"]


def test_waits_grow_to_five_minutes() -> None:
    assert [sending.wait_seconds(n) for n in (1, 2, 3, 4, 5, 6, 60)] == [5, 15, 30, 60, 120, 300, 300]
    assert sending.wait_seconds(1, 20) == 20 and sending.wait_seconds(1, 1e9) == 3600


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_dies_in_between_calls_once_more_under_the_same_key(world: Vendors) -> None:
    channel(world)
    burn()
    sync.sync(NOW)

    def die() -> None:
        faults.arm("paging.sent", forked.die)
        sending.send_due(NOW)

    assert forked.Child(die).wait() == "killed"
    sending.send_due(NOW + MINUTE)
    assert world.calls == 1  # the dead worker's lease still runs
    sending.send_due(NOW + sending.LEASE + SECOND)
    assert (len(world.triggers), len(world.incidents), notices()) == (2, 1, [("trigger", "sent")])


@pytest.mark.parametrize("kind", ["pagerduty", "opsgenie", "slack"])
def test_nobody_is_led_into_our_own_networks(world: Vendors, settings: Any, kind: str) -> None:
    settings.PAGING_ALLOW_PRIVATE = False
    channel(world, kind)
    burn()
    turn(NOW)
    assert world.calls == 0 and PagingChannel.objects.get().trouble.startswith("egress guard:")
    assert VENDORS[kind].problems(needs(world, kind)) != {}


def test_mail_that_can_not_be_sent_is_an_error_of_its_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    alarm = Alarm("trigger", "k", "critical", "it burns", "", NOW)
    for error, permanent in ((smtplib.SMTPServerDisconnected(), False), (smtplib.SMTPRecipientsRefused({}), True)):

        def fail(*_: Any, error: Exception = error) -> int:
            raise error

        monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", fail)
        with pytest.raises(ChannelError) as raised:
            VENDORS["email"].send(alarm, {"to": "ann@example.net"})
        assert raised.value.permanent == permanent


def test_credentials_that_do_not_open_are_said_and_are_rotated_with_the_others(world: Vendors) -> None:
    row = channel(world)
    PagingChannel.objects.update(sealed_credentials="v1.other.AAAA")
    burn()
    turn(NOW)
    row.refresh_from_db()
    assert world.calls == 0 and row.trouble
    PagingChannel.objects.update(sealed_credentials="")
    row.refresh_from_db()
    row.seal(needs(world, "pagerduty"))
    row.save()
    out = StringIO()
    call_command("rotate_credentials", stdout=out)
    assert "0 accounts" in out.getvalue()


# --- the console ----------------------------------------------------------------------------------------------------


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(person())
    return client


def test_a_page_is_answered_in_the_console(world: Vendors, console: Client) -> None:
    channel(world)
    burn()
    turn(NOW)
    page = Page.objects.get()
    url = reverse("admin:tranche_site_page_acknowledge", args=[page.pk])
    listed = console.get(reverse("admin:tranche_site_page_changelist")).content.decode()
    assert url in listed and "trigger: sent" in listed
    assert console.get(url).status_code == 200 and not PageNotice.objects.filter(action="acknowledge").exists()
    assert console.post(url, PRESSED).status_code == 302
    turn(timezone.now() + MINUTE)
    page.refresh_from_db()
    assert (page.state, str(page.acknowledged_by), world.incidents[page.dedup_key]) == (
        "acknowledged",
        "ann",
        "acknowledged",
    )
    assert console.post(url, PRESSED).status_code == 403


def test_a_page_that_is_handed_back_calls_people_again(world: Vendors, console: Client) -> None:
    channel(world)
    burn()
    turn(NOW)
    page = Page.objects.get()
    back = reverse("admin:tranche_site_page_hand_back", args=[page.pk])
    assert console.post(back, PRESSED | {"reason": "mine"}).status_code == 403  # nobody is on it
    sync.acknowledge(page, User.objects.get(), NOW + SECOND)
    turn(NOW + 20 * MINUTE)
    assert not PageNotice.objects.filter(action="repeat").exists()
    assert console.post(back, PRESSED | {"reason": "the wrong page"}).status_code == 302
    page.refresh_from_db()
    assert (page.state, page.acknowledged_by) == ("burning", None)
    turn(timezone.now() + MINUTE)
    assert PageNotice.objects.filter(action="repeat", state="sent").count() == 1
    assert not sync.hand_back(page, NOW)


def test_many_are_answered_at_once_by_those_who_may(console: Client) -> None:
    burn(), burn()
    sync.sync(NOW)
    chosen = {"action": "acknowledge_selected", "_selected_action": list(Page.objects.values_list("pk", flat=True))}
    url = reverse("admin:tranche_site_page_changelist")
    reader = User.objects.create_user("eve", "", "a long enough word", is_staff=True)
    reader.user_permissions.add(Permission.objects.get(codename="view_page", content_type__app_label="tranche_site"))
    stranger = Client()
    stranger.force_login(reader)
    stranger.post(url, chosen)
    assert Page.objects.unanswered().count() == 2
    console.post(url, chosen)
    assert Page.objects.unanswered().count() == 0


def form(kind: str, **kw: str) -> dict[str, str]:
    return {"name": "night shift", "kind": kind, "minimum_severity": "warning", "is_enabled": "on"} | kw


def test_a_channel_is_made_changed_and_tried_and_shows_no_secret(world: Vendors, console: Client) -> None:
    given = needs(world, "opsgenie")
    console.post(reverse("admin:tranche_site_pagingchannel_add"), form("opsgenie", **given))
    row = PagingChannel.objects.get()
    assert row.settings() == given and API_KEY not in row.sealed_credentials
    url = reverse("admin:tranche_site_pagingchannel_change", args=[row.pk])
    shown = console.get(url).content.decode()
    assert API_KEY not in shown and "sha256:" in shown
    console.post(url, form("opsgenie") | {"minimum_severity": "critical"})
    row.refresh_from_db()
    assert (row.minimum_severity, row.settings()) == ("critical", given)
    # A key is not sent elsewhere by whoever can't name it.
    assert "give it again" in console.post(url, form("opsgenie", api_url="https://evil.example/")).content.decode()
    tried = reverse("admin:tranche_site_pagingchannel_try_it", args=[row.pk])
    console.post(tried, PRESSED)
    assert list(world.alerts.values()) == ["closed"]
    world.refusing.append(Refused(401, "who are you"))
    assert "did not take it: answered 401: who are you" in console.post(tried, PRESSED, follow=True).content.decode()


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("pagerduty", {}, "32 letters and digits"),
        ("pagerduty", {"routing_key": "short"}, "32 letters and digits"),
        ("pagerduty", {"routing_key": ROUTING_KEY, "to": "a@example.net"}, "no such setting"),
        ("opsgenie", {"api_key": API_KEY, "api_url": "http://api.opsgenie.com"}, "begins with https://"),
        ("slack", {"url": "https://ann:pw@hooks.slack.com/services/x"}, "name and password"),
        ("slack", {"url": "https://hooks.slack.com:22/x"}, "443"),
        ("email", {"to": "ann@example.net, bob"}, "bob is no address"),
        ("email", {"to": ""}, "1 to 20 addresses"),
    ],
)
def test_a_channel_that_could_not_work_is_refused_by_field(
    console: Client, kind: str, given: dict[str, str], said: str
) -> None:
    answer = console.post(reverse("admin:tranche_site_pagingchannel_add"), form(kind, **given))
    assert answer.status_code == 200 and said in answer.content.decode()
    assert not PagingChannel.objects.exists()
