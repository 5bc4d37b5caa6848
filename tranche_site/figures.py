"""What an operator is paged for, as it stands now: asked of Postgres and the broker whenever Prometheus asks.

A group is one statement, or one look at the broker. Each is bounded by time and none by the number of services, and one that
fails is told by `tranche_figures_up` and leaves the others alone: the dashboards of a bad day must not depend on all of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import Error, connection, transaction
from prometheus_client.core import GaugeMetricFamily, Metric

from tranche_site.floor import sealed, seen

logger = logging.getLogger(__name__)

STALE_SECONDS = 120
"""A vantage point that has not probed for so long is silent."""
STATEMENT_MS = 2000
WHOLE_SECONDS = 5.0
"""After this no further group is begun: Prometheus gives up after ten."""
SAMPLES_SECONDS = 15
SETTLED_SECONDS = 5
"""Samples of the newest seconds are still being recorded."""
NEWEST_OBJECTS = 100_000
"""Of millions of log files, so many are looked at: a source that fails, fails with new ones."""
COUNTED_AT_MOST = 10_000
"""A backlog beyond this is told as this many; its age tells the rest."""

Families = Iterator[Metric]


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    sql: str
    parameters: Callable[[datetime], dict[str, Any]]
    told: Callable[[list[tuple[Any, ...]]], Families]


def collect(now: datetime | None = None) -> Families:
    """Every figure. Raises nothing: what can't be asked is missing, and said so."""
    now = now or datetime.now(UTC)
    deadline = time.monotonic() + WHOLE_SECONDS
    up = GaugeMetricFamily("tranche_figures_up", "1 if this group of figures could be asked.", labels=["group"])
    yield from _broker(up, queues())
    yield from _key()
    for group in GROUPS:
        rows = _rows(group, now) if time.monotonic() < deadline else None
        up.add_metric([group.name], 0 if rows is None else 1)
        if rows is not None:
            yield from group.told(rows)
    yield up


def _rows(group: Group, now: datetime) -> list[tuple[Any, ...]] | None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(STATEMENT_MS)])
            cursor.execute(group.sql, group.parameters(now))
            return cursor.fetchall()
    except Error as error:
        logger.warning("the figures “%s” can't be asked: %s", group.name, error)
        return None


def gauge(name: str, help_text: str, value: Any, **labels: str) -> Metric:
    """One figure with one value; without any where there is nothing to tell."""
    family = GaugeMetricFamily(f"tranche_{name}", help_text, labels=list(labels))
    if value is not None:
        family.add_metric(list(labels.values()), float(value))
    return family


