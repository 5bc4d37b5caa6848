"""Policies, storms and findings, and what the probes think of each path."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django_filters.rest_framework import ChoiceFilter, FilterSet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from services.api import PathSerializer, PathViewSet
from services.models import Cdn, Service
from storms import packs
from storms.models import Finding, Kind, PathVerdict, StormEvent, StormPolicy
from tranche_site.floor.scoped import IdFilter, OwnedViewSet, OwnRow, ReadViewSet, StrictSerializer

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


class PolicyFilter(FilterSet):
    service = IdFilter()


class PolicyViewSet(OwnedViewSet, mixins.UpdateModelMixin):
    """Storm policies, one per service and kind."""

    queryset = StormPolicy.objects.live()
    serializer_class = PolicySerializer
    filterset_class = PolicyFilter


# --- storms and findings -------------------------------------------------------------------------------------------


class StormSerializer(serializers.ModelSerializer[StormEvent]):
    """It started with the first failing probe, ended with the first good one, and closed when traffic could go home."""

    state = serializers.ChoiceField(choices=["raging", "ended", "closed"], read_only=True)
    cdn = serializers.SlugRelatedField[Cdn](slug_field="slug", read_only=True)
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
    state = ChoiceFilter(choices=[("open", "open"), ("resolved", "resolved")], method="by_state")


class FindingViewSet(ReadViewSet):
    """What is no storm but should be looked at, newest first."""

    queryset = Finding.objects.all()
    serializer_class = FindingSerializer
    filterset_class = FindingFilter
    newest_first = True


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

    queryset = PathViewSet.queryset.select_related("verdict")
    serializer_class = CdnPathSerializer
