"""What a POST with an Idempotency-Key did, so that asking again does nothing and gets the same answer."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from customers.models.customer import Customer


class IdempotentRequest(models.Model):
    """One key of one customer. The row is written in the transaction of the effect: there is never one without the other."""

    customer = models.ForeignKey(Customer, models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of verb, address and body.")
    status = models.PositiveSmallIntegerField(null=True)
    body = models.TextField(default="")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "idempotent_requests"
        constraints = [models.UniqueConstraint(fields=["customer", "key"], name="idempotent_requests_once")]
        indexes = [models.Index(fields=["created_at"], name="idempotent_requests_age")]

    def __str__(self) -> str:
        return self.key
