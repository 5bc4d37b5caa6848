"""How much a caller may ask: a sliding window, counted in Valkey by one script, so that no two processes let too much pass.

The window that ended counts by the share of it that still lies within the last `window_seconds`; so there is no moment,
as at the edges of fixed windows, at which twice the quota gets through. Without Valkey each process goes on by itself, with
a quarter of the quota: fewer answers rather than none, and no caller is let loose.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import redis
from django.conf import settings

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 60
ALONE_SHARE = 4
"""Without Valkey each process lets the quota divided by this pass."""
TIMEOUT_SECONDS = 0.1
PAUSE_SECONDS = 5.0
"""So long Valkey is left in peace after it did not answer: a caller should wait for it once, not each time."""
_MOST_ALONE = 10_000

_TAKE = """
local time = redis.call('TIME')
local now, window = time[1] + time[2] / 1000000, tonumber(ARGV[1])
local slot = math.floor(now / window)
local into = now - slot * window
local answer, counts, refused = {}, {}, 0
for i, key in ipairs(KEYS) do
    local row = redis.call('HMGET', key, 's', 'c', 'p')
    local at, count, before = tonumber(row[1] or -1), tonumber(row[2] or 0), tonumber(row[3] or 0)
    if at == slot - 1 then before, count = count, 0 elseif at ~= slot then before, count = 0, 0 end
    local used = count + before * (1 - into / window)
    counts[i] = {count, before, used}
    if used + 1 > tonumber(ARGV[i + 1]) then refused = 1 end
end
for i, key in ipairs(KEYS) do
    local count, before, used = counts[i][1], counts[i][2], counts[i][3]
    if refused == 0 then
        count, used = count + 1, used + 1
        redis.call('HSET', key, 's', slot, 'c', count, 'p', before)
        redis.call('EXPIRE', key, math.ceil(2 * window))
    end
    answer[i] = string.format('%d %d %.6f', count, before, used)
end
return {refused, string.format('%.6f', into), answer}
"""


@dataclass(frozen=True, slots=True)
class Quota:
    """So many requests in WINDOW_SECONDS; `name` is what the headers call it, `key` whose it is."""

    name: str
    key: str
    most: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`left` requests of the tightest quota; in `after_seconds` there is room again (where refused) or all of it."""

    quota: Quota
    is_allowed: bool
    left: int
    after_seconds: int

    @property
    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers has them."""
        found = {
            "RateLimit-Policy": f'"{self.quota.name}";q={self.quota.most};w={WINDOW_SECONDS}',
            "RateLimit": f'"{self.quota.name}";r={self.left};t={self.after_seconds}',
        }
        return found if self.is_allowed else found | {"Retry-After": str(self.after_seconds)}


def take(quotas: Sequence[Quota]) -> Verdict:
    """Count one request against all these quotas, or against none of them if one is used up. Returns the tightest."""
    return _limiter().take(quotas)


@cache
def _limiter() -> Limiter:
    return Limiter(settings.REDIS_URL or settings.EMBEDDED.redis_url)


class Limiter:
    def __init__(self, url: str, prefix: str = "rate") -> None:
        self._prefix = prefix
        self._client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS)
        self._script = self._client.register_script(_TAKE)
        self._away_until = 0.0
        self._alone = _Alone()

    def take(self, quotas: Sequence[Quota]) -> Verdict:
        if time.monotonic() >= self._away_until:
            try:
                return self._ask(quotas)
            except redis.RedisError as error:
                self._away_until = time.monotonic() + PAUSE_SECONDS
                logger.warning("rate limits are kept by each process alone: %s", error)
        return self._alone.take(quotas)

    def _ask(self, quotas: Sequence[Quota]) -> Verdict:
        refused, into, rows = self._script(
            keys=[f"{self._prefix}:{quota.name}:{quota.key}" for quota in quotas],
            args=[WINDOW_SECONDS, *(quota.most for quota in quotas)],
        )
        used = [tuple(map(float, row.split())) for row in rows]
        return _tightest(quotas, used, float(into), is_allowed=not refused)


class _Alone:
    """The same in memory, for one process."""

    def __init__(self) -> None:
        self._rows: OrderedDict[tuple[str, str], tuple[int, int, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, quotas: Sequence[Quota]) -> Verdict:
        few = [Quota(quota.name, quota.key, max(quota.most // ALONE_SHARE, 1)) for quota in quotas]
        slot, into = divmod(time.time(), WINDOW_SECONDS)
        with self._lock:
            used = [self._used(quota, int(slot), into) for quota in few]
            is_allowed = all(row[2] + 1 <= quota.most for row, quota in zip(used, few, strict=True))
            if is_allowed:
                used = [(count + 1, before, sum_ + 1) for count, before, sum_ in used]
                for quota, (count, before, _) in zip(few, used, strict=True):
                    self._rows[quota.name, quota.key] = int(slot), int(count), int(before)
                    self._rows.move_to_end((quota.name, quota.key))
            while len(self._rows) > _MOST_ALONE:
                self._rows.popitem(last=False)
        return _tightest(few, used, into, is_allowed=is_allowed)

    def _used(self, quota: Quota, slot: int, into: float) -> tuple[float, float, float]:
        at, count, before = self._rows.get((quota.name, quota.key), (-1, 0, 0))
        if at == slot - 1:
            before, count = count, 0
        elif at != slot:
            before = count = 0
        return count, before, count + before * (1 - into / WINDOW_SECONDS)


def _tightest(quotas: Sequence[Quota], used: Sequence[tuple[float, ...]], into: float, *, is_allowed: bool) -> Verdict:
    quota, (count, before, sum_) = min(
        zip(quotas, used, strict=True), key=lambda pair: (pair[0].most - pair[1][2]) / pair[0].most
    )
    left = max(math.floor(quota.most - sum_), 0)
    after = _room_after(quota.most, count, before, into) if not is_allowed else WINDOW_SECONDS - into
    return Verdict(quota, is_allowed, left, max(math.ceil(after), 1))


def _room_after(most: int, count: float, before: float, into: float) -> float:
    """Seconds until one more fits: while this window lasts, the one before fades; then this one does."""
    if before and count + 1 <= most:
        wanted = WINDOW_SECONDS * (1 - (most - 1 - count) / before)
        if wanted <= WINDOW_SECONDS:
            return max(wanted - into, 0)
    fades = WINDOW_SECONDS * (1 - (most - 1) / count) if count > most - 1 else 0
    return WINDOW_SECONDS - into + fades
