"""Where usage comes from, the terms it is rated by, and the invoices. What was measured or billed is for reading only."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import path, reverse
from django.utils.html import format_html

from billing import invoicing, sheet
from billing.models import (
    Contract,
    Invoice,
    InvoiceCounter,
    InvoiceLineItem,
    LogObject,
    RateCard,
    UnknownHostUsage,
    UsageBucket,
    UsageSnapshot,
    UsageSource,
)
from billing.money import format_minor
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    Form,
    InfinitePaginator,
    ModelAdmin,
    RangeDateTimeFilter,
    ReadOnly,
    ReadOnlyInline,
    action,
    confirmed,
    data_size,
    display,
    percent,
    refused,
    settled,
    two_lines,
    when,
)

if TYPE_CHECKING:
    from django import forms
    from django.urls import URLPattern

INVOICE_COLOURS = {"draft": "info", "open": "warning", "paid": "success", "void": "", "uncollectible": "danger"}
OBJECT_COLOURS = {"counted": "success", "retry": "warning", "quarantined": "danger", "replaced": ""}
LINE_COLOURS = {"usage": "info", "storm cover": "success"}


class _Bytes:
    """The column of every page that counts traffic."""

    @display(description="traffic", ordering="bytes")
    def size(self, row: Any) -> str:
        return format_html('<span title="{} bytes">{}</span>', f"{row.bytes:,}", data_size(row.bytes))


# --- usage ----------------------------------------------------------------------------------------------------------


@admin.register(UsageSource)
class UsageSourceAdmin(ModelAdmin):
    list_display = ["name", "customer", "cdn", "format", "location", "enabled", "listed_at", "last_error"]
    list_select_related = ["customer", "cdn"]
    list_filter = ["enabled", "kind", "format", "cdn", ("customer", AutocompleteSelectFilter)]
    search_fields = ["name", "location", "customer__name"]
    autocomplete_fields = ["customer", "cdn"]
    readonly_fields = ["listed_at", "last_error"]
    fieldsets = [
        (None, {"fields": ["name", ("customer", "cdn")]}),
        ("Where the logs are", {"fields": [("kind", "format"), "location", "endpoint_url", "enabled"]}),
        ("Last look", {"fields": [("listed_at", "last_error")]}),
    ]
    empty_hint = "Add the place where a CDN leaves its logs; usage and invoices follow from them."


@admin.register(LogObject)
class LogObjectAdmin(ReadOnly):
    list_display = ["name", "state_label", "rows", "bad_rows", "size", "reason", "processed_at"]
    list_select_related = ["source"]
    list_filter = ["state", "source", ("processed_at", RangeDateTimeFilter)]
    search_fields = ["key", "reason"]
    paginator = InfinitePaginator
    empty_hint = "Log files appear here once a usage source has been looked at."

    @display(description="file", ordering="key")
    def name(self, row: LogObject) -> str:
        return two_lines(row.key, row.source)

    @display(description="state", ordering="state", label=OBJECT_COLOURS)
    def state_label(self, row: LogObject) -> str:
        return row.state

    @display(description="size", ordering="size_bytes")
    def size(self, row: LogObject) -> str:
        return data_size(row.size_bytes)


@admin.register(UsageSnapshot)
class UsageSnapshotAdmin(_Bytes, ReadOnly):
    list_display = ["hour", "service", "target", "size", "requests", "grade", "updated_at"]
    list_select_related = ["service", "target__domain", "target__cdn"]
    list_filter = [
        ("service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
        "target__role",
        "grade",
        ("window_start", RangeDateTimeFilter),
    ]
    search_fields = ["service__name", "customer__name", "target__domain__hostname"]
    paginator = InfinitePaginator
    empty_hint = "Hours of usage appear here once logs have been read: add a usage source."

    @display(description="hour (UTC)", ordering="window_start")
    def hour(self, row: UsageSnapshot) -> str:
        return f"{row.window_start:%Y-%m-%d %H:%M}–{row.window_end:%H:%M}"


@admin.register(UsageBucket)
class UsageBucketAdmin(_Bytes, ReadOnly):
    list_display = [when("minute_at"), "service", "target", "size", "requests", "grade", "log_object"]
    list_select_related = ["service", "target__domain", "target__cdn", "log_object"]
    list_filter = [("service", AutocompleteSelectFilter), ("minute_at", RangeDateTimeFilter)]
    ordering = ["-id"]
    paginator = InfinitePaginator
    empty_hint = "Minutes of usage appear here once logs have been read: add a usage source."


@admin.register(UnknownHostUsage)
class UnknownHostUsageAdmin(_Bytes, ReadOnly):
    list_display = ["host", "minute_at", "size", "requests", "reason", "log_object"]
    list_select_related = ["log_object"]
    list_filter = [("minute_at", RangeDateTimeFilter)]
    search_fields = ["host"]
    paginator = InfinitePaginator
    empty_hint = "Every host in the logs belongs to a verified domain."


# --- terms ----------------------------------------------------------------------------------------------------------


def _check_tiers(tiers: Any) -> None:
    """Tiers rise and end with an open one; amounts are strings, so that no float rounds them."""
    if not isinstance(tiers, list) or not tiers or not all(isinstance(tier, dict) for tier in tiers):
        raise ValidationError("Give a list of tiers, each {“up_to”: …, “per_unit”: …}.")
    floor = Decimal(0)
    for place, tier in enumerate(tiers, start=1):
        if set(tier) != {"up_to", "per_unit"}:
            raise ValidationError(f"Tier {place}: name “up_to” and “per_unit”, and nothing else.")
        if _amount(tier["per_unit"]) is None:
            raise ValidationError(f'Tier {place}: “per_unit” is a number in quotes, not below 0, such as "0.12".')
        if place == len(tiers):
            if tier["up_to"] is not None:
                raise ValidationError("The last tier is open: its “up_to” is null.")
            return
        limit = _amount(tier["up_to"])
        if limit is None or limit <= floor:
            raise ValidationError(f"Tier {place}: “up_to” is a number in quotes above the tier before it.")
        floor = limit


def _amount(text: Any) -> Decimal | None:
    try:
        amount = Decimal(text) if isinstance(text, str) else None
    except InvalidOperation:
        return None
    return amount if amount is not None and amount.is_finite() and amount >= 0 else None


class RateCardForm(Form):
    def clean_primary_tiers(self) -> Any:
        _check_tiers(self.cleaned_data["primary_tiers"])
        return self.cleaned_data["primary_tiers"]

    def clean_backup_tiers(self) -> Any:
        _check_tiers(self.cleaned_data["backup_tiers"])
        return self.cleaned_data["backup_tiers"]


class _Versioned(ModelAdmin):
    """Invoices name the version of the terms that they were rated by."""

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool) -> None:
        if change and form.changed_data:
            obj.version += 1
        super().save_model(request, obj, form, change)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(RateCard)
class RateCardAdmin(_Versioned):
    form = RateCardForm
    list_display = ["name", "currency", "unit", "tier_mode", "first_price", "version"]
    list_filter = ["currency", "unit"]
    search_fields = ["name"]
    readonly_fields = ["version"]
    fieldsets = [
        (None, {"fields": ["name", ("currency", "unit"), ("tier_mode", "version")]}),
        ("Prices", {"fields": ["primary_tiers", "backup_tiers"]}),
    ]
    empty_hint = "Add the prices of primary and backup traffic; contracts name a rate card."

    @display(description="first tier, primary / backup")
    def first_price(self, card: RateCard) -> str:
        return " / ".join(tiers[0]["per_unit"] if tiers else "-" for tiers in (card.primary_tiers, card.backup_tiers))


@admin.register(Contract)
class ContractAdmin(_Versioned):
    list_display = ["customer", "rate_card", "valid_from", "valid_until", "discount", "factor", "version"]
    list_select_related = ["customer", "rate_card"]
    list_filter = [("customer", AutocompleteSelectFilter), ("rate_card", AutocompleteSelectFilter)]
    search_fields = ["customer__name", "rate_card__name"]
    autocomplete_fields = ["customer", "rate_card"]
    fixed_fields = ("customer",)
    readonly_fields = ["version"]
    fieldsets = [
        (None, {"fields": ["customer", "rate_card", ("valid_from", "valid_until")]}),
        (
            "Cover",
            {
                "fields": [
                    ("discount_rate", "max_coverage_factor"), "coverage_mode", ("waiting_seconds", "merge_gap_seconds"),
                ],
                "description": "What a storm pays. The customer’s policy can lower the factor, never raise it.",
            },
        ),
        ("Invoicing", {"fields": [("grace_hours", "version")]}),
    ]  # fmt: skip
    empty_hint = (
        "Without a contract nothing is invoiced. It says which prices and cover a customer has, and since when."
    )

    @display(description="discount", ordering="discount_rate")
    def discount(self, contract: Contract) -> str:
        return percent(float(contract.discount_rate))

    @display(description="factor", ordering="max_coverage_factor")
    def factor(self, contract: Contract) -> str:
        return f"{contract.max_coverage_factor:f}"


# --- invoices -------------------------------------------------------------------------------------------------------


class LineInline(_Bytes, ReadOnlyInline):
    model = InvoiceLineItem
    fields = ["position", "kind", "service", "path", "description", "size", "amount"]
    readonly_fields = ["size", "amount"]
    verbose_name_plural = "lines"

    @display(description="amount")
    def amount(self, line: InvoiceLineItem) -> str:
        return _line_amount(line, line.invoice.currency)


def _line_amount(line: InvoiceLineItem, currency: str) -> str:
    sign = -1 if line.kind == InvoiceLineItem.Kind.COVER else 1
    return f"{format_minor(sign * line.amount_minor, currency)} {currency}"


@admin.register(Invoice)
class InvoiceAdmin(ReadOnly):
    list_display = ["name", "customer", "month", "state_label", "subtotal", "discount", "total", "finalized_at"]
    list_select_related = ["customer"]
    list_filter = [
        "state",
        "kind",
        "currency",
        ("customer", AutocompleteSelectFilter),
        ("period_start", RangeDateTimeFilter),
    ]
    search_fields = ["number", "customer__name"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("customer", "contract"), ("number", "kind"), ("state_label", "currency"),
                    ("period_start", "period_end"), ("subtotal", "discount"),
                    "total",
                ],
            },
        ),
        ("How it was made", {"fields": [("as_of", "formula"), ("created_at", "finalized_at"), "inputs"]}),
    ]  # fmt: skip
    inlines = [LineInline]
    actions_detail = ["open_document", "finalize"]
    empty_hint = "Drafts are made every month, or by `manage.py invoice --period YYYY-MM --apply`."

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.document_view)
        return [
            path("<int:invoice_id>/document/", view, name="billing_invoice_document"),
            *super().get_urls(),
        ]

    @display(description="invoice", ordering="number")
    def name(self, invoice: Invoice) -> str:
        return str(invoice)

    @display(description="period (UTC)", ordering="period_start")
    def month(self, invoice: Invoice) -> str:
        start, end = invoice.period_start, invoice.period_end
        is_month = start.day == end.day == 1 and (end - start).days < 32
        return f"{start:%Y-%m}" if is_month else f"{start:%Y-%m-%d} to {end:%Y-%m-%d}"

    @display(description="state", ordering="state", label=INVOICE_COLOURS)
    def state_label(self, invoice: Invoice) -> str:
        return invoice.state

    @display(description="subtotal", ordering="subtotal_minor")
    def subtotal(self, invoice: Invoice) -> str:
        return f"{format_minor(invoice.subtotal_minor, invoice.currency)} {invoice.currency}"

    @display(description="storm cover", ordering="discount_minor")
    def discount(self, invoice: Invoice) -> str:
        return f"{format_minor(-invoice.discount_minor, invoice.currency)} {invoice.currency}"

    @display(description="total", ordering="total_minor")
    def total(self, invoice: Invoice) -> str:
        return f"{format_minor(invoice.total_minor, invoice.currency)} {invoice.currency}"

    def document_view(self, request: HttpRequest, invoice_id: int) -> HttpResponse:
        invoice = self.get_object(request, str(invoice_id))
        if invoice is None or not self.has_view_permission(request, invoice):
            raise Http404
        context = {"sheet": sheet.of(invoice), "page_url": self.url_of(invoice)}
        return render(request, "billing/invoice.html", context)

    @action(description="Document", url_path="open-document", permissions=["view"], icon="description")
    def open_document(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return redirect(reverse("admin:billing_invoice_document", args=[object_id]))

    def has_finalize_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("billing.change_invoice")

    def offers(self, action_name: str, row: Invoice) -> bool:
        return action_name != "finalize" or row.state == Invoice.State.DRAFT

    @confirmed(
        "Finalize",
        "It gets its number and never changes again: the database refuses. A correction is another document.",
        submit="Finalize",
        permission="finalize",
        icon="lock",
        variant=ActionVariant.PRIMARY,
    )
    def finalize(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        invoice = self.row_of(request, object_id, "finalize")
        try:
            invoice = invoicing.finalize(invoice)
        except invoicing.InvoiceError as error:
            return refused(request, self.url_of(invoice), f"Not finalized: {error}.")
        self.log_change(request, invoice, f"Finalized as {invoice.number}.")
        return settled(request, self.url_of(invoice), f"Invoice {invoice} is finalized.")


@admin.register(InvoiceLineItem)
class InvoiceLineItemAdmin(_Bytes, ReadOnly):
    list_display = ["description", "invoice", "position", "kind_label", "service", "path", "size", "amount"]
    list_select_related = ["invoice", "service"]
    list_filter = ["kind", "path", ("customer", AutocompleteSelectFilter), ("service", AutocompleteSelectFilter)]
    search_fields = ["description", "invoice__number", "service__name"]
    paginator = InfinitePaginator
    empty_hint = "Lines are made with their invoice."

    @display(description="kind", ordering="kind", label=LINE_COLOURS)
    def kind_label(self, line: InvoiceLineItem) -> str:
        return str(line.get_kind_display())

    @display(description="amount", ordering="amount_minor")
    def amount(self, line: InvoiceLineItem) -> str:
        return _line_amount(line, line.invoice.currency)


@admin.register(InvoiceCounter)
class InvoiceCounterAdmin(ReadOnly):
    list_display = ["series", "last_number"]
    empty_hint = "A series begins with its first finalized invoice."
