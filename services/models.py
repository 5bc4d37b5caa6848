"""What is protected (services and their domains), what is probed (targets), from where (vantage points), and what was seen."""

from __future__ import annotations

import secrets
from decimal import Decimal
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone

from customers.models import Customer
from services import hostnames, statuses
from services.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection


class Cdn(models.Model):
    """A CDN, the same row for every customer on it: incidents, reference sites and log formats hang on it."""

    name = models.CharField(max_length=100, unique=True)
    slug = models.SlugField(unique=True)
    suffixes = models.JSONField(
        default=list, blank=True, help_text='Suffixes of its edge names, for example ["cdn.cloudflare.net"].'
    )

    class Meta:
        db_table = "cdns"
        ordering = ["name"]
        verbose_name = "CDN"
        verbose_name_plural = "CDNs"

    def __str__(self) -> str:
        return self.name


class VantagePoint(models.Model):
    """A place probes run from. Each has a Celery queue of its own, `probe.<name>`."""

    class State(models.TextChoices):
        ACTIVE = "active", "active: probes and votes"
        SHADOW = "shadow", "shadow: probes without a vote"
        OFF = "off", "off"

    name = models.SlugField(unique=True)
    region = models.SlugField()
    network = models.CharField(max_length=100, help_text="Whose network it probes from, for example “AS64500”.")
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    source_address = models.GenericIPAddressField(
        null=True, blank=True, help_text="Probes leave from this local address; empty lets the system choose."
    )
    last_probe_at = models.DateTimeField(null=True, blank=True, editable=False)
    blind_since = models.DateTimeField(null=True, blank=True, editable=False)
    blind_reason = models.CharField(max_length=300, blank=True, editable=False)

    class Meta:
        db_table = "vantage_points"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class ServiceQuerySet(models.QuerySet["Service"]):
    def live(self) -> ServiceQuerySet:
        return self.filter(deleted_at__isnull=True)


class Service(models.Model):
    """A unit of failover, such as “app”: its hostnames move together or not at all."""

    class Method(models.TextChoices):
        GET = "GET"
        HEAD = "HEAD"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="services")
    name = models.CharField(max_length=100)
    probe_method = models.CharField(max_length=4, choices=Method, default=Method.GET)
    probe_path = models.CharField(
        max_length=500, default="/", help_text="Probed through every path; begins with a slash."
    )
    expected_statuses = models.CharField(
        max_length=100,
        default="200-399",
        validators=[statuses.validate],
        help_text="Codes and ranges that are good, for example “200-299,304”.",
    )
    body_marker = models.CharField(
        max_length=200,
        blank=True,
        help_text="Text that must stand in the first 64 KiB of the body; empty: not looked at.",
    )
    timeout_seconds = models.DecimalField(
        max_digits=4,
        decimal_places=1,
        default=Decimal("5"),
        validators=[MinValueValidator(Decimal("0.5")), MaxValueValidator(Decimal("30"))],
    )
    interval_seconds = models.PositiveSmallIntegerField(default=10)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ServiceQuerySet.as_manager()

    class Meta:
        db_table = "services"
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                F("customer"),
                Lower("name"),
                condition=Q(deleted_at__isnull=True),
                name="services_name_unique",
                violation_error_message="This customer has a service with this name.",
            ),
            models.CheckConstraint(
                condition=Q(interval_seconds__gte=1, interval_seconds__lte=300), name="services_interval_range"
            ),
            models.CheckConstraint(
                condition=Q(timeout_seconds__gte=Decimal("0.5"), timeout_seconds__lte=30), name="services_timeout_range"
            ),
            models.CheckConstraint(condition=Q(probe_path__startswith="/"), name="services_path_absolute"),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        errors = {}
        if not self.probe_path.startswith("/") or not hostnames.is_printable_ascii(self.probe_path):
            errors["probe_path"] = (
                "Begin with a slash, and use printable ASCII without spaces (percent-encode the rest)."
            )
        low, high = settings.PROBE_MINIMUM_INTERVAL_SECONDS, settings.PROBE_MAXIMUM_INTERVAL_SECONDS
        if self.interval_seconds is not None and not low <= self.interval_seconds <= high:
            errors["interval_seconds"] = f"Choose from {low} to {high} seconds."
        if errors:
            raise ValidationError(errors)


