"""Accounts in trouble: told once, left alone, and tried again when somebody has mended them."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import transaction

from customers.models import Event
from dns.models import DnsAccount, RecordSet, WeightChange
from dns.providers.contract import ProviderError

State = WeightChange.State


def note_trouble(account: DnsAccount, error: ProviderError) -> None:
    """Say so, once, where it is the whole account that is in trouble."""
    if not error.is_accounts:
        return
    with transaction.atomic():
        row = DnsAccount.objects.select_for_update().get(pk=account.pk)
        is_news = row.trouble != error.trouble
        row.trouble, row.trouble_text = error.trouble, str(error)[:300]
        if is_news:
            row.trouble_since = datetime.now(UTC)
        row.save(update_fields=["trouble", "trouble_text", "trouble_since"])
        if is_news and error.permanent:
            summary = f"{account} can't be written to: {error}"
            Event.record("dns_account.failing", row, summary, customer_id=row.customer_id, trouble=error.trouble)


def recover(account: DnsAccount) -> None:
    if not account.trouble:
        return
    with transaction.atomic():
        if (
            DnsAccount.objects.filter(pk=account.pk)
            .exclude(trouble="")
            .update(trouble="", trouble_text="", trouble_since=None)
        ):
            Event.record(
                "dns_account.recovered", account, f"{account} can be written to again", customer_id=account.customer_id
            )


def retry(account: DnsAccount) -> None:
    """Try again at once what the account refused: its credentials are new."""
    now = datetime.now(UTC)
    WeightChange.objects.filter(record_set__account=account, state=State.FAILED, next_attempt_at__gt=now).update(
        next_attempt_at=now
    )
    RecordSet.objects.filter(account=account).update(is_restless=True, next_check_at=now)
