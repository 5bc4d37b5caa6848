"""Terms change by a new version only: the contract in force ends, and the next one begins where it ends.

What a customer is insured by changes with notice, and never while a storm or an incident of its CDNs is open: a change that
would take effect then is moved on, a quarter of an hour at a time. Prices change in the same way, from a time to come.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from billing.models import Contract, Invoice, InvoiceLineItem, Prices
from billing.models.terms import QUARTER_SECONDS
from customers.models import Customer, Event
from services.models import Target
from storms.models import CdnIncident, StormEvent

QUARTER = timedelta(seconds=QUARTER_SECONDS)
LOOK_BACK = timedelta(days=1)
"""How long after its time an amendment that a missed run let pass is still taken back."""
MOST_AT_ONCE = 500
AMENDABLE = (
    *Contract.COVER_FIELDS, "rate_card", "time_zone", "fixed_fee", "premium", "minimum_commitment", "commit_on_net", "tax_rates",
    "grace_hours", "payment_days", "notice_days",
)  # fmt: skip
PRICED = ("tier_mode", "primary_tiers", "backup_tiers", "cdn_tiers", "per_10k_requests")


def quarter_after(at: datetime) -> datetime:
    """The first quarter of an hour (UTC) at or after a moment."""
    behind = timedelta(seconds=at.timestamp() % QUARTER_SECONDS)
    return at.astimezone(UTC) + (QUARTER - behind if behind else behind)


def _next_quarter(at: datetime) -> datetime:
    return quarter_after(at + timedelta(microseconds=1))


def first_allowed(contract: Contract, now: datetime, changed: Collection[str] = Contract.COVER_FIELDS) -> datetime:
    """The earliest time from which an amendment of these fields can hold."""
    notice = timedelta(days=contract.notice_days) if set(Contract.COVER_FIELDS) & set(changed) else timedelta(0)
    return max(quarter_after(now + notice), contract.valid_from + QUARTER)


# --- contracts ------------------------------------------------------------------------------------------------------


def amend(
    contract: Contract, changes: Mapping[str, Any], effective_at: datetime, by: str, reason: str, now: datetime
) -> Contract:
    """End the contract at `effective_at` and make its next version. Raises ValidationError by field.

    `changes`: new values by the name of the field (AMENDABLE). Those of Contract.COVER_FIELDS need the contract's notice.
    """
    unknown = {name: ["This can't be amended."] for name in changes if name not in AMENDABLE}
    if unknown:
        raise ValidationError(unknown)
    with transaction.atomic():
        old = _locked(contract)
        made = _version_after(old, changes, effective_at, reason)
        changed = {name: (getattr(old, name), getattr(made, name)) for name in changes}
        changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
        if not changed:
            raise ValidationError("Nothing is changed: give at least one field another value.")
        _check_time(old, effective_at, first_allowed(old, now, changed), now)
        _check_card(old, made, effective_at)
        old.valid_until = effective_at
        old.save(update_fields=["valid_until"])
        made.save()
        Event.record(
            "contract.amended", made, f"The contract changes on {effective_at:%Y-%m-%d %H:%M} UTC: {', '.join(sorted(changed))}",
            customer_id=made.customer_id, version=made.version, effective_at=effective_at.isoformat(), reason=reason, by=by,
            changes={name: [_said(before), _said(after)] for name, (before, after) in sorted(changed.items())},
        )  # fmt: skip
    return made


def withdraw(contract: Contract, by: str, reason: str, now: datetime) -> Contract:
    """Take back an amendment that has not begun; the version before it goes on. Returns that. Raises ValidationError."""
    with transaction.atomic():
        row = _locked(contract)
        before = Contract.objects.filter(customer=row.customer_id, valid_until=row.valid_from).first()
        if before is None or row.valid_from <= now:
            raise ValidationError("Only an amendment that has not begun can be withdrawn: amend the contract instead.")
        if Invoice.objects.filter(contract=row).exclude(state=Invoice.State.DRAFT).exists():
            raise ValidationError("An invoice was issued by it: amend the contract instead.")
        # The next drafts are made without it.
        InvoiceLineItem.objects.filter(invoice__contract=row).delete()
        Invoice.objects.drafts().filter(contract=row).delete()
        was = row.valid_from
        row.delete()
        before.valid_until = row.valid_until
        before.save(update_fields=["valid_until"])
        Event.record(
            "contract.amendment_withdrawn", before, f"The contract does not change on {was:%Y-%m-%d %H:%M} UTC",
            customer_id=before.customer_id, version=row.version, reason=reason, by=by,
        )  # fmt: skip
    return before


def retire(contract: Contract, ends_at: datetime, by: str, reason: str, now: datetime) -> Contract:
    """End a contract without a next version, with its notice: nothing is billed or insured after it. Raises ValidationError."""
    with transaction.atomic():
        row = _locked(contract)
        _check_time(row, ends_at, first_allowed(row, now), now)
        row.valid_until = ends_at
        row.save(update_fields=["valid_until"])
        Event.record(
            "contract.retired", row, f"The contract ends on {ends_at:%Y-%m-%d %H:%M} UTC", customer_id=row.customer_id,
            version=row.version, ends_at=ends_at.isoformat(), reason=reason, by=by,
        )  # fmt: skip
    return row


def _locked(contract: Contract) -> Contract:
    """The row as it stands now, under the lock that drafting takes as well: one writer per customer."""
    Customer.objects.select_for_update(no_key=True).get(pk=contract.customer_id)
    return Contract.objects.select_related("customer", "rate_card").get(pk=contract.pk)


def _version_after(old: Contract, changes: Mapping[str, Any], effective_at: datetime, reason: str) -> Contract:
    kept = (f.attname for f in Contract._meta.concrete_fields if f.attname not in ("id", "version", "created_at"))
    made = Contract(**{name: getattr(old, name) for name in kept})
    made.valid_from, made.reason = effective_at, reason[:300]
    # Policy years go on: they begin with the first version, not with this one.
    made.policy_from = old.policy_from or old.valid_from
    for name, value in changes.items():
        setattr(made, name, value)
    wrong = ("valid_from", "valid_until", "customer")
    try:
        made.clean_fields(exclude=wrong)
    except ValidationError as error:
        raise ValidationError(error.error_dict) from None
    try:
        made.clean()
    except ValidationError as error:
        told = {name: said for name, said in error.error_dict.items() if name not in wrong}
        if told:
            raise ValidationError(told) from None
    return made


def _check_time(old: Contract, at: datetime, first: datetime, now: datetime) -> None:
    later = (
        Contract.objects.filter(customer=old.customer_id, valid_from__gt=old.valid_from).order_by("valid_from").first()
    )
    if later and later.valid_from > now:
        raise ValidationError(f"Version {later.version} begins {_moment(later.valid_from)} already: withdraw it first.")
    problem = ""
    if later or (old.valid_until and old.valid_until <= now):
        raise ValidationError("This version is over: amend the one in force.")
    if at.timestamp() % QUARTER_SECONDS:
        problem = f"Choose a quarter of an hour, such as {_moment(quarter_after(at))}."
    elif at < first:
        notice = (
            f" A change of cover needs {old.notice_days} days' notice." if at >= now and first > now + QUARTER else ""
        )
        problem = f"The earliest is {_moment(first)}.{notice}"
    elif old.valid_until and at >= old.valid_until:
        problem = f"The contract ends {_moment(old.valid_until)}: choose a time before."
    if problem:
        raise ValidationError({"effective_at": problem})


def _check_card(old: Contract, made: Contract, at: datetime) -> None:
    if made.rate_card_id == old.rate_card_id:
        return
    if made.rate_card.currency != old.rate_card.currency:
        raise ValidationError(
            {"rate_card": f"Its prices are in {made.rate_card.currency}, and fees and tranches in {old.rate_card.currency}: "
             "retire this contract and add another."}
        )  # fmt: skip
    if not made.rate_card.versions.filter(
        Q(valid_until__isnull=True) | Q(valid_until__gt=at), valid_from__lte=at
    ).exists():
        raise ValidationError({"rate_card": f"It has no prices for {_moment(at)}: add them first."})


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _said(value: Any) -> Any:
    return value if isinstance(value, int | bool | list | dict | None) else str(value)


# --- never during an incident ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Due:
    """An amendment of cover that is about to begin, or that a missed run let begin, and the version before it."""

    before: Contract
    after: Contract


_MOVE = """
UPDATE contracts SET {field} = moved.at FROM unnest(%s::bigint[], %s::timestamptz[]) AS moved (id, at)
WHERE contracts.id = moved.id
"""


def postpone(now: datetime) -> int:
    """Move on what would change a customer's cover while something of it is open. Returns how many were moved.

    Due are those within the next quarter of an hour, and those that a missed run let pass: what was open when they began
    counts there. Run it at least every five minutes.
    """
    owners = sorted(set(_beginning(now).values_list("customer_id", flat=True)))
    return sum(_postpone(owners[n : n + MOST_AT_ONCE], now) for n in range(0, len(owners), MOST_AT_ONCE))


def _postpone(owners: Sequence[int], now: datetime) -> int:
    with transaction.atomic():
        list(Customer.objects.filter(pk__in=owners).order_by("pk").select_for_update(no_key=True).values_list("pk"))
        due = _due(now, owners)
        causes = _causes(due, now)
        # Of one customer's only the last: the one before it has room to move once that was moved.
        last = {d.after.customer_id: d for d in due if d.after.pk in causes}
        moved = [(d, _next_quarter(max(now, d.after.valid_from)), causes[d.after.pk]) for d in last.values()]
        moved = [(d, at, cause) for d, at, cause in moved if d.after.valid_until is None or at < d.after.valid_until]
        times = [at for _, at, _ in moved]
        with connection.cursor() as cursor:  # the later one first: the two may not overlap in between
            cursor.execute(_MOVE.format(field="valid_from"), [[d.after.pk for d, _, _ in moved], times])
            cursor.execute(_MOVE.format(field="valid_until"), [[d.before.pk for d, _, _ in moved], times])
        Event.objects.bulk_create(
            Event.about(
                "contract.postponed", d.after, f"The change of cover waits until {_moment(at)}: {cause}",
                customer_id=d.after.customer_id, version=d.after.version, was=d.after.valid_from.isoformat(),
                effective_at=at.isoformat(), cause=cause,
            )
            for d, at, cause in moved
        )  # fmt: skip
    return len(moved)


def _beginning(now: datetime) -> QuerySet[Contract]:
    """Versions that follow upon another within the time that is looked at."""
    earlier = Contract.objects.filter(customer=OuterRef("customer"), valid_until=OuterRef("valid_from"))
    return Contract.objects.filter(Exists(earlier), valid_from__gt=now - LOOK_BACK, valid_from__lte=now + QUARTER)


def _due(now: datetime, owners: Iterable[int]) -> list[_Due]:
    after = list(_beginning(now).filter(customer__in=owners).order_by("valid_from", "pk"))
    ends = {(row.customer_id, row.valid_from): row for row in after}
    befores = Contract.objects.filter(customer__in={c for c, _ in ends}, valid_until__in={at for _, at in ends})
    pairs = [
        _Due(row, ends[key])
        for row in befores
        if row.valid_until and (key := (row.customer_id, row.valid_until)) in ends
    ]
    # What was issued by either from this moment on stands: nothing can be moved from under it.
    began = {due.after.pk: due.after.valid_from for due in pairs}
    issued = Invoice.objects.exclude(state=Invoice.State.DRAFT)
    billed = set(issued.filter(contract__in=began).values_list("contract_id", flat=True))
    billed |= set(
        issued.filter(contract__in=[due.before.pk for due in pairs], period_end=F("contract__valid_until")).values_list(
            "contract_id", flat=True
        )
    )
    return [
        due
        for due in sorted(pairs, key=lambda due: due.after.valid_from)
        if not billed & {due.before.pk, due.after.pk}
        and any(getattr(due.before, name) != getattr(due.after, name) for name in Contract.COVER_FIELDS)
    ]


def _causes(due: Sequence[_Due], now: datetime) -> dict[int, str]:
    """By amendment, what is open (or was, when it should have begun) and holds it up."""
    wanted = {entry.after.customer_id for entry in due}
    since = now - LOOK_BACK
    storms = defaultdict[int, list[StormEvent]](list)
    for storm in StormEvent.objects.filter(
        Q(closed_at__isnull=True) | Q(closed_at__gt=since), customer__in=wanted
    ).select_related("service"):
        storms[storm.customer_id].append(storm)
    incidents = list(CdnIncident.objects.filter(Q(ended_at__isnull=True) | Q(ended_at__gt=since)).select_related("cdn"))
    primaries = set(
        Target.objects.live()
        .filter(role=Target.Role.PRIMARY, customer__in=wanted, cdn__in={incident.cdn_id for incident in incidents})
        .values_list("customer_id", "cdn_id")
        .distinct()
    )
    causes = {}
    for contract in (entry.after for entry in due):
        customer, at = contract.customer_id, min(now, contract.valid_from)
        rows: list[tuple[datetime, datetime | None, Any]] = [(s.started_at, s.closed_at, s) for s in storms[customer]]
        rows += [(i.started_at, i.ended_at, i) for i in incidents if (customer, i.cdn_id) in primaries]
        cause = next((row for start, end, row in rows if start <= at and (end is None or end > at)), None)
        if cause is not None:
            causes[contract.pk] = f"{cause} is open"
    return causes


# --- prices ---------------------------------------------------------------------------------------------------------


def reprice(prices: Prices, changes: Mapping[str, Any], effective_at: datetime, now: datetime) -> Prices:
    """End a version of a card's prices at `effective_at` and make the next one. Raises ValidationError by field."""
    unknown = {name: ["This can't be changed by a version."] for name in changes if name not in PRICED}
    if unknown:
        raise ValidationError(unknown)
    with transaction.atomic():
        old = Prices.objects.select_for_update().select_related("rate_card").get(pk=prices.pk)
        if old.rate_card.versions.filter(valid_from__gt=old.valid_from).exists():
            raise ValidationError("Later prices exist: begin with the last version.")
        made = Prices(
            rate_card=old.rate_card, valid_from=effective_at, valid_until=old.valid_until,
            **{name: changes.get(name, getattr(old, name)) for name in PRICED},
        )  # fmt: skip
        if all(getattr(made, name) == getattr(old, name) for name in PRICED):
            raise ValidationError("Nothing is changed: give at least one price another value.")
        first = max(quarter_after(now), old.valid_from + QUARTER)
        if effective_at.timestamp() % QUARTER_SECONDS:
            raise ValidationError(
                {"effective_at": f"Choose a quarter of an hour, such as {_moment(quarter_after(effective_at))}."}
            )
        if effective_at < first or (old.valid_until and effective_at >= old.valid_until):
            until = f", and before {_moment(old.valid_until)}" if old.valid_until else ""
            raise ValidationError({"effective_at": f"The earliest is {_moment(first)}{until}."})
        made.clean_fields(exclude=["rate_card"])
        made.clean()
        old.valid_until = effective_at
        old.save(update_fields=["valid_until"])
        made.save()
    return made
