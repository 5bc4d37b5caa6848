"""What is so every day: probing, the beat, work that is due, and the queues. One query, and one look at the broker."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection
from django.urls import reverse

from tranche_site.figures import SAMPLES_SECONDS, SETTLED_SECONDS, queues
from tranche_site.floor import seen

LATE_SECONDS = 30
"""Work that has been due for longer is told in colour."""
BEAT_SECONDS = 10
SLIP_SECONDS = 5
LONG_QUEUE = 1000
WORKER_SECONDS = 60

_STATEMENT = """
SELECT jsonb_build_object(
    'samples', (SELECT count(*) FROM probe_samples WHERE slot_at >= %(start)s AND slot_at < %(end)s),
    'slip', (SELECT EXTRACT(epoch FROM max(at - slot_at) FILTER (WHERE attempt = 0)) FROM probe_samples
        WHERE slot_at >= %(start)s AND slot_at < %(end)s),
    'beat', (SELECT EXTRACT(epoch FROM %(now)s - max(last_run_at)) FROM django_celery_beat_periodictask WHERE enabled),
    'writes', (SELECT EXTRACT(epoch FROM %(now)s - min(next_attempt_at)) FROM weight_changes
        WHERE state IN ('wanted', 'submitted', 'unknown', 'confirmed') AND next_attempt_at <= %(now)s),
    'webhooks', (SELECT EXTRACT(epoch FROM %(now)s - min(next_attempt_at)) FROM webhook_deliveries
        WHERE state = 'pending' AND next_attempt_at <= %(now)s),
    'events', (SELECT EXTRACT(epoch FROM %(now)s - created_at) FROM events WHERE processed_at IS NULL ORDER BY id LIMIT 1),
    'logs', (SELECT EXTRACT(epoch FROM %(now)s - min(listed_at)) FROM usage_sources WHERE enabled)
)
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """`tone` "" is what it should be."""

    name: str
    value: str
    url: str
    tone: str = ""
    title: str = ""


def read(now: datetime) -> list[Figure]:
    end = now - timedelta(seconds=SETTLED_SECONDS)
    start = end - timedelta(seconds=SAMPLES_SECONDS)
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, {"now": now, "start": start, "end": end})
        found: dict[str, Any] = json.loads(cursor.fetchone()[0])
    return [*_of_postgres(found), *_of_broker()]


def _of_postgres(found: dict[str, Any]) -> Iterable[Figure]:
    points, beat = (
        reverse("admin:services_vantagepoint_changelist"),
        reverse("admin:django_celery_beat_periodictask_changelist"),
    )
    yield Figure("probes", f"{found['samples'] / SAMPLES_SECONDS:,.1f} a second", points)
    yield _age("begun late by at most", found["slip"], points, SLIP_SECONDS, "nothing probed")
    yield _age("beat was heard", found["beat"], beat, BEAT_SECONDS, "never", "{} ago")
    for name, key, view in (
        ("DNS writes due", "writes", "dns_weightchange"), ("webhooks due", "webhooks", "customers_webhookdelivery"),
        ("events to pass on", "events", "customers_event"),
    ):  # fmt: skip
        yield _age(name, found[key], reverse(f"admin:{view}_changelist"), LATE_SECONDS, "none", "since {}")
    logs = reverse("admin:billing_usagesource_changelist")
    yield _age("logs were listed", found["logs"], logs, 3600, "no source", "{} ago")


def _age(name: str, seconds: float | None, url: str, most: float, nothing: str, form: str = "{}") -> Figure:
    if seconds is None:
        return Figure(name, nothing, url)
    return Figure(name, form.format(short(max(seconds, 0))), url, "warning" if seconds > most else "")


def short(seconds: float) -> str:
    """“0.4 s”, “12 s”, “3 min”, “5 h”, “2 days”."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit, most in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172_800)):
        if seconds < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def _of_broker() -> Iterable[Figure]:
    """Messages that wait, and queues that nobody serves."""
    url = reverse("admin:django_celery_beat_periodictask_changelist")
    try:
        with seen.broker_client() as client:
            ages = seen.ages(client)
            names = sorted({*queues(), *ages})
            pipe = client.pipeline(transaction=False)
            for name in names:
                pipe.llen(name)
            lengths = dict(zip(names, pipe.execute(), strict=True))
    except seen.BROKER_ERRORS:
        yield Figure(
            "broker",
            "does not answer",
            url,
            "danger",
            "Valkey is away: what is due stays in Postgres and is done late.",
        )
        return
    title = ", ".join(f"{name}: {length}" for name, length in lengths.items() if length) or "every queue is empty"
    waiting = sum(lengths.values())
    yield Figure("messages waiting", f"{waiting:,}", url, "warning" if waiting > LONG_QUEUE else "", title)
    silent = [name for name, age in ages.items() if age > WORKER_SECONDS]
    silent += [name for name in queues() if name not in ages and name != settings.CELERY_TASK_DEFAULT_QUEUE]
    told = ", ".join(silent) if silent else f"all {len(ages)} queues are served"
    yield Figure("workers", told if not silent else f"nobody serves {told}", url, "warning" if silent else "", told)
