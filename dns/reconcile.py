"""Compares what was written with what stands: soon after each write, and in a slow sweep over every record set.

A write is *observed* once every authoritative server shows its beacon and the vendor says that it is live. Later the same
look finds *drift*. What the vendor's API shows decides then: an older plan of ours that came late is written over at once;
a person's edit is told, written over at most twice, and then left to people.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import Exists, F, OuterRef, Prefetch, Q

from customers.models import Event
from dns import accounts, observation, outbox, vendors, weights
from dns.locks import briefly
from dns.models import DnsAccount, RecordSet, WeightChange, WriteAttempt
from dns.observation import Observation, Wanted
from dns.providers import provider_class
from dns.providers.contract import ProviderError, Standing, Trouble, WeightedSet, Zone
from services import lookup
from services.models import Target
from tranche_site.floor.faults import fault_point

logger = logging.getLogger(__name__)

State = WeightChange.State

FORGIVEN = timedelta(hours=6)
"""So long after the last time it counts: what edits a record set again every hour is a fight, too."""
MOST_WRITES = 6
"""How often one generation is written over older ones of ours before a person must look."""
SOON = timedelta(seconds=10)
"""When drift is looked at again, and what is away from home or was written lately."""
RECENT = timedelta(minutes=10)
SWEEP_RESERVE = 0.5
"""The slow sweep leaves this share of an account's calls to storms."""
LOOKS_AT_ONCE = 500
DRAIN_TTLS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
"""When, in TTLs after a change was observed, resolvers are asked what they still answer."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A record set and the newest change that was let go."""

    record_set: RecordSet
    change: WeightChange

    @property
    def wanted(self) -> Wanted:
        record_set, change = self.record_set, self.change
        targets: dict[str, str] = {}
        other = ""
        for target in record_set.domain.targets.all():
            if str(target.pk) not in change.weights:
                continue
            if record_set.zone != record_set.domain.hostname:
                targets[target.address.rstrip(".").lower()] = str(target.pk)
            elif addresses := record_set.apex_addresses.get(target.address):
                targets |= dict.fromkeys(addresses, str(target.pk))
            else:
                other = str(target.pk)
        # An alias has that of what it leads to.
        ttl = 0 if other else change.ttl_seconds or record_set.ttl_seconds
        return Wanted(
            record_set.domain.hostname, record_set.zone, targets, change.weights, change.generation, ttl, other
        )

    @property
    def set(self) -> WeightedSet:
        targets = {str(target.pk): target for target in self.record_set.domain.targets.all()}
        wanted = vendors.weighted_set(self.record_set, self.change.weights, self.change.generation, targets)
        return replace(wanted, ttl_seconds=self.change.ttl_seconds or wanted.ttl_seconds)

    def difference(self, standing: Standing) -> str:
        """What is not as it was written; "" as well where its paths have changed so that this can't be told any more."""
        try:
            return standing.difference(self.set)
        except (ValueError, KeyError) as error:
            logger.warning("%s can't be compared with what stands there: %s", self.record_set, error)
            return ""


def is_any_on_its_way() -> bool:
    """Whether a change was given to its vendor and not yet observed."""
    return WeightChange.objects.filter(state__in=WeightChange.UNDER_WAY, attempt__isnull=False).exists()


def observe(now: datetime) -> list[Observation]:
    """Look at every change that is on its way: also at those of which nobody knows whether they were made.

    Where the vendor is still copying, its servers differ, and a look is no news before it says that it is done.
    """
    copying = Exists(WriteAttempt.objects.filter(pk=OuterRef("attempt"), next_poll_at__isnull=False))
    under_way = WeightChange.objects.filter(~copying, state__in=WeightChange.UNDER_WAY)
    rows = RecordSet.objects.live().filter(pk__in=under_way.values("record_set"))
    return [seen for chunk in _chunks(rows.values_list("pk", flat=True)) for seen in _look(chunk, now)]


def sweep(now: datetime, *, everything: bool = False) -> list[Observation]:
    """Look for drift at the record sets whose turn it is; at rest, that is every DRIFT_LOOK_SECONDS."""
    rows = RecordSet.objects.live().filter(generation__gt=0)
    if not everything:
        rows = rows.filter(next_look_at__lte=now).order_by("next_look_at")[:LOOKS_AT_ONCE]
    ids = list(rows.values_list("pk", flat=True))
    seen, looked_at = [], set()
    for chunk in _chunks(ids):
        seen += _look(chunk, now, _read(chunk))
        looked_at |= {case.record_set.pk for case in chunk}
    _schedule(
        [pk for pk in ids if pk not in looked_at], now, SOON.total_seconds()
    )  # nothing of ours stands there yet; they must not be first in every turn
    return seen


