"""A storm's evidence out of the database: one document with everything from which the storm follows, and its hash."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db import connection

from services.models import Target, VantagePoint
from services.outcomes import BAD
from storms import evidence
from storms.keeping import AROUND
from storms.models import StormEntry, StormEvent, StormPolicyVersion

# Words that people add later are no evidence, and must not change what was sealed.
_SAID = (StormEntry.Action.NOTE, StormEntry.Action.ACKNOWLEDGE)
_COLUMNS = "at, target_id, vantage_point_id, attempt, outcome, status, total_ms, host(remote_address), reason, is_blind, is_late"
# What is kept with the storm, and what is still among the fresh ones.
_SAMPLES = f"""
SELECT {_COLUMNS} FROM storm_samples WHERE storm_id = %(storm)s
UNION
SELECT {_COLUMNS} FROM probe_samples
WHERE slot_at > %(since)s AND slot_at <= %(until)s
    AND (service_id = %(service)s OR service_id IS NULL AND target_id = ANY(%(own)s))
ORDER BY at, target_id, vantage_point_id, attempt
"""  # noqa: S608


def pack(storm: StormEvent) -> dict[str, Any]:
    """The whole evidence of a storm, sealed with its hash. The same storm gives the same document, for ever."""
    names = dict(VantagePoint.objects.values_list("pk", "name"))
    samples = [_sample(row, names) for row in _rows(storm)]
    targets = Target.objects.filter(pk__in={sample["target"] for sample in samples})
    entries = list(storm.entries.exclude(action__in=_SAID))
    used = {(entry.policy_id, entry.policy_version) for entry in entries}
    versions = StormPolicyVersion.objects.filter(policy__in={policy for policy, _ in used})
    document = {
        "type": "storm",
        "format": evidence.FORMAT,
        "storm": _storm(storm),
        "policies": {
            f"{version.policy_id}/{version.version}": _terms(version.terms)
            for version in versions if (version.policy_id, version.version) in used
        },
        "targets": [
            {
                "target": target.pk, "domain": target.domain_id, "cdn": target.cdn_id, "role": target.role,
                "facet": target.facet, "facet_of": target.facet_of_id, "address": target.address,
            }
            for target in targets.order_by("pk")
        ],
        "entries": [
            {
                "at": entry.at, "action": entry.action, "reason": entry.reason, "by": entry.by,
                "policy": f"{entry.policy_id}/{entry.policy_version}" if entry.policy_id else None, "case": entry.case,
            }
            for entry in entries
        ],
        "first_failures": _first_failures(storm, samples),
        "minutes": evidence.minutes(samples),
        "samples": samples,
    }  # fmt: skip
    return evidence.sealed(evidence.plain(document))


def seal(now: datetime) -> int:
    """Note the hash of every storm that is closed and whose samples are all kept. Returns how many were sealed."""
    done = 0
    ripe = StormEvent.objects.filter(closed_at__isnull=False, ended_at__isnull=False, evidence_sha256="")
    for storm in ripe.filter(ended_at__lt=now - AROUND):
        if storm.samples_kept_until and storm.ended_at and storm.samples_kept_until >= storm.ended_at + AROUND:
            found = pack(storm)["sha256"]
            # Unless it was opened again meanwhile.
            done += StormEvent.objects.filter(pk=storm.pk, closed_at=storm.closed_at).update(evidence_sha256=found)
    return done


def _storm(storm: StormEvent) -> dict[str, Any]:
    spells = [[_moment(start), _moment(end)] for start, end in storm.spells]
    return {
        "id": storm.pk, "service": storm.service_id, "customer": storm.customer_id, "cdn": storm.cdn_id,
        "incident": storm.incident_id, "kind": storm.kind, "attribution": storm.attribution, "is_armed": storm.is_armed,
        "regions": storm.regions, "started_at": storm.started_at, "detected_at": storm.detected_at,
        "ended_at": storm.ended_at, "closed_at": storm.closed_at, "spells": spells, "relapses": storm.relapses,
        "reason": storm.reason, "closing_reason": storm.closing_reason, "policy": storm.policy_id,
        "policy_version": storm.policy_version,
    }  # fmt: skip


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _terms(terms: Mapping[str, Any]) -> dict[str, Any]:
    """A version's terms as the database keeps them; numbers with fractions as exact text."""
    return {name: Decimal(str(value)) if isinstance(value, float) else value for name, value in terms.items()}


def _rows(storm: StormEvent) -> list[tuple[Any, ...]]:
    own = Target.objects.filter(role=Target.Role.CANARY) | Target.objects.filter(
        role=Target.Role.REFERENCE, cdn=storm.cdn_id
    )
    since, until = storm.started_at - AROUND, (storm.ended_at or datetime.now(UTC)) + AROUND
    with connection.cursor() as cursor:
        cursor.execute(
            _SAMPLES,
            {
                "storm": storm.pk, "service": storm.service_id, "since": storm.samples_kept_until or since, "until": until,
                "own": list(own.values_list("pk", flat=True)),
            },
        )  # fmt: skip
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _sample(row: tuple[Any, ...], names: Mapping[int, str]) -> dict[str, Any]:
    at, target, point, attempt, outcome, status, total_ms, address, reason, is_blind, is_late = row
    return {
        "at": evidence.plain(at), "target": target, "vantage_point": names.get(point, str(point)), "attempt": attempt,
        "outcome": outcome, "status": status, "total_ms": evidence.plain(total_ms), "remote_address": address,
        "reason": reason, "is_blind": is_blind, "is_late": is_late,
    }  # fmt: skip


def _first_failures(storm: StormEvent, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first bad sample of each target and vantage point from the storm's start on."""
    start = evidence.plain(storm.started_at)
    first: dict[tuple[int, str], dict[str, Any]] = {}
    for sample in samples:
        if sample["at"] >= start and sample["outcome"] in BAD and not sample["is_blind"]:
            first.setdefault((sample["target"], sample["vantage_point"]), sample)
    return list(first.values())
