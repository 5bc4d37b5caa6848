"""Hostnames of services, and the proof that their owner is who says so."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Lower, Now
from django.utils import timezone

from customers.models import Customer
from services import hostnames
from services.models.service import Service


class ServiceDomainQuerySet(models.QuerySet["ServiceDomain"]):
    def live(self) -> ServiceDomainQuerySet:
        return self.filter(deleted_at__isnull=True, service__deleted_at__isnull=True)

    def verified(self) -> ServiceDomainQuerySet:
        return self.live().filter(verified_at__isnull=False)

    def with_contest(self) -> ServiceDomainQuerySet:
        """Tells of each whether another account's token stands beside its own, without a query a row."""
        return self.annotate(contested=Exists(self.model.objects.contenders().filter(hostname=OuterRef("hostname"))))

    def contenders(self) -> ServiceDomainQuerySet:
        """Claims whose token is in DNS while another account holds the proof."""
        return self.live().filter(verified_at__isnull=True, contested_since__isnull=False)


LONGEST_NAME = 253
"""Of a name in DNS; that of a domain's TXT record is longer than its own."""
CHALLENGE_LIFE = timedelta(days=30)
"""How long a token may wait to be published."""
PROOF_GRACE = timedelta(days=3)
"""How long a verified domain's token may be gone before nothing new is written for it."""


def new_challenge() -> str:
    """A 160-bit token, in the alphabet that survives DNS tools."""
    return secrets.token_hex(20)


class ServiceDomain(models.Model):
    """One hostname of a service. A claim blocks nobody; only a verified hostname is unique among all customers."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    service = models.ForeignKey(Service, models.PROTECT, related_name="domains")
    hostname = models.CharField(max_length=253, validators=[hostnames.validate])
    challenge = models.CharField(max_length=64, default=new_challenge, editable=False)
    challenge_issued_at = models.DateTimeField(default=timezone.now, db_default=Now(), editable=False)
    verified_at = models.DateTimeField(null=True, blank=True, editable=False)
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    check_result = models.CharField(max_length=300, blank=True, editable=False)
    lost_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when the token of a verified domain is gone."
    )
    contested_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when another account shows its token beside this one's."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ServiceDomainQuerySet.as_manager()

    class Meta:
        db_table = "service_domains"
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["hostname"],
                condition=Q(deleted_at__isnull=True, verified_at__isnull=False),
                name="service_domains_verified_hostname_unique",
                violation_error_message="This hostname is verified for another service.",
            ),
            models.UniqueConstraint(
                fields=["customer", "hostname"],
                condition=Q(deleted_at__isnull=True),
                name="service_domains_claim_unique",
                violation_error_message="This customer has this hostname already.",
            ),
            models.CheckConstraint(condition=Q(hostname=Lower("hostname")), name="service_domains_hostname_lower"),
        ]

    def __str__(self) -> str:
        return self.hostname

    @property
    def challenge_name(self) -> str:
        return f"_tranche-challenge.{self.hostname}"

    @property
    def challenge_value(self) -> str:
        return f"token={self.challenge}"

    def is_proof_lost(self, now: datetime) -> bool:
        return self.lost_since is not None and now - self.lost_since >= PROOF_GRACE

    @property
    def is_contested(self) -> bool:
        """Whether two accounts show a token for this hostname. Free of queries after `with_contest`."""
        if self.contested_since and not self.verified_at:
            return True
        if self.verified_at is None:
            return False
        if "contested" in self.__dict__:
            return bool(self.__dict__["contested"])
        return ServiceDomain.objects.contenders().filter(hostname=self.hostname).exists()

    def proof_problem(self, now: datetime) -> str:
        """Why nothing new may be written into DNS for it, or ""."""
        if self.verified_at is None:
            return f"{self.hostname} is not verified"
        if self.is_contested:
            return f"another account shows its token for {self.hostname} too"
        if self.is_proof_lost(now):
            return f"the token of {self.hostname} has been gone from DNS since {self.lost_since:%Y-%m-%d %H:%M} UTC"
        return ""

    def proof_state(self, now: datetime) -> str:
        """In one word, as people are shown it."""
        if self.deleted_at:
            return "deleted"
        if self.is_contested:
            return "contested"
        if self.verified_at is None:
            return "not verified"
        if self.lost_since:
            return "lost" if self.is_proof_lost(now) else "missing"
        return "verified"

    def clean(self) -> None:
        self.hostname = hostnames.normalize(self.hostname)
        if self.service_id:
            self.customer_id = self.service.customer_id
        if len(self.challenge_name) > LONGEST_NAME:
            most = LONGEST_NAME - (len(self.challenge_name) - len(self.hostname))
            raise ValidationError({"hostname": f"At most {most} characters: the name of its TXT record is longer."})
        proven = ServiceDomain.objects.verified().filter(hostname=self.hostname)
        if self.verified_at is None and proven.exclude(customer=self.customer_id).exists():
            raise ValidationError({"hostname": "This hostname is proven by another customer."})
        from services.models.target import Target  # which hangs on this one

        ours = Target.objects.filter(role__in=Target.OWN_ROLES, hostname=self.hostname)
        if self._state.adding and (self.hostname in settings.ALLOWED_HOSTS or ours.exists()):
            raise ValidationError({"hostname": "This hostname is ours."})
