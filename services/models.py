"""What is protected (services and their domains), what is probed (targets), from where (vantage points), and what was seen."""

from __future__ import annotations

import logging
import secrets
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfoNotFoundError, available_timezones

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Lower, Now
from django.utils import timezone

from customers.models import Customer
from services import facets, headers, hostnames, maintenance, statuses
from services.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Collection

logger = logging.getLogger(__name__)

Subject = tuple[Literal["service", "cdn"], int]
"""What a maintenance window is of."""


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
    """A place probes run from, with a Celery queue of its own for each of its shards."""

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
    shards = models.PositiveSmallIntegerField(
        default=1,
        db_default=1,
        validators=[MinValueValidator(1), MaxValueValidator(64)],
        help_text="Probe workers that share its targets: one makes some thousand probes a second.",
    )
    last_probe_at = models.DateTimeField(null=True, blank=True, editable=False)
    blind_since = models.DateTimeField(null=True, blank=True, editable=False)
    blind_reason = models.CharField(max_length=300, blank=True, editable=False)
    blind_shards = models.JSONField(default=dict, db_default={}, editable=False)
    """Why each shard is blind that is; one blind shard takes the vote from all of them."""

    class Meta:
        db_table = "vantage_points"
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(shards__gte=1, shards__lte=64), name="vantage_points_shards_range")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def queues(self) -> list[str]:
        """The Celery queue of each shard."""
        return [queue_of(self.name, shard) for shard in range(self.shards)]


