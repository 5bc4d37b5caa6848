"""Takes due weight changes to their vendors: in batches of one zone, each from under a lock, none inside a transaction.

    wanted ─ claim ─► submitted ─ apply ─► confirmed              the vendor said yes
                                        ├► wanted, later          it was surely not done
                                        ├► unknown ─ read back ─► confirmed, or wanted again
                                        └► failed                 refused for good; of a batch, only the one that was meant

What protects goes first. A batch that is refused is split until the bad one stands alone. An account in trouble (revoked,
throttled, out of reach) is left alone for a while, and only that account.
"""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import DatabaseError, connection, transaction
from django.db.models import F, Q

from customers.models import Event
from dns import accounts, bucket, planning, vendors, weights
from dns.locks import briefly
from dns.models import DnsAccount, Freeze, RecordSet, WeightChange, WriteAttempt
from dns.pen import Pen
from dns.providers.contract import Provider, ProviderError, Receipt, Standing, Trouble, WeightedSet
from services.models import ServiceDomain
from tranche_site.floor.faults import fault_point

logger = logging.getLogger(__name__)

State = WeightChange.State

LEASE = timedelta(seconds=20)
"""How long a submitted change may stay without a word before nobody knows what became of it."""
SEND_WITHIN_SECONDS = 8.0
"""A worker that needed longer from the lock to the call was asleep, and what it holds may be old: it sends nothing."""
READ_BACK = timedelta(seconds=10)
"""A confirmed change that DNS does not show after this time is read back from the vendor."""
BACKOFF_SECONDS = (1, 2, 5, 15, 60, 300)
MOST_REASSERTS = 2
"""How often a person's edit is written over before people decide."""
PERMANENT_WAIT_SECONDS = 300
"""How long the same plan is not made again after the vendor refused it for good."""
POLL_SECONDS = (5, 5, 10, 10, 20, 20, 40, 40, 60, 60)
"""When a vendor is asked whether all its servers have a write; about five minutes in all."""
BUSY_SECONDS = 20.0
"""How long one turn may write to one account."""
_THREADS = 8
"""Accounts that are written to at a time by one worker."""


def submit(now: datetime) -> list[WeightChange]:
    """Write what is due, and clear up what is not known. Returns the changes that a vendor was asked to make."""
    _give_up_leases(now)
    due = Q(changes__state__in=[State.WANTED, State.UNKNOWN], changes__next_attempt_at__lte=now)
    account_ids = RecordSet.objects.filter(due).order_by("account_id").values_list("account_id", flat=True).distinct()
    due_accounts = list(DnsAccount.objects.filter(pk__in=list(account_ids)))
    if len(due_accounts) <= 1 or connection.in_atomic_block:
        return [change for account in due_accounts for change in _Turn(account, now).run_safely()]
    with ThreadPoolExecutor(min(_THREADS, len(due_accounts)), thread_name_prefix="outbox") as pool:
        turns = list(pool.map(lambda account: _Turn(account, now).run_alone(), due_accounts))
    return [change for written in turns for change in written]


def _give_up_leases(now: datetime) -> None:
    """Whoever claimed these never came back; whether they wrote, the vendor knows."""
    WeightChange.objects.filter(state=State.SUBMITTED, next_attempt_at__lte=now).update(
        state=State.UNKNOWN, error="the worker that wrote it never came back"
    )


