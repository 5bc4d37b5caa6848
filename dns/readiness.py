"""The check list of a domain: what must be so before anything is written into its zone, and what should be.

A record set is *armed* once every must holds. Whatever can't be looked at now neither arms nor disarms; a backup that is
unfit for a while does not disarm either, since no plan moves traffic onto it anyway.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from fnmatch import fnmatch
from typing import Any

from django.conf import settings
from django.db.models import Prefetch

from customers.models import Event
from dns import accounts, vendors
from dns.locks import briefly
from dns.models import DnsAccount, Drill, RecordSet, SteeringTerms
from dns.models.record_set import ALIASABLE
from dns.planning import problem_of
from dns.providers.contract import Check, Provider, ProviderError, Trouble
from services import caa, headers, lookup, parity
from services.models import ServiceDomain, Target

logger = logging.getLogger(__name__)

LONGEST_ARMED_TTL_SECONDS = 60
CHECK_AGAIN = timedelta(hours=24)
CHECK_AGAIN_NEW = timedelta(seconds=5)
"""Of a domain's first ten minutes, while its first samples come in, so that nobody has to press a button."""
CHECK_AGAIN_UNARMED = timedelta(minutes=1)
"""Of a domain's first hour, and of what was disarmed just now."""
CHECK_AGAIN_LATER = timedelta(minutes=10)
"""Of what is still unarmed after that, and of what is armed and could not be looked at."""
BUSY_SECONDS = 20.0
"""How long one turn may begin checks: a vendor and a zone that keep us waiting can make the last one as long again."""
MOST_AT_ONCE = 200
GOOD_DRILL = timedelta(days=30)
SWEEP_RESERVE = 0.5
PARITY_SECONDS = 5.0
"""For each request; of a path that is up."""
MANY_GENERATIONS = 999_999
"""A record that holds its generation grows with it."""
_PASSING = frozenset({"backup", "certificate", "caches"})
"""What comes and goes, or passes by itself: it must hold to arm, and does not disarm."""


def check_due(now: datetime) -> int:
    """Go through the lists whose turn it is, for a while. Returns how many."""
    until, done = time.monotonic() + BUSY_SECONDS, 0
    due = RecordSet.objects.live().filter(next_check_at__lte=now).order_by("next_check_at")
    for pk in list(due.values_list("pk", flat=True)[:MOST_AT_ONCE]):
        if time.monotonic() > until:
            break
        # Whoever moves it on has it. One whose check never ends or kills its worker is not the first of the next turn.
        if not due.filter(pk=pk).update(next_check_at=now + CHECK_AGAIN_LATER):
            continue
        try:
            check(pk, now)
        except Exception:  # the others have their turn all the same
            logger.exception("the check list of record set %s could not be gone through", pk)
        done += 1
    return done


def check(record_set_id: int, now: datetime) -> list[Check]:
    """Go through the list of one record set, store it, and arm or disarm."""
    record_set = _record_set(record_set_id)
    checks = list_of(record_set, now)
    _store(record_set, checks, now)
    return checks


def _record_set(pk: int) -> RecordSet:
    paths = Target.objects.paths().filter(enabled=True).select_related("cdn", "verdict").order_by("role", "rank", "id")
    domains = ServiceDomain.objects.with_contest().select_related("service").prefetch_related(
        Prefetch("targets", paths, to_attr="all_paths")
    )  # fmt: skip
    return RecordSet.objects.select_related("account").prefetch_related(Prefetch("domain", domains)).get(pk=pk)


def list_of(record_set: RecordSet, now: datetime) -> list[Check]:
    """Everything that is looked at, in the order in which it is mended."""
    domain = record_set.domain
    paths: list[Target] = domain.all_paths  # type: ignore[attr-defined]
    return [
        *_guarded("proof", lambda: [_proof(domain, now)]),
        *_guarded("vendor", lambda: _vendor(record_set, paths)),
        *_guarded("ttl", lambda: _ttl(record_set, now)),
        *_guarded("backup", lambda: [_backup(domain, paths, now)]),
        *_guarded("certificate", lambda: [_certificate(domain, paths, now)]),
        *_guarded("caa", lambda: [_caa(domain, paths)], is_must=False),
        *_guarded("parity", lambda: _parity(domain, paths, now), is_must=False),
        *_guarded("drill", lambda: [_drill(domain, now)], is_must=False),
    ]


def _guarded(name: str, look: Callable[[], list[Check]], *, is_must: bool = True) -> list[Check]:
    """What goes wrong in one look is told, and stops neither the rest of the list nor other lists."""
    advice = "It is looked for again."
    try:
        return look()
    except (lookup.LookupFailed, ProviderError, OSError) as error:
        text = str(error)
    except Exception:
        logger.exception("the check “%s” broke", name)
        text, advice = "this check broke, which is our fault", "It is in our log, and tried again."
    return [Check(name, False, text, advice, is_must, is_unclear=True)]


