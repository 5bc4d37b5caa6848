"""Finding zones and records. Amazon lists *from* a position on, in the order of reversed labels, so neighbours come too."""

from __future__ import annotations

from typing import Any

from dns.providers.contract import BEACON_LABEL, ProviderError, Standing, Zone
from dns.providers.route53 import records
from dns.providers.route53.clients import Api
from dns.providers.route53.records import RecordSet

_MOST_PAGES = 5


def public_zones(api: Api, name: str) -> list[str]:
    """Ids of the public zones with exactly this name."""
    listed = api.read("list_hosted_zones_by_name", "HostedZones", DNSName=f"{name}.", MaxItems="100")
    return [
        zone["Id"].removeprefix("/hostedzone/")
        for zone in listed
        if records.is_at(zone, name) and not zone.get("Config", {}).get("PrivateZone", False)
    ]


def name_servers(zone: dict[str, Any]) -> list[str]:
    """Of what GetHostedZone answers; a private zone has none."""
    return [name.rstrip(".").lower() for name in zone.get("DelegationSet", {}).get("NameServers", ())]


def standing(api: Api, zone: Zone, hostname: str) -> tuple[Standing, list[RecordSet]]:
    """What stands at the hostname and at its beacon's name, judged, and as it is listed.

    The beacon's name comes soon after the hostname, so one page nearly always has both.
    """
    beacon_name = f"{BEACON_LABEL}.{hostname}"
    page, is_whole = _pages(api, zone.id, hostname)
    found = [there for there in page if records.is_at(there, hostname) or records.is_at(there, beacon_name)]
    if not is_whole and not any(records.is_at(there, beacon_name) for there in found):
        found += found_at(api, zone.id, beacon_name)
    is_apex = hostname == zone.name
    return records.standing(hostname, beacon_name, found, is_apex=is_apex), found


def found_at(api: Api, zone_id: str, name: str) -> list[RecordSet]:
    return [there for there in _pages(api, zone_id, name)[0] if records.is_at(there, name)]


def _pages(api: Api, zone_id: str, name: str) -> tuple[list[RecordSet], bool]:
    """From the name on, at least to its end; and whether that is the zone's end.

    Without the identifier, pages that end within a weighted set would repeat, or look as if the rest were gone.
    """
    found: list[RecordSet] = []
    start: dict[str, Any] = {"StartRecordName": f"{name}."}
    for _ in range(_MOST_PAGES):
        page = api.read("list_resource_record_sets", HostedZoneId=zone_id, MaxItems="100", **start)
        found += page.get("ResourceRecordSets", ())
        if not page.get("IsTruncated"):
            return found, True
        if page.get("NextRecordName", "").rstrip(".").lower() != name.lower():
            return found, False
        start = {
            f"Start{key}": page[f"Next{key}"]
            for key in ("RecordName", "RecordType", "RecordIdentifier")
            if f"Next{key}" in page
        }
    raise ProviderError(f"{name} has more records than {_MOST_PAGES} pages hold", permanent=True)


def protections(api: Api, zone_id: str, name: str) -> list[dict[str, Any]]:
    """Of all types at the name: a page holds hundreds, and a name has few types."""
    page = api.read("list_resource_record_set_protections", HostedZoneId=zone_id, StartRecordName=f"{name}.")
    found = page.get("ResourceRecordSetProtections", ())
    return [there for there in found if records.is_at({"Name": there["RecordName"]}, name)]
