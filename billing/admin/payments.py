"""What came in, what is objected to, and at which amounts customers want to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.widgets import UnfoldAdminTextareaWidget

from billing import disputes
from billing.admin.invoices import HEAVY, amount_field, line_amount
from billing.admin.shown import minor, money, who
from billing.models import Dispute, Payment, SpendAlert
from billing.problems import InvoiceError
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    BaseDialogForm,
    RangeDateTimeFilter,
    ReadOnly,
    confirmed,
    display,
    refused,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

DISPUTE_COLOURS = {"open": "warning", "accepted": "success", "rejected": "danger", "withdrawn": ""}


@admin.register(Payment)
class PaymentAdmin(ReadOnly):
    list_display = ["reference", "invoice", "customer", "amount", "received_at", "recorded_by"]
    list_select_related = ["invoice", "customer"]
    list_filter = [("customer", AutocompleteSelectFilter), ("received_at", RangeDateTimeFilter)]
    search_fields = ["reference", "invoice__number", "customer__name"]
    fields = [("invoice", "customer"), ("amount", "reference"), ("received_at", "recorded_by"), "created_at"]
    empty_hint = "Payments are recorded on their invoice’s page: “Record payment”."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Payment]:
        found: QuerySet[Payment] = super().get_queryset(request)
        return found.defer(*(f"invoice__{name}" for name in HEAVY))

    @display(description="amount", ordering="amount_minor")
    def amount(self, payment: Payment) -> str:
        return money(payment.amount_minor, payment.invoice.currency)


class AnswerForm(BaseDialogForm):
    text = forms.CharField(
        label="Answer", max_length=2000, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="The customer reads it.",
    )  # fmt: skip


class AcceptForm(AnswerForm):
    amount = amount_field(help_text="Given back by a credit note, without tax, which follows by the line's rate.")
    field_order = ("amount", "text")

    def clean_amount(self) -> int:
        row = Dispute.objects.filter(pk=self.object_id).values_list("line__invoice__currency", flat=True).first()
        return minor(self.cleaned_data["amount"], row or "USD")


@admin.register(Dispute)
class DisputeAdmin(ReadOnly):
    list_display = ["name", "invoice", "customer", "state_label", "amount", "reason", "opened_at", "answered_at"]
    list_select_related = ["line__invoice", "customer"]
    list_filter = ["state", ("customer", AutocompleteSelectFilter), ("opened_at", RangeDateTimeFilter)]
    search_fields = ["line__invoice__number", "customer__name", "reason"]
    fieldsets = [
        (None, {"fields": [("line", "invoice"), ("amount", "customer"), "state_label", "reason", ("opened_by", "opened_at")]}),
        ("Answer", {"fields": ["answer", "credit_note", ("answered_by", "answered_at")]}),
    ]  # fmt: skip
    actions_detail = ["accept", "reject"]
    empty_hint = "Customers object to lines of their invoices through the API."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Dispute]:
        found: QuerySet[Dispute] = super().get_queryset(request)
        return found.defer("line__details", *(f"line__invoice__{name}" for name in HEAVY))

    @display(description="dispute", ordering="id")
    def name(self, row: Dispute) -> str:
        return f"dispute {row.pk}"

    @display(description="invoice", ordering="line__invoice__number")
    def invoice(self, row: Dispute) -> str:
        url = reverse("admin:billing_invoice_change", args=[row.line.invoice_id])
        return format_html('<a class="text-link" href="{}">{}</a>, line {}', url, row.line.invoice, row.line.position)

    @display(description="state", ordering="state", label=DISPUTE_COLOURS)
    def state_label(self, row: Dispute) -> str:
        return row.state

    @display(description="the line's amount", ordering="line__amount_minor")
    def amount(self, row: Dispute) -> str:
        return line_amount(row.line, row.line.invoice.currency)

    def has_answer_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("billing.change_dispute")

    def has_credit_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.has_answer_permission(request) and request.user.has_perm("billing.change_invoice")

    def offers(self, action_name: str, row: Dispute) -> bool:
        return row.state == Dispute.State.OPEN

    @confirmed(
        "Accept",
        "A credit note is issued at once; both stay for ever.",
        submit="Accept and credit",
        permission="credit",
        icon="check",
        variant=ActionVariant.SUCCESS,
        form_class=AcceptForm,
        dangerous=True,
    )
    def accept(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, asked = self.row_of(request, object_id, "accept"), form.cleaned_data
        return self._answer(
            request, row, lambda: disputes.accept(row, asked["amount"], asked["text"], who(request), timezone.now())
        )

    @confirmed(
        "Reject",
        "The line stands, and the customer is told why.",
        submit="Reject",
        permission="answer",
        icon="close",
        variant=ActionVariant.DANGER,
        form_class=AnswerForm,
    )
    def reject(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, text = self.row_of(request, object_id, "reject"), form.cleaned_data["text"]
        return self._answer(request, row, lambda: disputes.reject(row, text, who(request), timezone.now()))

    def _answer(self, request: HttpRequest, row: Dispute, what: Callable[[], Dispute]) -> HttpResponse:
        try:
            done = what()
        except InvoiceError as error:
            return refused(request, self.url_of(row), f"Not answered: {error}.")
        by_note = f" by {done.credit_note}" if done.credit_note else ""
        self.log_change(request, row, f"{done.get_state_display().capitalize()}{by_note}: {done.answer}")
        return settled(request, self.url_of(row), f"The dispute is {done.state}{by_note}.")


@admin.register(SpendAlert)
class SpendAlertAdmin(ReadOnly):
    list_display = ["customer", "threshold_minor", "fired_for", "created_at"]
    list_select_related = ["customer"]
    list_filter = [("customer", AutocompleteSelectFilter), ("fired_for", RangeDateTimeFilter)]
    search_fields = ["customer__name"]
    empty_hint = "Customers set alerts through the API, to be told when a month costs more than an amount."
