"""Services: what fails over as a whole, and how it is probed."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone

from customers.models import Customer
from services import facets, headers, hostnames, statuses


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
        default=21,
        db_default=21,
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
        if self.pk and self.interval_seconds:
            tight = [
                policy
                for policy in self.policies.filter(deleted_at__isnull=True)
                if policy.window_seconds // self.interval_seconds < policy.min_samples
            ]
            if tight:
                errors["interval_seconds"] = (
                    f"The window of its {tight[0].kind} policy, {tight[0].window_seconds} s, would hold fewer samples than the "
                    f"{tight[0].min_samples} that a verdict needs: widen the window first."
                )
        low, high = settings.PROBE_MINIMUM_INTERVAL_SECONDS, settings.PROBE_MAXIMUM_INTERVAL_SECONDS
        if self.interval_seconds is not None and not low <= self.interval_seconds <= high:
            errors["interval_seconds"] = f"Choose from {low} to {high} seconds."
        if errors:
            raise ValidationError(errors)

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            super().save(*args, **kwargs)
            facets.keep([self.pk])
