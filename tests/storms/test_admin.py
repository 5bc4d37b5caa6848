from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.db.models import Model
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from services.models import Target
from storms import evidence, incidents, operators, packs
from storms.models import CdnIncident, StormEntry, StormEvent, StormPolicy
from tests import factories
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
START = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def terms(**kw: Any) -> dict[str, Any]:
    defaults = {term: getattr(StormPolicy(), term) for term in StormPolicy.TERMS}
    return {**defaults, **kw}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("threshold_avail", "1.5", "less than or equal to 1"),
        ("threshold_avail", "0", "greater than or equal to 0.0001"),
        ("window_seconds", "0", "greater than or equal to 1"),
        ("window_seconds", "3601", "less than or equal to 3600"),
        ("max_coverage_factor", "-0.5", "greater than or equal to 0"),
        ("holdoff_max_seconds", "1", "holdoff_max_seconds must not be below holdoff_seconds."),
        ("min_vantages", "0", "greater than or equal to 1"),
        ("domain_share", "1.5", "less than or equal to 1"),
        ("region_share", "-0.1", "greater than or equal to 0"),
        ("slow_ms", "60001", "less than or equal to 60000"),
        ("kind", "manual", "not one of the available choices"),
    ],
)
def test_what_is_wrong_stands_at_its_field(console: Client, field: str, value: str, said: str) -> None:
    data = terms(service=factories.service().pk, **{field: value})
    answer = console.post(reverse("admin:storms_stormpolicy_add"), data)
    errors = answer.context["adminform"].form.errors
    assert set(errors) == {field}
    assert said in errors[field][0]


def test_a_second_policy_of_a_kind_is_refused_at_the_kind(console: Client) -> None:
    policy = factories.policy()
    answer = console.post(reverse("admin:storms_stormpolicy_add"), terms(service=policy.service.pk))
    assert answer.context["adminform"].form.errors == {"kind": ["This service has a policy of this kind."]}


def test_the_page_tells_what_each_version_changed(console: Client) -> None:
    policy = factories.policy()
    page = reverse("admin:storms_stormpolicy_change", args=[policy.pk])
    management = {"versions-TOTAL_FORMS": 0, "versions-INITIAL_FORMS": 0}
    assert console.post(page, terms(window_seconds=120) | management).status_code == 302
    policy.refresh_from_db()
    assert (policy.version, policy.window_seconds) == (2, 120)
    assert "window_seconds 60 → 120" in console.get(page).content.decode()


def test_a_deleted_policy_makes_room_for_another(console: Client) -> None:
    policy = factories.policy()
    console.post(
        reverse("admin:storms_stormpolicy_delete_softly", args=[policy.pk]),
        {"_form_submitted": "True", "reason": "gone"},
    )
    console.post(reverse("admin:storms_stormpolicy_add"), terms(service=policy.service.pk))
    assert StormPolicy.objects.count() == 2
    assert StormPolicy.objects.live().count() == 1


@pytest.mark.parametrize(("state", "expected"), [("open", 2), ("raging", 1), ("ended", 1), ("closed", 1), ("", 3)])
def test_storms_by_state(console: Client, state: str, expected: int) -> None:
    now = timezone.now()
    factories.storm()
    factories.storm(started_at=now, ended_at=now)
    factories.storm(started_at=now, ended_at=now, closed_at=now)
    url = reverse("admin:storms_stormevent_changelist") + (f"?state={state}" if state else "")
    assert console.get(url).content.decode().count("field-state_label") == expected


def url_of(row: Model, page: str) -> str:
    return reverse(f"admin:{row._meta.label_lower.replace('.', '_')}_{page}", args=[row.pk])


def page(console: Client, row: Model) -> str:
    return console.get(url_of(row, "change")).content.decode()


def act(console: Client, row: Model, action: str, reason: str = "because") -> HttpResponse:
    answer = console.post(url_of(row, action), {"_form_submitted": "True", "reason": reason}, follow=True)
    row.refresh_from_db()
    return answer


