"""Events become deliveries, and deliveries are sent: at least once, each with the same id, one endpoint at a time in order.

The outbox is the events whose `processed_at` is empty; fanning them out is one transaction. A worker leases an endpoint, so
that nobody else sends to it meanwhile; if the worker dies the lease runs out, and what it had sent without noting it is sent
again under the same id. No connection of Postgres is held in a transaction while somebody's server thinks.
"""

from __future__ import annotations

import email.utils
import logging
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from django.conf import settings
from django.db import connection, connections, transaction
from standardwebhooks import Webhook

from customers import catalogue
from customers.models import DeliveryAttempt, Event, WebhookDelivery, WebhookEndpoint
from customers.webhooks import payload, verdict
from customers.webhooks.verdict import Answer, Verdict
from tranche_site.floor import egress, sealed
from tranche_site.floor.faults import fault_point
from tranche_site.floor.guarded_http import GuardedTransport

logger = logging.getLogger(__name__)

EVENTS_AT_ONCE = 500
ENDPOINTS_AT_ONCE = 32
TURN_SECONDS = 20.0
"""So long one endpoint is served in a turn; then others have theirs."""
LEASE = timedelta(seconds=90)
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 10.0
MOST_ANSWER_BYTES, KEPT_CHARACTERS = 64 * 1024, 1000
PORTS = (443, 8443)
_LOCK = 7_403_001

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


# --- fanning out ----------------------------------------------------------------------------------------------------


def fan_out(now: datetime) -> int:
    """Make the deliveries of what happened. One worker at a time, so that sequences follow the events. Returns how many."""
    made = 0
    while True:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
                if not cursor.fetchone()[0]:
                    return made
            events = list(
                Event.objects.filter(processed_at=None)
                .order_by("id")
                .select_for_update(skip_locked=True)[:EVENTS_AT_ONCE]
            )
            made += _make(events, now)
            Event.objects.filter(pk__in=[event.pk for event in events]).update(processed_at=now)
        if len(events) < EVENTS_AT_ONCE:
            return made


def _make(events: list[Event], now: datetime) -> int:
    owners = {event.customer_id for event in events if event.customer_id}
    endpoints = list(
        WebhookEndpoint.objects.live().filter(customer__in=owners, disabled_at=None).order_by("id").select_for_update()
    )
    rows = []
    for endpoint in endpoints:
        for event in events:
            is_its = event.customer_id == endpoint.customer_id and event.created_at >= endpoint.created_at
            if is_its and _is_told(endpoint, event.kind):
                endpoint.last_sequence += 1
                rows.append(
                    WebhookDelivery(
                        customer_id=endpoint.customer_id, endpoint=endpoint, event=event,
                        sequence=endpoint.last_sequence, next_attempt_at=now,
                    )
                )  # fmt: skip
    WebhookDelivery.objects.bulk_create(rows)
    WebhookEndpoint.objects.bulk_update({row.endpoint for row in rows}, ["last_sequence"])
    return len(rows)


def _is_told(endpoint: WebhookEndpoint, kind: str) -> bool:
    known = catalogue.KINDS.get(kind)
    return known is not None and known.is_public and catalogue.matches(endpoint.kinds, kind)


def test(endpoint: WebhookEndpoint, now: datetime) -> WebhookDelivery:
    """An event for this endpoint alone, whatever kinds it asked for."""
    with transaction.atomic():
        row = WebhookEndpoint.objects.select_for_update().get(pk=endpoint.pk)
        event = Event.about("webhook.test", row, "A test, as you asked.", customer_id=row.customer_id, url=row.url)
        event.processed_at = now
        event.save()
        row.last_sequence += 1
        row.save(update_fields=["last_sequence"])
        return WebhookDelivery.objects.create(
            customer_id=row.customer_id, endpoint=row, event=event, sequence=row.last_sequence, next_attempt_at=now
        )


def replay(deliveries: Any, now: datetime) -> int:
    """Send these again from the first try on, under their old ids. Returns how many."""
    settled = deliveries.exclude(state=WebhookDelivery.State.PENDING).filter(endpoint__disabled_at=None)
    with transaction.atomic():
        return int(settled.update(state=WebhookDelivery.State.PENDING, attempts=0, next_attempt_at=now, last_error=""))


