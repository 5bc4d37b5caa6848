"""The OpenAPI document: it says what refusals look like, too, and is made once."""

from __future__ import annotations

from http import HTTPStatus
from threading import Lock
from typing import Any, Literal

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from rest_framework import serializers

from tranche_site.floor.problems import CONTENT_TYPE

ALWAYS = (
    HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_ACCEPTABLE,
    HTTPStatus.TOO_MANY_REQUESTS,
)  # fmt: skip
WITH_BODY = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
WRITING = {
    "POST": (HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY, *WITH_BODY),
    "PATCH": (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.PRECONDITION_REQUIRED, *WITH_BODY),
    "DELETE": (HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.PRECONDITION_REQUIRED),
}


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
    code = serializers.CharField(help_text="For programs: what exactly was wrong.")
    request_id = serializers.CharField(required=False, help_text="What to tell us when you ask about this.")
    detail = serializers.CharField(required=False)
    errors = ProblemError(many=True, required=False)  # type: ignore[assignment]  # the metaclass takes it away


class ProblemSchema(AutoSchema):
    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        bodies: dict[str, Any] = super()._get_response_bodies(direction)
        statuses = [*ALWAYS]
        if "{" in self.path:
            statuses.append(HTTPStatus.NOT_FOUND)
        statuses += WRITING.get(self.method, ())
        for status in statuses:
            bodies[str(status.value)] = self._get_response_for_code(
                Problem, str(status.value), media_types=[CONTENT_TYPE]
            ) | {"description": status.phrase}
        return bodies


def refuse_unknown(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Bodies of requests have no further fields than those that are described: the API refuses them."""
    schemas = result["components"]["schemas"]
    waiting = [
        content["schema"]
        for path in result["paths"].values()
        for operation in path.values()
        for content in operation.get("requestBody", {}).get("content", {}).values()
    ]
    closed = set()
    while waiting:
        schema = waiting.pop()
        name = schema.get("$ref", "").rpartition("/")[2]
        if name and name not in closed:
            closed.add(name)
            waiting.append(schemas[name])
        if "properties" in schema:
            schema["additionalProperties"] = False
        waiting += [
            *schema.get("properties", {}).values(),
            *(part for word in ("allOf", "oneOf", "anyOf") for part in schema.get(word, ())),
            *([schema["items"]] if isinstance(schema.get("items"), dict) else []),
        ]
    return result


class KeptGenerator(SchemaGenerator):
    """Makes the document once a process: it takes seconds, is the same for everybody, and anybody may ask for it."""

    _made: dict[str, Any] = {}
    _making = Lock()

    def get_schema(self, request: Any = None, public: bool = False) -> dict[str, Any]:
        with self._making:
            if not self._made:
                self._made.update(super().get_schema(request, public))
        return self._made

    @classmethod
    def forget(cls) -> None:
        cls._made.clear()