def _chunks(record_set_ids: Iterable[int]) -> Sequence[Sequence[_Case]]:
    ids = sorted(record_set_ids)
    return [_cases(ids[start : start + LOOKS_AT_ONCE]) for start in range(0, len(ids), LOOKS_AT_ONCE)]


def _cases(ids: Sequence[int]) -> list[_Case]:
    newest = {
        change.record_set_id: change
        for change in WeightChange.objects.filter(record_set__in=ids)
        .exclude(state__in=[State.HELD, State.SUPERSEDED, State.FAILED])
        .select_related("attempt")
        .order_by("record_set_id", "-generation")
        .distinct("record_set_id")
    }
    record_sets = RecordSet.objects.filter(pk__in=ids).select_related("account", "domain").prefetch_related(
        Prefetch("domain__targets", Target.objects.paths())
    )  # fmt: skip
    return [
        _Case(record_set, change)
        for record_set in record_sets.order_by("pk")
        if (change := newest.get(record_set.pk))
        and change.state != State.WANTED
        and (change.attempt_id or change.state in (State.CONFIRMED, State.OBSERVED))
    ]


def _read(cases: Sequence[_Case]) -> dict[int, Standing]:
    """What the vendors' APIs show, by record set: a sample of answers can miss a small weight, an API can't.

    So every account's credentials are used in calm times too, and one that was revoked is known before the storm. What
    can't be read now is left out; storms have half of every account's calls to themselves.
    """
    groups: dict[tuple[DnsAccount, Zone], list[_Case]] = defaultdict(list)
    for case in cases:
        if case.change.state == State.OBSERVED:
            groups[case.record_set.account, vendors.zone_of(case.record_set)].append(case)
    standing: dict[int, Standing] = {}
    for (account, zone), members in groups.items():
        if not provider_class(account.vendor).answers:
            continue
        try:
            provider = vendors.provider_of(account, SWEEP_RESERVE)
            for case in members:
                name = case.record_set.domain.hostname
                standing[case.record_set.pk] = provider.read(zone, [name])[name]
        except ProviderError as error:
            if error.trouble != Trouble.THROTTLED:
                accounts.note_trouble(account, error)
        else:
            accounts.recover(account)
    return standing


def _look(cases: Sequence[_Case], now: datetime, read: Mapping[int, Standing] | None = None) -> list[Observation]:
    asked = [case for case in cases if provider_class(case.record_set.account.vendor).answers]
    _schedule([case.record_set.pk for case in cases if case not in asked], now, settings.DRIFT_LOOK_SECONDS)
    fault_point("dns.looking")
    seen = observation.look_at_all([case.wanted for case in asked])
    fault_point("dns.looked")
    arrived: list[tuple[_Case, Observation]] = []
    for case, found in zip(asked, seen, strict=True):
        standing = read.get(case.record_set.pk) if read else None
        if standing and (difference := case.difference(standing)) and not found.problem:
            found = replace(found, problem=f"at the vendor {difference}")
        if not found.problem and _is_live(case.change):
            arrived.append((case, found))
        else:
            _not_there(case, found, standing, now)
    _arrive(arrived, now)
    fault_point("dns.observed")
    return seen


def _is_live(change: WeightChange) -> bool:
    """An early good answer may just come from a server that was quick; the vendor knows of all of them."""
    attempt: WriteAttempt | None = change.attempt
    return attempt is None or attempt.live_at is not None or attempt.ended_at is None or attempt.next_poll_at is None


def _arrive(arrived: Sequence[tuple[_Case, Observation]], now: datetime) -> None:
    """Everything is as written: the newly seen are observed, and what had drifted has come back."""
    if not arrived:
        return
    at = datetime.now(UTC)
    with briefly():
        under_way = {case.change.pk: (case, found) for case, found in arrived if case.change.state != State.OBSERVED}
        rows = WeightChange.objects.select_for_update().filter(pk__in=under_way, state__in=WeightChange.UNDER_WAY)
        new = list(rows.order_by("pk").values_list("pk", flat=True))
        WeightChange.objects.filter(pk__in=new, confirmed_at__isnull=True).update(confirmed_at=at)
        WeightChange.objects.filter(pk__in=new).update(
            state=State.OBSERVED, observed_at=at, error="", trouble="",
            next_drain_at=at if settings.DRAIN_RESOLVERS else None,
        )  # fmt: skip
        _store(arrived, at)
        Event.objects.bulk_create(
            Event.about(
                "weights.observed", case.change,
                f"{case.record_set.domain}: observed at every authoritative server ({found.summary})",
                customer_id=case.change.customer_id, weights=case.change.weights,
            )
            for pk in new
            for case, found in [under_way[pk]]
        )  # fmt: skip
        for case, _ in arrived:
            if case.change.state == State.OBSERVED and _is_marked(case, now):
                _came_back(case, now)
    calm = [
        case.record_set.pk
        for case, _ in arrived
        if not case.record_set.is_restless and case.change.observed_at and now - case.change.observed_at > RECENT
    ]
    lively = [case.record_set.pk for case, _ in arrived if case.record_set.pk not in set(calm)]
    _schedule(calm, now, settings.DRIFT_LOOK_SECONDS)
    _schedule(lively, now, SOON.total_seconds())


