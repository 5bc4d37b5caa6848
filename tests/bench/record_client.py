"""The process that the recording bench measures: one JSON line."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import django

django.setup()

from django.db import connection, transaction  # noqa: E402

from services import partitions, samples  # noqa: E402

ROWS, BATCH = 200_000, 20_000
START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def main() -> None:
    partitions.maintain(START)
    batches = [[_row(n) for n in range(first, first + BATCH)] for first in range(0, ROWS, BATCH)]
    began = time.monotonic()
    for batch in batches:
        samples.write(batch)
    ours = time.monotonic() - began
    dumped = [_dump(n * BATCH) for n in range(ROWS // BATCH)]
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE probe_samples")
    began = time.monotonic()
    for text in dumped:
        statement = f"COPY probe_samples ({samples.COLUMNS}) FROM STDIN"
        with transaction.atomic(), connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(text)
    print(json.dumps({"rows_per_second": ROWS / ours, "bare": ROWS / (time.monotonic() - began)}))


def _dump(first: int) -> bytes:
    """The same rows in COPY's text form, made by Postgres, so that only sending and storing is left."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT min(slot_at) FROM probe_samples")
        query = f"SELECT {samples.COLUMNS} FROM probe_samples ORDER BY slot_at OFFSET {first} LIMIT {BATCH}"
        with cursor.copy(f"COPY ({query}) TO STDOUT") as copy:
            return b"".join(bytes(block) for block in copy)


def _row(n: int) -> samples.Row:
    at = START + timedelta(milliseconds=n)
    return samples.Row(
        at, n % 20_000, 1, 0, at, 1, 1, "ok", 200, 1.25, 10.5, 20.25, 15.125, 47.5,
        at + timedelta(days=80), "C = US, O = Test, CN = CA", "HTTP/1.1", "192.0.2.1",
        "", False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
