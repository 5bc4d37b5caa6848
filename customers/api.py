"""What an API key can learn about itself."""

from __future__ import annotations

from typing import Any, cast

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from customers.authentication import SCHEME, ApiKeyAuthentication
from customers.models import ApiKey, Customer


class CustomerSerializer(serializers.ModelSerializer[Customer]):
    class Meta:
        model = Customer
        fields = ["id", "name"]


class KeySerializer(serializers.ModelSerializer[ApiKey]):
    scopes = serializers.ListField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = ApiKey
        fields = ["name", "prefix", "scopes", "created_at", "expires_at"]


class AccountSerializer(serializers.Serializer[ApiKey]):
    customer = CustomerSerializer()
    key = KeySerializer(source="*")


class AccountView(APIView):
    """The customer and the key that a request speaks for."""

    metadata_class = None

    @extend_schema(operation_id="account", responses=AccountSerializer)
    def get(self, request: Request) -> Response:
        return Response(AccountSerializer(cast("ApiKey", request.auth)).data)


class ApiKeyScheme(OpenApiAuthenticationExtension):
    target_class = ApiKeyAuthentication
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": SCHEME.lower(), "description": "An API key, `trk_…`."}
