"""Invoices and credit notes, their lines and their numbers; what was paid, and what is disputed."""

from __future__ import annotations

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from billing.models.terms import CURRENCIES, Contract, Prices
from customers.models import Customer
from services.models import Service


class InvoiceCounter(models.Model):
    """The last number issued of a series; locked inside the transaction that finalizes, so numbers have no gaps."""

    series = models.CharField(max_length=20, primary_key=True)
    last_number = models.PositiveBigIntegerField(default=0)

    class Meta:
        db_table = "invoice_counters"

    def __str__(self) -> str:
        return self.series


class InvoiceQuerySet(models.QuerySet["Invoice"]):
    def drafts(self) -> InvoiceQuerySet:
        return self.filter(state=Invoice.State.DRAFT)

    def final(self) -> InvoiceQuerySet:
        """Issued, and not taken back."""
        return self.exclude(state__in=[Invoice.State.DRAFT, Invoice.State.VOID])


class Invoice(models.Model):
    """One month of one customer under one set of terms, or a credit note.

    A draft is recomputed whole; once finalized, the database refuses every change of its money. A month in which terms
    change has an invoice for each part.
    """

    class State(models.TextChoices):
        DRAFT = "draft"
        OPEN = "open", "finalized, to be paid"
        PAID = "paid"
        VOID = "void"
        UNCOLLECTIBLE = "uncollectible"

    class Kind(models.TextChoices):
        INVOICE = "invoice"
        CREDIT_NOTE = "credit_note", "credit note"

    class Reason(models.TextChoices):
        """Why a credit note was written."""

        LATE_USAGE = "late_usage", "late or corrected usage"
        COVER = "cover", "cover beyond the charges"
        BILLING_ERROR = "billing_error", "billing error"
        DISPUTE = "dispute", "dispute settled"
        GOODWILL = "goodwill"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="invoices")
    contract = models.ForeignKey(Contract, models.PROTECT, related_name="invoices")
    prices = models.ForeignKey(Prices, models.PROTECT, related_name="invoices")
    kind = models.CharField(max_length=12, choices=Kind, default=Kind.INVOICE)
    state = models.CharField(max_length=15, choices=State, default=State.DRAFT)
    number = models.CharField(max_length=30, null=True, blank=True, unique=True)
    corrects = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="corrections",
        help_text="Of a credit note: the invoice.",
    )
    reason = models.CharField(max_length=20, choices=Reason, blank=True)
    currency = models.CharField(max_length=3, choices=CURRENCIES)
    time_zone = models.CharField(max_length=64, default="UTC")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    as_of = models.DateTimeField(help_text="Usage and storms were read as they stood then.")
    subtotal_minor = models.BigIntegerField(default=0)
    discount_minor = models.BigIntegerField(default=0)
    tax_minor = models.BigIntegerField(default=0)
    total_minor = models.BigIntegerField(default=0)
    paid_minor = models.BigIntegerField(default=0, help_text="The sum of its payments.")
    credited_minor = models.BigIntegerField(default=0, help_text="The sum of its credit notes.")
    parties = models.JSONField(
        default=dict, db_default={}, help_text="Who bills whom, as they were called when it was issued."
    )
    formula = models.CharField(max_length=30)
    inputs = models.JSONField(
        default=dict, help_text="The document that was rated: `manage.py rate` gives the same usage and cover lines."
    )
    extras = models.JSONField(
        default=dict, help_text="What else it follows from: fees, requests, commitment, taxes, corrections."
    )
    decisions = models.JSONField(
        default=dict, help_text="Which storms pay and which don't, from when to when, and why."
    )
    covered_cost = models.DecimalField(
        max_digits=38, decimal_places=12, default=0,
        help_text="Of covered backup traffic in major units, before any limit: what the tranches of a policy year count.",
    )  # fmt: skip
    cover_used = models.JSONField(
        default=dict, help_text="By service, microseconds of cover: what the aggregate of a policy year counts."
    )
    taxes = models.JSONField(default=list, help_text="By category and rate: the sum that is taxed, and the tax.")
    problem = models.CharField(max_length=300, blank=True, help_text="Why it can't be issued as it stands.")
    sha256 = models.CharField(max_length=64, blank=True, help_text="Of all that it says, in canonical JSON.")
    created_at = models.DateTimeField(default=timezone.now)
    finalized_at = models.DateTimeField(null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(null=True, blank=True, help_text="When it was paid, voided or given up.")
    state_reason = models.CharField(max_length=300, blank=True)
    stale_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When usage of its period changed after it was issued."
    )
    reminders = models.PositiveSmallIntegerField(default=0, help_text="How often its payment was asked for.")

    objects = InvoiceQuerySet.as_manager()

    class Meta:
        db_table = "invoices"
        ordering = ["-period_start", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["customer", "period_start", "period_end", "currency"],
                condition=Q(kind="invoice") & ~Q(state="void"),
                name="invoices_one_per_period",
            ),
            models.CheckConstraint(
                condition=Q(total_minor=F("subtotal_minor") - F("discount_minor") + F("tax_minor")),
                name="invoices_total_adds_up",
            ),
            models.CheckConstraint(
                condition=Q(
                    subtotal_minor__gte=0, discount_minor__gte=0, tax_minor__gte=0, total_minor__gte=0,
                    paid_minor__gte=0, credited_minor__gte=0,
                ),
                name="invoices_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(kind="invoice", corrects__isnull=True, reason="")
                | Q(kind="credit_note", corrects__isnull=False) & ~Q(reason=""),
                name="invoices_credit_notes_correct",
            ),
            models.CheckConstraint(
                condition=Q(state="draft", number__isnull=True, finalized_at__isnull=True)
                | Q(number__isnull=False, finalized_at__isnull=False) & ~Q(state="draft"),
                name="invoices_number_when_final",
            ),
        ]  # fmt: skip
        indexes = [
            models.Index(fields=["state", "period_end"], condition=Q(state="draft"), name="invoices_drafts"),
            models.Index(fields=["state", "due_at"], condition=Q(state="open"), name="invoices_due"),
            models.Index(fields=["stale_at"], condition=Q(stale_at__isnull=False), name="invoices_stale"),
        ]

    def __str__(self) -> str:
        return self.number or f"draft {self.pk}"

    @property
    def due_minor(self) -> int:
        """What is still to be paid. A credit note that was issued is never due."""
        if self.kind == self.Kind.CREDIT_NOTE or self.state in (self.State.VOID, self.State.UNCOLLECTIBLE):
            return 0
        return max(self.total_minor - self.paid_minor - self.credited_minor, 0)


