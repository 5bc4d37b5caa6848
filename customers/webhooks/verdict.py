"""What an answer to a webhook means. Pure.

Tries are spread over three days, as Standard Webhooks proposes. What says something of the receiver (no answer, 5xx, too many
requests) holds back all that is to be sent to it; what says something of this one message (other 4xx) does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

WAITS = (
    timedelta(seconds=5), timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2), timedelta(hours=5),
    timedelta(hours=10), timedelta(hours=14), timedelta(hours=20), timedelta(hours=24),
)  # fmt: skip
"""Between one try and the next: ten tries within 75 h 35 min 5 s."""
TRIES = len(WAITS) + 1
LONGEST_HOLD = timedelta(minutes=5)
"""A receiver that is down is looked at this often, whatever the schedule of single messages says."""
LONGEST_RETRY_AFTER = timedelta(hours=24)
GIVEN_UP_AFTER = timedelta(days=3)
GONE = 410
_OF_THE_RECEIVER = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status, or an error and no status."""

    status: int | None
    error: str = ""
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Without `next_attempt_at` it is settled: delivered or, with a reason to stop, dead. `held_until`: nothing else is sent
    before that. `disables` is why the endpoint gets nothing more."""

    is_delivered: bool
    next_attempt_at: datetime | None = None
    held_until: datetime | None = None
    is_failure: bool = False
    disables: str = ""


def judge(answer: Answer, attempts: int, failing_since: datetime | None, now: datetime, jitter: float = 0.0) -> Verdict:
    """`attempts` counts this one; `jitter` in [-0.1, 0.1] spreads what failed together."""
    status = answer.status
    if status is not None and 200 <= status < 300:
        return Verdict(is_delivered=True)
    if status == GONE:
        return Verdict(is_delivered=False, disables="It answered 410 Gone.")
    next_at = None
    if attempts < TRIES:
        wait = WAITS[attempts - 1] * (1 + jitter)
        if answer.retry_after is not None:
            wait = max(wait, min(answer.retry_after, LONGEST_RETRY_AFTER))
        next_at = now + wait
    if status is not None and 400 <= status < 500 and status not in _OF_THE_RECEIVER:
        return Verdict(is_delivered=False, next_attempt_at=next_at)
    if failing_since is not None and now - failing_since >= GIVEN_UP_AFTER:
        return Verdict(is_delivered=False, is_failure=True, disables="Nothing could be delivered for three days.")
    longest = now + (LONGEST_HOLD if answer.retry_after is None else min(answer.retry_after, LONGEST_RETRY_AFTER))
    return Verdict(
        is_delivered=False, next_attempt_at=next_at, is_failure=True,
        held_until=longest if next_at is None or answer.retry_after is not None else min(next_at, longest),
    )  # fmt: skip
