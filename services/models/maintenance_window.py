"""When work is done on a service or a CDN."""

from __future__ import annotations

import logging
from datetime import date, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfoNotFoundError, available_timezones

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from customers.models import Customer
from services import maintenance
from services.models.cdn import Cdn
from services.models.service import Service

if TYPE_CHECKING:
    from collections.abc import Collection


logger = logging.getLogger(__name__)

Subject = tuple[Literal["service", "cdn"], int]
"""What a maintenance window is of."""


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
