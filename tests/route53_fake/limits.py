"""Rate limits: a bucket of tokens per account, and one per account and action."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.route53_fake.errors import Refusal


@dataclass(frozen=True, slots=True)
class Limit:
    capacity: float
    refill: float
    """Tokens a second."""


ACCOUNT = Limit(50, 10)
ACTIONS = {
    "CreateHealthCheck": Limit(50, 0.5),
    "DeleteHealthCheck": Limit(15, 3),
    "GetHealthCheckStatus": Limit(4, 1),
}
_ANY = ""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


@dataclass(slots=True)
class Limits:
    _limits: dict[tuple[str, str], Limit] = field(
        default_factory=lambda: {(_ANY, _ANY): ACCOUNT} | {(_ANY, action): limit for action, limit in ACTIONS.items()}
    )
    _buckets: dict[tuple[str, str], _Bucket] = field(default_factory=dict)

    def set(self, limit: Limit, account: str = _ANY, action: str = _ANY) -> None:
        """For one account or all, for one action or their sum; what is set has a full bucket."""
        self._limits[account, action] = limit
        self._buckets.clear()

    def take(self, account: str, action: str, now: float) -> None:
        """Raises Refusal. A call that is refused costs nothing."""
        buckets = []
        for kind in (_ANY, action):
            limit = self._limits.get((account, kind)) or self._limits.get((_ANY, kind))
            if limit is None:
                continue
            bucket = self._buckets.setdefault((account, kind), _Bucket(limit.capacity, now))
            bucket.tokens = min(limit.capacity, bucket.tokens + max(0.0, now - bucket.at) * limit.refill)
            bucket.at = now
            buckets.append(bucket)
        if any(bucket.tokens < 1 for bucket in buckets):
            raise throttled()
        for bucket in buckets:
            bucket.tokens -= 1


def throttled() -> Refusal:
    return Refusal("Throttling", "Rate exceeded")
