"""Accounts and their keys. A key is issued on its customer's page and shown there once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextInputWidget

from customers.models import SCOPES, STAFF_SCOPES, ApiKey, Customer, Event
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    InfinitePaginator,
    RangeDateTimeFilter,
    ReadOnly,
    ReadOnlyInline,
    SoftDelete,
    action,
    confirmed,
    dangerous_action,
    display,
    settled,
)

if TYPE_CHECKING:
    from datetime import datetime

KEY_COLOURS = {"usable": "success", "expired": "warning", "revoked": "danger"}


def _key_state(key: ApiKey) -> str:
    if key.revoked_at:
        return "revoked"
    return "usable" if key.is_usable(timezone.now()) else "expired"


class IssueKeyForm(forms.Form):
    name = forms.CharField(
        max_length=100, help_text="Where the key is used, for example “terraform”.", widget=UnfoldAdminTextInputWidget
    )
    scopes = forms.MultipleChoiceField(
        choices=[(scope, f"{scope}: {meaning}") for scope, meaning in (SCOPES | STAFF_SCOPES).items()],
        initial=["read", "write"],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )

    def __init__(self, *args: Any, may_grant: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field: Any = self.fields["scopes"]
        field.choices = [choice for choice in field.choices if may_grant or choice[0] not in STAFF_SCOPES]


class ApiKeyInline(ReadOnlyInline):
    model = ApiKey
    fields = ["name", "shown_prefix", "scopes", "state", "last_used_at", "expires_at", "created_at"]
    readonly_fields = ["shown_prefix", "state"]
    verbose_name_plural = "API keys"

    @display(description="prefix")
    def shown_prefix(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @display(description="state", label=KEY_COLOURS)
    def state(self, key: ApiKey) -> str:
        return _key_state(key)


@admin.register(Customer)
class CustomerAdmin(SoftDelete):
    list_display = ["name", "billing_email", "service_count", "key_count", "created_at"]
    search_fields = ["name", "billing_email"]
    fields = ["name", "billing_email", "alert_email", "wants_alerts", "created_at", "deleted_at"]
    readonly_fields = ["created_at", "deleted_at"]
    inlines = [ApiKeyInline]
    actions_detail = ["issue_key", "delete_softly", "restore"]
    empty_hint = "Add the first customer, then issue an API key on its page."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Customer]:
        usable = Q(api_keys__isnull=False, api_keys__revoked_at__isnull=True)
        found: QuerySet[Customer] = super().get_queryset(request)
        return found.annotate(
            service_count=Count("services", filter=Q(services__deleted_at__isnull=True), distinct=True),
            key_count=Count("api_keys", filter=usable, distinct=True),
        ).order_by("name")

    @display(description="services", ordering="service_count")
    def service_count(self, row: Any) -> str:
        url = f"{reverse('admin:services_service_changelist')}?customer__id__exact={row.pk}"
        return format_html('<a href="{}">{}</a>', url, row.service_count)

    @display(description="API keys", ordering="key_count")
    def key_count(self, row: Any) -> int:
        return int(row.key_count)

    def get_inlines(self, request: HttpRequest, obj: Customer | None) -> list[Any]:
        return super().get_inlines(request, obj) if obj else []

    def response_post_save_add(self, request: HttpRequest, obj: Customer) -> HttpResponse:
        return redirect(self.url_of(obj))  # where the next step is: its first key

    def obstacle(self, row: Customer) -> str:
        count = row.services.filter(deleted_at__isnull=True).count()
        return f"{row} still has services in use: {count}. Delete them first." if count else ""

    def remove(self, row: Customer, now: datetime) -> None:
        with transaction.atomic():
            super().remove(row, now)
            row.api_keys.filter(revoked_at__isnull=True).update(revoked_at=now)

    def has_issue_key_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("customers.add_apikey")

    @dangerous_action
    @action(
        description="Issue API key",
        url_path="issue-key",
        permissions=["issue_key"],
        icon="key",
        variant=ActionVariant.PRIMARY,
    )
    def issue_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The key is in the answer to the POST and nowhere else: not in a session, a message or a log."""
        customer = self.row_of(request, object_id, "issue_key")
        # What a key may do, its issuer must be allowed to do.
        form = IssueKeyForm(request.POST or None, may_grant=request.user.has_perm("billing.add_payment"))
        context = {**self.admin_site.each_context(request), "opts": self.opts, "original": customer, "form": form}
        context["title"] = f"Issue an API key for {customer}"
        if form.is_valid():
            key, context["secret"] = ApiKey.issue(customer, form.cleaned_data["name"], form.cleaned_data["scopes"])
            context["key"] = key
            self.log_change(request, customer, f"Issued API key {key.name} ({key.prefix}…).")
        response = render(request, "admin/customers/issue_key.html", context)
        response["Cache-Control"] = "no-store"
        return response


class KeyStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state) for state in KEY_COLOURS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        expired = Q(expires_at__lte=timezone.now())
        kept = queryset.filter(revoked_at__isnull=True)
        if self.value() == "revoked":
            return queryset.filter(revoked_at__isnull=False)
        if self.value() == "expired":
            return kept.filter(expired)
        return kept.exclude(expired) if self.value() == "usable" else queryset


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnly):
    list_display = ["name", "shown_prefix", "customer", "shown_scopes", "state", "last_used_at", "created_at"]
    list_select_related = ["customer"]
    list_filter = [KeyStateFilter, ("customer", AutocompleteSelectFilter)]
    search_fields = ["name", "prefix", "customer__name"]
    fields = [
        "customer", "name", "shown_prefix", "shown_scopes", "state",
        "created_at", "last_used_at", "expires_at", "revoked_at",
    ]  # fmt: skip
    actions_detail = ["revoke"]
    empty_hint = "A key is issued on its customer’s page: Customers, choose one, “Issue API key”."

    @display(description="prefix")
    def shown_prefix(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @display(description="scopes")
    def shown_scopes(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @display(description="state", label=KEY_COLOURS)
    def state(self, key: ApiKey) -> str:
        return _key_state(key)

    def has_revoke_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("customers.change_apikey")

    def offers(self, action_name: str, row: ApiKey) -> bool:
        return row.revoked_at is None

    @confirmed(
        "Revoke",
        "Whoever uses this key is refused from now on. This can not be undone.",
        submit="Revoke",
        permission="revoke",
        icon="block",
        variant=ActionVariant.DANGER,
        dangerous=True,
    )
    def revoke(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        key = self.row_of(request, object_id, "revoke")
        key.revoke(timezone.now())
        self.log_change(request, key, f"Revoked: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(key), f"{key} is revoked.")


@admin.register(Event)
class EventAdmin(ReadOnly):
    list_display = ["summary", "kind", "customer", "subject", "created_at", "processed_at"]
    list_select_related = ["customer"]
    list_filter = ["kind", ("customer", AutocompleteSelectFilter), ("created_at", RangeDateTimeFilter)]
    search_fields = ["summary", "kind"]
    paginator = InfinitePaginator
    empty_hint = "Events are written when something happens: a storm, a change of weights, an invoice."

    @display(description="subject")
    def subject(self, event: Event) -> str:
        return f"{event.subject_type} {event.subject_id}"
