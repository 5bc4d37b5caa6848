"""Bytes and requests, out of the CDNs' logs."""

from __future__ import annotations

from django_filters.rest_framework import FilterSet
from rest_framework import serializers

from billing.models import UsageSnapshot
from customers.scoped import IdFilter, MomentFilter, ReadViewSet


class UsageSnapshotSerializer(serializers.ModelSerializer[UsageSnapshot]):
    role = serializers.CharField(source="target.role", help_text="Of the path: primary or backup.", read_only=True)

    class Meta:
        model = UsageSnapshot
        fields = [
            "id", "service", "target", "role", "window_start", "window_end", "bytes", "requests", "grade", "updated_at",
        ]  # fmt: skip


class UsageSnapshotFilter(FilterSet):
    """Windows that begin at `from` or later and end at `to` or earlier."""

    service = IdFilter()


# “from” is a word of Python's, so this filter can't be declared like the other.
UsageSnapshotFilter.base_filters["from"] = MomentFilter(field_name="window_start", lookup_expr="gte")
UsageSnapshotFilter.base_filters["to"] = MomentFilter(field_name="window_end", lookup_expr="lte")


class UsageSnapshotViewSet(ReadViewSet):
    """Bytes and requests by service, path and window, out of CDN logs; newest first."""

    queryset = UsageSnapshot.objects.select_related("target")
    serializer_class = UsageSnapshotSerializer
    filterset_class = UsageSnapshotFilter
    newest_first = True
