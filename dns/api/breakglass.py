"""Scripts for when all else fails."""

from __future__ import annotations

from typing import Any

from django_filters.rest_framework import FilterSet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from customers.scoped import IdFilter, Scoped
from customers.views import ApiView, ApiViewSet
from dns import breakglass
from dns.models import BreakGlassScript


class BreakGlassSerializer(serializers.ModelSerializer[BreakGlassScript]):
    domain = serializers.IntegerField(source="record_set.domain_id", read_only=True)
    hostname = serializers.CharField(source="record_set.domain.hostname", read_only=True)

    class Meta:
        model = BreakGlassScript
        fields = ["id", "domain", "hostname", "direction", "text", "signature", "made_at"]


class BreakGlassFilter(FilterSet):
    service = IdFilter(field_name="record_set__domain__service")
    domain = IdFilter(field_name="record_set__domain")


class BreakGlassViewSet(Scoped, ApiViewSet, mixins.ListModelMixin):
    """Scripts that move a domain in its DNS vendor's own commands, for when Tranche can't. Fetch them every day: they are
    for the day on which they can't be fetched."""

    queryset = BreakGlassScript.objects.exclude(text="").select_related("record_set__domain")
    serializer_class = BreakGlassSerializer
    filterset_class = BreakGlassFilter


class PemRenderer(JSONRenderer):
    """Text as it is; refusals stay JSON."""

    media_type = "text/plain"
    format = "pem"
    charset = "us-ascii"

    def render(self, data: Any, *args: Any, **kw: Any) -> bytes:
        return data.encode() if isinstance(data, str) else super().render(data, *args, **kw)


class BreakGlassKeyView(ApiView):
    """The public key that break-glass scripts are checked with, as PEM."""

    renderer_classes = [PemRenderer]

    @extend_schema(operation_id="break_glass_key", responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request: Request) -> Response:
        return Response(breakglass.public_key_pem())
