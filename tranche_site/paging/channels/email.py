"""E-mail by Django's back end. Mails of one page hang together by their References."""

from __future__ import annotations

import smtplib
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.validators import validate_email

from tranche_site.paging.channels.contract import Alarm, ChannelError, cut

MOST_RECIPIENTS = 20


class Email:
    fields = {"to": "Addresses, separated by commas."}
    optional: frozenset[str] = frozenset()

    def problems(self, settings: Mapping[str, Any]) -> dict[str, str]:
        found = recipients(settings)
        if not 1 <= len(found) <= MOST_RECIPIENTS:
            return {"to": f"Write 1 to {MOST_RECIPIENTS} addresses, separated by commas."}
        for address in found:
            try:
                validate_email(address)
            except ValidationError:
                return {"to": f"{cut(address, 100)} is no address."}
        return {}

    def send(self, alarm: Alarm, settings: Mapping[str, Any]) -> None:
        thread = f"<{alarm.key.replace('/', '.').replace(':', '.')}@tranche.invalid>"
        lines = [alarm.headline, f"Severity: {alarm.severity}", f"Since: {alarm.opened_at:%Y-%m-%d %H:%M:%S} UTC"]
        mail = EmailMessage(
            # A line break in a header would be another header.
            subject=cut(" ".join(f"[Tranche] {alarm.headline}".split()), 200),
            body="\n".join([*lines, *filter(None, [alarm.url])]) + "\n",
            to=recipients(settings),
            headers={"References": thread, "Auto-Submitted": "auto-generated"},
        )
        try:
            mail.send()
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused, smtplib.SMTPAuthenticationError) as error:
            raise ChannelError(f"refused: {type(error).__name__}", permanent=True) from error
        except OSError as error:  # SMTPException is one
            raise ChannelError(f"not sent: {type(error).__name__}", permanent=False) from error


def recipients(settings: Mapping[str, Any]) -> list[str]:
    return [address.strip() for address in str(settings.get("to", "")).split(",") if address.strip()]
