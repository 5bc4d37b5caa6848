"""A change's page: why it waits, how it was written, how traffic drained."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from dns.admin import drain_curve
from dns.models import WeightChange
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def console() -> Client:
    client = Client()
    client.force_login(rows.operator())
    return client


def text_of(console: Client, path: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", console.get(path).content.decode())))


def page(console: Client, change: WeightChange) -> str:
    return text_of(console, reverse("admin:dns_weightchange_change", args=[change.pk]))


def test_states_refusals_and_troubles_are_told_in_words(console: Client) -> None:
    rows.weight_change(
        rows.protected_domain().record_set, "held", refusal="blast_radius", held_reason="blast_radius: 40 domains"
    )
    rows.weight_change(
        rows.protected_domain().record_set, "unknown", trouble="unreachable", error="it never answered", is_urgent=True
    )
    said = text_of(console, reverse("admin:dns_weightchange_changelist"))
    for word in ("held blast radius", "unknown outcome unreachable urgent", "it never answered"):
        assert word in said
    only = text_of(console, reverse("admin:dns_weightchange_changelist") + "?refusal__exact=blast_radius")
    assert "40 domains" in only and "it never answered" not in only


def test_every_attempt_that_had_it_is_listed(console: Client) -> None:
    mine, other = (rows.weight_change(rows.protected_domain().record_set) for _ in range(2))
    at = timezone.now()
    rows.write_attempt(mine, other, started_at=at, ended_at=at + timedelta(seconds=1.5), live_at=at)
    rows.write_attempt(mine, outcome="failed", error="Throttling: slow down", trouble="throttled", receipt={})
    rows.write_attempt(mine, outcome="", ended_at=None, receipt={})
    rows.write_attempt(other, error="not of this one")
    said = page(console, mine)
    for part in (
        "2 changes in one call", "receipt /change/C0FFEE", "accepted took 1.50 s", "failed", "Throttling: slow down",
        "no word no word yet",
    ):  # fmt: skip
        assert part in said
    assert "not of this one" not in said
    listed = text_of(console, reverse("admin:dns_writeattempt_changelist"))
    assert "failed throttled" in listed and "not of this one" in listed and "took 1.50 s" in listed
    batch = console.get(f"{reverse('admin:dns_weightchange_changelist')}?id__in={mine.pk},{other.pk}")
    assert batch.status_code == 200


def test_the_drain_curve_is_drawn_and_written_out(console: Client) -> None:
    change = rows.weight_change(rows.protected_domain().record_set)
    assert "No resolver was asked" in page(console, change)
    primary, backup = sorted(change.weights, key=lambda key: change.weights[key])
    change.drain = [
        {"after_seconds": 0.4, "answers": {primary: 3, backup: 1}},
        {"after_seconds": 30.2, "answers": {primary: 1, backup: 3}},
        {"after_seconds": 45.0, "answers": {}},
        {"after_seconds": 61.0, "answers": {backup: 4}},
    ]
    change.save()
    answer = console.get(reverse("admin:dns_weightchange_change", args=[change.pk])).content.decode()
    assert 'points="3.9,30.0 297.0,90.0 600.0,120.0"' in answer
    said = page(console, change)
    for part in ("0.4 s 75% of 4 answers", "30.2 s 25% of 4 answers", "61.0 s 0% of 4 answers", "one TTL, 30 s"):
        assert part in said


@pytest.mark.parametrize(
    ("wanted", "answers", "share"),
    [
        ({"1": 0, "2": 100}, {"1": 4}, 1.0),
        ({"1": 0, "2": 100}, {"1": 1, "2": 3}, 0.25),
        ({"1": 0, "2": 100}, {"2": 4}, 0.0),
        ({"1": 0, "2": 100}, {"2": 3, "other": 1}, 0.25),
        ({"1": 50, "2": 50}, {"1": 3, "2": 1}, 0.25),
        ({"1": 50, "2": 50}, {}, 0.0),
    ],
)  # fmt: skip
def test_what_is_elsewhere_is_what_a_path_has_beyond_its_weight(
    wanted: dict[str, int], answers: dict[str, int], share: float
) -> None:
    assert drain_curve.elsewhere(wanted, answers) == pytest.approx(share)
