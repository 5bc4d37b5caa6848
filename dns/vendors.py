"""From rows to what a provider is asked: the provider of an account, and the set that a change stands for."""

from __future__ import annotations

from collections.abc import Mapping

from dns import bucket
from dns.models import DnsAccount, RecordSet
from dns.planning import lane_of
from dns.providers import provider_class
from dns.providers.contract import Member, Provider, ProviderError, Trouble, WeightedSet, Zone
from services.models import Target
from tranche_site.floor.sealed import SealedError


def provider_of(account: DnsAccount, reserve_share: float = 0.0) -> Provider:
    """Its calls are paid from the account's bucket, of which `reserve_share` is left to what is more urgent."""
    cls = provider_class(account.vendor)
    try:
        credentials = account.credentials()
    except SealedError as error:
        raise ProviderError(f"{account}: {error}", permanent=True, trouble=Trouble.ACCESS) from error
    if not cls.is_metered:
        return cls(account.options, credentials)
    options = dict(account.options)
    if account.fencing == DnsAccount.Compare.SET:
        options["compare_and_set"] = True
    return cls(options, credentials, bucket.meter(account, reserve_share))


def zone_of(record_set: RecordSet) -> Zone:
    return Zone(record_set.zone, record_set.zone_id)


def find_zone(record_set: RecordSet, provider: Provider) -> None:
    """Find the zone on first use, and keep it: a storm is no time to look for zones."""
    if not record_set.zone or (not record_set.zone_id and provider.has_zone_ids):
        zone = provider.find_zone(record_set.domain.hostname)
        record_set.zone, record_set.zone_id = zone.name, zone.id
        record_set.save(update_fields=["zone", "zone_id"])


def weighted_set(
    record_set: RecordSet, weights: Mapping[str, int], generation: int, targets: Mapping[str, Target]
) -> WeightedSet:
    """What is written for these percents by target id: today's lanes, and each former one at 0, so that none keeps a share.

    `targets` are all of the domain's, by id as text. Raises ValueError for what no provider may be given.
    """
    members = {}
    for key, percent in weights.items():
        lane, address = lane_of(targets[key]), targets[key].address
        members[lane] = Member(
            lane, address, percent, tuple(record_set.apex_addresses.get(address, ())),
            record_set.health_check_id if record_set.data_plane and lane == "primary" else "",
        )  # fmt: skip
    for lane, address in record_set.written.items():
        if lane not in members:
            members[lane] = Member(lane, address, 0, tuple(record_set.apex_addresses.get(address, ())))
    return WeightedSet(
        hostname=record_set.domain.hostname,
        zone=record_set.zone,
        zone_id=record_set.zone_id,
        ttl_seconds=record_set.ttl_seconds,
        generation=generation,
        members=tuple(members[lane] for lane in sorted(members, key=_order)),
        expects=record_set.observed_generation or None,
    )


def _order(lane: str) -> tuple[int, str]:
    return (0 if lane == "primary" else int(lane.partition("-")[2] or 0) + 1, lane)
