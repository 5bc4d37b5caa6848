"""Digests, to look at: who was mailed about what, and what is still to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join

from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    InfinitePaginator,
    ReadOnly,
    coloured,
    display,
    moment,
    two_lines,
)
from tranche_site.models import Digest

if TYPE_CHECKING:
    from django.db.models import QuerySet

COLOURS = {"in trouble": "danger", "gathering": "info", "goes on": "warning", "over": "success"}
SHOWN = 50


def state(digest: Digest) -> str:
    if digest.error:
        return "in trouble"
    if digest.pending_since:
        return "gathering"
    return "goes on" if digest.subjects else "over"


@admin.register(Digest)
class DigestAdmin(ReadOnly):
    list_display = ["recipient", "story", "state_label", "mails", "last_sent_at", "due_at"]
    list_select_related = ["customer"]
    list_filter = [("customer", AutocompleteSelectFilter)]
    search_fields = ["recipient", "group"]
    paginator = InfinitePaginator
    fieldsets = [
        (
            None,
            {
                "fields": [
                    ("recipient", "story"), ("state_label", "mails"), ("opened_at", "closed_at"),
                    ("last_sent_at", "due_at"), "trouble", "told",
                ],
            },
        )
    ]  # fmt: skip
    readonly_fields = ["story", "state_label", "trouble", "told"]
    empty_hint = "Nobody was mailed yet. Customers are by their alert address, staff by STAFF_MAIL."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Digest]:
        return super().get_queryset(request).order_by("-id")

    @display(description="story", ordering="group")
    def story(self, digest: Digest) -> str:
        return str(digest.customer) if digest.customer else digest.group.replace(":", " ")

    @display(description="state")
    def state_label(self, digest: Digest) -> str:
        said = state(digest)
        label = coloured(said, COLOURS[said])
        return two_lines(label, digest.error) if digest.error else label

    @display(description="trouble")
    def trouble(self, digest: Digest) -> str:
        return f"{digest.error} (tried {digest.attempts} times)" if digest.error else "-"

    @display(description="the newest events")
    def told(self, digest: Digest) -> Any:
        entries = digest.entries.select_related("event").order_by("-id")[:SHOWN]
        lines = (
            (moment(entry.event.created_at), entry.event.summary, "" if entry.mailed_at else " (to be mailed)")
            for entry in entries
        )
        return format_html("<div>{}</div>", format_html_join("", "<div>{} {}{}</div>", lines)) if entries else "-"
