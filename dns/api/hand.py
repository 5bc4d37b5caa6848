"""A customer's own hand: pins and freezes. Those of our operators are shown beside them, and are theirs to end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from django.db import models
from django.utils import timezone
from django_filters.rest_framework import ChoiceFilter, FilterSet
from rest_framework import mixins, serializers

from customers.models import ApiKey
from customers.scoped import IdFilter, OwnRow, ReadViewSet, StrictSerializer
from dns.models import Freeze, Pin
from services.models import Service
from tranche_site.floor.json_fields import Text
from tranche_site.floor.problems import Conflict

LONGEST_PIN = timedelta(days=30)
IN_FORCE = ChoiceFilter(choices=[("in_force", "in force"), ("over", "over")], method="by_state")


class HandSerializer(StrictSerializer):
    made_by = serializers.SerializerMethodField(help_text="Only what the customer made is the customer's to end.")
    reason = Text(max_length=300)

    def get_made_by(self, row: Any) -> str:
        return "customer" if row.made_with_id else "operator"

    def create(self, validated_data: dict[str, Any]) -> Any:
        row = super().create(validated_data | {"made_with": cast("ApiKey", self.context["request"].auth)})
        row.tell()
        return row


class HandViewSet(ReadViewSet, mixins.CreateModelMixin, mixins.DestroyModelMixin):
    newest_first = True
    wants_if_match = False  # nobody edits it
    scopes = {"create": "steer", "destroy": "steer"}

    def perform_destroy(self, instance: Any) -> None:
        now = timezone.now()
        if not instance.is_in_force(now):
            return  # it is what was asked for
        if instance.made_with_id is None:
            raise Conflict("An operator of ours made this: ask us to end it.", "not_yours")
        instance.end(now)


class PinSerializer(HandSerializer):
    """Fixed weights of a service until `expires_at`, whatever the probes say. Traffic moved by a pin is never covered."""

    service = OwnRow(queryset=Service.objects.live())

    class Meta:
        model = Pin
        fields = ["id", "service", "backup_percent", "reason", "expires_at", "made_by", "created_at"]

    def validate_expires_at(self, at: datetime) -> datetime:
        now = timezone.now()
        if not now < at <= now + LONGEST_PIN:
            raise serializers.ValidationError(f"Choose a time to come, within {LONGEST_PIN.days} days.")
        return at


class PinFilter(FilterSet):
    service = IdFilter()
    state = IN_FORCE

    def by_state(self, queryset: models.QuerySet[Any], name: str, value: str) -> models.QuerySet[Any]:
        way = "gt" if value == "in_force" else "lte"
        return queryset.filter(**{f"expires_at__{way}": timezone.now()})


class PinViewSet(HandViewSet):
    """Pins, newest first. Deleting one ends it; it stays in the books."""

    queryset = Pin.objects.all()
    serializer_class = PinSerializer
    filterset_class = PinFilter


class FreezeSerializer(HandSerializer):
    """No automatic change of a service, or of the whole account where none is named, until it is deleted: storms then move
    nothing, and what moves nothing is not covered."""

    service = OwnRow(queryset=Service.objects.live(), allow_null=True, required=False)

    class Meta:
        model = Freeze
        fields = ["id", "service", "reason", "made_by", "created_at", "lifted_at"]
        read_only_fields = ["lifted_at"]


class FreezeFilter(FilterSet):
    service = IdFilter()
    state = IN_FORCE

    def by_state(self, queryset: models.QuerySet[Any], name: str, value: str) -> models.QuerySet[Any]:
        return queryset.filter(lifted_at__isnull=value == "in_force")


class FreezeViewSet(HandViewSet):
    """Freezes, newest first. Deleting one lifts it; it stays in the books."""

    queryset = Freeze.objects.all()
    serializer_class = FreezeSerializer
    filterset_class = FreezeFilter