def by(name: str, help_text: str, label: str, values: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(f"tranche_{name}", help_text, labels=[label])
    for key, value in values.items():
        if value is not None:
            family.add_metric([key], float(value))
    return family


# --- Postgres -------------------------------------------------------------------------------------------------------


def _now(now: datetime) -> dict[str, Any]:
    return {"now": now}


def _beat(rows: list[tuple[Any, ...]]) -> Families:
    yield gauge("beat_age_seconds", "Since beat last sent anything.", rows[0][0])


def _points(rows: list[tuple[Any, ...]]) -> Families:
    yield by("vantage_point_dark", "1 if an active vantage point is blind or silent: a missing vote.", "vantage_point",
             {name: state == "active" and (is_blind or age is None or age > STALE_SECONDS)
              for name, state, is_blind, age in rows})  # fmt: skip
    yield by("vantage_point_probe_age_seconds", "Since a vantage point last probed anything.", "vantage_point",
             {name: age for name, _, _, age in rows})  # fmt: skip


def _samples_window(now: datetime) -> dict[str, Any]:
    end = now - timedelta(seconds=SETTLED_SECONDS)
    return {"start": end - timedelta(seconds=SAMPLES_SECONDS), "end": end}


def _samples(rows: list[tuple[Any, ...]]) -> Families:
    yield by("samples_per_second", f"Samples recorded a second, over {SAMPLES_SECONDS} s.", "vantage_point",
             {name: count / SAMPLES_SECONDS for name, count, _ in rows})  # fmt: skip
    yield by("sample_slip_seconds", "The longest from a slot to the start of its probe, in the same seconds.",
             "vantage_point", {name: slip for name, _, slip in rows})  # fmt: skip


def _storms(rows: list[tuple[Any, ...]]) -> Families:
    open_ = GaugeMetricFamily(
        "tranche_storms_open", "Storms that are not closed: raging, or over and not closed.",
        labels=["attribution", "state"],
    )  # fmt: skip
    for attribution, state, count in rows:
        open_.add_metric([attribution, state], count)
    yield open_


def _incidents(rows: list[tuple[Any, ...]]) -> Families:
    yield by("incidents_open", "CDN incidents that are not over.", "state",
             {"suspected": 0, "confirmed": 0} | dict(rows))  # fmt: skip


def _changes(rows: list[tuple[Any, ...]]) -> Families:
    held, unconfirmed, unobserved, due, due_age, held_age = rows[0]
    yield gauge("weight_changes_held", "Plans that wait for an operator.", held)
    yield gauge("weight_change_held_age_seconds", "How long the oldest of them has waited.", held_age or 0)
    yield gauge("weight_change_unconfirmed_age_seconds", "Since the oldest plan without a vendor's word was wanted.",
                unconfirmed or 0)  # fmt: skip
    yield gauge("weight_change_unobserved_age_seconds", "Since the oldest confirmed change that no server shows.",
                unobserved or 0)  # fmt: skip
    yield gauge("dns_backlog", "Weight changes that are due to be written or asked after.", due)
    yield gauge("dns_backlog_age_seconds", "How long the oldest of them has been due.", due_age or 0)


def _record_sets(rows: list[tuple[Any, ...]]) -> Families:
    drifted, alone, total = rows[0]
    yield gauge("record_sets", "Record sets that are steered.", total)
    yield gauge("record_sets_drifted", "Those whose answers are not what was written.", drifted)
    yield gauge("record_sets_left_alone", "Those that a person edits, so that nothing is written.", alone)


def _accounts(rows: list[tuple[Any, ...]]) -> Families:
    yield by("dns_accounts_in_trouble", "DNS accounts that can't be used, by trouble.", "trouble", dict(rows))


def _sources(rows: list[tuple[Any, ...]]) -> Families:
    yield by("log_source_lag_seconds", "Since the most belated source of each kind was read to its end.", "kind",
             dict(rows))  # fmt: skip


def _objects(rows: list[tuple[Any, ...]]) -> Families:
    yield by("log_objects_troubled", "Log files of the last week that could not be counted.", "state",
             {"retry": 0, "quarantined": 0} | dict(rows))  # fmt: skip


def _drafts(rows: list[tuple[Any, ...]]) -> Families:
    count, age = rows[0]
    yield gauge("invoice_drafts_overdue", "Drafts past their contract's grace that are not issued.", count)
    yield gauge("invoice_draft_overdue_seconds", "How long the oldest of them is overdue.", age or 0)


def _events(rows: list[tuple[Any, ...]]) -> Families:
    waiting, age, violations = rows[0]
    yield gauge("events_waiting", f"Events that nobody has passed on, at most {COUNTED_AT_MOST}.", waiting)
    yield gauge("events_waiting_age_seconds", "How long the oldest of them has waited.", age or 0)
    yield gauge("selfcheck_violations", "Invariants that did not hold, in the last day.", violations)


def _webhooks(rows: list[tuple[Any, ...]]) -> Families:
    due, age, disabled = rows[0]
    yield gauge("webhooks_due", f"Deliveries that are due to receivers that answer, at most {COUNTED_AT_MOST}.", due)
    yield gauge("webhooks_due_age_seconds", "How long the oldest of them has been due.", age or 0)
    yield gauge("webhook_endpoints_disabled", "Endpoints that get nothing more until somebody enables them.", disabled)


def _database(rows: list[tuple[Any, ...]]) -> Families:
    size, used, most, oldest = rows[0]
    yield gauge("database_size_bytes", "The database on disk.", size)
    yield gauge("database_connections", "Connections to it.", used)
    yield gauge("database_connections_max", "Connections that the server allows.", most)
    yield gauge("database_oldest_transaction_seconds", "How long the oldest transaction is open.", oldest or 0)


GROUPS = [
    Group(
        "beat",
        "SELECT EXTRACT(epoch FROM %(now)s - max(last_run_at)) FROM django_celery_beat_periodictask WHERE enabled",
        _now, _beat,
    ),
    Group(
        "vantage_points",
        """SELECT name, state, blind_since IS NOT NULL, EXTRACT(epoch FROM %(now)s - last_probe_at)
           FROM vantage_points WHERE state <> 'off' ORDER BY name""",
        _now, _points,
    ),
    Group(
        "samples",
        # The left join tells a vantage point that records nothing as 0, which is what somebody is paged for.
        """SELECT p.name, count(s.slot_at), EXTRACT(epoch FROM max(s.at - s.slot_at) FILTER (WHERE s.attempt = 0))
           FROM vantage_points p
           LEFT JOIN probe_samples s ON s.vantage_point_id = p.id AND s.slot_at >= %(start)s AND s.slot_at < %(end)s
           WHERE p.state <> 'off' GROUP BY p.name""",
        _samples_window, _samples,
    ),
    Group(
        "storms",
        """SELECT attribution, CASE WHEN ended_at IS NULL THEN 'raging' ELSE 'ended' END AS state, count(*)
           FROM storm_events WHERE closed_at IS NULL GROUP BY 1, 2""",
        _now, _storms,
    ),
    Group(
        "incidents",
        """SELECT CASE WHEN confirmed_at IS NULL THEN 'suspected' ELSE 'confirmed' END, count(*)
           FROM cdn_incidents WHERE ended_at IS NULL GROUP BY 1""",
        _now, _incidents,
    ),
    Group(
        "changes",
        """SELECT count(*) FILTER (WHERE state = 'held'),
                  EXTRACT(epoch FROM %(now)s - min(wanted_at) FILTER (WHERE state IN ('wanted', 'submitted', 'unknown'))),
                  EXTRACT(epoch FROM %(now)s - min(confirmed_at) FILTER (WHERE state = 'confirmed')),
                  count(*) FILTER (WHERE state <> 'held' AND next_attempt_at <= %(now)s),
                  EXTRACT(epoch FROM %(now)s - min(next_attempt_at)
                      FILTER (WHERE state <> 'held' AND next_attempt_at <= %(now)s)),
                  EXTRACT(epoch FROM %(now)s - min(wanted_at) FILTER (WHERE state = 'held'))
           FROM weight_changes WHERE state IN ('wanted', 'held', 'submitted', 'unknown', 'confirmed')""",
        _now, _changes,
    ),
    Group(
        "record_sets",
        """SELECT count(*) FILTER (WHERE drifted_since IS NOT NULL), count(*) FILTER (WHERE is_held), count(*)
           FROM record_sets WHERE released_at IS NULL""",
        _now, _record_sets,
    ),
    Group("dns_accounts", "SELECT trouble, count(*) FROM dns_accounts WHERE trouble <> '' GROUP BY 1", _now, _accounts),
    Group(
        "log_sources",
        """SELECT kind, EXTRACT(epoch FROM %(now)s - min(coalesce(listed_whole_at, listed_at)))
           FROM usage_sources WHERE enabled GROUP BY kind""",
        _now, _sources,
    ),
    Group(
        "log_objects",
        f"""SELECT state, count(*)
            FROM (SELECT state, first_seen_at FROM log_objects ORDER BY id DESC LIMIT {NEWEST_OBJECTS}) AS newest
            WHERE state IN ('retry', 'quarantined') AND first_seen_at > %(now)s - interval '7 days' GROUP BY 1""",  # noqa: S608
        _now, _objects,
    ),
    Group(
        "drafts",
        """SELECT count(*), EXTRACT(epoch FROM max(%(now)s - i.period_end - c.grace_hours * interval '1 hour'))
           FROM invoices i JOIN contracts c ON c.id = i.contract_id
           WHERE i.state = 'draft' AND i.kind = 'invoice'
             AND i.period_end + c.grace_hours * interval '1 hour' < %(now)s""",
        _now, _drafts,
    ),
    Group(
        "events",
        f"""SELECT count(*), EXTRACT(epoch FROM %(now)s - min(created_at)),
                   (SELECT count(*) FROM events WHERE subject_type = 'invariant' AND subject_id = 0
                    AND kind = 'selfcheck.violated' AND created_at > %(now)s - interval '1 day')
            FROM (SELECT created_at FROM events WHERE processed_at IS NULL ORDER BY id LIMIT {COUNTED_AT_MOST}) AS waiting""",  # noqa: S608
        _now, _events,
    ),
    Group(
        "webhooks",
        f"""SELECT count(*), EXTRACT(epoch FROM %(now)s - min(next_attempt_at)),
                   (SELECT count(*) FROM webhook_endpoints WHERE disabled_at IS NOT NULL AND deleted_at IS NULL)
            FROM (SELECT d.next_attempt_at FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id
                  WHERE d.state = 'pending' AND d.next_attempt_at <= %(now)s AND e.deleted_at IS NULL
                    AND (e.held_until IS NULL OR e.held_until <= %(now)s)
                  ORDER BY d.next_attempt_at LIMIT {COUNTED_AT_MOST}) AS due""",  # noqa: S608
        _now, _webhooks,
    ),
    Group(
        "database",
        """SELECT pg_database_size(current_database()),
                  (SELECT numbackends FROM pg_stat_database WHERE datname = current_database()),
                  current_setting('max_connections')::int,
                  (SELECT EXTRACT(epoch FROM max(clock_timestamp() - xact_start)) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid())""",
        lambda now: {}, _database,
    ),
]  # fmt: skip
"""One statement each; further ones are added here."""


# --- the broker, and keys -------------------------------------------------------------------------------------------


def queues() -> list[str]:
    """Every queue of ours; probers' are named by rows."""
    named = {settings.CELERY_TASK_DEFAULT_QUEUE}
    named |= {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()}
    return sorted(named)


def _broker(up: GaugeMetricFamily, queues: list[str]) -> Families:
    try:
        with seen.broker_client() as client:
            ages = seen.ages(client)
            pipe = client.pipeline(transaction=False)
            every = sorted({*queues, *ages})
            for queue in every:
                pipe.llen(queue)
            pipe.hlen("unacked")
            pipe.info("memory")
            *lengths, unacked, memory = pipe.execute()
    except seen.BROKER_ERRORS as error:
        logger.warning("the broker can't be asked for its figures: %s", error)
        up.add_metric(["broker"], 0)
        return
    up.add_metric(["broker"], 1)
    yield by("queue_length", "Messages that wait, by queue.", "queue", dict(zip(every, lengths, strict=True)))
    yield by("queue_worker_age_seconds", "Since a worker of this queue was heard of.", "queue", ages)
    yield gauge("messages_unacknowledged", "Messages that workers have and have not finished.", unacked)
    yield gauge("broker_memory_bytes", "Memory that the broker's data takes.", memory["used_memory"])


def _key() -> Families:
    try:
        sealed.current_key_id()
    except sealed.SealedError:
        yield gauge("credential_key_ok", "1 if this process can seal and open credentials.", 0)
    else:
        yield gauge("credential_key_ok", "1 if this process can seal and open credentials.", 1)
