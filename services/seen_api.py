"""What was seen of a customer's paths: availability by step, and the samples themselves."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.utils import timezone
from django_filters.rest_framework import FilterSet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from customers.scoped import IdFilter, Scoped
from customers.views import ApiViewSet
from services.api import PathViewSet
from services.availability import series
from services.models import ProbeSample, Service, Target
from services.outcomes import Outcome
from tranche_site.floor.pagination import DEFAULT_LIMIT, MAX_ID, MAX_LIMIT


class SpanQuery(serializers.Serializer[Any]):
    # [from, to), with what is left out filled in.

    usual = timedelta(days=1)
    usual_in_words = "a day"

    to = serializers.DateTimeField(required=False, default_timezone=UTC, help_text="Unless told: now.")

    def get_fields(self) -> dict[str, Any]:
        # “from” is a word of Python's.
        start = serializers.DateTimeField(
            required=False, default_timezone=UTC, help_text=f"Unless told: {self.usual_in_words} before “to”."
        )
        return {"from": start, **super().get_fields()}

    def validate(self, query: dict[str, Any]) -> dict[str, Any]:
        try:
            end = query.get("to", timezone.now()).astimezone(UTC)
            start = self.begin(query.get("from", end - self.usual).astimezone(UTC))
        except OverflowError:
            raise serializers.ValidationError({"to": ["This is outside of the calendar."]}) from None
        if start >= end:
            raise serializers.ValidationError({"from": ["This is not before “to”."]})
        return query | {"from": start, "to": end}

    def begin(self, start: datetime) -> datetime:
        return start


# --- availability --------------------------------------------------------------------------------------------------

MAX_POINTS = 1500


class AvailabilityQuery(SpanQuery):
    """[from, to) in steps, all in whole minutes."""

    step = serializers.IntegerField(
        required=False, min_value=60, max_value=86_400, default=300, help_text="Seconds; a multiple of 60."
    )

    def begin(self, start: datetime) -> datetime:
        return start.replace(second=0, microsecond=0)

    def validate_step(self, step: int) -> int:
        if step % 60:
            raise serializers.ValidationError("Give a multiple of 60 seconds.")
        return step

    def validate(self, query: dict[str, Any]) -> dict[str, Any]:
        query = super().validate(query)
        if query["to"] - query["from"] > MAX_POINTS * timedelta(seconds=query["step"]):
            raise serializers.ValidationError(
                {"step": [f"That is more than {MAX_POINTS} points a path: make the step longer, or the time shorter."]}
            )
        return query


class PointSerializer(serializers.Serializer[Any]):
    """One step of one path, over all vantage points."""

    path = serializers.IntegerField(source="target_id")
    at = serializers.DateTimeField(help_text="When the step begins.")
    good = serializers.IntegerField()
    bad = serializers.IntegerField()
    availability = serializers.FloatField(allow_null=True, help_text="good / (good + bad); null when both are 0.")


class AvailabilityFilter(FilterSet):
    service = IdFilter(field_name="domain__service")


class AvailabilityViewSet(Scoped, ApiViewSet, mixins.ListModelMixin):
    """Good and bad probes of every path, by step. Pages hold all points of some paths: `limit` counts paths."""

    queryset = PathViewSet.queryset
    serializer_class = PointSerializer
    query_class = AvailabilityQuery
    filterset_class = AvailabilityFilter

    @extend_schema(parameters=[AvailabilityQuery])
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Steps without any probe are left out. Ordered by path and time."""
        query = AvailabilityQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        start, end, step = (query.validated_data[name] for name in ("from", "to", "step"))
        page: Any = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        points = series([path.pk for path in page], start, end, step)
        return self.get_paginated_response(PointSerializer(points, many=True).data)


# --- samples -------------------------------------------------------------------------------------------------------