def enable(endpoint: WebhookEndpoint) -> None:
    WebhookEndpoint.objects.filter(pk=endpoint.pk).update(
        disabled_at=None, disabled_reason="", failing_since=None, failures=0, held_until=None
    )


# --- sending --------------------------------------------------------------------------------------------------------

_LEASE = """
UPDATE webhook_endpoints SET leased_until = %(until)s WHERE id IN (
    SELECT e.id FROM webhook_endpoints e
    WHERE e.disabled_at IS NULL AND e.deleted_at IS NULL AND (%(failing)s::bool IS NULL OR (e.failures > 0) = %(failing)s)
        AND (e.leased_until IS NULL OR e.leased_until <= %(now)s) AND (e.held_until IS NULL OR e.held_until <= %(now)s)
        AND EXISTS (
            SELECT 1 FROM webhook_deliveries d
            WHERE d.endpoint_id = e.id AND d.state = 'pending' AND d.next_attempt_at <= %(now)s)
    ORDER BY e.failures, e.leased_until NULLS FIRST LIMIT %(most)s FOR UPDATE SKIP LOCKED)
RETURNING id
"""


def send_due(clock: Clock = _now, *, failing: bool | None = None) -> int:
    """Send what is due, to many endpoints at once: to those that fail, to those that don't, or to all. Returns how many
    tries were made.

    It ends with the slowest of them, so that those that fail are better waited for by somebody else.
    """
    now = clock()
    with connection.cursor() as cursor:
        cursor.execute(_LEASE, {"now": now, "until": now + LEASE, "most": ENDPOINTS_AT_ONCE, "failing": failing})
        ids = [pk for (pk,) in cursor.fetchall()]
    if not ids:
        return 0
    with ThreadPoolExecutor(len(ids)) as pool:
        return sum(pool.map(lambda pk: _turn_in_thread(pk, clock), ids))


def _turn_in_thread(endpoint_id: int, clock: Clock) -> int:
    try:
        return _turn(endpoint_id, clock)
    except Exception:
        logger.exception("webhook endpoint %s", endpoint_id)
        return 0
    finally:
        connections.close_all()


def _turn(endpoint_id: int, clock: Clock) -> int:
    endpoint = WebhookEndpoint.objects.get(pk=endpoint_id)
    until, tries = time.monotonic() + TURN_SECONDS, 0
    try:
        for delivery in _due(endpoint, clock):
            found = _try(endpoint, delivery, clock)
            tries += 1
            if found.held_until or found.disables or time.monotonic() >= until:
                break
    finally:
        # If it ran out meanwhile, it is somebody else's by now.
        WebhookEndpoint.objects.filter(pk=endpoint_id, leased_until=endpoint.leased_until).update(leased_until=None)
    return tries


def _due(endpoint: WebhookEndpoint, clock: Clock) -> Iterator[WebhookDelivery]:
    """What waits for its turn, in order, asked for again and again: what comes meanwhile has its place too."""
    waiting = WebhookDelivery.objects.filter(endpoint=endpoint, state=WebhookDelivery.State.PENDING)
    last = 0
    while row := (
        waiting.filter(sequence__gt=last, next_attempt_at__lte=clock())
        .select_related("event").order_by("sequence").first()
    ):  # fmt: skip
        last = row.sequence
        yield row


def _try(endpoint: WebhookEndpoint, delivery: WebhookDelivery, clock: Clock) -> Verdict:
    began, at = time.monotonic(), clock()
    answer, said = _post(endpoint, delivery, at)
    milliseconds = int((time.monotonic() - began) * 1000)
    fault_point("webhooks.sent")
    jitter = random.uniform(-0.1, 0.1)  # noqa: S311  spreads, and hides nothing
    found = verdict.judge(answer, delivery.attempts + 1, endpoint.failing_since, clock(), jitter)
    _store(endpoint, delivery, answer, found, DeliveryAttempt(
        delivery=delivery, at=at, milliseconds=milliseconds, status=answer.status, error=answer.error[:300], answer=said
    ))  # fmt: skip
    return found


