"""Where a customer wants to be told, what happened, and what became of each telling."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError as ModelError
from django.utils import timezone
from django_filters.rest_framework import ChoiceFilter, FilterSet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from customers import catalogue
from customers.models import DeliveryAttempt, Event, WebhookDelivery, WebhookEndpoint
from customers.models.webhook import MOST_KINDS, ROTATION, check_kinds
from customers.scoped import IdFilter, OwnedViewSet, ReadViewSet, StrictSerializer, customer_of, since, until
from customers.views import ApiViewSet
from customers.webhooks import outbox, payload
from tranche_site.floor.json_fields import Text
from tranche_site.floor.problems import Conflict

MOST_ENDPOINTS = 20

# --- deliveries -----------------------------------------------------------------------------------------------------


class DeliveryAttemptSerializer(serializers.ModelSerializer[DeliveryAttempt]):
    class Meta:
        model = DeliveryAttempt
        fields = ["at", "milliseconds", "status", "error", "answer"]


class WebhookDeliverySerializer(serializers.ModelSerializer[WebhookDelivery]):
    """One event for one endpoint; `dead` once it was given up."""

    event = serializers.SerializerMethodField()
    type = serializers.CharField(source="event.kind", read_only=True)

    class Meta:
        model = WebhookDelivery
        fields = [
            "id", "endpoint", "event", "type", "sequence", "state", "attempts", "next_attempt_at", "last_status",
            "last_error", "delivered_at", "created_at",
        ]  # fmt: skip

    @extend_schema_field(OpenApiTypes.STR)
    def get_event(self, delivery: WebhookDelivery) -> str:
        return payload.event_id(delivery.event)


class WebhookDeliveryFilter(FilterSet):
    endpoint = IdFilter()
    state = ChoiceFilter(choices=WebhookDelivery.State.choices)
    since, until = since("created_at"), until("created_at")


class WebhookDeliveryViewSet(ReadViewSet):
    """Deliveries, newest first."""

    queryset = WebhookDelivery.objects.select_related("event").filter(endpoint__deleted_at=None)
    serializer_class = WebhookDeliverySerializer
    filterset_class = WebhookDeliveryFilter
    newest_first = True

    @extend_schema(responses=DeliveryAttemptSerializer(many=True))
    @action(detail=True, filterset_class=None, pagination_class=None)
    def attempts(self, request: Request, pk: str) -> Response:
        """Each time it was tried, the first one first, and what came back."""
        rows = DeliveryAttempt.objects.filter(delivery=self.get_object())[:100]
        return Response(DeliveryAttemptSerializer(rows, many=True).data)

    @extend_schema(request=None, responses=WebhookDeliverySerializer)
    @action(detail=True, methods=["post"], filterset_class=None, pagination_class=None)
    def replay(self, request: Request, pk: str) -> Response:
        """Send it again, under its old id."""
        row = self.get_object()
        if not outbox.replay(WebhookDelivery.objects.filter(pk=row.pk), timezone.now()):
            raise Conflict("It is being sent already, or its endpoint is disabled.", "not_replayable")
        row.refresh_from_db()
        return Response(self.get_serializer(row).data)


# --- endpoints ------------------------------------------------------------------------------------------------------


class WebhookEndpointSerializer(StrictSerializer):
    """An address that is told what happens. Everything is signed as Standard Webhooks has it."""

    url = serializers.URLField(max_length=500, help_text="https, at port 443 or 8443; redirects are not followed.")
    kinds = serializers.ListField(
        child=Text(max_length=60), min_length=1, max_length=MOST_KINDS,
        help_text="Kinds of events, beginnings such as storm.*, or * for all.",
    )  # fmt: skip
    state = serializers.ChoiceField(choices=["enabled", "failing", "disabled"], read_only=True)

    class Meta:
        model = WebhookEndpoint
        fields = ["id", "url", "description", "kinds", "state", "disabled_reason", "failing_since", "created_at"]
        read_only_fields = ["disabled_reason", "failing_since"]

    def validate_url(self, url: str) -> str:
        if settings.WEBHOOKS_ALLOW_PRIVATE:
            return url
        parts = urlsplit(url)
        if parts.scheme != "https" or (parts.port or 443) not in outbox.PORTS or parts.username or not parts.hostname:
            raise serializers.ValidationError("Give an https address at port 443 or 8443, without a user name.")
        return url

    def validate_kinds(self, kinds: list[str]) -> list[str]:
        try:
            check_kinds(kinds)
        except ModelError as error:
            raise serializers.ValidationError(error.messages) from None
        return kinds

    def create(self, validated_data: dict[str, Any]) -> Any:
        customer = customer_of(self.context["request"])
        if WebhookEndpoint.objects.live().filter(customer=customer).count() >= MOST_ENDPOINTS:
            raise Conflict(f"There are {MOST_ENDPOINTS} endpoints: delete one first.", "too_many")
        row = super().create(validated_data)
        row.secret = row.new_secret(timezone.now())
        return row


class NewWebhookEndpointSerializer(WebhookEndpointSerializer):
    """An endpoint whose secret was just made."""

    secret = serializers.CharField(
        read_only=True,
        allow_null=True,
        help_text="whsec_…: what signatures are checked with; shown once, and null where an Idempotency-Key repeats the answer.",
    )

    class Meta(WebhookEndpointSerializer.Meta):
        fields = [*WebhookEndpointSerializer.Meta.fields, "secret"]


class ReplayedSerializer(serializers.Serializer[Any]):
    replayed = serializers.IntegerField()


class WebhookEndpointViewSet(OwnedViewSet, mixins.UpdateModelMixin):
    """Webhook endpoints. What waits for one that is deleted is not sent."""

    volatile = ("state", "disabled_reason", "failing_since")
    queryset = WebhookEndpoint.objects.live()
    serializer_class = WebhookEndpointSerializer

    @extend_schema(request=WebhookEndpointSerializer, responses={201: NewWebhookEndpointSerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        asked = NewWebhookEndpointSerializer(data=request.data, context=self.get_serializer_context())
        asked.is_valid(raise_exception=True)
        asked.save()
        return Response(asked.data, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    @extend_schema(
        request=None, responses=NewWebhookEndpointSerializer,
        description=f"Another secret. The one before signs beside it for {ROTATION.total_seconds() / 3600:.0f} hours.",
    )  # fmt: skip
    @action(detail=True, methods=["post"], url_path="rotate-secret", url_name="rotate-secret", pagination_class=None)
    def rotate_secret(self, request: Request, pk: str) -> Response:
        row = self.get_object()
        row.secret = row.new_secret(timezone.now())
        told = NewWebhookEndpointSerializer(row, context=self.get_serializer_context())
        return Response(told.data, headers={"Cache-Control": "no-store"})

    @extend_schema(request=None, responses=WebhookEndpointSerializer)
    @action(detail=True, methods=["post"], pagination_class=None)
    def enable(self, request: Request, pk: str) -> Response:
        """Send to it again from now on, and at once if it was failing. What is dead stays so until it is replayed."""
        row = self.get_object()
        outbox.enable(row)
        row.refresh_from_db()
        return Response(self.get_serializer(row).data)

    @extend_schema(request=None, responses={201: WebhookDeliverySerializer})
    @action(detail=True, methods=["post"], pagination_class=None)
    def test(self, request: Request, pk: str) -> Response:
        """Send an event `webhook.test` to this endpoint alone."""
        row = self.get_object()
        if row.disabled_at:
            raise Conflict("This endpoint is disabled: enable it first.", "disabled")
        made = outbox.test(row, timezone.now())
        return Response(WebhookDeliverySerializer(made).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=None, responses=ReplayedSerializer)
    @action(detail=True, methods=["post"], url_path="replay-dead", url_name="replay-dead", pagination_class=None)
    def replay_dead(self, request: Request, pk: str) -> Response:
        """Send all again that was given up, in order and under the old ids."""
        row = self.get_object()
        dead = WebhookDelivery.objects.filter(endpoint=row, state=WebhookDelivery.State.DEAD)
        return Response(ReplayedSerializer({"replayed": outbox.replay(dead, timezone.now())}).data)


# --- events ---------------------------------------------------------------------------------------------------------


class SubjectSerializer(serializers.Serializer[Any]):
    type = serializers.CharField()
    id = serializers.IntegerField()


class EventSerializer(serializers.Serializer[Event]):
    """What happened, as webhooks tell it; there it also has the `sequence` of its endpoint."""

    id = serializers.CharField(help_text="evt_…, the webhook-id too.")
    type = serializers.CharField()
    version = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    subject = SubjectSerializer()
    summary = serializers.CharField()
    data = serializers.DictField()  # type: ignore[assignment]  # the metaclass takes it away
    is_truncated = serializers.BooleanField(required=False, help_text="The data was too long: ask for the subject.")

    def to_representation(self, event: Event) -> dict[str, Any]:
        return payload.of(event)


class EventFilter(FilterSet):
    """Events of [since, until)."""

    type = ChoiceFilter(
        field_name="kind", choices=[(kind.name, kind.name) for kind in catalogue.KINDS.values() if kind.is_public]
    )
    since, until = since("created_at"), until("created_at")


class EventViewSet(ReadViewSet):
    """What happened, newest first."""

    queryset = Event.objects.all()
    serializer_class = EventSerializer
    filterset_class = EventFilter
    newest_first = True


class EventKindSerializer(serializers.Serializer[catalogue.Kind]):
    type = serializers.CharField(source="name")
    version = serializers.IntegerField()
    meaning = serializers.CharField()


class EventKindViewSet(ApiViewSet):
    """The kinds of events that there are: the same for every customer."""

    queryset = Event.objects.none()
    serializer_class = EventKindSerializer
    pagination_class = None
    filter_backends = []

    @extend_schema(responses=EventKindSerializer(many=True))
    def list(self, request: Request) -> Response:
        public: Any = [kind for kind in catalogue.KINDS.values() if kind.is_public]
        return Response(EventKindSerializer(public, many=True).data)
