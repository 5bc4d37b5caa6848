"""How long the console's pages take on a database of 10,000 services that has counted 50 million samples of some of them."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.bench import Result, database

LIMIT_MS, LISTS_LIMIT_MS = 150, 200


@cache
def _told() -> dict[str, Any]:
    found: dict[str, Any] = database.measure("tests.bench.pages_client", static_files=True)
    return found


def _slowest(prefix: str) -> float:
    return round(max(ms for name, ms in _told().items() if name.startswith(prefix)), 1)


def room_ms() -> Result:
    """The operations room, calm and with a thousand storms: the slower one."""
    return Result("room_ms", _slowest("room"), "ms", "limit", LIMIT_MS)


def service_page_ms() -> Result:
    """A service's page of 1 h, 24 h, 7 and 30 days, and its settings with every vantage point: the slowest one."""
    return Result("service_page_ms", _slowest("service"), "ms", "limit", LIMIT_MS)


def changelist_ms() -> Result:
    """The slowest of the lists that are long here."""
    return Result("changelist_ms", _slowest("list"), "ms", "limit", LISTS_LIMIT_MS)
