"""What stands above every list of the console: views that were kept, and the way to take the rows along."""

from __future__ import annotations

from typing import Any

from django import template
from django.db.models import Q

register = template.Library()


@register.inclusion_tag("console/list_tools.html", takes_context=True)
def list_tools(context: dict[str, Any]) -> dict[str, Any]:
    """One query."""
    from tranche_site.models import SavedView  # tag libraries are loaded while models are

    request, cl = context["request"], context["cl"]
    label = f"{cl.opts.app_label}.{cl.opts.model_name}"
    views = SavedView.objects.filter(Q(owner=request.user) | Q(is_shared=True), list=label)[: 2 * SavedView.MOST]
    current = request.META.get("QUERY_STRING", "")
    return {
        "request": request, "label": label, "user": request.user, "current": current,
        "views": [(view, view.owner_id == request.user.pk, view.query == current) for view in views],
        "csv": cl.get_query_string({"_csv": "1"}, ["p"]),
    }  # fmt: skip
