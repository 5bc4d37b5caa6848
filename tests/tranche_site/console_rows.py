"""One row of every model that the console shows, standing on each other as in production."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from axes.models import AccessAttempt, AccessLog
from django.contrib.auth.models import Group, User
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask

from billing.models import (
    Contract,
    CoverRuling,
    Dispute,
    Invoice,
    InvoiceCounter,
    InvoiceLineItem,
    LogObject,
    Payment,
    SpendAlert,
    UnknownHostUsage,
    UsageBucket,
    UsageEstimate,
    UsageSnapshot,
    UsageSource,
)
from customers.models import DeliveryAttempt, Event, WebhookDelivery, WebhookEndpoint
from dns.models import (
    BreakGlassScript,
    Drill,
    EmbeddedRecord,
    Freeze,
    Pin,
    RecordSet,
    SteeringTerms,
    WeightChange,
    WriteAttempt,
)
from services.models import Service, ServiceDomain, Target
from storms.models import Finding, IncidentEntry, PathVerdict, StormEntry, StormEvent
from tests import factories
from tranche_site.models import AuditSeal, Digest, DigestEntry, Page, PageNotice, PagingChannel, SavedView


def operator(**kw: object) -> User:
    """The same one when asked again."""
    if known := User.objects.filter(username="operator").first():
        return known
    return User.objects.create_superuser("operator", "operator@example.com", "a long enough word", **kw)


def verdict(target: Target, said: str = "UP", **kw: object) -> PathVerdict:
    now = timezone.now()
    return PathVerdict.objects.create(
        **{
            "customer": target.customer,
            "target": target,
            "verdict": said,
            "availability": 1.0 if said == "UP" else 0.25,
            "reason": f"{said} for a test",
            "since": now,
            "evaluated_at": now,
            "newest_good_at": now,
            "certificate_expires_at": now + timedelta(days=40, hours=1),
        }
        | kw
    )


def protected_domain(**kw: object) -> ServiceDomain:
    """A verified domain with primary, backup and origin, all UP, and its record set."""
    domain = factories.domain(**kw)
    for role in Target.DOMAIN_ROLES:
        verdict(factories.target(role, domain=domain))
    factories.record_set(domain=domain)
    return domain


def weight_change(record_set: RecordSet, state: str = "observed", **kw: object) -> WeightChange:
    primary, backup = record_set.domain.targets.filter(role__in=Target.PATH_ROLES).order_by("-role")
    now = timezone.now()
    return WeightChange.objects.create(
        **{
            "customer": record_set.customer,
            "service": record_set.domain.service,
            "record_set": record_set,
            "generation": record_set.changes.count() + 1,
            "previous_weights": {str(primary.pk): 100, str(backup.pk): 0},
            "weights": {str(primary.pk): 0, str(backup.pk): 100},
            "state": state,
            "reason": "storm: the primary is DOWN",
            "wanted_at": now - timedelta(seconds=12.5),
            "observed_at": now if state == "observed" else None,
        }
        | kw
    )


def write_attempt(*changes: WeightChange, **kw: object) -> WriteAttempt:
    record_set = changes[0].record_set
    return WriteAttempt.objects.create(
        **{
            "account": record_set.account,
            "zone": record_set.zone or "example.com",
            "change_ids": [change.pk for change in changes],
            "ended_at": timezone.now(),
            "outcome": "accepted",
            "receipt": {"change_id": "/change/C0FFEE"},
        }
        | kw
    )


def good_drill(service: Service, **kw: object) -> Drill:
    now = timezone.now()
    return Drill.objects.create(
        **{"customer": service.customer, "service": service, "state": "passed", "started_at": now, "ended_at": now} | kw
    )


def invoice(contract: Contract, currency: str = "USD", **kw: object) -> Invoice:
    """A draft with a usage line of two tiers, a cover line that names a storm, and a storm that is not covered."""
    service = factories.service(customer=contract.customer)
    covered = {"bytes": 57_000_000_000, "covered_bytes": 57_000_000_000}
    row = Invoice.objects.create(
        **{
            "customer": contract.customer,
            "contract": contract,
            "prices": contract.rate_card.versions.get(),
            "currency": currency,
            "period_start": datetime(2026, 3, 1, tzinfo=UTC),
            "period_end": datetime(2026, 4, 1, tzinfo=UTC),
            "as_of": datetime(2026, 4, 2, tzinfo=UTC),
            "subtotal_minor": 123456,
            "discount_minor": 3456,
            "total_minor": 120000,
            "formula": "tranche/1",
            "inputs": {"unit": "GB", "cover": {"discount_rate": "0.5", "waiting_seconds": 60}},
            "decisions": {
                "events": [],
                "storms": [
                    {
                        "storm": "storm-42",
                        "service": f"{service.pk}",
                        "is_covered": False,
                        "reason": "attributed to origin_fault",
                    }
                ],
            },
        }
        | kw
    )
    versions = {"contract": {"id": contract.pk, "version": 7}, "rate_card": {"id": 1, "name": "Basic", "version": 3}}
    common = {"customer": contract.customer, "invoice": row, "service": service}
    InvoiceLineItem.objects.create(
        **common, position=1, kind="usage", path="backup", description="Delivery, backup: app", bytes=1_234_000_000_000,
        amount_minor=123456,
        details=versions | {
            "unit": "GB", "units": "1234",
            "tiers": [{"units": "1000", "per_unit": "0.12"}, {"units": "234", "per_unit": "0.1"}],
        },
    )  # fmt: skip
    InvoiceLineItem.objects.create(
        **common, position=2, kind="cover", path="backup", description="Storm cover: app", bytes=57_000_000_000,
        amount_minor=3456,
        details=versions | {
            "grade": "E2",
            "events": [
                {
                    "storms": ["storm-41"], "start": "2026-03-10T10:00:00Z", "end": "2026-03-10T10:41:30Z",
                    "spans": [{"start": "2026-03-10T10:01:00Z", "end": "2026-03-10T10:41:30Z"}],
                    "paid_seconds": "2430", "normal_share": "1/8", "reasons": ["shift seen 2026-03-10T10:00:20Z"],
                    "by_cdn": {"cdn-1": covered},
                }
            ],
            "storms": [
                {"id": "storm-41", "start": "2026-03-10T10:00:00Z", "end": "2026-03-10T10:41:30Z", "policy_version": 5},
            ],
            "discount_rate": "0.5", "backup_charge_minor": 123456, "windows": [{"bytes": 1}],
        },
    )  # fmt: skip
    return row


def everything() -> StormEvent:
    """At least one row of every model in the console."""
    now = timezone.now()
    domain = protected_domain()
    service, customer = domain.service, domain.customer
    target = domain.targets.get(role="primary")
    factories.api_key(customer)
    factories.vantage_point()
    policy = factories.policy(service=service)
    policy.window_seconds = 90
    policy.save()
    incident = factories.incident(cdn=target.cdn)
    storm = factories.storm(service=service, cdn=target.cdn, policy=policy, policy_version=2, incident=incident)
    StormEntry.objects.create(storm=storm, at=now, action="open", reason="the primary is DOWN")
    IncidentEntry.objects.create(incident=incident, at=now, action="opened", reason=incident.reason)
    change = weight_change(domain.record_set, "held", storm=storm, refusal="blast_radius", held_reason="blast radius")
    write_attempt(change)
    Finding.objects.create(
        customer=customer, service=service, kind="certificate", target=target, reason="9 days left",
        first_seen_at=now, last_seen_at=now,
    )  # fmt: skip
    Pin.objects.create(
        customer=customer, service=service, backup_percent=10, reason="drill", expires_at=now + timedelta(hours=1)
    )
    Freeze.objects.create(reason="maintenance")
    Drill.objects.create(customer=customer, service=service, outcome="waits: a storm is open")
    SteeringTerms.objects.create(customer=customer, service=service, standing_percent=2)
    BreakGlassScript.objects.create(
        customer=customer, record_set=domain.record_set, direction="shift", text="exit 0\n", signature="AAAA"
    )
    factories.maintenance_window(service=service)
    line = invoice(factories.contract(customer=customer)).lines.get(position=1)
    Payment.objects.create(customer=customer, invoice=line.invoice, amount_minor=1, reference="R-1", recorded_by="ann")
    Dispute.objects.create(customer=customer, line=line, reason="not ours", opened_by="API key trk_1")
    SpendAlert.objects.create(customer=customer, threshold_minor=100)
    CoverRuling.objects.create(customer=customer, storm=storm, is_covered=True, reason="seen", ruled_by="ann")
    InvoiceCounter.objects.create(series="INV", last_number=1)
    source = UsageSource.objects.create(
        name="logs", cdn=target.cdn, kind="directory", format=_first_format(), location="/var/log/cdn"
    )
    log = LogObject.objects.create(
        source=source, key="a.gz", etag="e", size_bytes=10, state="counted", processed_at=now
    )
    hour = now.replace(minute=0, second=0, microsecond=0)
    usage = {"customer": customer, "service": service, "target": target, "bytes": 1_500_000, "requests": 10}
    UsageBucket.objects.create(**usage, log_object=log, minute_at=hour)
    UsageSnapshot.objects.create(**usage, window_start=hour, window_end=hour + timedelta(hours=1))
    asked = UsageSource.objects.create(name="statistics", cdn=target.cdn, kind="fastly_stats")
    UsageEstimate.objects.create(**usage, source=asked, window_start=hour, window_end=hour + timedelta(hours=1))
    UnknownHostUsage.objects.create(
        log_object=log, host="old.example.com", minute_at=hour, bytes=1, requests=1, reason="nobody's"
    )
    EmbeddedRecord.objects.create(zone="demo.test", name="www.demo.test", type="A", value="127.0.0.1")
    Event.record("storm.opened", storm, "A storm began.", customer_id=customer.pk)
    channel = PagingChannel.objects.create(name="mail", kind="email")
    page = Page.objects.create(
        key="incident:1", severity="critical", summary="It burns", path="/admin/plan", opened_at=now, next_repeat_at=now
    )
    PageNotice.objects.create(page=page, channel=channel, action="trigger", next_attempt_at=now)
    digest = Digest.objects.create(
        recipient="ann@example.net", group=f"customer:{customer.pk}", customer=customer, opened_at=now
    )
    DigestEntry.objects.create(digest=digest, event=Event.objects.all()[0])
    interval = IntervalSchedule.objects.create(every=5, period="seconds")
    CrontabSchedule.objects.create(hour="3")
    ClockedSchedule.objects.create(clocked_time=now)
    PeriodicTask.objects.create(name="a task", task="dns.steer", interval=interval)
    Group.objects.create(name="support")
    endpoint = WebhookEndpoint.objects.create(customer=storm.customer, url="https://hook.example.org/", kinds=["*"])
    delivery = WebhookDelivery.objects.create(
        customer=storm.customer, endpoint=endpoint, event=Event.objects.all()[0], sequence=1, state="dead", attempts=1
    )
    DeliveryAttempt.objects.create(delivery=delivery, at=now, milliseconds=12, status=500, error="answered 500")
    AccessAttempt.objects.create(username="ann", ip_address="192.0.2.1", failures_since_start=2, user_agent="x")
    AccessLog.objects.create(username="ann", ip_address="192.0.2.1", user_agent="x")
    owner = User.objects.first() or operator()
    SavedView.objects.create(owner=owner, list="dns.pin", name="now", query="in_force=yes")
    AuditSeal.objects.create(since=now, until=now, entries=0, sha256="0" * 64)
    return storm


def _first_format() -> str:
    choices = UsageSource._meta.get_field("format").choices
    assert choices
    return str(next(iter(choices))[0])
