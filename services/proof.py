"""Proof that a customer controls a hostname: a token of ours at every name server that answers for its zone.

The servers are asked themselves, never a cache, and the record must stand at the name itself: a CNAME there would let
whoever holds its target prove a name that isn't theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from django.db import IntegrityError, transaction
from django.utils import timezone

from customers.models import Event
from services import lookup
from services.models import ServiceDomain

if TYPE_CHECKING:
    from datetime import datetime

_TIMEOUT_SECONDS = 2.0
_LONGEST_RESULT = 300  # of ServiceDomain.check_result
_ONE_PROOF = "service_domains_verified_hostname_unique"


def check(domain: ServiceDomain, *, now: datetime | None = None) -> ServiceDomain:
    """Look for the domain's token in DNS and store what was found, in one sentence, in `check_result`.

    A first proof verifies the domain. A verified one stays verified when its token is gone; only the sentence says so.
    """
    problem, finding = _look(domain)
    now = now or timezone.now()
    with transaction.atomic():
        row = ServiceDomain.objects.select_for_update().get(pk=domain.pk)
        if not problem and row.challenge != domain.challenge:
            problem = "the token was replaced while we looked for it."
        if not problem and row.verified_at is None:
            problem = _verify(row, now)
        if problem:
            finding = f"{'Still verified, but' if row.verified_at else 'Not verified'}: {problem}"
        row.checked_at, row.check_result = now, _cut(finding)
        row.save(update_fields=["checked_at", "check_result"])
    domain.refresh_from_db(fields=["verified_at", "checked_at", "check_result"])
    return domain


def _verify(row: ServiceDomain, now: datetime) -> str:
    """Verify the domain, or say why not. Postgres decides who is first among those that prove one hostname."""
    if row.deleted_at is not None:
        return "the domain was deleted."
    try:
        with transaction.atomic():
            ServiceDomain.objects.filter(pk=row.pk).update(verified_at=now)
    except IntegrityError as error:
        cause = error.__cause__
        if isinstance(cause, psycopg.Error) and cause.diag.constraint_name == _ONE_PROOF:
            return "the token is there, but this hostname is verified for another account."
        raise
    row.verified_at = now
    Event.record(
        "domain.verified",
        row,
        f"{row.hostname} is verified.",
        customer_id=row.customer_id,
        hostname=row.hostname,
    )
    return ""


def _look(domain: ServiceDomain) -> tuple[str, str]:
    """What is wrong with the proof, or "", and what is right with it."""
    name, wanted = domain.challenge_name, domain.challenge_value
    try:
        zone, servers = lookup.authoritative_servers(domain.hostname)
    except lookup.LookupFailed as error:
        return f"the name servers were not found ({error}).", ""
    answers = lookup.ask_all([(server, name, "TXT") for server in servers], timeout_seconds=_TIMEOUT_SECONDS)
    telling = [answer for answer in answers if answer.authoritative and not answer.error]
    if not telling:
        silence = "; ".join(f"{answer.server} {answer.error or 'is not authoritative'}" for answer in answers)
        return f"no name server of {zone} answered for {name} ({silence}).", ""
    without = [answer for answer in telling if wanted not in lookup.txt_values(answer)]
    if not without:
        return "", f"Verified: {len(telling)} of {len(answers)} name servers of {zone} answered, and showed the token."
    missing_at = ", ".join(answer.server for answer in without)
    if any(record.type == "CNAME" for answer in without for record in answer.records):
        return f"{name} is a CNAME at {missing_at}; the TXT record must stand at this name itself.", ""
    return f"the TXT record {name} with “{wanted}” is missing at {missing_at}.", ""


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_RESULT else f"{text[: _LONGEST_RESULT - 1]}…"
