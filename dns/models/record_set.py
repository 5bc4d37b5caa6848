"""The weighted record set of one domain: where it stands, what it was given, what was seen."""

from __future__ import annotations

import ipaddress

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from customers.models import Customer
from dns.models.account import DnsAccount
from services.models import ServiceDomain

LONGEST_TTL_SECONDS = 300
ALIASABLE = (".cloudfront.net", ".awsglobalaccelerator.com")
"""Names that Route 53 serves as an alias, at an apex too."""


ACCOUNT_CHECKS = ("permissions", "account", "zone")
"""Lines of the check list whose text may be a vendor's own words about the account."""


class RecordSetQuerySet(models.QuerySet["RecordSet"]):
    def live(self) -> RecordSetQuerySet:
        """Those that are steered: neither released nor of something deleted."""
        return self.filter(
            released_at__isnull=True, domain__deleted_at__isnull=True, domain__service__deleted_at__isnull=True
        )


class RecordSet(models.Model):
    """The weighted record set that Tranche owns for one domain. Without this row a domain is watched, never steered."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    domain = models.OneToOneField(ServiceDomain, models.PROTECT, related_name="record_set")
    account = models.ForeignKey(DnsAccount, models.PROTECT, related_name="record_sets")
    zone = models.CharField(max_length=253, blank=True, help_text="The zone's name; empty until it was found.")
    zone_id = models.CharField(max_length=64, blank=True, editable=False)
    ttl_seconds = models.PositiveIntegerField(
        default=30,
        validators=[MinValueValidator(1), MaxValueValidator(LONGEST_TTL_SECONDS)],
        help_text="At most 60 to be armed: a longer TTL makes failover useless.",
    )
    apex_addresses = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        help_text="Where the hostname is its zone’s apex and no CNAME may stand: fixed addresses by the path’s name, "
        'such as {"edge.cdn.example": ["192.0.2.1", "2001:db8::1"]}. CloudFront needs none.',
    )
    data_plane = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Route 53 only: a health check on our beacon shifts traffic without a call to its API.",
    )
    health_check_id = models.CharField(max_length=64, blank=True, default="", db_default="", editable=False)
    is_shifted = models.BooleanField(default=False, db_default=False, editable=False, help_text="What the beacon says.")
    is_restless = models.BooleanField(
        default=True, db_default=True, editable=False, help_text="Planned at every tick: something is under way."
    )
    generation = models.PositiveBigIntegerField(default=0, editable=False)
    written = models.JSONField(
        default=dict, db_default={}, editable=False, help_text="Target by lane, of every lane that was ever written."
    )
    observed_weights = models.JSONField(default=dict, editable=False, help_text="Percent by target id, as DNS answers.")
    observed_generation = models.PositiveBigIntegerField(default=0, editable=False)
    observed_at = models.DateTimeField(null=True, editable=False)
    observation = models.CharField(max_length=300, blank=True, editable=False)
    looked_at = models.DateTimeField(null=True, editable=False)
    next_look_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    drifted_since = models.DateTimeField(null=True, blank=True, editable=False)
    reasserted = models.PositiveSmallIntegerField(
        default=0, db_default=0, editable=False, help_text="How often the newest plan was written over a person’s edit."
    )
    is_held = models.BooleanField(
        default=False, db_default=False, editable=False, help_text="A person edits it; nothing is written by itself."
    )
    checks = models.JSONField(default=list, db_default=[], editable=False, help_text="The onboarding check list.")
    checked_at = models.DateTimeField(null=True, editable=False)
    next_check_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    armed_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when every must-have holds."
    )
    unarmed_reason = models.CharField(
        max_length=300, blank=True, default="not checked yet", db_default="not checked yet", editable=False
    )
    released_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="When its records were given back; since then it is only watched.",
    )
    arms_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When the TTL that stood there before has run out everywhere."
    )

    objects = RecordSetQuerySet.as_manager()

    class Meta:
        db_table = "record_sets"
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=Q(ttl_seconds__gte=1, ttl_seconds__lte=300), name="record_sets_ttl_range")
        ]
        indexes = [
            models.Index(fields=["domain"], condition=Q(is_restless=True), name="record_sets_restless"),
            models.Index(fields=["next_look_at"], name="record_sets_next_look"),
            models.Index(fields=["next_check_at"], name="record_sets_next_check"),
        ]

    def __str__(self) -> str:
        return f"{self.domain} at {self.account}"

    def for_customer(self, reason: str) -> str:
        """What a vendor says about an account that customers share names others' zones and our roles: they get a word for
        it. `reason` is “check: text”.
        """
        check, _, _ = reason.partition(":")
        is_theirs = self.account.customer_id == self.customer_id or check not in ACCOUNT_CHECKS
        return reason if is_theirs else f"{check}: our DNS account is in trouble with it; we have been told"

    def has_apex_form(self, targets: list[str]) -> bool:
        """Whether each of these paths has a form that may stand at an apex: fixed addresses, or the vendor's alias."""
        return bool(targets) and all(
            self.apex_addresses.get(target) or target.rstrip(".").lower().endswith(ALIASABLE) for target in targets
        )

    def clean(self) -> None:
        errors = {}
        if self.domain_id:
            self.customer_id = self.domain.customer_id
        if self.account_id and self.customer_id and self.account.customer_id not in (None, self.customer_id):
            errors["account"] = (
                "This account is another customer’s: choose one of the domain’s customer, or a shared one."
            )
        if problem := _apex_problem(self.apex_addresses):
            errors["apex_addresses"] = problem
        if errors:
            raise ValidationError(errors)


def _apex_problem(addresses: object) -> str:
    """What is wrong with these as addresses by the path's name, and how it is written; "" for what is right."""
    if not isinstance(addresses, dict):
        return (
            'Write an object: each path’s name with its list of addresses, such as {"edge.cdn.example": ["192.0.2.1"]}.'
        )
    for name, listed in addresses.items():
        if not isinstance(listed, list) or not listed:
            return f'{name}: give a list of addresses, such as ["192.0.2.1"], or leave the name out.'
        for address in listed:
            try:
                ipaddress.ip_address(address if isinstance(address, str) else "")
            except ValueError:
                return f"{name}: {address!r} is no IP address; CDN names belong before the colon."
    return ""
