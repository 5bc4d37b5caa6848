"""How the console's pages tell verdicts: one that nobody renewed is UNKNOWN, for an old UP is not UP."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Case, Q, Value, When

from services.models import Target

STALE = timedelta(minutes=2)
VERDICTS = ("UP", "UNKNOWN", "DEGRADED", "DOWN")  # by severity


def severity(now: datetime) -> Case:
    """Of targets, in a query: the index into VERDICTS. No verdict, or one that nobody renewed, is UNKNOWN."""
    return Case(
        When(Q(verdict__isnull=True) | Q(verdict__evaluated_at__lt=now - STALE), then=Value(1)),
        *(When(verdict__verdict=verdict, then=Value(place)) for place, verdict in enumerate(VERDICTS)),
        default=Value(1),
    )


def verdict_of(target: Target, now: datetime) -> str:
    """Of one that was read with its verdict."""
    row = getattr(target, "verdict", None)
    return row.verdict if row and row.evaluated_at >= now - STALE and row.verdict in VERDICTS else "UNKNOWN"
