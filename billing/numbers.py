"""Numbers of documents, without gaps."""

from __future__ import annotations

from billing.models import InvoiceCounter


def take_numbers(series: str, count: int) -> list[str]:
    """The next numbers of a series, in order. Call it in the transaction that uses them.

    The counter's row stays locked until that ends, so a number that is not used in the end is not lost.
    """
    InvoiceCounter.objects.get_or_create(series=series)
    counter = InvoiceCounter.objects.select_for_update().get(series=series)
    first = counter.last_number + 1
    counter.last_number += count
    counter.save(update_fields=["last_number"])
    return [f"{series}-{number:06d}" for number in range(first, first + count)]
