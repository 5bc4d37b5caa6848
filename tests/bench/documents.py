"""How long the PDF of an invoice takes, from its rows to its bytes."""

from __future__ import annotations

import sys

from tests.bench import Result, database

LIMIT_MS = 100


def pdf_ms() -> Result:
    """The median of fifty different invoices with two tranches, taxes and storms, made in one process."""
    told: dict[str, float] = database.measure("tests.bench.documents_client")
    print(f"pdf: {told}", file=sys.stderr)
    return Result("pdf_ms", round(told["median_ms"], 1), "ms", "limit", LIMIT_MS)