def _proof(domain: ServiceDomain, now: datetime) -> Check:
    problem = domain.proof_problem(now)
    advice = f"Publish the TXT record {domain.challenge_name}: “{domain.challenge_value}”."
    return Check("proof", not problem, problem or "the hostname is proven", advice)


# --- the vendor's side -----------------------------------------------------------------------------------------------


def _vendor(record_set: RecordSet, paths: Sequence[Target]) -> list[Check]:
    account, found = record_set.account, list[Check]()
    try:
        provider = vendors.provider_of(account, SWEEP_RESERVE)
        vendors.find_zone(record_set, provider)
        zone = vendors.zone_of(record_set)
        found += provider.preflight(zone, record_set.domain.hostname)
        servers = [name.rstrip(".").lower() for name in provider.name_servers(zone)]
    except ProviderError as error:
        if error.trouble != Trouble.THROTTLED:  # what we leave to storms is not the account's trouble
            accounts.note_trouble(account, error)
        return [*found, _trouble(error)]
    if all(check.holds for check in found if check.is_must):
        accounts.recover(account)
    if not any(check.name == "zone" for check in found):
        found.insert(0, Check("zone", True, f"{record_set.zone} {record_set.zone_id}".strip()))
    found.append(_shape(record_set, provider, paths))
    if paths:
        found.append(_size(record_set, provider, paths))
    if provider.answers:
        found += _guarded("delegation", lambda: _delegation(record_set, paths, servers))
        found += [] if servers or _is_shown(record_set) else _other_holder(record_set)
    return found


def _trouble(error: ProviderError) -> Check:
    name, advice = {
        Trouble.ACCESS: ("permissions", "Grant what the account’s page prints, or renew its credentials."),
        Trouble.ZONE: ("zone", "Choose the account that holds the zone."),
        Trouble.MISCONFIGURED: ("account", "Mend the account’s options."),
        Trouble.UNREACHABLE: ("account", "It is tried again."),
        Trouble.THROTTLED: ("account", "It is tried again."),
    }.get(error.trouble, ("account", ""))
    return Check(name, False, str(error), advice, is_unclear=not error.permanent)


def _shape(record_set: RecordSet, provider: Provider, paths: Sequence[Target]) -> Check:
    if record_set.zone != record_set.domain.hostname:
        return Check("name", True, "below its zone’s apex: a CNAME may stand there")
    if provider.has_apex and record_set.has_apex_form([path.address for path in paths]):
        return Check("name", True, "the apex, served by aliases and addresses")
    advice = "Redirect the apex to www, or give fixed addresses for every path where the vendor can weigh them."
    return Check("name", False, "the zone’s apex, where no CNAME may stand", advice)


def _size(record_set: RecordSet, provider: Provider, paths: Sequence[Target]) -> Check:
    """Whether a storm's set can be written as well, with a share on every path."""
    share, rest = divmod(100, len(paths))
    percents = {str(path.pk): share + (n < rest) for n, path in enumerate(paths)}
    generation = record_set.generation + MANY_GENERATIONS
    try:
        wanted = vendors.weighted_set(record_set, percents, generation, {str(path.pk): path for path in paths})
        problem = provider.fits(wanted)
    except ValueError as error:
        problem = str(error)
    return Check("size", not problem, problem or "a share on every path can be written", "Use fewer or shorter names.")


def _is_shown(record_set: RecordSet) -> bool:
    """Whether every server that the world asks was seen to answer what this account wrote: the best proof that it counts."""
    return record_set.observed_generation > 0 and record_set.drifted_since is None


def _delegation(record_set: RecordSet, paths: Sequence[Target], servers: Sequence[str]) -> list[Check]:
    """Whether the world asks the servers of this account's zone (`servers`; none where the vendor can't say), and them alone.
    Their names may be others, the zone owner's own."""
    hostname = record_set.domain.hostname
    zone, names = lookup.delegation(hostname)
    if zone != record_set.zone:
        text = f"the world finds {hostname} in the zone {zone}, not in {record_set.zone}"
        advice = "Writing here would change nothing: choose the zone that is delegated to."
        return [Check("delegation", False, text, advice)]
    strangers = [name for name in names if servers and name not in servers]
    if strangers and not _is_shown(record_set):
        text = f"{zone} is delegated to {', '.join(strangers)}, and this account’s zone has {', '.join(servers)}"
        advice = "Delegate the zone to this account alone, or choose the account that holds it."
        return [Check("delegation", False, text, advice)]
    shown = f"{zone}, delegated to {', '.join(names)}" if names else zone
    return [Check("delegation", True, shown), _independence(record_set, paths, names or servers)]


