"""The customer's terms for moving traffic, and every version of them."""

from __future__ import annotations

from copy import copy
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from customers.models import Customer
from services.models import Service
from storms import terms, verdicts


class Kind(models.TextChoices):
    HTTP_AVAILABILITY = "http_availability"
    TLS = "tls"
    DNS = "dns"
    MANUAL = "manual"


def within(field: str) -> list[Any]:
    least, most = terms.LIMITS[field]
    return [MinValueValidator(least), MaxValueValidator(most)]


class StormPolicyQuerySet(models.QuerySet["StormPolicy"]):
    def live(self) -> StormPolicyQuerySet:
        return self.filter(deleted_at__isnull=True, service__deleted_at__isnull=True)


class StormPolicy(models.Model):
    """The customer's thresholds for moving traffic: what is a storm, when it ends. Never what is paid for it.

    `version` rises with every change of terms, by a database trigger, which also keeps each version's terms in
    `storm_policy_versions`; a storm keeps the version that it began under.
    """

    class Mode(models.TextChoices):
        ARMED = "armed", "armed: storms move traffic"
        WATCH_ONLY = "watch_only", "watch only: storms are recorded and move nothing"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="policies")
    kind = models.CharField(
        max_length=20,
        choices=[choice for choice in Kind.choices if choice[0] != Kind.MANUAL],
        default=Kind.HTTP_AVAILABILITY,
    )
    mode = models.CharField(max_length=10, choices=Mode, default=Mode.ARMED)
    threshold_avail = models.DecimalField(
        max_digits=5,
        decimal_places=4,
        default=Decimal("0.9"),
        validators=within("threshold_avail"),
        help_text="A path is bad below this share of good samples (0 to 1).",
    )
    window_seconds = models.PositiveIntegerField(
        default=60,
        validators=within("window_seconds"),
        help_text="How far back a verdict looks.",
    )
    cooldown_seconds = models.PositiveIntegerField(
        default=300,
        validators=within("cooldown_seconds"),
        help_text="Quiet time before failback. It never delays protection.",
    )
    max_coverage_factor = models.DecimalField(
        max_digits=6,
        decimal_places=4,
        default=Decimal("1"),
        validators=within("max_coverage_factor"),
        help_text="Can only lower the contract's factor.",
    )
    min_samples = models.PositiveSmallIntegerField(default=6, validators=within("min_samples"))
    min_failures = models.PositiveSmallIntegerField(default=3, validators=within("min_failures"))
    min_vantages = models.PositiveSmallIntegerField(
        default=2, validators=within("min_vantages"), help_text="Votes from distinct networks that a storm needs."
    )
    minimum_seconds = models.PositiveIntegerField(default=600, validators=within("minimum_seconds"))
    closing_samples = models.PositiveSmallIntegerField(
        default=10,
        validators=within("closing_samples"),
        help_text="Good samples in a row that end it.",
    )
    holdoff_seconds = models.PositiveIntegerField(default=600, validators=within("holdoff_seconds"))
    holdoff_max_seconds = models.PositiveIntegerField(default=3600, validators=within("holdoff_max_seconds"))
    domain_share = models.DecimalField(
        max_digits=5,
        decimal_places=4,
        default=Decimal(0),
        db_default=Decimal(0),
        validators=within("domain_share"),
        help_text="Share of the service's domains that must fail at once: 0 is any one of them, 1 is all.",
    )
    region_share = models.DecimalField(
        max_digits=5,
        decimal_places=4,
        default=Decimal(0),
        db_default=Decimal(0),
        validators=within("region_share"),
        help_text="Share of the regions in which it must fail, since weights are global: 0 is any one, 1 is all.",
    )
    slow_ms = models.PositiveIntegerField(
        default=1800,
        db_default=1800,
        validators=within("slow_ms"),
        help_text="A good answer that takes longer (milliseconds) is slow: a finding, never a storm.",
    )
    version = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = StormPolicyQuerySet.as_manager()

    terms_of: int | None = None
    """The policy whose version `as_of` gave this one; None: its own."""
    TERMS = (
        "kind", "mode", "threshold_avail", "window_seconds", "cooldown_seconds", "max_coverage_factor", "min_samples",
        "min_failures", "min_vantages", "minimum_seconds", "closing_samples", "holdoff_seconds", "holdoff_max_seconds",
        "domain_share", "region_share", "slow_ms",
    )  # fmt: skip

    class Meta:
        db_table = "storm_policies"
        ordering = ["id"]
        verbose_name_plural = "storm policies"
        constraints = [
            models.UniqueConstraint(
                fields=["service", "kind"],
                condition=Q(deleted_at__isnull=True),
                name="storm_policies_one_per_kind",
                violation_error_message="This service has a policy of this kind.",
            ),
            models.CheckConstraint(
                condition=Q(threshold_avail__gt=0, threshold_avail__lte=1), name="storm_policies_threshold_range"
            ),
            models.CheckConstraint(
                condition=Q(window_seconds__gte=1, window_seconds__lte=3600), name="storm_policies_window_range"
            ),
            models.CheckConstraint(
                condition=Q(max_coverage_factor__gte=0, max_coverage_factor__lte=10),
                name="storm_policies_coverage_range",
            ),
            models.CheckConstraint(
                condition=Q(
                    min_samples__gte=1,
                    min_failures__gte=1,
                    min_vantages__gte=1,
                    closing_samples__gte=1,
                    closing_samples__lte=100,
                ),
                name="storm_policies_minimums_positive",
            ),
            models.CheckConstraint(
                condition=Q(domain_share__gte=0, domain_share__lte=1, region_share__gte=0, region_share__lte=1),
                name="storm_policies_shares_range",
            ),
            models.CheckConstraint(condition=Q(slow_ms__gte=1, slow_ms__lte=60_000), name="storm_policies_slow_range"),
            models.CheckConstraint(
                condition=Q(holdoff_max_seconds__gte=F("holdoff_seconds")),
                name="storm_policies_holdoff_order",
                violation_error_message="holdoff_max_seconds must not be below holdoff_seconds.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.service}: {self.kind} below {self.threshold_avail.normalize():f} over {self.window_seconds} s"

    def clean(self) -> None:
        if not self.service_id:
            return
        self.customer_id = self.service.customer_id
        if self.window_seconds and self.min_samples:
            fits = self.window_seconds // self.service.interval_seconds
            if fits < self.min_samples:
                interval = self.service.interval_seconds
                reason = f"{fits} samples fit into it at {interval} s each; a verdict needs {self.min_samples}."
                raise ValidationError({"window_seconds": reason})

    def as_of(self, version: StormPolicyVersion) -> StormPolicy:
        """The policy with the terms of one of its versions; not to be saved."""
        then = copy(self)
        then.terms_of, then.version = version.policy_id, version.version
        for name, value in version.terms.items():
            setattr(then, name, Decimal(str(value)) if isinstance(getattr(self, name), Decimal) else value)
        return then

    def terms(self) -> verdicts.Policy:
        """The policy as the detector takes it."""
        return verdicts.Policy(
            kind=verdicts.Kind(self.kind),
            threshold_avail=self.threshold_avail,
            window_seconds=self.window_seconds,
            cooldown_seconds=self.cooldown_seconds,
            # However seldom the service is probed by now: more than fit into the window would never be there.
            min_samples=max(min(self.min_samples, self.window_seconds // self.service.interval_seconds), 1),
            min_failures=self.min_failures,
            min_vantages=self.min_vantages,
            minimum_seconds=self.minimum_seconds,
            closing_samples=self.closing_samples,
            minimum_certificate_days=self.service.minimum_certificate_days,
            holdoff_seconds=self.holdoff_seconds,
            holdoff_max_seconds=self.holdoff_max_seconds,
            domain_share=self.domain_share,
            region_share=self.region_share,
            slow_ms=self.slow_ms,
            interval_seconds=self.service.interval_seconds,
        )


class StormPolicyVersion(models.Model):
    """One version of a policy's terms, written by the database trigger alone."""

    policy = models.ForeignKey(StormPolicy, models.PROTECT, related_name="versions")
    version = models.PositiveIntegerField()
    terms = models.JSONField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "storm_policy_versions"
        ordering = ["policy_id", "-version"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "version"], name="storm_policy_versions_unique"),
        ]

    def __str__(self) -> str:
        return f"version {self.version}"
