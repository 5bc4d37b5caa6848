"""The beacon of the data-plane mode: what tells a vendor's health checks to lead traffic away, without a call to any API.

It is inverted. The health check looks for a marker and fails while it finds it, so only an answer that says “shift” shifts:
a beacon that is down, unreachable or confused leaves everything where it is.

    steering wants 0 % on the primary ─► the beacon says so ─► the check fails ─► the vendor serves the one other member
    weights that give the primary something stand at the vendor ─► the beacon says “stay”

The API is written to all the same; this is for the hour in which it can't be.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import User
from django.db import Error
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse
from django.http.request import validate_host
from django.utils.crypto import constant_time_compare, salted_hmac
from django.views.decorators.http import require_safe

from customers.models import Event
from dns import accounts, outbox, readiness, vendors, weights
from dns.locks import briefly
from dns.models import RecordSet, WeightChange
from dns.models.record_set import ALIASABLE
from dns.planning import lane_of
from dns.providers.contract import Provider, ProviderError
from services.models import Cdn, Target

State = WeightChange.State

STAY = "stay\n"
AMAZON = (*ALIASABLE, ".amazonaws.com")
SETTLES = timedelta(minutes=2)
"""An inverted check counts as failing until enough checkers have looked: written at once, it would shift traffic."""
_MAC_DIGITS = 32
_TOKEN = re.compile(rf"([1-9][0-9]{{0,17}})-([0-9a-f]{{{_MAC_DIGITS}}})", re.ASCII)


# --- what it says ----------------------------------------------------------------------------------------------------


@require_safe
def answer(request: HttpRequest, token: str) -> HttpResponse:
    """200 and the marker while traffic is to leave the primary; else 404, and for a token that is none exactly the same."""
    armed = RecordSet.objects.filter(pk=_verified(token), data_plane=True, is_shifted=True).exclude(health_check_id="")
    try:
        body, status = (_marker(token), 200) if armed.exists() else (STAY, 404)
    except Error:
        body, status = STAY, 503
    response = HttpResponse(body, "text/plain", status, headers={"Cache-Control": "no-store"})
    response._has_been_logged = True  # type: ignore[attr-defined]  # checkers ask every second, and “stay” is no news
    return response


def url_of(record_set: RecordSet) -> str:
    return f"{settings.BEACON_URL.rstrip('/')}/beacon/{token_of(record_set)}"


def marker_of(record_set: RecordSet) -> str:
    """What the health check looks for."""
    return _marker(token_of(record_set)).rstrip()


def token_of(record_set: RecordSet) -> str:
    return f"{record_set.pk}-{_mac(record_set.pk, settings.SECRET_KEY)}"


def _marker(token: str) -> str:
    return f"tranche-shift {token}\n"


def _verified(token: str) -> int:
    """The id of the record set; 0, which nothing has, if we never gave out this token."""
    found = _TOKEN.fullmatch(token)
    pk, given = (int(found[1]), found[2]) if found else (0, "")
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    same = [constant_time_compare(_mac(pk, key), given) for key in keys]
    return pk if any(same) else 0


def _mac(pk: int, key: str | bytes) -> str:
    return salted_hmac("tranche beacon", str(pk), secret=key, algorithm="sha256").hexdigest()[:_MAC_DIGITS]


def turn(changes: Iterable[WeightChange]) -> None:
    """Have the beacons say at once what these changes want, as far as a failing health check does just that."""
    live = [c for c in changes if c.record_set.data_plane and c.state == State.WANTED]
    away = [c.record_set_id for c in live if _is_what_a_failing_check_does(c)]
    # What stands at the vendor needs no write to be wanted, so the way back is as short as the way there.
    back = [c.record_set_id for c in live if c.weights == c.record_set.observed_weights and c.record_set_id not in away]
    for ids, is_shifted in ((away, True), (back, False)):
        if ids:
            RecordSet.objects.filter(pk__in=ids, data_plane=True).update(is_shifted=is_shifted)


def _is_what_a_failing_check_does(change: WeightChange) -> bool:
    """Whether all is to go to the one other member that stands at the vendor. Among several at 0, proven or not, a vendor
    would choose by itself."""
    domain = change.record_set.domain
    targets: Iterable[Target] = getattr(domain, "all_paths", None) or domain.targets.all()
    takers = {lane_of(t): t.address for t in targets if change.weights.get(str(t.pk))}
    others = {lane: address for lane, address in change.record_set.written.items() if lane != weights.PRIMARY}
    return len(others) == 1 and takers == others


# --- armed, by a person ----------------------------------------------------------------------------------------------


class NotArmable(Exception):
    """Why the data-plane mode can't be armed or disarmed now, in words for the person who asked."""


