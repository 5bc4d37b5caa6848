"""Places where CDNs leave their logs, APIs of theirs that estimate, and the files found in those places."""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils import timezone

from billing import logs
from billing.sources import VENDORS, Access
from customers.models import Customer
from dns.models import DnsAccount
from services.models import Cdn
from tranche_site.floor import sealed

_WHOLE_LISTING = timedelta(days=1)
_LEAST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 60, 3600
_SHARE = re.compile(r"0?\.\d{1,9}|1(\.0{1,9})?", re.ASCII)
_SECRET_WORDS = ("secret", "password", "token", "api_key", "access_key")


class UsageSourceQuerySet(models.QuerySet["UsageSource"]):
    def logs(self) -> UsageSourceQuerySet:
        return self.filter(kind__in=UsageSource.LOG_KINDS)

    def estimates(self) -> UsageSourceQuerySet:
        return self.filter(kind__in=UsageSource.ESTIMATE_KINDS)


class UsageSource(models.Model):
    """Where usage of one CDN is read: a place of its logs, or an API that estimates. A role where there is one; else
    credentials, whose secret is sealed and never shown."""

    class Kind(models.TextChoices):
        DIRECTORY = "directory"
        S3 = "s3", "S3 or compatible"
        BUNNY = "bunny", "Bunny’s logging API"
        CLOUDFLARE_GRAPHQL = "cloudflare_graphql", "Cloudflare’s GraphQL analytics (estimate)"
        FASTLY_STATS = "fastly_stats", "Fastly’s stats (estimate)"

    LOG_KINDS = (Kind.DIRECTORY.value, Kind.S3.value, Kind.BUNNY.value)
    ESTIMATE_KINDS = (Kind.CLOUDFLARE_GRAPHQL.value, Kind.FASTLY_STATS.value)

    customer = models.ForeignKey(
        Customer, models.PROTECT, null=True, blank=True, related_name="usage_sources",
        help_text="Hosts of other customers in its logs are quarantined. Empty: logs of many customers.",
    )  # fmt: skip
    name = models.CharField(max_length=100, unique=True)
    cdn = models.ForeignKey(Cdn, models.PROTECT, related_name="usage_sources", verbose_name="CDN")
    kind = models.CharField(max_length=20, choices=Kind)
    format = models.CharField(
        max_length=30,
        blank=True,
        choices=[(name, name) for name in logs.FORMATS],
        help_text="Of logs; empty for estimates.",
    )
    location = models.CharField(
        max_length=500,
        blank=True,
        help_text="A directory (/var/log/cdn), bucket and prefix (my-logs/cloudflare/), or Bunny’s pull zone (60367).",
    )
    endpoint_url = models.URLField(blank=True, help_text="For S3-compatible stores; empty for the vendor’s own.")
    role_arn = models.CharField(
        "role ARN",
        max_length=700,
        blank=True,
        default="",
        db_default="",
        help_text="A role that trusts this server, better than any key: arn:aws:iam::123456789012:role/tranche-logs.",
    )
    external_id = models.CharField(
        "external ID",
        max_length=1224,
        blank=True,
        default="",
        db_default="",
        help_text="What the role’s trust must ask for. Empty: one is made.",
    )
    access_key_id = models.CharField("access key ID", max_length=128, blank=True, default="", db_default="")
    sealed_credentials = models.TextField(blank=True, default="", db_default="", editable=False)
    options = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        help_text='The kind’s own, nothing secret: {"zones": {"<zone ID>": "example.com"}} for Cloudflare, {"service_ids": '
        '{"<service ID>": "www.example.com"}} for Fastly; of logs {"sample_rate": "0.1"} and {"fields": {…}}.',
    )
    enabled = models.BooleanField(default=True)
    cursor = models.TextField(
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="The last key that was listed, or up to when an API was asked.",
    )
    listed_at = models.DateTimeField(null=True, blank=True, editable=False)
    listed_whole_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When all of it was listed, and not what is new alone."
    )
    next_look_at = models.DateTimeField(null=True, blank=True, editable=False, help_text="Of APIs that limit calls.")
    newest_usage_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="The newest minute that was counted."
    )
    last_error = models.CharField(max_length=500, blank=True, editable=False)
    note = models.CharField(
        max_length=500, blank=True, default="", db_default="", editable=False, help_text="What was left out, and why."
    )

    objects = UsageSourceQuerySet.as_manager()

    class Meta:
        db_table = "usage_sources"
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["directory", "s3", "bunny"]) & ~Q(format="")
                | Q(kind__in=["cloudflare_graphql", "fastly_stats"], format=""),
                name="usage_sources_format_of_logs",
                violation_error_message="Logs have a format, and estimates have none.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    # --- credentials ---

    @property
    def credentials_aad(self) -> str:
        """Binds the sealed text to this row: swapped with another's it can't be opened."""
        return f"usage_source:{self.pk}:credentials"

    def seal(self, secret: str) -> None:
        """Keep this secret, encrypted; "" forgets it. The row must have been saved before."""
        if self.pk is None:
            raise ValueError("save the source before its secret: it is bound to its row")
        self.sealed_credentials = sealed.seal({"secret": secret}, self.credentials_aad) if secret else ""

    def secret(self) -> str:
        """Raises SealedError."""
        if not self.sealed_credentials:
            return ""
        return str(sealed.open_sealed(self.sealed_credentials, self.credentials_aad).get("secret", ""))

    def access(self, secret: str = "") -> Access:
        return Access(
            location=self.location,
            endpoint_url=self.endpoint_url,
            options=self.options,
            role_arn=self.role_arn,
            external_id=self.external_id,
            access_key_id=self.access_key_id,
            secret=secret,
        )

    # --- what it says of its logs ---

    @property
    def sample_rate(self) -> Fraction:
        """The share of requests that is logged: what is counted is this part of what there was."""
        return _share(self.options.get("sample_rate", "1")) or Fraction(1)

    @property
    def field_names(self) -> dict[str, str | None]:
        """What the log's fields are called, by what they mean, where the format leaves that open."""
        return dict(self.options.get("fields") or {})

    # --- when it is looked at ---

    def lag(self, now: datetime) -> timedelta | None:
        """How far behind its newest usage is."""
        return now - self.newest_usage_at if self.newest_usage_at else None

    def listing_since(self, now: datetime) -> datetime | None:
        """Since when a listing need go; None once a day, since names of files may mislead."""
        is_whole_due = self.listed_whole_at is None or now - self.listed_whole_at >= _WHOLE_LISTING
        return None if is_whole_due else self.listed_at

    def claim_look(self, now: datetime) -> bool:
        """Whether it is due and nobody else has come first; only vendors that limit calls keep anybody waiting."""
        every = VENDORS[self.kind].every_seconds
        if not every:
            return True
        due = UsageSource.objects.filter(Q(next_look_at=None) | Q(next_look_at__lte=now), pk=self.pk)
        return due.update(next_look_at=now + timedelta(seconds=every)) == 1

    def put_off(self, now: datetime, seconds: int) -> None:
        """Ask again after so many seconds, as the vendor wants it, or soon."""
        if VENDORS[self.kind].every_seconds:
            pause = timedelta(seconds=min(max(seconds, _LEAST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS))
            UsageSource.objects.filter(pk=self.pk).update(next_look_at=now + pause)

    # --- what people type ---

    def clean(self) -> None:
        vendor = VENDORS.get(self.kind)
        if vendor is None:
            return
        self.options = {} if self.options in (None, "") else self.options
        if not isinstance(self.options, dict):
            raise ValidationError({"options": 'Write an object, such as {"sample_rate": "0.1"}.'})
        if self.role_arn and not self.external_id and "role_arn" in vendor.fields:
            self.external_id = secrets.token_urlsafe(24)
        errors: dict[str, list[str]] = defaultdict(list)
        title = self.get_kind_display()
        for name in ("location", "endpoint_url", "role_arn", "external_id", "access_key_id"):
            if getattr(self, name) and name not in vendor.fields:
                errors[name].append(f"“{title}” has none: leave it empty.")
        if vendor.place and not self.format:
            errors["format"].append("Choose the format of the logs.")
        if vendor.estimator and self.format:
            errors["format"].append(f"“{title}” reads no logs: leave it empty.")
        errors["options"] += self._option_problems(vendor.options)
        for field, text in vendor.problems(self.access()):
            errors[field].append(text)
        if not any(errors.values()) and self.role_arn and self._is_anothers_external_id():
            errors["external_id"].append("Another customer’s account has this one: leave it empty, and one is made.")
        if errors := {field: texts for field, texts in errors.items() if texts}:
            raise ValidationError(errors)

    def _option_problems(self, known: tuple[str, ...]) -> list[str]:
        found = []
        for name in self.options:
            if any(word in name.lower() for word in _SECRET_WORDS):
                found.append(f"{name[:60]}: secrets are not kept here: set it as the secret, which is sealed.")
            elif name not in known:
                found.append(f"{name[:60]}: nothing is called so here; there is {' and '.join(known)}.")
        if "sample_rate" in known and "sample_rate" in self.options and not _share(self.options["sample_rate"]):
            found.append('sample_rate: write a number above 0 and at most 1, in quotes, such as "0.1".')
        if "fields" in known and "fields" in self.options and self.format in logs.FORMATS:
            if not isinstance(self.options["fields"], dict):
                found.append('fields: write an object, such as {"host": "req_host", "bytes": "resp_bytes", …}.')
            else:
                try:
                    logs.FORMATS[self.format].with_fields(self.options["fields"])
                except ValueError as error:
                    found.append(f"fields: {error}")
        return found

    def _is_anothers_external_id(self) -> bool:
        """Whoever may have us come with another customer's id could have us come to that customer's role."""
        sources = UsageSource.objects.filter(external_id=self.external_id).exclude(pk=self.pk)
        accounts = DnsAccount.objects.filter(options__external_id=self.external_id)
        if self.customer_id is None:
            return sources.filter(customer__isnull=False).exists() or accounts.filter(customer__isnull=False).exists()
        others = ~Q(customer=self.customer_id) | Q(customer__isnull=True)
        return sources.filter(others).exists() or accounts.filter(others).exists()


def _share(value: Any) -> Fraction | None:
    """Exact, above 0 and at most 1; None if it is anything else, such as a power of ten that fills the memory."""
    is_plain = isinstance(value, str) and _SHARE.fullmatch(value) is not None
    return Fraction(value) or None if is_plain else None


class LogObject(models.Model):
    """One log file as it was delivered. The same object twice counts once; a changed object replaces what it had counted."""

    class State(models.TextChoices):
        COUNTED = "counted"
        RETRY = "retry", "failed, to be tried again"
        QUARANTINED = "quarantined"
        REPLACED = "replaced", "replaced by a later delivery"

    source = models.ForeignKey(UsageSource, models.PROTECT, related_name="objects_read")
    key = models.CharField(max_length=1024)
    etag = models.CharField(max_length=128)
    size_bytes = models.BigIntegerField()
    state = models.CharField(max_length=12, choices=State)
    attempts = models.PositiveSmallIntegerField(default=0)
    rows = models.BigIntegerField(default=0, help_text="Data rows read, counted or bad.")
    bad_rows = models.BigIntegerField(default=0)
    excluded_rows = models.BigIntegerField(
        default=0, db_default=0, help_text="Good, but by the format's rule no visit."
    )
    duplicate_rows = models.BigIntegerField(default=0, db_default=0)
    sha256 = models.CharField(max_length=64, blank=True, default="", db_default="", help_text="Of what was delivered.")
    merged_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When its minutes went into quarters of an hour, for good."
    )
    bad = models.JSONField(default=list, help_text="The first bad rows, with line and reason.")
    reason = models.TextField(blank=True)
    first_seen_at = models.DateTimeField(default=timezone.now)
    processed_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "log_objects"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["source", "key", "etag"], name="log_objects_unique"),
            models.UniqueConstraint(
                fields=["source", "key"], condition=Q(state="counted"), name="log_objects_one_counted"
            ),
        ]
        indexes = [models.Index(fields=["-id"], condition=Q(state="quarantined"), name="log_objects_quarantined")]

    def __str__(self) -> str:
        return self.key
