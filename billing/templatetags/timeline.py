"""The picture of a storm, for its page: storms lie to the left of billing, so their template asks for it."""

from __future__ import annotations

from typing import Any

from django import template
from django.utils import timezone
from django.utils.safestring import mark_safe

register = template.Library()

WIDE, NARROW = 1120, 360
"""In which widths pages of the console draw it: of a desk, and of a phone."""


@register.inclusion_tag("billing/timeline.html", takes_context=True)
def storm_timeline(context: dict[str, Any]) -> dict[str, Any]:
    # Django loads tag libraries while the console's own modules are being imported.
    from billing.timeline import drawing, reading

    storm = context["original"]
    timeline = reading.of_storm(storm, timezone.now()).timeline
    # Whatever it says is escaped where it is drawn.
    return {
        "service": storm.service,
        "wide": mark_safe(drawing.draw(timeline, WIDE, colours=drawing.ON_A_PAGE)),  # noqa: S308
        "narrow": mark_safe(drawing.draw(timeline, NARROW, colours=drawing.ON_A_PAGE, tooltips=False)),  # noqa: S308
    }
