"""Prices and contracts. Staff only; what is in force changes by a new version, with its reason."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Max
from django.shortcuts import render
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminSplitDateTimeWidget, UnfoldAdminTextareaWidget

from billing import amending
from billing.admin.shown import who
from billing.cover import PAYING_KINDS
from billing.models import Contract, CoverRuling, Prices, RateCard
from customers.models import Event
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    Form,
    ModelAdmin,
    RangeDateTimeFilter,
    ReasonForm,
    action,
    confirmed,
    dangerous_action,
    display,
    percent,
    refused,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from django.forms import BoundField
    from django.http import HttpRequest, HttpResponse

STATE_COLOURS = {"in force": "success", "to come": "info", "over": ""}


def _state(row: Contract | Prices) -> str:
    now = timezone.now()
    if row.valid_from > now:
        return "to come"
    return "over" if row.valid_until and row.valid_until <= now else "in force"


class _Kept(ModelAdmin):
    writing_is_dangerous = True

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class _Versioned(_Kept):
    """What is in force, or was, is not edited: it is followed by another version."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or self.is_open(obj))

    def is_open(self, row: Any) -> bool:
        return row.valid_from > timezone.now()

    def has_amend_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(f"billing.change_{self.opts.model_name}")

    @display(description="state", label=STATE_COLOURS)
    def state(self, row: Contract | Prices) -> str:
        return _state(row)

    def version_form(
        self, request: HttpRequest, row: Any, form: type[VersionForm], fields: Iterable[str]
    ) -> VersionForm:
        """A form of the row's fields as its page would show them; nothing that it is given is saved."""
        made = forms.modelform_factory(
            self.model, form=form, fields=list(fields), formfield_callback=partial(self.formfield_for_dbfield, request=request)
        )  # fmt: skip
        filled: Any = made(request.POST or None, instance=row)
        return filled

    def version_page(
        self, request: HttpRequest, row: Any, form: VersionForm, title: str, text: str, submit: str
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request), "opts": self.opts, "original": row, "form": form, "title": title,
            "text": text, "submit": submit, "page_url": self.url_of(row), "media": self.media + form.media,
        }  # fmt: skip
        return render(request, "admin/billing/version.html", context)


class VersionForm(forms.ModelForm):
    """What the next version says otherwise, and from when on."""

    effective_at = forms.SplitDateTimeField(label="Effective from (UTC)", widget=UnfoldAdminSplitDateTimeWidget)
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def grouped(self) -> list[tuple[str, list[BoundField]]]:
        return [(title, [self[name] for name in names]) for title, names in self.groups]

    @property
    def changes(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in self.changed_data if name in (self._meta.fields or ())}


# --- prices ---------------------------------------------------------------------------------------------------------


@admin.register(RateCard)
class RateCardAdmin(_Kept):
    list_display = ["name", "currency", "unit"]
    list_filter = ["currency", "unit"]
    search_fields = ["name"]
    fixed_fields = ("currency", "unit")
    empty_hint = "Add a price list, and its prices; contracts name a rate card."


class _Numbered(Form):
    """The row gets its version when it is saved; its constraints are looked at before."""

    numbered_by: str

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        owner = self.cleaned_data.get(self.numbered_by)
        if self.instance._state.adding and owner is not None:
            versions = type(self.instance)._default_manager.filter(**{self.numbered_by: owner})
            self.instance.version = (versions.aggregate(newest=Max("version"))["newest"] or 0) + 1
        return self.cleaned_data


class PricesForm(_Numbered):
    numbered_by = "rate_card"
    constraint_fields = {"rate_card_versions_no_overlap": "valid_from"}


class NextPricesForm(VersionForm):
    reason = forms.CharField(max_length=300, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}))
    groups = (("", ("effective_at", "reason")), ("Prices", amending.PRICED))


