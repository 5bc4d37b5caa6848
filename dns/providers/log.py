"""The provider that only logs: for services that want to see what would be done."""

from __future__ import annotations

import logging

from dns.providers.contract import Provider, Receipt, WeightedSet, Zone, candidate_zones

logger = logging.getLogger(__name__)


class LogProvider(Provider):
    def find_zone(self, hostname: str) -> Zone:
        return Zone(candidate_zones(hostname)[-1])

    def apply(self, wanted: WeightedSet) -> Receipt:
        split = ", ".join(f"{member.percent} % {member.target}" for member in wanted.members)
        logger.info(
            "would write %s: %s (%s, TTL %s s)", wanted.hostname, split, wanted.beacon_value, wanted.ttl_seconds
        )
        return Receipt(details={"logged": split})

    @property
    def answers(self) -> bool:
        return False
