"""Where each domain’s traffic is sent, and where DNS was seen to send it."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch
from django_filters.rest_framework import FilterSet
from drf_spectacular.utils import extend_schema_field
from rest_framework import mixins, serializers

from customers.scoped import IdFilter, Scoped
from customers.views import ApiViewSet
from dns.api.changes import OwnError
from dns.models import RecordSet, WeightChange
from services.models import Cdn, ServiceDomain, Target

WEIGHTS = serializers.DictField(child=serializers.IntegerField(min_value=0, max_value=100), allow_null=True)


class RoutedPathSerializer(serializers.ModelSerializer[Target]):
    cdn = serializers.SlugRelatedField[Cdn](slug_field="slug", read_only=True)

    class Meta:
        model = Target
        fields = ["role", "rank", "cdn", "address"]


class LiveChangeSerializer(OwnError):
    class Meta:
        model = WeightChange
        fields = [
            "id", "generation", "state", "is_urgent", "reason", "refusal", "held_reason", "trouble", "error", "wanted_at"
        ]  # fmt: skip


class CheckSerializer(serializers.Serializer[Any]):
    """One line of a domain’s check list."""

    name = serializers.CharField()
    holds = serializers.BooleanField()
    text = serializers.CharField(help_text="What was found.")
    advice = serializers.CharField(help_text="What to do where it does not hold; may be empty.")
    is_must = serializers.BooleanField(help_text="Nothing is steered until it holds.")
    is_unclear = serializers.BooleanField(help_text="It could not be looked at, which neither arms nor disarms.")


class RoutingSerializer(serializers.ModelSerializer[ServiceDomain]):
    """One domain. Weights are percents by path id; null means that none were ever wanted, or seen."""

    domain = serializers.IntegerField(source="id")
    is_steered = serializers.SerializerMethodField(help_text="False: no record set is ours to write.")
    is_armed = serializers.SerializerMethodField(
        help_text="Whether every must of the check list holds: nothing is written for a domain before that."
    )
    unarmed_reason = serializers.SerializerMethodField()
    checks = serializers.SerializerMethodField(help_text="The check list; empty until it was gone through.")
    paths = serializers.SerializerMethodField(help_text="The paths that weights speak of, by id.")
    wanted_weights = serializers.SerializerMethodField()
    observed_weights = serializers.SerializerMethodField()
    generation = serializers.IntegerField(source="record_set.generation", allow_null=True)
    observed_generation = serializers.IntegerField(source="record_set.observed_generation", allow_null=True)
    observed_at = serializers.DateTimeField(source="record_set.observed_at", allow_null=True)
    observation = serializers.CharField(source="record_set.observation", allow_null=True)
    drifted_since = serializers.DateTimeField(
        source="record_set.drifted_since", allow_null=True, help_text="Since when DNS is not as it was written."
    )
    is_left_alone = serializers.SerializerMethodField(
        help_text="Somebody edits its records by hand: nothing is written over that until an operator agrees."
    )
    change = serializers.SerializerMethodField(help_text="The change that is under way.")

    class Meta:
        model = ServiceDomain
        fields = [
            "domain", "service", "hostname", "is_steered", "is_armed", "unarmed_reason", "checks", "paths",
            "wanted_weights", "observed_weights", "generation", "observed_generation", "observed_at", "observation",
            "drifted_since", "is_left_alone", "change",
        ]  # fmt: skip

    def get_is_steered(self, domain: ServiceDomain) -> bool:
        record_set = _record_set(domain)
        return record_set is not None and record_set.released_at is None

    def get_is_armed(self, domain: ServiceDomain) -> bool:
        record_set = _record_set(domain)
        return record_set is not None and record_set.armed_at is not None

    def get_unarmed_reason(self, domain: ServiceDomain) -> str | None:
        record_set = _record_set(domain)
        return record_set.for_customer(record_set.unarmed_reason) if record_set else None

    @extend_schema_field(CheckSerializer(many=True))
    def get_checks(self, domain: ServiceDomain) -> Any:
        record_set = _record_set(domain)
        return CheckSerializer(
            [_told(record_set, check) for check in record_set.checks] if record_set else [], many=True
        ).data

    def get_is_left_alone(self, domain: ServiceDomain) -> bool:
        record_set = _record_set(domain)
        return record_set is not None and record_set.is_held

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


def _told(record_set: RecordSet, check: dict[str, Any]) -> dict[str, Any]:
    if check["holds"]:
        return check
    name = check["name"]
    return check | {"text": record_set.for_customer(f"{name}: {check['text']}").removeprefix(f"{name}: ")}


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
        .select_related("record_set__account")
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