@admin.register(Prices)
class PricesAdmin(_Versioned):
    form = PricesForm
    list_display = ["rate_card", "version", "state", "valid_from", "valid_until", "tier_mode", "first_price"]
    list_select_related = ["rate_card"]
    list_filter = [("rate_card", AutocompleteSelectFilter)]
    search_fields = ["rate_card__name"]
    autocomplete_fields = ["rate_card"]
    fixed_fields = ("rate_card",)
    readonly_fields = ["version"]
    fieldsets = [
        (None, {"fields": ["rate_card", ("valid_from", "valid_until"), ("tier_mode", "version")]}),
        ("Prices", {"fields": ["primary_tiers", "backup_tiers", "cdn_tiers", "per_10k_requests"]}),
    ]
    actions_detail = ["next_version"]
    empty_hint = "A rate card has no prices yet: add their first version."

    @display(description="first tier, primary / backup")
    def first_price(self, prices: Prices) -> str:
        return " / ".join(tiers[0]["per_unit"] for tiers in (prices.primary_tiers, prices.backup_tiers))

    def offers(self, action_name: str, row: Prices) -> bool:
        return _state(row) == "in force"

    @dangerous_action
    @action(
        description="New version from",
        url_path="next-version",
        permissions=["amend"],
        icon="edit_calendar",
        variant=ActionVariant.PRIMARY,
    )
    def next_version(self, request: HttpRequest, object_id: str) -> HttpResponse:
        now = timezone.now()
        row = self.row_of(request, object_id, "next_version")
        form = self.version_form(request, row, NextPricesForm, amending.PRICED)
        form.fields["effective_at"].initial = amending.quarter_after(now)
        if form.is_valid():
            try:
                made = amending.reprice(row, form.changes, form.cleaned_data["effective_at"], now)
            except ValidationError as error:
                form.add_error(None, error)
            else:
                said = f"Version {made.version} holds from {made.valid_from:%Y-%m-%d %H:%M} UTC on."
                self.log_change(request, row, f"{said} {form.cleaned_data['reason']}")
                return settled(request, self.url_of(made), said)
        text = "The version in force ends then, and what was billed by it stays. Usage before that time has the old prices."
        return self.version_page(request, row, form, f"New prices of {row.rate_card}", text, "Make the new version")


# --- contracts ------------------------------------------------------------------------------------------------------


class ContractForm(_Numbered):
    numbered_by = "customer"
    constraint_fields = {"contracts_no_overlap": "valid_from"}


class AmendForm(VersionForm):
    reason = forms.CharField(max_length=300, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}))
    groups = (
        ("", ("effective_at", "reason")),
        ("Cover: changes with notice", Contract.COVER_FIELDS),
        ("Prices and charges", tuple(name for name in amending.AMENDABLE if name not in Contract.COVER_FIELDS)),
    )


class RetireForm(ReasonForm):
    ends_at = forms.SplitDateTimeField(label="Ends (UTC)", widget=UnfoldAdminSplitDateTimeWidget)
    field_order = ("ends_at", "reason")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if row := Contract.objects.filter(pk=self.object_id).first():
            self.fields["ends_at"].initial = amending.first_allowed(row, timezone.now())


