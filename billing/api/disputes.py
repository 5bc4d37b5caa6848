"""Objections to lines of invoices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django.utils import timezone
from django_filters.rest_framework import ChoiceFilter, FilterSet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.response import Response

from billing import disputes
from billing.models import Dispute, InvoiceLineItem
from billing.problems import InvoiceError
from customers.models import ApiKey
from customers.scoped import OwnRow, ReadViewSet, StrictSerializer, since, until
from tranche_site.floor.json_fields import Text
from tranche_site.floor.problems import Conflict

if TYPE_CHECKING:
    from rest_framework.request import Request


class DisputeSerializer(StrictSerializer):
    """An objection to one line, and what became of it. Accepted, it is settled by a credit note."""

    line = OwnRow(queryset=InvoiceLineItem.objects.all())
    invoice = serializers.IntegerField(source="line.invoice_id", read_only=True)
    reason = Text(max_length=2000)

    class Meta:
        model = Dispute
        fields = ["id", "line", "invoice", "state", "reason", "opened_at", "answer", "answered_at", "credit_note"]
        read_only_fields = ["state", "opened_at", "answer", "answered_at", "credit_note"]

    def create(self, validated_data: dict[str, Any]) -> Dispute:
        key = _key(self.context["request"])
        try:
            return disputes.open_on(validated_data["line"], validated_data["reason"], key, timezone.now())
        except InvoiceError as error:
            raise Conflict({"line": [str(error)]}, "not_disputable") from None


def _key(request: Request) -> str:
    return f"API key {cast('ApiKey', request.auth).prefix}"


class DisputeFilter(FilterSet):
    state = ChoiceFilter(choices=Dispute.State.choices)
    since, until = since("opened_at"), until("opened_at")


class DisputeViewSet(ReadViewSet, mixins.CreateModelMixin):
    """Objections to lines of issued invoices, newest first. A person of ours answers each."""

    queryset = Dispute.objects.select_related("line").defer("line__details")
    serializer_class = DisputeSerializer
    filterset_class = DisputeFilter
    newest_first = True

    @extend_schema(request=None, responses=DisputeSerializer)
    @action(detail=True, methods=["post"], filterset_class=None, pagination_class=None)
    def withdraw(self, request: Request, pk: str) -> Response:
        """Take it back, while it is open."""
        try:
            row = disputes.withdraw(self.get_object(), _key(request), timezone.now())
        except InvoiceError as error:
            raise Conflict(str(error), "answered") from None
        return Response(self.get_serializer(row).data)