MAX_DAYS = 31


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place among samples, by their key: what follows it (older), or with `is_back` what precedes it (newer)."""

    is_back: bool
    slot_at: datetime
    target_id: int
    vantage_point_id: int
    attempt: int

    @property
    def key(self) -> tuple[datetime, int, int, int]:
        return self.slot_at, self.target_id, self.vantage_point_id, self.attempt

    def __str__(self) -> str:
        microseconds = (self.slot_at - _EPOCH) // _MICROSECOND
        packed = _PACKED.pack(self.is_back, microseconds, self.target_id, self.vantage_point_id, self.attempt)
        return base64.urlsafe_b64encode(packed).decode()

    @classmethod
    def read(cls, text: str) -> Cursor:
        """Raises ValueError for what is none."""
        try:
            packed = base64.b64decode(text, b"-_", validate=True)
            is_back, microseconds, *rest = _PACKED.unpack(packed)
            return cls(is_back, _EPOCH + microseconds * _MICROSECOND, *rest)
        except (struct.error, OverflowError) as error:
            raise ValueError(str(error)) from error


_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_PACKED = struct.Struct(">?qqqh")


class CursorField(serializers.CharField):
    def to_internal_value(self, data: Any) -> Any:
        try:
            return Cursor.read(super().to_internal_value(data))
        except ValueError:
            raise serializers.ValidationError("This is no cursor: take it from the Link header.") from None


class SampleQuery(SpanQuery):
    """[from, to) by the times at which probes were due."""

    usual = timedelta(hours=1)
    usual_in_words = "an hour"

    path = serializers.IntegerField(
        required=False, min_value=1, max_value=MAX_ID, help_text="Id of a path, an origin witness or a facet of a path."
    )
    vantage_point = serializers.SlugField(required=False, help_text="Its name.")
    outcome = serializers.ChoiceField(required=False, choices=[outcome.value for outcome in Outcome])
    limit = serializers.IntegerField(
        required=False, min_value=1, max_value=MAX_LIMIT, default=DEFAULT_LIMIT, help_text="How many samples at most."
    )
    cursor = CursorField(required=False, help_text="Where to go on; taken from the Link header.")

    def validate(self, query: dict[str, Any]) -> dict[str, Any]:
        query = super().validate(query)
        if query["to"] - query["from"] > timedelta(days=MAX_DAYS):
            raise serializers.ValidationError({"from": [f"That is more than {MAX_DAYS} days before “to”."]})
        return query


class SampleSerializer(serializers.Serializer[Any]):
    """One probe from one vantage point. A phase that was not reached is null; durations are in milliseconds."""

    path = serializers.IntegerField(source="target_id")
    facet = serializers.ChoiceField(
        choices=Target.Facet.choices, allow_blank=True, help_text="What else was looked at than the path as such."
    )
    hostname = serializers.CharField(help_text="Of the path's domain.")
    vantage_point = serializers.CharField()
    region = serializers.CharField(help_text="Of the vantage point.")
    at = serializers.DateTimeField(help_text="When the probe started.")
    slot_at = serializers.DateTimeField(help_text="When it was due.")
    attempt = serializers.IntegerField(help_text="0 is the probe that was due, 1… are shots that confirm a failure.")
    outcome = serializers.ChoiceField(choices=[outcome.value for outcome in Outcome])
    status = serializers.IntegerField(allow_null=True)
    dns_ms = serializers.FloatField(allow_null=True)
    connect_ms = serializers.FloatField(allow_null=True)
    tls_ms = serializers.FloatField(allow_null=True)
    first_byte_ms = serializers.FloatField(allow_null=True)
    total_ms = serializers.FloatField(allow_null=True)
    remote_address = serializers.CharField(allow_null=True)
    protocol = serializers.CharField()
    certificate_expires_at = serializers.DateTimeField(allow_null=True)
    certificate_issuer = serializers.CharField()
    reason = serializers.CharField()
    is_blind = serializers.BooleanField(help_text="The vantage point was blind: this decides nothing.")
    is_late = serializers.BooleanField(help_text="Recorded late: this decides nothing.")
    in_maintenance = serializers.BooleanField(help_text="Work was done on the service or its CDN.")


_COLUMNS = [field.column for field in ProbeSample._meta.concrete_fields]

# The newest rows of every service by itself, and then the newest of those: so what is read does not grow with the time
# asked for. (service_id, slot_at) is compared as a row, since only the index on just that can give this order: with
# plain equality Postgres might walk through everybody's samples in the order of the primary key.
_SAMPLES = f"""
SELECT {", ".join(f"x.{column}" for column in _COLUMNS if column != "remote_address")},
    host(x.remote_address) AS remote_address, coalesce(t.facet, '') AS facet, coalesce(d.hostname, '') AS hostname,
    coalesce(v.name, '') AS vantage_point, coalesce(v.region, '') AS region
