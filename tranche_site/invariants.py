"""What must always hold in the database, whatever failed in between. Each is a question that has no answer while it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import apps
from django.db import connection, models

from billing import audit
from tranche_site import audit as sealing

SHOWN = 20
"""Of each invariant, how many violations are told."""


@dataclass(frozen=True, slots=True)
class Invariant:
    """`find` gives one text for each violation."""

    id: str
    title: str
    find: Callable[[datetime], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Finding:
    id: str
    title: str
    violations: list[str]

    @property
    def holds(self) -> bool:
        return not self.violations


def _sql(text: str) -> Callable[[datetime], Iterator[str]]:
    def find(now: datetime) -> Iterator[str]:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM ({text}) AS violations LIMIT {SHOWN + 1}")  # noqa: S608
            for row in cursor.fetchall():
                yield str(row[0])

    return find


def _tenants(now: datetime) -> Iterator[str]:
    """Every row that names a customer refers to rows of the same customer only."""
    for model in apps.get_models():
        if not _has_customer(model):
            continue
        for field in model._meta.concrete_fields:
            other = field.related_model
            if field.name == "customer" or not isinstance(other, type) or not issubclass(other, models.Model):
                continue
            if _has_customer(other):
                yield from _strangers(model, field, other, now)


def _has_customer(model: type[models.Model]) -> bool:
    return any(field.name == "customer" and field.is_relation for field in model._meta.concrete_fields)


def _strangers(model: type[models.Model], field: Any, other: type[models.Model], now: datetime) -> Iterator[str]:
    mine, theirs = model._meta.db_table, other._meta.db_table
    yield from _sql(
        f"""SELECT '{mine} ' || a.id || ' of customer ' || a.customer_id || ' refers to {theirs} ' || b.id
                || ' of customer ' || b.customer_id
            FROM {mine} a JOIN {theirs} b ON b.id = a.{field.column} WHERE a.customer_id <> b.customer_id"""  # noqa: S608
    )(now)


INVARIANTS = [
    Invariant(
        "I1", "at most one open storm of a service and kind",
        _sql("""SELECT 'service ' || service_id || ': ' || count(*) || ' open ' || kind || ' storms'
                FROM storm_events WHERE closed_at IS NULL GROUP BY service_id, kind HAVING count(*) > 1"""),
    ),
    Invariant(
        "I2", "storms of a service and kind don't overlap, and end after they begin",
        _sql("""SELECT 'storms ' || a.id || ' and ' || b.id FROM storm_events a JOIN storm_events b
                ON a.service_id = b.service_id AND a.kind = b.kind AND a.id < b.id
                    AND tstzrange(a.started_at, a.ended_at) && tstzrange(b.started_at, b.ended_at)
                UNION ALL SELECT 'storm ' || id || ' ends before it begins' FROM storm_events WHERE ended_at < started_at"""),
    ),
    Invariant(
        "I3", "every storm that was detected has the case that it was opened on",
        _sql("""SELECT 'storm ' || s.id FROM storm_events s WHERE s.kind <> 'manual' AND NOT EXISTS (
                    SELECT 1 FROM storm_entries e WHERE e.storm_id = s.id AND e.action = 'open' AND e.case IS NOT NULL)"""),
    ),
    Invariant(
        "I5", "no older plan was written after a newer one had been confirmed",
        _sql("""SELECT 'record set ' || a.record_set_id || ': generation ' || a.generation || ' after ' || b.generation
                FROM weight_changes a JOIN weight_changes b
                    ON a.record_set_id = b.record_set_id AND a.generation < b.generation
                    AND a.region IS NOT DISTINCT FROM b.region AND a.submitted_at > b.confirmed_at"""),
    ),
    Invariant(
        "I6", "planned weights are percents that sum to 100",
        _sql("""SELECT 'weight change ' || c.id || ' sums to ' || w.sum FROM weight_changes c,
                    LATERAL (SELECT coalesce(sum(value::int), 0) AS sum, min(value::int) AS least FROM jsonb_each_text(weights)) w
                WHERE w.sum <> 100 OR w.least < 0"""),
    ),
    Invariant(
        "I7", "what was wanted is seen within an hour, or held, or said to have failed",
        _sql("""SELECT 'weight change ' || id || ' is ' || state || ' since ' || wanted_at FROM weight_changes
                WHERE state IN ('wanted', 'submitted', 'unknown', 'confirmed') AND wanted_at < now() - interval '1 hour'"""),
    ),
    Invariant(
        "I8", "nothing was written for a name that nobody has proven",
        _sql("""SELECT 'weight change ' || c.id FROM weight_changes c JOIN record_sets r ON r.id = c.record_set_id
                    JOIN service_domains d ON d.id = r.domain_id
                WHERE c.submitted_at IS NOT NULL AND (d.verified_at IS NULL OR c.submitted_at < d.verified_at)"""),
    ),
    Invariant("I11", "rows of logs are counted, excluded, duplicate, bad or of unknown hosts", audit.uncounted_rows),
    Invariant("I12", "hours are the sums of their minutes, and every hour that was billed is on one line", audit.unsummed),
    Invariant("I13", "issued money follows from what it was issued by", audit.unfounded_money),
    Invariant("I14", "lines, payments, credit notes and numbers add up", audit.sums_that_differ),
    Invariant("I16", "what was audited is as it was sealed", sealing.broken),
    Invariant("I17", "no row refers to another customer's", _tenants),
    Invariant(
        "I18", "no lease outlives its owner",
        _sql("""SELECT 'DNS account ' || id || ' is written until ' || writing_until FROM dns_accounts
                WHERE writing_until > now() + interval '10 minutes'"""),
    ),
    Invariant(
        "I20", "what follows is not before what it follows from",
        _sql("""SELECT 'storm ' || id FROM storm_events WHERE detected_at < started_at OR closed_at < ended_at
                UNION ALL SELECT 'weight change ' || id FROM weight_changes
                WHERE confirmed_at < submitted_at OR observed_at < submitted_at
                UNION ALL SELECT 'invoice ' || id FROM invoices WHERE period_end <= period_start"""),
    ),
]  # fmt: skip


def check(now: datetime) -> list[Finding]:
    """Ask every invariant. Reads only."""
    found = []
    for invariant in INVARIANTS:
        violations: list[str] = []
        for text in invariant.find(now):
            violations.append(text if len(violations) < SHOWN else "… and more")
            if len(violations) > SHOWN:
                break
        found.append(Finding(invariant.id, invariant.title, violations))
    return found
