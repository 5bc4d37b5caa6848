"""Services: what fails over as a whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from customers.admin.telling import TellsCustomersOfDeletion
from services import chart, maintenance
from services.admin.domains import PROOF_COLOURS
from services.models import MaintenanceWindow, Service, ServiceDomain, Target
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    ReadOnlyInline,
    action,
    display,
    moment,
)

MAINTENANCE_SHOWN = timedelta(days=7)
"""How far back and ahead a service's page shows maintenance."""


class DomainInline(ReadOnlyInline):
    model = ServiceDomain
    fields = ["hostname", "state", "check_result", "checked_at"]
    readonly_fields = ["state"]
    verbose_name_plural = "domains"

    def get_queryset(self, request: HttpRequest) -> QuerySet[ServiceDomain]:
        found: QuerySet[ServiceDomain] = super().get_queryset(request)
        return found.filter(deleted_at__isnull=True).with_contest()  # type: ignore[attr-defined]

    @display(description="state", label=PROOF_COLOURS)
    def state(self, domain: ServiceDomain) -> str:
        return domain.proof_state(timezone.now())


@admin.register(Service)
class ServiceAdmin(TellsCustomersOfDeletion):
    list_display = ["name", "customer", "domain_count", "probe", "interval", "created_at"]
    list_select_related = ["customer"]
    list_filter = [("customer", AutocompleteSelectFilter)]
    search_fields = ["name", "customer__name", "domains__hostname"]
    autocomplete_fields = ["customer"]
    fixed_fields = ("customer",)
    readonly_fields = ["maintenance", "created_at", "deleted_at"]
    fieldsets = [
        (None, {"fields": ["customer", "name"]}),
        (
            "Probe",
            {
                "fields": [
                    ("probe_method", "probe_path"), ("expected_statuses", "body_marker"),
                    ("interval_seconds", "timeout_seconds"), ("probe_ipv4", "probe_ipv6"),
                    ("uncacheable_path", "minimum_certificate_days"), "probe_headers",
                ],
                "description": "The same request goes through the primary, every backup and the origin witness.",
            },
        ),
        (
            "Maintenance",
            {
                "fields": ["maintenance"],
                "description": "Of the service and of its CDNs, from a week ago on. What was probed then starts no storm.",
            },
        ),
        ("Dates", {"fields": [("created_at", "deleted_at")]}),
    ]  # fmt: skip
    inlines = [DomainInline]
    actions_detail = ["add_domain", "add_maintenance", "delete_softly", "restore"]
    change_form_outer_after_template = "console/chart.html"
    empty_hint = "A service is what fails over as a whole, such as “app”. Add one, then its domains."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Service]:
        found: QuerySet[Service] = super().get_queryset(request)
        in_use = Count("domains", filter=Q(domains__deleted_at__isnull=True), distinct=True)
        return found.annotate(domain_count=in_use).order_by("id")

    @display(description="domains", ordering="domain_count")
    def domain_count(self, row: Any) -> str:
        url = f"{reverse('admin:services_servicedomain_changelist')}?service__id__exact={row.pk}"
        return format_html('<a href="{}">{}</a>', url, row.domain_count)

    @display(description="probe")
    def probe(self, row: Service) -> str:
        return f"{row.probe_method} {row.probe_path}"

    @display(description="every", ordering="interval_seconds")
    def interval(self, row: Service) -> str:
        return f"{row.interval_seconds} s"

    @display(description="spans (UTC)")
    def maintenance(self, row: Service) -> str:
        # The template asks several times for a field that is only shown.
        if "shown_maintenance" not in row.__dict__:
            row.__dict__["shown_maintenance"] = self._spans(row)
        shown: str = row.__dict__["shown_maintenance"]
        return shown

    def _spans(self, row: Service) -> str:
        now = timezone.now()
        start = now - MAINTENANCE_SHOWN
        primaries = Target.objects.live().filter(domain__service=row, role=Target.Role.PRIMARY)
        windows = MaintenanceWindow.objects.since(start).filter(Q(service=row) | Q(cdn__targets__in=primaries))
        found = [
            (span, window)
            for window in windows.select_related("service", "cdn").distinct()
            for span in maintenance.next_spans(window.terms, start, now + MAINTENANCE_SHOWN)
        ]
        lines = (
            (
                moment(span.start), moment(span.end), reverse("admin:services_maintenancewindow_change", args=[window.pk]),
                window.cdn or "this service", span.reason, " (now)" if span.start <= now < span.end else "",
            )
            for span, window in sorted(found, key=lambda pair: pair[0].start)
        )  # fmt: skip
        return format_html_join("", '<div>{} to {}: <a href="{}">{}</a>: {}{}</div>', lines) or "none"

    def get_inlines(self, request: HttpRequest, obj: Service | None) -> list[Any]:
        return super().get_inlines(request, obj) if obj else []

    def get_fieldsets(self, request: HttpRequest, obj: Service | None = None) -> list[Any]:
        return [part for part in super().get_fieldsets(request, obj) if obj or part[0] != "Maintenance"]

    def response_post_save_add(self, request: HttpRequest, obj: Service) -> HttpResponse:
        return redirect(self.url_of(obj))

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, obj: Service | None = None, **kw: Any
    ) -> HttpResponse:
        if obj:
            days = 7 if request.GET.get("days") == "7" else 1
            context["chart"] = chart.read(obj.pk, timezone.now(), days)
        answer: HttpResponse = super().render_change_form(request, context, *args, obj=obj, **kw)
        return answer

    @action(description="Add domain", permissions=["change"], icon="add")
    def add_domain(self, request: HttpRequest, object_id: str) -> HttpResponse:
        service = self.row_of(request, object_id, "add_domain")
        return redirect(f"{reverse('admin:services_servicedomain_add')}?service={service.pk}")

    @action(description="Add maintenance", permissions=["change"], icon="construction")
    def add_maintenance(self, request: HttpRequest, object_id: str) -> HttpResponse:
        service = self.row_of(request, object_id, "add_maintenance")
        return redirect(f"{reverse('admin:services_maintenancewindow_add')}?service={service.pk}")
