"""Secrets at rest: what opens, and above all what doesn't."""

from __future__ import annotations

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core import checks
from django.test import override_settings
from hypothesis import example, given
from hypothesis import strategies as st

from tranche_site.floor import sealed
from tranche_site.floor.sealed import SealedError

PLAIN = {"api_key": "cf-0123456789-secret", "account": {"id": 7, "név": "Ünïcode"}}
AAD, OTHER_AAD = "dns_account:17:credentials", "dns_account:18:credentials"


def entry(name: str, fill: int) -> str:
    return f"{name}:{base64.b64encode(bytes([fill]) * 32).decode()}"


NEW, OLD = entry("2026-07", 1), entry("2025-01", 2)


@pytest.fixture(autouse=True)
def _keys(settings: Any) -> None:
    settings.CREDENTIAL_KEYS = [OLD]
    settings.EMBEDDED_POSTGRES = False


# --- sealing and opening ------------------------------------------------------------------------------------------


def test_what_was_sealed_opens() -> None:
    text = sealed.seal(PLAIN, AAD)
    assert text.startswith("v1.2025-01.")
    assert sealed.open_sealed(text, AAD) == PLAIN
    assert sealed.key_id(text) == sealed.current_key_id() == "2025-01"
    assert "secret" not in text


def test_nothing_is_sealed_as_it_was_before() -> None:
    texts = {sealed.seal(PLAIN, AAD) for _ in range(1000)}
    assert len({text.rpartition(".")[2][:16] for text in texts}) == 1000  # 16 digits are the nonce


def test_two_rows_that_swap_their_ciphertexts_open_nothing() -> None:
    one, other = sealed.seal({"key": "one"}, AAD), sealed.seal({"key": "other"}, OTHER_AAD)
    for text, aad in ((one, OTHER_AAD), (other, AAD)):
        with pytest.raises(SealedError, match=f"{aad} does not open"):
            sealed.open_sealed(text, aad)
        with pytest.raises(SealedError, match=f"{aad} does not open"):
            sealed.reseal(text, aad)


def test_no_character_can_be_altered() -> None:
    text = sealed.seal({"key": "one"}, AAD)
    for place, character in enumerate(text):
        altered = text[:place] + ("A" if character != "A" else "B") + text[place + 1 :]
        with pytest.raises(SealedError):
            sealed.open_sealed(altered, AAD)


def test_nor_can_the_end_be_cut_off_or_padded() -> None:
    text = sealed.seal({"key": "one"}, AAD)
    for altered in (*(text[:end] for end in range(len(text))), f"{text}A", f"{text}=", f"{text}\n", f" {text}"):
        with pytest.raises(SealedError):
            sealed.open_sealed(altered, AAD)


@given(st.text() | st.text("v1.-_=AB2025", max_size=80) | st.from_regex(r"v1\.2025-01\.[A-Za-z0-9_-]*", fullmatch=True))
@example("v1.2025-01." + "A" * 40)
@example("v1.2025-01." + "A" * 41)
@example("v1.2025-01.\ud800")
def test_what_is_malformed_is_only_ever_a_sealed_error(text: str) -> None:
    for opens in (sealed.open_sealed, sealed.reseal):
        with pytest.raises(SealedError):
            opens(text, AAD)
    try:
        sealed.key_id(text)
    except SealedError as error:
        assert "v1.KEY_ID.BASE64URL" in str(error)


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_that_is_gone_is_named(settings: Any) -> None:
    text = sealed.seal(PLAIN, AAD)
    settings.CREDENTIAL_KEYS = [NEW]
    with pytest.raises(SealedError, match="“2025-01”, which CREDENTIAL_KEYS lacks"):
        sealed.open_sealed(text, AAD)


def test_another_key_by_the_same_id_opens_nothing(settings: Any) -> None:
    text = sealed.seal(PLAIN, AAD)
    settings.CREDENTIAL_KEYS = [entry("2025-01", 3)]
    with pytest.raises(SealedError, match="another key by this id"):
        sealed.open_sealed(text, AAD)


def test_all_stays_readable_while_a_key_is_exchanged(settings: Any) -> None:
    text = sealed.seal(PLAIN, AAD)

    settings.CREDENTIAL_KEYS = [OLD, NEW]  # first all processes get to know it
    assert sealed.current_key_id() == "2025-01"

    settings.CREDENTIAL_KEYS = [NEW, OLD]  # then it seals
    assert sealed.open_sealed(text, AAD) == PLAIN
    fresh = sealed.reseal(text, AAD)
    assert sealed.key_id(fresh) == "2026-07"

    settings.CREDENTIAL_KEYS = [OLD, NEW]  # a process that still has the former order
    assert sealed.open_sealed(fresh, AAD) == PLAIN

    settings.CREDENTIAL_KEYS = [NEW]
    assert sealed.open_sealed(fresh, AAD) == PLAIN


def test_without_a_key_a_real_deployment_seals_nothing(settings: Any) -> None:
    settings.CREDENTIAL_KEYS = []
    for attempt in (sealed.current_key_id, lambda: sealed.seal(PLAIN, AAD)):
        with pytest.raises(SealedError, match="set CREDENTIAL_KEYS"):
            attempt()


