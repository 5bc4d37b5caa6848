"""What was delivered, for reading only."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.utils.html import format_html

from billing.models import UnknownHostUsage, UsageBucket, UsageSnapshot
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    InfinitePaginator,
    RangeDateTimeFilter,
    ReadOnly,
    data_size,
    display,
    when,
)


class Bytes:
    """The column of every page that counts traffic."""

    @display(description="traffic", ordering="bytes")
    def size(self, row: Any) -> str:
        return format_html('<span title="{} bytes">{}</span>', f"{row.bytes:,}", data_size(row.bytes))


@admin.register(UsageSnapshot)
class UsageSnapshotAdmin(Bytes, ReadOnly):
    list_display = ["hour", "service", "target", "size", "requests", "grade", "updated_at"]
    ordering = ["-id"]  # all but their hours' order, and an index that is there anyway
    list_select_related = ["service", "target__domain", "target__cdn"]
    list_filter = [
        ("service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
        "target__role",
        "grade",
        ("window_start", RangeDateTimeFilter),
    ]
    search_fields = ["service__name", "customer__name", "target__domain__hostname"]
    paginator = InfinitePaginator
    empty_hint = "Hours of usage appear here once logs have been read: add a usage source."

    @display(description="hour (UTC)", ordering="window_start")
    def hour(self, row: UsageSnapshot) -> str:
        return f"{row.window_start:%Y-%m-%d %H:%M}–{row.window_end:%H:%M}"


@admin.register(UsageBucket)
class UsageBucketAdmin(Bytes, ReadOnly):
    list_display = [when("minute_at"), "service", "target", "size", "requests", "grade", "log_object"]
    list_select_related = ["service", "target__domain", "target__cdn", "log_object"]
    list_filter = [("service", AutocompleteSelectFilter), ("minute_at", RangeDateTimeFilter)]
    ordering = ["-id"]
    paginator = InfinitePaginator
    empty_hint = "Minutes of usage appear here once logs have been read: add a usage source."


@admin.register(UnknownHostUsage)
class UnknownHostUsageAdmin(Bytes, ReadOnly):
    list_display = ["host", "minute_at", "size", "requests", "reason", "log_object"]
    list_select_related = ["log_object"]
    list_filter = [("minute_at", RangeDateTimeFilter)]
    search_fields = ["host"]
    paginator = InfinitePaginator
    empty_hint = "Every host in the logs belongs to a verified domain."
