"""Writing samples: COPY in batches, and a staging table only when a key is there already."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from operator import attrgetter
from typing import Any

from django.db import DataError, IntegrityError, connection, transaction
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
    certificate_issuer: str
    protocol: str
    remote_address: str | None
    reason: str
    is_blind: bool
    is_late: bool = False
    in_maintenance: bool = False


COLUMNS = ", ".join(field.name for field in fields(Row))
# COPY's binary form takes each column's type from us: twice as fast as text, and as strict.
_TYPES = (
    "timestamptz", "int8", "int8", "int2", "timestamptz", "int8", "int8", "varchar", "int2", "float8", "float8", "float8",
    "float8", "float8", "timestamptz", "varchar", "varchar", "inet", "text", "bool", "bool", "bool",
)  # fmt: skip
_values = attrgetter(*(field.name for field in fields(Row)))
_NAMES = [field.name for field in fields(Row)]
_ATTEMPT, _STATUS, _ADDRESS = (_NAMES.index(name) for name in ("attempt", "status", "remote_address"))
_SMALL = range(-(2**15), 2**15)


def write(rows: Sequence[Row]) -> None:
    """Record a batch. Rows whose key is known already add nothing, so a redelivered or back-filled batch is harmless."""
    if not rows:
        return
    try:
        _write(rows)
    except (DataError, UnicodeEncodeError):
        # One row that Postgres can't hold, such as a NUL in its reason, must not cost the others or come back for ever.
        if len(rows) == 1:
            logger.exception("a sample can't be recorded and is dropped: %s", rows[0])
            return
        middle = len(rows) // 2
        write(rows[:middle])
        write(rows[middle:])


def _write(rows: Sequence[Row]) -> None:
    try:
        with transaction.atomic():
            _copy("probe_samples", rows)
    except IntegrityError as error:
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
        cursor.execute("DROP TABLE staged")  # the caller's transaction may need it again


def _copy(table: str, rows: Sequence[Row]) -> None:
    # Django leaves COPY's errors as psycopg's own unless it is asked.
    statement = f"COPY {table} ({COLUMNS}) FROM STDIN (FORMAT BINARY)"
    with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(_TYPES)
        for row in rows:
            copy.write_row(_checked(_values(row)))


def _checked(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Values for the binary form, which would cut a number that is too long instead of refusing it. Raises DataError."""
    if values[_ATTEMPT] not in _SMALL or (values[_STATUS] or 0) not in _SMALL:
        raise DataError(f"attempt {values[_ATTEMPT]} or status {values[_STATUS]} is out of range")
    address = values[_ADDRESS]
    return values if address is None else (*values[:_ADDRESS], _address(address), *values[_ADDRESS + 1 :])


@lru_cache(maxsize=65_536)
def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise DataError(str(error)) from error
    if isinstance(address, IPv6Address) and address.scope_id:
        raise DataError(f"{text} names a scope, which inet can't hold")
    return address
