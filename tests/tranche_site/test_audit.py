"""What was changed, by whom and why: written by the database, also of raw SQL; never changed; sealed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.db import Error, connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from customers.models import ApiKey, Customer
from services.models import Service
from tests import factories
from tests.tranche_site import console_rows as rows
from tranche_site import audit, invariants
from tranche_site.floor import audit_context
from tranche_site.models import AuditEntry, AuditSeal

pytestmark = pytest.mark.django_db

# Machines write these, or they keep their own history, or nobody's traffic, money and access hang on them.
NOT_AUDITED = set(
    """
audit_entries audit_seals auth_permission axes_accessattempt axes_accessattemptexpiration axes_accessfailurelog axes_accesslog
break_glass_scripts cdn_incidents delivery_attempts digest_entries digests django_admin_log django_content_type django_session
django_celery_beat_clockedschedule django_celery_beat_crontabschedule django_celery_beat_intervalschedule
django_celery_beat_periodictasks django_celery_beat_solarschedule drills embedded_records events findings idempotent_requests
incident_entries invoice_counters invoice_line_items log_objects page_notices
pages path_verdicts probe_samples sample_hours sample_minutes saved_views
storm_entries storm_events storm_policy_versions storm_samples
unknown_host_usage usage_buckets usage_estimates usage_snapshots webhook_deliveries write_attempts
""".split()  # noqa: SIM905
)


def of(table: str, **kw: Any) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(table=table, **kw).order_by("id"))


def test_every_table_is_audited_or_named_here() -> None:
    tables = {model._meta.db_table for model in apps.get_models(include_auto_created=True)}
    assert {row.table for row in audit.AUDITED} | NOT_AUDITED == tables
    assert {row.table for row in audit.AUDITED} & NOT_AUDITED == set()


def test_the_database_has_the_triggers_that_the_table_says() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'tranche_audit'")
        there = {row[0].replace("public.", "") for row in cursor.fetchall()}
        for row in audit.AUDITED:  # made anew, so that both are in Postgres' own words
            cursor.execute(f"DROP TRIGGER tranche_audit ON {row.table}")
            cursor.execute(row.sql)
        cursor.execute("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'tranche_audit'")
        assert {row[0].replace("public.", "") for row in cursor.fetchall()} == there


def test_making_changing_and_deleting_are_told_with_old_and_new() -> None:
    service = factories.service(name="shop")
    Service.objects.filter(pk=service.pk).update(name="our shop")
    Service.objects.filter(pk=service.pk).update(name="our shop")  # changes nothing
    pk = service.pk
    service.delete()
    made, changed, gone = of("services", row_id=str(pk))
    assert (made.action, made.changes["name"]) == ("insert", [None, "shop"])
    assert (changed.action, changed.changes) == ("update", {"name": ["shop", "our shop"]})
    assert (gone.action, gone.changes["name"]) == ("delete", ["our shop", None])
    assert (made.actor, made.reason) == ("", "")


def test_raw_sql_is_told_with_the_database_user() -> None:
    customer = factories.customer(name="Acme")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE customers SET name = 'Mallory' WHERE id = %s", [customer.pk])
    entry = of("customers")[-1]
    assert (entry.changes, entry.database_user) == (
        {"name": ["Acme", "Mallory"]},
        connection.settings_dict["USER"] or entry.database_user,
    )
    assert entry.database_user


def test_secrets_are_told_as_changed_alone() -> None:
    user = User.objects.create_user("ann", password="a long enough word")
    user.set_password("another long word")
    user.save()
    key, _ = ApiKey.issue(factories.customer(), "terraform", ["read"])
    assert of("auth_user")[-1].changes == {"password": ["secret", "secret"]}
    text = str([entry.changes for entry in AuditEntry.objects.all()])
    assert key.digest not in text and "pbkdf2" not in text and "md5$" not in text


def test_what_machines_write_every_second_is_none_of_it() -> None:
    point, domain = factories.vantage_point(), rows.protected_domain()
    before = AuditEntry.objects.count()
    point.last_probe_at = timezone.now()
    point.save(update_fields=["last_probe_at"])
    domain.record_set.looked_at = timezone.now()
    domain.record_set.save()  # also the columns that count, as they were
    ApiKey.objects.update(last_used_at=timezone.now())
    assert AuditEntry.objects.count() == before


def test_a_persons_act_has_his_name_his_reason_and_the_request() -> None:
    cdn, user = factories.cdn(name="Nimbus"), rows.operator()
    console = Client()
    console.force_login(user)
    page = reverse("admin:services_cdn_change", args=[cdn.pk])
    initial = console.get(page).context["adminform"].form.initial
    fields = {name: "[]" if value == [] else value for name, value in initial.items() if value is not None}
    console.post(page, fields | {"name": "Cumulus"}, headers={"X-Request-Id": "a-request-of-ann"})
    entry = of("cdns")[-1]
    assert entry.changes == {"name": ["Nimbus", "Cumulus"]}
    assert (entry.actor, entry.request_id) == ("operator", "a-request-of-ann")
    key, _ = ApiKey.issue(factories.customer(), "terraform", ["read"])
    url = reverse("admin:customers_apikey_revoke", args=[key.pk])
    console.post(url, {"_form_submitted": "True", "reason": "it's in a log; 100% sure"})
    entry = of("api_keys")[-1]
    assert (entry.actor, entry.reason) == ("operator", "it's in a log; 100% sure")
    assert set(entry.changes) == {"revoked_at"}


@pytest.mark.django_db(transaction=True)  # what was said holds on to the end of a transaction
def test_a_customers_act_has_the_name_of_the_key() -> None:
    customer = factories.customer()
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(customer)}")
    assert client.post("/v1/services", {"name": "shop"}, format="json").status_code == 201
    prefix = ApiKey.objects.get(customer=customer).prefix
    assert of("services")[-1].actor == f"API key {prefix}"
    client.get("/v1/services")
    Service.objects.update(name="by itself")
    assert of("services")[-1].actor == ""  # nobody inherits a name


def test_what_is_said_reaches_every_form_of_statement() -> None:
    with audit_context.context(actor="ann", reason="%s and 'quotes'"):
        service = factories.service()
        Service.objects.bulk_create([Service(customer=service.customer, name=f"s{n}") for n in range(3)])
        with connection.cursor() as cursor:
            cursor.execute("UPDATE services SET name = name || '%'")
            cursor.execute("UPDATE services SET name = name || %(more)s", {"more": "x"})
            cursor.execute(
                "INSERT INTO customers (name, billing_email, alert_email, wants_alerts, created_at)"
                " VALUES ('by hand', '', '', true, now()) RETURNING name"
            )
            assert cursor.fetchone() == ("by hand",)
    entries = of("services")
    assert len(entries) == 12
    assert {(entry.actor, entry.reason) for entry in entries} == {("ann", "%s and 'quotes'")}


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit_entries SET actor = 'ann'",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
        "DELETE FROM audit_seals",
    ],
)
def test_what_is_written_stays(sql: str) -> None:
    factories.customer()
    AuditSeal.objects.create(since=timezone.now(), until=timezone.now(), entries=0, sha256="0" * 64)
    with pytest.raises(Error, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)


# --- seals ----------------------------------------------------------------------------------------------------------


def tamper(sql: str) -> None:
    """As somebody who may do everything with the database."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_entries DISABLE TRIGGER USER")
        cursor.execute(sql)
        cursor.execute("ALTER TABLE audit_entries ENABLE TRIGGER USER")


