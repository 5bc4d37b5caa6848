"""Digests that are due become mails, by Django's back end. A worker that dies after a mail was taken sends it again."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import Count, Q
from django.template.loader import render_to_string
from django.urls import reverse

from customers.models.mailed import MAILED
from tranche_site.digests import timing
from tranche_site.floor.faults import fault_point
from tranche_site.models import Digest, DigestEntry

logger = logging.getLogger(__name__)

LEASE = timedelta(minutes=2)
TURN_SECONDS = 25.0
DIGESTS_AT_ONCE = 200
MOST_LINES, MOST_COUNTS = 50, 4
MOST_ATTEMPTS = 48
LONGEST_WAIT = timedelta(minutes=30)
KEPT = timedelta(days=30)


def mail_due(now: datetime) -> int:
    """Send what is due, as far as the turn's time goes. Returns how many mails were sent."""
    until, sent = time.monotonic() + TURN_SECONDS, 0
    free = Q(leased_until=None) | Q(leased_until__lte=now)
    for pk in (
        Digest.objects.filter(free, due_at__lte=now).order_by("due_at").values_list("pk", flat=True)[:DIGESTS_AT_ONCE]
    ):
        if Digest.objects.filter(free, pk=pk, due_at__lte=now).update(leased_until=now + LEASE):
            sent += _mail(Digest.objects.select_related("customer").get(pk=pk), now)
        if time.monotonic() >= until:
            break
    return sent


def tidy(now: datetime) -> None:
    """Stories of which nothing was heard for so long that the next mail could go at once are closed; old ones go."""
    quiet = Digest.objects.filter(closed_at=None, due_at=None)
    # A subject that was deleted, or whose customer took another address, never ends.
    forgotten = Q(last_sent_at__lte=now - KEPT)
    quiet.filter(Q(subjects=[], last_sent_at__lte=now - timing.APART) | forgotten).update(closed_at=now)
    old = Digest.objects.filter(closed_at__lte=now - KEPT).order_by("closed_at").values_list("pk", flat=True)[:500]
    Digest.objects.filter(pk__in=list(old)).delete()


def _mail(digest: Digest, now: datetime) -> bool:
    unmailed = digest.entries.filter(mailed_at=None)
    shown = list(unmailed.select_related("event").order_by("id")[:MOST_LINES])
    last = unmailed.order_by("-id").values_list("pk", flat=True).first()
    if last is None:
        _settle(digest.pk, 0, now, was_sent=False)
        return False
    told = unmailed.filter(pk__lte=last)
    counts = dict(told.order_by().values_list("event__kind").annotate(n=Count("id")))
    try:
        message(digest, counts, shown).send()
    except OSError as error:  # SMTPException is one
        _fail(digest, f"{type(error).__name__}: {error}"[:300], now)
        return False
    fault_point("digests.sent")
    _settle(digest.pk, last, now, was_sent=True)
    return True


def message(digest: Digest, counts: dict[str, int], shown: list[DigestEntry]) -> EmailMessage:
    """The mail; `counts` are events by kind, `shown` the first of them."""
    # The catalogue's order: what is worst comes first, not what is most.
    words = [_counted(kind, counts[kind]) for kind in MAILED if kind in counts]
    rest = len(words) - MOST_COUNTS
    said = ", ".join(words[:MOST_COUNTS]) + (f" and {rest} more" if rest > 0 else "")
    over = " (over)" if digest.is_over and any(MAILED[kind].closes for kind in counts) else ""
    about = f"{digest.customer}: " if digest.customer else ""
    context = {
        "digest": digest,
        "words": words,
        "lines": [(entry.event.created_at, _one_line(entry.event.summary)) for entry in shown],
        "more": sum(counts.values()) - len(shown),
        "url": settings.PUBLIC_URL.rstrip("/") + reverse("admin:index") if settings.PUBLIC_URL and not digest.customer else "",
    }  # fmt: skip
    return EmailMessage(
        subject=_one_line(f"[Tranche] {about}{said}{over}")[:200],
        body=render_to_string("mail/digest.txt", context),
        to=[digest.recipient],
        headers={"Auto-Submitted": "auto-generated", "References": f"<digest.{digest.pk}@tranche.invalid>"},
    )


def _counted(kind: str, count: int) -> str:
    return MAILED[kind].one if count == 1 else MAILED[kind].many.format(count)


def _one_line(text: str) -> str:
    """A line break in a header would be another header, and in the body another event."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _settle(pk: int, last: int, now: datetime, *, was_sent: bool) -> None:
    with transaction.atomic():
        digest = Digest.objects.select_for_update().get(pk=pk)
        digest.entries.filter(mailed_at=None, pk__lte=last).update(mailed_at=now)
        if was_sent:
            digest.last_sent_at, digest.last_was_end = now, digest.is_over
            digest.mails += 1
        # What came in while the mail was on its way is the next one's.
        digest.pending_since = now if digest.entries.filter(mailed_at=None).exists() else None
        digest.due_at = timing.due_at(
            digest.pending_since, digest.last_sent_at, is_over=digest.is_over, last_was_end=digest.last_was_end
        )
        digest.leased_until, digest.attempts, digest.error = None, 0, ""
        digest.save()


def _fail(digest: Digest, error: str, now: datetime) -> None:
    logger.warning("digest %s: %s", digest.pk, error)
    attempts = digest.attempts + 1
    wait = min(timedelta(minutes=2 ** min(attempts - 1, 10)), LONGEST_WAIT)
    is_given_up = attempts >= MOST_ATTEMPTS
    Digest.objects.filter(pk=digest.pk).update(
        attempts=attempts, error=error, leased_until=None,
        due_at=None if is_given_up else now + wait, closed_at=now if is_given_up else None,
    )  # fmt: skip
