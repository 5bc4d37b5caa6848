"""What an object is by its first bytes, whatever its name says; and the mending that some text needs before DuckDB."""

from __future__ import annotations

import codecs
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from billing.logs.format import LINE_LIMIT, LogUnreadable, unreadable

if TYPE_CHECKING:
    from pathlib import Path

TRUNCATED = "truncated: the gzip stream ends too early"
_TOO_LONG = f"a line is longer than {LINE_LIMIT >> 20} MiB"

_HEAD_BYTES = 64 << 10
_CHUNK_BYTES = 256 << 10
# A log shrinks 2 to 50 times. What grows more than this, beyond a size that does no harm, is a bomb.
_MAX_RATIO = 200
_HARMLESS_BYTES = 64 << 20
_MENDED_LIMIT = 4 << 30
_SMALL_BYTES = 256 << 10
_SUSPECT_BYTES = 4 << 20

_GZIP = b"\x1f\x8b"
_MEMBER = _GZIP + b"\x08"
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

    size_bytes: int
    compression: str  # as DuckDB calls it
    head: str
    has_mark: bool
    has_carriage_returns: bool
    is_empty: bool


def look_at(path: Path) -> Opening:
    try:
        with path.open("rb") as file:
            is_gzip = file.read(len(_GZIP)) == _GZIP
            if is_gzip:
                _refuse_bomb(path, file)
            else:
                _refuse_long_last_line(file)
        head, size_bytes = _head(path), path.stat().st_size
    except OSError as error:
        raise unreadable(error) from error
    for magic, kind in _OTHER_KINDS.items():
        if head.startswith(magic):
            raise LogUnreadable(kind)
    text = head.removeprefix(codecs.BOM_UTF8).decode(errors="replace")
    return Opening(
        size_bytes=size_bytes,
        compression="gzip" if is_gzip else "none",
        head=text,
        has_mark=head.startswith(codecs.BOM_UTF8),
        has_carriage_returns="\r" in text,
        is_empty=not head,
    )


def _head(path: Path) -> bytes:
    head = b""
    for chunk in inflated(path):
        head += chunk
        if len(head) >= _HEAD_BYTES:
            break
    return head[:_HEAD_BYTES]


def _refuse_long_last_line(file: BinaryIO) -> None:
    """DuckDB drops one that is longer than its buffer without a word; of others it says so."""
    size = file.seek(0, os.SEEK_END)
    if size > LINE_LIMIT + 1:
        file.seek(-LINE_LIMIT - 2, os.SEEK_END)
        if b"\n" not in file.read(LINE_LIMIT + 1):
            raise LogUnreadable(_TOO_LONG)


def _refuse_bomb(path: Path, file: BinaryIO) -> None:
    """By the length that gzip itself writes at its end; small objects, of which that may be a lie, are looked through.

    Large ones that lie about it are full of bad rows, which are a reason to look, or take too long.
    """
    size = path.stat().st_size
    if size <= _SMALL_BYTES or (size <= _SUSPECT_BYTES and _has_members(file)):
        verify(path)
        return
    file.seek(size - 4)
    if int.from_bytes(file.read(4), "little") <= _limit(size):
        return
    # A bomb, or what stands at the end is not a length, because the end is missing.
    verify(path)
    raise LogUnreadable("broken gzip: its length does not match")


def _has_members(file: BinaryIO) -> bool:
    """Whether it looks as if several gzips were joined: the length at the end is then of the last alone."""
    file.seek(1)
    data = file.read()
    at = data.find(_MEMBER)
    while at >= 0:
        flags, extra, system = data[at + 3 : at + 4], data[at + 8 : at + 9], data[at + 9 : at + 10]
        if flags <= b"\x1f" and extra in b"\0\2\4" and (system <= b"\x0d" or system == b"\xff"):
            return True
        at = data.find(_MEMBER, at + 1)
    return False


def _limit(size: int) -> int:
    return max(_HARMLESS_BYTES, size * _MAX_RATIO)


def verify(path: Path) -> None:
    """Inflate the whole object in Python: checksums must match, no line be too long, and it must not be a bomb."""
    size, inflated_bytes, line_bytes = path.stat().st_size, 0, 0
    for chunk in inflated(path):
        inflated_bytes += len(chunk)
        if inflated_bytes > _limit(size):
            raise LogUnreadable(f"inflates to more than {_limit(size) >> 20} MiB from {size:,} bytes: a gzip bomb")
        line_bytes = _line_bytes(line_bytes, chunk)


def _line_bytes(before: int, data: bytes) -> int:
    """How long the line is that is open after this data, and was `before` it."""
    end = data.rfind(b"\n")
    length = before + len(data) if end < 0 else len(data) - end - 1
    if length > LINE_LIMIT:
        raise LogUnreadable(_TOO_LONG)
    return length


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
                while data.startswith(codecs.BOM_UTF8):
                    data = data.removeprefix(codecs.BOM_UTF8)
                is_first = False
            if is_text:
                text = held + decoder.decode(data)
                # A final \r waits for its \n.
                text, held = (text[:-1], "\r") if text.endswith("\r") else (text, "")
                data = text.replace("\r\n", "\n").replace("\r", " ").replace("\x01", " ").encode()
            written += len(data)
            line_bytes = _line_bytes(line_bytes, data)
            if written > _MENDED_LIMIT:
                raise LogUnreadable(f"inflates to more than {_MENDED_LIMIT >> 30} GiB")
            out.write(data)
        out.write(decoder.decode(b"", final=True).encode())  # a character that the end cut off


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
