"""Rows for tests, as plain functions: each makes what it stands on, unless the test names it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

from django.utils import timezone

from billing.models import Contract, Prices, RateCard
from customers.models import SCOPES, ApiKey, Customer
from dns.models import DnsAccount, RecordSet
from services.models import Cdn, MaintenanceWindow, Service, ServiceDomain, Target, VantagePoint
from storms.detector import Attribution
from storms.models import CdnIncident, Finding, StormEntry, StormEvent, StormPolicy

_number = count(1)


def customer(**kw: Any) -> Customer:
    return Customer.objects.create(**{"name": f"Customer {next(_number)}"} | kw)


def api_key(owner: Customer, scopes: tuple[str, ...] = tuple(SCOPES), **kw: Any) -> str:
    """The secret of a new key; `kw` are fields of its row, such as `revoked_at`."""
    key, secret = ApiKey.issue(owner, "tests", list(scopes))
    if kw:
        ApiKey.objects.filter(pk=key.pk).update(**kw)
    return secret


def service(**kw: Any) -> Service:
    if "customer" not in kw:
        kw["customer"] = customer()
    return Service.objects.create(**{"name": f"service {next(_number)}"} | kw)


def domain(verified: bool = True, **kw: Any) -> ServiceDomain:
    if "service" not in kw:
        kw["service"] = service()
    return ServiceDomain.objects.create(
        **{
            "customer": kw["service"].customer,
            "hostname": f"www{next(_number)}.example.com",
            "verified_at": datetime(2026, 1, 1, tzinfo=UTC) if verified else None,
        }
        | kw
    )


def cdn(**kw: Any) -> Cdn:
    number = next(_number)
    return Cdn.objects.create(**{"name": f"CDN {number}", "slug": f"cdn-{number}"} | kw)


def target(role: str = Target.Role.PRIMARY, **kw: Any) -> Target:
    """A path or witness of a domain; reference sites and canaries get a hostname instead."""
    if role in Target.DOMAIN_ROLES:
        if "domain" not in kw:
            kw["domain"] = domain()
        kw.setdefault("customer", kw["domain"].customer)
    else:
        kw.setdefault("hostname", f"site{next(_number)}.example.net")
    if "cdn" not in kw and role in (*Target.PATH_ROLES, Target.Role.REFERENCE):
        kw["cdn"] = cdn()
    return Target.objects.create(**{"role": role, "address": f"edge{next(_number)}.example.net"} | kw)


def vantage_point(**kw: Any) -> VantagePoint:
    number = next(_number)
    return VantagePoint.objects.create(
        **{"name": f"vantage-{number}", "region": "eu", "network": f"AS{64500 + number}"} | kw
    )


def maintenance_window(starts: datetime | None = None, **kw: Any) -> MaintenanceWindow:
    """Of a service, unless `kw` names a CDN: an hour from `starts`, or from now on; planned long before."""
    if "cdn" not in kw and "service" not in kw:
        kw["service"] = service()
    if "service" in kw:
        kw.setdefault("customer", kw["service"].customer)
    starts = starts or timezone.now()
    return MaintenanceWindow.objects.create(
        **{
            "first_day": starts.date(),
            "local_time": starts.time(),
            "duration_seconds": 3600,
            "reason": "an upgrade",
            "created_at": datetime(2025, 1, 1, tzinfo=UTC),
        }
        | kw
    )


def policy(**kw: Any) -> StormPolicy:
    if "service" not in kw:
        kw["service"] = service()
    return StormPolicy.objects.create(**{"customer": kw["service"].customer} | kw)


def storm(**kw: Any) -> StormEvent:
    """A storm that began just now and rages, unless `kw` dates it."""
    if "service" not in kw:
        kw["service"] = service()
    started_at = kw.setdefault("started_at", timezone.now())
    return StormEvent.objects.create(
        **{
            "customer": kw["service"].customer,
            "kind": "http_availability",
            "attribution": Attribution.CDN_FAULT,
            "detected_at": started_at,
            "last_bad_at": started_at,
            "reason": "made by a test",
        }
        | kw
    )


def incident(**kw: Any) -> CdnIncident:
    """One that began just now and is only suspected, unless `kw` says otherwise."""
    if "cdn" not in kw:
        kw["cdn"] = cdn()
    started_at = kw.setdefault("started_at", timezone.now())
    return CdnIncident.objects.create(
        **{
            "detected_at": started_at,
            "last_bad_at": started_at,
            "regions": ["eu", "na"],
            "services_hit": 3,
            "services_total": 12,
            "reason": "3 services of 2 customers are hit in eu, na",
        }
        | kw
    )


def dns_account(vendor: str = "log", **kw: Any) -> DnsAccount:
    return DnsAccount.objects.create(**{"name": f"account {next(_number)}", "vendor": vendor} | kw)


def record_set(**kw: Any) -> RecordSet:
    if "domain" not in kw:
        kw["domain"] = domain()
    if "account" not in kw:
        kw["account"] = dns_account()
    armed = {"armed_at": datetime(2026, 1, 1, tzinfo=UTC), "unarmed_reason": ""}
    return RecordSet.objects.create(**{"customer": kw["domain"].customer} | armed | kw)


def rate_card(**kw: Any) -> RateCard:
    """Primary traffic at 0.10 a GB, backup traffic at 0.20; `currency` and `unit` are the card's, all else its prices'."""
    own = {key: kw.pop(key) for key in ("name", "currency", "unit") if key in kw}
    card = RateCard.objects.create(**{"name": f"rate card {next(_number)}"} | own)
    prices(rate_card=card, **kw)
    return card


def prices(**kw: Any) -> Prices:
    """In force since the century began."""
    return Prices.objects.create(
        **{
            "valid_from": datetime(2000, 1, 1, tzinfo=UTC),
            "primary_tiers": [{"up_to": None, "per_unit": "0.10"}],
            "backup_tiers": [{"up_to": None, "per_unit": "0.20"}],
        }
        | kw
    )


def contract(**kw: Any) -> Contract:
    """In force since 2026 began."""
    if "customer" not in kw:
        kw["customer"] = customer()
    if "rate_card" not in kw:
        kw["rate_card"] = rate_card()
    return Contract.objects.create(**{"valid_from": datetime(2026, 1, 1, tzinfo=UTC)} | kw)


def finding(**kw: Any) -> Finding:
    now, owner = timezone.now(), kw["service"].customer
    return Finding.objects.create(
        **{"customer": owner, "reason": "as the test wants", "first_seen_at": now, "last_seen_at": now} | kw
    )


def storm_entry(row: StormEvent) -> StormEntry:
    """The entry that it was opened by."""
    return StormEntry.objects.create(
        storm=row, at=row.started_at, action="open", reason=row.reason, case={"of": "a test"}
    )
