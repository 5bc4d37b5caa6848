"""What the contract asks for, in terms of `records` and of calls."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from dns.providers.contract import (
    Check,
    Provider,
    ProviderError,
    Receipt,
    Standing,
    Trouble,
    WeightedSet,
    Zone,
    candidate_zones,
)
from dns.providers.route53 import checks, health, listing, policies, records, refusals
from dns.providers.route53.clients import Api
from dns.providers.route53.records import Change, RecordSet

_MOST_REREAD = 10
"""Beacons of one batch that are read again, one call each; with more the batch is split instead."""


class Route53Provider(Provider):
    most_per_write = 80
    """Three members each: 640 of the 1000 records, and 32,000 characters if the targets have about 60."""
    has_zone_ids = True
    has_apex = True
    has_data_plane = True

    def __init__(
        self,
        options: Mapping[str, Any],
        credentials: Mapping[str, Any] | None = None,
        spend: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(options, credentials, spend)
        self._api = Api(self.options, self.credentials, self.spend)

    # --- zones ---

    def find_zone(self, hostname: str) -> Zone:
        names = candidate_zones(hostname)
        for name in names:
            ids = listing.public_zones(self._api, name)
            if len(ids) > 1:
                several = ", ".join(ids)
                raise _no_zone(f"{hostname}: this account has several public zones named {name} ({several})")
            if ids:
                return Zone(name, ids[0])
        raise _no_zone(f"{hostname}: this account has none of the public zones {', '.join(names)}")

    def name_servers(self, zone: Zone) -> list[str]:
        return listing.name_servers(self._api.read("get_hosted_zone", Id=zone.id))

    # --- writing ---

    def apply(self, wanted: Sequence[WeightedSet]) -> Receipt:
        """With `compare_and_set`, a beacon that is to be replaced is deleted as it is expected, so Amazon refuses the
        batch if another stands there. Then it is read: a newer plan's is left (`stale`), an older one's, or one with
        another TTL, is replaced as it stands. So a plan that nobody has observed yet holds up no newer one.
        """
        if not wanted:
            return Receipt()
        if not self.options.get("compare_and_set"):
            return self._write(wanted, _changes(wanted, {}))
        expected: dict[str, RecordSet | None] = {}
        for one in wanted:
            if one.expects is not None:
                _refuse_stale(one, one.expects)
                expected[one.beacon_name] = records.beacon(one, one.expects)
        try:
            return self._write(wanted, _changes(wanted, expected))
        except ProviderError as error:
            if error.trouble != Trouble.STALE:
                raise
            told = records.named_in(str(error), expected)
        if len(told) > _MOST_REREAD:
            raise ProviderError(f"{len(told)} beacons of one batch are not as expected", permanent=True)
        for one in wanted:
            if one.beacon_name in told:
                expected[one.beacon_name] = self._standing_beacon(one)
        try:
            return self._write(wanted, _changes(wanted, expected))
        except ProviderError as error:
            if error.trouble == Trouble.STALE:
                error.unknown = True
            raise

    def _standing_beacon(self, wanted: WeightedSet) -> RecordSet | None:
        """As it is now. Raises ProviderError if it is a newer plan's, or not ours."""
        found = listing.found_at(self._api, wanted.zone_id, wanted.beacon_name)
        if others := records.foreign(found, wanted.hostname, wanted.beacon_name, is_apex=wanted.is_apex):
            raise _foreign(others[0])
        beacons = [record_set for record_set in found if records.is_beacon(record_set, wanted.beacon_name)]
        if not beacons:
            return None
        _refuse_stale(wanted, records.generation(beacons) or 0)
        return beacons[0]

    def adopt(self, wanted: WeightedSet) -> Receipt:
        """A simple set can't be converted, and DELETE must repeat its exact values: if somebody changes the record in
        between, Amazon refuses the whole batch. Raises ProviderError if anything but simple addresses or a CNAME is
        there, since what is deleted must be what the weighted set replaces.
        """
        found = self._found(wanted)
        members = records.member_sets(wanted)
        others = records.foreign(found, wanted.hostname, wanted.beacon_name, is_apex=wanted.is_apex)
        mine = self._mine(wanted, found)
        if not others and not mine:
            raise ProviderError(f"{wanted.hostname} has no record to adopt", permanent=True)
        for record_set in others:
            if not records.is_adoptable(record_set) or not records.is_at(record_set, wanted.hostname):
                raise _foreign(record_set, "can’t be adopted: only a simple A, AAAA or CNAME can")
        left = [there for there in mine if not any(records.same(there, member) for member in members)]
        kept_types = {member["Type"] for member in members}
        put = [
            records.upsert(member) if any(records.same(member, there) for there in mine) else records.create(member)
            for member in members
        ]
        return self._write(
            [wanted],
            [
                *map(records.delete, others),
                *(records.delete(there) for there in left if there["Type"] not in kept_types),
                *put,
                records.upsert(records.beacon(wanted, wanted.generation)),
            ],
        )

    def release(self, wanted: WeightedSet, target: str) -> Receipt:
        """At an apex it becomes an alias of the target, or the target's fixed addresses."""
        found = self._found(wanted)
        mine = self._mine(wanted, found)
        beacons = [record_set for record_set in found if records.is_beacon(record_set, wanted.beacon_name)]
        others = records.foreign(found, wanted.hostname, wanted.beacon_name, is_apex=wanted.is_apex)
        simple = records.simple_sets(wanted, target)
        if not mine and all(any(_is_released(there, one) for there in others) for one in simple):
            # It was done before, and the answer got lost.
            return self._write([wanted], list(map(records.delete, beacons))) if beacons else Receipt()
        if in_the_way := [there for there in others if there["Type"] in {one["Type"] for one in simple}]:
            raise _foreign(in_the_way[0], "must go first")
        if not mine:
            raise ProviderError(f"{wanted.hostname} has no records of ours to release", permanent=True)
        return self._write(
            [wanted], [*map(records.delete, mine), *map(records.create, simple), *map(records.delete, beacons)]
        )

    def _write(self, wanted: Sequence[WeightedSet], changes: list[Change]) -> Receipt:
        zone_ids = {one.zone_id for one in wanted}
        if len(zone_ids) != 1 or "" in zone_ids:
            raise _no_zone(f"a batch is for one zone with an id, not for {sorted(zone_ids)}")
        count, characters = records.size(changes)
        if count > records.MOST_RECORDS or characters > records.MOST_CHARACTERS:
            raise ProviderError(
                f"a batch of {len(wanted)} names has {count} records and {characters} characters; Route 53 takes "
                f"{records.MOST_RECORDS} and {records.MOST_CHARACTERS}",
                permanent=True,
            )
        first = wanted[0]
        comment = (
            f"tranche rev={first.generation} {first.hostname}" if len(wanted) == 1 else f"tranche, {len(wanted)} names"
        )
        info = self._api.write(
            "change_resource_record_sets",
            "ChangeInfo",
            HostedZoneId=first.zone_id,
            ChangeBatch={"Comment": comment[:256], "Changes": changes},
        )
        if not {"Id", "Status", "SubmittedAt"} <= info.keys():
            raise refusals.unreadable("ChangeResourceRecordSets", is_write=True)
        return Receipt(
            change_id=info["Id"].removeprefix("/change/"),
            is_live=info["Status"] == "INSYNC",
            details={
                "status": info["Status"],
                "submitted_at": info["SubmittedAt"].isoformat(),
                "names": len(wanted),
            },
        )

    def is_live(self, receipt: Mapping[str, Any]) -> bool:
        if not receipt.get("change_id"):
            return True
        info = self._api.read("get_change", "ChangeInfo", Id=receipt["change_id"])
        return bool(info.get("Status") == "INSYNC")

    # --- reading ---

    def read(self, zone: Zone, hostnames: Collection[str]) -> dict[str, Standing]:
        """One call a name: a zone may have hundreds of thousands of others."""
        return {hostname: listing.standing(self._api, zone, hostname)[0] for hostname in hostnames}

    def _found(self, wanted: WeightedSet) -> list[RecordSet]:
        return listing.standing(self._api, Zone(wanted.zone, wanted.zone_id), wanted.hostname)[1]

    @staticmethod
    def _mine(wanted: WeightedSet, found: Sequence[RecordSet]) -> list[RecordSet]:
        return [there for there in found if records.is_member(there, wanted.hostname, is_apex=wanted.is_apex)]

    # --- for people ---

    def preflight(self, zone: Zone, hostname: str) -> list[Check]:
        return checks.preflight(self._api, zone, hostname)

    def permissions(self, zone: Zone, hostnames: Sequence[str]) -> str:
        return policies.text(zone, hostnames, self.options)

    def script(self, wanted: WeightedSet) -> str:
        batch = {"Comment": f"tranche rev={wanted.generation}, by hand", "Changes": _changes([wanted], {})}
        split = ", ".join(f"{member.key} {member.percent} %" for member in wanted.members)
        endpoint = self.options.get("endpoint_url")
        command = [
            "aws", "route53", "change-resource-record-sets",
            *(["--endpoint-url", endpoint] if endpoint else []),
            "--hosted-zone-id", wanted.zone_id, "--change-batch",
        ]  # fmt: skip
        return "\n".join(
            [
                "#!/usr/bin/env bash",
                f"# {wanted.hostname}: {split}, TTL {wanted.ttl_seconds} s, {wanted.beacon_value}",
                f"# As whoever may change the zone {wanted.zone}. It can be run again. When all of Amazon’s servers have it:",
                "#   aws route53 wait resource-record-sets-changed --id <the Id that is printed>",
                "set -eu",
                "batch=$(mktemp)",
                "trap 'rm -f \"$batch\"' EXIT",
                "cat > \"$batch\" <<'JSON'",
                json.dumps(batch, indent=2),
                "JSON",
                f'{shlex.join(command)} "file://$batch"',
                "",
            ]
        )

    # --- data plane ---

    def arm(self, reference: str, beacon_url: str, marker: str) -> str:
        return health.arm(self._api, reference, beacon_url, marker)

    def disarm(self, health_check_id: str) -> None:
        health.disarm(self._api, health_check_id)


