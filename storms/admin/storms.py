"""Storms: how each went, and what people may do about it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.timesince import timesince
from unfold.widgets import UnfoldAdminTextareaWidget

from services.models import Service
from storms import evidence, operators, packs
from storms.admin.told import NoteForm, Told
from storms.models import (
    Kind,
    StormEntry,
    StormEvent,
)
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    RangeDateTimeFilter,
    action,
    confirmed,
    dangerous_action,
    display,
    refused,
    settled,
    two_lines,
)

STORM_COLOURS = {"raging": "danger", "ended": "warning", "closed": "success"}


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


class DeclareForm(forms.Form):
    service = forms.ModelChoiceField(
        Service.objects.live(), widget=AutocompleteSelect(StormEvent._meta.get_field("service"), admin.site)
    )
    reason = forms.CharField(max_length=1000, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}))


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
