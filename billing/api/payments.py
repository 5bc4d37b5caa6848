"""What came in."""

from __future__ import annotations

from django_filters.rest_framework import FilterSet
from rest_framework import serializers

from billing.models import Payment
from billing.payments import REFERENCE_LENGTH
from customers.scoped import IdFilter, ReadViewSet, Strict, since, until
from tranche_site.floor.json_fields import Integer, Text


class PaymentSerializer(serializers.ModelSerializer[Payment]):
    """What was paid for one invoice, in the minor unit of its currency."""

    currency = serializers.CharField(source="invoice.currency", read_only=True)

    class Meta:
        model = Payment
        fields = ["id", "invoice", "amount_minor", "currency", "reference", "received_at", "created_at"]


class RecordSerializer(Strict):
    """A payment to record. The same reference twice counts once."""

    amount_minor = Integer(min_value=1, max_value=2**53)
    reference = Text(max_length=REFERENCE_LENGTH)
    received_at = serializers.DateTimeField()


class PaymentFilter(FilterSet):
    invoice = IdFilter()
    since, until = since("received_at"), until("received_at")


class PaymentViewSet(ReadViewSet):
    """What was paid, newest first. Payments are recorded on their invoice."""

    queryset = Payment.objects.select_related("invoice").defer(
        "invoice__inputs", "invoice__extras", "invoice__decisions", "invoice__taxes"
    )
    serializer_class = PaymentSerializer
    filterset_class = PaymentFilter
    newest_first = True
