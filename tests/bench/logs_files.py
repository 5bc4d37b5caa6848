"""Log objects for benches: rows as wide as CDNs write them, every request id its own, made from a seed."""

from __future__ import annotations

import random
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

AT = 1_772_359_200  # 2026-03-01T10:00:00Z
HOSTS = [f"www{number}.example.com" for number in range(20)]

_PRISTINE = 20_000  # rows made one by one; more are these again, under other request ids and in later minutes
_MARK = "~~~~~~~~"  # eight characters of a request id, the same in all pristine rows
_SECOND = "@@@@@@@@@@"

CLOUDFRONT_FIELDS = (
    "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent)"
    " cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken"
    " x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version fle-status"
    " fle-encrypted-fields c-port time-to-first-byte x-edge-detailed-result-type sc-content-type sc-content-len"
    " sc-range-start sc-range-end"
)


def logpush(rows: int, number: int = 0) -> Iterator[bytes]:
    """NDJSON of 22 fields, about 620 bytes a row, in parts."""
    return _parts(rows, number, "", _logpush_row, str)


def cloudfront(rows: int, number: int = 0) -> Iterator[bytes]:
    """W3C of 33 columns, about 430 bytes a row, in parts."""
    return _parts(rows, number, f"#Version: 1.0\n#Fields: {CLOUDFRONT_FIELDS}\n", _cloudfront_row, _date_and_time)


def write(path: Path, parts: Iterator[bytes], level: int = 6) -> Path:
    """Write the parts as one gzip stream."""
    packer = zlib.compressobj(level, wbits=31)
    with path.open("wb") as out:
        for part in parts:
            out.write(packer.compress(part))
        out.write(packer.flush())
    return path


Row = Callable[[random.Random], str]


@cache
def _pristine(row: Row, rows: int) -> list[str]:
    chance = random.Random(1)
    return [row(chance) for _ in range(rows)]


def _parts(rows: int, number: int, header: str, row: Row, text_of: Callable[[int], str]) -> Iterator[bytes]:
    """`number` keeps the request ids of several objects apart. One part is 20 seconds of traffic."""
    yield header.encode()
    for part, start in enumerate(range(0, rows, _PRISTINE)):
        text = "".join(_pristine(row, min(rows - start, _PRISTINE)))
        yield text.replace(_MARK, f"{number:04x}{part:04x}").replace(_SECOND, text_of(AT + 20 * part)).encode()


def _logpush_row(chance: random.Random) -> str:
    bits = chance.getrandbits(600)
    path = b64encode((bits >> 300 & (1 << 240) - 1).to_bytes(30, "big"), b"-_").decode()
    return (
        f'{{"CacheCacheStatus":"{"hit" if bits & 7 else "miss"}","ClientASN":{bits >> 21 & 0xFFFF},"ClientCountry":"de"'
        f',"ClientIP":"{bits >> 37 & 255}.{bits >> 45 & 255}.{bits >> 53 & 255}.{bits >> 61 & 255}"'
        f',"ClientRequestBytes":{bits >> 69 & 0xFFF},"ClientRequestHost":"{HOSTS[(bits >> 81) % len(HOSTS)]}"'
        f',"ClientRequestMethod":"GET","ClientRequestURI":"/{path}"'
        f',"ClientRequestProtocol":"HTTP/2","ClientRequestSource":"eyeball"'
        f',"ClientRequestUserAgent":"Chrome/{bits >> 187 & 63}.0.{bits >> 193 & 0x1FFF}"'
        f',"EdgeColoCode":"FRA","EdgeEndTimestamp":{_SECOND}{bits >> 206 & 0xFFFFFFF:09}'
        f',"EdgeResponseBytes":{bits >> 234 & 0x3FFFF}'
        f',"EdgeResponseStatus":200,"EdgeStartTimestamp":{_SECOND}{bits >> 252 & 0xFFFFFFF:09},"WAFFlags":"0"'
        f',"OriginIP":"","ParentRayID":"00","RayID":"{_MARK}{bits >> 540 & 0xFFFFFFFF:08x}"'
        f',"WorkerSubrequest":false,"ZoneName":"example.com"}}\n'
    )


def _cloudfront_row(chance: random.Random) -> str:
    bits = chance.getrandbits(600)
    request_id = b64encode((bits >> 300 & (1 << 272) - 1).to_bytes(34, "big")).decode()
    return (
        f"{_SECOND}\tFRA56-P{bits & 7}\t{bits >> 3 & 0x3FFFF}"
        f"\t{bits >> 37 & 255}.{bits >> 45 & 255}.{bits >> 53 & 255}.{bits >> 61 & 255}"
        f"\tGET\td111111abcdef8.cloudfront.net\t/a/{bits >> 91 & (1 << 64) - 1:x}.js\t200\thttps://www.example.com/articles/1/"
        f"\tMozilla/5.0%20(Windows%20NT%2010.0)%20AppleWebKit/537.36%20Chrome/{bits >> 187 & 63}.0.{bits >> 193 & 0x1FFF}"
        f"\t-\t-\tHit\t{_MARK}{request_id}\t{HOSTS[(bits >> 81) % len(HOSTS)]}\thttps\t{bits >> 69 & 0x1FF}"
        f"\t0.{bits >> 78 & 0x1FF:03}\t-\tTLSv1.3\tTLS_AES_128_GCM_SHA256\tHit\tHTTP/2.0\t-\t-\t{bits >> 206 & 0xFFFF}"
        f"\t0.{bits >> 222 & 0x1FF:03}\tHit\tapplication/javascript\t{bits >> 3 & 0x3FFFF}\t-\t-\n"
    )


def _date_and_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d\t%H:%M:%S")
