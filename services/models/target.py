"""Targets: everything that is probed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from customers.models import Customer
from services import facets, hostnames
from services.models.cdn import Cdn
from services.models.domain import ServiceDomain

if TYPE_CHECKING:
    from collections.abc import Collection


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

    MOST_BACKUPS = 10
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
        if self.role == self.Role.BACKUP and self.enabled and self._other_backups() >= self.MOST_BACKUPS:
            raise ValidationError(
                {"role": f"A domain has at most {self.MOST_BACKUPS} backups: switch another one off."}
            )
        self._keep_place()
        if self.role in self.PATH_ROLES and hostnames.is_address(self.address):
            raise ValidationError(
                {"address": "Name the CDN's host: DNS answers it as a CNAME, which can't be an address."}
            )

    def _other_backups(self) -> int:
        others = Target.objects.filter(domain=self.domain, role=self.Role.BACKUP, enabled=True)
        return others.exclude(pk=self.pk).count()

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
