"""Pages follow what burns: opened, changed and resolved in one transaction, with the notices that follow from it.

Level-triggered: a lost task, a restart or a double run changes nothing, and a channel that is added while something burns
is told of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Exists, OuterRef

from tranche_site.models import SEVERITIES, Page, PageNotice, PagingChannel
from tranche_site.models.paging import SUMMARY_CHARACTERS
from tranche_site.paging import alerts
from tranche_site.paging.alerts import Alert
from tranche_site.paging.channels.contract import cut

REPEAT_EVERY = timedelta(minutes=15)
_LOCK = 7_403_002
_ACTION, _STATE = PageNotice.Action, PageNotice.State


def sync(now: datetime) -> None:
    """Once at a time: whoever comes meanwhile has nothing to do."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
            if not cursor.fetchone()[0]:
                return
        found = {alert.key: alert for alert in alerts.burning(now)}
        pages = {page.key: page for page in Page.objects.open().select_for_update()}
        _resolve([page for key, page in pages.items() if key not in found], now)
        Page.objects.bulk_create(_new(alert, now) for key, alert in found.items() if key not in pages)
        for key, alert in found.items():
            if key in pages:
                _follow(pages[key], alert, now)
        _trigger(now)
        _repeat(now)


def acknowledge(page: Page, user: User, now: datetime) -> bool:
    """Somebody is on it: the repeats end, and the vendors are told. False if somebody was before, or it is over."""
    with transaction.atomic():
        row = Page.objects.unanswered().select_for_update().filter(pk=page.pk).first()
        if row is None:
            return False
        row.acknowledged_at, row.acknowledged_by = now, user
        row.save(update_fields=["acknowledged_at", "acknowledged_by"])
        _tell_those_who_know([row], _ACTION.ACKNOWLEDGE, now)
    return True


def hand_back(page: Page, now: datetime) -> bool:
    """Nobody is on it after all: people are called again. False if nobody was, or it is over."""
    answered = Page.objects.open().filter(pk=page.pk, acknowledged_at__isnull=False)
    return bool(answered.update(acknowledged_at=None, acknowledged_by=None, next_repeat_at=now))


def _new(alert: Alert, now: datetime) -> Page:
    return Page(
        key=alert.key, severity=alert.severity, summary=cut(alert.summary, SUMMARY_CHARACTERS), path=alert.path,
        opened_at=now, next_repeat_at=now + REPEAT_EVERY,
    )  # fmt: skip


def _follow(page: Page, alert: Alert, now: datetime) -> None:
    """What is said of it is kept up to date; when it grows worse, whoever acknowledged it had seen less."""
    summary = cut(alert.summary, SUMMARY_CHARACTERS)
    if (page.severity, page.summary, page.path) == (alert.severity, summary, alert.path):
        return
    if SEVERITIES.index(alert.severity) > SEVERITIES.index(page.severity):
        page.acknowledged_at = page.acknowledged_by = None
        page.next_repeat_at = now
    page.severity, page.summary, page.path = alert.severity, summary, alert.path
    page.save()


def _resolve(pages: list[Page], now: datetime) -> None:
    Page.objects.filter(pk__in=[page.pk for page in pages]).update(resolved_at=now)
    _tell_those_who_know(pages, _ACTION.RESOLVE, now)


def _trigger(now: datetime) -> None:
    """Every page that nobody answered has its trigger in every channel that takes it."""
    channels = list(PagingChannel.objects.enabled())
    told = PageNotice.objects.filter(action=_ACTION.TRIGGER, page__resolved_at=None)
    known = set(told.values_list("page_id", "channel_id"))
    PageNotice.objects.bulk_create(
        PageNotice(page=page, channel=channel, action=_ACTION.TRIGGER, next_attempt_at=now)
        for page in Page.objects.unanswered().order_by("id")
        for channel in channels
        if channel.takes(page.severity) and (page.pk, channel.pk) not in known
    )


def _repeat(now: datetime) -> None:
    """In the channels whose trigger got through, or was given up: it may be that the channel was mended since."""
    due = list(Page.objects.unanswered().filter(next_repeat_at__lte=now))
    for page in due:
        page.repeats += 1
        page.next_repeat_at = now + REPEAT_EVERY
    Page.objects.bulk_update(due, ["repeats", "next_repeat_at"])
    waiting = PageNotice.objects.pending().filter(page=OuterRef("page"), channel=OuterRef("channel"))
    settled = PageNotice.objects.filter(
        ~Exists(waiting), page__in=due, action=_ACTION.TRIGGER, channel__is_enabled=True
    ).select_related("channel", "page")
    numbers = {page.pk: page.repeats for page in due}
    PageNotice.objects.bulk_create(
        PageNotice(
            page=told.page, channel=told.channel, action=_ACTION.REPEAT, number=numbers[told.page_id],
            next_attempt_at=now,
        )
        for told in settled
    )  # fmt: skip


def _tell_those_who_know(pages: Iterable[Page], action: PageNotice.Action, now: datetime) -> None:
    """In the channels where somebody may have heard of these; what nobody has heard yet is dropped."""
    notices = PageNotice.objects.filter(page__in=pages)
    heard = notices.filter(action__in=[_ACTION.TRIGGER, _ACTION.REPEAT]).exclude(state=_STATE.DROPPED)
    known = sorted(set(heard.filter(attempts__gt=0).values_list("page_id", "channel_id")))
    rows = [
        PageNotice(page_id=page, channel_id=channel, action=action, number=number, next_attempt_at=now)
        for (page, channel), number in zip(known, _numbers(known, action), strict=True)
    ]
    heard.pending().update(state=_STATE.DROPPED)
    PageNotice.objects.bulk_create(rows)


def _numbers(known: Iterable[tuple[int, int]], action: PageNotice.Action) -> list[int]:
    """A page that grew worse can be acknowledged again."""
    earlier = PageNotice.objects.filter(action=action, page__in=[page for page, _ in known])
    counts: dict[tuple[int, int], int] = {}
    for pair in earlier.values_list("page_id", "channel_id"):
        counts[pair] = counts.get(pair, 0) + 1
    return [counts.get(pair, 0) for pair in known]