def arm(record_set: RecordSet, user: User) -> list[str]:
    """Make the health check, and have it written onto the primary's member once it has settled. Returns warnings.

    Raises NotArmable, or ProviderError if the vendor refuses. After either it can be tried again.
    """
    provider = vendors.provider_of(record_set.account)
    _standing(record_set)
    warnings = _judge(record_set, provider)
    reference = f"tranche-{token_of(record_set)}-{record_set.generation}"
    health_check_id = provider.arm(reference, url_of(record_set), marker_of(record_set))
    with briefly():
        row = _locked(record_set)
        if row.data_plane:
            raise NotArmable(f"{row.domain} is armed already.")
        row.data_plane, row.health_check_id = True, health_check_id
        change = _write_again(row, user, "data-plane mode armed", datetime.now(UTC) + SETTLES)
        summary = f"{row.domain}: {user} armed the data-plane mode"
        Event.record("data_plane.armed", change, summary, customer_id=row.customer_id, warnings=warnings)
    return warnings


def disarm(record_set: RecordSet, user: User) -> None:
    """Have the records written without the health check; `tidy` deletes it once DNS shows them. Raises NotArmable."""
    with briefly():
        row = _locked(record_set)
        if not row.data_plane:
            raise NotArmable(f"{row.domain} is not armed.")
        if row.is_shifted and _standing(row).state not in (State.CONFIRMED, State.OBSERVED):
            raise NotArmable(f"{row.domain} is away from its primary by the beacon alone: disarmed, it would go back.")
        row.data_plane = row.is_shifted = False
        change = _write_again(row, user, "data-plane mode disarmed", datetime.now(UTC))
        summary = f"{row.domain}: {user} disarmed the data-plane mode"
        Event.record("data_plane.disarmed", change, summary, customer_id=row.customer_id)


def tidy(now: datetime) -> int:
    """Delete the health checks that no record names any more. Returns how many."""
    # A worker that slept on an older write would have been heard of by now, as drift.
    written = WeightChange.objects.filter(
        record_set=OuterRef("pk"), generation=OuterRef("generation"), state=State.OBSERVED,
        observed_at__lte=now - outbox.LEASE,
    )  # fmt: skip
    rows = RecordSet.objects.filter(Exists(written), data_plane=False, drifted_since__isnull=True)
    gone, troubled = 0, set()
    for row in rows.exclude(health_check_id="").select_related("account").order_by("pk")[:100]:
        if row.account_id in troubled:
            continue
        try:
            vendors.provider_of(row.account).disarm(row.health_check_id)
        except ProviderError as error:
            accounts.note_trouble(row.account, error)
            troubled.add(row.account_id)
            continue
        gone += RecordSet.objects.filter(pk=row.pk, data_plane=False, health_check_id=row.health_check_id).update(
            health_check_id=""
        )
    return gone


# --- what speaks against it ------------------------------------------------------------------------------------------


