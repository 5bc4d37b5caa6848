"""Writing samples: COPY in batches, and a staging table only when a key is there already."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime

from django.db import connection, transaction
from psycopg import errors

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `probe_samples`, fields in the order of the COPY."""

    slot_at: datetime
    target_id: int
    vantage_point_id: int
    attempt: int
    at: datetime
    customer_id: int | None
    service_id: int | None
    outcome: str
    status: int | None
    dns_ms: float | None
    connect_ms: float | None
    tls_ms: float | None
    first_byte_ms: float | None
    total_ms: float | None
    certificate_expires_at: datetime | None
    remote_address: str | None
    reason: str
    is_blind: bool


COLUMNS = ", ".join(field.name for field in fields(Row))


def write(rows: Sequence[Row]) -> None:
    """Record a batch. Rows whose key is known already add nothing, so a redelivered or back-filled batch is harmless."""
    if not rows:
        return
    try:
        with transaction.atomic():
            _copy("probe_samples", rows)
    except errors.UniqueViolation:
        _write_around_duplicates(rows)
    except Exception as error:
        if not isinstance(error.__cause__, errors.UniqueViolation):
            raise
        _write_around_duplicates(rows)


def _write_around_duplicates(rows: Sequence[Row]) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE staged (LIKE probe_samples INCLUDING DEFAULTS) ON COMMIT DROP")
        _copy("staged", rows)
        cursor.execute(
            f"INSERT INTO probe_samples ({COLUMNS}) SELECT {COLUMNS} FROM staged ON CONFLICT DO NOTHING"  # noqa: S608
        )


def _copy(table: str, rows: Sequence[Row]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(astuple(row))
