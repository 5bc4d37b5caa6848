"""Deleting what the books still point at: a mark on the row and on everything below it; and taking the mark off again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction


def soft_delete(row: models.Model, now: datetime) -> None:
    """Mark a row as deleted, and everything below it, so that nothing stays live under something that is gone."""
    with transaction.atomic():
        _mark(type(row)._base_manager.filter(pk=row.pk), since=None, to=now)


def restore(row: models.Model) -> None:
    """Undo it: the row, and what was deleted together with it, which its mark of the same moment tells from the rest.

    Raises ValidationError where something above it is deleted, or where another has taken its place meanwhile.
    """
    for field in row._meta.concrete_fields:
        above = getattr(row, field.name) if isinstance(field, models.ForeignKey) else None
        if isinstance(above, models.Model) and getattr(above, "deleted_at", None):
            raise ValidationError(f"The {above._meta.verbose_name} {above} is deleted itself: restore it first.")
    try:
        with transaction.atomic():
            _mark(type(row)._base_manager.filter(pk=row.pk), since=getattr(row, "deleted_at"), to=None)  # noqa: B009  of a row that has one
    except IntegrityError:
        raise ValidationError(
            f"Something else has taken the place of {row}, or of what belongs to it: another of that name or hostname is in "
            "use. Delete or rename that one first."
        ) from None


def _mark(rows: models.QuerySet[Any], since: datetime | None, to: datetime | None) -> None:
    """Rows that have one mark get another, those below them first."""
    for relation in rows.model._meta.related_objects:
        below = relation.related_model
        if any(field.name == "deleted_at" for field in below._meta.concrete_fields):
            _mark(below._base_manager.filter(**{f"{relation.field.name}__in": rows}), since, to)
    rows.filter(deleted_at=since).update(deleted_at=to)
