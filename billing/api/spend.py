"""What the month costs, and alerts on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.response import Response

from billing import spending
from billing.models import Contract, SpendAlert
from customers.scoped import ReadViewSet, Scoped, StrictSerializer, customer_of
from customers.views import ApiViewSet
from tranche_site.floor.json_fields import Integer
from tranche_site.floor.problems import Conflict

if TYPE_CHECKING:
    from rest_framework.request import Request

MOST_ALERTS = 20


class SumsSerializer(serializers.Serializer[Any]):
    """Minor units of the currency."""

    subtotal_minor = serializers.IntegerField()
    discount_minor = serializers.IntegerField()
    tax_minor = serializers.IntegerField()
    total_minor = serializers.IntegerField()


class LayerUsedSerializer(serializers.Serializer[Any]):
    """A tranche; amounts in major units, exact."""

    attachment = serializers.CharField()
    limit = serializers.CharField(allow_null=True)
    share = serializers.CharField()
    used = serializers.CharField()
    left = serializers.CharField(allow_null=True, help_text="Null: it has no end.")


class CoverUsedSerializer(serializers.Serializer[Any]):
    """Of the policy year [start, end)."""

    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    aggregate_seconds = serializers.IntegerField(allow_null=True, help_text="The most that is paid; null: no limit.")
    used_seconds = serializers.IntegerField()
    used_seconds_by_service = serializers.DictField(child=serializers.IntegerField())
    covered_cost = serializers.CharField(
        help_text="Of covered backup traffic in major units, before limits and shares."
    )
    layers = LayerUsedSerializer(many=True)


class EstimateSerializer(serializers.Serializer[Any]):
    """What a CDN's own statistics say (grade E4) beside what was metered in the same hours. It is never billed."""

    service = serializers.IntegerField(source="service_id")
    path = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # the metaclass takes it away
    metered_bytes = serializers.IntegerField()
    estimated_bytes = serializers.IntegerField()


class SpendSerializer(serializers.Serializer[Any]):
    """The current month as it stands now."""

    month = serializers.CharField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    as_of = serializers.DateTimeField()
    time_zone = serializers.CharField()
    currency = serializers.CharField()
    elapsed_share = serializers.FloatField(help_text="Of the month, 0 to 1.")
    so_far = SumsSerializer(help_text="Usage until now, and the fees of the whole month.")
    projected = SumsSerializer(
        allow_null=True, help_text="By the month's end, if traffic goes on and no storm comes. Null: too early to say."
    )
    cover = CoverUsedSerializer()
    estimates = EstimateSerializer(many=True)
    problem = serializers.CharField(allow_blank=True, help_text="What keeps usage from being billed; ask us.")


class SpendViewSet(Scoped, ApiViewSet):
    """What the month costs so far and by its end, and what is used of the year's cover. Empty without a contract."""

    queryset = Contract.objects.all()
    serializer_class = SpendSerializer
    pagination_class = None

    @extend_schema(responses=SpendSerializer(many=True))
    def list(self, request: Request) -> Response:
        return Response(SpendSerializer(spending.spend(customer_of(request), timezone.now()), many=True).data)


class SpendAlertSerializer(StrictSerializer):
    """An event `alert.triggered`, once a month, when the month's total passes an amount."""

    threshold_minor = Integer(
        min_value=1, max_value=2**53, help_text="In the minor unit of the contract's currency, such as cents."
    )

    class Meta:
        model = SpendAlert
        fields = ["id", "threshold_minor", "fired_for", "created_at"]
        read_only_fields = ["fired_for", "created_at"]

    def create(self, validated_data: dict[str, Any]) -> Any:
        if SpendAlert.objects.filter(customer=customer_of(self.context["request"])).count() >= MOST_ALERTS:
            raise Conflict(f"There are {MOST_ALERTS} alerts: take one away first.", "too_many")
        return super().create(validated_data)

    def update(self, instance: Any, validated_data: dict[str, Any]) -> Any:
        """Another amount is another alert: it may be told this month again."""
        if validated_data.get("threshold_minor", instance.threshold_minor) != instance.threshold_minor:
            validated_data = validated_data | {"fired_for": None}
        return super().update(instance, validated_data)


class SpendAlertViewSet(ReadViewSet, mixins.CreateModelMixin, mixins.UpdateModelMixin, mixins.DestroyModelMixin):
    """Alerts on the month's spend."""

    queryset = SpendAlert.objects.all()
    serializer_class = SpendAlertSerializer
