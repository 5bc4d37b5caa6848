"""What an API key can learn about itself and its account, and what of that a customer may change."""

from __future__ import annotations

from typing import Any, cast

from django.db import transaction
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from customers.authentication import SCHEME, ApiKeyAuthentication
from customers.models import ApiKey, Customer
from customers.scoped import StrictSerializer
from customers.views import ApiView
from tranche_site.floor.parsing import BoundedJSONParser


class CustomerSerializer(StrictSerializer):
    class Meta:
        model = Customer
        fields = ["id", "name", "billing_email", "alert_email", "wants_alerts"]
        read_only_fields = ["name"]


class KeySerializer(serializers.ModelSerializer[ApiKey]):
    scopes = serializers.ListField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = ApiKey
        fields = ["id", "name", "prefix", "scopes", "created_at", "expires_at"]


class AccountSerializer(serializers.Serializer[ApiKey]):
    customer = CustomerSerializer()
    key = KeySerializer(source="*")


class AccountView(ApiView):
    """The customer and the key that a request speaks for."""

    parser_classes = [BoundedJSONParser]

    @extend_schema(operation_id="account", responses=AccountSerializer)
    def get(self, request: Request) -> Response:
        return Response(AccountSerializer(_key(request)).data)

    @extend_schema(operation_id="account_change", request=CustomerSerializer(partial=True), responses=AccountSerializer)
    def patch(self, request: Request) -> Response:
        """Change what a customer may change of its account; the name is agreed with us."""
        key = _key(request)
        with transaction.atomic():
            key.customer = Customer.objects.select_for_update().get(pk=key.customer_id)
            self.require_match(AccountSerializer(key).data)
            asked = CustomerSerializer(key.customer, data=request.data, partial=True, context={"request": request})
            asked.is_valid(raise_exception=True)
            asked.save()
        return Response(AccountSerializer(key).data)


def _key(request: Request) -> ApiKey:
    return cast("ApiKey", request.auth)


class ApiKeyScheme(OpenApiAuthenticationExtension):
    target_class = ApiKeyAuthentication
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": SCHEME.lower(), "description": "An API key, `trk_…`."}
