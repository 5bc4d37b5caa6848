from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from prometheus_client.parser import text_string_to_metric_families

from billing.models import Invoice, LogObject, UsageSource
from customers.models import Event
from dns.models import RecordSet, WeightChange
from services.models import VantagePoint
from tests import factories
from tests.samples import record
from tranche_site import figures
from tranche_site.floor import seen


def _read(client: Client | None = None) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the page by name and labels."""
    response = (client or Client()).get("/metrics")
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.content.decode())
        for sample in family.samples
    }


def _of(page: dict[Any, float], name: str, **labels: str) -> float | None:
    return page.get((f"tranche_{name}", tuple(sorted(labels.items()))))


def test_every_family_has_help_type_and_a_name_by_the_conventions(db: None) -> None:
    text = Client().get("/metrics").content.decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) > 30
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert re.fullmatch(r"tranche_[a-z][a-z0-9_]*", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert family.type in ("gauge", "counter", "histogram"), family.name
        # Base units: nothing in milliseconds or megabytes.
        assert not re.search(r"_(ms|millis|minutes|kb|mb|kib|mib)$", family.name)
        if "age" in family.name.split("_") or "lag" in family.name.split("_"):
            assert family.name.endswith("_seconds"), family.name
    assert all(f"# HELP {name}" in text for name in names if not name.endswith("_requests"))


def test_a_quiet_system_tells_zeros_and_every_group_answers(db: None) -> None:
    page = _read()
    groups = {dict(labels)["group"]: value for (name, labels), value in page.items() if name == "tranche_figures_up"}
    assert groups == {"broker": 1} | {group.name: 1 for group in figures.GROUPS}
    assert _of(page, "weight_changes_held") == 0
    assert _of(page, "incidents_open", state="confirmed") == 0
    assert _of(page, "credential_key_ok") == 1
    assert (_of(page, "database_size_bytes") or 0) > 1_000_000
    assert (_of(page, "database_connections") or 0) >= 1
    assert _of(page, "queue_length", queue="dns") is not None
    assert _of(page, "beat_age_seconds") is None  # it never ran, which is not the same as 0


def _steered(now: datetime) -> RecordSet:
    return factories.record_set(drifted_since=now - timedelta(minutes=1), is_held=True)


def test_what_an_operator_is_paged_for_is_told(db: None) -> None:
    now = datetime.now(UTC)
    every = IntervalSchedule.objects.create(every=10, period=IntervalSchedule.SECONDS)
    task = PeriodicTask.objects.create(name="x", task="x", interval=every)
    PeriodicTask.objects.filter(pk=task.pk).update(last_run_at=now - timedelta(seconds=70))
    good = factories.vantage_point(name="good", last_probe_at=now)
    factories.vantage_point(name="blind", last_probe_at=now, blind_since=now)
    factories.vantage_point(name="silent", last_probe_at=now - timedelta(minutes=5))
    factories.vantage_point(name="shadow", state=VantagePoint.State.SHADOW)
    factories.vantage_point(name="off", state=VantagePoint.State.OFF)
    record([factories.target()], [good], [now - timedelta(seconds=8 + n) for n in range(5)])
    storm = factories.storm(closed_at=None)
    factories.incident(ended_at=None)
    steered = _steered(now)
    common = {"customer": steered.customer, "service": steered.domain.service, "weights": {}, "reason": "test"}
    WeightChange.objects.create(
        **common, record_set=steered, generation=1, state="held", wanted_at=now - timedelta(minutes=4)
    )
    for state, times in (
        ("submitted", {"wanted_at": now - timedelta(seconds=90), "next_attempt_at": now - timedelta(seconds=20)}),
        ("confirmed", {"confirmed_at": now - timedelta(seconds=50), "next_attempt_at": now + timedelta(hours=1)}),
    ):
        other = factories.record_set()
        WeightChange.objects.create(
            customer=other.customer, service=other.domain.service, weights={}, reason="test",
            record_set=other, generation=1, state=state, **times,
        )  # fmt: skip
    type(steered.account).objects.filter(pk=steered.account.pk).update(trouble="revoked")
    source = UsageSource.objects.create(
        name="logs",
        cdn=factories.cdn(),
        kind="directory",
        format="cloudfront",
        listed_at=now,
        listed_whole_at=now - timedelta(hours=1),
    )
    for number in range(3):
        LogObject.objects.create(source=source, key=f"{number}.gz", etag="1", size_bytes=1, state="quarantined")
    contract = factories.contract()
    Invoice.objects.create(
        customer=contract.customer, contract=contract, prices=contract.rate_card.versions.get(), currency="EUR",
        period_start=now - timedelta(days=60), period_end=now - timedelta(days=30), as_of=now, formula="x",
    )  # fmt: skip
    Event.objects.create(kind="selfcheck.violated", subject_type="invariant", subject_id=0, summary="I1",
                         created_at=now - timedelta(minutes=2))  # fmt: skip

    page = _read()
    assert 70 <= (_of(page, "beat_age_seconds") or 0) < 100
    dark = {dict(labels)["vantage_point"]: value
            for (name, labels), value in page.items() if name == "tranche_vantage_point_dark"}  # fmt: skip
    assert dark == {"good": 0, "blind": 1, "silent": 1, "shadow": 0}
    assert _of(page, "samples_per_second", vantage_point="good") == pytest.approx(5 / 15)
    assert _of(page, "samples_per_second", vantage_point="silent") == 0
    assert _of(page, "sample_slip_seconds", vantage_point="good") == 0
    assert _of(page, "storms_open", attribution=storm.attribution, state="raging") == 1
    assert sum(_of(page, "incidents_open", state=state) or 0 for state in ("suspected", "confirmed")) == 1
    assert _of(page, "weight_changes_held") == 1
    assert 240 <= (_of(page, "weight_change_held_age_seconds") or 0) < 260
    assert 90 <= (_of(page, "weight_change_unconfirmed_age_seconds") or 0) < 110
    assert 50 <= (_of(page, "weight_change_unobserved_age_seconds") or 0) < 70
    assert _of(page, "dns_backlog") == 1
    assert 20 <= (_of(page, "dns_backlog_age_seconds") or 0) < 40
    assert (_of(page, "record_sets"), _of(page, "record_sets_drifted")) == (3, 1)
    assert _of(page, "record_sets_left_alone") == 1
    assert _of(page, "dns_accounts_in_trouble", trouble="revoked") == 1
    assert 3600 <= (_of(page, "log_source_lag_seconds", kind="directory") or 0) < 3620
    assert _of(page, "log_objects_troubled", state="quarantined") == 3
    assert _of(page, "invoice_drafts_overdue") == 1
    assert (_of(page, "invoice_draft_overdue_seconds") or 0) > 86_400
    assert (_of(page, "events_waiting") or 0) >= 1
    assert (_of(page, "events_waiting_age_seconds") or 0) >= 120
    assert _of(page, "selfcheck_violations") == 1


def test_as_many_statements_however_much_there_is(db: None) -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as seen_queries:
            list(figures.collect())
        return sum("set_config" not in q["sql"] and "SAVEPOINT" not in q["sql"] for q in seen_queries.captured_queries)

    few = asked()
    for _ in range(3):
        _steered(datetime.now(UTC))
        factories.storm(closed_at=None)
        factories.vantage_point(last_probe_at=datetime.now(UTC))
    assert asked() == few == len(figures.GROUPS) <= 15


def test_a_group_that_fails_leaves_the_others_alone(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = figures.Group("slow", "SELECT pg_sleep(5)", figures.GROUPS[-1].parameters, figures.GROUPS[-1].told)
    monkeypatch.setattr(figures, "STATEMENT_MS", 20)
    monkeypatch.setattr(figures, "GROUPS", [slow, *figures.GROUPS])
    page = _read()
    assert _of(page, "figures_up", group="slow") == 0
    assert _of(page, "figures_up", group="database") == 1
    assert _of(page, "database_size_bytes") is not None


def test_without_a_broker_the_rest_is_told(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery.current_app.conf.broker_read_url", "redis://127.0.0.1:1/0")
    page = _read()
    assert (_of(page, "figures_up", group="broker"), _of(page, "figures_up", group="storms")) == (0, 1)
    assert _of(page, "queue_length", queue="dns") is None


def test_queues_are_told_with_their_workers(db: None) -> None:
    with seen.broker_client() as client:
        seen.note(client, ["dns", "probe.fra1"])
        try:
            page = _read()
        finally:
            client.delete(seen.KEY)
    assert (_of(page, "queue_worker_age_seconds", queue="dns") or 0) < 30
    assert _of(page, "queue_length", queue="probe.fra1") == 0


def test_requests_are_counted_by_view_never_by_what_strangers_type(db: None) -> None:
    client = Client()
    before = _of(_read(), "http_requests_total", view="none", method="GET", status="404") or 0
    for path in ("/wp-admin", "/.env", "/healthz"):
        client.get(path)
    client.generic("BREW", "/healthz")
    page = _read()
    assert _of(page, "http_requests_total", view="none", method="GET", status="404") == before + 2
    assert (_of(page, "http_requests_total", view="tranche_site.health.alive", method="other", status="405") or 0) >= 1
    assert (_of(page, "http_request_duration_seconds_count", view="tranche_site.health.alive") or 0) >= 2
    assert not [labels for _, labels in page if "/.env" in str(labels)]


@pytest.mark.parametrize(
    ("given", "address", "forwarded", "status"),
    [
        ({}, "127.0.0.1", None, 200),
        ({}, "::1", None, 200),
        ({}, "192.0.2.7", None, 403),
        ({}, "", None, 403),
        ({}, "127.0.0.1", "192.0.2.7", 403),  # through a proxy on this machine
        ({"METRICS_TOKEN": "s3cret"}, "127.0.0.1", None, 403),
        ({"METRICS_TOKEN": "s3cret", "sent": "Bearer wrong"}, "127.0.0.1", None, 403),
        ({"METRICS_TOKEN": "s3cret", "sent": "Basic s3cret"}, "127.0.0.1", None, 403),
        ({"METRICS_TOKEN": "s3cret", "sent": "Bearer s3cret"}, "192.0.2.7", "192.0.2.8", 200),
    ],
)
def test_who_may_read(
    db: None, settings: Any, given: dict[str, str], address: str, forwarded: str | None, status: int
) -> None:
    settings.METRICS_TOKEN = given.get("METRICS_TOKEN", "")
    headers = {"Authorization": given["sent"]} if "sent" in given else {}
    headers |= {"X-Forwarded-For": forwarded} if forwarded else {}
    response = Client(headers=headers, REMOTE_ADDR=address).get("/metrics")
    assert response.status_code == status
    assert (b"tranche_" in response.content) == (status == 200)
