"""In which order tests run on several workers, so that in the end none is alone with a long one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

REAL_TIME = (
    "tests/scenarios/test_away.py",
    "tests/scenarios/test_blindness.py",
    "tests/tranche_site/test_up.py",
)
"""Whole stacks and small internets by the real clock, minutes of them. At the same time they would starve each other."""

LONGEST = (
    "tests/scenarios/test_worst_day.py",
    "tests/tranche_site/test_pages.py",
    "tests/storms/test_history.py::test_an_incident_is_what_it_was[aws-2025-10-20]",
    "tests/dns/test_faults.py",
    "tests/scenarios/test_origin_fault_is_never_paid.py",
    "tests/test_tripwires.py::test_no_spelling",
    "tests/storms/test_simulation.py::test_every_outage",
    "tests/storms/test_backtest.py::test_skipping_calm_changes_nothing",
    "tests/storms/test_simulation.py::test_noise_is_no_storm",
    "tests/dns/test_troubles.py::test_fifty_drifts",
    "tests/tranche_site/test_backtests.py::test_it_finds_what_the_watch_finds",
)
"""What the names of the other long ones begin with."""


def longest_first(items: list[Any], workers: int) -> None:
    """The first worker begins with what runs in real time, one after the other; the rest with their share of the longest.

    "worksteal" gives every worker one run of neighbours to begin with; who has done his takes from the end of another's.
    """
    real_time, longest = (_those_of(items, beginnings) for beginnings in (REAL_TIME, LONGEST))
    taken = {id(item) for item in (*real_time, *longest)}
    rest = deque(item for item in items if id(item) not in taken)
    others = max(workers - 1, 1)
    ordered: list[Any] = []
    for worker in range(workers):
        size = (len(items) - len(ordered)) // (workers - worker)
        first = list(real_time) if worker == 0 else []
        if worker or workers == 1:
            first += longest[max(worker - 1, 0) :: others]
        ordered += first
        ordered += [rest.popleft() for _ in range(min(size - len(first), len(rest)))]
    items[:] = [*ordered, *rest]


def _those_of(items: Sequence[Any], beginnings: Sequence[str]) -> list[Any]:
    return [item for beginning in beginnings for item in items if item.nodeid.startswith(beginning)]
