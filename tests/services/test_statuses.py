from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from services import statuses


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("200", {200}),
        ("200-202", {200, 201, 202}),
        ("200-200", {200}),
        ("200-201,304", {200, 201, 304}),
        (" 200 - 201 , 304 ", {200, 201, 304}),
        ("304,200-201,200", {200, 201, 304}),
        ("100,599", {100, 599}),
    ],
)
def test_codes_and_ranges(text: str, codes: set[int]) -> None:
    assert statuses.parse(text) == codes
    statuses.validate(text)


def test_everything_is_five_hundred_codes() -> None:
    assert len(statuses.parse("100-599")) == 500


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "“”"),
        (",", "“”"),
        ("200,", "“”"),
        ("200,,304", "“”"),
        ("ok", "“ok”"),
        ("2xx", "“2xx”"),
        ("200;304", "“200;304”"),
        ("200 304", "“200 304”"),
        ("-200", "“-200”"),
        ("200-", "“200-”"),
        ("200-299-304", "“200-299-304”"),
        ("200.0", "“200.0”"),
        ("99", "“99”"),
        ("600", "“600”"),
        ("0", "“0”"),
        ("200-600", "“200-600”"),
        ("99-200", "“99-200”"),
        ("299-200", "“299-200”"),
        ("200,1000", "“1000”"),
    ],
)
def test_what_is_wrong_is_named(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        statuses.parse(text)
    with pytest.raises(ValidationError) as refused:
        statuses.validate(text)
    assert refused.value.code == "invalid_statuses"


@given(st.sets(st.integers(100, 599), min_size=1))
def test_listed_codes_come_back(codes: set[int]) -> None:
    assert statuses.parse(",".join(map(str, codes))) == codes


@given(st.integers(100, 599), st.integers(100, 599))
def test_a_range_holds_both_ends(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert statuses.parse(f"{low}-{high}") == set(range(low, high + 1))
