"""The process that the bench of documents measures: fifty invoices, each made a PDF once; the last line is JSON."""

from __future__ import annotations

import json
import statistics
import time
from datetime import timedelta
from decimal import Decimal

import django

django.setup()

from billing import invoicing  # noqa: E402
from billing.documents import pdf, sheet  # noqa: E402
from billing.models import Invoice  # noqa: E402
from tests.billing.story import APRIL_3, GB, MARCH, at, billed_customer, storm, use  # noqa: E402

INVOICES = 50
LAYERS = [{"attachment": "0", "limit": "100", "share": "0.5"}, {"attachment": "100", "limit": "400", "share": "1"}]


def main() -> None:
    for number in range(INVOICES):
        _fill(number)
    invoicing.draft_all(MARCH, APRIL_3)
    invoicing.finalize_due(APRIL_3)
    taken, sizes = [], []
    for pk in Invoice.objects.order_by("pk").values_list("pk", flat=True):
        began = time.perf_counter()
        made = pdf.render(sheet.of(Invoice.objects.get(pk=pk)))
        taken.append((time.perf_counter() - began) * 1000)
        sizes.append(len(made))
    if len(taken) != INVOICES or len(set(sizes)) < 2:
        raise SystemExit(f"{len(taken)} PDFs instead of {INVOICES} different ones")
    told = {"median_ms": statistics.median(taken), "first_ms": taken[0], "longest_ms": max(taken), "bytes": max(sizes)}
    print(json.dumps(told))


def _fill(number: int) -> None:
    _, service = billed_customer(
        layers=LAYERS,
        fixed_fee=Decimal(100 + number),
        premium=Decimal(30),
        tax_rates={"delivery": "0.19", "fee": "0.19"},
    )
    use(service, "primary", at(2, 12), (1000 + number) * GB)
    for day in (5, 9, 20):
        for minute in range(5):
            use(service, "backup", at(day, 10, minute), (60 + number) * GB)
        storm(service, at(day, 10), at(day, 10, 5) + timedelta(seconds=number))
    storm(service, at(25), at(25, 1), attribution="origin_fault")


if __name__ == "__main__":
    main()
