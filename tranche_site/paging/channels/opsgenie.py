"""Opsgenie: Alert API. One alert an alias, however often it is created."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tranche_site.paging.channels import calling
from tranche_site.paging.channels.contract import Alarm, cut

URL = "https://api.opsgenie.com"
PRIORITIES = {"critical": "P1", "error": "P2", "warning": "P3", "info": "P5"}


class Opsgenie:
    fields = {
        "api_key": "The key of an API integration.",
        "api_url": f"Empty for {URL}; https://api.eu.opsgenie.com for accounts in the EU.",
    }
    optional = frozenset({"api_url"})

    def problems(self, settings: Mapping[str, Any]) -> dict[str, str]:
        found = {}
        key = str(settings.get("api_key", ""))
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            found["api_key"] = "A key has letters, digits and hyphens."
        if settings.get("api_url") and (problem := calling.url_problem(settings["api_url"])):
            found["api_url"] = problem
        return found

    def send(self, alarm: Alarm, settings: Mapping[str, Any]) -> None:
        base = f"{(settings.get('api_url') or URL).rstrip('/')}/v2/alerts"
        headers = {"Authorization": f"GenieKey {settings['api_key']}"}
        if alarm.action in ("trigger", "repeat"):
            body = {
                "message": cut(alarm.summary, 130),
                "alias": alarm.key,
                "description": cut("\n\n".join(part for part in (alarm.summary, alarm.url) if part), 15_000),
                "priority": PRIORITIES[alarm.severity],
                "source": "Tranche",
                "tags": [alarm.severity],
            }
            calling.post(base, body, headers)
            return
        verb = "close" if alarm.action == "resolve" else "acknowledge"
        said = {"source": "Tranche", "note": cut(alarm.headline, 25_000)}
        if alarm.by:
            said["user"] = cut(alarm.by, 100)
        calling.post(f"{base}/{quote(alarm.key, safe='')}/{verb}?identifierType=alias", said, headers)
