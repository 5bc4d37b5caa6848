"""Proof that a customer controls a hostname: a token of ours at every name server that answers for its zone.

The servers are asked themselves, never a cache, and the record must stand at the name itself: a CNAME there would let
whoever holds its target prove a name that isn't theirs.

A proof is looked at again every day. A token that is gone for three days freezes new changes of DNS and withdraws
nothing. A second account that shows its token too freezes both, until one of them lets the hostname go, or until the
first one's proof is lost: then the hostname is the second one's, and the first must prove it anew with another token.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from customers.models import Event
from services import lookup
from services.models import CHALLENGE_LIFE, PROOF_GRACE, ServiceDomain, new_challenge

logger = logging.getLogger(__name__)

AGAIN = timedelta(hours=24)
"""How often a proof, and a claim that contests one, is looked at."""
CLAIM_AGAIN, CLAIM_EAGER = timedelta(minutes=10), timedelta(days=7)
"""How often a new claim is looked at, and for how long, so that nobody has to press a button after publishing."""
_TIMEOUT_SECONDS = 2.0
_LONGEST_RESULT = 300  # of ServiceDomain.check_result
_ONE_PROOF = "service_domains_verified_hostname_unique"


@dataclass(frozen=True, slots=True)
class _Look:
    """What DNS showed: the sentence for it, whether the token is there, and whether any server told us anything."""

    sentence: str
    is_there: bool = False
    is_telling: bool = True


def check(domain: ServiceDomain, *, now: datetime | None = None) -> ServiceDomain:
    """Look for the domain's token in DNS, act on what was found, and store it in one sentence in `check_result`."""
    look = _look(domain)
    now = now or timezone.now()
    with transaction.atomic():
        # Everyone who claims the hostname, in one order, so that two checks of it can't cross.
        claims = ServiceDomain.objects.select_for_update().filter(
            Q(pk=domain.pk) | Q(hostname=domain.hostname, deleted_at__isnull=True)
        )
        rows = {row.pk: row for row in claims.order_by("pk")}
        row = rows[domain.pk]
        holder = next((other for other in rows.values() if other.verified_at and other.pk != row.pk), None)
        if row.challenge != domain.challenge:
            look = _Look("the token was replaced while we looked for it.")
        sentence = _held(row, look, now) if row.verified_at else _claimed(row, holder, look, now)
        row.checked_at, row.check_result = now, _cut(sentence)
        row.save(
            update_fields=[
                "checked_at", "check_result", "verified_at", "lost_since", "contested_since", "challenge",
                "challenge_issued_at",
            ]
        )  # fmt: skip
    domain.refresh_from_db()
    domain.__dict__.pop("contested", None)  # as it was annotated before the look
    return domain


def check_due(now: datetime, seconds: float) -> int:
    """Look at what is due, oldest first, for so many seconds. Returns how many were looked at."""
    until, count = time.monotonic() + seconds, 0
    is_due = Q(verified_at__isnull=False) | Q(contested_since__isnull=False)
    is_new = Q(verified_at__isnull=True, created_at__gt=now - CLAIM_EAGER, checked_at__lte=now - CLAIM_AGAIN)
    due = ServiceDomain.objects.live().filter(
        (is_due & Q(checked_at__lte=now - AGAIN)) | is_new | Q(checked_at__isnull=True)
    )
    for domain in due.order_by(F("checked_at").asc(nulls_first=True), "pk").iterator(chunk_size=100):
        if time.monotonic() >= until:
            break
        try:
            check(domain)
        except Exception as error:  # one domain must not keep all others from being looked at
            logger.exception("the proof of %s could not be checked", domain)
            said = _cut(f"It could not be checked: {type(error).__name__}.")
            ServiceDomain.objects.filter(pk=domain.pk).update(checked_at=timezone.now(), check_result=said)
        count += 1
    return count


# --- what follows from a look ---------------------------------------------------------------------------------------


def _held(row: ServiceDomain, look: _Look, now: datetime) -> str:
    """A verified domain stays verified. Silence changes nothing; a token that is gone begins to count."""
    if look.is_there:
        if row.lost_since:
            _tell("domain.proof_found", row, f"The token of {row.hostname} is there again.")
        row.lost_since = None
        return look.sentence
    if look.is_telling:
        was_lost = row.is_proof_lost(row.checked_at) if row.checked_at else False
        if row.lost_since is None:
            row.lost_since = now
            _tell(
                "domain.proof_missing", row,
                f"The token of {row.hostname} is gone from DNS. If it stays away until "
                f"{now + PROOF_GRACE:%Y-%m-%d %H:%M} UTC, its weights are frozen as they stand.",
            )  # fmt: skip
        elif row.is_proof_lost(now) and not was_lost:
            _tell(
                "domain.proof_lost", row,
                f"The token of {row.hostname} has been gone for three days: its weights stay as they are, and no storm "
                "moves it, until the TXT record is published again.",
            )  # fmt: skip
    return f"Still verified, but: {look.sentence}"


