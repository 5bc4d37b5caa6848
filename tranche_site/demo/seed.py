"""The demo world's rows: made once, and left alone afterwards, so that what an operator changed stays."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from billing.models import Contract, Prices, RateCard, UsageSource
from customers.models import SCOPES, ApiKey, Customer
from dns.models import DnsAccount, EmbeddedRecord, RecordSet
from services.models import Cdn, Service, ServiceDomain, Target, VantagePoint
from storms.models import StormPolicy
from tranche_site.demo import certificates, world

CUSTOMER = "Demo Shop"
TTL_SECONDS = 5
DRAFT_SECONDS = 20


def api_key_file() -> Path:
    return world.home() / "api-key"


@transaction.atomic
def seed() -> str:
    """Make what is missing. Returns the demo customer's API key, which lives in a file of mode 600 in the demo's home."""
    certificates.make(world.home(), world.CERTIFICATE_NAMES)
    for point in world.VANTAGE_POINTS:
        VantagePoint.objects.get_or_create(
            name=point.name,
            defaults={"region": "demo", "network": point.network, "source_address": point.source_address},
        )
    cdns = {}
    for edge in world.EDGES:
        cdns[edge.role], _ = Cdn.objects.get_or_create(
            slug=edge.slug, defaults={"name": edge.cdn, "suffixes": [f"{edge.slug}.{world.ZONE}"]}
        )
    key_file = api_key_file()
    customer = Customer.objects.filter(name=CUSTOMER).first()
    if customer is None:
        customer = Customer.objects.create(name=CUSTOMER, billing_email="billing@shop.demo.test")
        _make_service(customer, cdns)
        _make_own_targets(cdns)
    if not key_file.exists():
        _, secret = ApiKey.issue(customer, "demo", list(SCOPES))
        key_file.touch(mode=0o600)
        key_file.write_text(secret + "\n")
    return key_file.read_text().strip()


def _make_service(customer: Customer, cdns: dict[str, Cdn]) -> None:
    service = Service.objects.create(customer=customer, name="shop", interval_seconds=5, timeout_seconds=Decimal(3))
    domain = ServiceDomain.objects.create(customer=customer, service=service, hostname=world.HOSTNAME)
    for edge in world.EDGES:
        Target.objects.create(
            customer=customer, domain=domain, cdn=cdns[edge.role], role=edge.role, address=edge.target,
            port=settings.DEMO_HTTPS_PORT,
        )  # fmt: skip
    Target.objects.create(
        customer=customer,
        domain=domain,
        role=Target.Role.ORIGIN,
        address=world.ORIGIN_HOST,
        port=settings.DEMO_HTTPS_PORT,
    )
    StormPolicy.objects.create(
        customer=customer, service=service, window_seconds=30, min_samples=6, min_failures=3, cooldown_seconds=30,
        minimum_seconds=60, closing_samples=10, holdoff_seconds=120, holdoff_max_seconds=600,
    )  # fmt: skip
    # A newcomer should not wait five minutes to see what a storm does to an invoice.
    interval, _ = IntervalSchedule.objects.get_or_create(every=DRAFT_SECONDS, period=IntervalSchedule.SECONDS)
    PeriodicTask.objects.filter(task="billing.draft_invoices").update(interval=interval, expire_seconds=DRAFT_SECONDS)
    _publish(domain)
    account = DnsAccount.objects.create(customer=customer, name="Demo zone", vendor="embedded")
    RecordSet.objects.create(
        customer=customer, domain=domain, account=account, zone=world.ZONE, ttl_seconds=TTL_SECONDS
    )
    card = RateCard.objects.create(name="Demo prices")
    first_of_month = timezone.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    Prices.objects.create(
        rate_card=card, valid_from=first_of_month, primary_tiers=[{"up_to": None, "per_unit": "100.00"}],
        backup_tiers=[{"up_to": None, "per_unit": "120.00"}],
    )  # fmt: skip
    Contract.objects.create(customer=customer, rate_card=card, valid_from=first_of_month, discount_rate=Decimal("0.5"))
    for edge in world.EDGES:
        world.log_directory(edge).mkdir(parents=True, exist_ok=True)
        UsageSource.objects.create(
            customer=customer, name=f"Demo {edge.cdn} logs", cdn=cdns[edge.role], kind=UsageSource.Kind.DIRECTORY,
            format=edge.log_format, location=str(world.log_directory(edge)),
        )  # fmt: skip


def _publish(domain: ServiceDomain) -> None:
    """The zone as its owner would have it: addresses of the CDN names, and the answer to our challenge."""
    soa = f"ns1.{world.ZONE}. hostmaster.{world.ZONE}. 1 3600 600 86400 5"
    records = [
        (world.ZONE, "SOA", soa),
        (world.ZONE, "NS", f"ns1.{world.ZONE}."),
        (f"ns1.{world.ZONE}", "A", "127.0.0.1"),
        (world.ORIGIN_HOST, "A", world.ORIGIN_ADDRESS),
        (domain.challenge_name, "TXT", domain.challenge_value),
        *((edge.target, "A", edge.address) for edge in world.EDGES),
        *((edge.reference, "A", edge.address) for edge in world.EDGES),
        *((host, "A", address) for host, address in world.CANARIES),
    ]
    EmbeddedRecord.objects.bulk_create(
        [EmbeddedRecord(zone=world.ZONE, name=n, type=t, value=v, ttl_seconds=60) for n, t, v in records]
    )


def _make_own_targets(cdns: dict[str, Cdn]) -> None:
    for edge in world.EDGES:
        Target.objects.create(
            cdn=cdns[edge.role], role=Target.Role.REFERENCE, address=edge.reference, hostname=edge.reference,
            port=settings.DEMO_HTTPS_PORT,
        )  # fmt: skip
    for number, (host, address) in enumerate(world.CANARIES, 1):
        Target.objects.create(
            role=Target.Role.CANARY, address=address, hostname=host, port=settings.DEMO_HTTPS_PORT,
            network=f"AS6451{number}",
        )  # fmt: skip