@admin.register(Contract)
class ContractAdmin(_Versioned):
    form = ContractForm
    list_display = [
        "customer",
        "version",
        "state",
        "kind",
        "rate_card",
        "valid_from",
        "valid_until",
        "discount",
        "factor",
    ]
    list_select_related = ["customer", "rate_card"]
    list_filter = ["kind", ("customer", AutocompleteSelectFilter), ("rate_card", AutocompleteSelectFilter)]
    search_fields = ["customer__name", "rate_card__name"]
    autocomplete_fields = ["customer", "rate_card"]
    fixed_fields = ("customer",)
    readonly_fields = ["version"]
    fieldsets = [
        (None, {"fields": ["customer", ("kind", "rate_card"), ("valid_from", "valid_until"), ("time_zone", "version")]}),
        (
            "Cover",
            {
                "fields": [
                    ("discount_rate", "max_coverage_factor"), "coverage_mode", ("waiting_seconds", "waiting_mode"),
                    ("hours_clause_seconds", "aggregate_seconds"), ("merge_gap_seconds", "drain_seconds"), "layers",
                    "policy_from",
                ],
                "description": "What a storm pays. The customer’s policy can lower the factor, never raise it.",
            },
        ),
        (
            "Charges",
            {"fields": [("fixed_fee", "premium"), ("minimum_commitment", "commit_on_net"), "tax_rates"]},
        ),
        ("Invoicing", {"fields": [("grace_hours", "payment_days"), ("notice_days", "reason")]}),
    ]  # fmt: skip
    actions_detail = ["amend", "withdraw", "retire"]
    empty_hint = (
        "Without a contract nothing is invoiced. It says which prices and cover a customer has, and since when."
    )

    @display(description="discount", ordering="discount_rate")
    def discount(self, contract: Contract) -> str:
        return percent(float(contract.discount_rate))

    @display(description="factor", ordering="max_coverage_factor")
    def factor(self, contract: Contract) -> str:
        return f"{contract.max_coverage_factor:f}"

    def is_open(self, row: Contract) -> bool:
        """One that has not begun, unless it is an amendment: its notice was reckoned from what it said."""
        return super().is_open(row) and not _is_amendment(row)

    def offers(self, action_name: str, row: Contract) -> bool:
        if action_name == "withdraw":
            return _state(row) == "to come" and _is_amendment(row)
        return _state(row) == "in force"

    @dangerous_action
    @action(
        description="Amend",
        url_path="amend",
        permissions=["amend"],
        icon="edit_calendar",
        variant=ActionVariant.PRIMARY,
    )
    def amend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        now = timezone.now()
        row = self.row_of(request, object_id, "amend")
        form = self.version_form(request, row, AmendForm, amending.AMENDABLE)
        form.fields["effective_at"].initial = amending.first_allowed(row, now)
        if not form.is_bound:
            form.initial["reason"] = ""
        if form.is_valid():
            asked = form.cleaned_data
            try:
                made = amending.amend(row, form.changes, asked["effective_at"], who(request), asked["reason"], now)
            except ValidationError as error:
                form.add_error(None, error)
            else:
                self.log_change(request, row, f"Amended by version {made.version}: {asked['reason']}")
                return settled(
                    request, self.url_of(made), f"Version {made.version} holds from {_at(made.valid_from)} on."
                )
        text = (
            f"This version ends then, and the next one begins. Cover changes with {row.notice_days} days’ notice, and never "
            "while a storm of the customer or an incident of its CDNs is open."
        )
        return self.version_page(request, row, form, f"Amend the contract of {row.customer}", text, "Amend")

    @confirmed(
        "Withdraw",
        "The amendment is dropped before it begins, and the version before it goes on.",
        submit="Withdraw it",
        permission="amend",
        icon="undo",
        dangerous=True,
    )
    def withdraw(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, reason = self.row_of(request, object_id, "withdraw"), form.cleaned_data["reason"]
        try:
            before = amending.withdraw(row, who(request), reason, timezone.now())
        except ValidationError as error:
            return refused(request, self.url_of(row), " ".join(error.messages))
        self.log_change(request, before, f"Withdrew version {row.version}: {reason}")
        return settled(request, self.url_of(before), f"Version {row.version} is withdrawn.")

    @confirmed(
        "Retire",
        "It ends without a next version: nothing is billed, and nothing insured, after that time.",
        submit="Retire it",
        permission="amend",
        icon="event_busy",
        variant=ActionVariant.DANGER,
        form_class=RetireForm,
        dangerous=True,
    )
    def retire(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, asked = self.row_of(request, object_id, "retire"), form.cleaned_data
        try:
            amending.retire(row, asked["ends_at"], who(request), asked["reason"], timezone.now())
        except ValidationError as error:
            return refused(request, self.url_of(row), " ".join(error.messages))
        self.log_change(request, row, f"Retired from {_at(asked['ends_at'])} on: {asked['reason']}")
        return settled(request, self.url_of(row), f"It ends {_at(asked['ends_at'])}.")


def _is_amendment(row: Contract) -> bool:
    return Contract.objects.filter(customer=row.customer_id, valid_until=row.valid_from).exists()


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


# --- a person's word on a storm -------------------------------------------------------------------------------------


class RulingForm(Form):
    is_covered = forms.TypedChoiceField(
        label="Does it pay?",
        choices=[("", "Choose"), ("yes", "Yes: the CDN’s fault"), ("no", "No: not covered")],
        coerce=lambda said: said == "yes",
        widget=UnfoldAdminSelectWidget,
    )
    reason = forms.CharField(max_length=500, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}))

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        storm = self.cleaned_data.get("storm")
        if storm is not None:
            self.instance.customer_id = storm.customer_id
            if self.cleaned_data.get("is_covered") and (storm.kind not in PAYING_KINDS or not storm.is_armed):
                self.add_error("storm", "It moved nothing by a policy, so no word makes it pay.")
        return self.cleaned_data


@admin.register(CoverRuling)
class CoverRulingAdmin(_Kept):
    form = RulingForm
    list_display = ["storm", "customer", "said", "reason", "ruled_by", "ruled_at"]
    list_select_related = ["storm__service", "customer"]
    list_filter = ["is_covered", ("customer", AutocompleteSelectFilter), ("ruled_at", RangeDateTimeFilter)]
    search_fields = ["storm__service__name", "customer__name", "reason"]
    autocomplete_fields = ["storm"]
    add_fieldsets = [
        (
            None,
            {
                "fields": ["storm", "is_covered", "reason"],
                "description": "Your word goes before the witnesses’, stands on the invoice, and is kept as it is. An "
                "invoice that was issued already is corrected by another document.",
            },
        )
    ]
    fields = ["storm", "said", "reason", ("ruled_by", "ruled_at")]
    readonly_fields = ["said"]
    empty_hint = "Witnesses decide whether a storm pays. Where they are silent or wrong, add a person’s word."

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        return f"Ruled: {form.cleaned_data['reason']}"

    @display(description="ruling", ordering="is_covered", label={"covered": "success", "not covered": "danger"})
    def said(self, ruling: CoverRuling) -> str:
        return _ruled(ruling)

    def save_model(self, request: HttpRequest, obj: CoverRuling, form: forms.ModelForm, change: bool) -> None:
        obj.ruled_by = who(request)
        super().save_model(request, obj, form, change)
        Event.record(
            "cover.ruled", obj.storm, f"{obj.storm} is {_ruled(obj)}, by a person's word: {obj.reason}",
            customer_id=obj.customer_id, is_covered=obj.is_covered, by=obj.ruled_by,
        )  # fmt: skip


def _ruled(ruling: CoverRuling) -> str:
    return "covered" if ruling.is_covered else "not covered"
