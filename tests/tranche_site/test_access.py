"""Who gets into the console: second factor, lock-out, a fresh password, the end of sessions; and what browsers are told."""

from __future__ import annotations

import base64
import importlib
import io
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_otp.oath import TOTP

from dns.models import Freeze
from storms.models import StormEvent
from tests import factories
from tests.tranche_site import console_rows as rows
from tranche_site.floor import access, sealed
from tranche_site.models import AuditEntry, SecondFactor

pytestmark = pytest.mark.django_db

PASSWORD = "a long enough word"
FACTOR, SURE = "/admin/second-factor", "/admin/sure"


@pytest.fixture
def ann() -> User:
    return rows.operator()


def logged_in(name: str = "operator", **kw: Any) -> Client:
    client = Client(**kw)
    answer = client.post("/admin/login/?next=/admin/", {"username": name, "password": PASSWORD})
    assert answer.status_code == 302, answer.status_code
    return client


def code_of(factor: SecondFactor, steps: int = 0) -> str:
    totp = TOTP(base64.b32decode(factor.key))
    totp.time = time.time() + 30 * steps
    return f"{totp.token():06d}"


# --- the second factor ----------------------------------------------------------------------------------------------


@pytest.fixture
def two_factor(settings: Any) -> Iterator[None]:
    settings.TWO_FACTOR = True
    yield


@pytest.mark.usefixtures("two_factor")
def test_who_has_no_second_factor_sets_one_up_and_gets_recovery_codes_once(ann: User) -> None:
    client = logged_in()
    for path in ("/admin/", reverse("admin:plan"), "/admin/services/service/?q=a"):
        answer = client.get(path)
        assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, FACTOR)
    live = client.get("/admin/dashboard/live", headers={"HX-Request": "true"})
    assert (live.status_code, live["HX-Redirect"].partition("?")[0]) == (401, FACTOR)
    page = client.get(FACTOR).content.decode()
    factor = SecondFactor.objects.get(user=ann)
    assert factor.key in page and "<svg" in page
    assert not factor.confirmed
    wrong = f"{(int(code_of(factor)) + 1) % 1_000_000:06d}"
    assert "not the code" in client.post(FACTOR, {"code": wrong}).content.decode()
    assert client.get("/admin/").status_code == 302
    SecondFactor.objects.update(throttling_failure_count=0)
    page = client.post(f"{FACTOR}?next=/admin/plan", {"code": code_of(factor)}).content.decode()
    codes = re.findall(r'<code class="tr-copy">([a-z2-7]{8})</code>', page)
    assert len(set(codes)) == 8
    assert 'href="/admin/plan"' in page
    assert client.get("/admin/").status_code == 200
    assert client.get(FACTOR).status_code == 302  # neither key nor codes are shown again
    said = list(LogEntry.objects.order_by("pk").values_list("change_message", flat=True))
    assert said == ["A wrong code of the second factor", "Set up the second factor"]
    assert logged_in().post(FACTOR, {"code": codes[3]}).status_code == 302


def enrolled(user: User, *codes: str) -> SecondFactor:
    factor = SecondFactor.anew(user, timezone.now())
    factor.seal({"key": factor.key, "codes": list(codes)})
    factor.confirmed = True
    factor.save()
    return factor


@pytest.mark.usefixtures("two_factor")
def test_a_code_is_asked_for_at_each_log_in_and_is_good_once(ann: User) -> None:
    factor = enrolled(ann)
    first, second = logged_in(), logged_in()
    assert factor.key not in first.get(FACTOR).content.decode()
    code = code_of(factor)
    answer = first.post(f"{FACTOR}?next=/admin/exposure", {"code": code})
    assert (answer.status_code, answer["Location"]) == (302, "/admin/exposure")
    assert second.post(FACTOR, {"code": code}).status_code == 200  # used up
    assert second.get("/admin/").status_code == 302


