"""The embedded authoritative server's records, written in one transaction like any vendor's batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django.db import transaction
from django.db.models import Q, QuerySet

from dns.models import EmbeddedRecord
from dns.providers.contract import (
    Check,
    Member,
    Provider,
    ProviderError,
    Receipt,
    Standing,
    Trouble,
    WeightedSet,
    Zone,
    candidate_zones,
    revision,
)

OWNER = "tranche"
_MARK = f"{OWNER}:"


class EmbeddedProvider(Provider):
    is_metered = False
    most_per_write = 200

    def find_zone(self, hostname: str) -> Zone:
        names = candidate_zones(hostname)
        zones = set(EmbeddedRecord.objects.filter(type="SOA", name__in=names).values_list("name", flat=True))
        for name in names:
            if name in zones:
                return Zone(name)
        raise ProviderError(f"the embedded server has no zone for {hostname}", permanent=True, trouble=Trouble.ZONE)

    def apply(self, wanted: Sequence[WeightedSet]) -> Receipt:
        for one in wanted:
            if one.is_apex:
                raise ProviderError(
                    f"{one.hostname} is the zone's apex, where no CNAME may stand",
                    permanent=True,
                    trouble=Trouble.UNSAFE,
                )
        names = [one.hostname for one in wanted]
        with transaction.atomic():
            foreign = EmbeddedRecord.objects.filter(name__in=names).exclude(owner__startswith=OWNER).first()
            if foreign:
                raise ProviderError(
                    f"{foreign.name} has a record that is not ours: {foreign}", permanent=True, trouble=Trouble.FOREIGN
                )
            _replace(wanted)
        return Receipt(change_id=f"{names[0]}@{wanted[0].generation}", details={"names": len(names)})

    def read(self, zone: Zone, hostnames: Collection[str]) -> dict[str, Standing]:
        names = [*hostnames, *(f"_tranche.{hostname}" for hostname in hostnames)]
        rows = list(EmbeddedRecord.objects.filter(name__in=names).order_by("pk"))
        return {hostname: _standing(hostname, rows) for hostname in hostnames}

    def adopt(self, wanted: WeightedSet) -> Receipt:
        with transaction.atomic():
            foreign = EmbeddedRecord.objects.filter(name=wanted.hostname).exclude(owner__startswith=OWNER)
            if odd := foreign.exclude(type__in=["A", "AAAA", "CNAME"]).first():
                raise ProviderError(f"{odd} can't be adopted", permanent=True, trouble=Trouble.FOREIGN)
            foreign.delete()
            _replace([wanted])
        return Receipt(change_id=f"{wanted.hostname}@{wanted.generation}")

    def release(self, wanted: WeightedSet, target: str) -> Receipt:
        with transaction.atomic():
            _ours([wanted]).delete()
            EmbeddedRecord.objects.create(
                zone=wanted.zone, name=wanted.hostname, type="CNAME", value=target, ttl_seconds=wanted.ttl_seconds
            )
        return Receipt(change_id=f"{wanted.hostname} released")

    def preflight(self, zone: Zone, hostname: str) -> list[Check]:
        standing = self.read(zone, [hostname])[hostname]
        if standing.foreign:
            return [
                Check(
                    "record", False, f"not ours: {'; '.join(standing.foreign)}", "Adopt the record, or remove it first."
                )
            ]
        return [Check("record", True, "ours" if standing.members else "the name is free")]


def _ours(wanted: Sequence[WeightedSet]) -> QuerySet[EmbeddedRecord]:
    names = [name for one in wanted for name in (one.hostname, one.beacon_name)]
    return EmbeddedRecord.objects.filter(Q(owner=OWNER) | Q(owner__startswith=_MARK), name__in=names)


def _replace(wanted: Sequence[WeightedSet]) -> None:
    _ours(wanted).select_for_update().delete()
    EmbeddedRecord.objects.bulk_create(
        record
        for one in wanted
        for record in (
            *(
                EmbeddedRecord(
                    zone=one.zone, name=one.hostname, type="CNAME", value=member.target, ttl_seconds=one.ttl_seconds,
                    weight=member.percent, owner=f"{_MARK}{member.key}",
                )
                for member in one.members
            ),
            EmbeddedRecord(
                zone=one.zone, name=one.beacon_name, type="TXT", value=one.beacon_value, ttl_seconds=one.ttl_seconds,
                owner=OWNER,
            ),
        )
    )  # fmt: skip


def _standing(hostname: str, rows: Sequence[EmbeddedRecord]) -> Standing:
    here = [row for row in rows if row.name == hostname]
    mine = [row for row in here if row.owner.startswith(_MARK)]
    foreign = [row for row in here if not row.owner.startswith(OWNER)]
    beacons = [row.value for row in rows if row.name == f"_tranche.{hostname}" and row.type == "TXT"]
    return Standing(
        hostname,
        revision(beacons),
        tuple(Member(row.owner.removeprefix(_MARK), row.value, row.weight or 0) for row in mine),
        mine[0].ttl_seconds if mine else None,
        tuple(str(row) for row in foreign),
        max((row.ttl_seconds for row in foreign), default=None),
    )