class _Turn:
    """One worker's turn at one account."""

    def __init__(self, account: DnsAccount, now: datetime) -> None:
        self.account = account
        self.now = now
        self.written: list[WeightChange] = []
        self._until = time.monotonic() + BUSY_SECONDS

    def run_alone(self) -> list[WeightChange]:
        """In a thread of its own, with its own connection."""
        try:
            return self.run_safely()
        finally:
            connection.close()

    def run_safely(self) -> list[WeightChange]:
        """What nobody thought of at one account holds up no other, nor the looks that follow."""
        try:
            return self.run()
        except DatabaseError:
            raise
        except Exception:
            logger.exception("%s could not be written to", self.account)
            return self.written

    def run(self) -> list[WeightChange]:
        try:
            self.provider: Provider = vendors.provider_of(self.account)
        except ProviderError as error:
            self._refuse_all(error)
            return []
        pen = Pen(self.account, self.now) if self.provider.one_writer else None
        if pen and not pen.take():
            return []
        try:
            self._read_back()
            self._find_zones()
            while time.monotonic() < self._until and (pen is None or pen.take()) and not self._is_spent():
                if not (batch := self._claim()):
                    break
                self._write(batch)
        except _Pause:
            pass  # what is still due stays due
        finally:
            if pen:
                pen.put_down()
        return self.written

    # --- claim ---

    def _is_spent(self) -> bool:
        """Nothing is claimed that can't be paid for; when there is a call again, what is most urgent has it."""
        return self.provider.is_metered and bucket.is_empty(self.account.pk)

    def _claim(self) -> _Batch | None:
        """The most urgent zone's due changes, under the locks of their record sets; older generations can't act."""
        claimed_at = time.monotonic()
        with briefly():
            rows = self._due()
            record_sets = {row.record_set_id: row.record_set for row in rows}
            domains = {
                domain.pk: domain
                for domain in ServiceDomain.objects.with_contest()
                .filter(pk__in=[r.domain_id for r in record_sets.values()])
                .select_related("service")
                .prefetch_related("targets")
            }
            freezes = list(Freeze.objects.filter(lifted_at__isnull=True))
            taken: list[WeightChange] = []
            for change in rows:
                record_set = change.record_set
                record_set.domain = domains[record_set.domain_id]
                if change.generation != record_set.generation:
                    change.state = State.SUPERSEDED
                elif any(freeze.covers(record_set.domain.service) for freeze in freezes):
                    change.next_attempt_at = self.now + timedelta(seconds=1)
                # Nobody's word replaces the owner's proof, and it may have been lost since the plan was made.
                elif problem := record_set.domain.proof_problem(self.now):
                    _hold(change, weights.Refusal.UNPROVEN, problem)
                elif record_set.is_held and not change.approved_by_id:
                    _hold(change, weights.Refusal.FOREIGN, "somebody edits its records by hand")
                else:
                    taken.append(change)
                    continue
                change.save(update_fields=["state", "refusal", "held_reason", "next_attempt_at"])
            if not taken:
                return _Batch(None, [], claimed_at) if rows else None
            attempt = self._attempt(taken)
            fault_point("dns.claiming")
            return _Batch(attempt, taken, claimed_at)

    def _due(self) -> list[WeightChange]:
        due = WeightChange.objects.filter(
            record_set__account=self.account, state=State.WANTED, next_attempt_at__lte=self.now
        ).order_by(F("is_urgent").desc(), "next_attempt_at", "pk")
        zones = due.exclude(record_set__zone="").values_list("record_set__zone", "record_set__zone_id")
        for zone, zone_id in dict.fromkeys(zones[:1000]):
            rows = (
                due.filter(record_set__zone=zone, record_set__zone_id=zone_id)
                .select_for_update(of=("self", "record_set"), skip_locked=True)
                .select_related("record_set")[: self.provider.most_per_write]
            )
            if found := list(rows):
                return found
        return []

    def _attempt(self, changes: Sequence[WeightChange]) -> WriteAttempt:
        """Note the attempt, and mark its changes as submitted under it."""
        record_set, at = changes[0].record_set, datetime.now(UTC)
        attempt = WriteAttempt.objects.create(
            account=self.account, zone=record_set.zone, zone_id=record_set.zone_id, started_at=at,
            change_ids=[change.pk for change in changes],
        )  # fmt: skip
        for change in changes:
            change.state, change.attempt = State.SUBMITTED, attempt
            change.submitted_at = change.submitted_at or at
            change.attempts += 1
        WeightChange.objects.filter(pk__in=attempt.change_ids).update(
            state=State.SUBMITTED,
            attempt=attempt,
            attempts=F("attempts") + 1,
            next_attempt_at=max(self.now, at) + LEASE,
        )
        WeightChange.objects.filter(pk__in=attempt.change_ids, submitted_at__isnull=True).update(submitted_at=at)
        return attempt

    # --- write ---

    def _write(self, batch: _Batch) -> None:
        if batch.attempt is None:
            return
        fault_point("dns.submitting")
        sets, changes = self._sets(batch)
        if not changes:
            WriteAttempt.objects.filter(pk=batch.attempt.pk).update(
                ended_at=datetime.now(UTC), outcome=WriteAttempt.Outcome.REFUSED, trouble=Trouble.UNSAFE,
                error="nothing was sent",
            )  # fmt: skip
            return
        if time.monotonic() - batch.claimed_at > SEND_WITHIN_SECONDS:
            logger.warning("%s: this worker slept; nothing was sent", batch.attempt)
            return
        # A lane that is written once must be written at 0 for ever after, whatever becomes of this call.
        _note_written(changes, sets)
        fault_point("dns.sending")
        try:
            receipt = self.provider.apply(sets)
        except ProviderError as error:
            fault_point("dns.refused")
            self._refused(batch.attempt, changes, error)
            return
        fault_point("dns.submitted")
        self.written += changes
        self._accepted(batch.attempt, changes, sets, receipt)
        fault_point("dns.confirmed")

    def _sets(self, batch: _Batch) -> tuple[list[WeightedSet], list[WeightChange]]:
        """What is to be written; a change that no vendor may be given fails alone."""
        sets, changes = [], []
        for change in batch.changes:
            record_set = change.record_set
            targets = {str(target.pk): target for target in record_set.domain.targets.all()}
            try:
                sets.append(vendors.weighted_set(record_set, change.weights, change.generation, targets))
                changes.append(change)
            except (ValueError, KeyError) as error:
                self._fail([change], ProviderError(str(error), permanent=True, trouble=Trouble.UNSAFE))
        return sets, changes

    def _accepted(
        self, attempt: WriteAttempt, changes: Sequence[WeightChange], sets: Sequence[WeightedSet], receipt: Receipt
    ) -> None:
        at = datetime.now(UTC)
        stored = {"change_id": receipt.change_id, **receipt.details}
        is_seen = not self.provider.answers
        # A change that DNS never shows is looked after ever more seldom.
        patience = READ_BACK * 2 ** min(max(change.attempts for change in changes) - 1, 9)
        with transaction.atomic():
            WriteAttempt.objects.filter(pk=attempt.pk).update(
                ended_at=at, outcome=WriteAttempt.Outcome.ACCEPTED, receipt=stored,
                live_at=at if receipt.is_live else None,
                next_poll_at=None if receipt.is_live else at + timedelta(seconds=POLL_SECONDS[0]),
            )  # fmt: skip
            updated = WeightChange.objects.filter(
                pk__in=[change.pk for change in changes], attempt=attempt, state__in=[State.SUBMITTED, State.UNKNOWN]
            )
            updated.update(
                state=State.OBSERVED if is_seen else State.CONFIRMED, confirmed_at=at,
                observed_at=at if is_seen else None, receipt=stored, error="", trouble="",
                next_attempt_at=at + patience,
            )  # fmt: skip
            _turn_beacons(changes)
            if is_seen:
                for change in changes:
                    RecordSet.objects.filter(pk=change.record_set_id, generation=change.generation).update(
                        observed_weights=change.weights, observed_generation=change.generation, observed_at=at,
                        observation="not asked: this provider only logs",
                    )  # fmt: skip
        accounts.recover(self.account)

    def _refused(self, attempt: WriteAttempt, changes: list[WeightChange], error: ProviderError) -> None:
        outcome = WriteAttempt.Outcome
        said = outcome.UNKNOWN if error.unknown else outcome.REFUSED if error.permanent else outcome.FAILED
        WriteAttempt.objects.filter(pk=attempt.pk).update(
            ended_at=datetime.now(UTC), outcome=said, error=str(error), trouble=error.trouble
        )
        if error.unknown and (error.trouble != Trouble.STALE or len(changes) == 1):
            self._forget(changes, error)
            if error.trouble == Trouble.STALE:
                return
            raise _Pause
        if error.is_accounts:
            self._fail(changes, error)
            if error.permanent:
                self._refuse_all(error)
            elif error.trouble == Trouble.THROTTLED and not isinstance(error, bucket.Empty):
                bucket.drain(self.account.pk, random.uniform(0.5, 1.5))  # noqa: S311
            accounts.note_trouble(self.account, error)
            raise _Pause
        if len(changes) == 1 or not (error.permanent or error.trouble == Trouble.STALE):
            self._fail(changes, error)
            return
        # One of them is bad, and a batch is all or none: halves, until it stands alone.
        for part in _halves(changes):
            with transaction.atomic():
                again = self._attempt(part)
            self._write(_Batch(again, part, time.monotonic()))

    def _forget(self, changes: Sequence[WeightChange], error: ProviderError) -> None:
        """Nobody knows whether it was done: DNS may show it meanwhile, and the vendor is asked."""
        logger.warning("%s: nobody knows whether %s changes were made: %s", self.account, len(changes), error)
        WeightChange.objects.filter(pk__in=[c.pk for c in changes], state=State.SUBMITTED).update(
            state=State.UNKNOWN, error=str(error), trouble=error.trouble, next_attempt_at=datetime.now(UTC)
        )

    def _fail(self, changes: Sequence[WeightChange], error: ProviderError) -> None:
        logger.warning("%s: %s changes could not be written: %s", self.account, len(changes), error)
        wait = BACKOFF_SECONDS[min(max(change.attempts for change in changes), len(BACKOFF_SECONDS)) - 1]
        if error.trouble == Trouble.THROTTLED:
            wait = 0 if isinstance(error, bucket.Empty) else 1  # the bucket says when
        if error.permanent:
            wait = PERMANENT_WAIT_SECONDS
        with transaction.atomic():
            ids = [change.pk for change in changes]
            rows = WeightChange.objects.filter(pk__in=ids, state=State.SUBMITTED)
            failed = list(rows.values_list("pk", flat=True))
            rows.update(
                state=State.FAILED if error.permanent else State.WANTED,
                error=str(error), trouble=error.trouble, next_attempt_at=self.now + timedelta(seconds=wait),
            )  # fmt: skip
            if error.permanent:
                self._tell([change for change in changes if change.pk in failed], error)

    def _tell(self, changes: Sequence[WeightChange], error: ProviderError) -> None:
        """The same refusal every few minutes is one piece of news."""
        known = {
            change.record_set_id: change.error
            for change in WeightChange.objects.filter(record_set__in=[c.record_set_id for c in changes])
            .exclude(pk__in=[change.pk for change in changes])
            .order_by("record_set_id", "-generation")
            .distinct("record_set_id")
        }
        Event.objects.bulk_create(
            Event.about(
                "weights.failed", change, f"{change.record_set.domain} could not be steered: {self._said(change, error)}",
                customer_id=change.customer_id, trouble=error.trouble,
            )
            for change in changes
            if known.get(change.record_set_id) != str(error)
        )  # fmt: skip

    def _said(self, change: WeightChange, error: ProviderError) -> str:
        """What a vendor says of an account that customers share names others' zones and our roles."""
        return str(error) if self.account.customer_id == change.customer_id else error.trouble or "it is tried again"

    def _refuse_all(self, error: ProviderError) -> None:
        """The account itself is refused: its other changes need not try."""
        accounts.note_trouble(self.account, error)
        rows = list(
            WeightChange.objects.filter(
                record_set__account=self.account, state=State.WANTED, next_attempt_at__lte=self.now
            ).select_related("record_set__domain")
        )
        with transaction.atomic():
            WeightChange.objects.filter(pk__in=[row.pk for row in rows], state=State.WANTED).update(
                state=State.FAILED, error=str(error), trouble=error.trouble,
                next_attempt_at=self.now + timedelta(seconds=PERMANENT_WAIT_SECONDS),
            )  # fmt: skip
            self._tell(rows, error)

    # --- what is not known ---

    def _read_back(self) -> None:
        """Ask the vendor what became of writes whose outcome nobody knows; one name speaks for its whole batch."""
        rows = (
            WeightChange.objects.filter(
                record_set__account=self.account, state=State.UNKNOWN, next_attempt_at__lte=self.now
            )
            .select_related("record_set__domain", "attempt")
            .prefetch_related("record_set__domain__targets")
            .order_by("pk")
        )
        by_attempt: dict[int | None, list[WeightChange]] = defaultdict(list)
        for change in rows:
            by_attempt[change.attempt_id].append(change)
        for changes in by_attempt.values():
            self._resolve(changes)

    def _resolve(self, changes: list[WeightChange]) -> None:
        witness = changes[0]
        record_set = witness.record_set
        name = record_set.domain.hostname
        try:
            standing = self.provider.read(vendors.zone_of(record_set), [name])[name]
        except ProviderError as error:
            since = (self.now - witness.wanted_at).total_seconds()
            wait = min(max(since / 2, BACKOFF_SECONDS[0]), BACKOFF_SECONDS[-1])  # ever more seldom
            WeightChange.objects.filter(pk__in=[c.pk for c in changes], state=State.UNKNOWN).update(
                error=str(error), trouble=error.trouble, next_attempt_at=self.now + timedelta(seconds=wait)
            )
            accounts.note_trouble(self.account, error)
            if error.is_accounts and error.trouble != Trouble.ACCESS:
                raise _Pause from error
            return  # one zone that is gone, or may not be read, holds nobody else up
        fault_point("dns.read_back")
        if (standing.generation or 0) > record_set.generation:
            self._outrun(changes, standing.generation or 0)
            return
        is_done = standing.generation == witness.generation
        if is_done and self._write_over(witness, standing):
            changes = changes[1:]
        state = State.CONFIRMED if is_done and self.provider.answers else State.OBSERVED if is_done else State.WANTED
        at = datetime.now(UTC)
        with transaction.atomic():
            rows = WeightChange.objects.filter(pk__in=[c.pk for c in changes], state=State.UNKNOWN)
            if is_done:
                rows.filter(confirmed_at__isnull=True).update(confirmed_at=at)
                # It has it, and DNS does not show it yet: looked after ever more seldom.
                waited = max(at, self.now) - (witness.confirmed_at or at)
                rows.update(
                    state=state, next_attempt_at=max(at, self.now) + max(READ_BACK, waited), error="", trouble=""
                )
                sets, told = self._sets(_Batch(None, changes, 0.0))
                _note_written(told, sets)
                _turn_beacons(changes)
            else:
                rows.update(state=state, next_attempt_at=self.now)
            if is_done and witness.attempt_id:
                stood = WriteAttempt.objects.filter(pk=witness.attempt_id, live_at__isnull=True)
                stood.filter(next_poll_at__isnull=True).update(live_at=at)

    def _outrun(self, changes: Sequence[WeightChange], generation: int) -> None:
        """A newer plan stands there than any that we know of, as after a database was restored: ours are planned anew."""
        with transaction.atomic():
            ids = [change.record_set_id for change in changes]
            RecordSet.objects.filter(pk__in=ids, generation__lt=generation).update(
                generation=generation, is_restless=True
            )
            WeightChange.objects.filter(pk__in=[c.pk for c in changes], state=State.UNKNOWN).update(
                state=State.SUPERSEDED, error=f"rev={generation} stands there, which we know nothing of"
            )

    def _write_over(self, change: WeightChange, standing: Standing) -> bool:
        """Whether it stood there and was edited by hand before anybody saw it: then it is written again, but not for ever."""
        sets, _ = self._sets(_Batch(None, [change], 0.0))
        problem = standing.difference(sets[0]) if sets and not standing.foreign else ""
        if not problem or change.attempts > MOST_REASSERTS:
            return False
        with transaction.atomic():
            if WeightChange.objects.filter(pk=change.pk, state=State.UNKNOWN).update(
                state=State.WANTED, error=problem, next_attempt_at=self.now
            ):
                domain = change.record_set.domain
                summary = f"{domain}: edited by hand ({problem}); what is wanted is written again"
                Event.record("weights.reasserted", change, summary, customer_id=change.customer_id)
        return True

    def _find_zones(self) -> None:
        lost = RecordSet.objects.select_related("domain").filter(account=self.account).filter(
            Q(zone="") | Q(zone_id="") if self.provider.has_zone_ids else Q(zone=""),
            changes__state=State.WANTED, changes__next_attempt_at__lte=self.now,
        )  # fmt: skip
        for record_set in lost.distinct():
            try:
                vendors.find_zone(record_set, self.provider)
            except ProviderError as error:
                change = record_set.changes.filter(state=State.WANTED).select_related("record_set__domain").first()
                if change:
                    WeightChange.objects.filter(pk=change.pk, state=State.WANTED).update(
                        state=State.SUBMITTED, attempts=F("attempts") + 1
                    )
                    change.attempts += 1
                    self._fail([change], error)
                if error.is_accounts:
                    accounts.note_trouble(self.account, error)
                    raise _Pause from error