def _other_holder(record_set: RecordSet) -> list[Check]:
    """Of two accounts that hold a zone one writes where nobody asks. A claim without proof speaks against nobody."""
    others = RecordSet.objects.live().filter(zone=record_set.zone, domain__verified_at__isnull=False)
    accounts = DnsAccount.objects.filter(record_sets__in=others).exclude(pk=record_set.account_id).distinct()
    if not accounts:
        return []
    own = next((a.name for a in accounts if a.customer_id == record_set.customer_id), "another account")
    advice = "Let one account write this zone: the one that it is delegated to."
    return [Check("one account", False, f"{own} holds {record_set.zone} too", advice)]


def insured_dns(paths: Sequence[Target], names: Sequence[str]) -> tuple[Target, str] | None:
    """The path whose CDN runs the DNS that is to steer away from it, and the name server that says so."""
    for path in paths:
        for pattern in path.cdn.name_servers if path.cdn else []:
            for name in names:
                if fnmatch(name.rstrip(".").lower(), pattern.lower()):
                    return path, name
    return None


def _independence(record_set: RecordSet, paths: Sequence[Target], names: Sequence[str]) -> Check:
    if found := insured_dns(paths, names):
        path, name = found
        text = f"{name} is {path.cdn}’s own DNS: it may fall together with the {path.role} path"
        return Check("independence", False, text, "Move the zone to DNS that none of these CDNs runs.", is_must=False)
    amazons = [path.address for path in paths if path.address.rstrip(".").lower().endswith(ALIASABLE)]
    if record_set.account.vendor == "route53" and amazons:
        text = f"Route 53 and {amazons[0]} hang on one vendor: in a storm of AWS its API may be away"
        if record_set.data_plane:
            return Check("independence", True, f"{text}; the data-plane mode needs no call to it", is_must=False)
        advice = "Arm the data-plane mode, which needs no call to the API."
        return Check("independence", False, text, advice, is_must=False)
    return Check("independence", True, "DNS and CDNs are of different vendors", is_must=False)


# --- the paths' side -------------------------------------------------------------------------------------------------


def _ttl(record_set: RecordSet, now: datetime) -> list[Check]:
    ttl, most = record_set.ttl_seconds, LONGEST_ARMED_TTL_SECONDS
    checks = [Check("ttl", ttl <= most, f"{ttl} s", f"Choose at most {most} s: caches keep the old answer as long.")]
    if record_set.arms_at and record_set.arms_at > now:
        text = f"they may keep the record that stood there before until {record_set.arms_at:%Y-%m-%d %H:%M} UTC"
        checks.append(Check("caches", False, text, "Nothing to do but wait."))
    return checks


def _backup(domain: ServiceDomain, paths: Sequence[Target], now: datetime) -> Check:
    backups = [path for path in paths if path.role == Target.Role.BACKUP]
    problems = {path.pk: problem_of(domain.service, path, now) for path in backups}
    if fit := [path for path in backups if not problems[path.pk]]:
        return Check("backup", True, f"{fit[0].address} is up, with fresh good samples")
    text = "; ".join(problems.values()) or "there is none"
    advice = "Give it a backup path that serves the hostname, and wait for its first good samples."
    return Check("backup", False, text, advice)


def _certificate(domain: ServiceDomain, paths: Sequence[Target], now: datetime) -> Check:
    """A must of the primary and of one backup; what further backups lack, and what ends soon, is told."""
    least = timedelta(days=domain.service.minimum_certificate_days)
    lacking, ending = dict[int, str](), list[str]()
    for path in paths:
        verdict = getattr(path, "verdict", None)
        expires = verdict.certificate_expires_at if verdict else None
        if expires is None:
            lacking[path.pk] = f"none was seen at {path.address}"
        elif expires <= now:
            lacking[path.pk] = f"that of {path.address} ended on {expires:%Y-%m-%d}"
        elif expires - now < least:
            ending.append(f"that of {path.address} ends on {expires:%Y-%m-%d}")
    if lacking or ending:
        backups = [path.pk in lacking for path in paths if path.role == Target.Role.BACKUP]
        is_must = any(p.pk in lacking for p in paths if p.role == Target.Role.PRIMARY) or (
            bool(backups) and all(backups)
        )
        text = "; ".join([*lacking.values(), *ending])
        advice = f"It is seen by the first good probe; renew it while it has {least.days} days left."
        return Check("certificate", False, text, advice, is_must)
    return Check("certificate", True, "good through every path")


