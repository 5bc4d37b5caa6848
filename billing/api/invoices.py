"""Invoices and credit notes, as rows and as documents, with the evidence of each line; and what was paid for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.utils import timezone
from django_filters.rest_framework import ChoiceFilter, FilterSet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from billing import packs, payments
from billing.api.payments import PaymentSerializer, RecordSerializer
from billing.documents import annex, csv, pdf, sheet
from billing.models import Invoice, InvoiceLineItem, Payment
from billing.problems import InvoiceError
from customers.models import ApiKey
from customers.scoped import IdFilter, ReadViewSet, since, until
from tranche_site.floor.problems import Conflict

if TYPE_CHECKING:
    from rest_framework.request import Request

_LINE = OpenApiParameter("line", OpenApiTypes.INT, OpenApiParameter.PATH, description="The line's id.")


class LineSerializer(serializers.ModelSerializer[InvoiceLineItem]):
    details = serializers.DictField(help_text="How the amount follows.")

    class Meta:
        model = InvoiceLineItem
        fields = [
            "id", "position", "kind", "service", "path", "cdn", "description", "bytes", "amount_minor", "tax_category",
            "corrects", "details",
        ]  # fmt: skip


class TaxSerializer(serializers.Serializer[Any]):
    """One tax, on the sum of the lines of one category and rate."""

    category = serializers.CharField()
    rate = serializers.CharField(help_text="A share, exact: 0.19.")
    taxable_minor = serializers.IntegerField()
    tax_minor = serializers.IntegerField()


class InvoiceSerializer(serializers.ModelSerializer[Invoice]):
    """Amounts are in the currency's minor unit, such as cents. A draft can still change; anything else can't.

    total = subtotal − discount + tax. What a credit note's total gives back counts in `credited_minor` of its invoice.
    """

    lines = LineSerializer(many=True, read_only=True)
    taxes = TaxSerializer(many=True, read_only=True)
    due_minor = serializers.IntegerField(read_only=True, help_text="What is still to be paid.")
    decisions = serializers.JSONField(
        read_only=True, help_text="Which storms pay and which don't, from when to when, and why."
    )

    class Meta:
        model = Invoice
        fields = [
            "id", "number", "kind", "state", "corrects", "reason", "currency", "time_zone", "contract", "period_start",
            "period_end", "as_of", "subtotal_minor", "discount_minor", "tax_minor", "total_minor", "paid_minor",
            "credited_minor", "due_minor", "due_at", "formula", "taxes", "decisions", "sha256", "created_at",
            "finalized_at", "settled_at", "lines",
        ]  # fmt: skip


class InvoiceFilter(FilterSet):
    kind = ChoiceFilter(choices=Invoice.Kind.choices)
    state = ChoiceFilter(choices=Invoice.State.choices)
    corrects = IdFilter()
    since, until = since("period_start"), until("period_start")


class LinePackSerializer(serializers.Serializer[Any]):
    """Everything from which a line follows, and the hash of it."""

    type = serializers.CharField()
    format = serializers.IntegerField()
    sha256 = serializers.CharField()


# What may be asked for. The document itself goes out as it is, and refusals stay JSON.


class HtmlRenderer(JSONRenderer):
    media_type, format = "text/html", "html"


class PdfRenderer(JSONRenderer):
    media_type, format = "application/pdf", "pdf"


class CsvRenderer(JSONRenderer):
    media_type, format = "text/csv", "csv"


class InvoiceViewSet(ReadViewSet):
    """Invoices and credit notes with their lines, newest first; drafts, too."""

    queryset = Invoice.objects.defer("inputs", "extras").prefetch_related(
        Prefetch("lines", InvoiceLineItem.objects.order_by("position"))
    )
    serializer_class = InvoiceSerializer
    filterset_class = InvoiceFilter
    newest_first = True
    scopes = {"pay": "payments"}

    @extend_schema(responses={(200, "text/html"): OpenApiTypes.STR})
    @action(
        detail=True, url_path="document.html", url_name="document-html", filterset_class=None, pagination_class=None,
        renderer_classes=[HtmlRenderer, JSONRenderer],
    )  # fmt: skip
    def document_html(self, request: Request, pk: str) -> HttpResponse:
        """The invoice as a page, to read or print."""
        page = render_to_string("billing/invoice.html", {"sheet": sheet.of(self.get_object())})
        return HttpResponse(page)

    @extend_schema(responses={(200, "text/html"): OpenApiTypes.STR})
    @action(
        detail=True, url_path="annex.html", url_name="annex-html", filterset_class=None, pagination_class=None,
        renderer_classes=[HtmlRenderer, JSONRenderer],
    )  # fmt: skip
    def annex_html(self, request: Request, pk: str) -> HttpResponse:
        """A picture of every storm that its cover lines name, as a page. Drawn anew each time: no part of what was issued."""
        return HttpResponse(
            render_to_string("billing/annex.html", {"annex": annex.of(self.get_object(), timezone.now())})
        )

    @extend_schema(responses={(200, "application/pdf"): OpenApiTypes.BINARY})
    @action(
        detail=True, url_path="document.pdf", url_name="document-pdf", filterset_class=None, pagination_class=None,
        renderer_classes=[PdfRenderer, JSONRenderer],
    )  # fmt: skip
    def document_pdf(self, request: Request, pk: str) -> HttpResponse:
        """The invoice as PDF."""
        invoice = self.get_object()
        return _file(pdf.render(sheet.of(invoice)), "application/pdf", invoice, "pdf")

    @extend_schema(responses={(200, "text/csv"): OpenApiTypes.STR})
    @action(
        detail=True, url_path="document.csv", url_name="document-csv", filterset_class=None, pagination_class=None,
        renderer_classes=[CsvRenderer, JSONRenderer],
    )  # fmt: skip
    def document_csv(self, request: Request, pk: str) -> HttpResponse:
        """The invoice as CSV: columns as FOCUS names them, and ours with x_."""
        invoice = self.get_object()
        return _file(csv.render(sheet.of(invoice)).encode(), "text/csv; charset=utf-8", invoice, "csv")

    @extend_schema(responses=LinePackSerializer, parameters=[_LINE])
    @action(
        detail=True, url_path="lines/(?P<line>[0-9]{1,18})/evidence", url_name="line-evidence", filterset_class=None,
        pagination_class=None,
    )  # fmt: skip
    def line_evidence(self, request: Request, pk: str, line: str) -> HttpResponse:
        """Everything from which a line of usage or cover follows, as one document that `manage.py replay` recomputes."""
        row = get_object_or_404(InvoiceLineItem, invoice=self.get_object(), pk=line)
        try:
            pack = packs.of_line(row)
        except InvoiceError as error:
            raise Conflict(str(error), "no_evidence") from None
        return HttpResponse(packs.dumps(pack), content_type="application/json")

    @extend_schema(responses=PaymentSerializer(many=True))
    @action(detail=True, filterset_class=None, pagination_class=None)
    def payments(self, request: Request, pk: str) -> Response:
        """What was paid for it, the first one first."""
        rows = Payment.objects.filter(invoice=self.get_object()).select_related("invoice").order_by("pk")
        return Response(PaymentSerializer(rows, many=True).data)

    @extend_schema(request=RecordSerializer, responses={201: PaymentSerializer})
    @payments.mapping.post
    def pay(self, request: Request, pk: str) -> Response:
        """Record a payment: for our own bookkeeping, which has a scope of its own. The same again gives the first one."""
        invoice = self.get_object()  # first: of what is somebody else's, a body tells nothing
        asked = RecordSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        key = cast("ApiKey", request.auth)
        try:
            made = payments.record(invoice, **asked.validated_data, by=f"API key {key.prefix}")
        except InvoiceError as error:
            raise Conflict(str(error), "not_recorded") from None
        return Response(PaymentSerializer(made).data, status=status.HTTP_201_CREATED)


def _file(content: bytes, content_type: str, invoice: Invoice, ending: str) -> HttpResponse:
    name = f"{invoice.number or f'draft-{invoice.pk}'}.{ending}"
    return HttpResponse(
        content, content_type=content_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )  # fmt: skip
