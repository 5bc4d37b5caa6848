"""How each service comes home, spreads over its backups, keeps them warm, and rehearses."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from unfold.widgets import UnfoldAdminTextareaWidget

from customers.admin.telling import TellsCustomers
from dns.models import SteeringTerms
from services import maintenance
from tranche_site.floor.console_admin import AutocompleteSelectFilter, Form, display, two_lines


class PathsField(forms.CharField):
    """A list of paths, one a line."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(widget=UnfoldAdminTextareaWidget(attrs={"rows": 6}), **kw)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [line.strip() for line in (super().to_python(value) or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class SteeringTermsForm(Form):
    window_weekdays = forms.MultipleChoiceField(
        label="Weekdays",
        choices=[(day.value, day.name.capitalize()) for day in maintenance.WEEK],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None ticked: every day.",
    )
    parity_paths = PathsField(
        required=False,
        help_text="One a line, five to 20, such as /robots.txt: they must answer alike through every CDN. Empty: ours.",
    )


@admin.register(SteeringTerms)
class SteeringTermsAdmin(TellsCustomers):
    writing_is_dangerous = True
    form = SteeringTermsForm
    list_display = ["owner", "comes_home", "spread_label", "standing", "drills", "created_at"]
    list_select_related = ["service", "customer"]
    list_filter = ["failback", "spread", ("service", AutocompleteSelectFilter), ("customer", AutocompleteSelectFilter)]
    search_fields = ["service__name", "customer__name"]
    autocomplete_fields = ["service"]
    fixed_fields = ("service",)
    readonly_fields = ["created_at"]
    fieldsets = [
        (None, {"fields": ["service", "failback", "spread", "standing_percent"]}),
        (
            "Window",
            {
                "fields": ["window_start", "window_seconds", "time_zone", "window_weekdays"],
                "description": "When drills may begin, and failback where it keeps to the window. Empty: always.",
            },
        ),
        (
            "Drills",
            {
                "fields": [("drill_every_days", "drill_percent"), "drill_minutes"],
                "description": "A few percent to the backup for some minutes, in good weather only.",
            },
        ),
        ("Parity of the CDNs", {"fields": ["parity_paths"]}),
    ]
    empty_hint = "A service without terms comes home by itself, fills its backups by rank, and keeps none of them warm."

    @display(description="service", ordering="service__name")
    def owner(self, terms: SteeringTerms) -> str:
        return two_lines(terms.service.name, terms.customer)

    @display(description="comes home", ordering="failback")
    def comes_home(self, terms: SteeringTerms) -> str:
        return str(terms.get_failback_display()).partition(":")[0]

    @display(description="spread", ordering="spread")
    def spread_label(self, terms: SteeringTerms) -> str:
        return str(terms.get_spread_display()).partition(":")[0]

    @display(description="keeps warm", ordering="standing_percent")
    def standing(self, terms: SteeringTerms) -> str:
        return f"{terms.standing_percent} %"

    @display(description="drills", ordering="drill_every_days")
    def drills(self, terms: SteeringTerms) -> str:
        if not terms.drill_every_days:
            return "by hand"
        return f"every {terms.drill_every_days} days: {terms.drill_percent} % for {terms.drill_minutes} min"
