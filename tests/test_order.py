"""The long tests are spread over the workers, and nothing gets lost on the way."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from tests.order import LONGEST, REAL_TIME, longest_first
from tests.test_layout import REPOSITORY


def ordered(names: list[str], workers: int) -> list[str]:
    items = [SimpleNamespace(nodeid=name) for name in names]
    longest_first(items, workers)
    return [item.nodeid for item in items]


def names_of(short: int) -> list[str]:
    names = [f"tests/test_short.py::test_{n}" for n in range(short)]
    names[short // 2 : short // 2] = [f"{beginning}[x]" for beginning in reversed((*REAL_TIME, *LONGEST))]
    return names


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 200])
@pytest.mark.parametrize("short", [0, 1, 30, 1001])
def test_nothing_gets_lost(workers: int, short: int) -> None:
    assert Counter(ordered(names_of(short), workers)) == Counter(names_of(short))


def test_each_worker_begins_with_what_is_long() -> None:
    short = 999 - (len(REAL_TIME) + len(LONGEST)) % 3  # so that each has as many
    names = ordered(names_of(short), 3)
    size = len(names) // 3
    first, second, third = names[:size], names[size : 2 * size], names[2 * size :]
    assert [name.removesuffix("[x]") for name in first[:3]] == list(REAL_TIME)
    for own, share in ((second, LONGEST[::2]), (third, LONGEST[1::2])):
        assert [name.removesuffix("[x]") for name in own[: len(share)]] == list(share)
    assert {name.endswith("[x]") for name in (*first[3:], *second[len(LONGEST[::2]) :])} == {False}


@pytest.mark.parametrize("beginning", (*REAL_TIME, *LONGEST))
def test_what_is_named_exists(beginning: str) -> None:
    path, _, name = beginning.partition("::")
    assert f"def {name.partition('[')[0]}" in (REPOSITORY / path).read_text()
