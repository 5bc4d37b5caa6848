"""Who changed what, as triggers wrote it down, per object and per person; and the seals upon it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib import admin
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.text import Truncator

from tranche_site.audit import AUDITED
from tranche_site.floor.console_admin import InfinitePaginator, RangeDateTimeFilter, ReadOnly, display
from tranche_site.models import AuditEntry, AuditSeal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.models import Model, QuerySet
    from django.http import HttpRequest

ACTION_COLOURS = {"made": "success", "changed": "info", "deleted": "danger"}
MOST_CHARACTERS = 120


def _models() -> dict[str, type[Model]]:
    return {model._meta.db_table: model for model in apps.get_models(include_auto_created=True)}


class TableFilter(admin.SimpleListFilter):
    title = "table"
    parameter_name = "table__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        known = _models()
        return [(row.table, str(known[row.table]._meta.verbose_name_plural)) for row in AUDITED if row.table in known]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
        return queryset.filter(table=self.value()) if self.value() else queryset


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly):
    list_display = ["at", "action_label", "what", "said", "who", "reason"]
    list_filter = [TableFilter, "action", ("at", RangeDateTimeFilter)]
    search_fields = ["^actor", "=row_id", "=request_id"]
    search_help_text = "A person or API key, the id of a row, or of a request."
    fields = ["at", "action", "what", "table", "row_id", "whole", "actor", "reason", "request_id", "database_user"]
    readonly_fields = ["what", "whole"]
    paginator = InfinitePaginator
    empty_hint = "Every change of what moves traffic or money, or gives access, is written here by the database itself."

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup in ("row_id__exact", "actor__exact") or super().lookup_allowed(lookup, value, request)

    @display(description="done", ordering="action", label=ACTION_COLOURS)
    def action_label(self, entry: AuditEntry) -> str:
        return entry.get_action_display()

    @display(description="row")
    def what(self, entry: AuditEntry) -> str:
        model = _models().get(entry.table)
        name = f"{model._meta.verbose_name if model else entry.table} {entry.row_id}"
        if model is None:
            return name
        try:
            url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[entry.row_id])
        except NoReverseMatch:
            return name
        return format_html('<a class="text-link" href="{}">{}</a>', url, name)

    @display(description="changes")
    def said(self, entry: AuditEntry) -> str:
        return Truncator(", ".join(_lines(entry))).chars(MOST_CHARACTERS)

    @display(description="changes")
    def whole(self, entry: AuditEntry) -> str:
        return format_html_join("", "<div>{}</div>", ((line,) for line in _lines(entry)))

    @display(description="by", ordering="actor")
    def who(self, entry: AuditEntry) -> str:
        if not entry.actor:
            return "by itself"
        url = f"{reverse('admin:tranche_site_auditentry_changelist')}?actor__exact="
        return format_html('<a class="text-link" href="{}{}">{}</a>', url, entry.actor, entry.actor)


def _lines(entry: AuditEntry) -> Iterator[str]:
    """Of a row that was made or deleted, what it said; of one that was changed, what before and what then."""
    for column, (old, new) in entry.changes.items():
        if old == new == "secret":
            yield f"{column}: {'set' if entry.action == AuditEntry.Action.INSERT else 'changed'}"
        elif entry.action == AuditEntry.Action.UPDATE:
            yield f"{column}: {_said(old)} → {_said(new)}"
        elif column != "id" and (said := new if old is None else old) not in (None, "", [], {}):
            yield f"{column}: {_said(said)}"


def _said(value: Any) -> str:
    return "–" if value is None else str(value)


@admin.register(AuditSeal)
class AuditSealAdmin(ReadOnly):
    list_display = ["until", "since", "entries", "sha256", "sealed_at"]
    fields = ["since", "until", "entries", "sha256", "sealed_at"]
    paginator = InfinitePaginator
    empty_hint = "Once an hour, what was audited up to the hour before is sealed; `manage.py selfcheck` compares."
