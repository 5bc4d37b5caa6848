"""Rehearsals: asked for by hand, or by a service's steering terms."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.html import format_html
from unfold.widgets import UnfoldAdminTextareaWidget

from dns import drills
from dns.admin.shown import OperatorsOwn, operator
from dns.models import Drill, RecordSet
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    Form,
    RangeDateTimeFilter,
    confirmed,
    display,
    moment,
    refused,
    settled,
    two_lines,
)

DRILL_COLOURS = {
    "scheduled": "info", "running": "warning", "passed": "success", "failed": "danger", "cancelled": ""
}  # fmt: skip


class DrillForm(Form):
    reason = forms.CharField(
        max_length=1000,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Kept with your name in the audit log.",
    )
    constraint_fields = {"drills_one_open": "service"}

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        service = self.cleaned_data.get("service")
        if service and not RecordSet.objects.live().filter(domain__service=service).exists():
            self.add_error("service", "None of its domains is steered: give one a record set first.")
        return self.cleaned_data


@admin.register(Drill)
class DrillAdmin(OperatorsOwn):
    writing_is_dangerous = True
    form = DrillForm
    list_display = ["owner", "state_label", "size", "outcome", "when", "by"]
    list_select_related = ["service", "customer", "created_by"]
    list_filter = [
        "state",
        ("service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
        ("scheduled_at", RangeDateTimeFilter),
    ]
    search_fields = ["service__name", "customer__name", "outcome"]
    autocomplete_fields = ["service"]
    add_fieldsets = [
        (
            None,
            {
                "fields": ["service", ("percent", "minutes"), "scheduled_at", "reason"],
                "description": "It sends a few percent to the first backup, and begins in good weather only: no storm, "
                "freeze, pin or maintenance, the primary up, a backup fit. After a week without it is cancelled.",
            },
        )
    ]
    fieldsets = [
        (None, {"fields": [("service", "customer"), ("state_label", "size"), "outcome"]}),
        ("When", {"fields": [("scheduled_at", "started_at"), ("observed_at", "ended_at"), ("by", "created_at")]}),
    ]
    readonly_fields = ["state_label", "size", "by", "created_at"]
    actions_detail = ["cancel"]
    empty_hint = "A drill proves a backup with a few percent of traffic. Add one, or let steering terms ask for them."

    @display(description="service", ordering="service__name")
    def owner(self, drill: Drill) -> str:
        return two_lines(drill.service.name, drill.customer)

    @display(description="state", ordering="state", label=DRILL_COLOURS)
    def state_label(self, drill: Drill) -> str:
        return drill.state

    @display(description="size", ordering="percent")
    def size(self, drill: Drill) -> str:
        return f"{drill.percent} % for {drill.minutes} min"

    @display(description="scheduled (UTC)", ordering="scheduled_at")
    def when(self, drill: Drill) -> str:
        over = format_html("over at {}", moment(drill.ended_at)) if drill.ended_at else "not over"
        return two_lines(moment(drill.scheduled_at), over)

    @display(description="asked for by")
    def by(self, drill: Drill) -> str:
        return str(drill.created_by or "its steering terms, or the API")

    def response_post_save_add(self, request: HttpRequest, obj: Drill) -> HttpResponse:
        return redirect(self.url_of(obj))  # tells what it waits for

    def has_cancel_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("dns.change_drill")

    def offers(self, action_name: str, row: Drill) -> bool:
        return row.state in Drill.OPEN

    @confirmed(
        "Cancel drill",
        "If it runs, what it sent to the backup goes home at once.",
        submit="Cancel it",
        permission="cancel",
        icon="block",
        variant=ActionVariant.DANGER,
    )
    def cancel(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        drill = self.row_of(request, object_id, "cancel")
        if not drills.cancel(drill, operator(request).get_username(), timezone.now()):
            return refused(request, self.url_of(drill), "It went on meanwhile: look again.")
        self.log_change(request, drill, f"Cancelled: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(drill), f"The {drill} is cancelled.")
