"""Taking a name's record over and giving it back: an operator's acts, each one atomic write at the vendor.

    adopt      a simple record at the name ─► ours, everything on the primary       from then on it is steered
    release    ours ─► a simple CNAME to the primary                               from then on it is only watched

Where the answer to a write gets lost, what stands there is read, and the write is made once more: twice is no more than
once. If even then nobody knows, the name is looked after as one of ours, until its check list or its next plan tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from customers.models import Event
from dns import accounts, outbox, vendors
from dns.locks import briefly
from dns.models import DnsAccount, Freeze, RecordSet, WeightChange, WriteAttempt
from dns.pen import Pen
from dns.planning import primary_among
from dns.providers.contract import Provider, ProviderError, Receipt, Standing, Trouble
from services.models import Target

State = WeightChange.State

LEASE = timedelta(seconds=60)
"""How long an act may take, with all its reading, before others look what became of it."""


def preview(record_set: RecordSet) -> str:
    """What adopting would replace, in words. Raises ProviderError."""
    standing = _standing(record_set, vendors.provider_of(record_set.account))
    if standing.foreign:
        return "; ".join(standing.foreign)
    return "ours stands there already" if standing.members else "nothing stands there: it needs no adopting"


def adopt(record_set: RecordSet, user: User) -> WeightChange:
    """Replace the simple record at the name by ours, everything on the primary. Raises ProviderError."""
    if problem := record_set.domain.proof_problem(datetime.now(UTC)):
        raise ProviderError(problem, permanent=True, trouble=Trouble.REFUSED)
    _refuse_frozen(record_set)
    targets, primary = _paths(record_set)
    provider = vendors.provider_of(record_set.account)
    standing = _standing(record_set, provider)
    is_free = not standing.foreign and not standing.members
    if is_free and record_set.released_at is None:
        text = f"nothing stands at {record_set.domain}: it needs no adopting, and is written once it is armed"
        raise ProviderError(text, permanent=True)
    ttl = timedelta(seconds=standing.foreign_ttl_seconds or 0)
    with _sole_writer(record_set.account, provider):
        # Whatever becomes of this worker, what may be ours from now on is looked after, and caches are waited for.
        begun = {"released_at": None, "arms_at": datetime.now(UTC) + ttl}
        change, attempt = _begin(record_set, targets, primary, f"adopted by {user}", user, begun)
        try:
            wanted = vendors.weighted_set(record_set, change.weights, change.generation, targets)
            receipt = _surely(
                lambda: provider.apply([wanted]) if is_free else provider.adopt(wanted),
                lambda: _standing(record_set, provider).generation == wanted.generation,
            )
        except (ProviderError, ValueError) as error:
            before = {"released_at": record_set.released_at, "arms_at": record_set.arms_at}
            _failed(change, attempt, error, before)
            raise
    at = datetime.now(UTC)
    seen_at = None if provider.answers else at
    with transaction.atomic():
        _accepted(attempt, receipt, at)
        WeightChange.objects.filter(pk=change.pk, state__in=WeightChange.LIVE).update(
            state=State.OBSERVED if seen_at else State.CONFIRMED, confirmed_at=at, observed_at=seen_at,
            next_attempt_at=at + outbox.READ_BACK,
        )  # fmt: skip
        RecordSet.objects.filter(pk=record_set.pk).update(
            arms_at=at + ttl, written={member.key: member.target for member in wanted.members},
            is_held=False, drifted_since=None, reasserted=0, is_restless=True, next_check_at=at,
        )  # fmt: skip
        summary = f"{record_set.domain}: {'; '.join(standing.foreign) or 'the name'} was adopted by {user}"
        Event.record("record_set.adopted", change, summary, customer_id=record_set.customer_id)
    accounts.recover(record_set.account)
    change.refresh_from_db()
    return change


def _refuse_frozen(record_set: RecordSet) -> None:
    service = record_set.domain.service
    freeze = next((f for f in Freeze.objects.filter(lifted_at__isnull=True) if f.covers(service)), None)
    if freeze:
        raise ProviderError(f"{service} is frozen: {freeze.reason}", permanent=True, trouble=Trouble.REFUSED)


def release(record_set: RecordSet, user: User) -> str:
    """Replace ours by a simple CNAME to the primary and steer no more. Returns the target. Raises ProviderError."""
    if record_set.data_plane:
        raise ProviderError("disarm its data plane first: a health check would be left behind", permanent=True)
    if problem := record_set.domain.proof_problem(datetime.now(UTC)):
        raise ProviderError(problem, permanent=True, trouble=Trouble.REFUSED)
    _refuse_frozen(record_set)
    targets, primary = _paths(record_set)
    provider = vendors.provider_of(record_set.account)
    vendors.find_zone(record_set, provider)
    with _sole_writer(record_set.account, provider):
        change, attempt = _begin(record_set, targets, primary, f"released by {user}", user)
        try:
            wanted = vendors.weighted_set(record_set, change.weights, change.generation, targets)
            receipt = _surely(
                lambda: provider.release(wanted, primary.address),
                lambda: _is_simple(_standing(record_set, provider)),
            )
        except (ProviderError, ValueError) as error:
            _failed(change, attempt, error)
            raise
    at = datetime.now(UTC)
    with briefly():
        row = RecordSet.objects.select_for_update().get(pk=record_set.pk)
        _accepted(attempt, receipt, at)
        row.changes.live().update(state=State.SUPERSEDED)  # and what a storm wanted meanwhile
        WeightChange.objects.filter(pk=change.pk).update(confirmed_at=at)
        RecordSet.objects.filter(pk=row.pk).update(
            released_at=at, armed_at=None, unarmed_reason="its records were given back", arms_at=None, written={},
            is_held=False, drifted_since=None, reasserted=0, observed_weights={}, observed_generation=0, observation="",
        )  # fmt: skip
        summary = f"{record_set.domain}: given back by {user}, a CNAME to {primary.address}"
        Event.record("record_set.released", change, summary, customer_id=record_set.customer_id)
    accounts.recover(record_set.account)
    return primary.address


def _paths(record_set: RecordSet) -> tuple[dict[str, Target], Target]:
    """Today's paths by id, and the primary among them."""
    targets = {str(target.pk): target for target in record_set.domain.targets.filter(enabled=True).paths()}
    primary = primary_among(targets.values())
    if primary is None:
        raise ProviderError(f"{record_set.domain} has no primary path to lead to", permanent=True)
    return targets, primary


