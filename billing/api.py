"""What was used, and what it costs."""

from __future__ import annotations

from django_filters.rest_framework import ChoiceFilter, FilterSet
from rest_framework import serializers

from billing.models import Invoice, InvoiceLineItem, UsageSnapshot
from tranche_site.floor.scoped import IdFilter, MomentFilter, ReadViewSet


class UsageSnapshotSerializer(serializers.ModelSerializer[UsageSnapshot]):
    role = serializers.CharField(source="target.role", help_text="Of the path: primary or backup.", read_only=True)

    class Meta:
        model = UsageSnapshot
        fields = [
            "id", "service", "target", "role", "window_start", "window_end", "bytes", "requests", "grade", "updated_at",
        ]  # fmt: skip


class UsageSnapshotFilter(FilterSet):
    """Windows that begin at `from` or later and end at `to` or earlier."""

    service = IdFilter()


# “from” is a word of Python's, so this filter can't be declared like the other.
UsageSnapshotFilter.base_filters["from"] = MomentFilter(field_name="window_start", lookup_expr="gte")
UsageSnapshotFilter.base_filters["to"] = MomentFilter(field_name="window_end", lookup_expr="lte")


class UsageSnapshotViewSet(ReadViewSet):
    """Bytes and requests by service, path and window, out of CDN logs; newest first."""

    queryset = UsageSnapshot.objects.select_related("target")
    serializer_class = UsageSnapshotSerializer
    filterset_class = UsageSnapshotFilter
    newest_first = True


class LineSerializer(serializers.ModelSerializer[InvoiceLineItem]):
    details = serializers.DictField(help_text="How the amount follows.")

    class Meta:
        model = InvoiceLineItem
        fields = ["position", "kind", "service", "path", "description", "bytes", "amount_minor", "details"]


class InvoiceSerializer(serializers.ModelSerializer[Invoice]):
    """Amounts are in the currency's minor unit, such as cents. A draft can still change; anything else can't."""

    lines = LineSerializer(many=True, read_only=True)

    class Meta:
        model = Invoice
        fields = [
            "id", "number", "kind", "state", "currency", "period_start", "period_end", "as_of", "subtotal_minor",
            "discount_minor", "total_minor", "formula", "created_at", "finalized_at", "lines",
        ]  # fmt: skip


class InvoiceFilter(FilterSet):
    kind = ChoiceFilter(choices=Invoice.Kind.choices)
    state = ChoiceFilter(choices=Invoice.State.choices)


class InvoiceViewSet(ReadViewSet):
    """Invoices with their lines, newest first; drafts, too."""

    queryset = Invoice.objects.prefetch_related("lines")
    serializer_class = InvoiceSerializer
    filterset_class = InvoiceFilter
    newest_first = True
