"""What an object is by its first bytes, whatever its name says; and the mending that some text needs before DuckDB."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from billing.logs.format import LINE_LIMIT, LogUnreadable

if TYPE_CHECKING:
    from pathlib import Path

TRUNCATED = "truncated: the gzip stream ends too early"

_HEAD_BYTES = 64 << 10
_CHUNK_BYTES = 256 << 10
# A log shrinks 2 to 50 times. What grows more than this, beyond a size that does no harm, is a bomb.
_MAX_RATIO = 200
_HARMLESS_BYTES = 64 << 20
_MENDED_LIMIT = 4 << 30

_GZIP = b"\x1f\x8b"
_OTHER_KINDS = {
    _GZIP: "gzip within gzip",
    b"\x28\xb5\x2f\xfd": "zstd, not gzip or plain text",
    b"PK\x03\x04": "a zip archive, not gzip or plain text",
    b"BZh": "bzip2, not gzip or plain text",
    b"\xfd7zXZ": "xz, not gzip or plain text",
    b"PAR1": "Parquet, not text",
    b"\xff\xfe": "UTF-16, not UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8",
}


@dataclass(frozen=True)
class Opening:
    """The beginning of an object: its compression, its first 64 KiB as text, and whether that needs mending."""

    compression: str  # as DuckDB calls it
    head: str
    has_mark: bool
    has_carriage_returns: bool
    is_empty: bool


def look_at(path: Path) -> Opening:
    try:
        with path.open("rb") as file:
            first = file.read(_HEAD_BYTES)
            is_gzip = first.startswith(_GZIP)
            if is_gzip:
                _refuse_bomb(path, file)
    except OSError as error:
        raise LogUnreadable(error.strerror or "can't be opened") from error
    head = _inflate_head(first) if is_gzip else first
    for magic, kind in _OTHER_KINDS.items():
        if head.startswith(magic):
            raise LogUnreadable(kind)
    text = head.removeprefix(codecs.BOM_UTF8).decode(errors="replace")
    return Opening(
        compression="gzip" if is_gzip else "none",
        head=text,
        has_mark=head.startswith(codecs.BOM_UTF8),
        has_carriage_returns="\r" in text,
        is_empty=not head,
    )


def _inflate_head(first: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        head = stream.decompress(first, _HEAD_BYTES)
    except zlib.error as error:
        raise LogUnreadable("broken gzip: can't be inflated") from error
    if len(first) < _HEAD_BYTES and not stream.eof and not stream.unconsumed_tail and len(head) < _HEAD_BYTES:
        raise LogUnreadable(TRUNCATED)
    return head


def _refuse_bomb(path: Path, file: BinaryIO) -> None:
    """By the length that gzip itself writes at its end; the clock stops those that lie about it."""
    size = path.stat().st_size
    limit = max(_HARMLESS_BYTES, size * _MAX_RATIO)
    file.seek(max(0, size - 4))
    if int.from_bytes(file.read(4), "little") <= limit:
        return
    # A bomb, or what stands at the end is not a length, because the end is missing.
    inflated_bytes = 0
    for chunk in inflated(path):
        inflated_bytes += len(chunk)
        if inflated_bytes > limit:
            raise LogUnreadable(f"inflates to more than {limit >> 20} MiB from {size:,} bytes: a gzip bomb")
    raise LogUnreadable("broken gzip: its length does not match")


def inflated(path: Path) -> Iterator[bytes]:
    """The object's content in chunks, gzip's checksums verified."""
    with path.open("rb") as file:
        if file.read(2) != _GZIP:
            file.seek(0)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
            return
        file.seek(0)
        stream = zlib.decompressobj(wbits=31)
        pending = b""
        try:
            while chunk := pending or file.read(_CHUNK_BYTES):
                if stream.eof:
                    stream = zlib.decompressobj(wbits=31)
                yield stream.decompress(chunk, _CHUNK_BYTES)
                pending = stream.unconsumed_tail or stream.unused_data
        except zlib.error as error:
            raise LogUnreadable("broken gzip: its checksum does not match, or it can't be inflated") from error
        if not stream.eof:
            raise LogUnreadable(TRUNCATED)


def mend(path: Path, mended: Path, *, is_text: bool) -> None:
    """Write the object without its byte order mark; text also with \\n line ends and valid UTF-8. Lines stay lines."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    written = line_bytes = 0
    is_first, held = True, ""
    with mended.open("wb") as out:
        for chunk in inflated(path):
            data = chunk
            if is_first and data:
                data, is_first = data.removeprefix(codecs.BOM_UTF8), False
            if is_text:
                text = held + decoder.decode(data)
                # A final \r waits for its \n.
                text, held = (text[:-1], "\r") if text.endswith("\r") else (text, "")
                data = text.replace("\r\n", "\n").replace("\r", " ").replace("\x01", " ").encode()
            written += len(data)
            line_bytes = line_bytes + len(data) if b"\n" not in data else len(data) - data.rindex(b"\n")
            if line_bytes > LINE_LIMIT:
                raise LogUnreadable(f"a line is longer than {LINE_LIMIT >> 20} MiB")
            if written > _MENDED_LIMIT:
                raise LogUnreadable(f"inflates to more than {_MENDED_LIMIT >> 30} GiB")
            out.write(data)


def numbers_of_rows(path: Path, ordinals: list[int]) -> list[int]:
    """Line numbers of the n-th lines that are not blank, for ascending n."""
    wanted = iter(ordinals)
    following = next(wanted, None)
    numbers: list[int] = []
    ordinal = 0
    for number, line in enumerate(_lines(path), start=1):
        if following is None:
            break
        if not line.isspace():
            ordinal += 1
        if ordinal == following:
            numbers.append(number)
            following = next(wanted, None)
    return numbers


def _lines(path: Path) -> Iterator[bytes]:
    rest = b""
    for chunk in inflated(path):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line or b"\n"
    if rest:
        yield rest
