"""Invoices and credit notes: to read, to issue, to correct, and to note what was paid."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminSingleDateWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from billing import credits, invoicing, packs, payments
from billing.admin.shown import minor, money, who
from billing.admin.usage import Bytes
from billing.documents import annex, csv, pdf, sheet
from billing.models import Invoice, InvoiceCounter, InvoiceLineItem, Payment
from billing.money import exponent
from billing.problems import InvoiceError
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    BaseDialogForm,
    InfinitePaginator,
    RangeDateTimeFilter,
    ReadOnly,
    ReadOnlyInline,
    ReasonForm,
    action,
    confirmed,
    display,
    moment,
    refused,
    settled,
    two_lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.urls import URLPattern

INVOICE_COLOURS = {"draft": "info", "open": "warning", "paid": "success", "void": "", "uncollectible": "danger"}
LINE_COLOURS = {
    "usage": "info",
    "requests": "info",
    "storm cover": "success",
    "credit": "success",
    "correction": "warning",
}
HEAVY = ("inputs", "extras", "decisions")
"""Documents of up to megabytes, which no list reads."""
State = Invoice.State


class LineInline(Bytes, ReadOnlyInline):
    model = InvoiceLineItem
    fields = ["position", "kind", "service", "path", "cdn", "description", "size", "amount"]
    readonly_fields = ["size", "amount"]
    verbose_name_plural = "lines"

    def get_queryset(self, request: HttpRequest) -> QuerySet[InvoiceLineItem]:
        found: QuerySet[InvoiceLineItem] = super().get_queryset(request)
        return found.select_related("service").defer("details")

    @display(description="amount")
    def amount(self, line: InvoiceLineItem) -> str:
        return line_amount(line, line.invoice.currency)


class PaymentInline(ReadOnlyInline):
    model = Payment
    fields = ["reference", "sum", "received_at", "recorded_by"]
    readonly_fields = ["sum"]
    verbose_name_plural = "payments"

    @display(description="amount")
    def sum(self, payment: Payment) -> str:
        return money(payment.amount_minor, payment.invoice.currency)


class CreditNoteInline(ReadOnlyInline):
    model = Invoice
    fk_name = "corrects"
    fields = ["number", "state", "reason", "state_reason", "sum", "finalized_at"]
    readonly_fields = ["sum"]
    verbose_name_plural = "credit notes"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Invoice]:
        found: QuerySet[Invoice] = super().get_queryset(request)
        return found.defer(*HEAVY)

    @display(description="total")
    def sum(self, note: Invoice) -> str:
        return money(-note.total_minor, note.currency)


def line_amount(line: InvoiceLineItem, currency: str) -> str:
    taken = line.kind in (InvoiceLineItem.Kind.COVER, InvoiceLineItem.Kind.CREDIT)
    return money(-line.amount_minor if taken else line.amount_minor, currency)


class DueFilter(admin.SimpleListFilter):
    title = "payment"
    parameter_name = "payment"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("due", "due"), ("overdue", "overdue"), ("late usage", "usage changed after it was issued")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Invoice]) -> QuerySet[Invoice]:
        if self.value() == "late usage":
            return queryset.filter(stale_at__isnull=False)
        due = queryset.filter(
            kind=Invoice.Kind.INVOICE, state=State.OPEN, total_minor__gt=F("paid_minor") + F("credited_minor")
        )
        if self.value() == "overdue":
            return due.filter(due_at__lte=timezone.now())
        return due if self.value() == "due" else queryset


# --- what people write into the dialogs -----------------------------------------------------------------------------


class InvoiceForm(BaseDialogForm):
    """A form about one invoice, whose amounts are in its currency."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.invoice = Invoice.objects.defer(*HEAVY).filter(pk=self.object_id).first()

    def clean_amount(self) -> int:
        return minor(self.cleaned_data["amount"], self.invoice.currency if self.invoice else "USD")


