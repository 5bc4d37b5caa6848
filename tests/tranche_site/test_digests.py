"""Events by mail: one mail, not 2,800."""

from __future__ import annotations

import smtplib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.db.models import Model

from customers.models import Customer, Event
from customers.models.mailed import MAILED
from tests import factories, forked
from tests.together import run_together
from tranche_site.digests import collecting, mailing, timing
from tranche_site.floor import faults
from tranche_site.models import Digest, DigestEntry

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
STAFF = "ops@example.net"


@pytest.fixture(autouse=True)
def _staff(settings: Any) -> None:
    settings.STAFF_MAIL = [STAFF]
    settings.PUBLIC_URL = "https://console.example.net"


def customer(**kw: Any) -> Customer:
    return factories.customer(**{"billing_email": "books@example.org"} | kw)


def happen(kind: str, subject: Model, owner: Customer | None, count: int = 1, summary: str = "it happened") -> None:
    """To so many subjects of the same type."""
    rows = [
        Event.about(kind, subject, summary, customer_id=owner.pk if owner else None, n=number)
        for number in range(count)
    ]
    for number, row in enumerate(rows):
        row.subject_id += number
    Event.objects.bulk_create(rows)


def turn(now: datetime) -> None:
    collecting.collect(now)
    mailing.mail_due(now)
    mailing.tidy(now)


def subjects() -> list[str]:
    return [sent.subject for sent in mail.outbox]


# --- when -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pending", "last", "is_over", "last_was_end", "due"),
    [
        (None, None, False, False, None),
        (NOW, None, False, False, NOW + MINUTE),
        (NOW, NOW - 5 * MINUTE, False, False, NOW + 25 * MINUTE),
        (NOW, NOW - 90 * MINUTE, False, False, NOW + MINUTE),
        (NOW, NOW - 5 * MINUTE, True, False, NOW + MINUTE),  # the end is told soon
        (NOW, NOW - 5 * MINUTE, True, True, NOW + 25 * MINUTE),  # but not two in a row
    ],
)
def test_when_a_mail_is_due(
    pending: datetime | None, last: datetime | None, is_over: bool, last_was_end: bool, due: datetime | None
) -> None:
    assert timing.due_at(pending, last, is_over=is_over, last_was_end=last_was_end) == due


# --- how few --------------------------------------------------------------------------------------------------------


def test_an_incident_of_hundreds_of_services_is_one_mail_to_staff_and_one_a_customer() -> None:
    incident, first, second = factories.incident(), customer(), customer(alert_email="night@example.org")
    happen("incident.opened", incident, None)
    for owner, count in ((first, 700), (second, 3)):
        happen("storm.opened", factories.storm(service=factories.service(customer=owner)), owner, count)
    for seconds in range(0, 120, 30):
        turn(NOW + seconds * SECOND)
    assert sorted((sent.to[0], sent.subject) for sent in mail.outbox) == [
        ("books@example.org", f"[Tranche] {first}: 700 storms began"),
        ("night@example.org", f"[Tranche] {second}: 3 storms began"),
        (STAFF, "[Tranche] 1 CDN incident began"),
    ]
    assert not Event.objects.filter(awaits_mail=True).exists()
    assert DigestEntry.objects.filter(mailed_at=None).count() == 0


def test_a_story_has_a_mail_at_its_beginning_every_half_an_hour_and_at_its_end() -> None:
    owner = customer()
    storm = factories.storm(service=factories.service(customer=owner))
    happen("storm.opened", storm, owner)
    for minute in range(180):
        now = NOW + minute * MINUTE
        if minute < 70 and minute % 5 == 4:
            happen("finding.blocked", storm, owner)
        if minute == 75:
            happen("storm.ended", storm, owner)
            happen("storm.closed", storm, owner)
        turn(now)
    assert subjects() == [
        f"[Tranche] {owner}: {text}"
        for text in (
            "1 storm began", "6 paths blocked", "6 paths blocked", "1 storm ended, 1 storm closed, 2 paths blocked (over)",
        )
    ]  # fmt: skip
    assert ["It goes on." in sent.body for sent in mail.outbox] == [True, True, True, False]
    digest = Digest.objects.get()
    assert digest.closed_at == NOW + (75 + 30) * MINUTE


def test_a_storm_that_flickers_is_not_a_mail_each_time() -> None:
    owner = customer()
    storm = factories.storm(service=factories.service(customer=owner))
    for minute in range(60):
        happen("storm.opened" if minute % 2 == 0 else "storm.closed", storm, owner)
        turn(NOW + minute * MINUTE)
    assert len(mail.outbox) <= 5


def test_what_is_nobodys_story_is_told_once_and_its_digest_closes() -> None:
    owner = customer()
    happen("invoice.finalized", owner, owner, summary="INV-1 was issued")
    for minute in range(40):
        turn(NOW + minute * MINUTE)
    (sent,) = mail.outbox
    assert (sent.subject, "INV-1 was issued" in sent.body) == (f"[Tranche] {owner}: 1 invoice issued", True)
    assert "console.example.net" not in sent.body  # customers have no console
    assert Digest.objects.get().closed_at
    turn(NOW + timedelta(days=31))
    assert not Digest.objects.exists()


# --- who ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"wants_alerts": False}, {"billing_email": ""}, {"deleted_at": NOW}])
def test_who_is_not_written_to(fields: dict[str, Any]) -> None:
    owner = customer(**fields)
    happen("storm.opened", owner, owner)
    turn(NOW)
    turn(NOW + 5 * MINUTE)
    assert mail.outbox == [] and not Event.objects.filter(awaits_mail=True).exists()


