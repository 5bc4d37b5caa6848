"""Targets that are hostile to who probes them, as data: what each does, and the class that a probe of it must end in.

`python -m tests.hostile DIR [LISTENERS]` opens that many listeners of each kind on both loopback addresses, tells their
ports in one line of JSON, and serves until its standard input ends. One event loop serves them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import resource
import socket
import ssl
import struct
import subprocess
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.outcomes import Outcome
from tests.services.tls import self_signed
from tranche_site.demo import certificates

ADDRESSES = ("127.0.0.1", "::1")
HOST = "www.battery.test"
NAMES = [HOST, "*.battery.test"]
MARKER = b"all is well"
TRUSTED = "trusted.pem"
"""The authorities that a prober of these targets trusts: in DIR."""

LONGEST_SECONDS = 30.0
"""No connection is served for longer, whatever the other side does."""

Contexts = Mapping[str, ssl.SSLContext]
Site = Callable[[str, Contexts], Awaitable[int]]
"""Opens one listener on the address and returns its port."""

Conduct = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What a server does on a connection: after the request was read, or from the start where it speaks no TLS."""

Ports = dict[str, dict[str, list[int]]]
"""By address and kind."""


@dataclass(frozen=True, slots=True)
class Kind:
    site: Site
    expected: Outcome
    note: str = ""
    marker: bytes = b""


# --- listeners --------------------------------------------------------------------------------------------------------


def secured(conduct: Conduct, certificate: str = "good") -> Site:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await conduct(reader, writer)

    async def open_site(address: str, contexts: Contexts) -> int:
        return await _listen(answer, address, contexts[certificate])

    return open_site


def plain(conduct: Conduct) -> Site:
    async def open_site(address: str, contexts: Contexts) -> int:
        return await _listen(conduct, address, None)

    return open_site


async def refusing(address: str, contexts: Contexts) -> int:
    """A port that is taken, so that nobody else gets it, and on which nobody listens."""
    return _port(_bound(address))


async def full(address: str, contexts: Contexts) -> int:
    """A queue that nobody empties, filled by ourselves: the kernel drops whoever knocks."""
    listener = _bound(address)
    listener.listen(0)
    for _ in range(2):
        filler = socket.socket(listener.family)
        filler.setblocking(False)
        filler.connect_ex((address, _port(listener)))
        _kept.append(filler)
    return _port(listener)


_kept: list[socket.socket] = []


def _bound(address: str) -> socket.socket:
    kept = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    kept.bind((address, 0))
    _kept.append(kept)
    return kept


def _port(bound: socket.socket) -> int:
    port: int = bound.getsockname()[1]
    return port


async def _listen(conduct: Conduct, address: str, context: ssl.SSLContext | None) -> int:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # That the other side goes meanwhile is its good right.
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(LONGEST_SECONDS):
                await conduct(reader, writer)
        writer.close()

    shutdown_seconds = 1.0 if context else None
    server = await asyncio.start_server(
        serve, address, 0, ssl=context, backlog=128, ssl_shutdown_timeout=shutdown_seconds
    )
    return _port(server.sockets[0])


# --- conduct ----------------------------------------------------------------------------------------------------------


def say(*pieces: bytes) -> Conduct:
    """These bytes, and a proper close."""

    async def conduct(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(pieces))
        await writer.drain()

    return conduct


def endless(head: bytes, piece: bytes, every_seconds: float = 0) -> Conduct:
    async def conduct(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every_seconds)

    return conduct


def cut(*pieces: bytes) -> Conduct:
    """These bytes, and an end without TLS's notice."""

    async def conduct(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(pieces))
        await writer.drain()
        writer.transport.abort()

    return conduct


def reset(*pieces: bytes) -> Conduct:
    async def conduct(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(pieces))
        await writer.drain()
        await asyncio.sleep(0.05)  # so that the pieces arrive: a reset discards what was not read
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return conduct


def after_hello(conduct: Conduct) -> Conduct:
    """Without TLS: wait for the first bytes of the client's."""

    async def waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await conduct(reader, writer)

    return waiting


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass


