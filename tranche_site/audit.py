"""Which tables are audited, and the seals upon what was written.

The trigger function and the triggers stand in migrations; `AUDITED` is what they were made from, and a test compares them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db import connection, transaction

from tranche_site.models import AuditEntry, AuditSeal

logger = logging.getLogger(__name__)

SETTLED = timedelta(hours=1)
"""No transaction of ours lasts longer: what began before that is written, or never will be."""
BEFORE_ALL = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Audited:
    """`of`: the columns that count, and no others are told; empty: all but `but`, those that machines write by themselves."""

    table: str
    of: str = ""
    but: str = ""
    updates_only: bool = False
    """Machines make its rows, many at once."""

    @property
    def sql(self) -> str:
        """The trigger. Where few columns count, Postgres looks at those alone."""
        of = f" OF {', '.join(self.of.split())}" if self.of else ""
        events = f"UPDATE{of}" if self.updates_only else f"INSERT OR DELETE OR UPDATE{of}"
        return (
            f"CREATE TRIGGER tranche_audit AFTER {events} ON {self.table} FOR EACH ROW "
            f"EXECUTE FUNCTION tranche_audit('{self.but}', '{self.of}')"
        )


AUDITED = (
    Audited("customers"),
    Audited("api_keys", but="last_used_at"),
    Audited("webhook_endpoints", of="url kinds description disabled_at deleted_at sealed_credentials"),
    Audited("services"),
    Audited("service_domains", of="service_id hostname challenge verified_at lost_since contested_since deleted_at"),
    Audited("targets"),
    Audited("cdns"),
    Audited("vantage_points", of="name region network state source_address shards"),
    Audited("maintenance_windows"),
    Audited("storm_policies"),
    Audited("dns_accounts", of="vendor name options sealed_credentials customer_id fencing"),
    Audited("record_sets", of="account_id zone ttl_seconds apex_addresses data_plane is_held released_at"),
    Audited("pins"),
    Audited("freezes"),
    Audited("steering_terms"),
    Audited("weight_changes", of="approved_by_id", updates_only=True),
    Audited("rate_cards"),
    Audited("rate_card_versions"),
    Audited("contracts"),
    Audited("cover_rulings"),
    Audited("invoices", of="state number", updates_only=True),
    Audited("payments"),
    Audited("disputes"),
    Audited("spend_alerts", but="fired_for"),
    Audited(
        "usage_sources",
        of="name kind format location endpoint_url role_arn access_key_id options enabled sealed_credentials customer_id cdn_id",
    ),
    Audited("paging_channels", of="name kind minimum_severity is_enabled sealed_credentials"),
    Audited("auth_user", but="last_login"),
    Audited("auth_group"),
    Audited("auth_user_groups"),
    Audited("auth_user_user_permissions"),
    Audited("auth_group_permissions"),
    Audited("second_factors", of="user_id confirmed opened_at sealed_credentials"),
    Audited("django_celery_beat_periodictask", of="name task enabled interval_id crontab_id args kwargs queue"),
)


# --- seals ----------------------------------------------------------------------------------------------------------

# Each row as one line, in the order of ids; JSON of Postgres is the same text for the same value.
_LINES = """
SELECT count(*), encode(sha256(convert_to(%(before)s || coalesce(string_agg(
    jsonb_build_array(id, at, "table", row_id, action, changes, actor, reason, request_id, database_user)::text, E'\n'
    ORDER BY id), ''), 'UTF8')), 'hex')
FROM audit_entries WHERE at >= %(since)s AND at < %(until)s
"""


def seal(now: datetime) -> AuditSeal | None:
    """Seal what was written up to an hour ago, since the last seal. None where there is nothing new."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('tranche.audit.seal'))")
        last = AuditSeal.objects.order_by("-until").first()
        since, until = (last.until if last else BEFORE_ALL), now - SETTLED
        if until <= since or not AuditEntry.objects.filter(at__gte=since, at__lt=until).exists():
            return None
        count, digest = _digest(since, until, last.sha256 if last else "")
        made = AuditSeal.objects.create(since=since, until=until, entries=count, sha256=digest)
    logger.info("audit sealed: %s entries to %s, sha256 %s", count, until.isoformat(), digest)
    return made


def _digest(since: datetime, until: datetime, before: str) -> tuple[int, str]:
    with connection.cursor() as cursor:
        cursor.execute(_LINES, {"since": since, "until": until, "before": before})
        count, digest = cursor.fetchone()
        return int(count), str(digest)


def broken(now: datetime) -> Iterator[str]:
    """Each seal that what it seals does not give any more, and each gap between them."""
    before, end = "", BEFORE_ALL
    for row in AuditSeal.objects.order_by("until").iterator():
        if row.since != end:
            yield f"{row}: it begins at {row.since:%Y-%m-%d %H:%M:%S}, and the one before ended at {end:%Y-%m-%d %H:%M:%S} UTC"
        count, digest = _digest(row.since, row.until, before)
        if (count, digest) != (row.entries, row.sha256):
            yield f"{row}: {row.entries} audit entries were sealed, and {count} that are there give another hash"
        before, end = row.sha256, row.until
