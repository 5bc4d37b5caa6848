from __future__ import annotations

import re

import pytest

from customers import keys


def test_a_key_has_prefix_secret_and_checksum() -> None:
    key = keys.generate()
    assert re.fullmatch(r"trk_[0-9a-f]{8}_[\w-]{43}_[0-9a-f]{8}", key)
    assert keys.is_well_formed(key)
    assert keys.prefix(key) == key[:12]


def test_keys_differ() -> None:
    assert len({keys.generate() for _ in range(100)}) == 100


def test_only_the_whole_key_matches_its_digest() -> None:
    key = keys.generate()
    stored = keys.digest(key)
    assert re.fullmatch(r"[0-9a-f]{64}", stored)
    assert keys.matches(key, stored)
    assert not keys.matches(key[:-1], stored)
    assert not keys.matches(keys.generate(), stored)


def _with_a_typo(key: str) -> str:
    return key[:20] + ("a" if key[20] != "a" else "b") + key[21:]


@pytest.mark.parametrize(
    "broken",
    [
        _with_a_typo,
        lambda key: key + " ",
        lambda key: key + "\n",
        lambda key: key[:-1],
        lambda key: key.upper(),
        lambda key: key.replace("trk_", "sk_"),
        lambda key: "",
        lambda key: "é" + key[1:],
    ],
)
def test_a_broken_key_is_not_well_formed(broken) -> None:  # type: ignore[no-untyped-def]
    assert not keys.is_well_formed(broken(keys.generate()))
