"""How long the console's page of a service takes on a database that has counted 50 million samples."""

from __future__ import annotations

from tests.bench import Result, database

LIMIT_MS = 150


def service_page_ms() -> Result:
    """The slower one of 24 hours and 7 days."""
    told: dict[str, float] = database.measure("tests.bench.service_page_client", static_files=True)
    return Result("service_page_ms", round(max(told.values()), 1), "ms", "limit", LIMIT_MS)