def _store(arrived: Sequence[tuple[_Case, Observation]], at: datetime) -> None:
    """Set-wise: in a storm these are thousands."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE record_sets r
            SET observed_weights = v.weights, observed_generation = v.generation, observed_at = %s, looked_at = %s,
                observation = v.summary
            FROM unnest(%s::bigint[], %s::bigint[], %s::jsonb[], %s::text[]) AS v(id, generation, weights, summary)
            WHERE r.id = v.id AND r.observed_generation <= v.generation
            """,
            [
                at,
                at,
                [case.record_set.pk for case, _ in arrived],
                [case.change.generation for case, _ in arrived],
                [json.dumps(case.change.weights) for case, _ in arrived],
                [found.summary[:300] for _, found in arrived],
            ],
        )


def _is_marked(case: _Case, now: datetime) -> bool:
    """Whether a drift has left something on its row that it can do without now."""
    row = case.record_set
    return bool(row.drifted_since or row.is_held or (row.reasserted and _is_forgiven(case, now)))


def _is_forgiven(case: _Case, now: datetime) -> bool:
    """Whoever undid the edit, or left it at that for long, is no longer in a fight with us."""
    seen_at = case.change.observed_at
    return case.record_set.is_held or (seen_at is not None and now - seen_at > FORGIVEN)


def _came_back(case: _Case, now: datetime) -> None:
    RecordSet.objects.filter(pk=case.record_set.pk).update(
        drifted_since=None, is_held=False, reasserted=0 if _is_forgiven(case, now) else F("reasserted")
    )
    WeightChange.objects.filter(
        record_set=case.record_set, state=State.HELD, refusal=weights.Refusal.FOREIGN
    ).update(state=State.SUPERSEDED)  # fmt: skip
    if case.record_set.is_held:
        summary = f"{case.record_set.domain}: DNS is as it was written again"
        Event.record("weights.restored", case.change, summary, customer_id=case.change.customer_id)


def _schedule(ids: Sequence[int], now: datetime, seconds: float) -> None:
    RecordSet.objects.filter(pk__in=ids).update(
        next_look_at=max(now, datetime.now(UTC)) + timedelta(seconds=seconds), looked_at=datetime.now(UTC)
    )


# --- what is not as written ------------------------------------------------------------------------------------------


def _not_there(case: _Case, found: Observation, standing: Standing | None, now: datetime) -> None:
    change, record_set = case.change, case.record_set
    said = found.problem or "every server shows it; the vendor has yet to say that it is live"
    RecordSet.objects.filter(pk=record_set.pk).update(observation=said[:300])
    if not found.problem:
        return
    if change.state == State.OBSERVED:
        _schedule([record_set.pk], now, SOON.total_seconds())
        if not found.is_silent and (standing := standing or _standing(case)):
            _drift(case, found, standing, now)
    elif change.state == State.CONFIRMED and change.next_attempt_at <= now:
        # The vendor said yes and DNS does not show it: it is asked what it has, and gets it again if it has not.
        WeightChange.objects.filter(pk=change.pk, state=State.CONFIRMED).update(
            state=State.UNKNOWN, error=found.problem, next_attempt_at=now
        )


def _drift(case: _Case, found: Observation, standing: Standing, now: datetime) -> None:
    """The newest plan no longer stands. Whose write is it, and may we write over it?"""
    change, record_set = case.change, case.record_set
    difference = case.difference(standing)
    with briefly():
        row = RecordSet.objects.select_for_update().get(pk=record_set.pk)
        newer = row.changes.filter(generation__gt=change.generation).exclude(state=State.SUPERSEDED)
        if newer.exclude(state=State.HELD).exists():
            return  # a newer plan is on its way
        problem = difference or found.problem
        is_news = row.drifted_since is None
        row.drifted_since = row.drifted_since or now
        row.observation = problem[:300]
        row.is_restless = True
        if is_news:
            summary = f"{row.domain}: DNS no longer shows what was written: {problem}"
            Event.record("weights.drifted", change, summary, customer_id=change.customer_id)
        is_ours = standing.generation is not None and standing.generation < change.generation
        if not difference:
            pass  # its API has what we wrote, its servers do not serve it: writing again would change nothing
        elif row.is_held:
            pass
        elif standing.foreign:
            _leave(row, change, problem)
        elif newer.exists():
            pass  # a plan is held: a person is asked already
        elif is_ours and change.attempts < MOST_WRITES and row.reasserted < outbox.MOST_REASSERTS + 1:
            # An older write of ours came late, from a worker that slept.
            _reassert(
                row,
                change,
                now,
                problem,
                f"{row.domain}: an older plan was written over the newest, which is written again",
            )
        elif row.reasserted >= outbox.MOST_REASSERTS:
            _leave(row, change, problem)
        elif not is_news:
            row.reasserted += 1
            _reassert(
                row, change, now, problem, f"{row.domain}: edited by hand ({problem}); what is wanted is written again"
            )
        row.save(update_fields=["drifted_since", "observation", "reasserted", "is_held", "is_restless", "generation"])


