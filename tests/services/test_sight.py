"""Whether a vantage point sees: a table of what its probes told it."""

from __future__ import annotations

import pytest

from services.sight import Sight

PATIENCE = 20.0
NETWORKS = {"AS1": [1], "AS2": [2, 22], "AS3": [3]}
NOW = 1000.0


def sight(good: set[int] = frozenset(), bad: set[int] = frozenset(), at: float = NOW) -> Sight:
    seen = Sight(PATIENCE)
    for target in good:
        seen.note_canary(target, True, at)
    for target in bad:
        seen.note_canary(target, False, at)
    return seen


@pytest.mark.parametrize(
    ("good", "bad", "blind"),
    [
        ({1, 2, 22, 3}, set(), False),
        ({1, 2, 3}, {22}, False),
        ({2, 3}, {1}, False),  # one network of three may fail: it is that network
        ({2, 22}, {1, 3}, True),  # two canaries on one network are one witness
        ({1}, {2, 22, 3}, True),
        (set(), {1, 2, 22, 3}, True),
        (set(), set(), True),  # silence is no sight
    ],
)
def test_a_majority_of_networks_must_be_seen(good: set[int], bad: set[int], blind: bool) -> None:
    assert bool(sight(good, bad).judge(NETWORKS, 0.0, NOW)) is blind


def test_of_two_networks_one_is_not_enough() -> None:
    two = {"AS1": [1], "AS2": [2]}
    assert sight({1}, {2}).judge(two, 0.0, NOW) == "the canaries of 1 of 2 networks fail or are silent"
    assert sight({1, 2}).judge(two, 0.0, NOW) == ""


def test_a_result_counts_for_two_rounds() -> None:
    seen = sight({1, 2, 3}, at=NOW - PATIENCE)
    assert seen.judge(NETWORKS, 0.0, NOW) == ""
    assert seen.judge(NETWORKS, 0.0, NOW + 0.1)


def test_a_bad_round_is_remembered_for_two() -> None:
    seen = sight({1, 2, 3})
    for target in (1, 2, 3):
        seen.note_canary(target, False, NOW + 1)
    assert seen.judge(NETWORKS, 0.0, NOW + 1)
    for target in (1, 2):
        seen.note_canary(target, True, NOW + 2)
    assert seen.judge(NETWORKS, 0.0, NOW + 2) == "3 of 8 looks at canaries that answer failed lately"
    for target in (1, 2, 3):
        seen.note_canary(target, True, NOW + 3)
    assert seen.judge(NETWORKS, 0.0, NOW + 3) == "", "now it is less than a third"


def test_loss_on_our_own_line_is_seen_though_the_newest_looks_are_good() -> None:
    """A third of all packets lost spoils every path by chance, the primary sooner or later alone."""
    seen = Sight(PATIENCE)
    for n, is_good in enumerate((True, False, True, True, False, False, True, True, True)):
        seen.note_canary(n % 3 + 1, is_good, NOW + n / 10)
    assert seen.judge({"AS1": [1], "AS2": [2], "AS3": [3]}, 0.0, NOW + 1) == ""
    seen.note_canary(1, False, NOW + 1)
    seen.note_canary(1, True, NOW + 1.1)
    assert seen.judge({"AS1": [1], "AS2": [2], "AS3": [3]}, 0.0, NOW + 1.2).startswith("4 of 11 looks")


def test_one_dark_network_of_three_blinds_nobody_in_the_long_run() -> None:
    seen = Sight(PATIENCE)
    for n in range(60):
        seen.note_canary(n % 3 + 1, n % 3 != 0, NOW + n)
        if n >= 2:
            assert seen.judge({"AS1": [1], "AS2": [2], "AS3": [3]}, 0.0, NOW + n) == ""


def test_a_first_round_is_over_once_and_for_all() -> None:
    seen = sight({1, 2, 3})
    assert not seen.settle(NETWORKS), "one has not answered"
    seen.note_canary(22, False, NOW)
    assert seen.settle(NETWORKS) and seen.settle({**NETWORKS, "AS9": [9]})
    assert Sight(PATIENCE).settle({}), "without canaries there is nothing to wait for"


def test_without_canaries_nothing_is_said_by_them() -> None:
    assert Sight(PATIENCE).judge({}, 0.0, NOW) == ""


@pytest.mark.parametrize(("off", "blind"), [(30.0, False), (-30.0, False), (30.1, True), (-3600.0, True)])
def test_a_clock_that_is_off_blinds(off: float, blind: bool) -> None:
    reason = sight({1, 2, 3}).judge(NETWORKS, off, NOW)
    assert bool(reason) is blind
    assert not blind or f"{off:+.0f} s" in reason


def test_own_trouble_blinds_for_a_while() -> None:
    seen = sight({1, 2, 3})
    seen.note_trouble("no descriptors", NOW)
    assert seen.judge(NETWORKS, 0.0, NOW) == "no descriptors"
    for target in (1, 2, 3):
        seen.note_canary(target, True, NOW + PATIENCE + 1)
    assert seen.judge(NETWORKS, 0.0, NOW + PATIENCE + 1) == ""


@pytest.mark.parametrize(
    ("failing", "seconds", "blind"),
    [
        ([(1, 1), (1, 2), (2, 3)], PATIENCE + 1, True),
        ([(1, None), (1, 2), (2, 3)], PATIENCE + 1, True),  # a reference site of ours among them
        ([(1, 1), (1, 2), (2, 3)], PATIENCE - 1, False),  # not for a whole round yet
        ([(1, 1), (1, 2), (1, 3), (1, 4)], PATIENCE + 1, False),  # one CDN's outage
        ([(1, 1), (2, 1), (3, 1), (4, 1)], PATIENCE + 1, False),  # one customer's, however many domains
        ([(1, 1), (2, 2)], PATIENCE + 1, False),
    ],
)
def test_nothing_good_anywhere_is_our_own_fault(failing: list[tuple[int, int]], seconds: float, blind: bool) -> None:
    seen = Sight(PATIENCE)
    for cdn, site in failing:
        seen.note_site(cdn, site, False, NOW)
    assert bool(seen.judge({}, 0.0, NOW + seconds)) is blind
    seen.note_site(9, 9, True, NOW + seconds)
    assert seen.judge({}, 0.0, NOW + seconds) == "", "one good site says that we see"
