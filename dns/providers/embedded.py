"""The embedded authoritative server's records, written in one transaction like any vendor's batch."""

from __future__ import annotations

from django.db import transaction

from dns.models import EmbeddedRecord
from dns.providers.contract import BEACON_LABEL, Provider, ProviderError, Receipt, WeightedSet, Zone, candidate_zones

OWNER = "tranche"


class EmbeddedProvider(Provider):
    def find_zone(self, hostname: str) -> Zone:
        names = candidate_zones(hostname)
        zones = set(EmbeddedRecord.objects.filter(type="SOA", name__in=names).values_list("name", flat=True))
        for name in names:
            if name in zones:
                return Zone(name)
        raise ProviderError(f"the embedded server has no zone for {hostname}", permanent=True)

    def apply(self, wanted: WeightedSet) -> Receipt:
        if wanted.hostname == wanted.zone:
            raise ProviderError(f"{wanted.hostname} is the zone's apex, where no CNAME may stand", permanent=True)
        with transaction.atomic():
            mine = EmbeddedRecord.objects.select_for_update().filter(
                name__in=[wanted.hostname, wanted.beacon_name], owner__startswith=OWNER
            )
            foreign = EmbeddedRecord.objects.filter(name=wanted.hostname).exclude(owner__startswith=OWNER).first()
            if foreign:
                raise ProviderError(f"{wanted.hostname} has a record that is not ours: {foreign}", permanent=True)
            mine.delete()
            EmbeddedRecord.objects.bulk_create(
                [
                    EmbeddedRecord(
                        zone=wanted.zone,
                        name=wanted.hostname,
                        type="CNAME",
                        value=member.target,
                        ttl_seconds=wanted.ttl_seconds,
                        weight=member.percent,
                        owner=f"{OWNER}:{member.key}",
                    )
                    for member in wanted.members
                ]
                + [
                    EmbeddedRecord(
                        zone=wanted.zone,
                        name=f"{BEACON_LABEL}.{wanted.hostname}",
                        type="TXT",
                        value=wanted.beacon_value,
                        ttl_seconds=wanted.ttl_seconds,
                        owner=OWNER,
                    )
                ]
            )
        return Receipt(change_id=f"{wanted.hostname}@{wanted.generation}")
