"""The record set's page: armed or not and why, what stands in DNS, and acts that ask first."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from dns import beacon, ownership, readiness
from dns.models import EmbeddedRecord, RecordSet, WeightChange
from dns.providers.contract import Check, ProviderError, Trouble
from dns.providers.embedded import EmbeddedProvider
from dns.providers.log import LogProvider
from services.models import Target
from tests import factories
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db

ZONE = "shop.test"
CONFIRM = {"_form_submitted": "True", "reason": "seen on the graphs"}


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


@pytest.fixture
def row() -> RecordSet:
    """Never written, in a zone of the embedded server."""
    EmbeddedRecord.objects.create(
        zone=ZONE, name=ZONE, type="SOA", value=f"ns1.{ZONE}. root.{ZONE}. 1 3600 600 86400 5"
    )
    domain = factories.domain(hostname=f"www.{ZONE}")
    for role in ("primary", "backup"):
        rows.verdict(factories.target(role, domain=domain, address=f"{role}.cdn.test"))
    return factories.record_set(domain=domain, account=factories.dns_account("embedded"), zone=ZONE)


def link(row: RecordSet, view: str) -> str:
    return reverse(f"admin:dns_recordset_{view}", args=[row.pk])


def text_of(console: Client, path: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", console.get(path).content.decode())))


def act(console: Client, row: RecordSet, action: str, **kw: str) -> str:
    """What the page says after it."""
    answer = console.post(link(row, action), CONFIRM | kw, follow=True)
    row.refresh_from_db()
    return html.unescape(answer.content.decode())


# --- what is shown --------------------------------------------------------------------------------------------------


def test_the_check_list_is_a_table_of_words(console: Client, row: RecordSet) -> None:
    checks = [
        Check("zone", True, "shop.test Z1", "never shown while it holds"),
        Check("delegation", False, "the world finds it elsewhere", "choose the zone that is delegated to"),
        Check("parity", False, "2 of 5 differ", "configure the backup alike", is_must=False),
        Check("caa", False, "a server is silent", "it is looked for again", is_must=False, is_unclear=True),
    ]
    readiness._store(RecordSet.objects.get(), checks, timezone.now())
    said = text_of(console, link(row, "change"))
    said = said[said.index("Check list") : said.index("Apex addresses")]
    for part in (
        "not armed: delegation: the world finds it elsewhere", "checked at",
        "check_circle ok zone must shop.test Z1", "cancel fails delegation must the world finds it elsewhere",
        "choose the zone that is delegated to", "warning warning parity should 2 of 5 differ configure the backup alike",
        "help unclear CAA should a server is silent",
    ):  # fmt: skip
        assert part in said
    assert "never shown" not in said


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["armed", "never written"]),
        ({"armed_at": None, "unarmed_reason": "proof: gone"}, ["not armed", "proof: gone"]),
        ({"generation": 2, "observed_generation": 2}, ["as written"]),
        ({"generation": 2, "observed_generation": 2, "drifted_since": timezone.now()}, ["drifted", "since"]),
        ({"is_held": True, "drifted_since": timezone.now()}, ["left alone", "a person edits it since"]),
        ({"released_at": timezone.now()}, ["released", "only watched"]),
    ],
)  # fmt: skip
def test_the_list_says_how_each_stands(
    console: Client, row: RecordSet, fields: dict[str, Any], words: list[str]
) -> None:
    RecordSet.objects.update(**fields)
    said = text_of(console, reverse("admin:dns_recordset_changelist"))
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("state", "word"),
    [("held", "a plan waits for a person"), ("failed", "could not be written"), ("unknown", "on its way")],
)  # fmt: skip
def test_the_list_says_what_became_of_the_newest_plan(console: Client, row: RecordSet, state: str, word: str) -> None:
    RecordSet.objects.update(generation=2, observed_generation=1)
    rows.weight_change(row, "observed")
    rows.weight_change(row, state)
    assert word in text_of(console, reverse("admin:dns_recordset_changelist"))


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("armed=yes", {}),
        ("armed=no", {"armed_at": None}),
        ("armed=released", {"released_at": timezone.now()}),
        ("stands=drifted", {"drifted_since": timezone.now()}),
        ("stands=alone", {"is_held": True}),
    ],
)  # fmt: skip
def test_they_are_filtered_by_how_they_stand(
    console: Client, row: RecordSet, query: str, fields: dict[str, Any]
) -> None:
    domain = rows.protected_domain()
    others = RecordSet.objects.filter(domain=domain)
    others.update(armed_at=None) if query == "armed=yes" else RecordSet.objects.filter(pk=row.pk).update(**fields)
    said = text_of(console, f"{reverse('admin:dns_recordset_changelist')}?{query}")
    assert row.domain.hostname in said and domain.hostname not in said


def test_lanes_that_were_ever_written_are_listed(console: Client, row: RecordSet) -> None:
    RecordSet.objects.update(written={"primary": "a.cdn.test", "backup-2": "old.cdn.test"})
    said = text_of(console, link(row, "change"))
    assert "backup-2: old.cdn.test" in said and "primary: a.cdn.test" in said


# --- edited ---------------------------------------------------------------------------------------------------------


def edit(console: Client, row: RecordSet, **kw: Any) -> str:
    fields = {
        "account": row.account_id, "zone": row.zone, "ttl_seconds": row.ttl_seconds, "apex_addresses": "{}",
        "initial-apex_addresses": "{}",
    }  # fmt: skip
    answer = console.post(link(row, "change"), fields | kw, follow=True)
    row.refresh_from_db()
    return html.unescape(answer.content.decode())


def test_a_ttl_that_makes_failover_useless_is_refused(console: Client, row: RecordSet) -> None:
    assert "less than or equal to 300" in edit(console, row, ttl_seconds=301)
    assert row.ttl_seconds == 30


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        ('["192.0.2.1"]', "Write an object"),
        ('{"edge.cdn.test": "192.0.2.1"}', "edge.cdn.test: give a list of addresses"),
        ('{"edge.cdn.test": []}', "edge.cdn.test: give a list of addresses"),
        ('{"edge.cdn.test": ["edge.cdn.test"]}', "'edge.cdn.test' is no IP address"),
        ('{"edge.cdn.test": [7]}', "7 is no IP address"),
    ],
)  # fmt: skip
def test_apex_addresses_are_addresses_by_name(console: Client, row: RecordSet, addresses: str, said: str) -> None:
    assert said in edit(console, row, apex_addresses=addresses)
    assert row.apex_addresses == {}


def test_right_apex_addresses_are_kept_and_none_are_none(console: Client, row: RecordSet) -> None:
    edit(console, row, apex_addresses='{"edge.cdn.test": ["192.0.2.1", "2001:db8::1"]}')
    assert row.apex_addresses == {"edge.cdn.test": ["192.0.2.1", "2001:db8::1"]}
    edit(console, row, apex_addresses="")
    assert row.apex_addresses == {}


def test_another_customers_account_is_refused(console: Client, row: RecordSet) -> None:
    theirs = factories.dns_account("embedded", customer=factories.customer())
    assert "This account is another customer’s" in edit(console, row, account=theirs.pk)
    shared = factories.dns_account("embedded")
    edit(console, row, account=shared.pk)
    assert row.account == shared


def test_where_records_stand_the_account_is_not_changed(console: Client, row: RecordSet) -> None:
    RecordSet.objects.update(generation=1)
    other = factories.dns_account("embedded")
    assert "release them there first" in edit(console, row, account=other.pk)
    RecordSet.objects.update(released_at=timezone.now(), zone_id="Z1")
    edit(console, row, account=other.pk)
    assert (row.account, row.zone_id) == (other, "")


def test_an_edit_is_checked_soon_and_overwrites_no_workers_word(
    console: Client, row: RecordSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    RecordSet.objects.update(next_check_at=timezone.now() + timedelta(days=1), is_restless=False)
    save = RecordSet.save

    def late(self: RecordSet, *args: Any, **kw: Any) -> None:
        RecordSet.objects.filter(pk=self.pk).update(generation=7, is_held=True)
        save(self, *args, **kw)

    monkeypatch.setattr(RecordSet, "save", late)
    edit(console, row, ttl_seconds=20)
    assert (row.ttl_seconds, row.generation, row.is_held, row.is_restless) == (20, 7, True, True)
    assert row.next_check_at <= timezone.now()


# --- acts -----------------------------------------------------------------------------------------------------------


def test_check_now_goes_through_the_list(console: Client, row: RecordSet, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Check("zone", False, "no such zone", "choose the account that holds it")]
    monkeypatch.setattr(readiness, "list_of", lambda row, now: found)
    assert console.get(link(row, "check_now")).status_code == 200
    assert row.checks == []
    assert "is not armed: zone: no such zone." in act(console, row, "check_now")
    assert (row.armed_at, [check["name"] for check in row.checks]) == (None, ["zone"])
    monkeypatch.setattr(readiness, "list_of", lambda row, now: [Check("zone", True, "it is there")])
    assert f"{row.domain} is armed." in act(console, row, "check_now")
    assert LogEntry.objects.filter(change_message__contains="Checked").count() == 2


def test_adopting_shows_first_what_it_replaces(console: Client, row: RecordSet) -> None:
    EmbeddedRecord.objects.create(zone=ZONE, name=f"www.{ZONE}", type="CNAME", value="old.cdn.test", ttl_seconds=300)
    dialog = html.unescape(console.get(link(row, "adopt")).content.decode())
    assert "old.cdn.test" in dialog and "Stands there now" in dialog
    assert not WeightChange.objects.exists()
    assert "is adopted" in act(console, row, "adopt")
    change = WeightChange.objects.get()
    assert (change.state, change.approved_by) == ("confirmed", User.objects.get())
    assert row.written == {"primary": "primary.cdn.test", "backup-1": "backup.cdn.test"}
    assert not EmbeddedRecord.objects.filter(type="CNAME", owner="").exists()
    assert "Adopted" in LogEntry.objects.get().change_message


def test_what_can_not_be_looked_at_is_said_in_the_dialog(
    console: Client, row: RecordSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise ProviderError("403: no", permanent=True, trouble=Trouble.ACCESS)

    monkeypatch.setattr(EmbeddedProvider, "read", refuse)
    assert "403: no (access denied)" in html.unescape(console.get(link(row, "adopt")).content.decode())
    assert "was not adopted: 403: no (access denied)" in act(console, row, "adopt")
    row.account.refresh_from_db()
    assert row.account.trouble == "access_denied"


def test_nobodys_word_adopts_what_is_not_proven(console: Client, row: RecordSet) -> None:
    row.domain.verified_at = None
    row.domain.save()
    assert "was not adopted: www.shop.test is not verified" in act(console, row, "adopt")
    assert not WeightChange.objects.exists()


def test_what_stands_as_it_should_is_not_adopted(console: Client, row: RecordSet) -> None:
    RecordSet.objects.update(generation=2, observed_generation=2)
    assert console.post(link(row, "adopt"), CONFIRM).status_code == 403
    RecordSet.objects.update(is_held=True)
    assert console.get(link(row, "adopt")).status_code == 200


def test_releasing_wants_the_hostname(console: Client, row: RecordSet) -> None:
    typed = CONFIRM | {"hostname": f"www.{ZONE}"}
    assert console.post(link(row, "release"), typed).status_code == 403  # nothing of ours stands there
    EmbeddedRecord.objects.create(zone=ZONE, name=f"www.{ZONE}", type="CNAME", value="old.cdn.test", ttl_seconds=300)
    assert "is adopted" in act(console, row, "adopt")
    for wrong in ("", "shop.test", "www.shop.tes"):
        assert console.post(link(row, "release"), CONFIRM | {"hostname": wrong}).status_code == 200
    assert RecordSet.objects.get().released_at is None
    assert "is released: a CNAME to primary.cdn.test" in act(console, row, "release", hostname="WWW.shop.test. ")
    assert row.released_at and row.armed_at is None
    assert EmbeddedRecord.objects.get(name=f"www.{ZONE}").value == "primary.cdn.test"
    assert console.post(link(row, "release"), typed).status_code == 403
    assert "is adopted" in act(console, row, "adopt")  # and back again


def test_a_release_of_which_nobody_knows_is_told_so(
    console: Client, row: RecordSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*args: Any) -> None:
        raise ProviderError("it never answered", permanent=False, unknown=True, trouble=Trouble.UNREACHABLE)

    RecordSet.objects.update(generation=1)
    monkeypatch.setattr(EmbeddedProvider, "release", lost)
    said = act(console, row, "release", hostname=f"www.{ZONE}")
    assert "nobody knows whether it is released: it never answered (unreachable)" in said


def test_staff_without_the_permission_acts_on_nothing(row: RecordSet) -> None:
    client = Client()
    client.force_login(User.objects.create_user("clerk", password="a long enough word", is_staff=True))
    for action in ("check_now", "adopt", "release", "arm_data_plane", "disarm_data_plane"):
        assert client.post(link(row, action), CONFIRM).status_code == 403


# --- data plane -----------------------------------------------------------------------------------------------------


def test_the_data_plane_is_armed_and_disarmed(console: Client, row: RecordSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert console.post(link(row, "arm_data_plane"), CONFIRM).status_code == 403  # this vendor has no health checks
    RecordSet.objects.update(generation=1)
    monkeypatch.setattr(EmbeddedProvider, "has_data_plane", True)
    assert "Data plane" in text_of(console, link(row, "change"))

    def refuse(row: RecordSet, user: User) -> list[str]:
        raise beacon.NotArmable("BEACON_URL is not set")

    monkeypatch.setattr(beacon, "arm", refuse)
    assert "was not armed: BEACON_URL is not set" in act(console, row, "arm_data_plane")
    monkeypatch.setattr(beacon, "arm", lambda row, user: ["The API may be away with the CDN."])
    said = act(console, row, "arm_data_plane")
    assert "its data plane is armed" in said and "The API may be away with the CDN." in said
    assert console.post(link(row, "disarm_data_plane"), CONFIRM).status_code == 403
    RecordSet.objects.update(data_plane=True)
    monkeypatch.setattr(beacon, "disarm", lambda row, user: None)
    assert "its data plane is disarmed" in act(console, row, "disarm_data_plane")


def test_a_page_opens_for_every_vendor_without_a_call(console: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("read", "find_zone", "apply"):
        monkeypatch.setattr(LogProvider, method, lambda *a: pytest.fail("called"))
    monkeypatch.setattr(ownership, "preview", lambda *a: pytest.fail("called"))
    for vendor in ("log", "embedded", "powerdns", "route53"):
        row = factories.record_set(account=factories.dns_account(vendor))
        assert console.get(link(row, "change")).status_code == 200
    assert Target.objects.count() == 0
