"""What the API's list of services costs: under a steady load, and beside a bare view of Django REST framework."""

from __future__ import annotations

import sys
from functools import cache

from tests.bench import Result, database

LIMIT_MS = 30


@cache
def _told() -> dict[str, float]:
    told: dict[str, float] = database.measure("tests.bench.api_client", valkey=True)
    print(f"api: {told}", file=sys.stderr)
    return told


def api_list_p99_ms() -> Result:
    """A page of 50 services, asked 50 times a second over 50 connections."""
    return Result("api_list_p99_ms", round(_told()["p99_ms"], 1), "ms", "limit", LIMIT_MS)


def api_list_rate() -> Result:
    """Pages a second in a closed loop; the peer serializes the same rows without key, limits and filters."""
    told = _told()
    return Result("api_list_rate", round(told["rate"]), "1/s", "bare DRF view", round(told["bare_rate"]))