def _standing(record_set: RecordSet, provider: Provider) -> Standing:
    vendors.find_zone(record_set, provider)
    name = record_set.domain.hostname
    return provider.read(vendors.zone_of(record_set), [name])[name]


def _is_simple(standing: Standing) -> bool:
    """Whether nothing of ours is left where ours stood, and something else took its place."""
    return not standing.members and standing.generation is None and bool(standing.foreign)


@contextmanager
def _sole_writer(account: DnsAccount, provider: Provider) -> Iterator[None]:
    """Alone at a vendor at which two writes at a time get in each other's way."""
    pen = Pen(account, datetime.now(UTC)) if provider.one_writer else None
    if pen and not pen.take():
        raise ProviderError(f"{account} is being written to just now: try again in some seconds", permanent=False)
    try:
        yield
    finally:
        if pen:
            pen.put_down()


def _begin(
    record_set: RecordSet, targets: Mapping[str, Target], primary: Target, reason: str, user: User,
    fields: Mapping[str, Any] | None = None,
) -> tuple[WeightChange, WriteAttempt]:  # fmt: skip
    """The next generation, everything on the primary, submitted under our own hands; what was on its way is overtaken."""
    percents = {key: 100 if target == primary else 0 for key, target in targets.items()}
    now = datetime.now(UTC)
    with briefly():
        row = RecordSet.objects.select_for_update().get(pk=record_set.pk)
        row.changes.live().update(state=State.SUPERSEDED)
        generation = row.generation + 1
        RecordSet.objects.filter(pk=row.pk).update(generation=generation, **fields or {})
        attempt = WriteAttempt.objects.create(
            account=row.account, zone=record_set.zone, zone_id=record_set.zone_id, change_ids=[]
        )
        change = WeightChange.objects.create(
            customer_id=row.customer_id, service=record_set.domain.service, record_set=row, generation=generation,
            weights=percents, previous_weights=percents, ttl_seconds=record_set.ttl_seconds, state=State.SUBMITTED,
            reason=reason, approved_by=user, wanted_at=now, submitted_at=now, attempts=1, attempt=attempt,
            next_attempt_at=now + LEASE,
        )  # fmt: skip
        WriteAttempt.objects.filter(pk=attempt.pk).update(change_ids=[change.pk])
    return change, attempt


def _surely(write: Callable[[], Receipt], is_done: Callable[[], bool]) -> Receipt:
    """Write, and once more if nobody knows whether it was done. Raises ProviderError, `unknown` if that stays so."""
    for _ in range(2):
        try:
            return write()
        except ProviderError as error:
            if not error.unknown:
                raise
            lost = error
        with suppress(ProviderError):
            if is_done():
                return Receipt()
    raise lost


def _accepted(attempt: WriteAttempt, receipt: Receipt, at: datetime) -> None:
    WriteAttempt.objects.filter(pk=attempt.pk).update(
        ended_at=at, outcome=WriteAttempt.Outcome.ACCEPTED, receipt={"change_id": receipt.change_id, **receipt.details},
        live_at=at if receipt.is_live else None,
        next_poll_at=None if receipt.is_live else at + timedelta(seconds=outbox.POLL_SECONDS[0]),
    )  # fmt: skip


def _failed(
    change: WeightChange, attempt: WriteAttempt, error: Exception, before: Mapping[str, Any] | None = None
) -> None:
    """What is wanted is planned anew: at once, or when a write that was lost would have come. `before` is how the row was,
    and surely is again."""
    if not isinstance(error, ProviderError):
        error = ProviderError(str(error), permanent=True, trouble=Trouble.UNSAFE)
    said = WriteAttempt.Outcome
    outcome = said.UNKNOWN if error.unknown else said.REFUSED if error.permanent else said.FAILED
    at = datetime.now(UTC)
    with transaction.atomic():
        WriteAttempt.objects.filter(pk=attempt.pk).update(
            ended_at=at, outcome=outcome, error=str(error), trouble=error.trouble
        )
        WeightChange.objects.filter(pk=change.pk, state__in=WeightChange.LIVE).update(
            state=State.FAILED, error=str(error), trouble=error.trouble,
            next_attempt_at=at + LEASE if error.unknown else at,
        )  # fmt: skip
        fields = {"is_restless": True} | ({} if error.unknown else dict(before or {}))
        RecordSet.objects.filter(pk=change.record_set_id).update(**fields)
