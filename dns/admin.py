"""Record sets, the changes that steer them, and the operator's hand: pins, freezes, held plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from dns import steering
from dns.models import DnsAccount, EmbeddedRecord, Freeze, Pin, RecordSet, WeightChange
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    Form,
    ModelAdmin,
    RangeDateTimeFilter,
    ReadOnly,
    confirmed,
    display,
    moment,
    settled,
    two_lines,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django import forms
    from django.contrib.auth.models import User

CHANGE_COLOURS = {
    "wanted": "info",
    "held": "warning",
    "submitted": "info",
    "confirmed": "info",
    "observed": "success",
    "failed": "danger",
    "superseded": "",
}


def _weights(percents: Mapping[str, int | str], names: dict[str, str]) -> str:
    """“primary Edgeline 0 %”, one path a line."""
    lines = [(names.get(key, f"target {key}"), share) for key, share in percents.items()]
    spans = format_html_join("", '<span class="block whitespace-nowrap">{} <b>{} %</b></span>', lines)
    return format_html("<div>{}</div>", spans or "-")


@admin.register(DnsAccount)
class DnsAccountAdmin(ModelAdmin):
    list_display = ["name", "vendor", "customer", "created_at"]
    list_select_related = ["customer"]
    list_filter = ["vendor", ("customer", AutocompleteSelectFilter)]
    search_fields = ["name", "customer__name"]
    autocomplete_fields = ["customer"]
    readonly_fields = ["created_at"]
    empty_hint = "Add the account whose zones hold the customers’ weighted records; “log” only writes what it would do."


@admin.register(RecordSet)
class RecordSetAdmin(ModelAdmin):
    list_display = ["domain", "account", "zone", "ttl", "generation", "observed", "observation", "observed_at"]
    list_select_related = ["domain", "account"]
    list_filter = ["account", ("domain__service", AutocompleteSelectFilter), ("customer", AutocompleteSelectFilter)]
    search_fields = ["domain__hostname", "zone", "account__name"]
    autocomplete_fields = ["domain", "account"]
    fixed_fields = ("domain",)
    readonly_fields = ["zone_id", "generation", "observed", "observed_generation", "observed_at", "observation"]
    fieldsets = [
        (None, {"fields": ["domain", "account", ("zone", "ttl_seconds")]}),
        (
            "What DNS answers",
            {"fields": ["observed", "observation", ("generation", "observed_generation"), ("observed_at", "zone_id")]},
        ),
    ]
    empty_hint = "Without a record set a domain is watched and never steered. Add one for each verified domain."

    def get_queryset(self, request: HttpRequest) -> QuerySet[RecordSet]:
        return super().get_queryset(request).prefetch_related("domain__targets__cdn")

    @display(description="TTL", ordering="ttl_seconds")
    def ttl(self, row: RecordSet) -> str:
        return f"{row.ttl_seconds} s"

    @display(description="observed weights")
    def observed(self, row: RecordSet) -> str:
        names = {str(target.pk): f"{target.role} {target.cdn}" for target in row.domain.targets.all()}
        return _weights(row.observed_weights, names)

    def has_delete_permission(self, request: HttpRequest, obj: RecordSet | None = None) -> bool:
        return False  # its records in DNS would stay and nobody would own them


@admin.register(WeightChange)
class WeightChangeAdmin(ReadOnly):
    list_display = ["name", "weights_text", "state_label", "why", "wanted"]
    list_select_related = ["record_set__domain", "record_set__account", "service", "storm__service"]
    list_filter = [
        "state",
        "is_reversal",
        ("service", AutocompleteSelectFilter),
        ("storm", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
        ("wanted_at", RangeDateTimeFilter),
    ]
    search_fields = ["record_set__domain__hostname", "service__name", "reason"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("service", "record_set"), ("generation", "region"), ("weights_text", "state_label"), "reason",
                    ("storm", "is_reversal"), ("held_reason", "approved_by"),
                ],
            },
        ),
        (
            "Its life",
            {
                "fields": [
                    ("wanted_at", "submitted_at"), ("confirmed_at", "observed_at"), ("seconds", "attempts"),
                    ("next_attempt_at", "error"), "receipt",
                ],
            },
        ),
    ]  # fmt: skip
    actions = ["approve_selected", "reject_selected"]
    actions_detail = ["approve", "reject"]
    empty_hint = "No weights were changed yet. `manage.py steer` prints what would be."

    def get_queryset(self, request: HttpRequest) -> QuerySet[WeightChange]:
        return super().get_queryset(request).prefetch_related("record_set__domain__targets__cdn")

    @display(description="domain", ordering="record_set__domain__hostname")
    def name(self, change: WeightChange) -> str:
        return two_lines(change.record_set.domain, f"{change.service.name}, generation {change.generation}")

    @display(description="weights")
    def weights_text(self, change: WeightChange) -> str:
        names = {str(target.pk): f"{target.role} {target.cdn}" for target in change.record_set.domain.targets.all()}
        moved = {}
        for key, share in change.weights.items():
            before = change.previous_weights.get(key)
            moved[key] = f"{before} → {share}" if before not in (None, share) else share
        return _weights(moved, names)

    @display(description="state", ordering="state", label=CHANGE_COLOURS)
    def state_label(self, change: WeightChange) -> str:
        return change.state

    @display(description="reason")
    def why(self, change: WeightChange) -> str:
        return change.held_reason if change.state == WeightChange.State.HELD else change.reason

    @display(description="wanted (UTC)", ordering="wanted_at")
    def wanted(self, change: WeightChange) -> str:
        observed = f"observed after {self.seconds(change)}" if change.observed_at else "not observed"
        return two_lines(moment(change.wanted_at), observed)

    @display(description="observed after")
    def seconds(self, change: WeightChange) -> str:
        return f"{(change.observed_at - change.wanted_at).total_seconds():.1f} s" if change.observed_at else "-"

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("dns.change_weightchange")

    def offers(self, action_name: str, row: WeightChange) -> bool:
        return row.state == WeightChange.State.HELD

    @confirmed(
        "Approve",
        "Traffic moves as soon as this is written, for every domain of the service that is held.",
        submit="Approve",
        permission="decide",
        icon="check",
        variant=ActionVariant.SUCCESS,
    )
    def approve(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        change = self.row_of(request, object_id, "approve")
        steering.approve(change, _operator(request))
        self.log_change(request, change, "Approved.")
        return settled(request, self.url_of(change), f"{change.service}: the held plan is approved.")

    @confirmed(
        "Reject",
        "Traffic stays where it is, for every domain of the service that is held. "
        "The plan comes back while the situation wants it; a freeze keeps it away.",
        submit="Reject",
        permission="decide",
        icon="close",
        variant=ActionVariant.DANGER,
    )
    def reject(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        change = self.row_of(request, object_id, "reject")
        steering.reject(change, _operator(request))
        self.log_change(request, change, "Rejected.")
        return settled(request, self.url_of(change), f"{change.service}: the held plan is rejected.")

    @admin.action(description="Approve held plans", permissions=["decide"])
    def approve_selected(self, request: HttpRequest, queryset: QuerySet[WeightChange]) -> None:
        self._decide(request, queryset, steering.approve, "Approved")

    @admin.action(description="Reject held plans", permissions=["decide"])
    def reject_selected(self, request: HttpRequest, queryset: QuerySet[WeightChange]) -> None:
        self._decide(request, queryset, steering.reject, "Rejected")

    def _decide(self, request: HttpRequest, chosen: QuerySet[WeightChange], decide: Any, word: str) -> None:
        """One decision a service: it moves as a whole."""
        held = chosen.filter(state=WeightChange.State.HELD).order_by("service_id", "pk").distinct("service_id")
        decided = list(held)
        for change in decided:
            decide(change, _operator(request))
            self.log_change(request, change, f"{word}.")
        level = messages.SUCCESS if decided else messages.WARNING
        self.message_user(request, f"{word}: the held plans of {len(decided)} services.", level)


def _operator(request: HttpRequest) -> User:
    """The console's views let nobody in who is not logged in."""
    user = request.user
    assert user.is_authenticated  # noqa: S101
    return user


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