def amount_field(**kw: Any) -> forms.DecimalField:
    return forms.DecimalField(
        min_value=Decimal(0), max_digits=20, decimal_places=3, widget=UnfoldAdminDecimalFieldWidget, **kw
    )


class PaymentForm(InvoiceForm, ReasonForm):
    amount = amount_field(help_text="What came in, in the invoice's currency.")
    reference = forms.CharField(
        max_length=payments.REFERENCE_LENGTH, widget=UnfoldAdminTextInputWidget,
        help_text="The bank's or the payment provider's. The same twice counts once.",
    )  # fmt: skip
    received_on = forms.DateField(label="Received on (UTC)", widget=UnfoldAdminSingleDateWidget)
    field_order = ("amount", "reference", "received_on", "reason")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["received_on"].initial = timezone.now().date
        if self.invoice:
            self.fields["amount"].initial = Decimal(self.invoice.due_minor).scaleb(-exponent(self.invoice.currency))


class CreditForm(InvoiceForm):
    line = forms.ModelChoiceField(InvoiceLineItem.objects.none(), widget=UnfoldAdminSelectWidget)
    amount = amount_field(help_text="Without tax, which is given back by the rate of the line.")
    reason = forms.ChoiceField(
        choices=[(r.value, r.label.capitalize()) for r in (Invoice.Reason.BILLING_ERROR, Invoice.Reason.GOODWILL)],
        widget=UnfoldAdminSelectWidget,
    )
    text = forms.CharField(
        max_length=200, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}), help_text="Stands on the credit note."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field: Any = self.fields["line"]
        charges = InvoiceLineItem.objects.filter(invoice=self.object_id).exclude(kind=InvoiceLineItem.Kind.COVER)
        field.queryset = charges.defer("details").order_by("position")
        field.label_from_instance = self._label

    def _label(self, line: InvoiceLineItem) -> str:
        return (
            f"{line.position}. {line.description} ({line_amount(line, self.invoice.currency if self.invoice else '')})"
        )


# --- the pages ------------------------------------------------------------------------------------------------------


