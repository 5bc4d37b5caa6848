"""What each path is thought to be."""

from __future__ import annotations

from django.contrib import admin
from django.utils import timezone

from storms.models import (
    PathVerdict,
)
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    ReadOnly,
    display,
    percent,
)

VERDICT_COLOURS = {"UP": "success", "DEGRADED": "warning", "DOWN": "danger", "UNKNOWN": ""}


@admin.register(PathVerdict)
class PathVerdictAdmin(ReadOnly):
    list_display = ["target", "verdict_label", "share", "certificate", "reason", "since"]
    list_select_related = ["target__domain", "target__cdn"]
    list_filter = [
        "verdict",
        "target__role",
        "target__cdn",
        ("target__domain__service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
    ]
    search_fields = ["target__domain__hostname", "target__hostname", "target__address", "target__domain__service__name"]
    ordering = ["-since"]
    fields = [
        "target", ("verdict_label", "share"), "reason", "votes", ("since", "evaluated_at"),
        ("newest_good_at", "certificate_expires_at"),
    ]  # fmt: skip
    empty_hint = "Verdicts appear when a domain has a path and a vantage point probes it."

    @display(description="verdict", ordering="verdict", label=VERDICT_COLOURS)
    def verdict_label(self, row: PathVerdict) -> str:
        return row.verdict

    @display(description="availability", ordering="availability")
    def share(self, row: PathVerdict) -> str:
        return percent(row.availability)

    @display(description="certificate", ordering="certificate_expires_at")
    def certificate(self, row: PathVerdict) -> str:
        if row.certificate_expires_at is None:
            return "-"
        return f"{(row.certificate_expires_at - timezone.now()).days} days"