def queue_of(vantage_point: str, shard: int = 0) -> str:
    return f"probe.{vantage_point}.{shard}" if shard else f"probe.{vantage_point}"


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
    probe_headers = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        validators=[headers.validate],
        help_text='Sent with every probe, for example {"X-Probe": "a word that your firewall knows"}.',
    )
    probe_ipv4 = models.BooleanField("IPv4", default=True, db_default=True, help_text="Probe every path over IPv4.")
    probe_ipv6 = models.BooleanField(
        "IPv6",
        default=False,
        db_default=False,
        help_text="Probe every path over IPv6. With both, each is judged apart.",
    )
    uncacheable_path = models.CharField(
        max_length=500,
        blank=True,
        default="",
        db_default="",
        help_text="A path that no CDN caches, probed through every path beside the first: a cache hit hides a dead origin.",
    )
    minimum_certificate_days = models.PositiveSmallIntegerField(
        default=14,
        db_default=14,
        validators=[MaxValueValidator(365)],
        help_text="A certificate with fewer days left is a finding.",
    )
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
            models.CheckConstraint(
                condition=Q(uncacheable_path="") | Q(uncacheable_path__startswith="/"),
                name="services_uncacheable_path_absolute",
                violation_error_message="Begin with a slash.",
            ),
            models.CheckConstraint(
                condition=Q(probe_ipv4=True) | Q(probe_ipv6=True),
                name="services_some_family",
                violation_error_message="Choose IPv4, IPv6 or both.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        errors = {}
        for field in ("probe_path", "uncacheable_path"):
            path = getattr(self, field)
            if (path or field == "probe_path") and not (path.startswith("/") and hostnames.is_printable_ascii(path)):
                errors[field] = "Begin with a slash, and use printable ASCII without spaces (percent-encode the rest)."
        if self.uncacheable_path and self.uncacheable_path == self.probe_path:
            errors["uncacheable_path"] = "Name another path than the one that is probed already."
        if not (self.probe_ipv4 or self.probe_ipv6):
            errors["probe_ipv4"] = "Choose IPv4, IPv6 or both."
        low, high = settings.PROBE_MINIMUM_INTERVAL_SECONDS, settings.PROBE_MAXIMUM_INTERVAL_SECONDS
        if self.interval_seconds is not None and not low <= self.interval_seconds <= high:
            errors["interval_seconds"] = f"Choose from {low} to {high} seconds."
        if errors:
            raise ValidationError(errors)

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            super().save(*args, **kwargs)
            facets.keep([self.pk])


class ServiceDomainQuerySet(models.QuerySet["ServiceDomain"]):
    def live(self) -> ServiceDomainQuerySet:
        return self.filter(deleted_at__isnull=True, service__deleted_at__isnull=True)

    def verified(self) -> ServiceDomainQuerySet:
        return self.live().filter(verified_at__isnull=False)

    def with_contest(self) -> ServiceDomainQuerySet:
        """Tells of each whether another account's token stands beside its own, without a query a row."""
        return self.annotate(contested=Exists(self.model.objects.contenders().filter(hostname=OuterRef("hostname"))))

    def contenders(self) -> ServiceDomainQuerySet:
        """Claims whose token is in DNS while another account holds the proof."""
        return self.live().filter(verified_at__isnull=True, contested_since__isnull=False)


CHALLENGE_LIFE = timedelta(days=30)
"""How long a token may wait to be published."""
PROOF_GRACE = timedelta(days=3)
"""How long a verified domain's token may be gone before nothing new is written for it."""


def new_challenge() -> str:
    """A 160-bit token, in the alphabet that survives DNS tools."""
    return secrets.token_hex(20)


class ServiceDomain(models.Model):
    """One hostname of a service. A claim blocks nobody; only a verified hostname is unique among all customers."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="domains")
    hostname = models.CharField(max_length=253, validators=[hostnames.validate])
    challenge = models.CharField(max_length=64, default=new_challenge, editable=False)
    challenge_issued_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    verified_at = models.DateTimeField(null=True, blank=True, editable=False)
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    check_result = models.CharField(max_length=300, blank=True, editable=False)
    lost_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when the token of a verified domain is gone."
    )
    contested_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when another account shows its token beside this one's."
    )
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

    def is_proof_lost(self, now: datetime) -> bool:
        return self.lost_since is not None and now - self.lost_since >= PROOF_GRACE

    @property
    def is_contested(self) -> bool:
        """Whether two accounts show a token for this hostname. Free of queries after `with_contest`."""
        if self.contested_since and not self.verified_at:
            return True
        if self.verified_at is None:
            return False
        if "contested" in self.__dict__:
            return bool(self.__dict__["contested"])
        return ServiceDomain.objects.contenders().filter(hostname=self.hostname).exists()

    def proof_problem(self, now: datetime) -> str:
        """Why nothing new may be written into DNS for it, or ""."""
        if self.verified_at is None:
            return f"{self.hostname} is not verified"
        if self.is_contested:
            return f"another account shows its token for {self.hostname} too"
        if self.is_proof_lost(now):
            return f"the token of {self.hostname} has been gone from DNS since {self.lost_since:%Y-%m-%d %H:%M} UTC"
        return ""

    def proof_state(self, now: datetime) -> str:
        """In one word, as people are shown it."""
        if self.deleted_at:
            return "deleted"
        if self.is_contested:
            return "contested"
        if self.verified_at is None:
            return "not verified"
        if self.lost_since:
            return "lost" if self.is_proof_lost(now) else "missing"
        return "verified"

    def clean(self) -> None:
        self.hostname = hostnames.normalize(self.hostname)
        if self.service_id:
            self.customer_id = self.service.customer_id
        proven = ServiceDomain.objects.verified().filter(hostname=self.hostname)
        if self.verified_at is None and proven.exclude(customer=self.customer_id).exists():
            raise ValidationError({"hostname": "This hostname is proven by another customer."})
        ours = Target.objects.filter(role__in=Target.OWN_ROLES, hostname=self.hostname)
        if self._state.adding and (self.hostname in settings.ALLOWED_HOSTS or ours.exists()):
            raise ValidationError({"hostname": "This hostname is ours."})


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
        FACET = "facet"

    class Facet(models.TextChoices):
        """Another look at a path, judged apart and kept by `services.facets`: over IPv6, or past the cache."""

        IPV6 = "ipv6", "IPv6"
        UNCACHEABLE = "uncacheable", "uncacheable"

    PATH_ROLES: Collection[str] = (Role.PRIMARY, Role.BACKUP)
    DOMAIN_ROLES: Collection[str] = (*PATH_ROLES, Role.ORIGIN)
    OWN_ROLES: Collection[str] = (Role.REFERENCE, Role.CANARY)
    WATCHED_ROLES: Collection[str] = (*DOMAIN_ROLES, Role.FACET)

    customer = models.ForeignKey(Customer, models.PROTECT, null=True, blank=True, related_name="+")
    domain = models.ForeignKey(ServiceDomain, models.PROTECT, null=True, blank=True, related_name="targets")
    cdn = models.ForeignKey(Cdn, models.PROTECT, null=True, blank=True, related_name="targets", verbose_name="CDN")
    role = models.CharField(max_length=10, choices=Role)
    facet = models.CharField(max_length=12, choices=Facet, blank=True, default="", db_default="", editable=False)
    facet_of = models.ForeignKey("self", models.PROTECT, null=True, blank=True, editable=False, related_name="facets")
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
    network = models.CharField(
        max_length=100,
        blank=True,
        default="",
        db_default="",
        help_text="Whose network a canary stands on, for example “AS64500”: three at least, none of them insured.",
    )
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = TargetQuerySet.as_manager()

    class Meta:
        db_table = "targets"
        ordering = ["domain_id", "role", "rank", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    role__in=["primary", "backup", "origin", "facet"], domain__isnull=False, customer__isnull=False
                )
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
                condition=Q(role="facet", facet_of__isnull=False) & ~Q(facet="")
                | ~Q(role="facet") & Q(facet="", facet_of__isnull=True),
                name="targets_facet_of_a_path",
            ),
            models.UniqueConstraint(fields=["facet_of", "facet"], name="targets_facet_unique"),
            models.CheckConstraint(
                condition=Q(probe_path="") | Q(probe_path__startswith="/"),
                name="targets_path_absolute",
                violation_error_message="Begin with a slash.",
            ),
        ]

    def __str__(self) -> str:
        what = self.get_facet_display() if self.facet else self.role
        return f"{self.host} via {self.cdn or self.address} ({what})"

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

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            super().save(*args, **kwargs)
            if self.role in self.PATH_ROLES and self.domain:
                facets.keep([self.domain.service_id])

    def _keep_place(self) -> None:
        """Samples and verdicts are evidence about one address: another address is another target."""
        before = Target.objects.filter(pk=self.pk).first() if self.pk else None
        for field in ("address", "port", "cdn_id", "role", "domain_id"):
            if before and getattr(before, field) != getattr(self, field):
                name = field.removesuffix("_id")
                raise ValidationError(
                    {name: "This can't change, since what was seen hangs on it: disable this one and add another."}
                )


@cache
def time_zones() -> frozenset[str]:
    """The names of IANA; `localtime` would mean something else on every machine."""
    return frozenset(available_timezones() - {"localtime", "Factory"})


def validate_time_zone(name: str) -> None:
    if name not in time_zones():
        raise ValidationError("This is no time zone of IANA's, such as “UTC” or “Europe/Berlin”.")


class MaintenanceWindowQuerySet(models.QuerySet["MaintenanceWindow"]):
    def live(self) -> MaintenanceWindowQuerySet:
        return self.filter(Q(service__isnull=True) | Q(service__deleted_at__isnull=True), lifted_at__isnull=True)

    def since(self, at: datetime) -> MaintenanceWindowQuerySet:
        """Those with a span that may end after `at`."""
        return self.live().filter(Q(over_at__isnull=True) | Q(over_at__gt=at))


class MaintenanceWindow(models.Model):
    """When work is done on a service, or on a CDN by its operator: probing goes on, and no storm starts.

    A service's window belongs to its customer, a CDN's to nobody. Lifting one takes it away as if it had never been.
    """

    MAXIMUM = 50
    """Windows of one service that are not over: every look at its storms reads them."""
    LONGEST_SECONDS = 7 * 86_400
    FIRST_YEAR, LAST_YEAR = 2020, 2100

    class Recurrence(models.TextChoices):
        NONE = maintenance.Recurrence.NONE.value, "once"
        DAILY = maintenance.Recurrence.DAILY.value, "daily"
        WEEKLY = maintenance.Recurrence.WEEKLY.value, "weekly"

    customer = models.ForeignKey(Customer, models.PROTECT, null=True, blank=True, editable=False, related_name="+")
    service = models.ForeignKey(
        Service, models.PROTECT, null=True, blank=True, related_name="maintenance_windows", help_text="Or a CDN."
    )
    cdn = models.ForeignKey(
        Cdn,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="maintenance_windows",
        verbose_name="CDN",
        help_text="Every service whose primary path it is.",
    )
    first_day = models.DateField(help_text="In the time zone below.")
    local_time = models.TimeField(
        help_text="When it begins, by the clock of its time zone. A time that the clock jumps over in spring counts "
        "from before the jump (02:30 is 03:30); of a time that comes twice in autumn it is the first."
    )
    time_zone = models.CharField(
        max_length=64, default="UTC", validators=[validate_time_zone], help_text="IANA's, such as Europe/Berlin."
    )
    duration_seconds = models.PositiveIntegerField(help_text="Of real time, from a minute to seven days.")
    recurrence = models.CharField(max_length=10, choices=Recurrence, default=Recurrence.NONE)
    weekdays = models.JSONField(default=list, blank=True, help_text="Of a weekly window.")
    until = models.DateField(null=True, blank=True, help_text="The last day it may begin on; empty: no end.")
    reason = models.CharField(max_length=300)
    over_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="When its last span ends.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    lifted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = MaintenanceWindowQuerySet.as_manager()

    class Meta:
        db_table = "maintenance_windows"
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(service__isnull=False, customer__isnull=False, cdn__isnull=True)
                | Q(service__isnull=True, customer__isnull=True, cdn__isnull=False),
                name="maintenance_windows_one_subject",
                violation_error_message="Choose a service or a CDN.",
            ),
            models.CheckConstraint(
                condition=Q(duration_seconds__gte=60, duration_seconds__lte=7 * 86_400),
                name="maintenance_windows_duration_range",
                violation_error_message="Choose from a minute to seven days.",
            ),
        ]

    def __str__(self) -> str:
        return f"maintenance of {self.service or self.cdn}"

    @property
    def terms(self) -> maintenance.Window:
        return maintenance.Window(
            first_day=self.first_day,
            local_time=self.local_time,
            time_zone=self.time_zone,
            duration_seconds=self.duration_seconds,
            recurrence=maintenance.Recurrence(self.recurrence),
            weekdays=frozenset(maintenance.Weekday(day) for day in self.weekdays),
            until=self.until,
            reason=self.reason,
        )

    def clean(self) -> None:
        self.customer_id = self.service.customer_id if self.service else None
        errors = {}
        if bool(self.service_id) == bool(self.cdn_id):
            errors["service"] = "Choose a service or a CDN."
        for name in ("first_day", "until"):
            day: date | None = getattr(self, name)
            if day and not self.FIRST_YEAR <= day.year <= self.LAST_YEAR:
                errors[name] = f"Choose a day from {self.FIRST_YEAR} to {self.LAST_YEAR}."
        if self.until and self.first_day and self.until < self.first_day:
            errors["until"] = "It would be over before its first day."
        if self.until and self.recurrence == self.Recurrence.NONE:
            errors["until"] = "A window that does not recur has no last day."
        if self.duration_seconds is not None and not 60 <= self.duration_seconds <= self.LONGEST_SECONDS:
            errors["duration_seconds"] = f"Choose from 60 to {self.LONGEST_SECONDS} seconds."
        if wrong := self._wrong_weekdays():
            errors["weekdays"] = wrong
        if errors:
            raise ValidationError(errors)
        if self._state.adding and self.service and self._others(self.service) >= self.MAXIMUM:
            raise ValidationError({"service": f"It has {self.MAXIMUM} windows that are not over: lift some."})

    def _wrong_weekdays(self) -> str:
        if not isinstance(self.weekdays, list) or not set(map(str, self.weekdays)) <= set(maintenance.WEEK):
            return f"Choose from {', '.join(maintenance.WEEK)}."
        self.weekdays = [day.value for day in maintenance.WEEK if day in self.weekdays]
        if bool(self.weekdays) != (self.recurrence == self.Recurrence.WEEKLY):
            return "A weekly window names its weekdays, and no other does."
        return ""

    def _others(self, service: Service) -> int:
        return service.maintenance_windows.since(timezone.now()).count()

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.over_at = maintenance.over_at(self.terms)
        super().save(*args, **kwargs)

    def lift(self, now: datetime) -> None:
        self.lifted_at = now
        super().save(update_fields=["lifted_at"])

    @classmethod
    def spans(
        cls, now: datetime, before: timedelta, services: Collection[int] | None = None
    ) -> dict[Subject, maintenance.Span]:
        """By service and by CDN, the span that ends last of those that began by now and ended within `before` or go on.

        One query, whatever the number of services; every CDN's windows, and those of `services` (None: of all).
        """
        rows = cls.objects.since(now - before).order_by("id")
        if services is not None:
            rows = rows.filter(Q(cdn__isnull=False) | Q(service__in=services))
        found: dict[Subject, maintenance.Span] = {}
        for row in rows:
            subject: Subject = ("service", row.service_id) if row.service_id else ("cdn", row.cdn_id or 0)
            try:
                spans = maintenance.next_spans(row.terms, now - before, now + timedelta.resolution)
            except ZoneInfoNotFoundError:  # of another machine's tzdata: one row must not stop the watch of everything
                logger.exception("maintenance window %s has no effect", row.pk)
                continue
            for span in spans:
                if subject not in found or span.end > found[subject].end:
                    found[subject] = span
        return found


class Sample(models.Model):
    """One probe's outcome. No foreign keys, so that COPY is all that recording costs."""

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
    certificate_issuer = models.CharField(max_length=200, default="", db_default="")
    protocol = models.CharField(
        max_length=8, default="", db_default="", help_text="Of the answer, for example “HTTP/1.1”."
    )
    remote_address = models.GenericIPAddressField(null=True)
    reason = models.TextField(default="")
    is_blind = models.BooleanField(default=False, help_text="The vantage point was blind: kept, but without a vote.")
    is_late = models.BooleanField(
        default=False, db_default=False, help_text="Back-filled after Postgres was away: decides nothing."
    )
    in_maintenance = models.BooleanField(
        default=False, db_default=False, help_text="Work was done on its service or CDN."
    )

    class Meta:
        abstract = True


class ProbeSample(Sample):
    """Fresh ones, partitioned by day of `slot_at` and dropped after SAMPLE_DAYS_KEPT.

    The key makes a redelivered task or a back-fill add nothing. `attempt` 0 is the slot's own probe, 1… are burst shots.
    """

    pk = models.CompositePrimaryKey("slot_at", "target_id", "vantage_point_id", "attempt")

    class Meta:
        db_table = "probe_samples"


class SampleMinute(models.Model):
    """What one vantage point saw of one target in one minute, counted by `services.rollups`. Partitioned by month.

    Blind samples count as blind alone. Latency (`total_ms_…`, over `count_ms` samples) is that of the good ones.
    """

    pk = models.CompositePrimaryKey("minute_at", "target_id", "vantage_point_id")
    minute_at = models.DateTimeField()
    target_id = models.BigIntegerField()
    vantage_point_id = models.BigIntegerField()
    customer_id = models.BigIntegerField(null=True)
    service_id = models.BigIntegerField(null=True)
    good = models.IntegerField(default=0)
    bad = models.IntegerField(default=0)
    set_aside = models.IntegerField(default=0)
    blind = models.IntegerField(default=0)
    total_ms_sum = models.FloatField(default=0)
    total_ms_max = models.FloatField(null=True)
    count_ms = models.IntegerField(default=0)
    worst_outcome = models.CharField(
        max_length=12, choices=[(o.value, o.value) for o in Outcome], default="", blank=True
    )
    certificate_expires_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "sample_minutes"
