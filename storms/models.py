"""Policies that say what a storm is, the verdicts they are judged by, and the storms themselves."""

from __future__ import annotations

from decimal import Decimal

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeBoundary, RangeOperators
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Func, Q
from django.utils import timezone

from customers.models import Customer
from services.models import Cdn, Sample, Service, Target
from storms import detector


class Kind(models.TextChoices):
    HTTP_AVAILABILITY = "http_availability"
    TLS = "tls"
    DNS = "dns"
    MANUAL = "manual"


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
        validators=[MinValueValidator(Decimal("0.0001")), MaxValueValidator(Decimal("1"))],
        help_text="A path is bad below this share of good samples (0 to 1).",
    )
    window_seconds = models.PositiveIntegerField(
        default=60,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="How far back a verdict looks.",
    )
    cooldown_seconds = models.PositiveIntegerField(
        default=300,
        validators=[MaxValueValidator(86_400)],
        help_text="Quiet time before failback. It never delays protection.",
    )
    max_coverage_factor = models.DecimalField(
        max_digits=6,
        decimal_places=4,
        default=Decimal("1"),
        validators=[MinValueValidator(Decimal("0")), MaxValueValidator(Decimal("10"))],
        help_text="Can only lower the contract's factor.",
    )
    min_samples = models.PositiveSmallIntegerField(default=6, validators=[MinValueValidator(1)])
    min_failures = models.PositiveSmallIntegerField(default=3, validators=[MinValueValidator(1)])
    min_vantages = models.PositiveSmallIntegerField(
        default=2, validators=[MinValueValidator(1)], help_text="Votes from distinct networks that a storm needs."
    )
    minimum_seconds = models.PositiveIntegerField(default=600, validators=[MaxValueValidator(86_400)])
    closing_samples = models.PositiveSmallIntegerField(
        default=10,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="Good samples in a row that end it.",
    )
    holdoff_seconds = models.PositiveIntegerField(default=600, validators=[MaxValueValidator(86_400)])
    holdoff_max_seconds = models.PositiveIntegerField(default=3600, validators=[MaxValueValidator(86_400)])
    version = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = StormPolicyQuerySet.as_manager()

    TERMS = (
        "kind", "mode", "threshold_avail", "window_seconds", "cooldown_seconds", "max_coverage_factor", "min_samples",
        "min_failures", "min_vantages", "minimum_seconds", "closing_samples", "holdoff_seconds", "holdoff_max_seconds",
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

    def terms(self) -> detector.Policy:
        """The policy as the detector takes it."""
        return detector.Policy(
            kind=detector.Kind(self.kind),
            threshold_avail=self.threshold_avail,
            window_seconds=self.window_seconds,
            cooldown_seconds=self.cooldown_seconds,
            min_samples=self.min_samples,
            min_failures=self.min_failures,
            min_vantages=self.min_vantages,
            minimum_seconds=self.minimum_seconds,
            closing_samples=self.closing_samples,
            minimum_certificate_days=self.service.minimum_certificate_days,
            holdoff_seconds=self.holdoff_seconds,
            holdoff_max_seconds=self.holdoff_max_seconds,
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


class PathVerdict(models.Model):
    """The newest verdict on a target, with its reason: what the console shows and what steering reads."""

    customer = models.ForeignKey(Customer, models.CASCADE, null=True, related_name="+")
    target = models.OneToOneField(Target, models.CASCADE, related_name="verdict")
    verdict = models.CharField(max_length=10, choices=[(v.value, v.value) for v in detector.Verdict])
    availability = models.FloatField(null=True, help_text="Good share of the window's judged samples, 0 to 1.")
    reason = models.TextField()
    votes = models.JSONField(default=dict, help_text="The verdict of each vantage point.")
    newest_good_at = models.DateTimeField(null=True)
    certificate_expires_at = models.DateTimeField(null=True)
    since = models.DateTimeField()
    evaluated_at = models.DateTimeField()

    class Meta:
        db_table = "path_verdicts"

    def __str__(self) -> str:
        return f"{self.target}: {self.verdict}"


class StormEventQuerySet(models.QuerySet["StormEvent"]):
    def open(self) -> StormEventQuerySet:
        """Storms that are not closed: raging, or over and waiting out their cooldown."""
        return self.filter(closed_at__isnull=True)

    def moving_traffic(self) -> StormEventQuerySet:
        return self.open().filter(is_armed=True)


class StormEvent(models.Model):
    """One storm of one service and kind, however it flickers.

    `started_at` is the first failing probe, `ended_at` the first probe of the good run (null while it rages),
    `closed_at` when cooldown, minimum length and hold-off had passed and traffic may go home.
    """

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="storms")
    policy = models.ForeignKey(StormPolicy, models.PROTECT, null=True, related_name="storms")
    policy_version = models.PositiveIntegerField(null=True)
    cdn = models.ForeignKey(Cdn, models.PROTECT, null=True, related_name="storms", verbose_name="CDN")
    kind = models.CharField(max_length=20, choices=Kind)
    regions = models.JSONField(default=list)
    is_armed = models.BooleanField(default=True, help_text="False: would have been a storm; moves and bills nothing.")
    attribution = models.CharField(max_length=30, choices=[(a.value, a.value) for a in detector.Attribution])
    started_at = models.DateTimeField()
    detected_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    last_bad_at = models.DateTimeField(help_text="The newest evaluation that still found it raging.")
    spells = models.JSONField(
        default=list,
        help_text="Its bad stretches as [start, end]; a relapse begins a new one, quiet time between is none.",
    )
    relapses = models.PositiveIntegerField(default=0)
    reason = models.TextField(help_text="Why it was declared.")
    closing_reason = models.TextField(blank=True)
    evidence = models.JSONField(default=dict)
    samples_kept_until = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Raw samples up to here are kept with it for ever."
    )

    objects = StormEventQuerySet.as_manager()

    class Meta:
        db_table = "storm_events"
        ordering = ["-started_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["service", "kind"], condition=Q(closed_at__isnull=True), name="storm_events_one_open"
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=F("started_at")),
                name="storm_events_end_after_start",
            ),
            models.CheckConstraint(
                condition=Q(closed_at__isnull=True) | Q(ended_at__isnull=False, closed_at__gte=F("ended_at")),
                name="storm_events_closed_after_end",
            ),
            ExclusionConstraint(
                name="storm_events_no_overlap",
                expressions=[
                    ("service", RangeOperators.EQUAL),
                    ("kind", RangeOperators.EQUAL),
                    (
                        Func(
                            F("started_at"),
                            F("ended_at"),
                            RangeBoundary(),
                            function="tstzrange",
                            output_field=DateTimeRangeField(),
                        ),
                        RangeOperators.OVERLAPS,
                    ),
                ],
            ),
        ]
        indexes = [models.Index(fields=["customer", "-started_at"], name="storm_events_by_customer")]

    def __str__(self) -> str:
        return f"storm {self.pk}: {self.service} {self.kind}"

    @property
    def state(self) -> str:
        if self.closed_at:
            return "closed"
        return "ended" if self.ended_at else "raging"


