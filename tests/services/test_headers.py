from __future__ import annotations

from typing import Any

import pytest

from services import headers


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"X-Probe": "word"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"cookie": "a=b; c=d"},
        {"X-A": "1", "X-B": "2"},
    ],
)
def test_what_may_be_sent(given: dict[str, str]) -> None:
    assert headers.problem(given) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "Give an object"), ("X: y", "Give an object"), (None, "Give an object"),
        ({"X-Probe": 1}, "needs a text"), ({"X-Probe": ""}, "needs a text"), ({"X-Probe": " a"}, "needs a text"),
        ({"X-Probe": "a\r\nHost: evil"}, "printable ASCII"), ({"X-Probe": "a\x00"}, "printable ASCII"),
        ({"X-Probe": "ü"}, "printable ASCII"), ({"X-Probe": "a" * 1025}, "at most 1024"),
        ({"": "a"}, "not a header's name"), ({"X Probe": "a"}, "not a header's name"), ({"X:": "a"}, "not a header's name"),
        ({"X\r\nY": "a"}, "not a header's name"),
        ({"Host": "other.test"}, "set by the probe itself"), ({"hOsT": "a"}, "set by the probe itself"),
        ({"Content-Length": "5"}, "set by the probe itself"), ({"Accept-Encoding": "gzip"}, "set by the probe itself"),
        ({"X-A": "1", "x-a": "2"}, "once"), ({f"X-{n}": "1" for n in range(11)}, "At most 10"),
    ],
)  # fmt: skip
def test_what_may_not(given: Any, said: str) -> None:
    assert said in (headers.problem(given) or "")


def test_lines_are_in_a_fixed_order() -> None:
    assert headers.lines({"X-B": "2", "X-A": "1"}) == ("X-A: 1", "X-B: 2")
