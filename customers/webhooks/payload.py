"""What an event looks like outside: the body of a webhook, and a row of /v1/events."""

from __future__ import annotations

import json
from typing import Any

from customers import catalogue
from customers.models import Event

MOST_BYTES = 20_000


def event_id(event: Event) -> str:
    return f"evt_{event.pk}"


def of(event: Event) -> dict[str, Any]:
    """The event as customers see it. What would be too long for a webhook has no data: the subject is in the API."""
    document: dict[str, Any] = {
        "id": event_id(event),
        "type": event.kind,
        "version": catalogue.KINDS[event.kind].version if event.kind in catalogue.KINDS else 1,
        "created_at": event.created_at.isoformat().replace("+00:00", "Z"),
        "subject": {"type": event.subject_type, "id": event.subject_id},
        "summary": event.summary[:2000],
        "data": event.payload,
    }
    if len(dumps(document)) > MOST_BYTES - 100:
        document |= {"data": {}, "is_truncated": True}
    return document


def dumps(document: dict[str, Any]) -> bytes:
    """The same bytes each time, since the signature is of bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def body(event: Event, sequence: int) -> bytes:
    """The body of a webhook: `sequence` counts what its endpoint is told, so that a receiver sees what it missed."""
    return dumps(of(event) | {"sequence": sequence})
