"""The annex of an invoice: a picture of every storm that its cover lines name.

It is drawn from what is kept when somebody looks, and so is no part of the document that was issued.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from django.utils.safestring import SafeString, mark_safe

from billing.timeline import drawing, reading
from storms.models import StormEvent

if TYPE_CHECKING:
    from billing.models import Invoice

MOST_STORMS = 24
WIDTH = 720


@dataclass(frozen=True, slots=True)
class Picture:
    storm: StormEvent
    svg: SafeString


@dataclass(frozen=True, slots=True)
class Annex:
    invoice: Invoice
    drawn_at: datetime
    pictures: list[Picture]
    left_out: int


def of(invoice: Invoice, now: datetime, *, of_ours: bool = False) -> Annex:
    """Storms in the order in which they began; eight queries for each."""
    names = {
        int(name)
        for details in invoice.lines.filter(kind="cover").values_list("details", flat=True)
        for storm in details.get("storms", [])
        if (name := str(storm["id"]).removeprefix("storm-")).isdecimal()
    }
    storms = StormEvent.objects.filter(pk__in=names, customer=invoice.customer_id).select_related("service")
    rows = list(storms.order_by("started_at", "pk")[: MOST_STORMS + 1])
    pictures = [Picture(storm, _drawn(storm, now, of_ours)) for storm in rows[:MOST_STORMS]]
    return Annex(invoice, now, pictures, max(len(names) - MOST_STORMS, 0))


def _drawn(storm: StormEvent, now: datetime, of_ours: bool) -> SafeString:
    timeline = reading.of_storm(storm, now, of_ours=of_ours).timeline
    return mark_safe(drawing.draw(timeline, WIDTH, tooltips=False))  # noqa: S308  escaped where it is drawn
