"""How many invoices a minute are drafted and issued: a month of quarter-hours of a thousand customers, or FULL=1 of ten."""

from __future__ import annotations

import os
import sys
from functools import cache

from tests.bench import Result, database

ASKED_A_MINUTE = 10_000.0


def invoices_draft() -> Result:
    return Result("invoices_draft", _told()["drafted_a_minute"], "1/min", "asked at least", ASKED_A_MINUTE)


def invoices_finalize() -> Result:
    return Result("invoices_finalize", _told()["issued_a_minute"], "1/min", "asked at least", ASKED_A_MINUTE)


@cache
def _told() -> dict[str, float]:
    customers = 10_000 if os.environ.get("FULL") else 1_000
    told: dict[str, float] = database.measure("tests.bench.invoices_client", str(customers))
    print(f"invoices: {told}", file=sys.stderr)
    return told
