"""CDN incidents: one story for many storms."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timesince

from storms import incidents
from storms.admin.storms import STORM_COLOURS
from storms.admin.told import NoteForm, Told
from storms.models import (
    CdnIncident,
    StormEvent,
)
from tranche_site.floor.console_admin import (
    ActionVariant,
    RangeDateTimeFilter,
    ReadOnlyInline,
    confirmed,
    display,
    settled,
    two_lines,
)

INCIDENT_COLOURS = {"suspected": "warning", "confirmed": "danger", "over": "success"}


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
