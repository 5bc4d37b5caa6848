"""Policies, and what machines found by them: to read, and for people to add their word with a reason."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Count, F, QuerySet, Window
from django.db.models.functions import Lag
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timesince
from unfold.widgets import UnfoldAdminTextareaWidget

from customers.admin.telling import TellsCustomersOfDeletion
from services.models import Service
from storms import evidence, incidents, operators, packs
from storms.models import (
    CdnIncident,
    Finding,
    Kind,
    PathVerdict,
    StormEntry,
    StormEvent,
    StormPolicy,
    StormPolicyVersion,
)
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    Form,
    RangeDateTimeFilter,
    ReadOnly,
    ReadOnlyInline,
    ReasonForm,
    action,
    confirmed,
    dangerous_action,
    display,
    percent,
    refused,
    settled,
    two_lines,
)

TIMELINE_ENTRIES = 200
VERDICT_COLOURS = {"UP": "success", "DEGRADED": "warning", "DOWN": "danger", "UNKNOWN": ""}
STORM_COLOURS = {"raging": "danger", "ended": "warning", "closed": "success"}
MODE_COLOURS = {"armed": "success", "watch only": "info"}
FINDING_COLOURS = {"open": "warning", "resolved": "success"}
INCIDENT_COLOURS = {"suspected": "warning", "confirmed": "danger", "over": "success"}


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


class NoteForm(ReasonForm):
    reason = forms.CharField(label="Note", max_length=2000, widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}))


class DeclareForm(forms.Form):
    service = forms.ModelChoiceField(
        Service.objects.live(), widget=AutocompleteSelect(StormEvent._meta.get_field("service"), admin.site)
    )
    reason = forms.CharField(max_length=1000, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}))


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


@admin.register(StormEvent)
class StormEventAdmin(Told):
    list_display = ["name", "owner", "cdn", "state_label", "armed", "started_at", "ended_at", "length"]
    ordering = ["-id"]
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
                    ("service", "customer"), ("kind_label", "cdn"), ("state_label", "is_armed"),
                    ("attribution", "shown_regions"), ("incident", "weight_changes_link"), "reason",
                ],
            },
        ),
        (
            "When",
            {
                "fields": [
                    ("started_at", "detected_at"), ("ended_at", "closed_at"), ("last_bad_at", "length"),
                    ("acknowledged_at", "relapses"), "closing_reason",
                ],
            },
        ),
        ("Evidence", {"fields": [("policy", "policy_version"), ("evidence_link", "digest")]}),
    ]  # fmt: skip
    action_names = dict(StormEntry.Action.choices)
    change_form_outer_before_template = "console/storm.html"
    actions_list = ["declare"]
    actions_detail = ["acknowledge", "annotate", "finish", "evidence_document"]
    empty_hint = "No storm yet. Storms are found by probing; nobody adds them here."

    @display(description="storm", ordering="id")
    def name(self, storm: StormEvent) -> str:
        return two_lines(f"storm {storm.pk}", self.kind_label(storm))

    @display(description="service", ordering="service__name")
    def owner(self, storm: StormEvent) -> str:
        return two_lines(storm.service.name, storm.customer)

    @admin.display(description="armed", ordering="is_armed", boolean=True)
    def armed(self, storm: StormEvent) -> bool:
        return storm.is_armed

    @display(description="kind", ordering="kind")
    def kind_label(self, storm: StormEvent) -> str:
        return "declared by hand" if storm.kind == Kind.MANUAL else storm.kind

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

    @display(description="evidence")
    def evidence_link(self, storm: StormEvent) -> str:
        url = reverse("admin:storms_stormevent_evidence_document", args=[storm.pk])
        return format_html('<a class="text-link" href="{}">Evidence (JSON)</a>', url)

    @display(description="its SHA-256")
    def digest(self, storm: StormEvent) -> str:
        if not storm.evidence_sha256:
            return "not sealed yet: the storm or its samples may still change it"
        return format_html('<code class="tr-copy">{}</code>', storm.evidence_sha256)

    def offers(self, action_name: str, row: StormEvent) -> bool:
        if action_name == "acknowledge":
            return row.closed_at is None and row.acknowledged_at is None
        return action_name != "finish" or row.closed_at is None

    @dangerous_action
    @action(
        description="Declare storm",
        permissions=["operate"],
        icon="thunderstorm",
        variant=ActionVariant.DANGER,
    )
    def declare(self, request: HttpRequest) -> HttpResponse:
        form = DeclareForm(request.POST or None, initial={"service": request.GET.get("service")})
        if form.is_valid():
            service, reason = form.cleaned_data["service"], form.cleaned_data["reason"]
            try:
                storm = operators.declare(service, reason, request.user.get_username(), timezone.now())
            except ValidationError as error:
                form.add_error(None, error)
            else:
                self.log_change(request, storm, f"Declared: {reason}")
                return settled(request, self.url_of(storm), f"A storm at {service} is declared.")
        context = {**self.admin_site.each_context(request), "opts": self.opts, "form": form, "title": "Declare storm"}
        return render(request, "admin/storms/declare.html", context)

    @confirmed(
        "Acknowledge",
        "The others see that somebody is at it. It changes nothing about the storm.",
        submit="Acknowledge",
        permission="operate",
        icon="visibility",
        variant=ActionVariant.PRIMARY,
    )
    def acknowledge(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        storm, reason = self.row_of(request, object_id, "acknowledge"), form.cleaned_data["reason"]
        operators.acknowledge(storm, reason, request.user.get_username(), timezone.now())
        self.log_change(request, storm, f"Acknowledged: {reason}")
        return settled(request, self.url_of(storm), f"The {storm} is acknowledged.")

    @confirmed(
        "Note",
        "A line of the storm’s timeline, which is kept for ever. Its evidence stays as it is.",
        submit="Note it",
        permission="operate",
        icon="edit_note",
        form_class=NoteForm,
    )
    def annotate(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        storm, text = self.row_of(request, object_id, "annotate"), form.cleaned_data["reason"]
        operators.annotate(storm, text, request.user.get_username(), timezone.now())
        self.log_change(request, storm, f"Noted: {text}")
        return settled(request, self.url_of(storm), "It is noted.")

    @confirmed(
        "End storm",
        "It is over and closed at once: traffic goes home in steps, as after any storm.",
        submit="End it",
        permission="operate",
        icon="sunny",
        variant=ActionVariant.DANGER,
        dangerous=True,
    )
    def finish(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        storm, reason = self.row_of(request, object_id, "finish"), form.cleaned_data["reason"]
        try:
            operators.finish(storm, reason, request.user.get_username(), timezone.now())
        except ValidationError as error:
            return refused(request, self.url_of(storm), " ".join(error.messages))
        self.log_change(request, storm, f"Ended: {reason}")
        return settled(request, self.url_of(storm), f"The {storm} is over.")

    @action(description="Evidence", url_path="evidence", permissions=["view"], icon="download")
    def evidence_document(self, request: HttpRequest, object_id: str) -> HttpResponse:
        storm = self.row_of(request, object_id, "evidence_document")
        headers = {"Content-Disposition": f'attachment; filename="storm-{storm.pk}.json"'}
        return HttpResponse(evidence.canonical(packs.pack(storm)), content_type="application/json", headers=headers)


class IncidentStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "open: suspected or confirmed")] + [(state, state) for state in INCIDENT_COLOURS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[CdnIncident]) -> QuerySet[CdnIncident]:
        wanted = {
            "open": {"ended_at__isnull": True},
            "suspected": {"ended_at__isnull": True, "confirmed_at__isnull": True},
            "confirmed": {"ended_at__isnull": True, "confirmed_at__isnull": False},
            "over": {"ended_at__isnull": False},
        }
        return queryset.filter(**wanted.get(self.value() or "", {}))


class StormInline(ReadOnlyInline):
    model = StormEvent
    fields = ["page", "service", "customer", "state", "started_at", "ended_at"]
    readonly_fields = ["page", "state"]
    verbose_name_plural = "storms"
    tab = False
    show_change_link = False
    hide_title = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[StormEvent]:
        found: QuerySet[StormEvent] = super().get_queryset(request)
        return found.select_related("service", "customer")

    @display(description="storm")
    def page(self, storm: StormEvent) -> str:
        url = reverse("admin:storms_stormevent_change", args=[storm.pk])
        return format_html('<a class="text-link whitespace-nowrap" href="{}">storm {}</a>', url, storm.pk)

    @display(description="state", label=STORM_COLOURS)
    def state(self, storm: StormEvent) -> str:
        return storm.state


@admin.register(CdnIncident)
class CdnIncidentAdmin(Told):
    list_display = ["name", "state_label", "started_at", "length", "hit", "shown_regions", "storm_count"]
    list_select_related = ["cdn"]
    list_filter = [IncidentStateFilter, "kind", "cdn", ("started_at", RangeDateTimeFilter)]
    search_fields = ["cdn__name", "reason"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("cdn", "kind"), ("state_label", "hit"), ("shown_regions", "length"), "reason", "shown_witnesses",
                ],
            },
        ),
        (
            "When",
            {"fields": [("started_at", "detected_at"), ("last_bad_at", "ended_at"), "confirmed_at"]},
        ),
    ]  # fmt: skip
    inlines = [StormInline]
    actions_detail = ["confirm", "annotate"]
    empty_hint = "No CDN failed yet. An incident begins by itself with the first storm of a service on a CDN."

    def get_queryset(self, request: HttpRequest) -> QuerySet[CdnIncident]:
        return super().get_queryset(request).annotate(storm_count=Count("storms"))

    @display(description="CDN", ordering="cdn__name")
    def name(self, incident: CdnIncident) -> str:
        return two_lines(incident.cdn, incident.get_kind_display())

    @display(description="state", label=INCIDENT_COLOURS)
    def state_label(self, incident: CdnIncident) -> str:
        return incident.state

    @display(description="length")
    def length(self, incident: CdnIncident) -> str:
        return timesince(incident.started_at, incident.ended_at or timezone.now())

    @display(description="services hit", ordering="services_hit")
    def hit(self, incident: CdnIncident) -> str:
        of_all = f" ({incident.share_hit:.0%})" if incident.share_hit is not None else ""
        return f"{incident.services_hit} of {incident.services_total}{of_all}"

    @display(description="regions")
    def shown_regions(self, incident: CdnIncident) -> str:
        return ", ".join(incident.regions) or "-"

    @display(description="storms", ordering="storm_count")
    def storm_count(self, incident: Any) -> str:
        url = f"{reverse('admin:storms_stormevent_changelist')}?incident__id__exact={incident.pk}"
        return format_html('<a href="{}">{}</a>', url, incident.storm_count)

    @display(description="witnesses")
    def shown_witnesses(self, incident: CdnIncident) -> str:
        lines = ((witness,) for witness in incident.witnesses)
        return format_html_join("", "<div>{}</div>", lines) or "none beyond the customers’ own paths"

    def offers(self, action_name: str, row: CdnIncident) -> bool:
        return action_name != "confirm" or row.confirmed_at is None

    @confirmed(
        "Confirm",
        "You bear witness that this CDN failed, whatever the customers’ own paths say. Cover may be paid on your word.",
        submit="Confirm",
        permission="operate",
        icon="verified",
        variant=ActionVariant.PRIMARY,
        dangerous=True,
    )
    def confirm(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        reason = form.cleaned_data["reason"]
        incident = self.row_of(request, object_id, "confirm")
        with transaction.atomic():
            # A machine may be about to confirm it as well.
            incident = CdnIncident.objects.select_for_update().get(pk=incident.pk)
            if not self.offers("confirm", incident):
                raise PermissionDenied
            incidents.confirm(incident, [reason], timezone.now(), request.user.get_username())
        self.log_change(request, incident, f"Confirmed: {reason}")
        return settled(request, self.url_of(incident), f"The {incident} is confirmed.")

    @confirmed(
        "Note",
        "A line of the incident’s timeline, which is kept for ever.",
        submit="Note it",
        permission="operate",
        icon="edit_note",
        form_class=NoteForm,
    )
    def annotate(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        incident, text = self.row_of(request, object_id, "annotate"), form.cleaned_data["reason"]
        incidents.note(incident, text, timezone.now(), request.user.get_username())
        self.log_change(request, incident, f"Noted: {text}")
        return settled(request, self.url_of(incident), "It is noted.")


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
