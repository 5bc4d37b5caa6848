"""Pages of bare JSON arrays; where the next one is says the Link header (RFC 8288)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import Model
from rest_framework.exceptions import ValidationError
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

if TYPE_CHECKING:
    from rest_framework.views import APIView

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
MAX_ID = 2**63 - 1


class LinkHeaderPagination(BasePagination):
    """Cursor pagination by id: constant work per page, and no row is skipped or repeated while others come and go.

    A view with `newest_first` counts down, unless the query says otherwise. Ids grow with time, so that one order is
    enough; any other would need an index of its own for every filter beside it.
    """

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any]:
        limit = _number(request, "limit", MAX_LIMIT) or DEFAULT_LIMIT
        after, before = _number(request, "after", MAX_ID), _number(request, "before", MAX_ID)
        descending = _is_descending(request, view)
        if after:
            queryset = queryset.filter(**{"pk__lt" if descending else "pk__gt": after})
        if before:
            queryset = queryset.filter(**{"pk__gt" if descending else "pk__lt": before})
        # Before a row means the page next to it; between two, the first page of what lies there.
        backwards = before is not None and after is None
        rows = list(queryset.order_by("-pk" if descending != backwards else "pk")[: limit + 1])
        more, rows = len(rows) > limit, rows[:limit]
        if backwards:
            rows.reverse()
        # Going back, the rows that we came from lie ahead; going on, they lie behind.
        has_next, has_previous = (True, more) if backwards else (more, bool(after))
        self.links = []
        if rows and has_next:
            self.links.append(_link(request, "next", "after", rows[-1]))
        if rows and has_previous:
            self.links.append(_link(request, "prev", "before", rows[0]))
        return rows

    def get_paginated_response(self, data: Any) -> Response:
        return Response(data, headers={"Link": ", ".join(self.links)} if self.links else None)

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return schema

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        return [
            _parameter("limit", MAX_LIMIT, f"How many rows at most; {DEFAULT_LIMIT} unless told."),
            _parameter("after", MAX_ID, "Rows that follow this id; taken from the Link header."),
            _parameter("before", MAX_ID, "Rows that precede this id; taken from the Link header."),
            {
                "name": "ordering", "in": "query", "required": False, "schema": {"type": "string", "enum": [*ORDERINGS]},
                "description": f"The oldest (id) or the newest (-id) first; {_usual_ordering(view)} unless told.",
            },
        ]  # fmt: skip


ORDERINGS = ("id", "-id")


def _usual_ordering(view: APIView | None) -> str:
    return ORDERINGS[bool(getattr(view, "newest_first", False))]


def _is_descending(request: Request, view: APIView | None) -> bool:
    asked = request.query_params.get("ordering", _usual_ordering(view))
    if asked not in ORDERINGS:
        raise ValidationError({"ordering": ["Give id or -id."]})
    return asked == "-id"


def _number(request: Request, name: str, maximum: int) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    # The length is looked at first: int() refuses very long numbers with an error of its own.
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= maximum):
        raise ValidationError({name: [f"Give a whole number from 1 to {maximum}."]})
    return int(text)


def _link(request: Request, rel: str, cursor: str, row: Model) -> str:
    here = remove_query_param(remove_query_param(request.build_absolute_uri(), "after"), "before")
    return f'<{replace_query_param(here, cursor, row.pk)}>; rel="{rel}"'


def _parameter(name: str, maximum: int, description: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 1, "maximum": maximum}
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}