@admin.register(Invoice)
class InvoiceAdmin(ReadOnly):
    list_display = ["name", "customer", "month", "state_label", "subtotal", "discount", "total", "due", "finalized_at"]
    list_select_related = ["customer"]
    list_filter = [
        DueFilter,
        "state",
        "kind",
        "reason",
        "currency",
        ("customer", AutocompleteSelectFilter),
        ("period_start", RangeDateTimeFilter),
        ("due_at", RangeDateTimeFilter),
    ]
    search_fields = ["number", "customer__name"]
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("customer", "contract"), ("number", "kind_label"), ("state_label", "state_reason"),
                    ("problem", "documents"),
                    ("period_start", "period_end"), ("time_zone", "prices"), ("corrects", "reason"),
                ],
            },
        ),
        ("Sums", {"fields": [("subtotal", "discount"), ("tax", "total"), ("paid", "credited"), ("due", "due_at")]}),
        (
            "How it was made",
            {
                "fields": [
                    ("as_of", "formula"), ("created_at", "finalized_at"), ("settled_at", "stale_at"), "digest",
                ],
            },
        ),
    ]  # fmt: skip
    inlines = [LineInline, CreditNoteInline, PaymentInline]
    actions_detail = ["finalize", "approve", "pay", "credit", "void", "give_up"]
    empty_hint = "Drafts are made every month, or by `manage.py invoice --period YYYY-MM --apply`."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Invoice]:
        found: QuerySet[Invoice] = super().get_queryset(request)
        return found.defer(*HEAVY)

    def get_urls(self) -> list[URLPattern]:
        views = {
            "document": self.document_view, "annex": self.annex_view, "pdf": self.pdf_view, "csv": self.csv_view,
            "inputs": self.inputs_view,
        }  # fmt: skip
        return [
            *(
                path(f"<int:invoice_id>/{name}/", self.admin_site.admin_view(view), name=f"billing_invoice_{name}")
                for name, view in views.items()
            ),
            *super().get_urls(),
        ]

    @display(description="invoice", ordering="number")
    def name(self, invoice: Invoice) -> str:
        return two_lines(invoice, self.kind_label(invoice)) if invoice.kind != Invoice.Kind.INVOICE else str(invoice)

    @display(description="kind", ordering="kind")
    def kind_label(self, invoice: Invoice) -> str:
        return str(invoice.get_kind_display())

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
        return money(invoice.subtotal_minor, invoice.currency)

    @display(description="storm cover", ordering="discount_minor")
    def discount(self, invoice: Invoice) -> str:
        return money(-invoice.discount_minor, invoice.currency)

    @display(description="tax", ordering="tax_minor")
    def tax(self, invoice: Invoice) -> str:
        return money(invoice.tax_minor, invoice.currency)

    @display(description="total", ordering="total_minor")
    def total(self, invoice: Invoice) -> str:
        is_note = invoice.kind == Invoice.Kind.CREDIT_NOTE
        return money(-invoice.total_minor if is_note else invoice.total_minor, invoice.currency)

    @display(description="paid", ordering="paid_minor")
    def paid(self, invoice: Invoice) -> str:
        return money(invoice.paid_minor, invoice.currency)

    @display(description="credited", ordering="credited_minor")
    def credited(self, invoice: Invoice) -> str:
        return money(invoice.credited_minor, invoice.currency)

    @display(description="due", ordering="due_at")
    def due(self, invoice: Invoice) -> str:
        if invoice.state == State.DRAFT or not invoice.due_minor:
            return "-"
        said = money(invoice.due_minor, invoice.currency)
        if invoice.due_at is None:
            return said
        late = " tr-late" if invoice.due_at <= timezone.now() else ""
        return format_html(
            '<div>{}<span class="tr-below{}">{} {}</span></div>', said, late, "since" if late else "until",
            moment(invoice.due_at),
        )  # fmt: skip

    # --- documents ---

    def document_view(self, request: HttpRequest, invoice_id: int) -> HttpResponse:
        invoice = self._document_of(request, str(invoice_id))
        context = {"sheet": sheet.of(invoice), "page_url": self.url_of(invoice)}
        return render(request, "billing/invoice.html", context)

    def _document_of(self, request: HttpRequest, object_id: str) -> Invoice:
        invoice = self.get_object(request, object_id)
        if invoice is None or not self.has_view_permission(request, invoice):
            raise Http404
        return invoice

    def annex_view(self, request: HttpRequest, invoice_id: int) -> HttpResponse:
        """Its storms in pictures, as they are kept now."""
        invoice = self._document_of(request, str(invoice_id))
        found = annex.of(invoice, timezone.now(), of_ours=True)
        return render(request, "billing/annex.html", {"annex": found, "page_url": self.url_of(invoice)})

    def pdf_view(self, request: HttpRequest, invoice_id: int) -> HttpResponse:
        invoice = self._document_of(request, str(invoice_id))
        return _download(pdf.render(sheet.of(invoice)), "application/pdf", f"{_file_name(invoice)}.pdf")

    def csv_view(self, request: HttpRequest, invoice_id: int) -> HttpResponse:
        invoice = self._document_of(request, str(invoice_id))
        return _download(csv.render(sheet.of(invoice)).encode(), "text/csv", f"{_file_name(invoice)}.csv")

    def inputs_view(self, request: HttpRequest, invoice_id: int) -> HttpResponse:
        """The document that was rated: `manage.py rate` gives the same lines of usage and cover."""
        invoice = self._document_of(request, str(invoice_id))
        inputs = json.dumps(invoice.inputs, indent=2, ensure_ascii=False).encode()
        return _download(inputs, "application/json", f"{_file_name(invoice)}-inputs.json")

    @display(description="documents")
    def documents(self, invoice: Invoice) -> str:
        names = [
            ("document", "HTML"),
            ("annex", "its storms in pictures"),
            ("pdf", "PDF"),
            ("csv", "CSV"),
            ("inputs", "what was rated (JSON)"),
        ]
        links = ((reverse(f"admin:billing_invoice_{name}", args=[invoice.pk]), said) for name, said in names)
        return format_html_join(", ", '<a class="text-link" href="{}">{}</a>', links)

    @display(description="its SHA-256")
    def digest(self, invoice: Invoice) -> str:
        """Of all that it says, in canonical JSON; credit notes have none."""
        return format_html('<code class="tr-copy">{}</code>', invoice.sha256) if invoice.sha256 else "-"

    # --- what people decide ---

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("billing.change_invoice")

    def has_pay_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("billing.add_payment")

    def offers(self, action_name: str, row: Invoice) -> bool:
        is_invoice = row.kind == Invoice.Kind.INVOICE
        issued = row.state in (State.OPEN, State.PAID, State.UNCOLLECTIBLE)
        return {
            "finalize": row.state == State.DRAFT and not row.problem,
            "approve": row.state == State.DRAFT and bool(row.problem),
            "void": row.state == State.OPEN,
            "give_up": is_invoice and row.state == State.OPEN,
            "credit": is_invoice and issued,
            "pay": is_invoice and row.state in (State.OPEN, State.UNCOLLECTIBLE),
        }.get(action_name, True)

    def _do(
        self, request: HttpRequest, row: Invoice, what: Callable[[], Any], failed: str, said: Callable[[Any], str]
    ) -> HttpResponse:
        """Act, note it in the audit log, and say what became of it."""
        try:
            result = what()
        except InvoiceError as error:
            return refused(request, self.url_of(row), f"{failed}: {error}.")
        message = said(result)
        self.log_change(request, row, message)
        return settled(request, self.url_of(row), message)

    @confirmed(
        "Finalize",
        "It gets its number and never changes again: the database refuses. A correction is another document.",
        submit="Finalize",
        permission="decide",
        icon="lock",
        variant=ActionVariant.PRIMARY,
        dangerous=True,
    )
    def finalize(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, reason = self.row_of(request, object_id, "finalize"), form.cleaned_data["reason"]
        return self._do(
            request, row, lambda: invoicing.finalize(row), "Not finalized",
            lambda done: f"Finalized as {done.number}: {reason}",
        )  # fmt: skip

    @confirmed(
        "Approve and finalize",
        "Something speaks against issuing it as it stands: see “Problem” on its page. Your name and reason are kept with "
        "it. It gets its number and never changes again.",
        submit="Approve and finalize",
        permission="decide",
        icon="approval",
        variant=ActionVariant.DANGER,
        dangerous=True,
    )
    def approve(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, reason = self.row_of(request, object_id, "approve"), form.cleaned_data["reason"]
        return self._do(
            request, row, lambda: invoicing.finalize(row, approved_by=who(request)), "Not finalized",
            lambda done: f"Approved and finalized as {done.number}, although {row.problem}: {reason}",
        )  # fmt: skip

    @confirmed(
        "Void",
        "It is taken back as if it had never been; its number stays. Its usage is billed again with the next drafts.",
        submit="Void it",
        permission="decide",
        icon="block",
        variant=ActionVariant.DANGER,
        dangerous=True,
    )
    def void(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, reason = self.row_of(request, object_id, "void"), form.cleaned_data["reason"]
        return self._do(
            request, row, lambda: invoicing.void(row, reason, who(request), timezone.now()), "Not voided",
            lambda done: f"{done} is void: {reason}",
        )  # fmt: skip

    @confirmed(
        "Give up",
        "It stays as it is, and nobody is asked to pay it any more. A payment opens it again.",
        submit="Give it up",
        permission="decide",
        icon="money_off",
        variant=ActionVariant.DANGER,
        dangerous=True,
    )
    def give_up(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, reason = self.row_of(request, object_id, "give_up"), form.cleaned_data["reason"]
        return self._do(
            request, row, lambda: invoicing.give_up(row, reason, who(request), timezone.now()), "Not given up",
            lambda done: f"{done} is uncollectible: {reason}",
        )  # fmt: skip

    @confirmed(
        "Credit a line",
        "A credit note is issued at once, with a number of its own. It never changes again either.",
        submit="Issue credit note",
        permission="decide",
        icon="undo",
        form_class=CreditForm,
        dangerous=True,
    )
    def credit(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, asked = self.row_of(request, object_id, "credit"), form.cleaned_data
        return self._do(
            request, row,
            lambda: credits.credit_line(
                asked["line"], asked["amount"], asked["reason"], asked["text"], who(request), timezone.now()
            ),
            "Nothing credited",
            lambda note: f"{note} credits {money(note.total_minor, note.currency)}: {asked['text']}",
        )  # fmt: skip

    @confirmed(
        "Record payment",
        "What is recorded stays. A part of what is due is fine; more than that is refused.",
        submit="Record",
        permission="pay",
        icon="payments",
        form_class=PaymentForm,
        dangerous=True,
    )
    def pay(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row, asked = self.row_of(request, object_id, "pay"), form.cleaned_data
        received_at = datetime.combine(
            asked["received_on"], datetime.min.time(), tzinfo=timezone.get_default_timezone()
        )
        return self._do(
            request, row,
            lambda: payments.record(row, asked["amount"], asked["reference"], received_at, who(request)),
            "Not recorded",
            lambda made: (
                f"Recorded {money(made.amount_minor, row.currency)}, reference {made.reference}: {asked['reason']}"
            ),
        )  # fmt: skip


def _file_name(invoice: Invoice) -> str:
    return invoice.number or f"draft-{invoice.pk}"


def _download(content: bytes, content_type: str, name: str) -> HttpResponse:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return HttpResponse(content, content_type=content_type, headers=headers)


@admin.register(InvoiceLineItem)
class InvoiceLineItemAdmin(Bytes, ReadOnly):
    list_display = ["description", "invoice", "position", "kind_label", "service", "path", "size", "amount"]
    list_select_related = ["invoice", "service"]
    list_filter = ["kind", "path", ("customer", AutocompleteSelectFilter), ("service", AutocompleteSelectFilter)]
    search_fields = ["description", "invoice__number", "service__name"]
    paginator = InfinitePaginator
    actions_detail = ["evidence"]
    empty_hint = "Lines are made with their invoice."

    def get_queryset(self, request: HttpRequest) -> QuerySet[InvoiceLineItem]:
        found: QuerySet[InvoiceLineItem] = super().get_queryset(request)
        return found.defer("details", *(f"invoice__{name}" for name in HEAVY))

    @display(description="kind", ordering="kind", label=LINE_COLOURS)
    def kind_label(self, line: InvoiceLineItem) -> str:
        return str(line.get_kind_display())

    @display(description="amount", ordering="amount_minor")
    def amount(self, line: InvoiceLineItem) -> str:
        return line_amount(line, line.invoice.currency)

    def offers(self, action_name: str, row: InvoiceLineItem) -> bool:
        return row.kind in (InvoiceLineItem.Kind.USAGE, InvoiceLineItem.Kind.COVER)

    @action(description="Evidence", url_path="evidence", permissions=["view"], icon="download")
    def evidence(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Everything that the amount follows from; `manage.py replay` recomputes it."""
        line = self.row_of(request, object_id, "evidence")
        pack = packs.dumps(packs.of_line(line)).encode()
        return _download(pack, "application/json", f"{_file_name(line.invoice)}-line-{line.position}.json")


@admin.register(InvoiceCounter)
class InvoiceCounterAdmin(ReadOnly):
    list_display = ["series", "last_number"]
    empty_hint = "A series begins with its first finalized invoice."