def _changes(wanted: Sequence[WeightedSet], expected: Mapping[str, RecordSet | None]) -> list[Change]:
    """Every member and the beacon of each; a beacon in `expected` takes the place of exactly that one."""
    changes: list[Change] = []
    for one in wanted:
        changes += map(records.upsert, records.member_sets(one))
        if one.beacon_name in expected:
            changes += records.replaced_beacon(one, expected[one.beacon_name])
        else:
            changes.append(records.upsert(records.beacon(one, one.generation)))
    return changes


def _refuse_stale(wanted: WeightedSet, standing: int) -> None:
    if standing > wanted.generation:
        raise ProviderError(
            f"{wanted.hostname}: rev={standing} stands there, which is newer than {wanted.beacon_value}",
            permanent=False,
            unknown=True,  # so that what stands there is read, and what was planned is planned anew
            trouble=Trouble.STALE,
        )


def _is_released(there: RecordSet, simple: RecordSet) -> bool:
    keys = "Type", "ResourceRecords", "AliasTarget", "SetIdentifier"
    return [there.get(key) for key in keys] == [simple.get(key) for key in keys]


def _foreign(record_set: RecordSet, more: str = "is not ours") -> ProviderError:
    return ProviderError(f"{records.described(record_set)} {more}", permanent=True, trouble=Trouble.FOREIGN)


def _no_zone(message: str) -> ProviderError:
    return ProviderError(message, permanent=True, trouble=Trouble.ZONE)
