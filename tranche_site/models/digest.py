"""Digests: what is mailed to one address about one story, and which events it holds."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from customers.models import Customer, Event


class Digest(models.Model):
    """A story as one address is told it: an incident, a customer's events, or what else operations should know.

    `subjects` are those whose story goes on; `is_over` from the moment that none is left until another begins.
    """

    recipient = models.EmailField()
    group = models.CharField(max_length=60, help_text="incident:7, customer:3 or operations.")
    customer = models.ForeignKey(Customer, models.CASCADE, null=True, related_name="+")
    subjects = models.JSONField(default=list)
    is_over = models.BooleanField(default=False)
    opened_at = models.DateTimeField()
    pending_since = models.DateTimeField(null=True, help_text="Since when something is to be told.")
    due_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)
    last_sent_at = models.DateTimeField(null=True)
    last_was_end = models.BooleanField(default=False)
    mails = models.PositiveIntegerField(default=0)
    attempts = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=300, blank=True, default="")
    closed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "digests"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["recipient", "group"], condition=Q(closed_at=None), name="digests_one_open")
        ]
        indexes = [
            models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="digests_due"),
            models.Index(fields=["closed_at"], name="digests_closed"),
        ]

    def __str__(self) -> str:
        return f"{self.group} to {self.recipient}"


class DigestEntry(models.Model):
    """An event in a digest; `mailed_at` once it was in a mail."""

    digest = models.ForeignKey(Digest, models.CASCADE, related_name="entries")
    event = models.ForeignKey(Event, models.CASCADE, related_name="+")
    mailed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "digest_entries"
        ordering = ["id"]
        verbose_name_plural = "digest entries"
        constraints = [models.UniqueConstraint(fields=["digest", "event"], name="digest_entries_once")]
        indexes = [models.Index(fields=["digest", "id"], condition=Q(mailed_at=None), name="digest_entries_unmailed")]

    def __str__(self) -> str:
        return str(self.event)