def staff(*permissions: str) -> Client:
    clerk = User.objects.create_user("clerk", password="a long enough word", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(clerk)
    return client


def words(row: StormEvent | CdnIncident) -> list[tuple[str, str, str]]:
    return list(row.entries.values_list("action", "reason", "by"))


# --- what people do to a storm -------------------------------------------------------------------------------------


@pytest.fixture
def storm() -> StormEvent:
    return factories.storm()


def test_somebody_has_seen_it(console: Client, storm: StormEvent) -> None:
    act(console, storm, "acknowledge", "on the phone with their NOC")
    assert storm.acknowledged_at and storm.state == "raging"
    assert words(storm) == [("acknowledge", "on the phone with their NOC", "operator")]
    assert LogEntry.objects.get().change_message == "Acknowledged: on the phone with their NOC"
    assert url_of(storm, "acknowledge") not in page(console, storm)
    assert act(console, storm, "acknowledge").status_code == 403


def test_a_note_stands_in_the_timeline_marked_as_a_persons(console: Client, storm: StormEvent) -> None:
    StormEntry.objects.create(storm=storm, at=timezone.now(), action="open", reason="the primary is DOWN")
    assert "tr-entry-person" not in page(console, storm)
    act(console, storm, "annotate", "see <b>ticket 7</b>")
    html = page(console, storm)
    assert html.count("tr-entry-person") == 1
    assert "see &lt;b&gt;ticket 7&lt;/b&gt;" in html and "the primary is DOWN" in html
    assert html.index("ticket 7") < html.index('tr-entry-open">Open')  # the newest first


def test_a_storm_is_ended_by_hand_for_good(console: Client, storm: StormEvent) -> None:
    assert "is over." in act(console, storm, "finish", "a false alarm").content.decode()
    assert (storm.state, storm.closing_reason) == ("closed", "ended by operator: a false alarm")
    assert ">ended by hand<" in page(console, storm)
    assert url_of(storm, "finish") not in page(console, storm)
    assert act(console, storm, "finish").status_code == 403


def test_what_the_probes_still_see_is_not_ended(console: Client) -> None:
    primary = rows.protected_domain().targets.get(role="primary")
    primary.verdict.verdict = "DOWN"
    primary.verdict.save()
    storm = factories.storm(service=primary.domain.service)
    assert "The primary is still DOWN" in act(console, storm, "finish").content.decode()
    assert (storm.state, words(storm)) == ("raging", [])
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("action", ["acknowledge", "annotate", "finish"])
def test_a_storm_keeps_its_state_without_a_reason_or_a_post(console: Client, storm: StormEvent, action: str) -> None:
    for reason in ("", "   "):
        assert "This field is required." in act(console, storm, action, reason).content.decode()
    assert console.get(url_of(storm, action)).status_code == 200
    storm.refresh_from_db()
    assert (storm.state, storm.acknowledged_at, words(storm)) == ("raging", None, [])


@pytest.mark.parametrize("action", ["acknowledge", "annotate", "finish"])
def test_who_may_only_look_changes_nothing_about_a_storm(storm: StormEvent, action: str) -> None:
    looker = staff("view_stormevent")
    assert url_of(storm, action) not in page(looker, storm)
    assert act(looker, storm, action).status_code == 403
    assert (storm.state, words(storm)) == ("raging", [])


def test_the_right_to_change_storms_is_enough(storm: StormEvent) -> None:
    act(staff("change_stormevent"), storm, "finish")
    assert storm.state == "closed"


# --- declared by hand ----------------------------------------------------------------------------------------------

STORMS, DECLARE = "/admin/storms/stormevent/", "/admin/storms/stormevent/declare/"


def declare(console: Client, target: Target, reason: str = "their NOC said so") -> HttpResponse:
    assert target.domain
    return console.post(DECLARE, {"service": target.domain.service_id, "reason": reason}, follow=True)


def test_a_storm_is_declared_and_marked_as_such(console: Client) -> None:
    assert DECLARE in console.get(STORMS).content.decode()
    assert 'name="service"' in console.get(DECLARE).content.decode()
    assert not StormEvent.objects.exists()
    html = declare(console, factories.target()).content.decode()
    storm = StormEvent.objects.get()
    assert (storm.kind, storm.is_armed, storm.state) == ("manual", True, "raging")
    assert words(storm) == [("declare", "their NOC said so", "operator")]
    assert "<b>Declared by hand.</b>" in html and 'tr-entry-declare">declared by hand<' in html
    assert "declared by hand" in console.get(STORMS).content.decode()
    assert LogEntry.objects.get().change_message == "Declared: their NOC said so"


def test_a_second_one_is_refused_in_words(console: Client) -> None:
    primary = factories.target()
    declare(console, primary)
    assert "is open for this service already" in declare(console, primary).content.decode()
    assert StormEvent.objects.count() == 1


def test_there_must_be_something_to_move(console: Client) -> None:
    assert "there is nothing to move" in declare(console, factories.target("backup")).content.decode()
    assert not StormEvent.objects.exists()


def test_declaring_takes_a_reason_and_the_right(console: Client) -> None:
    primary = factories.target()
    assert "This field is required." in declare(console, primary, " ").content.decode()
    looker = staff("view_stormevent")
    assert DECLARE not in looker.get(STORMS).content.decode()
    assert looker.get(DECLARE).status_code == declare(looker, primary).status_code == 403
    assert not StormEvent.objects.exists()


# --- evidence ------------------------------------------------------------------------------------------------------


def test_evidence_is_handed_out_as_a_canonical_document(
    console: Client, storm: StormEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = {"type": "storm", "storm": {"id": storm.pk}}
    monkeypatch.setattr(packs, "pack", lambda row: pack if row == storm else None)
    answer = console.get(f"/admin/storms/stormevent/{storm.pk}/evidence/")
    assert answer.content.decode() == evidence.canonical(pack)
    assert answer["Content-Type"] == "application/json"
    assert answer["Content-Disposition"] == f'attachment; filename="storm-{storm.pk}.json"'
    assert f'href="/admin/storms/stormevent/{storm.pk}/evidence/">Evidence (JSON)' in page(console, storm)
    assert staff().get(f"/admin/storms/stormevent/{storm.pk}/evidence/").status_code == 403


def test_evidence_is_what_the_pack_says(console: Client, storm: StormEvent) -> None:
    document = json.loads(console.get(f"/admin/storms/stormevent/{storm.pk}/evidence/").content)
    assert document["type"] == "storm"


def test_the_hash_of_evidence_is_told_once_there_is_one(console: Client, storm: StormEvent) -> None:
    assert "not sealed yet" in page(console, storm)
    StormEvent.objects.update(evidence_sha256="ab" * 32)
    html = page(console, storm)
    assert "ab" * 32 in html and "not sealed yet" not in html


# --- the picture ---------------------------------------------------------------------------------------------------


def test_the_page_of_a_storm_costs_no_more_for_more(console: Client) -> None:
    primary = factories.target()
    assert primary.domain
    storm = factories.storm(service=primary.domain.service, started_at=START, detected_at=START)

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            page(console, storm)
        return len(queries)

    count()
    few = count()
    for rank in range(1, 9):
        factories.target("backup", domain=primary.domain, rank=rank)
        operators.annotate(storm, "again", "operator", START)
    assert count() == few


# --- incidents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"), [("open", 2), ("suspected", 1), ("confirmed", 1), ("over", 1), ("", 3)]
)  # fmt: skip
def test_incidents_by_state(console: Client, state: str, expected: int) -> None:
    now = timezone.now()
    factories.incident()
    factories.incident(confirmed_at=now)
    factories.incident(started_at=now, ended_at=now, confirmed_at=now)
    url = reverse("admin:storms_cdnincident_changelist") + (f"?state={state}" if state else "")
    assert console.get(url).content.decode().count("field-state_label") == expected


def test_the_list_of_incidents_tells_their_scope(console: Client) -> None:
    incident = factories.incident(cdn=factories.cdn(name="Edgeline"))
    for _ in range(2):
        factories.storm(incident=incident)
    html = console.get(reverse("admin:storms_cdnincident_changelist")).content.decode()
    for said in ("Edgeline", "suspected", "3 of 12 (25%)", "eu, na", f'?incident__id__exact={incident.pk}">2</a>'):
        assert said in html
    assert console.get(f"{STORMS}?incident__id__exact={incident.pk}").content.decode().count("field-state_label") == 2


def test_an_incident_has_its_storms_witnesses_and_timeline(console: Client) -> None:
    incident = factories.incident(witnesses=["reference site ref.example is DOWN"])
    storm = factories.storm(incident=incident)
    incidents.note(incident, "their status page is green", timezone.now(), "operator")
    html = page(console, incident)
    assert f'href="{url_of(storm, "change")}">storm {storm.pk}</a>' in html
    assert "reference site ref.example is DOWN" in html
    assert html.count("tr-entry-person") == 1 and "their status page is green" in html
    assert f"incident {incident.pk}" in page(console, storm)


def test_an_incident_is_confirmed_by_a_persons_word(console: Client) -> None:
    incident = factories.incident()
    act(console, incident, "confirm", "their NOC admits it")
    assert (incident.state, incident.witnesses) == ("confirmed", ["operator: their NOC admits it"])
    assert words(incident) == [("confirmed", "their NOC admits it", "operator")]
    assert LogEntry.objects.get().change_message == "Confirmed: their NOC admits it"
    assert url_of(incident, "confirm") not in page(console, incident)
    assert act(console, incident, "confirm", "again").status_code == 403
    assert len(incident.witnesses) == 1


def test_an_incident_is_noted(console: Client) -> None:
    incident = factories.incident()
    act(console, incident, "annotate", "their status page is green")
    assert words(incident) == [("note", "their status page is green", "operator")]
    assert incident.state == "suspected"


@pytest.mark.parametrize("action", ["confirm", "annotate"])
def test_an_incident_takes_no_word_without_text_or_right(console: Client, action: str) -> None:
    incident = factories.incident()
    assert "This field is required." in act(console, incident, action, " ").content.decode()
    assert console.get(url_of(incident, action)).status_code == 200
    looker = staff("view_cdnincident", "change_stormevent")
    assert url_of(incident, action) not in page(looker, incident)
    assert act(looker, incident, action).status_code == 403
    assert (incident.state, words(incident)) == ("suspected", [])
