"""Break-glass scripts: two per domain, in the vendor's own commands, for the day on which nothing of ours can be used.

Each is signed (Ed25519, over the text as UTF-8), and made anew every day and whenever what it was made of has changed:
generation, TTL, zone, paths, what else was ever written, or the key. They are made without credentials, so none is in them.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.db.models import Prefetch, Q

from dns import planning, vendors
from dns.models import BreakGlassScript, RecordSet
from dns.providers import VENDORS, provider_class
from dns.providers.contract import Provider, ProviderError, WeightedSet
from services.models import Target

logger = logging.getLogger(__name__)

Direction = BreakGlassScript.Direction

MADE_AGAIN = timedelta(days=1)
MOST_AT_ONCE = 200
_KEY_BYTES = 32


def refresh(now: datetime, limit: int = MOST_AT_ONCE) -> int:
    """Make the scripts of the record sets whose turn it is, and drop those of what is steered no more. Returns how many
    record sets had their turn.

    Where nothing can be written down, such as a shift without a backup, a row without text says so; it is tried again.
    """
    able = [vendor for vendor in VENDORS if provider_class(vendor).script is not Provider.script]
    _drop(able)
    due = _due(now, able, limit)
    rows = (
        RecordSet.objects.filter(pk__in=due)
        .select_related("account", "domain")
        .prefetch_related(Prefetch("domain__targets", Target.objects.paths().order_by("rank", "id")))
    )
    BreakGlassScript.objects.bulk_create(
        [script for row in rows for script in _scripts(row, due[row.pk], now)],
        update_conflicts=True,
        unique_fields=["record_set", "direction"],
        update_fields=["text", "signature", "made_at"],
    )
    return len(due)


def _drop(able: Collection[str]) -> None:
    BreakGlassScript.objects.filter(
        ~Q(record_set__account__vendor__in=able)
        | Q(record_set__released_at__isnull=False)
        | Q(record_set__domain__deleted_at__isnull=False)
        | Q(record_set__domain__service__deleted_at__isnull=False)
    ).delete()


def _due(now: datetime, able: Collection[str], limit: int) -> dict[int, str]:
    """Record sets whose scripts are missing, a day old, or made of something else than there is now: what nobody has yet
    first, then the oldest. By id, a digest of what there is, which goes into the text."""
    key = hashlib.sha256(public_key_pem().encode()).hexdigest()
    with connection.cursor() as cursor:
        cursor.execute(_DUE, {"key": key, "able": list(able), "before": now - MADE_AGAIN, "limit": limit})
        return dict(cursor.fetchall())


_DUE = """
WITH there AS (
    SELECT r.id, md5(concat_ws(E'\\n',
        %(key)s::text, a.vendor, a.options, d.hostname, r.zone, r.zone_id, r.ttl_seconds, r.generation, r.written,
        r.apex_addresses, p.paths
    )) AS digest
    FROM record_sets r
    JOIN dns_accounts a ON a.id = r.account_id AND a.vendor = ANY(%(able)s)
    JOIN service_domains d ON d.id = r.domain_id AND d.deleted_at IS NULL
    JOIN services s ON s.id = d.service_id AND s.deleted_at IS NULL
    LEFT JOIN (
        SELECT domain_id, string_agg(concat_ws(' ', id, role, rank, address), E'\\n' ORDER BY id) AS paths
        FROM targets WHERE enabled AND role IN ('primary', 'backup') GROUP BY domain_id
    ) p ON p.domain_id = d.id
    WHERE r.generation > 0 AND r.zone <> '' AND r.released_at IS NULL
)
SELECT there.id, there.digest
FROM there LEFT JOIN break_glass_scripts b ON b.record_set_id = there.id
GROUP BY there.id, there.digest
HAVING count(b.id) < 2
    OR min(b.made_at) <= %(before)s
    OR bool_or(b.text <> '' AND strpos(b.text, there.digest) = 0)
