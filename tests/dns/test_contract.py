"""What every provider may rely on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dns.providers import VENDORS, provider_class
from dns.providers.contract import Member, Provider, WeightedSet, candidate_zones, is_below

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=10)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join)


def weighted_set(*percents: int, hostname: str = "www.cust.test", zone: str = "cust.test") -> WeightedSet:
    members = tuple(
        Member(f"member-{number}", f"edge{number}.test", percent) for number, percent in enumerate(percents)
    )
    return WeightedSet(hostname, zone, "Z1", ttl_seconds=30, generation=7, members=members)


@pytest.mark.parametrize(
    ("name", "zone", "expected"),
    [
        ("www.cust.test", "cust.test", True),
        ("cust.test", "cust.test", True),
        ("WWW.Cust.Test.", "cust.test", True),
        ("www.cust.test", "CUST.test.", True),
        ("evilcust.test", "cust.test", False),
        ("www.evilcust.test", "cust.test", False),
        ("cust.test", "www.cust.test", False),
        ("cust.test.evil.test", "cust.test", False),
        ("www.cust.test", "", False),
        ("www.cust.test", ".", False),
    ],
)
def test_below_is_compared_at_the_dot(name: str, zone: str, expected: bool) -> None:
    assert is_below(name, zone) is expected


@given(prefix=st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1), zone=NAME)
def test_nothing_is_below_without_a_dot_between(prefix: str, zone: str) -> None:
    assert not is_below(prefix + zone, zone)
    assert is_below(f"{prefix}.{zone}", zone)


@given(name=NAME, zone=NAME)
def test_below_means_that_the_last_labels_are_the_zones(name: str, zone: str) -> None:
    labels, zone_labels = name.split("."), zone.split(".")
    assert is_below(name, zone) == (labels[-len(zone_labels) :] == zone_labels)


@given(name=NAME)
def test_candidates_are_the_name_and_its_parents_longest_first_without_the_top(name: str) -> None:
    candidates = candidate_zones(name)
    assert all(is_below(name, zone) and "." in zone for zone in candidates)
    assert candidates == sorted(set(candidates), key=len, reverse=True)
    assert len(candidates) == name.count(".")


@pytest.mark.parametrize("percents", [(100,), (100, 0), (33, 33, 34), (1, 99)])
def test_percents_that_sum_to_100_are_taken(percents: tuple[int, ...]) -> None:
    assert [member.percent for member in weighted_set(*percents).members] == list(percents)


@pytest.mark.parametrize("percents", [(), (0, 0), (99,), (50, 51), (-1, 101), (101,), (200, -100)])
def test_other_percents_are_refused(percents: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="percents must be 0 to 100 with sum 100"):
        weighted_set(*percents)


def test_two_members_with_one_key_are_refused() -> None:
    member = Member("primary", "a.test", 50)
    with pytest.raises(ValueError, match="keys must differ"):
        WeightedSet("www.cust.test", "cust.test", "Z1", 30, 1, (member, member))


@pytest.mark.parametrize("hostname", ["evilcust.test", "cust.test.evil.test", "cust.test2"])
def test_a_name_outside_the_zone_is_refused(hostname: str) -> None:
    with pytest.raises(ValueError, match=r"is not a name below the zone cust\.test"):
        weighted_set(100, hostname=hostname)


def test_the_beacon_names_the_generation() -> None:
    wanted = weighted_set(100)
    assert (wanted.beacon_name, wanted.beacon_value) == ("_tranche.www.cust.test", "rev=7")


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_vendor_in_the_dict_is_a_provider(vendor: str) -> None:
    assert issubclass(provider_class(vendor), Provider)
