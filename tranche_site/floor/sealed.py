"""Secrets at rest: AES-256-GCM, bound to the row they are of, under keys that can be exchanged while everything runs.

What is stored is "v1.KEY_ID.BASE64URL", of nonce and ciphertext. It opens with the same `aad` only, a text that names table,
row and column, such as "dns_account:17:credentials": copied into another row a ciphertext is worth nothing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from tranche_site.floor.embedded import make_home

EMBEDDED_KEY_ID = "embedded"
_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SEALED = re.compile(rf"v1\.({_KEY_ID.pattern})\.([A-Za-z0-9_-]+)")
_SHORT_SECRET = 12
"""Of a secret shorter than this, four characters would be too much to show."""


class SealedError(Exception):
    """What can't be sealed or opened. The text says why in one line, and has nothing of a secret or a key in it."""


def seal(plain: dict[str, Any], aad: str) -> str:
    """The text to store; another one each time. Raises SealedError if there is no key."""
    return _encrypt(json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode(), aad)


def open_sealed(text: str, aad: str) -> dict[str, Any]:
    """What was sealed. Raises SealedError."""
    plain = json.loads(_decrypt(text, aad))
    if not isinstance(plain, dict):
        raise SealedError(f"What is sealed for {aad} is no JSON object.")
    return plain


def reseal(text: str, aad: str) -> str:
    """The same, sealed with the current key. Raises SealedError."""
    return _encrypt(_decrypt(text, aad), aad)


def key_id(text: str) -> str:
    """Which key a stored text was sealed with. Raises SealedError."""
    return _parts(text)[0]


def prefix(sealed_with: str) -> str:
    """How every text begins that was sealed with this key, so that a query can tell."""
    return f"v1.{sealed_with}."


def current_key_id() -> str:
    """The key that seals. Raises SealedError if there is none."""
    return _current_key()[0]


def fingerprint(value: str) -> str:
    """What may be shown of a secret: “…last4 sha256:1a2b3c4d”, of a short one the hash alone, of none nothing."""
    if not value:
        return ""
    digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"sha256:{digest}" if len(value) < _SHORT_SECRET else f"…{value[-4:]} sha256:{digest}"


# --- keys ---------------------------------------------------------------------------------------------------------


def parse_keys(entries: Iterable[str]) -> dict[str, bytes]:
    """The keys of CREDENTIAL_KEYS by id, in its order. Raises SealedError, which names entries by number alone."""
    keys: dict[str, bytes] = {}
    for number, entry in enumerate(entries, start=1):
        name, _, encoded = entry.strip().partition(":")
        key = _decoded_key(encoded)
        if not _KEY_ID.fullmatch(name) or key is None:
            raise SealedError(
                f"CREDENTIAL_KEYS: entry {number} is not ID:KEY, with an id of up to 32 letters, digits, “-” or “_” "
                f"and the base64 of {_KEY_BYTES} bytes."
            )
        if name in keys:
            raise SealedError(f"CREDENTIAL_KEYS: entry {number} has the id of an earlier one.")
        keys[name] = key
    return keys


def _keyring() -> dict[str, bytes]:
    """The first seals, all open. The embedded stack's own key goes on opening what it sealed before others were set."""
    keys = parse_keys(settings.CREDENTIAL_KEYS)
    if settings.EMBEDDED_POSTGRES and EMBEDDED_KEY_ID not in keys:
        path = settings.TRANCHE_HOME / "credential_key"
        if not keys or path.exists():
            keys[EMBEDDED_KEY_ID] = _kept_key(path)
    return keys


def _current_key() -> tuple[str, bytes]:
    keys = _keyring()
    if not keys:
        raise SealedError("There is no key to seal credentials with: set CREDENTIAL_KEYS to ID:KEY.")
    return next(iter(keys.items()))


def _kept_key(path: Path) -> bytes:
    """The key in this file, made on first use. The text in it can be moved into CREDENTIAL_KEYS as it is."""
    try:
        if not path.exists():
            _make_key(path)
        key = _decoded_key(path.read_text(errors="replace").strip())
    except OSError as error:
        raise SealedError(f"{path}, the key of credentials, can't be used: {error.strerror}.") from None
    if key is None:
        raise SealedError(f"{path} is not the base64 of {_KEY_BYTES} bytes: put back the key that credentials have.")
    return key


def _make_key(path: Path) -> None:
    """Whole and on disk before anybody sees it: what is sealed with half a key, or one that was lost, is lost too."""
    make_home(path.parent)
    descriptor, making = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # somebody else was faster
            os.link(making, path)
    finally:
        Path(making).unlink()


def _decoded_key(encoded: str) -> bytes | None:
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    return key if len(key) == _KEY_BYTES else None


# --- texts --------------------------------------------------------------------------------------------------------


def _encrypt(plain: bytes, aad: str) -> str:
    name, key = _current_key()
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return prefix(name) + _encoded(nonce + AESGCM(key).encrypt(nonce, plain, aad.encode()))


def _decrypt(text: str, aad: str) -> bytes:
    name, body = _parts(text)
    key = _keyring().get(name)
    if key is None:
        raise SealedError(f"{aad} was sealed with the key “{name}”, which CREDENTIAL_KEYS lacks.")
    try:
        return AESGCM(key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], aad.encode())
    except InvalidTag:
        raise SealedError(
            f"{aad} does not open with the key “{name}”: it was altered, or sealed for another row, "
            "or CREDENTIAL_KEYS has another key by this id."
        ) from None


def _parts(text: str) -> tuple[str, bytes]:
    """Key id, and nonce with ciphertext. One spelling is accepted, so that no character can differ unnoticed."""
    found = _SEALED.fullmatch(text)
    body = _decoded(found[2]) if found else b""
    if not found or len(body) < _NONCE_BYTES + _TAG_BYTES or _encoded(body) != found[2]:
        raise SealedError("This is no sealed text: “v1.KEY_ID.BASE64URL” was expected.")
    return found[1], body


def _encoded(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def _decoded(encoded: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError:  # no number of bytes has this many digits
        return b""