def _standing(case: _Case) -> Standing | None:
    """What the vendor's API has; None if it can't be asked now."""
    name = case.record_set.domain.hostname
    try:
        return vendors.provider_of(case.record_set.account).read(vendors.zone_of(case.record_set), [name])[name]
    except ProviderError as error:
        RecordSet.objects.filter(pk=case.record_set.pk).update(observation=f"can't be read: {error}"[:300])
        return None


def _reassert(row: RecordSet, change: WeightChange, now: datetime, problem: str, summary: str) -> None:
    if row.generation != change.generation:
        # A plan that was held and dropped took the next number, and of older ones none is ever written.
        row.generation += 1
        again = WeightChange.objects.create(
            customer_id=row.customer_id, service_id=change.service_id, record_set=row, storm=change.storm,
            generation=row.generation, weights=change.weights, previous_weights=change.previous_weights,
            ttl_seconds=change.ttl_seconds, is_urgent=change.is_urgent, reason=change.reason,
            approved_by=change.approved_by, wanted_at=now, error=problem, next_attempt_at=now,
        )  # fmt: skip
        Event.record("weights.reasserted", again, summary, customer_id=change.customer_id)
    elif WeightChange.objects.filter(pk=change.pk, state=State.OBSERVED).update(
        state=State.WANTED, error=problem, next_attempt_at=now, observed_at=None
    ):
        Event.record("weights.reasserted", change, summary, customer_id=change.customer_id)


def _leave(row: RecordSet, change: WeightChange, problem: str) -> None:
    """Never fight a person: what is wanted waits, for this record set, until somebody approves or undoes the edit."""
    row.is_held = True
    row.generation += 1
    WeightChange.objects.filter(record_set=row).live().update(state=State.SUPERSEDED)
    held = WeightChange.objects.create(
        customer_id=row.customer_id, service_id=change.service_id, record_set=row, storm=change.storm,
        generation=row.generation, weights=change.weights, previous_weights=change.weights, state=State.HELD,
        ttl_seconds=change.ttl_seconds, reason=change.reason, refusal=weights.Refusal.FOREIGN, trouble=Trouble.FOREIGN,
        held_reason=f"{weights.Refusal.FOREIGN}: {problem}",
    )  # fmt: skip
    summary = f"{row.domain}: left alone, since somebody edits it by hand: {problem}"
    Event.record("weights.held", held, summary, customer_id=row.customer_id, weights=held.weights)


# --- drain -----------------------------------------------------------------------------------------------------------


def watch_drain(now: datetime) -> int:
    """Ask resolvers, some time after a change was observed, what they still answer. Returns how many points were taken."""
    due = list(
        WeightChange.objects.filter(next_drain_at__lte=now, observed_at__isnull=False)
        .select_related("record_set__domain")
        .prefetch_related("record_set__domain__targets")[:LOOKS_AT_ONCE]
    )
    if not due:
        return 0
    resolvers = [lookup.server(text) for text in settings.DRAIN_RESOLVERS]
    answers = observation.drain([change.record_set.domain.hostname for change in due], resolvers)
    for change, heard in zip(due, answers, strict=True):
        keys = {t.address.rstrip(".").lower(): str(t.pk) for t in change.record_set.domain.targets.all()}
        counts: dict[str, int] = {}
        for value in heard:
            key = keys.get(value, "other")
            counts[key] = counts.get(key, 0) + 1
        assert change.observed_at  # noqa: S101
        point = {"after_seconds": round((datetime.now(UTC) - change.observed_at).total_seconds(), 1), "answers": counts}
        change.drain = [*change.drain, point]
        later = DRAIN_TTLS[len(change.drain) :]
        ttl = change.record_set.ttl_seconds
        change.next_drain_at = change.observed_at + timedelta(seconds=later[0] * ttl) if later else None
    WeightChange.objects.bulk_update(due, ["drain", "next_drain_at"])
    return len(due)


def give_up_drains() -> None:
    """Newer weights make an older curve meaningless."""
    WeightChange.objects.filter(
        Q(next_drain_at__isnull=False), generation__lt=F("record_set__observed_generation")
    ).update(next_drain_at=None)
