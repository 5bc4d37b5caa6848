"""The provider that only logs: for services that want to see what would be done."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from dns.providers.contract import Provider, Receipt, Standing, WeightedSet, Zone, candidate_zones

logger = logging.getLogger(__name__)


class LogProvider(Provider):
    answers = False
    is_metered = False
    most_per_write = 200

    def find_zone(self, hostname: str) -> Zone:
        return Zone(candidate_zones(hostname)[-1])

    def apply(self, wanted: Sequence[WeightedSet]) -> Receipt:
        logged = [self._say("write", one) for one in wanted]
        return Receipt(details={"logged": logged[0] if len(logged) == 1 else logged})

    def read(self, zone: Zone, hostnames: Collection[str]) -> dict[str, Standing]:
        """Nothing stands anywhere."""
        return {hostname: Standing(hostname) for hostname in hostnames}

    def adopt(self, wanted: WeightedSet) -> Receipt:
        return Receipt(details={"logged": self._say("adopt", wanted)})

    def release(self, wanted: WeightedSet, target: str) -> Receipt:
        return Receipt(details={"logged": self._say(f"release to {target}", wanted)})

    def _say(self, what: str, wanted: WeightedSet) -> str:
        split = ", ".join(f"{member.percent} % {member.target}" for member in wanted.members)
        logger.info(
            "would %s %s: %s (%s, TTL %s s)", what, wanted.hostname, split, wanted.beacon_value, wanted.ttl_seconds
        )
        return split
