"""What is protected, what is probed, and from where."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from customers import configuration
from customers.admin.telling import TellsCustomers, TellsCustomersOfDeletion
from services import chart, maintenance, proof
from services.models import Cdn, MaintenanceWindow, Service, ServiceDomain, Target, VantagePoint
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    Form,
    ModelAdmin,
    ReadOnlyInline,
    TabularInline,
    action,
    confirmed,
    display,
    moment,
    refused,
    settled,
)

ROLE_COLOURS = {
    "primary": "primary",
    "backup": "info",
    "origin witness": "warning",
    "reference site": "success",
    "canary": "",
    "IPv6": "",
    "uncacheable": "",
}
MAINTENANCE_SHOWN = timedelta(days=7)
"""How far back and ahead a service's page shows maintenance."""
PROOF_COLOURS = {
    "verified": "success", "not verified": "warning", "missing": "warning", "lost": "danger", "contested": "danger",
    "deleted": "danger",
}  # fmt: skip


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
    actions_detail = ["add_domain", "add_maintenance", "delete_softly"]
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


class TargetInline(TabularInline):
    model = Target
    fields = ["role", "rank", "cdn", "address", "port", "capacity_percent", "enabled"]
    verbose_name_plural = "paths and origin witness"
    can_delete = False  # usage and verdicts point at them: switch them off instead

    def get_queryset(self, request: HttpRequest) -> QuerySet[Target]:
        found: QuerySet[Target] = super().get_queryset(request)
        return found.exclude(role=Target.Role.FACET)  # they follow from the service

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "role":
            kwargs["choices"] = [(role.value, role.label) for role in Target.Role if role in Target.DOMAIN_ROLES]
        return super().formfield_for_choice_field(db_field, request, **kwargs)


class ProofFilter(admin.SimpleListFilter):
    title = "proof"
    parameter_name = "verified"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "verified"), ("no", "not verified")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ServiceDomain]) -> QuerySet[ServiceDomain]:
        if self.value() in ("yes", "no"):
            return queryset.filter(verified_at__isnull=self.value() == "no")
        return queryset


