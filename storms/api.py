"""Policies, storms and findings, and what the probes think of each path."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.aggregates import ArrayAgg
from django.db.models import QuerySet
from django_filters.rest_framework import ChoiceFilter, FilterSet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from customers.scoped import IdFilter, OwnedViewSet, OwnRow, ReadViewSet, StrictSerializer, since, until
from services.api import PathSerializer, PathViewSet
from services.models import Cdn, Service
from storms import packs
from storms.models import CdnIncident, Finding, Kind, PathVerdict, StormEvent, StormPolicy, StormPolicyVersion

MOST_VERSIONS = 100

# --- policies ------------------------------------------------------------------------------------------------------


class PolicySerializer(StrictSerializer):
    """When traffic moves and when it comes back. Every change of terms is a new version."""

    service = OwnRow(queryset=Service.objects.live())

    class Meta:
        model = StormPolicy
        fields = ["id", "service", *StormPolicy.TERMS, "version", "created_at"]
        fixed = ("service",)

    def _save(self, row: StormPolicy, **how: Any) -> StormPolicy:
        super()._save(row, **how)
        row.refresh_from_db(fields=["version"])  # the database counts it
        return row


class PolicyVersionSerializer(serializers.ModelSerializer[StormPolicyVersion]):
    """The terms as they were from `created_at` until the next version. Storms name the version that they were judged by."""

    terms = serializers.DictField()

    class Meta:
        model = StormPolicyVersion
        fields = ["version", "terms", "created_at"]


class PolicyFilter(FilterSet):
    service = IdFilter()


class PolicyViewSet(OwnedViewSet, mixins.UpdateModelMixin):
    """Storm policies, one per service and kind."""

    queryset = StormPolicy.objects.live()
    serializer_class = PolicySerializer
    filterset_class = PolicyFilter

    @extend_schema(responses=PolicyVersionSerializer(many=True))
    @action(detail=True, filterset_class=None, pagination_class=None)
    def versions(self, request: Request, pk: str) -> Response:
        """Its versions, the newest first, and a hundred at most."""
        rows = self.get_object().versions.order_by("-version")[:MOST_VERSIONS]
        return Response(PolicyVersionSerializer(rows, many=True).data)


# --- storms and findings -------------------------------------------------------------------------------------------


class StormSerializer(serializers.ModelSerializer[StormEvent]):
    """It started with the first failing probe, ended with the first good one, and closed when traffic could go home."""

    state = serializers.ChoiceField(choices=["raging", "ended", "closed"], read_only=True)
    cdn = serializers.SlugRelatedField[Cdn](slug_field="slug", read_only=True, allow_null=True)
    regions = serializers.ListField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = StormEvent
        fields = [
            "id", "service", "kind", "state", "regions", "is_armed", "attribution", "cdn", "policy", "policy_version",
            "started_at", "detected_at", "ended_at", "closed_at", "relapses", "reason", "closing_reason", "incident",
            "acknowledged_at", "evidence_sha256",
        ]  # fmt: skip


class OpenFilter(FilterSet):
    """What is over has a time at which it ended: `over_at` names the field."""

    over_at: str

    service = IdFilter()

    def by_state(self, queryset: QuerySet[Any], name: str, value: str) -> QuerySet[Any]:
        return queryset.filter(**{f"{self.over_at}__isnull": value == "open"})


class StormFilter(OpenFilter):
    over_at = "closed_at"
    kind = ChoiceFilter(choices=Kind.choices)
    since, until = since("started_at"), until("started_at")
    state = ChoiceFilter(choices=[("open", "open"), ("closed", "closed")], method="by_state")


class EvidenceSerializer(serializers.Serializer[Any]):
    """Everything from which a storm follows; `sha256` is that of the rest in canonical form."""

    type = serializers.ChoiceField(choices=["storm"])
    format = serializers.IntegerField()
    storm = serializers.DictField()
    policies = serializers.DictField(help_text="By version: the terms that it was judged by.")
    targets = serializers.ListField(child=serializers.DictField())
    entries = serializers.ListField(
        child=serializers.DictField(), help_text="Its transitions, each with its whole case."
    )
    first_failures = serializers.ListField(child=serializers.DictField())
    minutes = serializers.ListField(child=serializers.DictField())
    samples = serializers.ListField(child=serializers.DictField())
    sha256 = serializers.CharField()


class StormViewSet(ReadViewSet):
    """Storms, newest first."""

    queryset = StormEvent.objects.select_related("cdn")
    serializer_class = StormSerializer
    filterset_class = StormFilter
    newest_first = True

    @extend_schema(responses=EvidenceSerializer)
    @action(detail=True, filterset_class=None, pagination_class=None)
    def evidence(self, request: Request, pk: str) -> Response:
        """Its evidence as one document, which `manage.py replay` recomputes."""
        return Response(packs.pack(self.get_object()))


class FindingSerializer(serializers.ModelSerializer[Finding]):
    class Meta:
        model = Finding
        fields = ["id", "service", "kind", "target", "reason", "first_seen_at", "last_seen_at", "resolved_at"]


class FindingFilter(OpenFilter):
    over_at = "resolved_at"
    kind = ChoiceFilter(choices=Finding._meta.get_field("kind").choices)
    since, until = since("first_seen_at"), until("first_seen_at")
    state = ChoiceFilter(choices=[("open", "open"), ("resolved", "resolved")], method="by_state")


class FindingViewSet(ReadViewSet):
    """What is no storm but should be looked at, newest first."""

    queryset = Finding.objects.all()
    serializer_class = FindingSerializer
    filterset_class = FindingFilter
    newest_first = True


# --- CDN incidents -------------------------------------------------------------------------------------------------


class CdnIncidentSerializer(serializers.ModelSerializer[CdnIncident]):
    """Storms of many services on one CDN, as one story. Of the others that it hit, nothing is told but that it is confirmed."""

    cdn = serializers.SlugRelatedField[Cdn](slug_field="slug", read_only=True)
    state = serializers.ChoiceField(choices=["suspected", "confirmed", "over"], read_only=True)
    regions = serializers.ListField(child=serializers.CharField(), read_only=True)
    storms = serializers.ListField(
        source="own_storms", child=serializers.IntegerField(), read_only=True, help_text="Ids of your own storms in it."
    )

    class Meta:
        model = CdnIncident
        fields = ["id", "cdn", "kind", "state", "regions", "started_at", "confirmed_at", "ended_at", "storms"]


class CdnIncidentViewSet(ReadViewSet):
    """The incidents of CDNs that a storm of yours was part of, newest first."""

    owner = "storms__customer"
    queryset = CdnIncident.objects.select_related("cdn")
    serializer_class = CdnIncidentSerializer
    newest_first = True

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        # Over the join that the scope made, which leads to the customer's own storms alone.
        found: QuerySet[Any] = super().filter_queryset(queryset).annotate(own_storms=ArrayAgg("storms__id"))
        return found


# --- paths, with their verdict -------------------------------------------------------------------------------------


class VerdictSerializer(serializers.ModelSerializer[PathVerdict]):
    class Meta:
        model = PathVerdict
        fields = ["verdict", "availability", "reason", "since", "evaluated_at"]


class CdnPathSerializer(PathSerializer):
    """One way to reach a domain, and what the probes think of it: null until they have looked."""

    verdict = VerdictSerializer(read_only=True, allow_null=True)

    class Meta(PathSerializer.Meta):
        fields = [*PathSerializer.Meta.fields, "verdict"]


class CdnPathViewSet(PathViewSet):
    """CDN paths and origin witnesses. Deleting one switches it off; its history stays."""

    volatile = ("verdict",)
    queryset = PathViewSet.queryset.select_related("verdict")
    serializer_class = CdnPathSerializer
