"""Whether this process lives, and whether what it stands on does."""

from __future__ import annotations

from celery import current_app
from django.db import Error, connection
from django.db.models import Max
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError

BROKER_TIMEOUT_SECONDS = 2


@require_safe
def alive(request: HttpRequest) -> HttpResponse:
    """Asks nothing of anybody: restarting this process would not mend a database."""
    return HttpResponse("ok", content_type="text/plain")


@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """503 while the database or the broker is down.

    The age of beat's last dispatch is told, not judged: people need the console most when beat is dead.
    """
    database, broker = _database_answers(), _broker_answers()
    report = {
        "database": "ok" if database else "down",
        "broker": "ok" if broker else "down",
        "beat_age_seconds": _beat_age_seconds() if database else None,
    }
    return JsonResponse(report, status=200 if database and broker else 503)


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        return False
    return True


def _broker_answers() -> bool:
    try:
        with current_app.connection_for_read() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_TIMEOUT_SECONDS)
    except OperationalError:
        return False
    return True


def _beat_age_seconds() -> float | None:
    newest = PeriodicTask.objects.aggregate(at=Max("last_run_at"))["at"]
    return round((timezone.now() - newest).total_seconds(), 1) if newest else None
