"""The terms that steering follows beyond storms."""

from __future__ import annotations

from django_filters.rest_framework import FilterSet
from rest_framework import mixins, serializers

from customers.scoped import IdFilter, OwnRow, ReadViewSet, StrictSerializer
from dns.models import SteeringTerms
from services import maintenance
from services.models import Service
from tranche_site.floor.json_fields import Text, WallTime
from tranche_site.floor.problems import Conflict


class SteeringTermsSerializer(StrictSerializer):
    """How a service comes home, spreads over its backups, keeps them warm and rehearses. One a service; without them, every
    default."""

    service = OwnRow(queryset=Service.objects.live())
    window_start = WallTime(
        allow_null=True, required=False,
        help_text="When failback and drills may begin, in `time_zone`; null: always.",
    )  # fmt: skip
    window_weekdays = serializers.ListField(
        child=serializers.ChoiceField(choices=[day.value for day in maintenance.WEEK]), required=False, max_length=7,
        help_text="Empty: every day.",
    )  # fmt: skip
    parity_paths = serializers.ListField(
        child=Text(max_length=500), required=False,
        help_text="Paths, five to 20, that must answer alike through every CDN; empty: ours.",
    )  # fmt: skip

    class Meta:
        model = SteeringTerms
        fields = [
            "id", "service", "failback", "spread", "standing_percent", "window_start", "window_seconds",
            "window_weekdays", "time_zone", "drill_every_days", "drill_percent", "drill_minutes", "parity_paths",
            "created_at",
        ]  # fmt: skip
        fixed = ("service",)

    def validate_service(self, service: Service) -> Service:
        if self.instance is None and SteeringTerms.objects.filter(service=service).exists():
            raise Conflict({"service": ["This service has its terms: change those."]}, "taken")
        return service


class SteeringTermsFilter(FilterSet):
    service = IdFilter()


class SteeringTermsViewSet(ReadViewSet, mixins.CreateModelMixin, mixins.UpdateModelMixin):
    """How services are steered beyond storms: failback, spread, standing share, drills."""

    queryset = SteeringTerms.objects.filter(service__deleted_at__isnull=True)
    serializer_class = SteeringTermsSerializer
    filterset_class = SteeringTermsFilter
