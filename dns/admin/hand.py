"""The operator's hand: pins and freezes."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from dns.admin.shown import OperatorsOwn
from dns.models import Freeze, Pin
from tranche_site.floor.console_admin import AutocompleteSelectFilter, Form, asker, confirmed, display, settled


class InForceFilter(admin.SimpleListFilter):
    """For pins and freezes: what holds now."""

    title = "in force"
    parameter_name = "in_force"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "in force"), ("no", "over")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        in_force = Q(expires_at__gt=timezone.now()) if queryset.model is Pin else Q(lifted_at__isnull=True)
        if self.value() == "yes":
            return queryset.filter(in_force)
        return queryset.exclude(in_force) if self.value() == "no" else queryset


class _InForce(OperatorsOwn):
    writing_is_dangerous = True
    list_filter = [InForceFilter, ("service", AutocompleteSelectFilter)]

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool) -> None:
        super().save_model(request, obj, form, change)  # the view holds the transaction
        if not change:
            obj.tell()


class PinForm(Form):
    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        expires_at = self.cleaned_data.get("expires_at")
        if expires_at and expires_at <= timezone.now():
            self.add_error("expires_at", "Choose a time to come (UTC).")
        return cleaned


@admin.register(Pin)
class PinAdmin(_InForce):
    form = PinForm
    list_display = ["service", "percents", "state", "reason", "created_by", "created_at", "expires_at"]
    list_select_related = ["service", "created_by"]
    search_fields = ["service__name", "reason"]
    autocomplete_fields = ["service"]
    readonly_fields = ["created_by", "created_at"]
    add_fieldsets = [(None, {"fields": ["service", "backup_percent", "reason", "expires_at"]})]
    fields = ["service", "backup_percent", "state", "reason", "expires_at", ("created_by", "created_at")]
    actions_detail = ["end_now"]
    empty_hint = "A pin fixes a service’s weights until it expires, whatever probing says."

    @display(description="backup", ordering="backup_percent")
    def percents(self, pin: Pin) -> str:
        return f"{pin.backup_percent} %"

    @display(description="state", label={"in force": "warning", "over": ""})
    def state(self, pin: Pin) -> str:
        return "in force" if pin.expires_at > timezone.now() else "over"

    def has_end_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("dns.change_pin")

    def offers(self, action_name: str, row: Pin) -> bool:
        return row.is_in_force(timezone.now())

    @confirmed(
        "End now",
        "Automatic steering takes over at once.",
        submit="End it",
        permission="end",
        icon="keep_off",
        dangerous=True,
    )
    def end_now(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        pin = self.row_of(request, object_id, "end_now")
        pin.end(timezone.now())
        self.log_change(request, pin, f"Ended before its time: {form.cleaned_data['reason']}")
        return settled(request, asker(request, self.url_of(pin)), f"The pin of {pin.service} is over.")


@admin.register(Freeze)
class FreezeAdmin(_InForce):
    list_display = ["scope", "state", "reason", "created_by", "created_at", "lifted_at"]
    list_select_related = ["service", "customer", "created_by"]
    search_fields = ["service__name", "customer__name", "reason"]
    autocomplete_fields = ["service", "customer"]
    readonly_fields = ["created_by", "created_at", "lifted_at"]
    add_fieldsets = [
        (
            None,
            {
                "fields": ["service", "customer", "reason"],
                "description": "Choose a service, or a customer with all its services, or neither: "
                "then nothing is moved for anybody, whatever happens.",
            },
        )
    ]
    fields = ["service", "customer", "state", "reason", ("created_by", "created_at"), "lifted_at"]
    actions_detail = ["lift"]
    empty_hint = "A freeze stops every automatic change of one service, one customer, or everything."

    @display(description="of")
    def scope(self, freeze: Freeze) -> str:
        return str(freeze.service or freeze.customer or "everything")

    @display(description="state", label={"in force": "warning", "lifted": ""})
    def state(self, freeze: Freeze) -> str:
        return "lifted" if freeze.lifted_at else "in force"

    def save_model(self, request: HttpRequest, obj: Freeze, form: forms.ModelForm, change: bool) -> None:
        if obj.service:
            obj.customer = obj.service.customer
        super().save_model(request, obj, form, change)

    def has_lift_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("dns.change_freeze")

    def offers(self, action_name: str, row: Freeze) -> bool:
        return row.is_in_force(timezone.now())

    @confirmed(
        "Lift",
        "Automatic steering takes over at once.",
        submit="Lift it",
        permission="lift",
        icon="sunny",
        dangerous=True,
    )
    def lift(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        freeze = self.row_of(request, object_id, "lift")
        freeze.end(timezone.now())
        self.log_change(request, freeze, f"Lifted: {form.cleaned_data['reason']}")
        return settled(request, asker(request, self.url_of(freeze)), f"The {freeze} is lifted.")
