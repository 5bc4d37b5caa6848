"""When the next mail of a story is due. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

GATHER = timedelta(seconds=60)
"""What comes in so close together is one mail."""
APART = timedelta(minutes=30)
"""At most one mail a story so often, save its end."""


def due_at(
    pending_since: datetime | None, last_sent_at: datetime | None, *, is_over: bool, last_was_end: bool
) -> datetime | None:
    """None while there is nothing to tell. The end is told soon, but not two ends in a row: a story that flickers is
    told every half an hour."""
    if pending_since is None:
        return None
    gathered = pending_since + GATHER
    if last_sent_at is None or (is_over and not last_was_end):
        return gathered
    return max(gathered, last_sent_at + APART)