class _Pause(Exception):
    """The account is to be left alone for now."""


@dataclass(frozen=True, slots=True)
class _Batch:
    attempt: WriteAttempt | None
    changes: list[WeightChange]
    claimed_at: float
    """Monotonic; it goes on while a process is stopped."""


def _halves(changes: list[WeightChange]) -> list[list[WeightChange]]:
    """By service as far as it goes: a service moves as a whole."""
    changes = sorted(changes, key=lambda change: (change.service_id, change.pk))
    middle = len(changes) // 2
    edge = next(
        (i for i in range(middle, len(changes)) if changes[i].service_id != changes[i - 1].service_id),
        next((i for i in range(middle, 0, -1) if changes[i].service_id != changes[i - 1].service_id), middle),
    )
    return [changes[:edge], changes[edge:]]


def _hold(change: WeightChange, refusal: weights.Refusal, why: str) -> None:
    if change.record_set.is_shifted:
        RecordSet.objects.filter(pk=change.record_set_id).update(is_shifted=False)
    change.state, change.refusal, change.held_reason = State.HELD, refusal, f"{refusal}: {why}"


def _note_written(changes: Sequence[WeightChange], sets: Sequence[WeightedSet]) -> None:
    """Keep which lanes were ever written, so that one which is no longer a path is written at 0."""
    for change, wanted in zip(changes, sets, strict=True):
        lanes = {member.key: member.target for member in wanted.members}
        if change.record_set.written != lanes:
            RecordSet.objects.filter(pk=change.record_set_id).update(written=lanes)