def _claimed(row: ServiceDomain, holder: ServiceDomain | None, look: _Look, now: datetime) -> str:
    if row.deleted_at is not None:
        return "Not verified: the domain was deleted."
    if not look.is_there:
        if look.is_telling:
            row.contested_since = None
        if now - row.challenge_issued_at > CHALLENGE_LIFE:
            row.challenge, row.challenge_issued_at = new_challenge(), now
            return f"Not verified: the token was {CHALLENGE_LIFE.days} days old. Publish the new one."
        return f"Not verified: {look.sentence}"
    if now - row.challenge_issued_at > CHALLENGE_LIFE:
        row.challenge, row.challenge_issued_at = new_challenge(), now
        return f"Not verified: the token is there, but it was {CHALLENGE_LIFE.days} days old. Publish the new one."
    if holder and not holder.is_proof_lost(now):
        if row.contested_since is None:
            row.contested_since = now
            said = (
                f"Another account shows a token of its own for {row.hostname}: its weights are frozen for both of you "
            )
            for one in (row, holder):
                _tell("domain.contested", one, said + "until one lets the hostname go.")
        return "Not verified: the token is there, but this hostname is verified for another account."
    if holder:
        _release(holder, now)
    if not _is_first(row, now):
        return "Not verified: the token is there, but this hostname is verified for another account."
    row.verified_at, row.contested_since, row.lost_since = now, None, None
    _tell("domain.verified", row, f"{row.hostname} is verified.")
    return look.sentence


def _release(holder: ServiceDomain, now: datetime) -> None:
    """Its proof is lost and another account shows one. What it still publishes must not prove the hostname again."""
    holder.verified_at, holder.lost_since = None, None
    holder.challenge, holder.challenge_issued_at = new_challenge(), now
    holder.check_result = "Not verified any more: its token was lost, and another account has proven the hostname."
    holder.save(update_fields=["verified_at", "lost_since", "challenge", "challenge_issued_at", "check_result"])
    _tell(
        "domain.released", holder, f"{holder.hostname} was proven by another account while your token was gone: "
        "it is not probed or steered for you any more.",
    )  # fmt: skip


def _is_first(row: ServiceDomain, now: datetime) -> bool:
    """Postgres decides who is first among those that prove one hostname."""
    try:
        with transaction.atomic():
            ServiceDomain.objects.filter(pk=row.pk).update(verified_at=now)
    except IntegrityError as error:
        cause = error.__cause__
        if isinstance(cause, psycopg.Error) and cause.diag.constraint_name == _ONE_PROOF:
            return False
        raise
    return True


def _tell(kind: str, row: ServiceDomain, summary: str) -> None:
    Event.record(kind, row, summary, customer_id=row.customer_id, hostname=row.hostname)


# --- looking --------------------------------------------------------------------------------------------------------


def _look(domain: ServiceDomain) -> _Look:
    name, wanted = domain.challenge_name, domain.challenge_value
    try:
        zone, servers = lookup.authoritative_servers(domain.hostname)
    except lookup.LookupFailed as error:
        return _Look(f"the name servers were not found ({error}).", is_telling=False)
    answers = lookup.ask_all([(server, name, "TXT") for server in servers], timeout_seconds=_TIMEOUT_SECONDS)
    telling = [answer for answer in answers if answer.authoritative and not answer.error]
    if not telling:
        silence = "; ".join(f"{answer.server} {answer.error or 'is not authoritative'}" for answer in answers)
        return _Look(f"no name server of {zone} answered for {name} ({silence}).", is_telling=False)
    without = [answer for answer in telling if wanted not in lookup.txt_values(answer)]
    if not without:
        counts = f"{len(telling)} of {len(answers)}"
        return _Look(f"Verified: {counts} name servers of {zone} answered, and showed the token.", is_there=True)
    missing_at = ", ".join(answer.server for answer in without)
    if any(record.type == "CNAME" for answer in without for record in answer.records):
        return _Look(f"{name} is a CNAME at {missing_at}; the TXT record must stand at this name itself.")
    return _Look(f"the TXT record {name} with “{wanted}” is missing at {missing_at}.")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_RESULT else f"{text[: _LONGEST_RESULT - 1]}…"
