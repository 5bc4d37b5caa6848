"""Channels that call people, pages (what they are called about), and notices (what was said of a page in a channel)."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.db import models
from django.db.models import Q
from django.utils import timezone

from tranche_site.floor import sealed

SEVERITIES = ("info", "warning", "error", "critical")
"""From the least on; as PagerDuty names them."""
_CHOICES = [(word, word) for word in SEVERITIES]
SUMMARY_CHARACTERS = 1000


class PagingChannelQuerySet(models.QuerySet["PagingChannel"]):
    def enabled(self) -> PagingChannelQuerySet:
        return self.filter(is_enabled=True)


class PagingChannel(models.Model):
    """One way to call people. What the vendor needs for it, an address being a secret too, is sealed."""

    class Kind(models.TextChoices):
        PAGERDUTY = "pagerduty", "PagerDuty"
        OPSGENIE = "opsgenie", "Opsgenie"
        SLACK = "slack", "Slack, or what takes its webhooks"
        EMAIL = "email", "e-mail"

    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=20, choices=Kind)
    minimum_severity = models.CharField(
        max_length=10, choices=_CHOICES, default="warning", help_text="What is less severe is not sent here."
    )
    is_enabled = models.BooleanField("enabled", default=True)
    sealed_credentials = models.TextField(blank=True, default="", editable=False)
    leased_until = models.DateTimeField(
        null=True, editable=False, help_text="One sender at a time, so that a page's notices keep their order."
    )
    trouble = models.CharField(max_length=300, blank=True, default="", editable=False)
    trouble_since = models.DateTimeField(null=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = PagingChannelQuerySet.as_manager()

    class Meta:
        db_table = "paging_channels"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def credentials_aad(self) -> str:
        """Binds the sealed text to this row: swapped with another's it can't be opened."""
        return f"paging_channel:{self.pk}:credentials"

    def seal(self, given: dict[str, Any]) -> None:
        """Keep what the vendor needs, encrypted. The row must have been saved before. Raises SealedError."""
        if self.pk is None:
            raise ValueError("save the channel before its settings: they are bound to its row")
        self.sealed_credentials = sealed.seal(given, self.credentials_aad)

    def settings(self) -> dict[str, Any]:
        """What the vendor needs. Raises SealedError."""
        return sealed.open_sealed(self.sealed_credentials, self.credentials_aad) if self.sealed_credentials else {}

    def takes(self, severity: str) -> bool:
        return SEVERITIES.index(severity) >= SEVERITIES.index(self.minimum_severity)


class PageQuerySet(models.QuerySet["Page"]):
    def open(self) -> PageQuerySet:
        return self.filter(resolved_at=None)

    def unanswered(self) -> PageQuerySet:
        return self.open().filter(acknowledged_at=None)


class Page(models.Model):
    """Something that burns, from when we saw it until it is gone. `key` is its name at vendors, and one is open of each."""

    key = models.CharField(max_length=200)
    severity = models.CharField(max_length=10, choices=_CHOICES)
    summary = models.CharField(max_length=SUMMARY_CHARACTERS)
    path = models.CharField(max_length=300, help_text="The console's page that has the rest.")
    opened_at = models.DateTimeField()
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+")
    resolved_at = models.DateTimeField(null=True, blank=True)
    next_repeat_at = models.DateTimeField()
    repeats = models.PositiveIntegerField(default=0)

    objects = PageQuerySet.as_manager()

    class Meta:
        db_table = "pages"
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["key"], condition=Q(resolved_at=None), name="pages_one_open")]

    def __str__(self) -> str:
        return self.summary

    @property
    def state(self) -> str:
        if self.resolved_at:
            return "over"
        return "acknowledged" if self.acknowledged_at else "burning"

    @property
    def dedup_key(self) -> str:
        """Its name at vendors: the same key burning again is another page, and another incident there."""
        return f"tranche/{self.key}/{self.pk}"


class PageNoticeQuerySet(models.QuerySet["PageNotice"]):
    def pending(self) -> PageNoticeQuerySet:
        return self.filter(state=PageNotice.State.PENDING)


class PageNotice(models.Model):
    """One thing to say of a page in one channel, and what became of it.

    `number` counts the repeats; everything else is said once, whoever asks how often.
    """

    class Action(models.TextChoices):
        TRIGGER = "trigger"
        REPEAT = "repeat"
        ACKNOWLEDGE = "acknowledge"
        RESOLVE = "resolve"

    class State(models.TextChoices):
        PENDING = "pending"
        SENT = "sent"
        FAILED = "failed"
        DROPPED = "dropped", "dropped: overtaken before anybody was told"

    page = models.ForeignKey(Page, models.CASCADE, related_name="notices")
    channel = models.ForeignKey(PagingChannel, models.CASCADE, related_name="notices")
    action = models.CharField(max_length=12, choices=Action)
    number = models.PositiveIntegerField(default=0)
    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=300, blank=True, default="")

    objects = PageNoticeQuerySet.as_manager()

    class Meta:
        db_table = "page_notices"
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["page", "channel", "action", "number"], name="page_notices_once")
        ]
        indexes = [
            models.Index(fields=["channel", "id"], condition=Q(state="pending"), name="page_notices_pending"),
        ]

    def __str__(self) -> str:
        return f"{self.action} in {self.channel}"