ORDER BY min(b.made_at) NULLS FIRST, there.id
LIMIT %(limit)s
"""


# --- made ------------------------------------------------------------------------------------------------------------


def _scripts(record_set: RecordSet, digest: str, now: datetime) -> Iterator[BreakGlassScript]:
    for direction in Direction:
        text = _text(record_set, direction, digest, now)
        yield BreakGlassScript(
            customer_id=record_set.customer_id, record_set=record_set, direction=direction, text=text,
            signature=sign(text) if text else "", made_at=now,
        )  # fmt: skip


def _text(record_set: RecordSet, direction: Direction, digest: str, now: datetime) -> str:
    """What is signed; empty if there is nothing to write down."""
    targets = {str(target.pk): target for target in record_set.domain.targets.all()}
    taker = _taker(targets, direction)
    if taker is None:
        return ""
    weights = {key: 100 if target is taker else 0 for key, target in targets.items() if target.enabled}
    try:
        wanted = _alone(vendors.weighted_set(record_set, weights, record_set.generation, targets))
        commands = provider_class(record_set.account.vendor)(record_set.account.options).script(wanted)
    except (ProviderError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s: no break-glass script: %s", record_set, error)
        return ""
    if not commands:
        return ""
    does = (
        f"sends everything to the first backup, {taker.address}, whatever its health"
        if direction == Direction.SHIFT
        else f"sends everything back to the primary, {taker.address}, and nothing to a backup"
    )
    qtype = "A" if wanted.is_apex else "CNAME"
    head = _HEAD.format(
        hostname=wanted.hostname, vendor=record_set.account.vendor, zone=wanted.zone, direction=direction, does=does,
        at=now.astimezone(UTC), generation=wanted.generation, digest=digest, ttl=wanted.ttl_seconds,
        check=f"dig +short {qtype} {wanted.hostname}", beacon=wanted.beacon_name, value=wanted.beacon_value,
    )  # fmt: skip
    if record_set.data_plane:
        head += "# Data-plane mode is off for this name until Tranche has written it again.\n#\n"
    if commands.startswith("#!"):
        commands = commands.partition("\n")[2]
    return head + commands.rstrip() + "\n"


def _taker(targets: Mapping[str, Target], direction: Direction) -> Target | None:
    enabled = [target for target in targets.values() if target.enabled]
    if direction == Direction.FAIL_BACK:
        return planning.primary_among(enabled)
    return next((target for target in enabled if target.role == Target.Role.BACKUP), None)


def _alone(wanted: WeightedSet) -> WeightedSet:
    """What stands by itself: whatever stood there before, and without a health check that listens to our beacon."""
    return replace(
        wanted, expects=None, members=tuple(replace(member, health_check_id="") for member in wanted.members)
    )


_HEAD = """\
#!/usr/bin/env bash
# Break-glass: {direction} {hostname}
#
# Does:      {does}.
# Where:     {zone} at {vendor}, with the commands below and nothing of Tranche's.
# Made at:   {at:%Y-%m-%d %H:%M:%S} UTC, at generation {generation}, of {digest}.
#            A day later, or after a change of paths, TTL or weights, there is a newer one.
# Verify:    openssl pkeyutl -verify -pubin -inkey tranche.pem -rawin -in script.sh -sigfile script.sig
# Before:    freeze the service in Tranche, if it can still be reached. As long as it runs unfrozen it takes this for a
#            person's edit, writes its own plan over it twice, and only then leaves it and holds.
# Check:     {check}
#            Caches keep the old answer for up to {ttl} s, and some of them longer.
# Afterwards Tranche finds {value} at {beacon}, no newer than what it wrote itself, and sees by the weights that
#            somebody else has written.
#
"""


# --- signed ----------------------------------------------------------------------------------------------------------


def sign(text: str) -> str:
    """The detached signature, base64."""
    return base64.b64encode(_key().sign(text.encode())).decode()


def public_key_pem() -> str:
    """What signatures are checked with. Customers fetch it in calm times, and keep it beside their scripts."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return _key().public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def _key() -> Ed25519PrivateKey:
    if not settings.BREAK_GLASS_KEY:
        derived = HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=b"tranche break-glass")
        return Ed25519PrivateKey.from_private_bytes(derived.derive(settings.SECRET_KEY.encode()))
    try:
        seed = base64.b64decode(settings.BREAK_GLASS_KEY, validate=True)
    except ValueError:
        seed = b""
    if len(seed) != _KEY_BYTES:
        raise ImproperlyConfigured(f"BREAK_GLASS_KEY is not the base64 of {_KEY_BYTES} bytes.")
    return Ed25519PrivateKey.from_private_bytes(seed)