def seals() -> tuple[AuditSeal, AuditSeal]:
    now = timezone.now()
    for n in range(3):
        factories.customer(name=f"Customer {n} of the audit")
    first = audit.seal(now + timedelta(hours=2))
    with connection.cursor() as cursor:  # as if hours later
        made = """INSERT INTO audit_entries ("table", row_id, action, changes, at) VALUES ('cdns', '1', 'update', '{}', %s)"""
        cursor.execute(made, [now + timedelta(hours=2)])
    second = audit.seal(now + timedelta(hours=4))
    assert first and second
    assert (first.entries, second.entries, second.since) == (3, 1, first.until)
    return first, second


def test_seals_follow_each_other_and_hold() -> None:
    seals()
    now = timezone.now() + timedelta(hours=4)
    assert audit.seal(now) is None  # nothing new
    assert list(audit.broken(now)) == []
    assert next(found for found in invariants.check(now) if found.id == "I16").holds


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit_entries SET actor = 'ann' WHERE id = (SELECT min(id) FROM audit_entries)",
        "UPDATE audit_entries SET changes = '{}' WHERE id = (SELECT max(id) FROM audit_entries WHERE \"table\" = 'customers')",
        "UPDATE audit_entries SET at = at + interval '1 second' WHERE id = (SELECT min(id) FROM audit_entries)",
        "DELETE FROM audit_entries WHERE id = (SELECT min(id) FROM audit_entries)",
        'INSERT INTO audit_entries ("table", row_id, action, changes, at)'
        " SELECT 'cdns', '9', 'update', '{}', min(at) FROM audit_entries",
    ],
)
def test_one_row_that_was_tampered_with_breaks_its_seal(sql: str) -> None:
    first, _ = seals()
    tamper(sql)
    (told,) = audit.broken(timezone.now())
    assert told.startswith(str(first))


def test_a_seal_that_was_made_anew_breaks_the_next() -> None:
    first, second = seals()
    tamper("UPDATE audit_entries SET actor = 'ann' WHERE id = (SELECT min(id) FROM audit_entries)")
    count, digest = audit._digest(first.since, first.until, "")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE audit_seals DISABLE TRIGGER USER")
        cursor.execute("UPDATE audit_seals SET sha256 = %s WHERE id = %s", [digest, first.pk])
        cursor.execute("ALTER TABLE audit_seals ENABLE TRIGGER USER")
    assert [told.startswith(str(second)) for told in audit.broken(timezone.now())] == [True]
    assert count == 3


# --- the page -------------------------------------------------------------------------------------------------------


def test_it_is_read_per_object_and_per_person() -> None:
    customer = factories.customer(name="Acme <b>")
    with audit_context.context(actor="ann", reason="asked by phone"):
        Customer.objects.filter(pk=customer.pk).update(name="Acme & Sons")
        factories.cdn(name="Nimbus")
    console = Client()
    console.force_login(rows.operator())
    history = console.get(reverse("admin:customers_customer_history", args=[customer.pk]))
    page = console.get(history["Location"]).content.decode()
    assert "Acme &lt;b&gt; → Acme &amp; Sons" in page and "asked by phone" in page and "Nimbus" not in page
    page = console.get(reverse("admin:tranche_site_auditentry_changelist") + "?actor__exact=ann").content.decode()
    assert "Nimbus" in page and "Acme &amp; Sons" in page and "customer 1 of" not in page
    entry = AuditEntry.objects.filter(actor="ann").earliest("id")
    page = console.get(reverse("admin:tranche_site_auditentry_change", args=[entry.pk])).content.decode()
    assert reverse("admin:customers_customer_change", args=[customer.pk]) in page
