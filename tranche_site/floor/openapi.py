"""The OpenAPI document says what refusals look like, too."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal

from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers

from tranche_site.floor.problems import CONTENT_TYPE

ALWAYS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_ACCEPTABLE)
WITH_BODY = (
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)


Direction = Literal["request", "response"]


class ProblemError(serializers.Serializer[Any]):
    pointer = serializers.CharField(required=False, help_text="JSON pointer into the request's body.")
    parameter = serializers.CharField(required=False, help_text="Name of the query parameter.")
    code = serializers.CharField()
    detail = serializers.CharField()


class Problem(serializers.Serializer[Any]):
    """RFC 9457."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(required=False)
    errors = ProblemError(many=True, required=False)  # type: ignore[assignment]  # the metaclass takes it away


class ProblemSchema(AutoSchema):
    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        bodies: dict[str, Any] = super()._get_response_bodies(direction)
        statuses = [*ALWAYS]
        if "{" in self.path:
            statuses.append(HTTPStatus.NOT_FOUND)
        if self.method in ("POST", "PATCH"):
            statuses += WITH_BODY
        for status in statuses:
            bodies[str(status.value)] = self._get_response_for_code(
                Problem, str(status.value), media_types=[CONTENT_TYPE]
            ) | {"description": status.phrase}
        return bodies
