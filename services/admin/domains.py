"""Hostnames and the proof that they are the customer’s."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.html import format_html

from customers.admin.telling import TellsCustomersOfDeletion
from services import proof
from services.models import ServiceDomain, Target
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    TabularInline,
    confirmed,
    display,
    refused,
    settled,
)

PROOF_COLOURS = {
    "verified": "success", "not verified": "warning", "missing": "warning", "lost": "danger", "contested": "danger",
    "deleted": "danger",
}  # fmt: skip


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
    actions_detail = ["check_proof", "delete_softly", "restore"]
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