def response(status: int, body: bytes = b"hello", *headers: bytes) -> bytes:
    return _head(status, b"Content-Length: %d" % len(body), *headers) + body


def _head(status: int, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 %d Hostile" % status, b"Connection: close", *headers, b"", b""])


def _bomb() -> bytes:
    """64 MiB of zeros, a thousandth of that in size: gzip takes members one after another as one."""
    return gzip.compress(bytes(2**20), mtime=0) * 64


OPEN_HEAD = b"HTTP/1.1 200 OK\r\n"  # headers may follow
CHUNKED = b"Transfer-Encoding: chunked"
BOMB = _bomb()
OK, TIMEOUT, CONNECT, TLS = Outcome.OK, Outcome.TIMEOUT, Outcome.CONNECT, Outcome.TLS
DRIP_SECONDS = 0.05

HOSTILE: dict[str, Kind] = {
    # --- before there is TLS ---
    "refusing": Kind(refusing, CONNECT, "nobody listens"),
    "full_queue": Kind(full, TIMEOUT, "the connection is never answered: the deadline passes while connecting"),
    "half_open": Kind(plain(hang), TIMEOUT, "accepts and never speaks"),
    "slow_handshake": Kind(
        plain(endless(b"\x16\x03\x03\x3f\xff\x02\x00", b"\x00", DRIP_SECONDS)), TIMEOUT,
        "a ServerHello of 16 KiB, byte by byte",
    ),
    "close_at_once": Kind(plain(say()), TLS, "the connection stood, so it is the handshake that did not come about"),
    "reset_in_handshake": Kind(plain(after_hello(reset())), TLS, "the connection stood here too"),
    "plain_http": Kind(plain(say(response(400))), TLS, "speaks HTTP where TLS belongs"),
    "old_tls": Kind(secured(say(response(200)), "old"), TLS, "knows no TLS newer than 1.1"),
    "unknown_name": Kind(
        plain(after_hello(say(b"\x15\x03\x03\x00\x02\x02\x70"))), TLS, "the alert of a CDN that does not serve the host"
    ),
    "expired": Kind(secured(say(response(200)), "expired"), TLS, "a certificate that was good until yesterday"),
    "self_signed": Kind(secured(say(response(200)), "self_signed"), TLS, "vouches for itself"),
    "unknown_authority": Kind(secured(say(response(200)), "unknown"), TLS, "signed by an authority nobody trusts"),
    "wrong_host": Kind(secured(say(response(200)), "elsewhere"), TLS, "a trusted certificate, of another host"),
    # --- time ---
    "silent": Kind(secured(hang), TIMEOUT, "takes the request and never answers"),
    "slow_headers": Kind(secured(endless(OPEN_HEAD, b"X", DRIP_SECONDS)), TIMEOUT, "slow loris, in the headers"),
    "slow_body": Kind(
        secured(endless(_head(200, b"Content-Length: 100000"), b"x", DRIP_SECONDS)), TIMEOUT,
        "slow loris, in the body: each byte is in time, all together are not",
    ),
    "slow_hints": Kind(
        secured(endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", DRIP_SECONDS)), TIMEOUT, "hints instead of an answer"
    ),
    # --- size ---
    "endless_body": Kind(
        secured(endless(_head(200, b"Content-Length: 999999999999"), b"x" * 16_384)), OK, "reading stops at 64 KiB"
    ),
    "endless_chunks": Kind(
        secured(endless(_head(200, CHUNKED), b"4000\r\n" + b"x" * 0x4000 + b"\r\n")), OK, "reading stops at 64 KiB"
    ),
    "endless_500": Kind(secured(endless(_head(500), b"x" * 16_384)), Outcome.HTTP_5XX, "its status counts all the same"),
    "endless_headers": Kind(
        secured(endless(OPEN_HEAD, b"X-Many: a\r\n" * 1000)), CONNECT, "header bomb: there is no end, so no response"
    ),
    "huge_header": Kind(
        secured(say(OPEN_HEAD, b"X-Huge: ", b"a" * 400_000, b"\r\n\r\nhello")), CONNECT,
        "a line of 400 KB, beyond what libcurl and every browser take",
    ),
    "continue_flood": Kind(
        secured(endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)), CONNECT, "interim responses as fast as they go"
    ),
    "hints_flood": Kind(
        secured(endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 1000)), CONNECT,
        "interim responses as fast as they go",
    ),
    "fat_certificate": Kind(secured(say(response(200)), "fat"), OK, "2000 names, some 50 KB, read and checked"),
    "gzip_bomb": Kind(
        secured(say(response(200, BOMB, b"Content-Encoding: gzip"))), OK, "64 MiB of zeros that nobody inflates"
    ),
    "double_gzip_bomb": Kind(
        secured(say(response(200, gzip.compress(BOMB, mtime=0), b"Content-Encoding: gzip, gzip"))), OK,
        "a bomb in a bomb, and nobody inflates either",
    ),
    # --- what is not HTTP, or not whole ---
    "close_before_status": Kind(secured(say()), CONNECT, "an empty answer"),
    "close_in_headers": Kind(secured(say(OPEN_HEAD, b"Content-Length: 5\r\n")), CONNECT, "headers without their end"),
    "close_in_body": Kind(secured(say(_head(200, b"Content-Length: 5000"), b"hello")), CONNECT, "a truncated body"),
    "cut_in_body": Kind(secured(cut(_head(200), b"hello")), CONNECT, "only TLS's notice tells an end from a cut"),
    "reset_after_request": Kind(secured(reset()), CONNECT, "reset before the status"),
    "reset_in_body": Kind(
        secured(reset(_head(200, b"Content-Length: 5000"), b"hello")), CONNECT, "reset after the status"
    ),
    "bad_chunk": Kind(secured(say(_head(200, CHUNKED), b"zz\r\nhello\r\n0\r\n\r\n")), CONNECT, "a size that is no number"),
    "chunk_overflow": Kind(
        secured(say(_head(200, CHUNKED), b"F" * 20, b"\r\nhello\r\n0\r\n\r\n")), CONNECT, "a size beyond 64 bits"
    ),
    "cut_chunk": Kind(secured(say(_head(200, CHUNKED), b"5\r\nhe")), CONNECT, "a chunk that is not whole"),
    "negative_length": Kind(secured(say(_head(200, b"Content-Length: -1"), b"hello")), CONNECT, "a senseless length"),
    "two_lengths": Kind(
        secured(say(_head(200, b"Content-Length: 5", b"Content-Length: 3"), b"hello")), CONNECT,
        "RFC 9112, 6.3: lengths that differ are an unrecoverable error",
    ),
    "http_09": Kind(secured(say(b"<html>hello</html>\r\n")), CONNECT, "a body alone, as in 1991"),
    "garbage": Kind(secured(say(b"\x00\xff\xfe garbage \x80\x81\r\n\r\n")), CONNECT, "bytes without sense"),
    "http_2_unasked": Kind(secured(say(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")), CONNECT, "frames of HTTP/2, unasked"),
    "switching": Kind(secured(say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")), CONNECT, "what nobody asked for"),
    "nul_in_header": Kind(secured(say(response(200, b"hello", b"X-Nul: a\x00b"))), CONNECT, "RFC 9110 forbids it"),
    "no_colon": Kind(secured(say(response(200, b"hello", b"a line without a colon"))), CONNECT, "a header that is none"),
    # --- odd, and good all the same ---
    "redirect_loop": Kind(secured(say(response(302, b"", b"Location: /"))), OK, "3xx is an answer, never followed"),
    "redirect_inward": Kind(
        secured(say(response(302, b"", b"Location: http://169.254.169.254/latest/meta-data/"))), OK,
        "whatever it points at",
    ),
    "trailing_garbage": Kind(secured(say(response(200), b"\x00garbage" * 1000)), OK, "the response before it is whole"),
    "length_too_small": Kind(secured(say(_head(200, b"Content-Length: 2"), b"hello")), OK, "as good as its first two bytes"),
    # --- markers ---
    "challenge_page": Kind(secured(say(response(200))), Outcome.WRONG_BODY, "200 without the marker", MARKER),
    "late_marker": Kind(
        secured(say(response(200, b"x" * 65_536 + MARKER))), Outcome.WRONG_BODY, "beyond the first 64 KiB", MARKER
    ),
    "packed_marker": Kind(
        secured(say(response(200, gzip.compress(MARKER, mtime=0), b"Content-Encoding: gzip"))), Outcome.WRONG_BODY,
        "packed, though that was not asked for", MARKER,
    ),
}  # fmt: skip

TAME: dict[str, Kind] = {
    "good": Kind(secured(say(response(200))), OK, "plain"),
    "good_marker": Kind(secured(say(response(200, b"hello, " + MARKER))), OK, "with its marker", MARKER),
    "good_marker_at_the_limit": Kind(
        secured(say(response(200, b"x" * (65_536 - len(MARKER)) + MARKER))), OK, "the last bytes that are read", MARKER
    ),
    "good_chunks": Kind(
        secured(say(_head(200, CHUNKED), b"4\r\nall \r\n7\r\nis well\r\n0\r\n\r\n")), OK, "put together", MARKER
    ),
    "good_until_close": Kind(secured(say(_head(200), b"hello")), OK, "no length: the proper close is the end"),
    "good_after_hints": Kind(secured(say(b"HTTP/1.1 103 Early Hints\r\n\r\n", response(200))), OK, "a hint is no answer"),
    "good_204": Kind(secured(say(_head(204))), OK, "no body, and none expected"),
    "good_304": Kind(secured(say(_head(304))), OK, "no body either"),
    "status_500": Kind(secured(say(response(500))), Outcome.HTTP_5XX),
    "status_520": Kind(secured(say(response(520))), Outcome.EDGE_ERROR),
    "status_403": Kind(secured(say(response(403))), Outcome.BLOCKED),
    "status_429": Kind(secured(say(response(429))), Outcome.BLOCKED),
    "status_404": Kind(secured(say(response(404))), Outcome.WRONG_STATUS),
    "status_999": Kind(secured(say(response(999))), Outcome.WRONG_STATUS, "no class of HTTP's, but three digits"),
}  # fmt: skip

KINDS = HOSTILE | TAME


# --- the process ------------------------------------------------------------------------------------------------------


@contextmanager
def running(directory: Path, listeners: int = 1) -> Iterator[Ports]:
    """The hostile targets in a process of their own, with certificates in the directory."""
    command = [sys.executable, "-m", "tests.hostile", str(directory), str(listeners)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()


async def _serve(directory: Path, listeners: int) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # failed handshakes are our trade
    contexts = _contexts(directory)
    ports: Ports = {
        address: {name: [await kind.site(address, contexts) for _ in range(listeners)] for name, kind in KINDS.items()}
        for address in ADDRESSES
    }
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def _contexts(directory: Path) -> dict[str, ssl.SSLContext]:
    """Certificates by name, and the bundle of the authorities that a prober trusts."""
    of_their_own = {
        "unknown": NAMES,
        "elsewhere": ["elsewhere.test"],
        "fat": [*NAMES, *(f"site-{n}.battery.test" for n in range(2000))],
    }
    certificates.make(directory, NAMES)
    for name, names in of_their_own.items():
        certificates.make(directory / name, names)
    trusted = (directory, directory / "elsewhere", directory / "fat")
    (directory / TRUSTED).write_bytes(b"".join((place / "ca.pem").read_bytes() for place in trusted))
    files = {name: directory / name / "good.pem" for name in of_their_own} | {
        "good": directory / "good.pem",
        "old": directory / "good.pem",
        "expired": directory / "expired.pem",
        "self_signed": self_signed(directory / "self.pem", HOST, tuple(NAMES)),
    }
    contexts = {name: certificates.server_context(file) for name, file in files.items()}
    contexts["old"].set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that it is deprecated is the point
        contexts["old"].minimum_version = ssl.TLSVersion.TLSv1
        contexts["old"].maximum_version = ssl.TLSVersion.TLSv1_1
    return contexts


def main(directory: str, listeners: str = "8") -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_serve(Path(directory), int(listeners)))


if __name__ == "__main__":
    main(*sys.argv[1:])
