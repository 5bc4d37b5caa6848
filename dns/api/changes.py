"""Changes of weights."""

from __future__ import annotations

from typing import Any

from django_filters.rest_framework import ChoiceFilter, FilterSet
from rest_framework import serializers

from customers.scoped import IdFilter, ReadViewSet, since, until
from dns.models import WeightChange


class DrainPointSerializer(serializers.Serializer[Any]):
    """What resolvers answered, so long after every authoritative server had the change."""

    after_seconds = serializers.FloatField()
    answers = serializers.DictField(
        child=serializers.IntegerField(), help_text="Answers by id of the path that they led to, or “other”."
    )


class OwnError(serializers.ModelSerializer[WeightChange]):
    """What a vendor said about an account that customers share names others' zones and our roles: they get the word for it."""

    error = serializers.SerializerMethodField()

    def get_error(self, change: WeightChange) -> str:
        is_own = change.record_set.account.customer_id == change.customer_id
        return change.error if is_own or not change.error else change.trouble or "it is tried again"


class WeightChangeSerializer(OwnError):
    domain = serializers.IntegerField(source="record_set.domain_id", read_only=True)
    weights = serializers.DictField(child=serializers.IntegerField(), help_text="Percent by id of the path.")
    previous_weights = serializers.DictField(child=serializers.IntegerField(), help_text="Percent by id of the path.")
    drain = DrainPointSerializer(many=True, read_only=True)

    class Meta:
        model = WeightChange
        fields = [
            "id", "service", "domain", "storm", "region", "generation", "weights", "previous_weights", "is_urgent",
            "is_reversal", "state", "reason", "refusal", "held_reason", "trouble", "error", "attempts", "wanted_at",
            "submitted_at", "confirmed_at", "observed_at", "drain",
        ]  # fmt: skip


class WeightChangeFilter(FilterSet):
    service = IdFilter()
    state = ChoiceFilter(choices=WeightChange.State.choices)
    since, until = since("wanted_at"), until("wanted_at")


class WeightChangeViewSet(ReadViewSet):
    """Changes of weights, newest first."""

    queryset = WeightChange.objects.select_related("record_set__account")
    serializer_class = WeightChangeSerializer
    filterset_class = WeightChangeFilter
    newest_first = True
