"""Fields that take JSON at its word: 1 is no text, "1" no number and "yes" no truth. Django REST framework, which reads HTML
forms too, would guess."""

from __future__ import annotations

import math
from typing import Any

from django.db import models
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers


class Text(serializers.CharField):
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class Integer(serializers.IntegerField):
    def to_internal_value(self, data: Any) -> Any:
        # 1.0 is an integer to JSON Schema; 1e999 is none to anybody.
        is_number = isinstance(data, int | float) and not isinstance(data, bool)
        if not is_number or not math.isfinite(data) or data != int(data):
            self.fail("invalid")
        return super().to_internal_value(int(data))


class Truth(serializers.BooleanField):
    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


@extend_schema_field({"type": "string", "pattern": r"^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"})
class WallTime(serializers.TimeField):
    """A time of day in some time zone, which is why it has no offset: the parser would drop one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(format="%H:%M:%S", input_formats=["%H:%M", "%H:%M:%S"], **kwargs)

    def to_internal_value(self, value: Any) -> Any:
        if not isinstance(value, str):
            self.fail("invalid", format="HH:MM[:SS]")
        return super().to_internal_value(value)


MAPPING = {
    models.CharField: Text,
    models.TextField: Text,
    models.BooleanField: Truth,
    models.IntegerField: Integer,
    models.BigIntegerField: Integer,
    models.SmallIntegerField: Integer,
    models.PositiveIntegerField: Integer,
    models.PositiveSmallIntegerField: Integer,
}
