"""API keys, for customers that manage their own. A secret is in the answer that made it, and nowhere else."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from customers.models import SCOPES, STAFF_SCOPES, ApiKey
from customers.scoped import ReadViewSet, Strict, StrictSerializer, customer_of
from tranche_site.floor.json_fields import Integer
from tranche_site.floor.problems import Conflict

MOST_KEYS = 100
OVERLAP = timedelta(days=1)
LONGEST_OVERLAP = timedelta(days=7)


class ApiKeySerializer(StrictSerializer):
    """A key: what it is called, what it may do, until when. The key itself was shown when it was made."""

    scopes = serializers.ListField(
        child=serializers.ChoiceField(choices=sorted(SCOPES | STAFF_SCOPES)), min_length=1, max_length=len(SCOPES | STAFF_SCOPES),
        help_text="; ".join(f"{scope}: {meaning}" for scope, meaning in SCOPES.items()),
    )  # fmt: skip

    class Meta:
        model = ApiKey
        fields = ["id", "name", "prefix", "scopes", "created_at", "last_used_at", "expires_at", "revoked_at"]
        read_only_fields = ["prefix", "created_at", "last_used_at", "revoked_at"]

    def validate_scopes(self, scopes: list[str]) -> list[str]:
        if beyond := sorted(set(scopes) - (set(_asker(self.context["request"]).scopes) - set(STAFF_SCOPES))):
            raise serializers.ValidationError(f"Your own key may not do this: {', '.join(beyond)}.")
        return [scope for scope in SCOPES if scope in scopes]

    def validate_expires_at(self, at: datetime | None) -> datetime | None:
        if at is not None and at <= timezone.now():
            raise serializers.ValidationError("Choose a time to come.")
        return at

    def create(self, validated_data: dict[str, Any]) -> Any:
        customer = customer_of(self.context["request"])
        if ApiKey.objects.usable(timezone.now()).filter(customer=customer).count() >= MOST_KEYS:
            raise Conflict(f"There are {MOST_KEYS} keys in use: revoke one first.", "too_many")
        # What a key makes ends with it: else a key that was lent for a day would make one for ever.
        mine, asked = _asker(self.context["request"]).expires_at, validated_data.get("expires_at")
        ends = min(filter(None, (mine, asked)), default=None)
        key, secret = ApiKey.issue(customer, **validated_data | {"expires_at": ends})
        key.secret = secret  # type: ignore[attr-defined]  # for this one answer
        return key


class IssuedKeySerializer(ApiKeySerializer):
    """A key that was just made, with the key itself."""

    secret = serializers.CharField(
        read_only=True,
        allow_null=True,
        help_text="The key. Keep it: it is not shown again, and null where an Idempotency-Key repeats the answer.",
    )

    class Meta(ApiKeySerializer.Meta):
        fields = [*ApiKeySerializer.Meta.fields, "secret"]


class RotationSerializer(Strict):
    """How long the old key goes on beside the new one."""

    overlap_seconds = Integer(
        required=False, min_value=0, max_value=int(LONGEST_OVERLAP.total_seconds()),
        default=int(OVERLAP.total_seconds()),
    )  # fmt: skip


class ApiKeyViewSet(ReadViewSet, mixins.CreateModelMixin, mixins.DestroyModelMixin):
    """The account's API keys; all of this needs the scope “keys”. Deleting one revokes it, for good and at once."""

    queryset = ApiKey.objects.all()
    serializer_class = ApiKeySerializer
    newest_first = True
    wants_if_match = False  # nobody edits it
    scopes = dict.fromkeys(("list", "retrieve", "create", "destroy", "rotate"), "keys")

    @extend_schema(request=ApiKeySerializer, responses={201: IssuedKeySerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        asked = IssuedKeySerializer(data=request.data, context=self.get_serializer_context())
        asked.is_valid(raise_exception=True)
        asked.save()
        return Response(asked.data, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    @extend_schema(request=RotationSerializer, responses={201: IssuedKeySerializer})
    @action(detail=True, methods=["post"], pagination_class=None)
    def rotate(self, request: Request, pk: str) -> Response:
        """A new key of the same name and scopes. The old one goes on for `overlap_seconds`, so that nothing stands still."""
        old = self.get_object()
        asked = RotationSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        now = timezone.now()
        if not old.is_usable(now):
            raise Conflict("This key is expired or revoked: issue a new one.", "not_usable")
        self._refuse_stronger(old)
        new, secret = old.rotate(now, timedelta(seconds=asked.validated_data["overlap_seconds"]))
        new.secret = secret
        made = IssuedKeySerializer(new, context=self.get_serializer_context())
        return Response(made.data, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    def _refuse_stronger(self, key: ApiKey) -> None:
        if set(key.scopes) - set(_asker(self.request).scopes):
            raise PermissionDenied("That key may do what yours may not.")

    def perform_destroy(self, instance: ApiKey) -> None:
        self._refuse_stronger(instance)
        instance.revoke(timezone.now())


def _asker(request: Request) -> ApiKey:
    return cast("ApiKey", request.auth)