@admin.register(ServiceDomain)
class ServiceDomainAdmin(TellsCustomersOfDeletion):
    list_display = ["hostname", "service", "customer", "state", "check_result", "checked_at"]
    list_select_related = ["service", "customer"]
    list_filter = [ProofFilter, ("service", AutocompleteSelectFilter), ("customer", AutocompleteSelectFilter)]
    search_fields = ["hostname", "service__name", "customer__name"]
    autocomplete_fields = ["service"]
    # A verified hostname that could be edited would be a proof for another name.
    fixed_fields = ("service", "hostname")
    readonly_fields = [
        "state", "record_name", "record_value", "check_result", "checked_at", "verified_at", "lost_since",
        "contested_since", "created_at", "deleted_at",
    ]  # fmt: skip
    fieldsets = [
        (None, {"fields": [("service", "hostname")]}),
        (
            "Proof of control",
            {
                "fields": [
                    "state",
                    "record_name",
                    "record_value",
                    "check_result",
                    ("checked_at", "verified_at"),
                    ("lost_since", "contested_since"),
                ],
                "description": "The customer publishes this TXT record. Every name server of the zone is asked for it "
                "once a day, and with “Check proof now”. Gone for three days, or shown by two accounts, nothing new is "
                "written into DNS for it; what is written stays.",
            },
        ),
        ("Dates", {"fields": [("created_at", "deleted_at")]}),
    ]
    add_fieldsets = [(None, {"fields": ["service", "hostname"]})]
    inlines = [TargetInline]
    actions_detail = ["check_proof", "delete_softly"]
    empty_hint = "Add a hostname of a service; its page then shows the TXT record that proves it."

    def get_queryset(self, request: HttpRequest) -> QuerySet[ServiceDomain]:
        return super().get_queryset(request).with_contest()

    @display(description="state", label=PROOF_COLOURS)
    def state(self, domain: ServiceDomain) -> str:
        return domain.proof_state(timezone.now())

    @display(description="TXT record name")
    def record_name(self, domain: ServiceDomain) -> str:
        return format_html('<code class="tr-copy">{}</code>', domain.challenge_name)

    @display(description="TXT record value")
    def record_value(self, domain: ServiceDomain) -> str:
        return format_html('<code class="tr-copy">{}</code>', domain.challenge_value)

    def get_inlines(self, request: HttpRequest, obj: ServiceDomain | None) -> list[Any]:
        return super().get_inlines(request, obj) if obj else []

    def response_post_save_add(self, request: HttpRequest, obj: ServiceDomain) -> HttpResponse:
        return redirect(self.url_of(obj))  # shows the record to publish

    @confirmed(
        "Check proof now",
        "Asks the zone’s name servers for the TXT record. This takes a few seconds.",
        submit="Check",
        icon="verified",
        variant=ActionVariant.PRIMARY,
    )
    def check_proof(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        domain = proof.check(self.row_of(request, object_id, "check_proof"))
        self.log_change(request, domain, f"Checked the proof ({form.cleaned_data['reason']}): {domain.check_result}")
        answer = settled if domain.verified_at else refused
        return answer(
            request, self.url_of(domain), f"{domain}: {domain.check_result or domain.proof_state(timezone.now())}"
        )


@admin.register(Target)
class TargetAdmin(TellsCustomers):
    list_display = ["hostname_probed", "role_label", "rank", "cdn", "address", "port", "capacity", "enabled"]
    list_select_related = ["domain", "cdn"]
    list_filter = [
        "role",
        "enabled",
        "cdn",
        ("domain", AutocompleteSelectFilter),
        ("domain__service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
    ]
    search_fields = ["domain__hostname", "hostname", "address", "cdn__name"]
    autocomplete_fields = ["domain", "cdn"]
    fixed_fields = ("domain",)
    readonly_fields = ["created_at"]
    fieldsets = [
        (None, {"fields": [("role", "rank"), "domain", ("hostname", "network")]}),
        ("Where to connect", {"fields": ["cdn", ("address", "port"), "probe_path"]}),
        ("Use", {"fields": [("capacity_percent", "enabled"), "created_at"]}),
    ]
    empty_hint = "Paths and origin witnesses are added on their domain’s page; reference sites and canaries here."

    @display(description="host", ordering="domain__hostname")
    def hostname_probed(self, target: Target) -> str:
        return target.host

    @display(description="role", ordering="role", label=ROLE_COLOURS)
    def role_label(self, target: Target) -> str:
        return str(target.get_facet_display() if target.facet else target.get_role_display())

    def has_change_permission(self, request: HttpRequest, obj: Target | None = None) -> bool:
        return super().has_change_permission(request, obj) and not (obj and obj.facet)

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "role":
            kwargs["choices"] = [choice for choice in Target.Role.choices if choice[0] != Target.Role.FACET]
        return super().formfield_for_choice_field(db_field, request, **kwargs)

    @display(description="capacity", ordering="capacity_percent")
    def capacity(self, target: Target) -> str:
        return f"{target.capacity_percent} %"

    def has_delete_permission(self, request: HttpRequest, obj: Target | None = None) -> bool:
        return False  # usage, verdicts and weights point at it: switch it off instead


@admin.register(Cdn)
class CdnAdmin(ModelAdmin):
    list_display = ["name", "slug", "shown_suffixes"]
    search_fields = ["name", "slug"]
    prepopulated_fields = {"slug": ["name"]}
    empty_hint = "Add every CDN that a customer uses as primary or backup."

    @display(description="edge suffixes")
    def shown_suffixes(self, cdn: Cdn) -> str:
        return ", ".join(cdn.suffixes) or "-"


def _command(queue: str) -> str:
    return f"celery -A tranche_site worker -n {queue}@%h -Q {queue} -P threads -c 2 --without-gossip --without-mingle"


STATE_COLOURS = {"active": "success", "shadow": "info", "off": ""}


@admin.register(VantagePoint)
class VantagePointAdmin(ModelAdmin):
    list_display = ["name", "region", "network", "state_label", "sight", "last_probe_at"]
    list_filter = ["state", "region"]
    search_fields = ["name", "region", "network"]
    fixed_fields = ("name",)  # its Celery queue is named after it
    readonly_fields = ["commands", "sight", "blind_since", "blind_reason", "last_probe_at"]
    fieldsets = [
        (None, {"fields": ["name", ("region", "network"), ("state", "source_address"), "shards"]}),
        ("Probe workers", {"fields": ["commands"]}),
        ("What it sees", {"fields": ["sight", "blind_reason", ("blind_since", "last_probe_at")]}),
    ]
    empty_hint = "Nothing is probed without a vantage point: add two per region, on distinct networks."

    @display(description="state", ordering="state", label=STATE_COLOURS)
    def state_label(self, point: VantagePoint) -> str:
        return point.state

    @display(description="commands")
    def commands(self, point: VantagePoint) -> str:
        return format_html_join(
            "", '<div><code class="tr-copy">{}</code></div>', ((_command(q),) for q in point.queues)
        )

    def get_fieldsets(self, request: HttpRequest, obj: VantagePoint | None = None) -> list[Any]:
        return [part for part in super().get_fieldsets(request, obj) if obj or part[0] is None]

    @display(description="sight", label={"sees": "success", "blind": "danger", "never probed": "warning"})
    def sight(self, point: VantagePoint) -> str:
        if point.blind_since:
            return "blind"
        return "sees" if point.last_probe_at else "never probed"


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