class StormSample(Sample):
    """A copy of a raw sample around a storm, kept with it when the partition of its day is dropped."""

    pk = models.CompositePrimaryKey("storm_id", "slot_at", "target_id", "vantage_point_id", "attempt")
    storm = models.ForeignKey(StormEvent, models.CASCADE, related_name="samples")

    class Meta:
        db_table = "storm_samples"


class FindingQuerySet(models.QuerySet["Finding"]):
    def open(self) -> FindingQuerySet:
        return self.filter(resolved_at__isnull=True)


class Finding(models.Model):
    """Something that is no storm but that people must hear: an origin fault, an unfit backup, blocked probes."""

    customer = models.ForeignKey(Customer, models.CASCADE, related_name="+")
    service = models.ForeignKey(Service, models.CASCADE, related_name="findings")
    kind = models.CharField(max_length=20, choices=[(k.value, k.value) for k in detector.FindingKind])
    target = models.ForeignKey(Target, models.CASCADE, null=True, related_name="findings")
    reason = models.TextField()
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True, blank=True)

    objects = FindingQuerySet.as_manager()

    class Meta:
        db_table = "findings"
        ordering = ["-last_seen_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["service", "kind", "target"],
                condition=Q(resolved_at__isnull=True),
                nulls_distinct=False,
                name="findings_one_open",
            )
        ]

    def __str__(self) -> str:
        return f"{self.service}: {self.kind}"