class ServiceDomainQuerySet(models.QuerySet["ServiceDomain"]):
    def live(self) -> ServiceDomainQuerySet:
        return self.filter(deleted_at__isnull=True, service__deleted_at__isnull=True)

    def verified(self) -> ServiceDomainQuerySet:
        return self.live().filter(verified_at__isnull=False)


def new_challenge() -> str:
    """A 160-bit token, in the alphabet that survives DNS tools."""
    return secrets.token_hex(20)


class ServiceDomain(models.Model):
    """One hostname of a service. A claim blocks nobody; only a verified hostname is unique among all customers."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="domains")
    hostname = models.CharField(max_length=253, validators=[hostnames.validate])
    challenge = models.CharField(max_length=64, default=new_challenge, editable=False)
    verified_at = models.DateTimeField(null=True, blank=True, editable=False)
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    check_result = models.CharField(max_length=300, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ServiceDomainQuerySet.as_manager()

    class Meta:
        db_table = "service_domains"
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["hostname"],
                condition=Q(deleted_at__isnull=True, verified_at__isnull=False),
                name="service_domains_verified_hostname_unique",
                violation_error_message="This hostname is verified for another service.",
            ),
            models.UniqueConstraint(
                fields=["customer", "hostname"],
                condition=Q(deleted_at__isnull=True),
                name="service_domains_claim_unique",
                violation_error_message="This customer has this hostname already.",
            ),
            models.CheckConstraint(condition=Q(hostname=Lower("hostname")), name="service_domains_hostname_lower"),
        ]

    def __str__(self) -> str:
        return self.hostname

    @property
    def challenge_name(self) -> str:
        return f"_tranche-challenge.{self.hostname}"

    @property
    def challenge_value(self) -> str:
        return f"token={self.challenge}"

    def clean(self) -> None:
        self.hostname = hostnames.normalize(self.hostname)
        if self.service_id:
            self.customer_id = self.service.customer_id
        proven = ServiceDomain.objects.verified().filter(hostname=self.hostname)
        if self.verified_at is None and proven.exclude(customer=self.customer_id).exists():
            raise ValidationError({"hostname": "This hostname is proven by another customer."})


class TargetQuerySet(models.QuerySet["Target"]):
    def live(self) -> TargetQuerySet:
        """Targets that are probed: switched on, and nothing above them deleted."""
        return self.filter(
            Q(domain__isnull=True) | Q(domain__deleted_at__isnull=True, domain__service__deleted_at__isnull=True),
            enabled=True,
        )

    def paths(self) -> TargetQuerySet:
        return self.filter(role__in=Target.PATH_ROLES)


class Target(models.Model):
    """Everything that is probed.

    Primary and backup targets are the CDN paths of a domain; `origin` is its witness past every CDN. Reference sites
    are ours, one or more per CDN; canaries stand on networks that nobody insures, and tell when a vantage point is blind.
    """

    class Role(models.TextChoices):
        PRIMARY = "primary"
        BACKUP = "backup"
        ORIGIN = "origin", "origin witness"
        REFERENCE = "reference", "reference site"
        CANARY = "canary"

    PATH_ROLES: Collection[str] = (Role.PRIMARY, Role.BACKUP)
    DOMAIN_ROLES: Collection[str] = (*PATH_ROLES, Role.ORIGIN)

    customer = models.ForeignKey(Customer, models.PROTECT, null=True, blank=True, related_name="+")
    domain = models.ForeignKey(ServiceDomain, models.PROTECT, null=True, blank=True, related_name="targets")
    cdn = models.ForeignKey(Cdn, models.PROTECT, null=True, blank=True, related_name="targets", verbose_name="CDN")
    role = models.CharField(max_length=10, choices=Role)
    rank = models.PositiveSmallIntegerField(default=1, help_text="Order among backups: 1 is asked first.")
    address = models.CharField(
        max_length=253,
        validators=[hostnames.validate_target],
        help_text="Where to connect: the CDN's name for this domain (the CNAME target), or an address for other roles.",
    )
    port = models.PositiveIntegerField(default=443, validators=[MinValueValidator(1), MaxValueValidator(65535)])
    hostname = models.CharField(
        max_length=253,
        blank=True,
        validators=[hostnames.validate],
        help_text="Host and SNI of a reference site or canary; domain targets use their domain's.",
    )
    probe_path = models.CharField(
        max_length=500, blank=True, help_text="Instead of the service's; begins with a slash."
    )
    capacity_percent = models.PositiveSmallIntegerField(
        default=100,
        validators=[MaxValueValidator(1000)],
        help_text="What it can carry, in percent of the service's normal traffic.",
    )
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = TargetQuerySet.as_manager()

    class Meta:
        db_table = "targets"
        ordering = ["domain_id", "role", "rank", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(role__in=["primary", "backup", "origin"], domain__isnull=False, customer__isnull=False)
                | Q(role__in=["reference", "canary"], domain__isnull=True, customer__isnull=True) & ~Q(hostname=""),
                name="targets_role_has_its_owner",
                violation_error_message="Primary, backup and origin belong to a domain; references and canaries have a hostname.",
            ),
            models.CheckConstraint(
                condition=~Q(role__in=["primary", "backup", "reference"]) | Q(cdn__isnull=False),
                name="targets_path_has_cdn",
                violation_error_message="Name the CDN of a path or reference site.",
            ),
            models.UniqueConstraint(
                fields=["domain"],
                condition=Q(role="primary", enabled=True),
                name="targets_one_primary",
                violation_error_message="This domain has a primary path.",
            ),
            models.UniqueConstraint(
                fields=["domain", "rank"],
                condition=Q(role="backup", enabled=True),
                name="targets_backup_rank_unique",
                violation_error_message="This domain has a backup path of this rank.",
            ),
            models.CheckConstraint(
                condition=Q(probe_path="") | Q(probe_path__startswith="/"),
                name="targets_path_absolute",
                violation_error_message="Begin with a slash.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.host} via {self.cdn or self.address} ({self.role})"

    @property
    def host(self) -> str:
        """The Host header and TLS server name of its probes."""
        return self.domain.hostname if self.domain else self.hostname

    def clean(self) -> None:
        self.customer_id = self.domain.customer_id if self.domain else None
        if self.probe_path and not hostnames.is_printable_ascii(self.probe_path):
            raise ValidationError({"probe_path": "Use printable ASCII without spaces (percent-encode the rest)."})
        self._keep_place()
        if self.role in self.PATH_ROLES and hostnames.is_address(self.address):
            raise ValidationError(
                {"address": "Name the CDN's host: DNS answers it as a CNAME, which can't be an address."}
            )

    def _keep_place(self) -> None:
        """Samples and verdicts are evidence about one address: another address is another target."""
        before = Target.objects.filter(pk=self.pk).first() if self.pk else None
        for field in ("address", "port", "cdn_id", "role", "domain_id"):
            if before and getattr(before, field) != getattr(self, field):
                name = field.removesuffix("_id")
                raise ValidationError(
                    {name: "This can't change, since what was seen hangs on it: disable this one and add another."}
                )


class ProbeSample(models.Model):
    """One probe's outcome. Partitioned by day of `slot_at`; no foreign keys, so that COPY is all that recording costs.

    The key makes a redelivered task or a back-fill add nothing. `attempt` 0 is the slot's own probe, 1… are burst shots.
    """

    pk = models.CompositePrimaryKey("slot_at", "target_id", "vantage_point_id", "attempt")
    slot_at = models.DateTimeField()
    target_id = models.BigIntegerField()
    vantage_point_id = models.BigIntegerField()
    attempt = models.SmallIntegerField()
    at = models.DateTimeField(help_text="When the probe started.")
    customer_id = models.BigIntegerField(null=True)
    service_id = models.BigIntegerField(null=True)
    outcome = models.CharField(max_length=12, choices=[(o.value, o.value) for o in Outcome])
    status = models.SmallIntegerField(null=True)
    dns_ms = models.FloatField(null=True)
    connect_ms = models.FloatField(null=True)
    tls_ms = models.FloatField(null=True)
    first_byte_ms = models.FloatField(null=True)
    total_ms = models.FloatField(null=True)
    certificate_expires_at = models.DateTimeField(null=True)
    remote_address = models.GenericIPAddressField(null=True)
    reason = models.TextField(default="")
    is_blind = models.BooleanField(default=False, help_text="The vantage point was blind: kept, but without a vote.")

    class Meta:
        db_table = "probe_samples"