FROM (
    SELECT own.* FROM unnest(%(services)s::bigint[]) service (id) CROSS JOIN LATERAL (
        SELECT * FROM probe_samples s
        WHERE (s.service_id, s.slot_at) >= (service.id, %(start)s) AND (s.service_id, s.slot_at) < (service.id, %(end)s)
            AND s.slot_at >= %(start)s AND s.slot_at < %(end)s
            AND (%(after)s::timestamptz IS NULL OR (s.slot_at, s.target_id, s.vantage_point_id, s.attempt)
                {{follows}} (%(after)s, %(target)s, %(point)s, %(attempt)s))
            AND (%(path)s::bigint IS NULL OR s.target_id = %(path)s)
            AND (%(outcome)s::text IS NULL OR s.outcome = %(outcome)s)
            AND (%(vantage_point)s::text IS NULL OR s.vantage_point_id = (
                SELECT id FROM vantage_points WHERE name = %(vantage_point)s))
        ORDER BY s.service_id {{way}}, slot_at {{way}}, target_id {{way}}, vantage_point_id {{way}}, attempt {{way}}
        LIMIT %(limit)s
    ) own
    ORDER BY slot_at {{way}}, target_id {{way}}, vantage_point_id {{way}}, attempt {{way}}
    LIMIT %(limit)s
) x
LEFT JOIN targets t ON t.id = x.target_id
LEFT JOIN service_domains d ON d.id = t.domain_id
LEFT JOIN vantage_points v ON v.id = x.vantage_point_id
ORDER BY slot_at {{way}}, target_id {{way}}, vantage_point_id {{way}}, attempt {{way}}
"""  # noqa: S608
_OLDER, _NEWER = _SAMPLES.format(way="DESC", follows="<"), _SAMPLES.format(way="ASC", follows=">")


def _samples(service_ids: list[int], query: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """A page, newest first, and whether there is more in the direction that its cursor goes."""
    cursor: Cursor | None = query.get("cursor")
    start, end, limit = query["from"], query["to"], query["limit"]
    is_back = cursor is not None and cursor.is_back
    if cursor and is_back:
        start = max(start, cursor.slot_at)
    elif cursor and cursor.slot_at < end:
        end = cursor.slot_at + _MICROSECOND
    after, target, point, attempt = cursor.key if cursor else (None, None, None, None)
    terms = {name: query.get(name) for name in ("path", "outcome", "vantage_point")}
    place = {"after": after, "target": target, "point": point, "attempt": attempt}
    with connection.cursor() as db:
        db.execute(
            _NEWER if is_back else _OLDER,
            {"services": service_ids, "start": start, "end": end, "limit": limit + 1, **terms, **place},
        )
        names = [column.name for column in db.description]
        rows = [dict(zip(names, row, strict=True)) for row in db.fetchall()]
    page = rows[:limit]
    return page[::-1] if is_back else page, len(rows) > limit


class SampleFilter(FilterSet):
    service = IdFilter(field_name="pk")


class SampleViewSet(Scoped, ApiViewSet, mixins.ListModelMixin):
    """Every probe of a customer's paths, as long as samples are kept."""

    queryset = Service.objects.live()
    serializer_class = SampleSerializer
    query_class = SampleQuery
    filterset_class = SampleFilter
    pagination_class = None  # its own: samples have no id to count by

    @extend_schema(parameters=[SampleQuery])
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Newest first. No sample is skipped or repeated while others come in."""
        query = SampleQuery(data=request.query_params.dict())  # as a form, it would take a blank cursor for none
        query.is_valid(raise_exception=True)
        terms = query.validated_data
        services = self.filter_queryset(self.get_queryset())
        if "path" in terms:
            services = services.filter(domains__targets=terms["path"])
        page, more = _samples(list(services.values_list("pk", flat=True)), terms)
        links = _links(request, terms, page, more)
        return Response(SampleSerializer(page, many=True).data, headers={"Link": links} if links else None)


def _links(request: Request, terms: Mapping[str, Any], page: list[dict[str, Any]], more: bool) -> str:
    """They tell the times that were looked at, so that a page ends where the first one would have ended."""
    came_from: Cursor | None = terms.get("cursor")
    has_next = more or bool(came_from and came_from.is_back)
    has_previous = more if came_from and came_from.is_back else came_from is not None
    url = request.build_absolute_uri()
    for name in ("from", "to"):
        url = replace_query_param(url, name, terms[name].isoformat())
    ways = [("next", page[-1:], has_next), ("prev", page[:1], has_previous)]
    return ", ".join(
        f'<{replace_query_param(url, "cursor", str(_cursor(row, is_back=rel == "prev")))}>; rel="{rel}"'
        for rel, rows, is_there in ways
        if is_there
        for row in rows
    )


def _cursor(row: Mapping[str, Any], is_back: bool) -> Cursor:
    return Cursor(is_back, row["slot_at"], row["target_id"], row["vantage_point_id"], row["attempt"])
