"""What happened: the outbox of everything that customers and staff hear of."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from customers import catalogue
from customers.models.customer import Customer
from customers.models.mailed import AwaitsMail


class Event(models.Model):
    """What happened to a customer, written in the transaction in which it happened. `customer` is null for the operator's own."""

    customer = models.ForeignKey(Customer, models.CASCADE, null=True, related_name="events")
    kind = models.CharField(max_length=60)
    subject_type = models.CharField(max_length=40)
    subject_id = models.BigIntegerField()
    summary = models.TextField()
    payload = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)
    processed_at = models.DateTimeField(null=True, blank=True)
    awaits_mail = AwaitsMail(default=False, db_default=False, editable=False)

    class Meta:
        db_table = "events"
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["customer", "-id"], name="events_by_customer"),
            models.Index(fields=["subject_type", "subject_id"], name="events_by_subject"),
            models.Index(fields=["id"], condition=Q(processed_at__isnull=True), name="events_unprocessed"),
            models.Index(fields=["id"], condition=Q(awaits_mail=True), name="events_awaiting_mail"),
        ]

    def __str__(self) -> str:
        return self.summary

    @classmethod
    def about(cls, kind: str, subject: models.Model, summary: str, *, customer_id: int | None, **payload: Any) -> Event:
        """One event about `subject`, not saved yet. Raises ValueError for a kind that is not in the catalogue."""
        if kind not in catalogue.KINDS:
            raise ValueError(f"{kind} is not in customers/catalogue.py")
        return cls(
            customer_id=customer_id,
            kind=kind,
            subject_type=subject._meta.model_name or "",
            subject_id=subject.pk,
            summary=summary,
            payload=payload,
        )

    @classmethod
    def record(
        cls, kind: str, subject: models.Model, summary: str, *, customer_id: int | None, **payload: Any
    ) -> Event:
        """Write one event about `subject`; call it inside the transaction that changes the subject."""
        event = cls.about(kind, subject, summary, customer_id=customer_id, **payload)
        event.save()
        return event
