"""Every call that wrote, or tried to."""

from __future__ import annotations

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html

from dns.admin.shown import stacked, trouble_colour, worded
from dns.models import WriteAttempt
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    InfinitePaginator,
    RangeDateTimeFilter,
    ReadOnly,
    coloured,
    display,
    moment,
    two_lines,
)

OUTCOME_COLOURS = {
    "accepted": "success",
    "refused": "danger",
    "failed": "warning",
    "unknown": "warning",
    "no word": "info",
}


def took(attempt: WriteAttempt) -> str:
    return f"{(attempt.ended_at - attempt.started_at).total_seconds():.2f} s" if attempt.ended_at else "-"


def outcome(attempt: WriteAttempt) -> str:
    said = attempt.outcome or "no word"
    return coloured(said, OUTCOME_COLOURS[said])


@admin.register(WriteAttempt)
class WriteAttemptAdmin(ReadOnly):
    list_display = ["zone_of_account", "batch", "result", "error", "when", "live"]
    list_select_related = ["account"]
    list_filter = [
        "outcome",
        "trouble",
        ("account", AutocompleteSelectFilter),
        ("started_at", RangeDateTimeFilter),
    ]
    search_fields = ["zone", "account__name", "error"]
    paginator = InfinitePaginator
    fieldsets = [
        (None, {"fields": [("account", "zone"), ("result", "batch"), "error"]}),
        ("When", {"fields": [("started_at", "ended_at"), ("took", "live"), ("polls", "next_poll_at")]}),
        ("What the vendor said", {"fields": ["receipt"]}),
    ]
    empty_hint = "Nothing was written yet. Each call to a vendor that writes is kept here, with what came of it."

    @display(description="zone", ordering="zone")
    def zone_of_account(self, attempt: WriteAttempt) -> str:
        return two_lines(attempt.zone, attempt.account)

    @display(description="changes")
    def batch(self, attempt: WriteAttempt) -> str:
        ids = ",".join(map(str, attempt.change_ids))
        url = f"{reverse('admin:dns_weightchange_changelist')}?id__in={ids}"
        return format_html('<a class="text-link" href="{}">{}</a>', url, len(attempt.change_ids))

    @display(description="outcome", ordering="outcome")
    def result(self, attempt: WriteAttempt) -> str:
        trouble = coloured(worded(attempt.trouble), trouble_colour(attempt.trouble)) if attempt.trouble else ""
        return stacked(filter(None, [outcome(attempt), trouble]))

    @display(description="started (UTC)", ordering="started_at")
    def when(self, attempt: WriteAttempt) -> str:
        return two_lines(moment(attempt.started_at), f"took {took(attempt)}" if attempt.ended_at else "no word yet")

    @display(description="took")
    def took(self, attempt: WriteAttempt) -> str:
        return took(attempt)

    @display(description="at all its servers (UTC)", ordering="live_at")
    def live(self, attempt: WriteAttempt) -> str:
        if attempt.live_at:
            return moment(attempt.live_at)
        return "being asked" if attempt.next_poll_at else "-"
