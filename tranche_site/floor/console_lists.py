"""A list of the console as a CSV file: the rows that its filters leave, with the columns that it shows."""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.contrib.admin.utils import label_for_field, lookup_field
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied
from django.http import StreamingHttpResponse

from tranche_site.floor.spreadsheets import guarded

if TYPE_CHECKING:
    from django.http import HttpRequest

ASKED = "_csv"
MOST_ROWS = 100_000
CHUNK = 1000
_TAG = re.compile(r"<[^>]*>")
_BLANKS = re.compile(r"\s+")


class _Echo:
    """A file that hands each line on instead of keeping it."""

    def write(self, line: str) -> str:
        return line


def as_csv(admin: Any, request: HttpRequest, now: datetime) -> StreamingHttpResponse:
    """Streamed, in memory that does not grow with the rows; MOST_ROWS at most. Raises PermissionDenied."""
    if not admin.has_view_or_change_permission(request):
        raise PermissionDenied
    query = request.GET.copy()
    query.pop(ASKED)
    setattr(request, "GET", query)  # noqa: B010  what the list itself would have been asked
    shown = admin.get_changelist_instance(request)
    columns = [column for column in shown.list_display if column != "action_checkbox"]
    name = f"{admin.opts.verbose_name_plural.replace(' ', '-')}-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.csv"
    return StreamingHttpResponse(
        _lines(admin, columns, shown.queryset),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _lines(admin: Any, columns: list[Any], rows: Any) -> Iterator[str]:
    write: Callable[[list[str]], str] = csv.writer(_Echo(), lineterminator="\r\n").writerow
    yield write(["id", *(_heading(admin, column) for column in columns)])
    for row in rows[:MOST_ROWS].iterator(chunk_size=CHUNK):
        yield write([str(row.pk), *(guarded(_text(admin, column, row)) for column in columns)])


def _heading(admin: Any, column: Any) -> str:
    return str(label_for_field(column, admin.model, model_admin=admin))


def _text(admin: Any, column: Any, row: Any) -> str:
    try:
        field, _, value = lookup_field(column, row, admin)
    except ObjectDoesNotExist:
        return ""
    if field is not None and field.flatchoices:
        value = dict(field.flatchoices).get(value, value)
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if hasattr(value, "__html__"):  # what the list shows as more than text
        value = html.unescape(_TAG.sub(" ", str(value)))
    return _BLANKS.sub(" ", str(value)).strip() if isinstance(value, str) else str(value)
