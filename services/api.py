"""Services, their domains, and the CDNs that paths can name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django_filters.rest_framework import ChoiceFilter, FilterSet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from customers import configuration
from customers.scoped import (
    IdFilter,
    OwnedViewSet,
    OwnRow,
    ReadViewSet,
    StrictSerializer,
    customer_of,
)
from customers.views import ApiViewSet
from services import hostnames, maintenance
from services.models import CHALLENGE_LIFE, Cdn, MaintenanceWindow, Service, ServiceDomain, Target
from tranche_site.floor.json_fields import Text, WallTime
from tranche_site.floor.problems import Conflict

CHECK_AGAIN = timedelta(seconds=5)
MOST_UNPROVEN = 100
"""Hostnames of one customer that wait for their proof."""
"""A proof asks many servers: how soon a customer may have that done again for one domain."""


class ServiceSerializer(StrictSerializer):
    """A unit of failover: its domains move together."""

    probe_headers = serializers.DictField(
        child=Text(trim_whitespace=False),
        required=False,
        help_text='Sent with every probe, such as {"X-Probe": "a word that your firewall knows"}.',
    )

    class Meta:
        model = Service
        fields = [
            "id", "name", "probe_method", "probe_path", "uncacheable_path", "probe_headers", "probe_ipv4", "probe_ipv6",
            "expected_statuses", "body_marker", "timeout_seconds", "interval_seconds", "minimum_certificate_days",
            "created_at",
        ]  # fmt: skip


class ServiceViewSet(OwnedViewSet, mixins.UpdateModelMixin):
    """Services. Deleting one deletes its domains and policies, too."""

    queryset = Service.objects.live()
    serializer_class = ServiceSerializer


# --- domains -------------------------------------------------------------------------------------------------------


class ChallengeSerializer(serializers.Serializer[ServiceDomain]):
    """The TXT record that proves a domain."""

    name = serializers.CharField(source="challenge_name")
    value = serializers.CharField(source="challenge_value")
    issued_at = serializers.DateTimeField(
        source="challenge_issued_at",
        help_text=f"Unless it is published within {CHALLENGE_LIFE.days} days, the next check makes another.",
    )


class DomainSerializer(StrictSerializer):
    """One hostname of a service. It is acted on once the TXT record of its challenge proves it."""

    service = OwnRow(queryset=Service.objects.live())
    challenge = ChallengeSerializer(source="*", read_only=True)
    proof = serializers.SerializerMethodField(
        help_text="“missing”: the record is gone, and nothing new is written into DNS once it is “lost”, after three days. "
        "“contested”: another account shows its record too, and nothing new is written until one lets the hostname go."
    )

    class Meta:
        model = ServiceDomain
        fields = [
            "id", "service", "hostname", "challenge", "proof", "verified_at", "lost_since", "checked_at", "check_result",
            "created_at",
        ]  # fmt: skip

    @extend_schema_field(serializers.ChoiceField(["not verified", "verified", "missing", "lost", "contested"]))
    def get_proof(self, domain: ServiceDomain) -> str:
        return domain.proof_state(timezone.now())

    def validate_hostname(self, hostname: str) -> str:
        """A claim blocks nobody, but what another customer has proven is taken."""
        hostname = hostnames.normalize(hostname)
        others = ServiceDomain.objects.verified().exclude(customer=customer_of(self.context["request"]))
        if others.filter(hostname=hostname).exists():
            raise Conflict({"hostname": ["Another customer has proven this hostname."]}, "taken")
        return hostname

    def create(self, validated_data: dict[str, Any]) -> ServiceDomain:
        """Proofs are looked for one after the other: no customer's claims are to keep others waiting."""
        mine = ServiceDomain.objects.live().filter(customer=customer_of(self.context["request"]), verified_at=None)
        if mine.count() >= MOST_UNPROVEN:
            raise Conflict(f"{MOST_UNPROVEN} hostnames wait for their proof: prove or delete some first.", "too_many")
        made: ServiceDomain = super().create(validated_data)
        return made


class DomainFilter(FilterSet):
    service = IdFilter()


class DomainViewSet(OwnedViewSet):
    """The hostnames of services."""

    without_transaction = frozenset({"check"})
    volatile = ("proof", "lost_since", "checked_at", "check_result")
    queryset = ServiceDomain.objects.live().with_contest()
    serializer_class = DomainSerializer
    filterset_class = DomainFilter

    @extend_schema(request=None, responses=DomainSerializer)
    @action(detail=True, methods=["post"])
    def check(self, request: Request, **kwargs: Any) -> Response:
        """Look for the challenge in DNS now; within a few seconds of the last look, tell what that found."""
        from services import proof  # asks DNS servers; nothing else here needs it

        domain = self.get_object()
        if domain.checked_at is None or timezone.now() - domain.checked_at >= CHECK_AGAIN:
            domain = proof.check(domain)
        return Response(self.get_serializer(domain).data)