def _turn_beacons(changes: Collection[WeightChange]) -> None:
    """A beacon says “shift” until weights that give the primary something stand at the vendor."""
    armed = [change for change in changes if change.record_set.data_plane]
    for change in armed:
        primary = planning.primary_among(change.record_set.domain.targets.all())
        if primary is None or change.weights.get(str(primary.pk)) != 0:
            RecordSet.objects.filter(pk=change.record_set_id, generation=change.generation).update(is_shifted=False)


# --- whether it is live ----------------------------------------------------------------------------------------------


def poll(now: datetime) -> int:
    """Ask vendors whose servers take their time whether they all have what was written. Returns how many have."""
    live = 0
    due = WriteAttempt.objects.filter(next_poll_at__lte=now).select_related("account").order_by("next_poll_at")
    for attempt in due[:100]:
        fault_point("dns.polling")
        try:
            is_live = vendors.provider_of(attempt.account).is_live(attempt.receipt)
            error = ""
        except ProviderError as problem:
            is_live, error = False, str(problem)
        fault_point("dns.polled")
        polls = attempt.polls + 1
        at = datetime.now(UTC)
        wait = POLL_SECONDS[polls] if polls < len(POLL_SECONDS) else None
        WriteAttempt.objects.filter(pk=attempt.pk).update(
            polls=polls, live_at=at if is_live else None, error=error,
            next_poll_at=None if is_live or wait is None else at + timedelta(seconds=wait),
        )  # fmt: skip
        live += is_live
    return live
