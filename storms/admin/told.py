"""A row with a timeline: what storms and incidents have in common."""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import HttpRequest, HttpResponse
from unfold.widgets import UnfoldAdminTextareaWidget

from tranche_site.floor.console_admin import (
    ReadOnly,
    ReasonForm,
)

TIMELINE_ENTRIES = 200


class NoteForm(ReasonForm):
    reason = forms.CharField(label="Note", max_length=2000, widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}))


class Told(ReadOnly):
    """A row with a timeline. Machines write both; people add to them with a reason, and nothing is ever changed."""

    change_form_outer_after_template = "console/timeline.html"
    # What an entry's action is called, where that is not its own name.
    action_names: dict[str, str] = {}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, obj: Any = None, **kw: Any
    ) -> HttpResponse:
        # A transition's entry also holds the whole case that it was decided from: not read for a page.
        entries = obj.entries.order_by("-id").values("at", "action", "reason", "by")[:TIMELINE_ENTRIES]
        context["entries"] = [(entry, self.action_names.get(entry["action"], entry["action"])) for entry in entries]
        answer: HttpResponse = super().render_change_form(request, context, *args, obj=obj, **kw)
        return answer

    def has_operate_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """To add a word is no change of the row, yet takes the same right."""
        return request.user.has_perm(f"storms.change_{self.opts.model_name}")
