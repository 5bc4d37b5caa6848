"""Every text of the database with a script in it: what a page shows of it must stay text."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db import DatabaseError, connection, models, transaction

SCRIPT = "<img src=x onerror=window.ran=1>\"'><script>window.ran=1</script>{{7*7}}"
SHORT = "<svg onload=window.ran=1>"
NOT_OURS = {"contenttypes", "sessions", "django_celery_beat", "django_celery_results"}
KEPT = {
    # What code looks up by its spelling, and what a browser sends back to log in.
    "time_zone", "auth.Permission", "auth.Group", "auth.User.password", "auth.User.username",
    "tranche_site.SavedView.list", "tranche_site.SavedView.query", "tranche_site.Page.path",
}  # fmt: skip


def poison() -> set[str]:
    """Add the script to all texts that are not one of a few words. Returns the columns that took it, as app.Model.field."""
    took = set()
    with transaction.atomic(), connection.cursor() as cursor:
        # Some tables are append-only, which is no hindrance to who wrote a row in the first place.
        cursor.execute("SELECT set_config('session_replication_role', 'replica', true)")
        for model in apps.get_models():
            if model._meta.app_label in NOT_OURS or model._meta.label in KEPT or not model._meta.managed:
                continue
            for field in model._meta.local_concrete_fields:
                name = f"{model._meta.label}.{field.name}"
                if (
                    {name, field.name}.isdisjoint(KEPT)
                    and not field.choices
                    and not field.name.startswith("sealed_")
                    and _poisoned(model, field)
                ):
                    took.add(name)
    return took


def _poisoned(model: type[models.Model], field: models.Field[Any, Any]) -> bool:
    if not isinstance(field, models.CharField | models.TextField | models.JSONField):
        return False
    return any(_write(model, field, text) for text in (SCRIPT, SHORT))


def _write(model: type[models.Model], field: models.Field[Any, Any], text: str) -> bool:
    changed = False
    try:
        with transaction.atomic():
            for pk, value in model._base_manager.values_list("pk", field.name):
                new = _with(value, text) if isinstance(field, models.JSONField) else f"{value}{text}" if value else text
                if new != value:
                    changed |= bool(model._base_manager.filter(pk=pk).update(**{field.name: new}))
    except DatabaseError:  # a hostname, a URL, a digest: the database itself lets no script in
        return False
    return changed


def _with(value: Any, text: str) -> Any:
    """Sentences within a document; its keys and single words are what code goes by."""
    if isinstance(value, dict):
        return {key: _with(below, text) for key, below in value.items()}
    if isinstance(value, list):
        return [_with(below, text) for below in value]
    return value + text if isinstance(value, str) and " " in value else value
