"""Idempotency-Key: a POST that is sent twice acts once, and the second gets the answer of the first.

The key is claimed, the effect made and the answer kept in one transaction. Whoever comes with the same key meanwhile waits
for that transaction; if it fails, the key is free again. Only what succeeded is kept: a refusal had no effect, so the
same key may come again with what was mended.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import psycopg.errors
from django.db import OperationalError, connection
from django.http import HttpRequest
from rest_framework.exceptions import APIException, ValidationError

from customers.models import Customer, IdempotentRequest
from tranche_site.floor.problems import Conflict

HEADER = "Idempotency-Key"
LONGEST = 255
KEPT = timedelta(hours=24)
PATIENCE_SECONDS = 10
WITHHELD = "secret"
"""What an answer shows only once; it is not kept, so that it isn't shown again either."""


class OtherRequest(APIException):
    status_code = HTTPStatus.UNPROCESSABLE_ENTITY
    default_detail = "This Idempotency-Key was used for another request: take a new one."
    default_code = "idempotency_key_reused"


def key_of(request: HttpRequest) -> str:
    """The request's key; empty if it has none. Raises ValidationError."""
    key = request.headers.get(HEADER)
    if key is None:
        return ""
    if not (1 <= len(key) <= LONGEST and key.isascii() and key.isprintable()):
        raise ValidationError(f"{HEADER}: give 1 to {LONGEST} printable ASCII characters.", "idempotency_key")
    return key


def fingerprint(request: HttpRequest) -> str:
    told = "\n".join((request.method or "", request.get_full_path(), request.content_type or "")).encode()
    return hashlib.sha256(told + b"\n" + request.body).hexdigest()


def claim(customer: Customer, key: str, asked: str, now: datetime) -> IdempotentRequest:
    """The row of this key, ours to fill if it has no status yet. Call it in the transaction of the effect.

    Raises Conflict while the first one is at work for too long, OtherRequest where the key was used for something else.
    """
    IdempotentRequest.objects.filter(customer=customer, key=key, created_at__lte=now - KEPT).delete()
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{PATIENCE_SECONDS}s"])
        try:
            row, _ = IdempotentRequest.objects.get_or_create(
                customer=customer, key=key, defaults={"fingerprint": asked, "created_at": now}
            )
        except OperationalError as error:
            if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                raise Conflict("The first request with this Idempotency-Key is still at work.", "in_progress") from None
            raise
        cursor.execute("SELECT set_config('lock_timeout', '0', true)")
    if row.fingerprint != asked:
        raise OtherRequest
    return row


def keep(row: IdempotentRequest, status: int, content: bytes) -> None:
    """Keep an answer in JSON, or an empty one."""
    document: Any = json.loads(content) if content else None
    if isinstance(document, dict) and WITHHELD in document:
        document[WITHHELD] = None
    row.status, row.body = status, json.dumps(document)
    row.save(update_fields=["status", "body"])


def prune(now: datetime) -> int:
    """Forget what is too old to be asked for again. Returns how many rows went."""
    gone, _ = IdempotentRequest.objects.filter(created_at__lte=now - KEPT).delete()
    return gone
