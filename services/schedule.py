"""When a target is probed: a phase that is stable for ever, slots that are dropped when late. Pure."""

from __future__ import annotations

import math
import zlib


def phase_seconds(target_id: int, rank: int, vantage_points: int, interval_seconds: float) -> float:
    """Where in its interval a target is probed: a hash spreads targets, the rank spreads the vantage points of one target.

    `rank` is the vantage point's place (0 …) among the `vantage_points` that probe.
    """
    spread = zlib.crc32(str(target_id).encode()) / 2**32 * interval_seconds
    return (spread + rank / max(vantage_points, 1) * interval_seconds) % interval_seconds


def slot_at_or_before(now: float, interval_seconds: float, phase: float) -> float:
    """The start of the newest slot that is not after `now` (seconds since 1970, UTC)."""
    return math.floor((now - phase) / interval_seconds) * interval_seconds + phase


def next_slot(now: float, interval_seconds: float, phase: float) -> float:
    """The next slot after `now`."""
    return slot_at_or_before(now, interval_seconds, phase) + interval_seconds


def is_late(now: float, slot: float, interval_seconds: float) -> bool:
    """Whether a slot is so late that it is dropped, not caught up: a backlog would only measure the backlog."""
    return now - slot > interval_seconds / 2