def _caa(domain: ServiceDomain, paths: Sequence[Target]) -> Check:
    allowed = caa.allowed(domain.hostname)
    for path in paths:
        issuers: list[str] = path.cdn.certificate_authorities if path.cdn else []
        every = {issuer.rstrip(".").lower() for issuer in issuers}
        if every and every == set(caa.missing(allowed, issuers)):
            text, advice = f"{path.cdn}: {caa.problem(allowed, issuers)}", "Else its certificate can’t be renewed."
            return Check("caa", False, text, advice, is_must=False)
    return Check("caa", True, "every CDN’s authorities may issue", is_must=False)


def _parity(domain: ServiceDomain, paths: Sequence[Target], now: datetime) -> list[Check]:
    primary = next((path for path in paths if path.role == Target.Role.PRIMARY), None)
    backup = next((path for path in paths if path.role == Target.Role.BACKUP), None)
    if primary is None or backup is None:
        return []
    if problem := problem_of(domain.service, primary, now) or problem_of(domain.service, backup, now):
        text, advice = f"not compared: {problem}", "It is compared once both are up."
        return [Check("parity", False, text, advice, is_must=False, is_unclear=True)]
    terms = SteeringTerms.objects.filter(service=domain.service_id).first()
    try:
        report = parity.check_parity(
            domain.hostname, terms.parity_paths if terms else [],
            parity.Via(primary.address, primary.port), parity.Via(backup.address, backup.port),
            request_headers=headers.lines(domain.service.probe_headers), timeout_seconds=PARITY_SECONDS,
            ca_file=settings.PROBE_EXTRA_CA_FILE,
        )  # fmt: skip
    except ValueError as error:
        return [
            Check("parity", False, str(error), "Choose other paths in the service’s steering terms.", is_must=False)
        ]
    advice = "Configure the backup like the primary, or choose other paths in the service’s steering terms."
    return [Check("parity", not report.is_blocking, report.summary, advice, is_must=False)]


def _drill(domain: ServiceDomain, now: datetime) -> Check:
    since = now - GOOD_DRILL
    passed = Drill.objects.filter(service=domain.service_id, state=Drill.State.PASSED, ended_at__gt=since)
    if good := passed.order_by("-ended_at").first():
        return Check("drill", True, f"passed on {good.ended_at:%Y-%m-%d}", is_must=False)
    text = f"no good drill within {GOOD_DRILL.days} days"
    return Check("drill", False, text, "Run one: it sends a few percent to the backup for some minutes.", is_must=False)


# --- armed -----------------------------------------------------------------------------------------------------------


def _store(record_set: RecordSet, checks: Sequence[Check], now: datetime) -> None:
    failing = [check for check in checks if check.is_must and not check.holds]
    with briefly():
        row = RecordSet.objects.select_for_update(of=("self",)).select_related("domain").get(pk=record_set.pk)
        if row.released_at:
            return
        was_armed = row.armed_at is not None
        row.checks, row.checked_at = [_stored(check) for check in checks], now
        certain = [check for check in failing if not check.is_unclear and not (was_armed and check.name in _PASSING)]
        if not failing:
            row.armed_at, row.unarmed_reason = row.armed_at or now, ""
        elif certain or not was_armed:
            worst = (certain or failing)[0]
            row.armed_at, row.unarmed_reason = None, _plain(f"{worst.name}: {worst.text}")[:300]
        if was_armed != (row.armed_at is not None):
            row.is_restless = True
            word = "armed" if row.armed_at else "disarmed"
            why = f": {row.for_customer(row.unarmed_reason)}" if row.unarmed_reason else ""
            Event.record(f"domain.{word}", row.domain, f"{row.domain} is {word}{why}", customer_id=row.customer_id)
        if (
            row.next_check_at == record_set.next_check_at
        ):  # else somebody changed it meanwhile, and it is looked at again
            row.next_check_at = _next_look(row, was_armed, failing, now)
        row.save(update_fields=["checks", "checked_at", "armed_at", "unarmed_reason", "next_check_at", "is_restless"])


def _next_look(row: RecordSet, was_armed: bool, failing: Sequence[Check], now: datetime) -> datetime:
    if row.armed_at:
        is_unclear = any(check.is_unclear for check in failing)
        return now + (CHECK_AGAIN_LATER if is_unclear else CHECK_AGAIN)
    age = now - row.domain.created_at
    is_news = was_armed or age < timedelta(hours=1)
    at = now + (
        CHECK_AGAIN_NEW if age < timedelta(minutes=10) else CHECK_AGAIN_UNARMED if is_news else CHECK_AGAIN_LATER
    )
    return min(at, row.arms_at) if row.arms_at and row.arms_at > now else at


def _stored(check: Check) -> dict[str, Any]:
    return asdict(check) | {"text": _plain(check.text)}


def _plain(text: str) -> str:
    """Others choose parts of these texts, and Postgres takes no NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