@pytest.mark.usefixtures("two_factor")
@pytest.mark.parametrize(("steps", "is_let_in"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_clock_may_be_off_by_half_a_minute(ann: User, steps: int, is_let_in: bool) -> None:
    code = code_of(enrolled(ann), steps)
    assert (logged_in().post(FACTOR, {"code": code}).status_code == 302) is is_let_in


@pytest.mark.usefixtures("two_factor")
def test_guessing_codes_is_slowed_down(ann: User) -> None:
    factor = enrolled(ann)
    client = logged_in()
    for _ in range(3):
        client.post(FACTOR, {"code": "000000"})
    assert client.post(FACTOR, {"code": code_of(factor)}).status_code == 200  # right, and too soon after wrong ones
    assert client.get("/admin/").status_code == 302


@pytest.mark.usefixtures("two_factor")
def test_a_recovery_code_is_good_once(ann: User) -> None:
    enrolled(ann, "abcdefgh", "ijklmnop")
    assert logged_in().post(FACTOR, {"code": "ABCD EFGH"}).status_code == 302
    assert logged_in().post(FACTOR, {"code": "abcdefgh"}).status_code == 200
    SecondFactor.objects.update(throttling_failure_count=0)
    assert logged_in().post(FACTOR, {"code": "ijklmnop"}).status_code == 302


@pytest.mark.usefixtures("two_factor")
@pytest.mark.parametrize("code", ["", "12345", "1234567", "１２３４５６", "-12345", "1e5000", "abc\x00defg"])
def test_what_is_no_code_lets_nobody_in(ann: User, code: str) -> None:
    enrolled(ann)
    assert logged_in().post(FACTOR, {"code": code}).status_code == 200


@pytest.mark.usefixtures("two_factor")
@pytest.mark.parametrize("next_", ["https://evil.example/", "//evil.example/", "/v1/services", "javascript:alert(1)"])
def test_it_leads_nowhere_else(ann: User, next_: str) -> None:
    factor = enrolled(ann)
    answer = logged_in().post(f"{FACTOR}?next={next_}", {"code": code_of(factor)})
    assert answer["Location"] == "/admin/"


@pytest.mark.usefixtures("two_factor")
def test_security_resets_it_and_every_session_ends(ann: User) -> None:
    factor = enrolled(ann)
    client = logged_in()
    client.post(FACTOR, {"code": code_of(factor)})
    boss = User.objects.create_superuser("boss", password=PASSWORD)
    other = logged_in("boss")
    other.post(FACTOR, {"code": code_of(enrolled(boss))})
    page = reverse("admin:auth_user_reset_second_factor", args=[ann.pk])
    other.post(page, {"_form_submitted": "True", "reason": "lost her telephone"})
    assert SecondFactor.objects.get(user=ann).is_open
    assert client.get("/admin/")["Location"].startswith("/admin/login/")
    assert other.get("/admin/").status_code == 200


@pytest.mark.usefixtures("two_factor")
def test_the_password_alone_is_not_enough_for_ever(ann: User) -> None:
    """Whoever finds the password of an account that nobody has used since it was made stays outside."""
    User.objects.update(date_joined=timezone.now() - timedelta(hours=73))
    client = logged_in()
    page = client.get(FACTOR).content.decode()
    assert "is over" in page and "<svg" not in page
    factor = SecondFactor.objects.get(user=ann)
    assert factor.key not in page
    assert client.post(FACTOR, {"code": code_of(factor)}).status_code == 200
    assert client.get("/admin/").status_code == 302
    out = io.StringIO()
    call_command("reset_second_factor", "operator", reason="she came by", stdout=out)
    assert "72 hours" in out.getvalue()
    assert AuditEntry.objects.filter(table="second_factors", actor="manage.py", reason="she came by").exists()
    factor = SecondFactor.objects.get(user=ann)
    client = logged_in()
    assert client.post(FACTOR, {"code": code_of(factor)}).status_code == 200
    assert client.get("/admin/").status_code == 200
    with pytest.raises(CommandError, match="username"):
        call_command("reset_second_factor", "nobody", reason="x")


def test_keys_and_codes_are_sealed_to_their_person(ann: User) -> None:
    mine = enrolled(ann, "abcdefgh")
    other = enrolled(User.objects.create_user("bob", password=PASSWORD, is_staff=True))
    with connection.cursor() as cursor:
        cursor.execute("SELECT string_agg(f::text, '') FROM second_factors f")
        stored = cursor.fetchone()[0]
    assert mine.key not in stored and "abcdefgh" not in stored
    other.sealed_credentials = mine.sealed_credentials
    with pytest.raises(sealed.SealedError):
        other.verify_token("abcdefgh")


@pytest.mark.usefixtures("two_factor")
def test_without_the_key_of_credentials_it_says_what_is_missing(ann: User, settings: Any) -> None:
    enrolled(ann)
    settings.CREDENTIAL_KEYS, settings.EMBEDDED_POSTGRES = [], False
    answer = logged_in().post(FACTOR, {"code": "123456"})
    assert (answer.status_code, "CREDENTIAL_KEYS lacks" in answer.content.decode()) == (503, True)


def test_who_had_one_before_keeps_it_sealed(ann: User) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE otp_totp_totpdevice (id serial, user_id int, key text, confirmed bool);"
            "CREATE TABLE otp_static_staticdevice (id serial, user_id int);"
            "CREATE TABLE otp_static_statictoken (id serial, device_id int, token text);"
            "INSERT INTO otp_totp_totpdevice (user_id, key, confirmed) VALUES (%(u)s, 'ff00', true), (%(u)s + 1, '00', false);"
            "INSERT INTO otp_static_staticdevice (user_id) VALUES (%(u)s);"
            "INSERT INTO otp_static_statictoken (device_id, token) VALUES (1, 'abcdefgh');",
            {"u": ann.pk},
        )
    migration = importlib.import_module("tranche_site.migrations.0007_seal_second_factors")
    with connection.schema_editor(atomic=False) as editor:
        migration.seal(apps, editor)
    factor = SecondFactor.objects.get()
    assert (factor.user, base64.b32decode(factor.key)) == (ann, b"\xff\x00")
    assert factor.accepts("abcdefgh")
    assert "otp_totp_totpdevice" not in connection.introspection.table_names()


# --- guessing passwords ---------------------------------------------------------------------------------------------


def _try(password: str, forwarded: str = "", address: str = "198.51.100.7", name: str = "operator") -> int:
    client = Client(REMOTE_ADDR=address, headers={"X-Forwarded-For": forwarded} if forwarded else {})
    return client.post("/admin/login/", {"username": name, "password": password}).status_code


def test_five_wrong_passwords_lock_an_address_out_whatever_it_says_of_itself(ann: User) -> None:
    tries = [_try("wrong", f"192.0.2.{n}") for n in range(100)]
    assert tries == [200] * 4 + [429] * 96
    assert _try(PASSWORD) == 429
    assert _try(PASSWORD, address="203.0.113.9") == 302  # nobody else's log-in suffers


def test_security_lets_somebody_in(ann: User) -> None:
    for _ in range(6):
        _try("wrong")
    boss = User.objects.create_superuser("boss", password=PASSWORD)
    client = Client()
    client.force_login(boss)
    attempt = AccessAttempt.objects.get()
    page = reverse("admin:axes_accessattempt_let_in", args=[attempt.pk])
    client.post(page, {"_form_submitted": "True", "reason": "on the phone with her"})
    assert _try(PASSWORD) == 302


def test_the_right_password_forgets_the_wrong_ones(ann: User) -> None:
    for _ in range(3):
        assert [_try("wrong") for _ in range(3)] == [200] * 3
        assert _try(PASSWORD) == 302


# --- a fresh password -----------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(settings: Any) -> None:
    settings.REAUTHENTICATE_SECONDS = 900


def _age(client: Client, **seconds: float) -> None:
    session = client.session
    for name, age in seconds.items():
        session[name] = time.time() - age
    session.save()


def _end(client: Client, storm: StormEvent) -> Any:
    url = reverse("admin:storms_stormevent_finish", args=[storm.pk])
    return client.post(url, {"_form_submitted": "True", "reason": "because"})


@pytest.mark.usefixtures("fresh")
def test_what_is_dangerous_wants_a_password_that_was_given_lately(ann: User) -> None:
    storm = factories.storm()
    client = logged_in()
    client.get("/admin/")
    page = reverse("admin:storms_stormevent_change", args=[storm.pk])
    dialog = reverse("admin:storms_stormevent_finish", args=[storm.pk])
    assert client.get(dialog).status_code == 200
    _age(client, sure_at=901)
    answer = client.get(dialog, headers={"HX-Request": "true", "HX-Current-URL": f"http://testserver{page}"})
    assert (answer.status_code, answer["HX-Redirect"]) == (401, f"{SURE}?next={page.replace('/', '%2F')}")
    assert _end(client, storm).status_code in (200, 302)  # was opened in time: what was typed is not lost
    storm.refresh_from_db()
    assert storm.closed_at
    other = factories.storm()
    _age(client, sure_at=1801)
    assert _end(client, other)["Location"].startswith(SURE)
    other.refresh_from_db()
    assert other.closed_at is None
    assert "not your password" in client.post(f"{SURE}?next={page}", {"password": "wrong"}).content.decode()
    answer = client.post(f"{SURE}?next={page}", {"password": PASSWORD})
    assert answer["Location"] == page
    _end(client, other)
    other.refresh_from_db()
    assert other.closed_at


@pytest.mark.usefixtures("fresh")
def test_so_do_adding_a_freeze_the_plan_and_lists(ann: User) -> None:
    service = rows.protected_domain().service
    client = logged_in()
    client.get("/admin/")
    _age(client, sure_at=2000)
    for url in (
        reverse("admin:dns_freeze_add"), reverse("admin:plan_pin", args=[service.pk]), reverse("admin:storms_stormevent_declare"),
    ):  # fmt: skip
        assert client.get(url)["Location"].startswith(SURE)
    client.post(reverse("admin:dns_freeze_add"), {"service": service.pk, "reason": "x"})
    assert not Freeze.objects.exists()
    data = {"action": "approve_selected", "_selected_action": "1", "_form_submitted": "True", "reason": "x"}
    rows.weight_change(service.domains.get().record_set, state="held")
    assert client.post(reverse("admin:dns_weightchange_changelist"), data)["Location"].startswith(SURE)
    assert client.get(reverse("admin:services_service_add")).status_code == 200  # harmless


@pytest.mark.usefixtures("fresh")
def test_guessing_there_locks_out_as_well(ann: User) -> None:
    client = logged_in()
    client.get("/admin/")
    answers = [client.post(SURE, {"password": "wrong"}).status_code for _ in range(6)]
    assert answers[-1] == 429


# --- the end of sessions --------------------------------------------------------------------------------------------


def test_a_session_ends_after_twelve_hours_and_after_an_idle_hour(ann: User) -> None:
    client = logged_in()
    assert client.get("/admin/").status_code == 200
    _age(client, began_at=12 * 3600 + 1, seen_at=5)
    answer = client.get("/admin/services/service/?q=a")
    assert answer["Location"] == "/admin/login/?next=%2Fadmin%2Fservices%2Fservice%2F%3Fq%3Da"
    assert "Sessions end after 12 hours" in client.get(answer["Location"]).content.decode()
    client = logged_in()
    client.get("/admin/")
    _age(client, seen_at=3601)
    assert client.get("/admin/").status_code == 302


def test_a_page_that_refreshes_itself_keeps_nobody_logged_in(ann: User) -> None:
    client = logged_in()
    client.get("/admin/")
    _age(client, seen_at=1800)
    client.get("/admin/dashboard/live", headers={"HX-Request": "true"})
    assert time.time() - client.session[access.SEEN] > 1700
    client.get("/admin/")
    assert time.time() - client.session[access.SEEN] < 60


# --- what browsers are told -----------------------------------------------------------------------------------------


def test_every_answer_says_what_a_page_may_load(ann: User) -> None:
    client = logged_in()
    api = Client(headers={"Authorization": f"Bearer {factories.api_key(factories.customer())}"})
    answers = {
        path: (client if path.startswith("/admin") else api).get(path)
        for path in (
            "/admin/",
            "/admin/login/",
            "/v1/services",
            "/v1/docs",
            "/v1/openapi.json",
            "/healthz",
            "/v1/nothing",
            "/x",
        )
    }
    for path, answer in answers.items():
        policy = answer["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy, path
        assert "'unsafe-inline'" not in re.sub(r"style-src[^;]*", "", policy), path
        assert answer["X-Content-Type-Options"] == "nosniff", path
        assert answer["Referrer-Policy"] == "same-origin", path
        assert "Permissions-Policy" in answer, path
    assert answers["/v1/services"]["Content-Security-Policy"].startswith("default-src 'none'")
    assert "no-store" in answers["/admin/"]["Cache-Control"]


def test_the_reader_of_the_document_has_no_script_of_its_own_in_the_page(ann: User) -> None:
    page = Client().get("/v1/docs").content.decode()
    assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []


# --- what else a password guards --------------------------------------------------------------------------------------


WRITING = {
    "a colleague's password": lambda: reverse(
        "admin:auth_user_password_change", args=[User.objects.get(username="bob").pk]
    ),
    "a new colleague": lambda: reverse("admin:auth_user_add"),
    "a colleague's roles": lambda: reverse("admin:auth_user_change", args=[User.objects.get(username="bob").pk]),
    "an API key": lambda: reverse("admin:customers_customer_issue_key", args=[factories.customer().pk]),
    "a contract": lambda: reverse("admin:billing_contract_add"),
    "where logs are": lambda: reverse("admin:billing_usagesource_add"),
    "a DNS account": lambda: reverse("admin:dns_dnsaccount_add"),
    "the schedule": lambda: reverse("admin:django_celery_beat_periodictask_add"),
}


@pytest.mark.parametrize("what", WRITING)
def test_giving_access_and_changing_terms_want_a_fresh_password(ann: User, settings: Any, what: str) -> None:
    settings.REAUTHENTICATE_SECONDS = 900
    User.objects.create_user("bob", password=PASSWORD, is_staff=True)
    client, page = logged_in(), WRITING[what]()
    assert client.get(page).status_code == 200
    session = client.session
    session[access.SURE] = time.time() - 3600
    session.save()
    for answer in (client.get(page), client.post(page, {"name": "x"})):
        assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, SURE)


def test_an_old_password_is_guessed_no_oftener_than_another(ann: User) -> None:
    client = logged_in()
    new = {"new_password1": "another long word", "new_password2": "another long word"}
    said = [client.post("/admin/password_change/", {"old_password": f"guess {n}", **new}).status_code for n in range(6)]
    assert said[:4] == [200] * 4 and said[-1] == 429
    assert client.post("/admin/password_change/", {"old_password": PASSWORD, **new}).status_code == 429
    assert User.objects.get(pk=ann.pk).check_password(PASSWORD)
    AccessAttempt.objects.all().delete()
    assert client.post("/admin/password_change/", {"old_password": PASSWORD, **new}).status_code == 302
    assert User.objects.get(pk=ann.pk).check_password("another long word")


def test_a_network_of_ipv6_is_counted_as_one_address() -> None:
    tried = [_try("wrong", address=f"2001:db8:1:2::{n}") for n in range(1, 7)]
    assert tried[-1] == 429
    assert _try("wrong", address="2001:db8:1:3::1") == 200


def test_headers_of_probes_are_no_words_for_the_audit() -> None:
    service = factories.service()
    service.probe_headers = {"Authorization": "Bearer canary"}
    service.save()
    entry = AuditEntry.objects.filter(table="services", row_id=str(service.pk)).latest("id")
    assert entry.changes["probe_headers"] == ["secret", "secret"] and "canary" not in str(entry.changes)
