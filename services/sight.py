"""Whether a vantage point sees: if everything fails, it is us. Pure; the clock is the caller's and monotonic.

A blind vantage point goes on probing. Its samples are kept, marked, and have no vote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

CLOCK_OFF_SECONDS = 30.0
EVERYTHING_CDNS, EVERYTHING_OWNERS = 2, 3
"""Nothing good from so many CDNs and so many customers (or us, for reference sites): no one of them explains it."""


@dataclass(slots=True)
class Sight:
    """What one vantage point was told by its probes. `patience_seconds`: how long a result counts, about two rounds."""

    patience_seconds: float
    canaries: dict[int, tuple[float, bool]] = field(default_factory=dict)
    """Newest result by target: (when, whether it was good)."""
    looks: deque[tuple[float, int, bool]] = field(default_factory=deque)
    """All results of canaries of the last two rounds, oldest first: (when, target, whether it was good)."""
    trouble: tuple[float, str] | None = None
    """The last time that the prober itself could not probe, and why."""
    good_at: float | None = None
    """When a path or reference site was good last; before the first one, when the first failed."""
    failing: set[tuple[int | None, int | None]] = field(default_factory=set)
    """(CDN, customer) of what has failed since, nothing being good meanwhile."""
    _is_settled: bool = False

    def note_canary(self, target_id: int, is_good: bool, now: float) -> None:
        self.canaries[target_id] = (now, is_good)
        self.looks.append((now, target_id, is_good))

    def note_site(self, cdn_id: int | None, owner: int | None, is_good: bool, now: float) -> None:
        """`owner` is the customer, or None for a reference site of ours."""
        if is_good:
            self.good_at = now
            self.failing.clear()
        else:
            if self.good_at is None:
                self.good_at = now
            self.failing.add((cdn_id, owner))

    def note_trouble(self, reason: str, now: float) -> None:
        self.trouble = (now, reason)

    def judge(self, networks: Mapping[str, Collection[int]], clock_off_seconds: float, now: float) -> str:
        """Why it is blind, or "". `networks` are the canaries' ids by the network that they stand on.

        Without canaries nothing can be said by them. A network counts as seen if one of its canaries was good lately.
        """
        if abs(clock_off_seconds) > CLOCK_OFF_SECONDS:
            return f"its clock is {clock_off_seconds:+.0f} s off the database's"
        if self.trouble and now - self.trouble[0] <= self.patience_seconds:
            return self.trouble[1]
        dark = [name for name, ids in networks.items() if not any(self._is_seen(i, now) for i in ids)]
        if networks and len(dark) * 2 >= len(networks):
            return f"the canaries of {len(dark)} of {len(networks)} networks fail or are silent"
        failed, looks = self._losses(now)
        if failed * 3 > looks:
            return f"{failed} of {looks} looks at canaries that answer failed lately"
        if self._sees_nothing_good(now):
            return f"all that it probes fails, of {len({owner for _, owner in self.failing})} owners"
        return ""

    def settle(self, networks: Mapping[str, Collection[int]]) -> bool:
        """Whether there was a first round, in which every canary answered or failed. One that is added later changes
        nothing about that."""
        self._is_settled = self._is_settled or all(i in self.canaries for ids in networks.values() for i in ids)
        return self._is_settled

    def _is_seen(self, target_id: int, now: float) -> bool:
        result = self.canaries.get(target_id)
        return result is not None and result[1] and now - result[0] <= self.patience_seconds

    def _losses(self, now: float) -> tuple[int, int]:
        """Of the looks at canaries that were good at least once lately, how many failed, and how many there were.

        Loss on our own line spoils every path by chance, the primary sooner or later alone. A dark canary is no loss.
        """
        while self.looks and now - self.looks[0][0] > self.patience_seconds:
            self.looks.popleft()
        alive = {target for _, target, is_good in self.looks if is_good}
        looks = [is_good for _, target, is_good in self.looks if target in alive]
        return looks.count(False), len(looks)

    def _sees_nothing_good(self, now: float) -> bool:
        return (
            self.good_at is not None
            and now - self.good_at > self.patience_seconds
            and len({cdn for cdn, _ in self.failing}) >= EVERYTHING_CDNS
            and len({owner for _, owner in self.failing}) >= EVERYTHING_OWNERS
        )
