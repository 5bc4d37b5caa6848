"""Our routes, and beside them a view that does nothing but serialize the same rows."""

from __future__ import annotations

from typing import Any

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from services.api import ServiceSerializer
from services.models import Service
from tranche_site.urls import urlpatterns as ours


class BareView(APIView):
    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []
    throttle_classes: list[Any] = []

    def get(self, request: Request, customer: int) -> Response:
        rows = Service.objects.filter(customer=customer, deleted_at=None).order_by("pk")[:50]
        return Response(ServiceSerializer(rows, many=True).data)


urlpatterns = [path("bare/<int:customer>", BareView.as_view()), *ours]
