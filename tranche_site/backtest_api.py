"""What a policy would have done: a backtest of a customer's own service. It only reads, whatever its verb."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection, transaction
from django.db.models import Model
from drf_spectacular.utils import extend_schema, extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.exceptions import Throttled
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from customers.authentication import HasScope
from customers.models import ApiKey
from customers.scoped import OwnRow, Scoped, Strict, customer_of
from customers.views import ApiViewSet
from services.models import Service
from storms import terms
from storms.backtest import Found, FoundStorm
from storms.models import Finding, StormEvent, StormPolicy
from storms.recordings import TooMuch
from storms.verdicts import Policy
from tranche_site import backtests
from tranche_site.backtests import Backtest

MAX_DAYS = 31
WAIT_SECONDS = 5


def _choices(model: type[Model], name: str) -> list[Any]:
    field: Any = model._meta.get_field(name)
    return list(field.choices)


# --- what is asked -------------------------------------------------------------------------------------------------


class PolicyTermsSerializer(serializers.Serializer[Policy]):
    """A policy's fields. What is left out has its default; the interval and the certificate's days are the service's."""

    def get_fields(self) -> dict[str, Any]:
        kind = serializers.ChoiceField(choices=_choices(StormPolicy, "kind"), required=False)
        return {"kind": kind} | {name: _number(name) for name in terms.LIMITS}

    def to_internal_value(self, data: Any) -> Any:
        """Read by `terms.read` once the service is known, and by it alone: so all who speak of policies agree."""
        if not isinstance(data, Mapping):
            raise serializers.ValidationError("This must be an object with a policy's fields.")
        # Its digits, as they were sent: to `terms`, a float is no exact number.
        return {name: Decimal(repr(value)) if isinstance(value, float) else value for name, value in data.items()}

    def to_representation(self, instance: Policy) -> dict[str, Any]:
        return terms.dump(instance)


def _number(name: str) -> serializers.Field[Any, Any, Any, Any]:
    least, most = terms.LIMITS[name]
    if isinstance(getattr(Policy(), name, None), int):
        return serializers.IntegerField(min_value=int(least), max_value=int(most), required=False)
    return serializers.DecimalField(
        max_digits=None, decimal_places=None, min_value=least, max_value=most, required=False
    )