# --- CDNs and paths ------------------------------------------------------------------------------------------------


class CdnSerializer(serializers.ModelSerializer[Cdn]):
    class Meta:
        model = Cdn
        fields = ["slug", "name"]


class CdnViewSet(ApiViewSet, mixins.ListModelMixin):
    """The CDNs that Tranche knows: the same for every customer."""

    queryset = Cdn.objects.all()
    serializer_class = CdnSerializer


class CdnSlug(serializers.SlugRelatedField[Cdn]):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(slug_field="slug", queryset=Cdn.objects.all(), **kwargs)

    def to_internal_value(self, data: Any) -> Cdn:
        # Checked as text first: Postgres can't even be asked for a NUL.
        return super().to_internal_value(serializers.SlugField().run_validation(data))


class PathSerializer(StrictSerializer):
    """One way to reach a domain: through a CDN, or (role origin) past every CDN, as a witness."""

    domain = OwnRow(queryset=ServiceDomain.objects.live())
    role = serializers.ChoiceField(
        choices=[choice for choice in Target.Role.choices if choice[0] in Target.DOMAIN_ROLES]
    )
    cdn = CdnSlug(allow_null=True, required=False)

    class Meta:
        model = Target
        fields = [
            "id", "domain", "role", "rank", "cdn", "address", "port", "probe_path", "capacity_percent", "enabled",
            "created_at",
        ]  # fmt: skip
        # Usage, weights and verdicts of the past point at a path: it keeps its meaning.
        fixed = ("domain", "role")


class PathFilter(FilterSet):
    service = IdFilter(field_name="domain__service")
    domain = IdFilter()
    role = ChoiceFilter(choices=[choice for choice in Target.Role.choices if choice[0] in Target.DOMAIN_ROLES])
    # Not a BooleanFilter, which takes what it does not understand for no filter at all.
    enabled = ChoiceFilter(choices=[("true", "true"), ("false", "false")], method="by_enabled")

    def by_enabled(self, queryset: QuerySet[Target], name: str, value: str) -> QuerySet[Target]:
        return queryset.filter(enabled=value == "true")


class PathViewSet(ReadViewSet, mixins.CreateModelMixin, mixins.UpdateModelMixin, mixins.DestroyModelMixin):
    """The CDN paths of domains and their origin witnesses. Deleting one switches it off; its history stays."""

    queryset = Target.objects.filter(
        role__in=Target.DOMAIN_ROLES, domain__deleted_at__isnull=True, domain__service__deleted_at__isnull=True
    ).select_related("cdn")
    serializer_class = PathSerializer
    filterset_class = PathFilter

    def perform_destroy(self, instance: Target) -> None:
        instance.enabled = False
        instance.save(update_fields=["enabled"])
        configuration.tell(instance, "deleted")


# --- maintenance ---------------------------------------------------------------------------------------------------


class SpanSerializer(serializers.Serializer[maintenance.Span]):
    """From the first moment to just before the last, in UTC."""

    start = serializers.DateTimeField()
    end = serializers.DateTimeField()


class MaintenanceWindowSerializer(StrictSerializer):
    """Probing goes on while work is done on a service, and no storm of it starts. `next` is the span that goes on or comes."""

    service = OwnRow(queryset=Service.objects.live())
    local_time = WallTime()
    weekdays = serializers.ListField(
        child=serializers.ChoiceField(choices=[day.value for day in maintenance.WEEK]), required=False, max_length=7
    )
    next = serializers.SerializerMethodField()

    class Meta:
        model = MaintenanceWindow
        fields = [
            "id", "service", "first_day", "local_time", "time_zone", "duration_seconds", "recurrence", "weekdays", "until",
            "reason", "next", "created_at",
        ]  # fmt: skip

    @extend_schema_field(SpanSerializer(allow_null=True))
    def get_next(self, window: MaintenanceWindow) -> Any:
        span = maintenance.upcoming(window.terms, timezone.now())
        return SpanSerializer(span).data if span else None


class MaintenanceWindowFilter(FilterSet):
    service = IdFilter()


class MaintenanceWindowViewSet(ReadViewSet, mixins.CreateModelMixin, mixins.DestroyModelMixin):
    """When work is done on services. Deleting a window lifts it; to change one, lift it and make another."""

    wants_if_match = False  # nobody edits it
    queryset = MaintenanceWindow.objects.live()
    serializer_class = MaintenanceWindowSerializer
    filterset_class = MaintenanceWindowFilter

    def perform_destroy(self, instance: MaintenanceWindow) -> None:
        instance.lift(timezone.now())
        configuration.tell(instance, "deleted")
