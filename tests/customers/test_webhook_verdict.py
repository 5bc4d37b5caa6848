"""What an answer means: tables, since it is pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from customers.webhooks.verdict import LONGEST_HOLD, TRIES, WAITS, Answer, judge

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def test_ten_tries_in_three_days() -> None:
    assert TRIES == 10
    assert sum(WAITS, timedelta()) == 75 * HOUR + 35 * MINUTE + 5 * SECOND
    assert [judge(Answer(500), n, None, NOW).next_attempt_at for n in range(1, 10)] == [NOW + wait for wait in WAITS]
    assert judge(Answer(500), 10, None, NOW).next_attempt_at is None


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_delivered(status: int) -> None:
    found = judge(Answer(status), 1, NOW - 10 * HOUR, NOW)
    assert found.is_delivered and not found.is_failure and found.held_until is None


@pytest.mark.parametrize("answer", [Answer(None, "timed out"), *map(Answer, (301, 302, 408, 425, 429, 500, 502, 503))])
def test_what_says_something_of_the_receiver_holds_the_rest_back(answer: Answer) -> None:
    found = judge(answer, 1, None, NOW)
    assert not found.is_delivered and found.is_failure
    assert found.held_until == found.next_attempt_at == NOW + 5 * SECOND
    # Later the next message has its turn before this one: it may be this one that is the trouble.
    found = judge(answer, 3, None, NOW)
    assert (found.held_until, found.next_attempt_at) == (NOW + LONGEST_HOLD, NOW + 30 * MINUTE)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422])
def test_what_says_something_of_this_message_does_not(status: int) -> None:
    found = judge(Answer(status), 1, None, NOW)
    assert (found.is_failure, found.held_until, found.next_attempt_at) == (False, None, NOW + 5 * SECOND)


def test_gone_is_gone() -> None:
    assert judge(Answer(410), 1, None, NOW).disables == "It answered 410 Gone."
    assert judge(Answer(410), 1, None, NOW).next_attempt_at is None


@pytest.mark.parametrize(
    ("asked", "attempts", "waits"),
    [(2 * MINUTE, 1, 2 * MINUTE), (SECOND, 1, 5 * SECOND), (90 * HOUR, 1, 24 * HOUR), (MINUTE, 4, 2 * HOUR)],
)
def test_who_asks_for_time_is_given_it(asked: timedelta, attempts: int, waits: timedelta) -> None:
    found = judge(Answer(503, retry_after=asked), attempts, None, NOW)
    assert found.next_attempt_at == NOW + waits
    assert found.held_until == NOW + min(asked, 24 * HOUR)


def test_three_days_without_an_answer_end_it() -> None:
    assert not judge(Answer(500), 9, NOW - 72 * HOUR + SECOND, NOW).disables
    assert judge(Answer(500), 9, NOW - 72 * HOUR, NOW).disables == "Nothing could be delivered for three days."
    assert not judge(Answer(404), 9, NOW - 72 * HOUR, NOW).disables  # it does answer


def test_jitter_spreads() -> None:
    assert judge(Answer(500), 2, None, NOW, 0.1).next_attempt_at == NOW + 5.5 * MINUTE
    assert judge(Answer(500), 2, None, NOW, -0.1).next_attempt_at == NOW + 4.5 * MINUTE