@extend_schema_serializer(component_name="Backtest")
class QuestionSerializer(Strict):
    """[start, end) of a service, under one policy or two."""

    service = OwnRow(queryset=Service.objects.live())
    start = serializers.DateTimeField(default_timezone=UTC)
    end = serializers.DateTimeField(default_timezone=UTC, help_text=f"At most {MAX_DAYS} days after the start.")
    policy = PolicyTermsSerializer(required=False, help_text="Unless told: the service's own.")
    against = PolicyTermsSerializer(required=False, allow_null=True, help_text="A second policy, side by side.")

    def validate_start(self, start: datetime) -> datetime:
        return _in_utc(start)

    def validate_end(self, end: datetime) -> datetime:
        return _in_utc(end)

    def validate(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["start"] >= asked["end"]:
            raise serializers.ValidationError({"start": ["This is not before “end”."]})
        if asked["end"] - asked["start"] > timedelta(days=MAX_DAYS):
            raise serializers.ValidationError({"start": [f"That is more than {MAX_DAYS} days before “end”."]})
        return asked | _policies(asked)


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise serializers.ValidationError("This is outside of the calendar.") from None


def _policies(asked: dict[str, Any]) -> dict[str, Policy | None]:
    service: Service = asked["service"]
    of_service = {
        "interval_seconds": service.interval_seconds, "minimum_certificate_days": service.minimum_certificate_days
    }  # fmt: skip
    policies: dict[str, Policy | None] = {"against": None}
    errors = {}
    for name in ("policy", "against"):
        if (document := asked.get(name)) is not None:
            try:
                policies[name] = terms.read(document, **of_service)
            except terms.TermsError as error:
                errors[name] = _by_field(str(error), document)
    if errors:
        raise serializers.ValidationError(errors)
    return policies if "policy" in policies else policies | {"policy": backtests.policy_of(service)}


def _by_field(said: str, document: Mapping[str, Any]) -> dict[str, list[str]] | list[str]:
    """`terms` says “field: what is wrong”; the field may also be one that the document leaves out."""
    field = next((name for name in (*document, *terms.LIMITS) if said.startswith(f"{name}: ")), None)
    return [said] if field is None else {field: [said.removeprefix(f"{field}: ")]}


# --- what is answered ----------------------------------------------------------------------------------------------


class SpellSerializer(serializers.Serializer[Any]):
    """A bad stretch of a storm; `end` is null where it was not over yet."""

    start = serializers.DateTimeField()
    end = serializers.DateTimeField(allow_null=True)


class BacktestStormSerializer(serializers.Serializer[FoundStorm]):
    """A storm as it would have been."""

    domains = serializers.ListField(child=serializers.CharField())
    kind = serializers.ChoiceField(choices=_choices(StormPolicy, "kind"))
    started_at = serializers.DateTimeField()
    detected_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    closed_at = serializers.DateTimeField(allow_null=True)
    attribution = serializers.ChoiceField(choices=_choices(StormEvent, "attribution"))
    regions = serializers.ListField(child=serializers.CharField())
    relapses = serializers.IntegerField()
    reason = serializers.CharField()
    spells = serializers.SerializerMethodField()

    @extend_schema_field(SpellSerializer(many=True))
    def get_spells(self, storm: FoundStorm) -> Any:
        return SpellSerializer([{"start": start, "end": end} for start, end in storm.spells], many=True).data


class BacktestFindingSerializer(serializers.Serializer[Found]):
    """A finding, when it came up."""

    at = serializers.DateTimeField()
    domain = serializers.CharField(allow_blank=True)
    path = serializers.CharField(allow_blank=True, help_text="Its role and CDN; empty: the domain's or the service's.")
    kind = serializers.ChoiceField(choices=_choices(Finding, "kind"))
    reason = serializers.CharField()


class BacktestLedgerSerializer(serializers.Serializer[Any]):
    """Amounts in minor units of the currency: what delivery would have cost more, and what cover would have paid of it."""

    currency = serializers.CharField()
    moved_bytes = serializers.IntegerField()
    extra_minor = serializers.IntegerField()
    discount_minor = serializers.IntegerField()
    net_minor = serializers.IntegerField()


class _Seconds(serializers.FloatField):
    """To the microsecond: a sum of floats has more digits than it knows."""

    def to_representation(self, value: Any) -> Any:
        return round(value, 6)


class _StartedAt(serializers.DateTimeField):
    def to_representation(self, value: Any) -> Any:
        return super().to_representation(value.started_at)


class BacktestSideSerializer(serializers.Serializer[Any]):
    """What one policy would have done."""

    policy = PolicyTermsSerializer(help_text="All its terms, as they were taken.")
    storms = BacktestStormSerializer(source="result.storms", many=True)
    findings = BacktestFindingSerializer(source="result.findings", many=True)
    samples = serializers.IntegerField(source="result.samples")
    covered_seconds = _Seconds(source="result.covered_seconds", help_text="The length of all spells.")
    would_have = BacktestLedgerSerializer(
        source="ledger", allow_null=True, help_text="Null where billing knows no contract, or no usage of this time."
    )
    alone = serializers.ListField(
        child=_StartedAt(), help_text="`started_at` of the storms at a time when the other policy has none."
    )


class BacktestSerializer(BacktestSideSerializer):
    """What a policy would have done, and what another one would have done instead: null unless asked for."""

    service = serializers.IntegerField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    against = BacktestSideSerializer(allow_null=True)


class MayRead(BasePermission):
    message = HasScope.message

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, ApiKey) and "read" in request.auth.scopes


class BacktestViewSet(Scoped, ApiViewSet):
    """Nothing is made by it: the question is only too long for an address."""

    queryset = Service.objects.live()
    permission_classes = [MayRead]
    without_transaction = frozenset({"create"})

    @extend_schema(request=QuestionSerializer, responses={200: BacktestSerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What a policy would have done over recorded samples, as long as they are kept: storms, findings and money."""
        asked = QuestionSerializer(data=request.data, context=self.get_serializer_context())
        asked.is_valid(raise_exception=True)
        with transaction.atomic():
            if not _is_alone(customer_of(request).pk):
                raise Throttled(WAIT_SECONDS, "A backtest of yours is running: they take turns.")
            try:
                backtest = backtests.run(**asked.validated_data)
            except TooMuch as error:
                raise serializers.ValidationError({"start": [f"There are {error}."]}) from None
        return Response(BacktestSerializer(_flat(backtest)).data)


def _is_alone(customer: int) -> bool:
    """One at a time of each customer: it is seconds of a core, and web has few. Until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtext('tranche.backtest'), %s)", [customer])
        return bool(cursor.fetchone()[0])


def _flat(backtest: Backtest) -> dict[str, Any]:
    side = backtest.side
    return {
        "service": backtest.service.pk, "start": backtest.start, "end": backtest.end, "against": backtest.against,
        "policy": side.policy, "result": side.result, "ledger": side.ledger, "alone": side.alone,
    }  # fmt: skip
