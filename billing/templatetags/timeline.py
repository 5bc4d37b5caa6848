"""The picture of a storm, for its page: storms lie to the left of billing, so their template asks for it."""

from __future__ import annotations

from typing import Any

from django import template
from django.utils import timezone
from django.utils.safestring import mark_safe

register = template.Library()


@register.inclusion_tag("billing/timeline.html", takes_context=True)
def storm_timeline(context: dict[str, Any]) -> dict[str, Any]:
    # Django loads tag libraries while the console's own modules are being imported.
    from billing.timeline import drawing, reading

    storm = context["original"]
    # Whatever it says is escaped where it is drawn.
    wide, narrow = map(mark_safe, drawing.on_a_page(reading.of_storm(storm, timezone.now()).timeline))
    return {"service": storm.service, "wide": wide, "narrow": narrow}
