"""What a sampled log stands for."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import logs
from billing.logs import HostMinute
from billing.logs.sampling import scaled
from tests.billing.log_lines import AT, logpush, usage, write

MINUTE = AT // 60


def test_a_tenth_of_the_requests_stands_for_all(tmp_path: Path) -> None:
    rows = [logpush(RayID="a"), logpush(RayID="a"), logpush(EdgeResponseBytes=7), logpush(WorkerSubrequest=True), "bad"]
    path = write(tmp_path / "log", "\n".join(rows))
    whole = logs.read(logs.FORMATS["cloudflare_logpush"], path)
    sampled = logs.read(logs.FORMATS["cloudflare_logpush"], path, sample_rate=Decimal("0.1"))
    assert (whole.grade, sampled.grade) == ("E2", "E4")
    assert usage(whole) == {("www.example.com", MINUTE): (1007, 2)}
    assert usage(sampled) == {("www.example.com", MINUTE): (10070, 20)}
    for reading in (whole, sampled):
        assert (reading.rows, reading.counted, reading.excluded, reading.duplicates, reading.bad_rows) == (
            5,
            2,
            1,
            1,
            1,
        )


@pytest.mark.parametrize("rate", [1, Decimal(1), Fraction(1), None])
def test_a_rate_of_one_is_the_whole_log(rate: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "log", logpush())
    assert logs.read(logs.FORMATS["cloudflare_logpush"], path, sample_rate=rate).grade == "E2"


@pytest.mark.parametrize("rate", [0, -1, 2, Decimal("1.01"), Decimal("NaN"), Decimal("Infinity"), 0.5, Fraction(3, 2)])
def test_a_rate_that_cant_be_is_refused_before_anything_is_read(rate: Any) -> None:
    with pytest.raises(ValueError, match="sample rate"):
        logs.read(logs.FORMATS["cloudflare_logpush"], Path("/nowhere"), sample_rate=rate)


def test_what_the_division_leaves_goes_to_the_largest_remainders() -> None:
    usage = [HostMinute(host, 5, size, 1) for host, size in (("c", 1), ("a", 1), ("b", 3))]
    # At 2/5 a request stands for 2.5: 2.5 + 2.5 + 2.5 = 7.5, rounded 8. The bytes are 2.5 + 2.5 + 7.5 = 12.5, 13.
    assert scaled(usage, Fraction(2, 5)) == [
        HostMinute("a", 5, 3, 3), HostMinute("b", 5, 8, 3), HostMinute("c", 5, 2, 2),
    ]  # fmt: skip


LINES = st.lists(
    st.builds(HostMinute, st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 10**15), st.integers(1, 10**9)),
    unique_by=lambda line: line[:2],
)
RATES = st.fractions(min_value=Fraction(1, 1000), max_value=1).filter(lambda rate: rate > 0)


@given(LINES, RATES, st.randoms())
def test_sums_are_the_exact_quotient_rounded_once(lines: list[HostMinute], rate: Fraction, chance: Any) -> None:
    found = scaled(lines, rate)
    for place in (2, 3):
        exact = Fraction(sum(line[place] for line in lines)) / rate
        assert abs(sum(line[place] for line in found) - exact) <= Fraction(1, 2)
        for line in lines:
            (value,) = (other[place] for other in found if other[:2] == line[:2])
            assert abs(value - Fraction(line[place]) / rate) < 1
    shuffled = list(lines)
    chance.shuffle(shuffled)
    assert sorted(scaled(shuffled, rate)) == sorted(found)
