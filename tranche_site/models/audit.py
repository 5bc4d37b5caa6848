"""What was changed, by whom and why: written by triggers, also of raw SQL, and never changed. And the seals upon it."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class AuditEntry(models.Model):
    """One row of one table that was made, changed or deleted. Triggers write it (`tranche_site.audit` says of which tables).

    `changes`: old and new value by column, [null, new] of a row that was made and [old, null] of one that was deleted.
    Secrets are told as changed, without their values.
    """

    class Action(models.TextChoices):
        INSERT = "insert", "made"
        UPDATE = "update", "changed"
        DELETE = "delete", "deleted"

    at = models.DateTimeField(db_default=Now())
    table = models.CharField(max_length=63)
    row_id = models.CharField(max_length=40)
    action = models.CharField(max_length=6, choices=Action)
    changes = models.JSONField()
    actor = models.CharField(
        max_length=150, db_default="", help_text="A person, or a customer's API key; empty: the system by itself."
    )
    reason = models.TextField(db_default="")
    request_id = models.CharField(max_length=64, db_default="")
    database_user = models.CharField(max_length=63, db_default="")

    class Meta:
        db_table = "audit_entries"
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["table", "row_id", "-id"], name="audit_entries_of_a_row"),
            models.Index(fields=["actor", "-id"], name="audit_entries_of_a_person"),
            models.Index(fields=["at"], name="audit_entries_at"),
        ]

    def __str__(self) -> str:
        return f"{self.table} {self.row_id} {self.get_action_display()}"


class AuditSeal(models.Model):
    """A SHA-256 over all entries of [since, until) and the seal before: a row that is changed, added or taken away later,
    by whatever means, no longer gives it. Its text goes to the log as well, so that it can be kept elsewhere."""

    since = models.DateTimeField()
    until = models.DateTimeField(unique=True)
    entries = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    sealed_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "audit_seals"
        ordering = ["-until"]

    def __str__(self) -> str:
        return f"seal to {self.until:%Y-%m-%d %H:%M} UTC"
