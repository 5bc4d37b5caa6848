"""What the API says when it refuses: RFC 9457 problem documents, one shape for every error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import psycopg.errors
from django.apps import apps
from django.core.exceptions import NON_FIELD_ERRORS, RequestDataTooBig
from django.core.exceptions import ValidationError as ModelError
from django.db import IntegrityError, models
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.permissions import SAFE_METHODS
from rest_framework.response import Response
from rest_framework.serializers import as_serializer_error
from rest_framework.settings import api_settings
from rest_framework.views import exception_handler as drf_exception_handler

from tranche_site.floor import request_id

CONTENT_TYPE = "application/problem+json"
API_PREFIX = "/v1/"
WHOLE_DOCUMENT = (NON_FIELD_ERRORS, api_settings.NON_FIELD_ERRORS_KEY)


class Conflict(exceptions.APIException):
    """The request is sound by itself, but something that exists stands against it."""

    status_code = HTTPStatus.CONFLICT
    default_detail = "This conflicts with something that exists."
    default_code = "conflict"


class TooLarge(exceptions.APIException):
    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_detail = "The request's body is too large."
    default_code = "too_large"


def document(
    status: int, detail: str = "", errors: list[dict[str, str]] | None = None, *, code: str, request: HttpRequest | None
) -> dict[str, Any]:
    """`code` is for programs, and stays; `detail` is for people, and may be said better one day."""
    problem: dict[str, Any] = {
        "type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code
    }  # fmt: skip
    if request is not None and (asked := request_id.of(request)):
        problem["request_id"] = asked
    if detail:
        problem["detail"] = detail
    if errors:
        problem["errors"] = errors
    return problem


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Django REST framework's handler, with its answers (and their headers) turned into problem documents."""
    if isinstance(exc, ModelError):
        exc = exceptions.ValidationError(as_serializer_error(exc))
    elif isinstance(exc, IntegrityError):
        exc = _refused_by_database(exc) or exc
    elif isinstance(exc, RequestDataTooBig):
        exc = TooLarge()
    elif isinstance(exc, Http404):
        exc = exceptions.NotFound()  # without its message, which names the model
    response = drf_exception_handler(exc, context)
    if response is None or not isinstance(exc, exceptions.APIException):
        return response
    if isinstance(exc.detail, dict | list):
        # A request without a body can only be wrong in its query.
        place = "parameter" if context["request"].method in SAFE_METHODS else "pointer"
        errors = list(_errors(exc.detail, place))
        said, code = (errors[0]["detail"], exc.default_code) if errors else ("", exc.default_code)
    else:
        errors, said, code = None, str(exc.detail), exc.detail.code or exc.default_code
    plain = getattr(context["request"], "_request", None)
    response.data = document(response.status_code, said, errors, code=code, request=plain)
    response.content_type = CONTENT_TYPE
    return response


def _errors(detail: Any, place: str, path: str = "") -> Iterator[dict[str, str]]:
    if isinstance(detail, Mapping):
        for key, value in detail.items():
            step = "" if key in WHOLE_DOCUMENT else f"/{str(key).replace('~', '~0').replace('/', '~1')}"
            yield from _errors(value, place, path + step)
    elif isinstance(detail, list):
        for index, value in enumerate(detail):
            nested = isinstance(value, Mapping | list)
            yield from _errors(value, place, f"{path}/{index}" if nested else path)
    else:
        where = path.removeprefix("/") if place == "parameter" else f"#{path}"
        yield {place: _text(where), "code": getattr(detail, "code", "invalid"), "detail": _text(detail)}


def _text(value: Any) -> str:
    """Errors quote what was sent, and JSON can hold half a surrogate pair, which UTF-8 can't."""
    return str(value).encode(errors="replace").decode()


# --- what Postgres refuses -----------------------------------------------------------------------------------------


def _refused_by_database(error: IntegrityError) -> exceptions.APIException | None:
    """Constraints are judged by Postgres alone, so that no race gets past them; here they find their words again.

    None for what no request should be able to cause, such as a missing value: that is an error of ours.
    """
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error):
        return None
    constraint = _constraint(cause.diag.constraint_name or "")
    message = str(constraint.get_violation_error_message()) if constraint else ""
    detail = {field: [message] for field in _fields(constraint)} if constraint else None
    match cause:
        case psycopg.errors.UniqueViolation() | psycopg.errors.ExclusionViolation():
            return Conflict(detail)
        case psycopg.errors.CheckViolation():
            return exceptions.ValidationError(detail or "A value is out of range.", "out_of_range")
    return None


def _constraint(name: str) -> models.BaseConstraint | None:
    return next((c for model in apps.get_models() for c in model._meta.constraints if c.name == name), None)


def _fields(constraint: models.BaseConstraint) -> list[str]:
    """The fields that a constraint reads and a request can name; the customer is never among them."""
    match constraint:
        case models.UniqueConstraint():
            parts = models.Func(*constraint.expressions).flatten()
            named = {part.name for part in parts if isinstance(part, models.F)}  # type: ignore[attr-defined]
            names = {*constraint.fields, *named}
        case models.CheckConstraint(condition=models.Q() as condition):
            names = condition.referenced_base_fields
        case _:
            names = set()
    return sorted(names - {"customer"}) or [NON_FIELD_ERRORS]


# --- errors outside the views --------------------------------------------------------------------------------------


def _json(request: HttpRequest, status: HTTPStatus, detail: str, code: str) -> JsonResponse:
    problem = document(status, detail, code=code, request=request)
    return JsonResponse(problem, status=status, content_type=CONTENT_TYPE)


@csrf_exempt
def not_found(request: HttpRequest, exception: Exception | None = None, **kwargs: Any) -> HttpResponse:
    """Unknown addresses: JSON below /v1, Django's page elsewhere."""
    if request.path.startswith(API_PREFIX):
        return _json(request, HTTPStatus.NOT_FOUND, str(exceptions.NotFound.default_detail), "not_found")
    return defaults.page_not_found(request, exception or Http404())


def server_error(request: HttpRequest) -> HttpResponse:
    if request.path.startswith(API_PREFIX):
        return _json(request, HTTPStatus.INTERNAL_SERVER_ERROR, "Something failed on our side.", "error")
    return defaults.server_error(request)
