"""Times at which nothing is to be thought of a failure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html

from customers import configuration
from customers.admin.telling import TellsCustomers
from services import maintenance
from services.models import MaintenanceWindow
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    Form,
    confirmed,
    display,
    moment,
    settled,
)


class MaintenanceForm(Form):
    weekdays = forms.MultipleChoiceField(
        choices=[(day.value, day.name.capitalize()) for day in maintenance.WEEK],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Of a weekly window.",
    )


MAINTENANCE_COLOURS = {"now": "warning", "to come": "info", "over": "", "lifted": ""}


@admin.register(MaintenanceWindow)
class MaintenanceWindowAdmin(TellsCustomers):
    writing_is_dangerous = True
    form = MaintenanceForm
    list_display = [
        "subject",
        "customer",
        "state",
        "first_day",
        "local_time",
        "time_zone",
        "length",
        "recurrence",
        "reason",
    ]
    list_select_related = ["service", "cdn", "customer"]
    list_filter = [
        "recurrence",
        "cdn",
        ("service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
    ]
    search_fields = ["service__name", "cdn__name", "customer__name", "reason"]
    autocomplete_fields = ["service", "cdn"]
    readonly_fields = ["state", "next_span", "created_at", "lifted_at"]
    fieldsets = [
        (None, {"fields": [("service", "cdn"), "reason"]}),
        (
            "When",
            {
                "fields": [
                    ("first_day", "local_time"), ("time_zone", "duration_seconds"), ("recurrence", "until"), "weekdays",
                ],
            },
        ),
        ("State", {"fields": ["state", "next_span", ("created_at", "lifted_at")]}),
    ]  # fmt: skip
    # What was spared by a window is told by it: to change one, lift it and add another.
    fixed_fields = (
        "service", "cdn", "reason", "first_day", "local_time", "time_zone", "duration_seconds", "recurrence", "until",
        "weekdays",
    )  # fmt: skip
    actions_detail = ["lift"]
    empty_hint = "While a window of a service or a CDN goes on, it is probed as ever, and no storm starts."

    @display(description="of")
    def subject(self, window: MaintenanceWindow) -> str:
        return str(window.service or window.cdn)

    @display(description="length", ordering="duration_seconds")
    def length(self, window: MaintenanceWindow) -> str:
        return str(timedelta(seconds=window.duration_seconds))

    @display(description="state", label=MAINTENANCE_COLOURS)
    def state(self, window: MaintenanceWindow) -> str:
        if window.lifted_at:
            return "lifted"
        now = timezone.now()
        span = maintenance.upcoming(window.terms, now)
        if span is None:
            return "over"
        return "now" if span.start <= now else "to come"

    @display(description="next (UTC)")
    def next_span(self, window: MaintenanceWindow) -> str:
        span = None if window.lifted_at else maintenance.upcoming(window.terms, timezone.now())
        return format_html("{} to {}", moment(span.start), moment(span.end)) if span else "-"

    def get_fieldsets(self, request: HttpRequest, obj: MaintenanceWindow | None = None) -> list[Any]:
        return [part for part in super().get_fieldsets(request, obj) if obj or part[0] != "State"]

    def has_delete_permission(self, request: HttpRequest, obj: MaintenanceWindow | None = None) -> bool:
        return False  # it tells why no storm started: lift it instead

    def offers(self, action_name: str, row: MaintenanceWindow) -> bool:
        return row.lifted_at is None

    @confirmed("Lift", "Storms start again at once, also from what was seen meanwhile.", submit="Lift it", icon="sunny")
    def lift(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        window = self.row_of(request, object_id, "lift")
        with transaction.atomic():
            window.lift(timezone.now())
            configuration.tell(window, "deleted")
        self.log_change(request, window, f"Lifted: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(window), f"The {window} is lifted.")
