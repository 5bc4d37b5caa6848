"""What was noticed beside storms."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from storms.models import (
    Finding,
)
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    ReadOnly,
    display,
    two_lines,
)

FINDING_COLOURS = {"open": "warning", "resolved": "success"}


class OpenFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "open"), ("resolved", "resolved")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Finding]) -> QuerySet[Finding]:
        if self.value() in ("open", "resolved"):
            return queryset.filter(resolved_at__isnull=self.value() == "open")
        return queryset


@admin.register(Finding)
class FindingAdmin(ReadOnly):
    list_display = ["kind", "state", "owner", "reason", "first_seen_at", "last_seen_at"]
    list_select_related = ["service", "customer"]
    list_filter = [
        OpenFilter,
        "kind",
        ("service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
    ]
    search_fields = ["service__name", "customer__name", "reason"]
    fields = [
        ("kind", "state"), ("service", "customer"), "target", "reason", ("first_seen_at", "last_seen_at"), "resolved_at",
    ]  # fmt: skip
    empty_hint = "Nothing found. Origin faults, unfit backups and blocked probes are reported here by themselves."

    @display(description="service", ordering="service__name")
    def owner(self, finding: Finding) -> str:
        return two_lines(finding.service.name, finding.customer)

    @display(description="state", label=FINDING_COLOURS)
    def state(self, finding: Finding) -> str:
        return "resolved" if finding.resolved_at else "open"
