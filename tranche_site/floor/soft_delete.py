"""Deleting what the books still point at: a mark on the row and on everything below it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import models, transaction


def soft_delete(row: models.Model, now: datetime) -> None:
    """Mark a row as deleted, and everything below it, so that nothing stays live under something that is gone."""
    with transaction.atomic():
        _mark_deleted(type(row)._base_manager.filter(pk=row.pk), now)


def _mark_deleted(rows: models.QuerySet[Any], now: datetime) -> None:
    for relation in rows.model._meta.related_objects:
        below = relation.related_model
        if any(field.name == "deleted_at" for field in below._meta.concrete_fields):
            _mark_deleted(below._base_manager.filter(**{f"{relation.field.name}__in": rows}), now)
    rows.filter(deleted_at__isnull=True).update(deleted_at=now)
