"""Whose turn it is to write, where a vendor bears one writer at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.db.models import Q

from dns.models import DnsAccount

PEN = timedelta(seconds=15)
"""How long one call of a lone writer may take."""


class Pen:
    """Held by one writer at a time, where a vendor bears no more. The fence is the generation; this is courtesy, so it is
    short: a writer that died keeps others waiting no longer than a call may take.
    """

    def __init__(self, account: DnsAccount, now: datetime) -> None:
        self._account, self._now = account, now
        self._until: datetime | None = None

    def take(self) -> bool:
        """Take it, or hold it for longer. False: somebody else has it."""
        at = max(self._now, datetime.now(UTC))
        free = Q(writing_until__isnull=True) | Q(writing_until__lte=at) | Q(writing_until=self._until)
        until = at + PEN
        if not DnsAccount.objects.filter(free, pk=self._account.pk).update(writing_until=until):
            return False
        self._until = until
        return True

    def put_down(self) -> None:
        if self._until:
            DnsAccount.objects.filter(pk=self._account.pk, writing_until=self._until).update(writing_until=None)
