"""How a service comes home, spreads over its backups, keeps them warm, and rehearses."""

from __future__ import annotations

from datetime import datetime

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from customers.models import Customer
from dns import weights
from services import maintenance, parity
from services.models import Service, validate_time_zone


class SteeringTerms(models.Model):
    """A service's own wishes of how traffic moves. A service without this row has every default."""

    class Failback(models.TextChoices):
        AUTOMATIC = weights.Failback.AUTOMATIC.value, "automatic: in steps, each gated"
        WINDOW = weights.Failback.WINDOW.value, "in its window, in steps, each gated"
        APPROVAL = weights.Failback.APPROVAL.value, "after a person approved"

    class Spread(models.TextChoices):
        RANK = weights.Spread.RANK.value, "by rank: the first backup to its capacity, then the next"
        SHARE = weights.Spread.SHARE.value, "by share: all backups in proportion to their capacity"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.OneToOneField(Service, models.PROTECT, related_name="steering_terms")
    failback = models.CharField(max_length=10, choices=Failback, default=Failback.AUTOMATIC)
    spread = models.CharField(max_length=10, choices=Spread, default=Spread.RANK)
    standing_percent = models.PositiveSmallIntegerField(
        default=0,
        validators=[MaxValueValidator(5)],
        help_text="Percent of normal traffic that keeps the backup warm, 0 to 5.",
    )
    window_start = models.TimeField(
        null=True, blank=True, help_text="When failback and drills may begin, in the time zone below; empty: always."
    )
    window_seconds = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(600), MaxValueValidator(86_400)]
    )
    window_weekdays = models.JSONField(default=list, blank=True, help_text='Such as ["mon", "tue"]; empty: every day.')
    time_zone = models.CharField(max_length=64, default="UTC", validators=[validate_time_zone])
    drill_every_days = models.PositiveSmallIntegerField(
        default=0, validators=[MaxValueValidator(90)], help_text="0: only by hand."
    )
    drill_percent = models.PositiveSmallIntegerField(
        default=2, validators=[MinValueValidator(1), MaxValueValidator(5)], help_text="Of traffic, 1 to 5."
    )
    drill_minutes = models.PositiveSmallIntegerField(
        default=15, validators=[MinValueValidator(1), MaxValueValidator(120)]
    )
    parity_paths = models.JSONField(
        default=list,
        blank=True,
        help_text="Paths, at least five, that must answer alike through every CDN, such as /, /robots.txt.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "steering_terms"
        ordering = ["service_id"]
        verbose_name_plural = "steering terms"
        constraints = [
            models.CheckConstraint(condition=Q(standing_percent__lte=5), name="steering_terms_standing_range"),
            models.CheckConstraint(
                condition=Q(drill_percent__gte=1, drill_percent__lte=5), name="steering_terms_drill_range"
            ),
        ]

    def __str__(self) -> str:
        return f"steering of {self.service}"

    def clean(self) -> None:
        errors = {}
        if self.service_id:
            self.customer_id = self.service.customer_id
        if (self.window_start is None) != (self.window_seconds is None):
            errors["window_seconds"] = "A window has a start and a length; leave both empty for always."
        if self.failback == self.Failback.WINDOW and self.window_start is None:
            errors["window_start"] = "Failback in its window needs a window."
        known = {day.value for day in maintenance.WEEK}
        if not isinstance(self.window_weekdays, list) or not set(self.window_weekdays) <= known:
            errors["window_weekdays"] = f"Choose from {', '.join(sorted(known))}."
        paths = self.parity_paths
        if not isinstance(paths, list) or not all(isinstance(p, str) and p.startswith("/") for p in paths):
            errors["parity_paths"] = "A list of paths that begin with a slash."
        elif paths and not parity.FEWEST_PATHS <= len(paths) <= parity.MOST_PATHS:
            errors["parity_paths"] = "Five paths at least say something, and at most 20; or leave it empty."
        if errors:
            raise ValidationError(errors)

    def is_window_open(self, now: datetime) -> bool:
        if self.window_start is None or self.window_seconds is None:
            return True
        window = maintenance.Window(
            first_day=self.created_at.date().replace(year=2020, month=1, day=1),
            local_time=self.window_start,
            time_zone=self.time_zone,
            duration_seconds=self.window_seconds,
            recurrence=maintenance.Recurrence.WEEKLY if self.window_weekdays else maintenance.Recurrence.DAILY,
            weekdays=frozenset(maintenance.Weekday(day) for day in self.window_weekdays),
        )
        return maintenance.covers(window, now)
