"""Policies and their versions."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet, Window
from django.db.models.functions import Lag
from django.http import HttpRequest

from customers.admin.telling import TellsCustomersOfDeletion
from storms.models import (
    StormPolicy,
    StormPolicyVersion,
)
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    Form,
    ReadOnly,
    ReadOnlyInline,
    display,
    percent,
)

MODE_COLOURS = {"armed": "success", "watch only": "info"}


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _changes(version: Any) -> str:
    """What a version of a policy changed; the first one has all its terms."""
    before: dict[str, Any] = version.previous_terms or {}
    changed = {term: value for term, value in version.terms.items() if not before or before.get(term) != value}
    return ", ".join(
        f"{term} {_said(before[term])} → {_said(value)}" if term in before else f"{term} {_said(value)}"
        for term, value in changed.items()
    )


def _with_previous(versions: QuerySet[StormPolicyVersion]) -> QuerySet[StormPolicyVersion]:
    previous = Window(Lag("terms"), partition_by=F("policy_id"), order_by=F("version").asc())
    return versions.annotate(previous_terms=previous)


class VersionInline(ReadOnlyInline):
    model = StormPolicyVersion
    fields = ["version", "created_at", "changes"]
    readonly_fields = ["changes"]
    show_change_link = False
    verbose_name_plural = "versions"

    def get_queryset(self, request: HttpRequest) -> QuerySet[StormPolicyVersion]:
        return _with_previous(super().get_queryset(request))

    @display(description="terms")
    def changes(self, version: StormPolicyVersion) -> str:
        return _changes(version)


class StormPolicyForm(Form):
    constraint_fields = {
        "storm_policies_one_per_kind": "kind",
        "storm_policies_threshold_range": "threshold_avail",
        "storm_policies_window_range": "window_seconds",
        "storm_policies_coverage_range": "max_coverage_factor",
        "storm_policies_holdoff_order": "holdoff_max_seconds",
        "storm_policies_shares_range": "domain_share",
        "storm_policies_slow_range": "slow_ms",
    }


@admin.register(StormPolicy)
class StormPolicyAdmin(TellsCustomersOfDeletion):
    writing_is_dangerous = True
    form = StormPolicyForm
    list_display = ["service", "customer", "kind", "mode_label", "threshold", "window", "cooldown", "version"]
    list_select_related = ["service", "customer"]
    list_filter = ["kind", "mode", ("service", AutocompleteSelectFilter), ("customer", AutocompleteSelectFilter)]
    search_fields = ["service__name", "customer__name"]
    autocomplete_fields = ["service"]
    fixed_fields = ("service",)
    readonly_fields = ["version", "created_at", "deleted_at"]
    fieldsets = [
        (None, {"fields": ["service", ("kind", "mode")]}),
        (
            "When it is a storm",
            {
                "fields": [
                    ("threshold_avail", "window_seconds"), ("min_samples", "min_failures"), ("min_vantages", "slow_ms"),
                    ("domain_share", "region_share"),
                ],
            },
        ),
        (
            "When it is over",
            {
                "fields": [
                    ("closing_samples", "minimum_seconds"), ("cooldown_seconds",),
                    ("holdoff_seconds", "holdoff_max_seconds"),
                ],
                "description": "These delay the way home, never protection.",
            },
        ),
        ("Cover", {"fields": ["max_coverage_factor"]}),
        ("History", {"fields": ["version", ("created_at", "deleted_at")]}),
    ]  # fmt: skip
    inlines = [VersionInline]
    empty_hint = "A service without a policy is probed and never steered. Add one per service and kind."

    @display(description="mode", ordering="mode", label=MODE_COLOURS)
    def mode_label(self, policy: StormPolicy) -> str:
        return policy.mode.replace("_", " ")

    @display(description="storm below", ordering="threshold_avail")
    def threshold(self, policy: StormPolicy) -> str:
        return percent(float(policy.threshold_avail))

    @display(description="window", ordering="window_seconds")
    def window(self, policy: StormPolicy) -> str:
        return f"{policy.window_seconds} s"

    @display(description="cooldown", ordering="cooldown_seconds")
    def cooldown(self, policy: StormPolicy) -> str:
        return f"{policy.cooldown_seconds} s"

    def get_inlines(self, request: HttpRequest, obj: StormPolicy | None) -> list[Any]:
        return super().get_inlines(request, obj) if obj else []


@admin.register(StormPolicyVersion)
class StormPolicyVersionAdmin(ReadOnly):
    list_display = ["policy", "version", "changes", "created_at"]
    list_select_related = ["policy__service"]
    list_filter = [("policy__service", AutocompleteSelectFilter)]
    search_fields = ["policy__service__name"]
    empty_hint = "The database keeps every version of every policy here, from its first save on."

    def get_queryset(self, request: HttpRequest) -> QuerySet[StormPolicyVersion]:
        return _with_previous(super().get_queryset(request))

    @display(description="terms")
    def changes(self, version: StormPolicyVersion) -> str:
        return _changes(version)
