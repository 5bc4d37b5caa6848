"""Reads request bodies: JSON in UTF-8, bounded in size and depth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from tranche_site.floor.problems import TooLarge


class BoundedJSONParser(JSONParser):
    """Django's limit on bodies holds for its own readers only, and Django REST framework lets deep nesting escape."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise TooLarge
        try:
            return json.loads(body.decode(), parse_constant=_refuse)
        except RecursionError:
            raise ParseError("JSON parse error: nested too deeply.") from None
        except ValueError as error:
            raise ParseError(f"JSON parse error: {error}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