class InvoiceLineItem(models.Model):
    """One rounded amount with its arithmetic. Cover lines add up to the discount, all others to the subtotal."""

    class Kind(models.TextChoices):
        USAGE = "usage"
        REQUESTS = "requests"
        MINIMUM = "minimum", "minimum commitment"
        FIXED_FEE = "fixed_fee", "fixed fee"
        PREMIUM = "premium"
        CORRECTION = "correction"
        COVER = "cover", "storm cover"
        CREDIT = "credit"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="+")
    invoice = models.ForeignKey(Invoice, models.CASCADE, related_name="lines")
    position = models.PositiveIntegerField()
    kind = models.CharField(max_length=10, choices=Kind)
    service = models.ForeignKey(Service, models.PROTECT, null=True, blank=True, related_name="+")
    path = models.CharField(max_length=10, blank=True, choices=[("primary", "primary"), ("backup", "backup")])
    cdn = models.SlugField(blank=True, verbose_name="CDN", help_text="Where it has a price of its own.")
    description = models.CharField(max_length=300)
    bytes = models.BigIntegerField(default=0)
    amount_minor = models.BigIntegerField()
    tax_category = models.CharField(max_length=10, blank=True)
    claim = DateTimeRangeField(
        null=True,
        blank=True,
        help_text="The usage that it bills, by time. No two lines can bill the same; void ones none.",
    )
    corrects = models.ForeignKey("self", models.PROTECT, null=True, blank=True, related_name="corrections")
    details = models.JSONField(help_text="How the amount follows: units, rates, storms and the versions used.")

    class Meta:
        db_table = "invoice_line_items"
        ordering = ["invoice_id", "position"]
        constraints = [
            models.UniqueConstraint(fields=["invoice", "position"], name="invoice_line_items_position_unique"),
            models.CheckConstraint(condition=Q(amount_minor__gte=0), name="invoice_line_items_not_negative"),
            models.CheckConstraint(
                condition=Q(claim__isnull=True) | Q(service__isnull=False), name="invoice_line_items_claim_of_service"
            ),
            ExclusionConstraint(
                name="invoice_line_items_one_claim",
                expressions=[
                    ("service", RangeOperators.EQUAL),
                    ("path", RangeOperators.EQUAL),
                    ("cdn", RangeOperators.EQUAL),
                    ("claim", RangeOperators.OVERLAPS),
                ],
                condition=Q(claim__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.description


class Payment(models.Model):
    """Money that came in for one invoice. What is recorded stays; a mistake is a person's to settle by credit note."""

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="payments", editable=False)
    invoice = models.ForeignKey(Invoice, models.PROTECT, related_name="payments")
    amount_minor = models.BigIntegerField()
    reference = models.CharField(
        max_length=100, help_text="The bank's or the payment provider's; the same twice counts once."
    )
    received_at = models.DateTimeField(default=timezone.now)
    recorded_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "payments"
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="payments_positive"),
            models.UniqueConstraint(fields=["customer", "reference"], name="payments_reference_unique"),
        ]

    def __str__(self) -> str:
        return self.reference


class Dispute(models.Model):
    """A customer's objection to one line, and what became of it."""

    class State(models.TextChoices):
        OPEN = "open"
        ACCEPTED = "accepted"
        REJECTED = "rejected"
        WITHDRAWN = "withdrawn"

    customer = models.ForeignKey(Customer, models.PROTECT, related_name="disputes", editable=False)
    line = models.ForeignKey(InvoiceLineItem, models.PROTECT, related_name="disputes")
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    reason = models.TextField(max_length=2000)
    opened_by = models.CharField(max_length=150)
    opened_at = models.DateTimeField(default=timezone.now)
    answer = models.TextField(max_length=2000, blank=True)
    answered_by = models.CharField(max_length=150, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)
    credit_note = models.ForeignKey(Invoice, models.PROTECT, null=True, blank=True, related_name="disputes")

    class Meta:
        db_table = "disputes"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["line"], condition=Q(state="open"), name="disputes_one_open",
                violation_error_message="This line has an open dispute.",
            )
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"dispute {self.pk}: {self.line}"


class SpendAlert(models.Model):
    """An event when the month's spend passes an amount, once a month."""

    customer = models.ForeignKey(Customer, models.CASCADE, related_name="spend_alerts")
    threshold_minor = models.BigIntegerField(help_text="In the minor unit of the contract's currency, such as cents.")
    fired_for = models.DateTimeField(null=True, blank=True, editable=False, help_text="The month it fired for last.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        db_table = "spend_alerts"
        ordering = ["customer_id", "threshold_minor"]
        constraints = [
            models.CheckConstraint(condition=Q(threshold_minor__gt=0), name="spend_alerts_positive"),
            models.UniqueConstraint(fields=["customer", "threshold_minor"], name="spend_alerts_unique"),
        ]

    def __str__(self) -> str:
        return f"above {self.threshold_minor}"
