"""The vendors that call people: one file each."""

from __future__ import annotations

from tranche_site.paging.channels.contract import Alarm, Channel, ChannelError
from tranche_site.paging.channels.email import Email
from tranche_site.paging.channels.opsgenie import Opsgenie
from tranche_site.paging.channels.pagerduty import PagerDuty
from tranche_site.paging.channels.slack import Slack

VENDORS: dict[str, Channel] = {
    "pagerduty": PagerDuty(),
    "opsgenie": Opsgenie(),
    "slack": Slack(),
    "email": Email(),
}

__all__ = ["VENDORS", "Alarm", "Channel", "ChannelError"]
