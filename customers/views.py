"""What every view of the v1 API does alike: limits, one transaction a write, idempotency, preconditions, strict queries."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from typing import Any

from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.exceptions import ValidationError
from rest_framework.permissions import SAFE_METHODS
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from customers import idempotency, throttling
from customers.models import IdempotentRequest
from tranche_site.floor.parsing import BoundedJSONParser
from tranche_site.floor.preconditions import PreconditionFailed, PreconditionRequired, etag, names

_LOOKS_LIKE_A_KEY = re.compile("trk_[0-9a-f]{8}_")


# Comments, not docstrings, on the classes below: subclasses without one of their own would print them in the document.


class _Answered(Exception):
    # The kept answer of an earlier request: nothing is left to do.

    def __init__(self, row: IdempotentRequest) -> None:
        super().__init__()
        self.row = row


class ApiView(APIView):
    metadata_class = None
    # Actions that ask servers elsewhere, or make nothing: they hold no transaction, and acting twice does no harm.
    without_transaction: frozenset[str] = frozenset()
    # Fields that change by themselves: whoever edits a row is not told of those as of somebody's edit.
    volatile: tuple[str, ...] = ()
    # The parameters, beside filters and pages, that a query may have.
    query_class: Any = None

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        self._claimed: IdempotentRequest | None = None
        self._is_atomic = request.method not in SAFE_METHODS and self._action(request) not in self.without_transaction
        with transaction.atomic() if self._is_atomic else nullcontext():
            response = super().dispatch(request, *args, **kwargs)
            if self._claimed and isinstance(response, Response) and response.status_code < 300:
                # Rendered here for the books, in the transaction of the effect; the answer itself is rendered as ever.
                content = b"" if response.data is None else JSONRenderer().render(response.data)
                idempotency.keep(self._claimed, response.status_code, content)
        return response

    def _action(self, request: HttpRequest) -> str:
        actions: dict[str, str] = getattr(self, "action_map", None) or {}
        return actions.get((request.method or "").lower(), "")

    def check_permissions(self, request: Request) -> None:
        """What is refused counts as well: it costs as much."""
        super().check_throttles(request)
        super().check_permissions(request)

    def check_throttles(self, request: Request) -> None:
        """It was counted before permissions were asked for."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self._check_query(request)
        if request.method != "POST":
            return
        key = idempotency.key_of(request._request)
        if key and self._is_atomic:
            row = idempotency.claim(
                request.user.customer,  # type: ignore[union-attr]
                key,
                idempotency.fingerprint(request._request),
                timezone.now(),
            )
            if row.status is not None:
                raise _Answered(row)
            self._claimed = row

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, _Answered):
            return _Replayed(exc.row)
        if self._is_atomic:
            transaction.set_rollback(True)  # a refusal leaves nothing behind, and lets go of its Idempotency-Key
            self._claimed = None
        return super().handle_exception(exc)

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        plain: HttpRequest = getattr(request, "_request", request)
        for name, value in throttling.headers_of(plain).items():
            response[name] = value
        response.setdefault("Cache-Control", "private, no-cache")
        if isinstance(response, Response) and response.status_code in (200, 201):
            response.add_post_render_callback(lambda done: self._tag(plain, done))
        return response

    # --- queries ---

    def _check_query(self, request: Request) -> None:
        """A parameter that nobody reads is a mistake of the caller's, or a filter that he believes in."""
        if request.method not in self.allowed_methods:
            return  # that is what is wrong with it
        asked = request.query_params
        if any(_LOOKS_LIKE_A_KEY.match(value) for values in asked.lists() for value in values[1]):
            raise ValidationError("An API key in an address ends up in logs: send it as the Authorization header, and revoke "
                                  "this one.", "key_in_address")  # fmt: skip
        if blank := sorted(name for name, values in asked.lists() if "" in values):
            raise ValidationError({name: ["Give a value, or leave the parameter out."] for name in blank}, "blank")
        if unknown := sorted(set(asked) - self._query_names()):
            raise ValidationError({name: ["There is no such parameter here."] for name in unknown}, "unknown_parameter")

    def _query_names(self) -> set[str]:
        if self.request.method not in SAFE_METHODS:
            return set()
        found = set(self.query_class().fields) if self.query_class else set()
        if getattr(self, "action", "list") != "list":
            return found
        if filters := getattr(self, "filterset_class", None):
            found |= set(filters.base_filters)
        if paginator := getattr(self, "paginator", None):
            found |= {parameter["name"] for parameter in paginator.get_schema_operation_parameters(self)}
        return found

    # --- representations ---

    def _tag(self, request: HttpRequest, response: Response) -> HttpResponse | None:
        tag = (
            self.tag_of(response.data) if self.volatile and isinstance(response.data, dict) else etag(response.content)
        )
        response["ETag"] = f"W/{tag}" if self.volatile else tag
        asked = request.headers.get("If-None-Match")
        if asked and request.method in SAFE_METHODS and not self.volatile and names(asked, tag):
            response.status_code = 304
            response.content = b""
            del response["Content-Type"]
        return None

    def tag_of(self, data: Any) -> str:
        """The ETag of a row's representation, without what changes by itself."""
        return etag(JSONRenderer().render({name: value for name, value in data.items() if name not in self.volatile}))

    def require_match(self, data: Any) -> None:
        """Raises PreconditionRequired and PreconditionFailed: of a row that two may edit, who writes says what he saw."""
        asked = self.request.headers.get("If-Match")
        if asked is None:
            raise PreconditionRequired
        if not names(asked, self.tag_of(data)):
            raise PreconditionFailed


class _Replayed(Response):
    # An answer that was given before, as it was.

    def __init__(self, row: IdempotentRequest) -> None:
        super().__init__(json.loads(row.body), status=row.status, headers={"Idempotent-Replayed": "true"})


class ApiViewSet(ApiView, GenericViewSet[Any]):
    # Ids are digits, PUT does not exist, and OPTIONS tells nothing that the document does not.

    http_method_names = ["get", "head", "post", "patch", "delete"]
    lookup_value_regex = "[0-9]{1,18}"
    parser_classes = [BoundedJSONParser]
    # Whether two people may edit a row: then a change says which state of it was seen.
    wants_if_match = True

    def get_object(self) -> Any:
        if self.request.method not in ("PATCH", "DELETE"):
            return super().get_object()
        row = super().get_object()
        if not self.wants_if_match:
            return row
        # Locked, then looked at: of two who saw the same, the second is told.
        self._lock(row)
        row = super().get_object()
        self.require_match(self.get_serializer(row).data)
        return row

    @staticmethod
    def _lock(row: models.Model) -> None:
        list(type(row)._default_manager.filter(pk=row.pk).select_for_update(of=("self",)).values_list("pk"))
