"""Where customers are told, and what became of each telling. Endpoints are the customers' own: staff sends again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.utils import timezone

from customers.models import DeliveryAttempt, WebhookDelivery, WebhookEndpoint
from customers.webhooks import outbox
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    InfinitePaginator,
    RangeDateTimeFilter,
    ReadOnly,
    ReadOnlyInline,
    confirmed,
    display,
    refused,
    settled,
)

if TYPE_CHECKING:
    from django import forms
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

ENDPOINT_COLOURS = {"enabled": "success", "failing": "warning", "disabled": "danger"}
DELIVERY_COLOURS = {"pending": "info", "delivered": "success", "dead": "danger"}


class EndpointStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state) for state in ENDPOINT_COLOURS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[WebhookEndpoint]) -> QuerySet[WebhookEndpoint]:
        if self.value() == "disabled":
            return queryset.filter(disabled_at__isnull=False)
        on = queryset.filter(disabled_at=None)
        if self.value() == "failing":
            return on.filter(failing_since__isnull=False)
        return on.filter(failing_since=None) if self.value() == "enabled" else queryset


class _Replaying(ReadOnly):
    def has_replay_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("customers.change_webhookdelivery")


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(_Replaying):
    list_display = ["url", "customer", "state_label", "shown_kinds", "failing_since", "created_at"]
    list_select_related = ["customer"]
    list_filter = [EndpointStateFilter, ("customer", AutocompleteSelectFilter)]
    search_fields = ["url", "description", "customer__name"]
    fields = [
        "customer", "url", "description", "shown_kinds", ("state_label", "disabled_reason"), ("disabled_at", "failing_since"),
        ("failures", "held_until"), ("last_sequence", "previous_until"), ("created_at", "deleted_at"),
    ]  # fmt: skip
    actions_detail = ["enable", "replay_dead"]
    empty_hint = "Customers make their own by the API: POST /v1/webhook-endpoints."

    @display(description="state", label=ENDPOINT_COLOURS)
    def state_label(self, endpoint: WebhookEndpoint) -> str:
        return endpoint.state

    @display(description="kinds")
    def shown_kinds(self, endpoint: WebhookEndpoint) -> str:
        return ", ".join(endpoint.kinds)

    def offers(self, action_name: str, row: WebhookEndpoint) -> bool:
        if row.deleted_at:
            return False
        return row.state != "enabled" if action_name == "enable" else row.disabled_at is None

    @confirmed(
        "Enable", "It is sent to again from now on. What was given up stays so until it is sent again.", submit="Enable",
        permission="replay", icon="play_arrow",
    )  # fmt: skip
    def enable(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        endpoint = self.row_of(request, object_id, "enable")
        outbox.enable(endpoint)
        self.log_change(request, endpoint, f"Enabled: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(endpoint), f"{endpoint} is enabled.")

    @confirmed(
        "Send again what was given up", "All its dead deliveries, in order and under their old ids.", submit="Send again",
        permission="replay", icon="replay",
    )  # fmt: skip
    def replay_dead(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        endpoint = self.row_of(request, object_id, "replay_dead")
        dead = WebhookDelivery.objects.filter(endpoint=endpoint, state=WebhookDelivery.State.DEAD)
        count = outbox.replay(dead, timezone.now())
        said = f"{count} deliveries are sent again"
        self.log_change(request, endpoint, f"{said}: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(endpoint), f"{said}.")


class AttemptInline(ReadOnlyInline):
    model = DeliveryAttempt
    fields = ["at", "status", "milliseconds", "error", "answer"]
    verbose_name_plural = "attempts"
    show_change_link = False


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(_Replaying):
    list_display = [
        "kind",
        "endpoint",
        "customer",
        "state_label",
        "attempts",
        "last_error",
        "created_at",
        "delivered_at",
    ]
    list_select_related = ["event", "endpoint", "customer"]
    list_filter = [
        "state", ("endpoint", AutocompleteSelectFilter), ("customer", AutocompleteSelectFilter),
        ("created_at", RangeDateTimeFilter),
    ]  # fmt: skip
    search_fields = ["endpoint__url", "event__kind"]
    paginator = InfinitePaginator
    fields = [
        ("event", "endpoint"), ("customer", "sequence"), ("state_label", "attempts"), ("last_status", "last_error"),
        ("next_attempt_at", "delivered_at"), "created_at",
    ]  # fmt: skip
    inlines = [AttemptInline]
    actions_detail = ["replay"]
    empty_hint = "Nothing was told by webhook yet: no customer has an endpoint, or nothing happened to it."

    @display(description="event", ordering="event__kind")
    def kind(self, delivery: WebhookDelivery) -> str:
        return delivery.event.kind

    @display(description="state", ordering="state", label=DELIVERY_COLOURS)
    def state_label(self, delivery: WebhookDelivery) -> str:
        return delivery.state

    def offers(self, action_name: str, row: WebhookDelivery) -> bool:
        return row.state != WebhookDelivery.State.PENDING

    @confirmed(
        "Send again", "Under its old id, so that a receiver which has it can tell.", submit="Send again",
        permission="replay", icon="replay",
    )  # fmt: skip
    def replay(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        delivery = self.row_of(request, object_id, "replay")
        if not outbox.replay(WebhookDelivery.objects.filter(pk=delivery.pk), timezone.now()):
            return refused(request, self.url_of(delivery), "Its endpoint is disabled: enable it first.")
        self.log_change(request, delivery, f"Sent again: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(delivery), f"{delivery} is sent again.")
