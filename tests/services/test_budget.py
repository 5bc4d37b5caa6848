"""Token buckets, against a count of what they let through."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.budget import Bucket, Buckets, Shares


@given(st.floats(0.1, 50), st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_no_span_of_time_holds_more_than_rate_and_depth_allow(rate: float, waits: list[float]) -> None:
    bucket, now, taken = Bucket(rate, 5), 100.0, []
    for wait in waits:
        now += wait
        if bucket.take(now):
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= 5 + rate * (taken[last] - taken[first]) + 1e-6


def test_what_it_holds_back_comes_again_in_time() -> None:
    bucket = Bucket(2.0, 2)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(0.5), bucket.take(0.5)] == [True, False]


def test_a_rate_of_nothing_is_no_limit() -> None:
    assert all(Bucket(0, 0).take(0.0) for _ in range(100))
    assert all(Buckets(0).take("a", 0.0) for _ in range(100))


def test_keys_have_a_bucket_each_and_old_ones_are_forgotten() -> None:
    buckets: Buckets[int] = Buckets(1.0)
    assert [buckets.take(1, 0.0), buckets.take(1, 0.0), buckets.take(1, 0.0), buckets.take(2, 0.0)] == [
        True, True, False, True,
    ]  # fmt: skip
    for key in range(3 * Buckets.FORGET_AT):
        buckets.take(key, key / 100)
    assert len(buckets._buckets) <= Buckets.FORGET_AT + 1


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bucket = Bucket(1.0, 1)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)


def test_who_asks_for_too_much_takes_nothing_from_another() -> None:
    """One account floods an address; the other asks twice a second, and is never refused once it has begun."""
    shares: Shares[str, int] = Shares(20.0)
    granted = {1: 0, 2: 0}
    for tick in range(10_000):  # ten seconds
        now = tick / 1000
        granted[1] += shares.take("192.0.2.1", 1, now)
        if tick % 500 == 0:
            assert shares.take("192.0.2.1", 2, now), now
            granted[2] += 1
    assert granted[2] == 20
    assert granted[1] <= 10 * 10 + 2 * 20
    assert shares.take("192.0.2.9", 1, 10.0), "another address is another matter"


def test_one_owner_alone_has_it_all_and_those_who_left_count_no_more() -> None:
    shares: Shares[str, int] = Shares(10.0)
    assert sum(shares.take("a", 1, n / 100) for n in range(1000)) >= 100
    shares.take("a", 2, 10.0)
    assert sum(shares.take("a", 1, 100 + n / 100) for n in range(1000)) >= 100
