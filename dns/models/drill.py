"""Rehearsals: a small share of traffic to the backup, for some minutes, and what came of it."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from customers.models import Customer
from services.models import Service


class Drill(models.Model):
    class State(models.TextChoices):
        SCHEDULED = "scheduled"
        RUNNING = "running"
        PASSED = "passed"
        FAILED = "failed"
        CANCELLED = "cancelled"

    OPEN = (State.SCHEDULED, State.RUNNING)

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="drills")
    state = models.CharField(max_length=10, choices=State, default=State.SCHEDULED)
    percent = models.PositiveSmallIntegerField(
        default=2, validators=[MinValueValidator(1), MaxValueValidator(5)], help_text="Of traffic, 1 to 5."
    )
    minutes = models.PositiveSmallIntegerField(default=15, validators=[MinValueValidator(1), MaxValueValidator(120)])
    scheduled_at = models.DateTimeField(default=timezone.now, help_text="Not before this time (UTC).")
    started_at = models.DateTimeField(null=True, blank=True)
    observed_at = models.DateTimeField(null=True, blank=True, help_text="When DNS was seen to send the share.")
    ended_at = models.DateTimeField(null=True, blank=True)
    outcome = models.TextField(blank=True, help_text="What was seen, or what it waits for.")
    created_by = models.ForeignKey(User, models.PROTECT, null=True, blank=True, editable=False, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "drills"
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(percent__gte=1, percent__lte=5), name="drills_percent_range"),
            models.UniqueConstraint(
                fields=["service"],
                condition=Q(state__in=["scheduled", "running"]),
                name="drills_one_open",
                violation_error_message="This service has a drill that is not over.",
            ),
        ]

    def __str__(self) -> str:
        return f"drill of {self.service}: {self.percent} % for {self.minutes} min"

    def clean(self) -> None:
        if self.service_id:
            self.customer_id = self.service.customer_id