def _judge(record_set: RecordSet, provider: Provider) -> list[str]:
    """Warnings. Raises NotArmable."""
    domain, vendor = record_set.domain, record_set.account.vendor
    if record_set.data_plane:
        raise NotArmable(f"{domain} is armed already.")
    if not provider.has_data_plane:
        raise NotArmable(f"{vendor} has no health checks that could shift traffic.")
    if not record_set.armed_at:
        raise NotArmable(f"{domain} is not steered: {record_set.unarmed_reason}.")
    if record_set.health_check_id:
        raise NotArmable("The health check of the last time is still to be deleted: try again in some minutes.")
    paths = list(domain.targets.paths().filter(enabled=True).select_related("cdn").order_by("role", "rank"))
    others = {lane_of(path) for path in paths} | set(record_set.written)
    others.discard(weights.PRIMARY)
    if len(others) != 1:
        named = ", ".join(sorted(others)) or "none"
        raise NotArmable(f"It needs exactly one member besides the primary, or {vendor} would choose among: {named}.")
    warnings = _judge_beacon_url(settings.BEACON_URL)
    is_amazons = vendor == "route53" and any(_is_below(path.address, AMAZON) for path in paths)
    if is_amazons:
        warnings.append(
            "Route 53 and a path hang on one vendor: its API may be away with the CDN. The beacon is for that."
        )
    found = readiness.insured_dns(paths, provider.name_servers(vendors.zone_of(record_set)))
    if found and not (is_amazons and _is_below(found[0].address, AMAZON)):
        path, server = found
        raise NotArmable(f"{server} is {path.cdn}’s own DNS: it can’t steer away from the CDN that it falls with.")
    return warnings


def _judge_beacon_url(text: str) -> list[str]:
    host = urlsplit(text).hostname or ""
    if not text.startswith("https://") or not host:
        raise NotArmable("BEACON_URL is not set to an https URL: there is no beacon that a health check could ask.")
    suffixes = [suffix for cdn in Cdn.objects.all() for suffix in cdn.suffixes]
    if _is_below(host, [*AMAZON, *suffixes]):
        raise NotArmable(f"The beacon’s host, {host}, hangs on what it is to lead away from.")
    if not validate_host(host, settings.ALLOWED_HOSTS):
        return [
            f"The beacon’s host, {host}, is not among ALLOWED_HOSTS: unless a proxy renames it, nothing ever shifts."
        ]
    return []


def _is_below(name: str, suffixes: Collection[str]) -> bool:
    name = f".{name.rstrip('.').lower()}"
    return any(name.endswith(f".{suffix.strip('.').lower()}") for suffix in suffixes)


# --- written again ---------------------------------------------------------------------------------------------------


def _locked(record_set: RecordSet) -> RecordSet:
    return RecordSet.objects.select_for_update(of=("self",)).select_related("domain").get(pk=record_set.pk)


def _standing(row: RecordSet) -> WeightChange:
    """The newest change that was let go. Raises NotArmable if there is none, or if a person has to decide first."""
    changes = WeightChange.objects.filter(record_set=row).order_by("-generation")
    if row.is_held or changes.filter(state=State.HELD).exists():
        raise NotArmable(f"{row.domain} waits for a decision: approve or reject what is held first.")
    newest = changes.let_go().first()
    if newest is None:
        raise NotArmable(f"{row.domain} was never written.")
    return newest


def _write_again(row: RecordSet, user: User, reason: str, at: datetime) -> WeightChange:
    """The newest weights once more, as the record set is now; `row` is locked, and saved here."""
    newest = _standing(row)
    WeightChange.objects.filter(record_set=row).live().update(state=State.SUPERSEDED)
    row.generation += 1
    row.is_restless = True
    row.save(update_fields=["data_plane", "health_check_id", "is_shifted", "generation", "is_restless"])
    return WeightChange.objects.create(
        customer_id=row.customer_id, service_id=newest.service_id, record_set=row, storm_id=newest.storm_id,
        generation=row.generation, weights=newest.weights, previous_weights=newest.weights, reason=reason,
        ttl_seconds=row.ttl_seconds,
        approved_by=user, wanted_at=datetime.now(UTC), next_attempt_at=at,
    )  # fmt: skip
