"""Where traffic is sent: wanted weights, observed weights, and each change between them."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch
from django_filters.rest_framework import ChoiceFilter, FilterSet
from drf_spectacular.utils import extend_schema_field
from rest_framework import mixins, serializers

from dns.models import RecordSet, WeightChange
from services.models import Cdn, ServiceDomain, Target
from tranche_site.floor.scoped import ApiViewSet, IdFilter, ReadViewSet, Scoped

WEIGHTS = serializers.DictField(child=serializers.IntegerField(min_value=0, max_value=100), allow_null=True)


class WeightChangeSerializer(serializers.ModelSerializer[WeightChange]):
    domain = serializers.IntegerField(source="record_set.domain_id", read_only=True)
    weights = serializers.DictField(child=serializers.IntegerField(), help_text="Percent by id of the path.")
    previous_weights = serializers.DictField(child=serializers.IntegerField(), help_text="Percent by id of the path.")

    class Meta:
        model = WeightChange
        fields = [
            "id", "service", "domain", "storm", "region", "generation", "weights", "previous_weights", "is_reversal",
            "state", "reason", "held_reason", "error", "attempts", "wanted_at", "submitted_at", "confirmed_at",
            "observed_at",
        ]  # fmt: skip


class WeightChangeFilter(FilterSet):
    service = IdFilter()
    state = ChoiceFilter(choices=WeightChange.State.choices)


class WeightChangeViewSet(ReadViewSet):
    """Changes of weights, newest first."""

    queryset = WeightChange.objects.select_related("record_set")
    serializer_class = WeightChangeSerializer
    filterset_class = WeightChangeFilter
    newest_first = True


# --- routing -------------------------------------------------------------------------------------------------------


class RoutedPathSerializer(serializers.ModelSerializer[Target]):
    cdn = serializers.SlugRelatedField[Cdn](slug_field="slug", read_only=True)

    class Meta:
        model = Target
        fields = ["role", "rank", "cdn", "address"]


class LiveChangeSerializer(serializers.ModelSerializer[WeightChange]):
    class Meta:
        model = WeightChange
        fields = ["id", "generation", "state", "reason", "held_reason", "error", "wanted_at"]


class RoutingSerializer(serializers.ModelSerializer[ServiceDomain]):
    """One domain. Weights are percents by path id; null means that none were ever wanted, or seen."""

    domain = serializers.IntegerField(source="id")
    is_steered = serializers.SerializerMethodField(help_text="False: no record set is ours to write.")
    paths = serializers.SerializerMethodField(help_text="The paths that weights speak of, by id.")
    wanted_weights = serializers.SerializerMethodField()
    observed_weights = serializers.SerializerMethodField()
    generation = serializers.IntegerField(source="record_set.generation", allow_null=True)
    observed_generation = serializers.IntegerField(source="record_set.observed_generation", allow_null=True)
    observed_at = serializers.DateTimeField(source="record_set.observed_at", allow_null=True)
    observation = serializers.CharField(source="record_set.observation", allow_null=True)
    change = serializers.SerializerMethodField(help_text="The change that is under way.")

    class Meta:
        model = ServiceDomain
        fields = [
            "domain", "service", "hostname", "is_steered", "paths", "wanted_weights", "observed_weights", "generation",
            "observed_generation", "observed_at", "observation", "change",
        ]  # fmt: skip

    def get_is_steered(self, domain: ServiceDomain) -> bool:
        return _record_set(domain) is not None

    @extend_schema_field(serializers.DictField(child=RoutedPathSerializer()))
    def get_paths(self, domain: ServiceDomain) -> dict[str, Any]:
        return {str(target.pk): RoutedPathSerializer(target).data for target in domain.targets.all()}

    @extend_schema_field(WEIGHTS)
    def get_wanted_weights(self, domain: ServiceDomain) -> dict[str, int] | None:
        newest = _newest(domain)
        return newest.weights if newest else None

    @extend_schema_field(WEIGHTS)
    def get_observed_weights(self, domain: ServiceDomain) -> dict[str, int] | None:
        record_set = _record_set(domain)
        return (record_set.observed_weights or None) if record_set else None

    @extend_schema_field(LiveChangeSerializer(allow_null=True))
    def get_change(self, domain: ServiceDomain) -> dict[str, Any] | None:
        newest = _newest(domain)
        return LiveChangeSerializer(newest).data if newest and newest.state in WeightChange.LIVE else None


def _record_set(domain: ServiceDomain) -> RecordSet | None:
    return getattr(domain, "record_set", None)


def _newest(domain: ServiceDomain) -> WeightChange | None:
    """The newest change that still stands, out of the list that the view fetched for all domains at once."""
    record_set = _record_set(domain)
    return next(iter(record_set.standing), None) if record_set else None  # type: ignore[attr-defined]


class RoutingFilter(FilterSet):
    service = IdFilter()


class RoutingViewSet(Scoped, ApiViewSet, mixins.ListModelMixin):
    """Where each domain's traffic is sent, and where DNS was seen to send it."""

    queryset = (
        ServiceDomain.objects.live()
        .select_related("record_set")
        .prefetch_related(
            Prefetch("targets", Target.objects.paths().select_related("cdn")),
            Prefetch(
                "record_set__changes",
                WeightChange.objects.exclude(state__in=[WeightChange.State.FAILED, WeightChange.State.SUPERSEDED])
                .order_by("record_set_id", "-generation")
                .distinct("record_set_id"),
                to_attr="standing",
            ),
        )
    )
    serializer_class = RoutingSerializer
    filterset_class = RoutingFilter
