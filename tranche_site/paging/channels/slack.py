"""Slack's incoming webhooks, and what takes the same: Mattermost, Rocket.Chat. A message each; they know no key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tranche_site.paging.channels import calling
from tranche_site.paging.channels.contract import Alarm, cut

SIGNS = {"trigger": "\N{POLICE CARS REVOLVING LIGHT}", "repeat": "\N{BELL}", "acknowledge": "\N{EYES}"}
OVER = "\N{WHITE HEAVY CHECK MARK}"


class Slack:
    fields = {"url": "The address of an incoming webhook; who has it can write into its channel."}
    optional: frozenset[str] = frozenset()

    def problems(self, settings: Mapping[str, Any]) -> dict[str, str]:
        problem = calling.url_problem(settings.get("url"))
        return {"url": problem} if problem else {}

    def send(self, alarm: Alarm, settings: Mapping[str, Any]) -> None:
        said = cut(f"{SIGNS.get(alarm.action, OVER)} {alarm.headline}", 1100)
        where = f" · <{alarm.url}|console>" if alarm.url else ""
        below = f"{alarm.severity} · since {alarm.opened_at:%Y-%m-%d %H:%M} UTC{where}"
        blocks = [
            # Plain: nothing in it becomes a link, or a mention of everybody.
            {"type": "section", "text": {"type": "plain_text", "text": said}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": below}]},
        ]
        calling.post(settings["url"], {"text": _escaped(said), "blocks": blocks})


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
