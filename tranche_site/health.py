"""Whether this process lives, and whether what it stands on does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from django.conf import settings
from django.db import Error, connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.models import Max
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe
from django_celery_beat.models import PeriodicTask

from tranche_site.floor import sealed, seen

DATABASE_TIMEOUT_MS = 400
"""For each of three statements: with the broker's timeouts all checks stay below two seconds. `connect_timeout` bounds the
connecting."""
BEAT_LATE_SECONDS = 30
WORKER_LATE_SECONDS = 90
"""A worker with one process is silent while it reads a log, which it may for as long as a task may take."""
QUICK_QUEUES = ("default", "storms", "dns")
"""Those that nothing may wait in: without a worker of each there is no protection."""


@dataclass(frozen=True, slots=True)
class Check:
    state: str
    """ok, or what is wrong, in a word: down, behind, late, unseen, missing, invalid; unknown if nobody could ask."""
    ms: float = 0.0
    age_seconds: float | None = None
    detail: str = ""


@require_safe
def alive(request: HttpRequest) -> HttpResponse:
    """Asks nothing of anybody: restarting this process would not mend a database."""
    return HttpResponse("ok", content_type="text/plain")


@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """503 while the database or the broker is down, or the database is older than this code.

    Beat, workers and keys are told, not judged: people need the console most when beat is dead.
    """
    checks = {"database": _timed(_database)}
    checks["broker"] = _timed(_broker)
    is_serving = all(check.state == "ok" for check in checks.values())
    has_database, has_broker = checks["database"].state in ("ok", "behind"), checks["broker"].state == "ok"
    checks["beat"] = _timed(_beat) if has_database else Check("unknown")
    checks["worker"] = _timed(_worker) if has_broker else Check("unknown")
    checks["credential_key"] = _timed(_credential_key)
    report = {
        "status": "ready" if is_serving else "not ready",
        "checks": {name: _shown(check) for name, check in checks.items()},
    }
    return JsonResponse(report, status=200 if is_serving else 503, headers={"Cache-Control": "no-store"})


def _shown(check: Check) -> dict[str, Any]:
    return {name: value for name, value in asdict(check).items() if value not in (None, "")}


def _timed(check: Callable[[], Check]) -> Check:
    began = time.perf_counter()
    found = check()
    return Check(found.state, round((time.perf_counter() - began) * 1000, 1), found.age_seconds, found.detail)


def _database() -> Check:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(DATABASE_TIMEOUT_MS)])
            cursor.execute("SELECT app, name FROM django_migrations")
            missing = sorted(_newest_migrations() - set(cursor.fetchall()))
    except Error:
        return Check("down")
    if missing:
        names = ", ".join(f"{app}.{name}" for app, name in missing[:3])
        return Check("behind", detail=f"not applied: {names}; run manage.py prepare")
    return Check("ok")


@cache
def _newest_migrations() -> frozenset[tuple[str, str]]:
    """Of each app; read from disk once, since they come with the code."""
    return frozenset(MigrationLoader(None).graph.leaf_nodes())


def _broker() -> Check:
    try:
        with seen.broker_client():
            pass
    except seen.BROKER_ERRORS:
        return Check("down")
    return Check("ok")


def _beat() -> Check:
    try:
        newest = PeriodicTask.objects.aggregate(at=Max("last_run_at"))["at"]
    except Error:
        return Check("unknown")
    if newest is None:
        return Check("unseen")
    age = round((timezone.now() - newest).total_seconds(), 1)
    return Check("ok" if age < BEAT_LATE_SECONDS else "late", age_seconds=age)


def _worker() -> Check:
    try:
        with seen.broker_client() as client:
            ages = seen.ages(client)
    except seen.BROKER_ERRORS:
        return Check("unknown")
    if unseen := [queue for queue in QUICK_QUEUES if queue not in ages]:
        return Check("unseen", detail=f"no worker of {', '.join(unseen)}")
    age = max(ages[queue] for queue in QUICK_QUEUES)
    return Check("ok" if age < WORKER_LATE_SECONDS else "late", age_seconds=round(age, 1))


def _credential_key() -> Check:
    try:
        sealed.current_key_id()
    except sealed.SealedError as error:
        return Check("missing" if not settings.CREDENTIAL_KEYS else "invalid", detail=str(error))
    return Check("ok")