class _OperatorsOwn(ModelAdmin):
    """Made with a reason and ended by an action; never edited, so that the record says what was decided."""

    list_filter = [InForceFilter, ("service", AutocompleteSelectFilter)]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool) -> None:
        obj.created_by = _operator(request)
        super().save_model(request, obj, form, change)


class PinForm(Form):
    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        expires_at = self.cleaned_data.get("expires_at")
        if expires_at and expires_at <= timezone.now():
            self.add_error("expires_at", "Choose a time to come (UTC).")
        return cleaned


@admin.register(Pin)
class PinAdmin(_OperatorsOwn):
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
        return row.expires_at > timezone.now()

    @confirmed("End now", "Automatic steering takes over at once.", submit="End it", permission="end", icon="keep_off")
    def end_now(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        pin = self.row_of(request, object_id, "end_now")
        pin.expires_at = timezone.now()
        pin.save(update_fields=["expires_at"])
        self.log_change(request, pin, "Ended before its time.")
        return settled(request, self.url_of(pin), f"The pin of {pin.service} is over.")


@admin.register(Freeze)
class FreezeAdmin(_OperatorsOwn):
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
        return row.lifted_at is None

    @confirmed("Lift", "Automatic steering takes over at once.", submit="Lift it", permission="lift", icon="sunny")
    def lift(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        freeze = self.row_of(request, object_id, "lift")
        freeze.lifted_at = timezone.now()
        freeze.save(update_fields=["lifted_at"])
        self.log_change(request, freeze, "Lifted.")
        return settled(request, self.url_of(freeze), f"The {freeze} is lifted.")


@admin.register(EmbeddedRecord)
class EmbeddedRecordAdmin(ReadOnly):
    list_display = ["name", "type", "value", "weight", "ttl_seconds", "owner", "zone"]
    list_filter = ["type", "zone"]
    search_fields = ["name", "value"]
    empty_hint = "The embedded server answers these records; the “embedded” vendor writes them."
