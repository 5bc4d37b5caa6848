"""Notices are told to their channels: in a page's order, each channel by one sender, and no channel waits for another.

A worker that dies after a vendor took a notice and before that is noted says it again once its lease is over. PagerDuty
and Opsgenie know the page by its key and make nothing of it; Slack and mail show it twice.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, connections
from django.db.models import F

from tranche_site.floor import sealed
from tranche_site.floor.faults import fault_point
from tranche_site.models import PageNotice, PagingChannel
from tranche_site.paging.channels import VENDORS, Alarm, ChannelError

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=90)
TURN_SECONDS = 20.0
"""Then the next turn goes on; the call that began last may take as long again, and is over well within the lease."""
NOTICES_AT_ONCE = 100
WAITS = (5, 15, 30, 60, 120, 300)
"""Seconds until a notice is tried again, the last one for ever: a page that burns is worth it."""
MOST_ATTEMPTS = 60
LONGEST_WAIT_SECONDS = 3600.0

_LEASE = """
UPDATE paging_channels SET leased_until = %(until)s WHERE id IN (
    SELECT c.id FROM paging_channels c
    WHERE c.is_enabled AND (c.leased_until IS NULL OR c.leased_until <= %(now)s) AND EXISTS (
        SELECT 1 FROM page_notices n WHERE n.channel_id = c.id AND n.state = 'pending' AND n.next_attempt_at <= %(now)s)
    FOR UPDATE SKIP LOCKED)
RETURNING id
"""


def send_due(now: datetime) -> int:
    """Tell what is due. Returns how many notices were tried."""
    with connection.cursor() as cursor:
        cursor.execute(_LEASE, {"now": now, "until": now + LEASE})
        ids = [pk for (pk,) in cursor.fetchall()]
    if len(ids) < 2:
        return sum(_turn(pk, now) for pk in ids)
    with ThreadPoolExecutor(len(ids)) as pool:
        return sum(pool.map(lambda pk: _turn_in_thread(pk, now), ids))


def wait_seconds(attempts: int, asked_seconds: float = 0.0) -> float:
    """After so many tries; a vendor that asks for time is given it, within reason."""
    own = WAITS[min(attempts, len(WAITS)) - 1]
    return min(max(own, asked_seconds), LONGEST_WAIT_SECONDS)


def _turn_in_thread(channel_id: int, now: datetime) -> int:
    try:
        return _turn(channel_id, now)
    except Exception:
        logger.exception("paging channel %s", channel_id)
        return 0
    finally:
        connections.close_all()


def _turn(channel_id: int, now: datetime) -> int:
    channel = PagingChannel.objects.get(pk=channel_id)
    until, tries = time.monotonic() + TURN_SECONDS, 0
    later: set[int] = set()
    """Pages with a notice that waits: what comes after it waits too."""
    rows = channel.notices.pending().select_related("page__acknowledged_by").order_by("id")
    try:
        for notice in rows[:NOTICES_AT_ONCE]:
            if notice.page_id in later or notice.next_attempt_at > now:
                later.add(notice.page_id)
                continue
            tries += 1
            if not _tell(channel, notice, now):
                later.add(notice.page_id)
            if time.monotonic() >= until:
                break
    finally:
        PagingChannel.objects.filter(pk=channel_id).update(leased_until=None)
    return tries


def _tell(channel: PagingChannel, notice: PageNotice, now: datetime) -> bool:
    """Whether it is settled, for good or ill."""
    mine = PageNotice.objects.pending().filter(pk=notice.pk)
    # Before the call: whoever resolves the page meanwhile must know that the vendor may have heard of it.
    if not mine.update(attempts=F("attempts") + 1):
        return True  # dropped meanwhile
    try:
        VENDORS[channel.kind].send(_alarm(notice), _settings(channel))
    except ChannelError as error:
        return _failed(channel, notice, error, now)
    fault_point("paging.sent")
    # Whatever became of it meanwhile: it was said.
    PageNotice.objects.filter(pk=notice.pk).update(state=PageNotice.State.SENT, sent_at=now, error="")
    if channel.trouble:
        _note_trouble(channel, "", None)
    return True


def _failed(channel: PagingChannel, notice: PageNotice, error: ChannelError, now: datetime) -> bool:
    logger.warning("paging channel %s: page %s: %s", channel, notice.page_id, error)
    attempts = notice.attempts + 1
    is_over = error.permanent or attempts >= MOST_ATTEMPTS
    PageNotice.objects.pending().filter(pk=notice.pk).update(
        state=PageNotice.State.FAILED if is_over else PageNotice.State.PENDING,
        error=str(error)[:300],
        next_attempt_at=now + timedelta(seconds=wait_seconds(attempts, error.retry_after_seconds)),
    )
    _note_trouble(channel, str(error)[:300], channel.trouble_since or now)
    return is_over


def _note_trouble(channel: PagingChannel, text: str, since: datetime | None) -> None:
    channel.trouble, channel.trouble_since = text, since
    channel.save(update_fields=["trouble", "trouble_since"])


def _settings(channel: PagingChannel) -> dict[str, object]:
    try:
        return channel.settings()
    except sealed.SealedError as error:
        raise ChannelError(str(error), permanent=True) from error


def _alarm(notice: PageNotice) -> Alarm:
    page = notice.page
    return Alarm(
        action=notice.action,
        key=page.dedup_key,
        severity=page.severity,
        summary=page.summary,
        url=f"{settings.PUBLIC_URL.rstrip('/')}{page.path}" if settings.PUBLIC_URL else "",
        opened_at=page.opened_at,
        by=str(page.acknowledged_by or "") if notice.action == PageNotice.Action.ACKNOWLEDGE else "",
    )
