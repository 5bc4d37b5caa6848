"""A service's, or a storm's, timeline as a picture."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

from billing.timeline import drawing, reading
from billing.timeline.span import USUAL, ZOOMS, zoomed
from customers.scoped import Scoped
from customers.views import ApiViewSet
from services.models import Service
from storms.models import StormEvent

LEAST_WIDTH, MOST_WIDTH, USUAL_WIDTH = 200, 4000, 960


class SvgRenderer(JSONRenderer):
    # What may be asked for. The picture itself goes out as it is, and refusals stay JSON.
    media_type, format = "image/svg+xml", "svg"


class WidthQuery(serializers.Serializer[Any]):
    width = serializers.IntegerField(
        required=False, min_value=LEAST_WIDTH, max_value=MOST_WIDTH, default=USUAL_WIDTH, help_text="In pixels."
    )


class ZoomQuery(WidthQuery):
    zoom = serializers.ChoiceField(
        choices=list(ZOOMS), required=False, default=USUAL, help_text="How much of the time up to now."
    )


class _PictureViewSet(Scoped, ApiViewSet):
    def asked(self) -> dict[str, Any]:
        query = self.query_class(data=self.request.query_params.dict())
        query.is_valid(raise_exception=True)
        found: dict[str, Any] = query.validated_data
        return found

    def drawn(self, found: reading.Read, width: int) -> HttpResponse:
        # It has no scripts, and where it is opened alone it may load nothing.
        return HttpResponse(
            drawing.draw(found.timeline, width),
            content_type="image/svg+xml; charset=utf-8",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )


def picture(query: type[serializers.Serializer[Any]]) -> Any:
    return action(
        detail=True, url_path="timeline.svg", url_name="svg", pagination_class=None,
        renderer_classes=[SvgRenderer, JSONRenderer], query_class=query,
    )  # fmt: skip


class ServiceTimelineViewSet(_PictureViewSet):
    queryset = Service.objects.live()
    serializer_class = ZoomQuery

    @extend_schema(
        operation_id="service_timeline", parameters=[ZoomQuery], responses={(200, "image/svg+xml"): OpenApiTypes.STR}
    )
    @picture(ZoomQuery)
    def timeline(self, request: Request, pk: str) -> HttpResponse:
        """A service's availability by path, storms, weights, traffic and what people did, as an SVG that needs no script."""
        service = self.get_object()
        asked, now = self.asked(), timezone.now()
        return self.drawn(reading.of_service(service, zoomed(asked["zoom"], now), now, of_ours=False), asked["width"])


class StormTimelineViewSet(_PictureViewSet):
    queryset = StormEvent.objects.select_related("service")
    serializer_class = WidthQuery

    @extend_schema(
        operation_id="storm_timeline", parameters=[WidthQuery], responses={(200, "image/svg+xml"): OpenApiTypes.STR}
    )
    @picture(WidthQuery)
    def timeline(self, request: Request, pk: str) -> HttpResponse:
        """The same picture of a storm, from an hour before it to an hour after it."""
        storm = self.get_object()
        return self.drawn(reading.of_storm(storm, timezone.now(), of_ours=False), self.asked()["width"])
