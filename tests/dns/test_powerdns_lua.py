"""The Lua of a record: what is written, what is refused, and what is taken for ours when it is read back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.providers.contract import Member, ProviderError, Trouble, WeightedSet
from dns.providers.powerdns.lua import MOST_BYTES, Weighing, content_of, weighing_of

OURS = "CNAME \"pickwrandom({{90,'p.cdn.test.'},{10,'b.cdn.test.'}})--[[tranche:v1:42:primary,backup-1]]\""
READ = Weighing(42, (Member("primary", "p.cdn.test", 90), Member("backup-1", "b.cdn.test", 10)))


def wanted(*members: Member, generation: int = 42) -> WeightedSet:
    return WeightedSet("www.cust.test", "cust.test", "", 30, generation, members)


def tampered(one: Any, **fields: Any) -> Any:
    """What the constructor would refuse, as if it had come another way."""
    for name, value in fields.items():
        object.__setattr__(one, name, value)
    return one


def refused(one: WeightedSet) -> str:
    with pytest.raises(ProviderError) as caught:
        content_of(one)
    assert (caught.value.trouble, caught.value.permanent) == (Trouble.UNSAFE, True)
    return str(caught.value)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_the_content_is_one_call_and_a_comment_that_says_whose_it_is() -> None:
    assert content_of(wanted(Member("primary", "P.cdn.test", 90), Member("backup-1", "b.cdn.test.", 10))) == OURS


def test_who_is_at_0_is_left_out() -> None:
    content = content_of(wanted(Member("primary", "p.cdn.test", 0), Member("backup-1", "b.cdn.test", 100)))
    assert content == "CNAME \"pickwrandom({{100,'b.cdn.test.'}})--[[tranche:v1:42:backup-1]]\""


def test_nobody_at_all_is_refused() -> None:
    nobody = tampered(wanted(Member("primary", "p.cdn.test", 100)), members=(Member("primary", "p.cdn.test", 0),))
    assert refused(nobody) == "www.cust.test would be served from nowhere"


INJECTIONS = [
    "p.cdn.test'..os.getenv('HOME')..'",
    "p.cdn.test.'}})--",
    'p.cdn.test"',
    "p.cdn.test]]",
    "p cdn.test",
    "p.cdn.test\n",
    "p\u212a.cdn.test",  # the sign for kelvin, whose lower case is a plain k
    "p.ｃdn.test",
    "192.0.2.1",
    "localhost",
    "a" * 64 + ".test",
    "",
    None,
]


@pytest.mark.parametrize("target", INJECTIONS)
def test_no_target_but_a_hostname_becomes_code(target: Any) -> None:
    member = tampered(Member("primary", "p.cdn.test", 100), target=target)
    assert "is not a hostname" in refused(tampered(wanted(Member("primary", "p.cdn.test", 100)), members=(member,)))


@pytest.mark.parametrize("key", ["a]]os.exit()--[[", "a b", "a,b", "", "-", "é", "a\n"])
def test_no_lane_but_a_plain_word_becomes_a_comment(key: str) -> None:
    assert "is no name of a lane" in refused(wanted(Member(key, "p.cdn.test", 100)))


def test_a_name_that_leads_to_itself_is_refused() -> None:
    assert refused(wanted(Member("primary", "WWW.cust.test.", 100))) == "www.cust.test would lead to itself"


def test_what_a_secondary_would_get_in_pieces_is_refused() -> None:
    def of_length(length: int) -> Member:
        return Member("primary", f"{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * (length - 188)}.test", 100)

    room = MOST_BYTES - len(content_of(wanted(of_length(200)))[len('CNAME "') : -1]) + 200
    assert len(content_of(wanted(of_length(room)))) == len('CNAME ""') + MOST_BYTES
    assert "more than the 255 that every secondary gets whole" in refused(wanted(of_length(room + 1)))


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        OURS,
        "CNAME \"pickwrandom({ {90, 'P.cdn.test.'}, {10, 'b.cdn.test'} }) --[[tranche:v1:42:primary,backup-1]]\"",
        f" {OURS} ",
    ],
)
def test_ours_is_known_by_its_comment_however_it_is_spaced(content: str) -> None:
    assert weighing_of(content) == READ


def test_figures_that_somebody_changed_are_read() -> None:
    read = weighing_of(OURS.replace("{90,", "{0,"))
    assert read
    assert [member.percent for member in read.members] == [0, 10]


@pytest.mark.parametrize(
    "content",
    [
        OURS.replace("--[[tranche:v1:42:primary,backup-1]]", ""),
        OURS.replace("tranche:v1", "tranche:v2"),
        OURS.replace("primary,backup-1", "primary"),
        OURS.replace("primary,backup-1", "primary,primary"),
        OURS.replace("primary,backup-1", "primary,backup-1,backup-2"),
        OURS.replace("pickwrandom", "pickwhashed"),
        OURS.replace("p.cdn.test.", "192.0.2.1"),
        OURS.replace("p.cdn.test.", "p.cdn.test.'..os.getenv('HOME')..'"),
        OURS.replace("{90,", "{0.5,"),
        OURS.replace("{90,", "{-1,"),
        OURS.replace("CNAME", "A"),
        OURS.replace("pickwrandom(", ";return pickwrandom("),
        f"{OURS} \"--\"",
        "CNAME \"pickwrandom({})--[[tranche:v1:42:primary]]\"",
        "A \"pickrandom({'192.0.2.1'})\"",
        "",
        "CNAME \"pickwrandom({" + "{1,'a.test.'}," * 10_000,
    ],
)  # fmt: skip
def test_all_else_is_somebody_elses(content: str) -> None:
    assert weighing_of(content) is None


@given(
    cuts=st.lists(st.integers(0, 100), max_size=2).map(sorted),
    generation=st.integers(0, 10**18 - 1),
    label=st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,10}[a-z0-9])?", fullmatch=True),
)
def test_what_is_written_is_read_back(cuts: list[int], generation: int, label: str) -> None:
    percents = [after - before for before, after in zip([0, *cuts], [*cuts, 100], strict=True)]
    members = tuple(
        Member(f"backup-{number}", f"{label}.cdn{number}.test", percent) for number, percent in enumerate(percents)
    )
    read = weighing_of(content_of(wanted(*members, generation=generation)))
    assert read == Weighing(generation, tuple(member for member in members if member.percent))