def test_each_hears_of_its_own_only() -> None:
    owner, other = customer(), customer(billing_email="other@example.org")
    happen("storm.opened", owner, owner, summary="a storm of mine")
    happen("vantage_point.blind", factories.vantage_point(), None, summary="we are blind")
    happen("weights.held", other, other, summary="a plan of theirs")
    turn(NOW)
    turn(NOW + MINUTE)
    told = {sent.to[0]: sent.body for sent in mail.outbox}
    assert "a storm of mine" in told["books@example.org"] and "theirs" not in told["books@example.org"]
    assert "a plan of theirs" in told["other@example.org"] and "mine" not in told["other@example.org"]
    assert "we are blind" in told[STAFF] and "a plan of theirs" in told[STAFF] and "mine" not in told[STAFF]
    assert "https://console.example.net/admin/" in told[STAFF]


def test_what_is_not_mailed_does_not_wait_for_it() -> None:
    owner = customer()
    happen("weights.observed", owner, owner)
    Event.record("storm.opened", owner, "x", customer_id=owner.pk)
    kinds = Event.objects.filter(awaits_mail=True).values_list("kind", flat=True)
    assert list(kinds) == ["storm.opened"]


def test_every_kind_that_is_mailed_is_in_the_catalogue() -> None:
    catalogue = pytest.importorskip("customers.catalogue")
    assert set(MAILED) <= set(catalogue.KINDS)


# --- what -----------------------------------------------------------------------------------------------------------


def test_nothing_in_an_event_becomes_a_header_or_another_event() -> None:
    owner = customer(name="Acme\r\nBcc: eve@example.net")
    happen("storm.opened", owner, owner, summary="bad\r\n\r\n2026-01-01 00:00:00 UTC  all is well \x1b[31m<b>")
    turn(NOW)
    turn(NOW + MINUTE)
    (sent,) = mail.outbox
    raw = sent.message()
    assert raw["Bcc"] is None and sent.recipients() == ["books@example.org"]
    assert [line for line in sent.body.splitlines() if line.startswith("2026-01-01")] == []
    assert "\x1b" not in sent.body and "<b>" in sent.body


def test_a_long_one_names_the_first_and_counts_the_rest() -> None:
    owner = customer()
    happen("storm.opened", owner, owner, 60)
    for kind in ("storm.ended", "weights.held", "drill.failed", "api_key.issued", "invoice.finalized"):
        happen(kind, owner, owner)
    turn(NOW)
    turn(NOW + MINUTE)
    sent = next(sent for sent in mail.outbox if sent.to != [STAFF])
    assert sent.subject.endswith("60 storms began, 1 storm ended, 1 plan held, 1 drill failed and 2 more")
    assert sent.body.count("it happened") == mailing.MOST_LINES and "… and 15 more" in sent.body


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_mail_that_does_not_go_is_tried_again_and_holds_no_other_up(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = customer(), customer(billing_email="other@example.org")
    happen("storm.opened", first, first)
    happen("storm.opened", second, second)
    from django.core.mail.backends.locmem import EmailBackend

    send = EmailBackend.send_messages

    def refuse(self: Any, messages: Any) -> int:
        if messages[0].to == ["books@example.org"]:
            raise smtplib.SMTPServerDisconnected("gone")
        return send(self, messages)

    monkeypatch.setattr(EmailBackend, "send_messages", refuse)
    turn(NOW)
    turn(NOW + MINUTE)
    turn(NOW + MINUTE + SECOND)
    assert [sent.to for sent in mail.outbox] == [["other@example.org"]]
    row = Digest.objects.get(recipient="books@example.org")
    assert (row.attempts, row.error, row.due_at) == (1, "SMTPServerDisconnected: gone", NOW + 2 * MINUTE)
    monkeypatch.undo()
    turn(NOW + 2 * MINUTE)
    row.refresh_from_db()
    assert (len(mail.outbox), row.attempts, row.error) == (2, 0, "")


def test_an_address_that_never_takes_any_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = customer()
    happen("storm.opened", owner, owner)

    def refuse(*_: Any) -> int:
        raise smtplib.SMTPRecipientsRefused({})

    monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", refuse)
    collecting.collect(NOW)
    for hours in range(100):
        mailing.mail_due(NOW + hours * 60 * MINUTE + MINUTE)
    row = Digest.objects.get()
    assert (row.attempts, row.due_at) == (mailing.MOST_ATTEMPTS, None) and row.closed_at


@pytest.mark.django_db(transaction=True)
def test_workers_at_once_mail_once() -> None:
    owner = customer()
    happen("storm.opened", owner, owner, 600)
    run_together(*[lambda: turn(NOW)] * 3)
    turn(NOW)
    run_together(*[lambda: turn(NOW + MINUTE)] * 3)
    assert subjects() == [f"[Tranche] {owner}: 600 storms began"]
    assert DigestEntry.objects.count() == 600


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_dies_after_the_mail_was_taken_sends_it_again() -> None:
    owner = customer()
    happen("storm.opened", owner, owner)
    collecting.collect(NOW)

    def die() -> None:
        faults.arm("digests.sent", forked.die)
        mailing.mail_due(NOW + MINUTE)

    assert forked.Child(die).wait() == "killed"
    mailing.mail_due(NOW + 2 * MINUTE)
    assert mail.outbox == []  # the dead worker's lease still runs
    mailing.mail_due(NOW + MINUTE + mailing.LEASE)
    assert len(mail.outbox) == 1


def test_a_turn_asks_no_more_for_more_customers(django_assert_max_num_queries: Any) -> None:
    for _ in range(20):
        owner = customer(billing_email=f"{_}@example.org")
        happen("storm.opened", owner, owner, 5)
    with django_assert_max_num_queries(12):
        collecting.collect(NOW)
    assert Digest.objects.count() == 20
