"""PagerDuty: Events API v2. One incident a dedup key, however often it is triggered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tranche_site.paging.channels import calling
from tranche_site.paging.channels.contract import Alarm, cut

URL = "https://events.pagerduty.com/v2/enqueue"
_ACTIONS = {"trigger": "trigger", "repeat": "trigger", "acknowledge": "acknowledge", "resolve": "resolve"}
_KEY = re.compile(r"[A-Za-z0-9]{32}")


class PagerDuty:
    fields = {
        "routing_key": "The integration key of an Events API v2 integration: 32 letters and digits.",
        "api_url": f"Empty for {URL}; https://events.eu.pagerduty.com/v2/enqueue for accounts in the EU.",
    }
    optional = frozenset({"api_url"})

    def problems(self, settings: Mapping[str, Any]) -> dict[str, str]:
        found = {}
        if not _KEY.fullmatch(str(settings.get("routing_key", ""))):
            found["routing_key"] = "An integration key has 32 letters and digits."
        if settings.get("api_url") and (problem := calling.url_problem(settings["api_url"])):
            found["api_url"] = problem
        return found

    def send(self, alarm: Alarm, settings: Mapping[str, Any]) -> None:
        body: dict[str, Any] = {
            "routing_key": settings["routing_key"],
            "event_action": _ACTIONS[alarm.action],
            "dedup_key": alarm.key,
        }
        if body["event_action"] == "trigger":
            body |= {
                "client": "Tranche",
                "payload": {
                    "summary": cut(alarm.summary, 1024),
                    "source": "Tranche",
                    "severity": alarm.severity,
                    "timestamp": alarm.opened_at.isoformat(),
                },
            }
            if alarm.url:
                body |= {"client_url": alarm.url, "links": [{"href": alarm.url, "text": "Console"}]}
        calling.post(settings.get("api_url") or URL, body)
