"""Policies, and what machines found by them: verdicts, storms and findings are for reading only."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import F, QuerySet, Window
from django.db.models.functions import Lag
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.timesince import timesince

from storms.models import Finding, PathVerdict, StormEvent, StormPolicy, StormPolicyVersion
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    Form,
    RangeDateTimeFilter,
    ReadOnly,
    ReadOnlyInline,
    SoftDelete,
    display,
    percent,
    two_lines,
)

VERDICT_COLOURS = {"UP": "success", "DEGRADED": "warning", "DOWN": "danger", "UNKNOWN": ""}
STORM_COLOURS = {"raging": "danger", "ended": "warning", "closed": "success"}
MODE_COLOURS = {"armed": "success", "watch only": "info"}
FINDING_COLOURS = {"open": "warning", "resolved": "success"}


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
    }


@admin.register(StormPolicy)
class StormPolicyAdmin(SoftDelete):
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
            {"fields": [("threshold_avail", "window_seconds"), ("min_samples", "min_failures"), "min_vantages"]},
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


class RagingFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "open: raging or ended")] + [(state, state) for state in STORM_COLOURS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[StormEvent]) -> QuerySet[StormEvent]:
        wanted = {
            "open": {"closed_at__isnull": True},
            "raging": {"ended_at__isnull": True},
            "ended": {"ended_at__isnull": False, "closed_at__isnull": True},
            "closed": {"closed_at__isnull": False},
        }
        return queryset.filter(**wanted.get(self.value() or "", {}))


@admin.register(StormEvent)
class StormEventAdmin(ReadOnly):
    list_display = ["name", "owner", "cdn", "state_label", "armed", "started_at", "ended_at", "length"]
    list_select_related = ["service", "customer", "cdn"]
    list_filter = [
        RagingFilter,
        "kind",
        "is_armed",
        "attribution",
        "cdn",
        ("service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
        ("started_at", RangeDateTimeFilter),
    ]
    search_fields = ["service__name", "customer__name", "cdn__name", "reason"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("service", "customer"), ("kind", "cdn"), ("state_label", "is_armed"),
                    ("attribution", "shown_regions"), "reason", "weight_changes_link",
                ],
            },
        ),
        (
            "When",
            {
                "fields": [
                    ("started_at", "detected_at"), ("ended_at", "closed_at"), ("last_bad_at", "length"), "relapses",
                    "closing_reason",
                ],
            },
        ),
        ("Evidence", {"fields": [("policy", "policy_version"), "evidence_sha256"]}),
    ]  # fmt: skip
    empty_hint = "No storm yet. Storms are found by probing; nobody adds them here."

    @display(description="storm", ordering="id")
    def name(self, storm: StormEvent) -> str:
        return two_lines(f"storm {storm.pk}", storm.kind)

    @display(description="service", ordering="service__name")
    def owner(self, storm: StormEvent) -> str:
        return two_lines(storm.service.name, storm.customer)

    @admin.display(description="armed", ordering="is_armed", boolean=True)
    def armed(self, storm: StormEvent) -> bool:
        return storm.is_armed

    @display(description="state", label=STORM_COLOURS)
    def state_label(self, storm: StormEvent) -> str:
        return storm.state

    @display(description="length")
    def length(self, storm: StormEvent) -> str:
        return timesince(storm.started_at, storm.ended_at or timezone.now())

    @display(description="regions")
    def shown_regions(self, storm: StormEvent) -> str:
        return ", ".join(storm.regions) or "-"

    @display(description="weight changes")
    def weight_changes_link(self, storm: StormEvent) -> str:
        url = f"{reverse('admin:dns_weightchange_changelist')}?storm__id__exact={storm.pk}"
        return format_html('<a class="text-link" href="{}">What it moved</a>', url)


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
