"""Health checks on our beacon: they lead traffic away from a member without a call to the API, which may be what is down."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from dns.providers.contract import ProviderError, is_hostname
from dns.providers.route53 import refusals
from dns.providers.route53.clients import Api

_MOST_PAGES = 20
_NEVER_CHANGED = ("Type", "RequestInterval")


def arm(api: Api, reference: str, beacon_url: str, marker: str) -> str:
    """Inverted: the check fails while the marker is found, so that a beacon which can't be reached shifts nobody."""
    config = _config(beacon_url, marker)
    try:
        made = api.write("create_health_check", "HealthCheck", CallerReference=reference, HealthCheckConfig=config)
    except ProviderError as error:
        if refusals.code_of(error) != "HealthCheckAlreadyExists":
            raise
        made = _made_before(api, reference)
        changed = {key: value for key, value in config.items() if key not in _NEVER_CHANGED}
        api.write("update_health_check", HealthCheckId=made["Id"], **changed)
    return str(made["Id"])


def disarm(api: Api, health_check_id: str) -> None:
    try:
        api.write("delete_health_check", HealthCheckId=health_check_id)
    except ProviderError as error:
        if refusals.code_of(error) != "NoSuchHealthCheck":
            raise


def _made_before(api: Api, reference: str) -> dict[str, Any]:
    """The health check that has this reference, and other settings."""
    more: dict[str, str] = {}
    for _ in range(_MOST_PAGES):
        page = api.read("list_health_checks", MaxItems="100", **more)
        for check in page.get("HealthChecks", ()):
            if check["CallerReference"] == reference:
                return dict(check)
        if not page.get("IsTruncated"):
            break
        more = {"Marker": page["NextMarker"]}
    raise ProviderError(
        f"the health check with the reference {reference} was deleted, and Amazon takes no reference twice",
        permanent=True,
    )


def _config(beacon_url: str, marker: str) -> dict[str, Any]:
    url = urlsplit(beacon_url)
    host = url.hostname or ""
    if url.scheme != "https" or not is_hostname(host) or not marker:
        raise ProviderError(f"a beacon is a marker at an https URL with a name in it, not {beacon_url}", permanent=True)
    return {
        "Type": "HTTPS_STR_MATCH",
        "FullyQualifiedDomainName": host,
        "Port": url.port or 443,
        "ResourcePath": f"{url.path or '/'}{f'?{url.query}' if url.query else ''}",
        "SearchString": marker,
        "Inverted": True,
        "RequestInterval": 10,
        "FailureThreshold": 3,
        "EnableSNI": True,
    }
