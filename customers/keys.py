"""The shape of an API key: `trk_<8 hex>_<43 url-safe characters>_<8 hex checksum>`.

The prefix finds the row, the middle carries 256 random bits (so a fast digest is enough), and the CRC-32 tail lets a
secret scanner tell a real key from noise without asking us.
"""

import hashlib
import hmac
import re
import secrets
import zlib

_FORM = re.compile(r"(trk_[0-9a-f]{8})_[A-Za-z0-9_-]{43}_([0-9a-f]{8})")


def generate() -> str:
    body = f"trk_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
    return f"{body}_{_checksum(body)}"


def prefix(key: str) -> str:
    return key[:12]


def digest(key: str) -> str:
    """SHA-256 of the whole key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_well_formed(key: str) -> bool:
    match = _FORM.fullmatch(key)
    return match is not None and match[2] == _checksum(key[: -len(match[2]) - 1])


def matches(key: str, stored_digest: str) -> bool:
    return hmac.compare_digest(digest(key), stored_digest)


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"
