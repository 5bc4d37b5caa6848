"""The whole beat schedule. Rows are seeded into the console, create-only: an operator's change stays.

Every task is cheap, safe to run twice, and expires before its next turn; what is due lives in tables, not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    task: str
    every_seconds: int
    description: str
    queue: str = "default"


SCHEDULE = [
    Entry("Keep probing", "services.keep_probing", 5, "Wakes every vantage point's prober and shows it changes."),
    Entry("Judge storms", "tranche_site.react", 2, "Judges every service; steers those whose state changed.", "storms"),
    Entry("Steer DNS", "dns.steer", 2, "Plans weights, writes what is due, looks at what is on its way.", "dns"),
    Entry(
        "Look for drift",
        "dns.look_for_drift",
        10,
        "Compares DNS with what was written, some record sets a turn.",
        "dns",
    ),
    Entry(
        "Check lists", "dns.check_readiness", 5, "Arms domains whose must-haves hold; looks again each day.", "billing"
    ),
    Entry("Tend drills", "dns.tend_drills", 10, "Begins, watches and ends rehearsals.", "dns"),
    Entry("Break-glass", "dns.refresh_break_glass", 300, "Makes the scripts for when nothing of ours is left.", "dns"),
    Entry("Collect usage", "billing.collect_usage", 10, "Reads new CDN logs from every usage source.", "billing"),
    Entry(
        "Draft invoices", "billing.draft_invoices", 300, "Recomputes the drafts of this month and the last.", "billing"
    ),
    Entry("Draft late months", "billing.draft_late_months", 86_400, "Months whose first logs came late.", "billing"),
    Entry("Finalize invoices", "billing.finalize_invoices", 3600, "Issues drafts past their grace period.", "billing"),
    Entry(
        "Postpone amendments", "billing.postpone_amendments", 60, "No change of cover during an incident.", "billing"
    ),
    Entry("Estimate usage", "billing.estimate_usage", 300, "Asks vendors' statistics; never billed.", "billing"),
    Entry("Compact usage", "billing.compact_usage", 86_400, "Merges old minutes into quarters of an hour.", "billing"),
    Entry(
        "Check invariants", "tranche_site.selfcheck", 86_400, "Asks what must always hold in the database.", "billing"
    ),
    Entry(
        "Seal the audit", "tranche_site.seal_audit", 3600, "Hashes what was audited, upon the seal before.", "billing"
    ),
    Entry("Send webhooks", "customers.send_webhooks", 2, "Tells customers what happened to them.", "webhooks"),
    Entry("Retry webhooks", "customers.retry_webhooks", 20, "Tries receivers again that failed lately.", "webhooks"),
    Entry("Prune keys of requests", "customers.prune", 3600, "Forgets Idempotency-Keys that are older than a day."),
    Entry("Check proofs", "services.check_proofs", 60, "Looks for the tokens that prove domains, each once a day."),
    Entry("Page people", "tranche_site.page", 5, "Calls people about what burns, until somebody answers.", "webhooks"),
    Entry("Mail digests", "tranche_site.mail_digests", 30, "Mails what happened, few mails whatever did.", "webhooks"),
    Entry("Keep facets", "services.keep_facets", 300, "Makes the facets of every path what its service wants."),
    Entry("Roll samples up", "services.roll_up", 30, "Counts the samples of every complete minute."),
    Entry("Keep samples of storms", "storms.keep_samples", 60, "Copies the raw samples around each storm beside it."),
    Entry("Maintain partitions", "services.maintain_partitions", 3600, "Makes and drops partitions of the samples."),
]


def seed() -> list[str]:
    """Create the rows that are missing. Returns their names."""
    made = []
    for entry in SCHEDULE:
        interval, _ = IntervalSchedule.objects.get_or_create(every=entry.every_seconds, period=IntervalSchedule.SECONDS)
        _, created = PeriodicTask.objects.get_or_create(
            name=entry.name,
            defaults={
                "task": entry.task,
                "interval": interval,
                "queue": entry.queue,
                "expire_seconds": entry.every_seconds,
                "description": entry.description,
                # Without it a restart more often than the interval would put a long interval off for ever.
                "last_run_at": timezone.now(),
            },
        )
        if created:
            made.append(entry.name)
    return made