@pytest.mark.parametrize(
    ("entries", "at"),
    [
        (["nonsense-without-a-colon"], 1),
        ([NEW, "2025-01:c2hvcnQ="], 2),
        ([NEW, f"{OLD}!"], 2),
        ([f"a.b:{OLD.partition(':')[2]}"], 1),
        ([":" + OLD.partition(":")[2]], 1),
        ([f"{OLD.partition(':')[2]}:2025-01"], 1),
        (["2025-01:ключ"], 1),
        ([OLD, NEW, entry("2025-01", 3)], 3),
    ],
)
def test_a_mistyped_key_is_reported_by_its_place_and_never_shown(settings: Any, entries: list[str], at: int) -> None:
    settings.CREDENTIAL_KEYS = entries
    (found,) = [message for message in checks.run_checks() if message.id == "tranche.E002"]
    assert f"CREDENTIAL_KEYS: entry {at} " in found.msg
    for written in entries:
        assert not any(part in found.msg for part in written.split(":") if part)
    with pytest.raises(SealedError, match=f"entry {at} "):
        sealed.seal(PLAIN, AAD)


def test_well_formed_keys_are_not_reported(settings: Any) -> None:
    settings.CREDENTIAL_KEYS = [NEW, f" {OLD}"]
    assert not [message for message in checks.run_checks() if message.id == "tranche.E002"]


# --- the embedded stack's own key ---------------------------------------------------------------------------------


@pytest.fixture
def home(settings: Any, tmp_path: Path) -> Path:
    settings.CREDENTIAL_KEYS = []
    settings.EMBEDDED_POSTGRES = True
    settings.TRANCHE_HOME = tmp_path / "home"
    return tmp_path / "home"


def test_the_embedded_stack_makes_a_key_and_keeps_it(home: Path) -> None:
    text = sealed.seal(PLAIN, AAD)
    assert sealed.key_id(text) == "embedded"
    assert sealed.open_sealed(text, AAD) == PLAIN
    assert [path.name for path in home.iterdir()] == ["credential_key"]
    assert stat.S_IMODE((home / "credential_key").stat().st_mode) == 0o600


def test_processes_that_begin_together_agree_on_it(home: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda _: sealed.seal(PLAIN, AAD), range(64)))
    assert all(sealed.open_sealed(text, AAD) == PLAIN for text in texts)
    assert [path.name for path in home.iterdir()] == ["credential_key"]


def test_it_goes_on_opening_when_keys_are_set_and_can_become_one_of_them(home: Path, settings: Any) -> None:
    text = sealed.seal(PLAIN, AAD)
    settings.CREDENTIAL_KEYS = [NEW]
    assert sealed.current_key_id() == "2026-07"
    assert sealed.open_sealed(text, AAD) == PLAIN

    # Moved to a database of its own.
    settings.EMBEDDED_POSTGRES = False
    settings.CREDENTIAL_KEYS = [NEW, f"embedded:{(home / 'credential_key').read_text()}"]
    assert sealed.open_sealed(text, AAD) == PLAIN


def test_no_key_is_made_where_keys_are_set(home: Path, settings: Any) -> None:
    settings.CREDENTIAL_KEYS = [NEW]
    sealed.seal(PLAIN, AAD)
    assert not home.exists()


def test_a_spoilt_key_is_not_replaced_by_a_new_one(home: Path) -> None:
    home.mkdir()
    (home / "credential_key").write_bytes(b"\xff\xfe")
    with pytest.raises(SealedError, match="credential_key is not the base64"):
        sealed.seal(PLAIN, AAD)
    assert (home / "credential_key").read_bytes() == b"\xff\xfe"


def test_a_home_that_is_none_is_said(home: Path) -> None:
    home.write_text("a file")
    with pytest.raises(SealedError, match="credential_key, the key of credentials, can't be used"):
        sealed.seal(PLAIN, AAD)


# --- what may be shown --------------------------------------------------------------------------------------------


def test_a_fingerprint_shows_that_and_which() -> None:
    assert sealed.fingerprint("cf-0123456789-wxyz") == "…wxyz sha256:d8c02831"
    assert sealed.fingerprint("hunter2") == "sha256:f52fbd32"
    assert sealed.fingerprint("") == ""


@given(st.text(min_size=12))
@example("\ud800" * 12)
def test_a_fingerprint_never_contains_the_secret(secret: str) -> None:
    shown = sealed.fingerprint(secret)
    assert secret not in shown
    assert shown.startswith(f"…{secret[-4:]} sha256:") and len(shown) == 21


@given(st.text(min_size=1, max_size=11))
def test_of_a_short_secret_it_shows_the_hash_alone(secret: str) -> None:
    assert "…" not in sealed.fingerprint(secret)
    assert len(sealed.fingerprint(secret)) == 15


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none()))
def test_any_credentials_come_back_as_they_were(plain: dict[str, Any]) -> None:
    with override_settings(CREDENTIAL_KEYS=[OLD]):
        assert sealed.open_sealed(sealed.seal(plain, AAD), AAD) == plain
