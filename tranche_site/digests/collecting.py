"""Events that await mail become entries of digests. The events that wait are marked as such: there is no cursor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from django.conf import settings
from django.db import connection, transaction

from customers.models import Event
from customers.models.mailed import MAILED
from tranche_site.digests import timing
from tranche_site.models import Digest, DigestEntry

EVENTS_AT_ONCE = 500
_LOCK = 7_403_003
_CHANGED = ["subjects", "is_over", "pending_since", "due_at"]

Place = tuple[str, str]
"""Recipient and group."""


def collect(now: datetime) -> int:
    """Once at a time; each batch is one transaction. Returns how many events were taken."""
    taken = 0
    while True:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
                if not cursor.fetchone()[0]:
                    return taken
            waiting = Event.objects.filter(awaits_mail=True).select_related("customer").order_by("id")
            events = list(waiting.select_for_update(of=("self",), skip_locked=True)[:EVENTS_AT_ONCE])
            _enter(events, now)
            Event.objects.filter(pk__in=[event.pk for event in events]).update(awaits_mail=False)
        taken += len(events)
        if len(events) < EVENTS_AT_ONCE:
            return taken


def _enter(events: Iterable[Event], now: datetime) -> None:
    placed = [(place, event) for event in events for place in _places(event)]
    if not placed:
        return
    digests = _digests(dict(placed), now)
    for place, event in placed:
        _note(digests[place], event, now)
    DigestEntry.objects.bulk_create(DigestEntry(digest=digests[place], event=event) for place, event in placed)
    for digest in digests.values():
        digest.due_at = timing.due_at(
            digest.pending_since, digest.last_sent_at, is_over=digest.is_over, last_was_end=digest.last_was_end
        )
    Digest.objects.bulk_update(digests.values(), _CHANGED)


def _places(event: Event) -> Iterator[Place]:
    """Who is told, and within which story."""
    mailed = MAILED.get(event.kind)
    if mailed is None:
        return
    if mailed.to_customer and event.customer and (address := event.customer.alert_address):
        yield address, f"customer:{event.customer_id}"
    if mailed.to_staff:
        group = f"incident:{event.subject_id}" if event.kind.startswith("incident.") else "operations"
        for address in dict.fromkeys(settings.STAFF_MAIL):
            yield address, group


def _digests(places: dict[Place, Event], now: datetime) -> dict[Place, Digest]:
    """The open digest of each place, locked; made where there is none."""
    recipients, groups = zip(*places, strict=True)
    rows = Digest.objects.filter(recipient__in=recipients, group__in=groups, closed_at=None).select_for_update()
    found = {(row.recipient, row.group): row for row in rows}
    made = [
        Digest(
            recipient=recipient, group=group, opened_at=now,
            customer_id=event.customer_id if group.startswith("customer:") else None,
        )
        for (recipient, group), event in places.items()
        if (recipient, group) not in found
    ]  # fmt: skip
    Digest.objects.bulk_create(made)
    return {place: row for place, row in found.items() if place in places} | {
        (row.recipient, row.group): row for row in made
    }


def _note(digest: Digest, event: Event, now: datetime) -> None:
    mailed, subject = MAILED[event.kind], f"{event.subject_type}:{event.subject_id}"
    digest.pending_since = digest.pending_since or now
    if mailed.opens and subject not in digest.subjects:
        digest.subjects.append(subject)
        digest.is_over = False
    if mailed.closes and subject in digest.subjects:
        digest.subjects.remove(subject)
        digest.is_over = not digest.subjects
