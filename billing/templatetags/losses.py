"""What a storm's page shows of money: storms lie to the left of billing, so their template asks for it."""

from __future__ import annotations

from typing import Any

from django import template
from django.utils import timezone

register = template.Library()


@register.inclusion_tag("billing/losses.html", takes_context=True)
def storm_losses(context: dict[str, Any]) -> dict[str, Any]:
    """What cover does not pay of the page's storm, for those who may see invoices."""
    if not context["request"].user.has_perm("billing.view_invoice"):
        return {}
    # Django loads tag libraries while the console's own modules are being imported.
    from billing import losses
    from tranche_site.floor.console_admin import data_size

    found = losses.of_storm(context["original"], timezone.now())
    rows = [(loss.reason, length(loss.seconds), data_size(loss.primary_bytes)) for loss in found.losses]
    return {
        "losses": found,
        "rows": rows,
        "raged": length(found.raged_seconds),
        "covered": length(found.covered_seconds),
    }


def length(seconds: float) -> str:
    """“1 h 02 min”, “2 min 05 s”, “12.5 s”."""
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
