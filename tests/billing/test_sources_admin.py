"""The page of a usage source: a secret that nobody ever sees again, and that goes nowhere else than it was given for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing.models import UsageSource
from services.models import Cdn
from tests import factories
from tests.tranche_site import console_rows as rows
from tranche_site.floor import sealed

pytestmark = pytest.mark.django_db

CANARY = "canary-of-a-secret-4711-wxyz"
ZONES = '{"zones": {"023e105f4ecef8ad9ca31a8372d0c353": "example.com"}}'
ROLE = "arn:aws:iam::123456789012:role/tranche-logs"


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


@pytest.fixture
def cdn() -> Cdn:
    return factories.cdn()


def posted(cdn: Cdn, **kw: Any) -> dict[str, Any]:
    fields = {
        "name": "theirs", "customer": "", "cdn": cdn.pk, "kind": "cloudflare_graphql", "format": "", "location": "",
        "endpoint_url": "", "options": ZONES, "initial-options": "{}", "enabled": "on", "role_arn": "",
        "external_id": "", "access_key_id": "", "secret": "",
    }  # fmt: skip
    return fields | kw


def add(console: Client, cdn: Cdn, **kw: Any) -> Any:
    return console.post(reverse("admin:billing_usagesource_add"), posted(cdn, **kw))


def change(console: Client, source: UsageSource, **kw: Any) -> Any:
    url = reverse("admin:billing_usagesource_change", args=[source.pk])
    return console.post(url, posted(source.cdn, **kw))


def page(console: Client, source: UsageSource) -> str:
    return console.get(reverse("admin:billing_usagesource_change", args=[source.pk])).content.decode()


def errors(answer: Any) -> dict[str, list[str]]:
    assert answer.status_code == 200
    assert CANARY not in answer.content.decode()
    return dict(answer.context["adminform"].form.errors)


def test_what_is_typed_is_sealed_and_shown_as_a_fingerprint_alone(console: Client, cdn: Cdn) -> None:
    assert add(console, cdn, secret=CANARY).status_code == 302
    source = UsageSource.objects.get()
    assert source.secret() == CANARY and CANARY not in source.sealed_credentials
    html = page(console, source)
    assert sealed.fingerprint(CANARY) in html and CANARY not in html
    assert CANARY not in console.get(reverse("admin:billing_usagesource_changelist")).content.decode()
    assert change(console, source, name="renamed").status_code == 302
    source.refresh_from_db()
    assert (source.name, source.secret()) == ("renamed", CANARY)
    assert not any(CANARY in entry.change_message for entry in LogEntry.objects.all())
    assert "forget" not in errors(change(console, source, forget="on"))
    assert source.secret() == CANARY


def test_a_secret_is_wanted_where_nothing_works_without(console: Client, cdn: Cdn) -> None:
    assert errors(add(console, cdn)) == {"secret": ["Without it nothing is told."]}
    s3 = {"kind": "s3", "format": "cloudfront", "location": "logs/", "options": "{}"}
    assert errors(add(console, cdn, **s3, access_key_id="AKIA")) == {"secret": ["It goes with the access key ID."]}
    assert "access_key_id" in errors(add(console, cdn, **s3, secret=CANARY))
    directory = s3 | {"kind": "directory", "location": "/var/log"}
    assert errors(add(console, cdn, **directory, secret=CANARY)) == {
        "secret": ["“Directory” has none: leave it empty."]
    }
    assert add(console, cdn, **s3).status_code == 302


def test_a_role_gets_its_external_id(console: Client, cdn: Cdn) -> None:
    s3 = {"kind": "s3", "format": "cloudfront", "location": "logs/", "options": "{}"}
    assert add(console, cdn, **s3, role_arn=ROLE).status_code == 302
    source = UsageSource.objects.get()
    assert len(source.external_id) >= 32
    assert source.external_id in page(console, source)


@pytest.mark.parametrize(
    "typed",
    [{"endpoint_url": "https://elsewhere.example"}, {"access_key_id": "AKIAOTHER"}, {"role_arn": ROLE}],
)
def test_a_kept_secret_is_not_sent_elsewhere(console: Client, cdn: Cdn, typed: dict[str, str]) -> None:
    s3 = {"kind": "s3", "format": "cloudfront", "location": "logs/", "options": "{}", "access_key_id": "AKIA"}
    assert add(console, cdn, **s3, secret=CANARY).status_code == 302
    source = UsageSource.objects.get()
    assert "give it again" in errors(change(console, source, **s3 | typed))["secret"][0]
    assert change(console, source, **s3 | typed, secret="another").status_code == 302
    source.refresh_from_db()
    assert source.secret() == "another"
    assert change(console, source, **s3 | typed | {"access_key_id": ""}, forget="on").status_code == 302
    source.refresh_from_db()
    assert source.sealed_credentials == ""


def test_how_far_it_is_behind_is_shown(console: Client, cdn: Cdn) -> None:
    add(console, cdn, secret=CANARY)
    url = reverse("admin:billing_usagesource_changelist")
    assert "nothing counted yet" in console.get(url).content.decode()
    now = timezone.now()
    for lag, text in ((timedelta(minutes=31, seconds=30), "31 min"), (timedelta(hours=30), "30 h")):
        UsageSource.objects.update(newest_usage_at=now - lag, last_error="429 (too many calls)")
        html = console.get(url).content.decode()
        assert text in html and "429 (too many calls)" in html


def test_a_source_that_was_changed_is_looked_at_at_once(console: Client, cdn: Cdn) -> None:
    add(console, cdn, secret=CANARY)
    UsageSource.objects.update(next_look_at=timezone.now() + timedelta(hours=1))
    source = UsageSource.objects.get()
    change(console, source, secret=CANARY)
    source.refresh_from_db()
    assert source.next_look_at is None
