"""Tenancy, in one place: what a request can see and name is what its customer owns.

Authentication (an app's business) sets `request.user.customer`. What is somebody else's is answered like what does not
exist. Beside the scope stand the strict serializer and the viewsets that every app's API is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.db import models, transaction
from django.utils import timezone
from django_filters.fields import IsoDateTimeField
from django_filters.rest_framework import IsoDateTimeFilter, NumberFilter
from rest_framework import mixins, serializers
from rest_framework.request import Request
from rest_framework.viewsets import GenericViewSet

from customers import configuration
from customers.views import ApiViewSet
from tranche_site.floor import json_fields
from tranche_site.floor.soft_delete import soft_delete


def customer_of(request: Request) -> Any:
    return request.user.customer  # type: ignore[union-attr]  # the principal that authentication set


# --- what a request can name ---------------------------------------------------------------------------------------


class OwnRow(serializers.PrimaryKeyRelatedField[Any]):
    """The id of a row of the request's customer, in a request's body."""

    def __init__(self, **kwargs: Any) -> None:
        # The integer field refuses what int() would round or read as a number, such as 1.5 and true.
        super().__init__(pk_field=json_fields.Integer(), **kwargs)

    def get_queryset(self) -> models.QuerySet[Any]:
        rows: Any = super().get_queryset()
        return rows.filter(customer=customer_of(self.context["request"]))


class IdFilter(NumberFilter):
    """An id in the query; somebody else's simply matches nothing."""

    field_class = forms.IntegerField


class MomentField(IsoDateTimeField):
    def to_python(self, value: Any) -> datetime | None:
        moment = super().to_python(value)
        try:
            # Postgres knows fewer offsets than ISO 8601; in UTC every moment of the calendar suits it.
            return moment and moment.astimezone(UTC)
        except OverflowError:
            raise forms.ValidationError(self.error_messages["invalid"], code="invalid") from None


class MomentFilter(IsoDateTimeFilter):
    field_class = MomentField


def since(field: str) -> MomentFilter:
    """Of a list, the rows whose time is this or later."""
    return MomentFilter(field_name=field, lookup_expr="gte", label="This time or later.")


def until(field: str) -> MomentFilter:
    """Of a list, the rows whose time is before this."""
    return MomentFilter(field_name=field, lookup_expr="lt", label="Before this time.")


# Comments, not docstrings, on the classes below: subclasses without one of their own would print them in the document.


class Strict(serializers.Serializer[Any]):
    # Refuses fields that it does not know: a word that is misspelt must not pass for a default.

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            refused = {name: [reason] for name in data if (reason := self._why_not(name))}
            if refused:
                raise serializers.ValidationError(refused)
        return super().to_internal_value(data)

    def _why_not(self, name: str) -> serializers.ErrorDetail | None:
        field = self.fields.get(name)
        if field is None:
            return serializers.ErrorDetail("There is no such field.", "unknown_field")
        if field.read_only:
            return serializers.ErrorDetail("This field is read only.", "read_only")
        meta = getattr(self, "Meta", None)
        if self.instance is not None and name in getattr(meta, "fixed", ()):
            return serializers.ErrorDetail("This never changes; make a new one.", "fixed")
        return None


class StrictSerializer(Strict, serializers.ModelSerializer[Any]):
    # Asks the model whether a row may be saved. So API, admin and database agree: the model's own checks run here as they
    # do in a form, and its constraints are left to Postgres (`problems` gives those their words). `Meta.fixed` names the
    # fields that never change once they are set.

    serializer_field_mapping = serializers.ModelSerializer.serializer_field_mapping | json_fields.MAPPING

    # Postgres is the referee of uniqueness: no validators for it, and no fields required by them.
    def get_unique_together_validators(self) -> list[Any]:
        return []

    def get_uniqueness_extra_kwargs(
        self, field_names: Any, declared_fields: Any, extra_kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return extra_kwargs, {}

    def create(self, validated_data: dict[str, Any]) -> Any:
        model: Any = self.Meta.model
        row = self._save(model(customer=customer_of(self.context["request"]), **validated_data))
        configuration.tell(row, "created")
        return row

    def update(self, instance: Any, validated_data: dict[str, Any]) -> Any:
        changed = [name for name, value in validated_data.items() if getattr(instance, name) != value]
        for name, value in validated_data.items():
            setattr(instance, name, value)
        # Only what the request named is written, so that two requests for different fields do not undo each other.
        row = self._save(instance, update_fields=list(validated_data))
        if changed:
            configuration.tell(row, "updated", changed)
        return row

    @transaction.atomic
    def _save(self, row: Any, **how: Any) -> Any:
        row.full_clean(validate_unique=False, validate_constraints=False)
        row.save(**how)
        return row


# --- what a request can see ----------------------------------------------------------------------------------------


class Scoped(GenericViewSet[Any]):
    # Every queryset of a view below holds rows of the request's customer alone. `owner` leads to the customer; where it
    # leads over many rows, each row of the view counts once.

    owner = "customer"

    def get_queryset(self) -> models.QuerySet[Any]:
        mine = super().get_queryset().filter(**{self.owner: customer_of(self.request)})
        return mine.distinct() if "__" in self.owner else mine


class ReadViewSet(Scoped, ApiViewSet, mixins.ListModelMixin, mixins.RetrieveModelMixin):
    pass


class OwnedViewSet(ReadViewSet, mixins.CreateModelMixin, mixins.DestroyModelMixin):
    # Rows that customers make and take away; what is taken away stays in the books.

    def perform_destroy(self, instance: models.Model) -> None:
        soft_delete(instance, timezone.now())
        configuration.tell(instance, "deleted")