def _store(
    endpoint: WebhookEndpoint, delivery: WebhookDelivery, answer: Answer, found: Verdict, attempt: DeliveryAttempt
) -> None:
    state = WebhookDelivery.State
    delivery.attempts += 1
    delivery.last_status, delivery.last_error = answer.status, answer.error[:300]
    delivery.next_attempt_at = found.next_attempt_at
    if found.is_delivered:
        delivery.state, delivery.delivered_at = state.DELIVERED, attempt.at
    elif found.next_attempt_at is None:
        delivery.state = state.DEAD
    if found.is_failure:
        endpoint.failures += 1
        endpoint.failing_since = endpoint.failing_since or attempt.at
    elif answer.status is not None:
        endpoint.failures, endpoint.failing_since = 0, None
    endpoint.held_until = found.held_until
    with transaction.atomic():
        attempt.save()
        delivery.save(
            update_fields=["attempts", "last_status", "last_error", "next_attempt_at", "state", "delivered_at"]
        )
        endpoint.save(update_fields=["failures", "failing_since", "held_until"])
        if found.disables:
            disable(endpoint, found.disables, attempt.at)


def disable(endpoint: WebhookEndpoint, reason: str, now: datetime) -> None:
    """It gets nothing more, and what waits for it is dead until somebody has it sent again."""
    with transaction.atomic():
        if not WebhookEndpoint.objects.filter(pk=endpoint.pk, disabled_at=None).update(
            disabled_at=now, disabled_reason=reason
        ):
            return
        WebhookDelivery.objects.filter(endpoint=endpoint, state=WebhookDelivery.State.PENDING).update(
            state=WebhookDelivery.State.DEAD, next_attempt_at=None, last_error="The endpoint is disabled."
        )
        Event.record(
            "webhook_endpoint.disabled", endpoint, f"{endpoint} is disabled: {reason}", customer_id=endpoint.customer_id,
            url=endpoint.url, reason=reason,
        )  # fmt: skip


def _post(endpoint: WebhookEndpoint, delivery: WebhookDelivery, now: datetime) -> tuple[Answer, str]:
    """Send it once. Returns what came back, and how the answer's body began."""
    content = payload.body(delivery.event, delivery.sequence)
    try:
        headers = _headers(endpoint, payload.event_id(delivery.event), content, now)
    except sealed.SealedError as error:
        return Answer(None, f"it can't be signed: {error}"), ""
    transport = GuardedTransport(PORTS, allow_private=settings.WEBHOOKS_ALLOW_PRIVATE)
    timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        with (
            httpx.Client(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", endpoint.url, content=content, headers=headers) as response,
        ):
            return _answer(response, now)
    except egress.Refused as error:
        return Answer(None, str(error)), ""
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as error:
        return Answer(None, str(error) or type(error).__name__), ""


def _headers(endpoint: WebhookEndpoint, message_id: str, content: bytes, now: datetime) -> dict[str, str]:
    """As Standard Webhooks has them; while a secret is replaced, both sign."""
    signatures = [
        Webhook(secret).sign(message_id, now, content.decode()) for secret in endpoint.secrets_at(now)
    ]  # fmt: skip
    return {
        "Content-Type": "application/json",
        "User-Agent": "Tranche-Webhooks/1",
        "Accept-Encoding": "identity",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _answer(response: httpx.Response, now: datetime) -> tuple[Answer, str]:
    body = bytearray()
    for chunk in response.iter_raw(8192):
        body += chunk
        if len(body) > MOST_ANSWER_BYTES:
            break  # the status is what counts; whoever goes on talking is not listened to
    text = "".join(
        c if c.isprintable() or c == "\n" else " " for c in body[: 4 * KEPT_CHARACTERS].decode(errors="replace")
    )
    status = response.status_code
    error = "" if 200 <= status < 300 else f"answered {status}"
    if response.is_redirect:
        error = f"answered {status}: redirects are not followed"
    return Answer(status, error, _retry_after(response.headers.get("Retry-After", ""), now)), text[:KEPT_CHARACTERS]


def _retry_after(text: str, now: datetime) -> timedelta | None:
    """Seconds, or a date; nothing else is understood."""
    if text.isascii() and text.isdigit() and len(text) < 9:
        return timedelta(seconds=int(text))
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(at.replace(tzinfo=at.tzinfo or UTC) - now, timedelta(0))
