"""Token buckets: how often something may be done. The clock is the caller's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key")
Owner = TypeVar("Owner")


@dataclass(slots=True)
class Bucket:
    """Full at first. Holds `depth` tokens at most and gains `rate` a second; a rate of 0 has no limit."""

    rate: float
    depth: float
    tokens: float = field(init=False)
    filled_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.tokens = self.depth

    def take(self, now: float) -> bool:
        if not self.rate:
            return True
        self.tokens = min(self.depth, self.tokens + max(now - self.filled_at, 0.0) * self.rate)
        self.filled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Buckets(Generic[Key]):
    """One bucket a key, each with two seconds' worth of depth. Those that are full again are forgotten."""

    FORGET_AT = 10_000

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._buckets: dict[Key, Bucket] = {}

    def take(self, key: Key, now: float) -> bool:
        if not self.rate:
            return True
        bucket = self._buckets.get(key)
        if bucket is None:
            self._forget(now)
            bucket = self._buckets[key] = Bucket(self.rate, max(2 * self.rate, 1.0))
        return bucket.take(now)

    def _forget(self, now: float) -> None:
        if len(self._buckets) >= self.FORGET_AT:
            self._buckets = {k: b for k, b in self._buckets.items() if now - b.filled_at < 2}


class Shares(Generic[Key, Owner]):
    """A rate for each key, shared out evenly among the owners who have asked within the last minute: one that asks for
    too much takes nothing from another."""

    ACTIVE_SECONDS = 60.0

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._buckets: dict[Key, dict[Owner, Bucket]] = {}

    def take(self, key: Key, owner: Owner, now: float) -> bool:
        if not self.rate:
            return True
        if key not in self._buckets and len(self._buckets) >= Buckets.FORGET_AT:
            self._buckets = {k: there for k, o in self._buckets.items() if (there := self._active(o, now))}
        owners = self._active(self._buckets.get(key, {}), now)
        self._buckets[key] = owners
        share = self.rate / (len(owners) + (owner not in owners))
        bucket = owners.setdefault(owner, Bucket(share, max(2 * share, 1.0)))
        bucket.rate, bucket.depth = share, max(2 * share, 1.0)
        return bucket.take(now)

    def _active(self, owners: dict[Owner, Bucket], now: float) -> dict[Owner, Bucket]:
        return {owner: bucket for owner, bucket in owners.items() if now - bucket.filled_at <= self.ACTIVE_SECONDS}
