"""Rehearsals."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from django_filters.rest_framework import ChoiceFilter, FilterSet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from customers.models import ApiKey
from customers.scoped import IdFilter, OwnRow, ReadViewSet, StrictSerializer, since, until
from dns import drills
from dns.models import Drill, RecordSet
from services.models import Service
from tranche_site.floor.problems import Conflict


class DrillSerializer(StrictSerializer):
    """A rehearsal: a few percent of traffic to the backup for some minutes, begun in good weather only."""

    service = OwnRow(queryset=Service.objects.live())

    class Meta:
        model = Drill
        fields = [
            "id", "service", "state", "percent", "minutes", "scheduled_at", "started_at", "observed_at", "ended_at",
            "outcome", "created_at",
        ]  # fmt: skip
        read_only_fields = ["state", "started_at", "observed_at", "ended_at", "outcome"]

    def validate_service(self, service: Service) -> Service:
        if not RecordSet.objects.live().filter(domain__service=service).exists():
            raise serializers.ValidationError("None of its domains is steered.")
        return service


class DrillFilter(FilterSet):
    service = IdFilter()
    state = ChoiceFilter(choices=Drill.State.choices)
    since, until = since("scheduled_at"), until("scheduled_at")


class DrillViewSet(ReadViewSet, mixins.CreateModelMixin):
    """Drills, newest first. One that is not over stands in the way of another of its service."""

    queryset = Drill.objects.all()
    serializer_class = DrillSerializer
    filterset_class = DrillFilter
    newest_first = True

    @extend_schema(request=None, responses=DrillSerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, **kwargs: Any) -> Response:
        """Call it off; of one that runs, what it sent to the backup goes home."""
        drill, key = self.get_object(), request.auth
        who = f"the API key “{key.name}”" if isinstance(key, ApiKey) else "the customer"
        if drill.state not in Drill.OPEN or not drills.cancel(drill, who, timezone.now()):
            raise Conflict("It is over.")
        drill.refresh_from_db()
        return Response(self.get_serializer(drill).data)
