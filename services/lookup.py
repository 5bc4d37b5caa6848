"""Asking DNS servers directly: one question to one server is one answer, never from a cache.

dnslib over asyncio, because the usual clients get in the way: c-ares caches answers (a weighted name would give one
answer a hundred times) and hides who is authoritative, and dnspython's name is taken by our app.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import dnslib
from django.conf import settings
from dnslib.label import DNSLabelError  # which is no DNSError

from tranche_site.floor import egress

Server = tuple[str, int]
"""An IP address and a port."""
Question = tuple[Server, str, str]
"""Whom to ask, the name, and the type, such as "TXT"."""

DNS_PORT = 53
_RESOLVER_TIMEOUT_SECONDS = 2.0
_LONGEST_REPLY = 16 * 1024  # a domain's owner chooses what its servers send us; no zone needs more
_MOST_NAME_SERVERS, _MOST_ADDRESSES = 16, 32
_DELEGATION_SECONDS = 10.0
"""How long whoever owns a zone may keep us looking for who serves it."""
_TRUNCATED = 0x02  # in the third byte of a message
_TELLING = ("NOERROR", "NXDOMAIN")


class LookupFailed(Exception):
    """The servers of a zone can't be found now; the message says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """`name` and names in `value` are in lower case without a trailing dot; a TXT's strings are joined."""

    name: str
    type: str
    ttl_seconds: int
    value: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one server said, once.

    `error` is empty if the server told us something: records, no records (NOERROR), no such name (NXDOMAIN). Otherwise
    it says what happened, `records` is empty, and `rcode` is "" unless the refusal itself was an answer (REFUSED).
    """

    server: str
    name: str
    type: str
    rcode: str = ""
    authoritative: bool = False
    records: tuple[Record, ...] = ()
    error: str = ""
    reached: bool = True
    """False if nothing could even be sent to the server."""


def txt_values(answer: Answer) -> list[str]:
    """The TXT values at the very name that was asked for, so nothing that a CNAME led to."""
    return [record.value for record in answer.records if record.type == "TXT" and record.name == answer.name]


# --- one question -------------------------------------------------------------------------------------------------


async def ask(
    server: Server, name: str, qtype: str, *, timeout_seconds: float = 1.0, recursive: bool = False
) -> Answer:
    """One query over UDP from a port of its own, repeated over TCP if the answer was cut; each may take the timeout."""
    return await _ask(server, name, qtype, secrets.randbelow(1 << 16), timeout_seconds, recursive)


def ask_all(
    questions: Sequence[Question], *, timeout_seconds: float = 1.0, in_flight: int = 50, recursive: bool = False
) -> list[Answer]:
    """The answers, in the order of the questions. Equal questions are asked as often as they are listed.

    Runs an event loop of its own, so it is for synchronous code.
    """

    async def run() -> list[Answer]:
        room = asyncio.Semaphore(in_flight)

        async def one(question: Question, identity: int) -> Answer:
            async with room:
                return await _ask(*question, identity, timeout_seconds, recursive)

        return await asyncio.gather(*map(one, questions, _identities(len(questions))))

    return asyncio.run(run())


def _identities(count: int) -> cycle[int]:
    """Message ids that differ from each other, as far as 16 bits go."""
    return cycle(secrets.SystemRandom().sample(range(1 << 16), min(count, 1 << 16)))


class _Unusable(Exception):
    """A reply that answers nothing."""


@dataclass(frozen=True, slots=True)
class _Reply:
    rcode: str
    authoritative: bool
    records: tuple[Record, ...]


async def _ask(server: Server, name: str, qtype: str, identity: int, timeout_seconds: float, recursive: bool) -> Answer:
    place, name = _text(server), name.rstrip(".").lower()
    try:
        query = _query(name, qtype, identity, recursive)
        reply = await _over_udp(server, query, timeout_seconds)
        if reply is None:
            reply = await _over_tcp(server, query, timeout_seconds)
    except _Unusable as error:
        return Answer(place, name, qtype, error=str(error))
    except OSError as error:
        return Answer(place, name, qtype, error=f"can't be reached: {error.strerror or error}", reached=False)
    if reply.rcode not in _TELLING:
        return Answer(place, name, qtype, reply.rcode, reply.authoritative, error=f"answered {reply.rcode}")
    return Answer(place, name, qtype, reply.rcode, reply.authoritative, reply.records)


def _query(name: str, qtype: str, identity: int, recursive: bool) -> Any:
    try:
        query = dnslib.DNSRecord(
            dnslib.DNSHeader(id=identity, rd=int(recursive)),
            q=dnslib.DNSQuestion(name, getattr(dnslib.QTYPE, qtype)),
        )
        query.pack()
    except (dnslib.DNSError, DNSLabelError, UnicodeError) as error:
        raise _Unusable(f"can't be asked for {name} {qtype}: {error}") from error
    return query


class _Exchange(asyncio.DatagramProtocol):
    """Waits for the reply to one query. What doesn't match is passed over, since anybody can send us datagrams."""

    def __init__(self, query: Any) -> None:
        self._query = query
        self.reply: asyncio.Future[_Reply | None] = asyncio.get_running_loop().create_future()
        """The parsed reply, or None if it was cut and wants TCP."""
        self.complaint = ""

    def datagram_received(self, data: bytes, _address: object) -> None:
        if self.reply.done():
            return
        try:
            self.reply.set_result(None if _is_cut(data, self._query) else _parse(data, self._query))
        except _Unusable as error:
            self.complaint = str(error)

    def error_received(self, exc: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(exc)


async def _over_udp(server: Server, query: Any, timeout_seconds: float) -> _Reply | None:
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_datagram_endpoint(lambda: _Exchange(query), remote_addr=server)
    try:
        transport.sendto(query.pack())
        async with asyncio.timeout(timeout_seconds):
            return await exchange.reply
    except TimeoutError as error:
        raise _Unusable(exchange.complaint or f"no answer within {timeout_seconds:g} s") from error
    finally:
        transport.close()


async def _over_tcp(server: Server, query: Any, timeout_seconds: float) -> _Reply:
    writer = None
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(*server)
            message = query.pack()
            writer.write(len(message).to_bytes(2, "big") + message)
            length = int.from_bytes(await reader.readexactly(2), "big")
            if length > _LONGEST_REPLY:
                raise _Unusable(f"answered with {length} bytes, more than the {_LONGEST_REPLY} that we read")
            return _parse(await reader.readexactly(length), query)
    except TimeoutError as error:
        raise _Unusable(f"cut its answer over UDP, and gave none over TCP within {timeout_seconds:g} s") from error
    except asyncio.IncompleteReadError as error:
        raise _Unusable("closed the TCP connection in mid-answer") from error
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _is_cut(data: bytes, query: Any) -> bool:
    """Whether this reply wants TCP. Looks at the header only: some cut the message in the middle of a record."""
    return len(data) >= 12 and int.from_bytes(data[:2], "big") == query.header.id and bool(data[2] & _TRUNCATED)


def _parse(data: bytes, query: Any) -> _Reply:
    if len(data) > _LONGEST_REPLY:
        raise _Unusable(f"answered with {len(data)} bytes, more than the {_LONGEST_REPLY} that we read")
    try:
        message = dnslib.DNSRecord.parse(data)
        reply = _Reply(
            str(dnslib.RCODE.get(message.header.rcode)), bool(message.header.aa), tuple(map(_record, message.rr))
        )
        asked, answered = _questions(query), _questions(message)
    except (dnslib.DNSError, DNSLabelError, ValueError, RecursionError) as error:
        raise _Unusable(f"answered with what is no DNS message: {error}") from error
    if not message.header.qr or message.header.id != query.header.id:
        raise _Unusable("answered with another message's id")
    # Servers that can't or won't read the question may leave it out of their refusal.
    if answered != asked and (answered or reply.rcode in _TELLING):
        raise _Unusable(f"answered another question: {'; '.join(answered) or 'none'}")
    return reply


def _questions(message: Any) -> list[str]:
    return [f"{_bare(q.qname)} {dnslib.CLASS.get(q.qclass)} {dnslib.QTYPE.get(q.qtype)}" for q in message.questions]


def _record(rr: Any) -> Record:
    data = rr.rdata
    if isinstance(data, dnslib.TXT):
        value = b"".join(data.data).decode(errors="backslashreplace")
    elif isinstance(data, dnslib.CNAME):  # NS, PTR and DNAME are CNAMEs to dnslib
        value = _bare(data.label)
    else:
        value = str(data)
    return Record(_bare(rr.rname), str(dnslib.QTYPE.get(rr.rtype)), rr.ttl, value)


def _bare(label: Any) -> str:
    return str(label).rstrip(".").lower()


# --- whom to ask --------------------------------------------------------------------------------------------------


def override_for(name: str) -> list[Server]:
    """The servers that AUTHORITY_OVERRIDES names for `name`, or none. Raises LookupFailed if it can't be read."""
    found = _override(name)
    return found[1] if found else []


def authoritative_servers(name: str) -> tuple[str, list[Server]]:
    """The zone that holds `name`, and every address of its name servers, IPv6 only where we have it.

    Raises LookupFailed.
    """
    if found := _override(name):
        return found
    zone, names = _delegation(name.rstrip(".").lower())
    # A server that only IPv6 leads to isn't silent where we have no IPv6: we are.
    addresses = [address for address in _addresses(names) if ":" not in address or has_route(address)]
    if not addresses:
        raise LookupFailed(f"no name server of {zone} has an address that we can reach: {', '.join(names)}")
    if settings.PROBE_ALLOW_PRIVATE:
        return zone, [(address, DNS_PORT) for address in addresses]
    # Whoever owns a zone chooses these addresses; they must not lead us into our own networks.
    refusals = {address: egress.refusal(address, DNS_PORT, (DNS_PORT,)) for address in addresses}
    allowed = [(address, DNS_PORT) for address, refusal in refusals.items() if refusal is None]
    if not allowed:
        raise LookupFailed(f"the name servers of {zone} may not be asked: {'; '.join(filter(None, refusals.values()))}")
    return zone, allowed


def delegation(name: str) -> tuple[str, list[str]]:
    """The zone that holds `name`, and the names of the servers that it is delegated to; none where we ask our own.

    Raises LookupFailed.
    """
    if found := _override(name):
        return found[0], []
    return _delegation(name.rstrip(".").lower())


def _override(name: str) -> tuple[str, list[Server]] | None:
    labels = name.rstrip(".").lower().split(".")
    overrides: dict[str, str] = settings.AUTHORITY_OVERRIDES
    for start in range(len(labels)):
        zone = ".".join(labels[start:])
        if zone in overrides:
            return zone, [server(text) for text in overrides[zone].split(";")]
    return None


def _delegation(name: str) -> tuple[str, list[str]]:
    """The nearest zone at or above `name`, never a top-level domain, and the names of its servers."""
    labels = name.split(".")
    deadline = time.monotonic() + _DELEGATION_SECONDS
    for start in range(len(labels) - 1):
        zone = ".".join(labels[start:])
        if time.monotonic() > deadline:
            raise LookupFailed(f"to find the zone of {name} took longer than {_DELEGATION_SECONDS:g} s")
        answer = _resolve([(zone, "NS")])[0]
        if answer.error:
            # Going on to the parent could give the wrong zone: this name may be one whose servers are just down.
            raise LookupFailed(f"resolver {answer.server}, asked for the name servers of {zone}: {answer.error}")
        names = sorted({record.value for record in answer.records if record.type == "NS" and record.name == zone})
        if names:
            return zone, names[:_MOST_NAME_SERVERS]
    raise LookupFailed(f"no zone holds {name}: neither it nor a name above it has name servers")


def _addresses(names: list[str]) -> list[str]:
    answers = _resolve([(name, qtype) for name in names for qtype in ("A", "AAAA")])
    found = (record.value for answer in answers for record in answer.records if record.type in ("A", "AAAA"))
    return list(dict.fromkeys(found))[:_MOST_ADDRESSES]


def has_route(address: str) -> bool:
    """Whether this machine knows a way to `address`. Connecting UDP sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, DNS_PORT))
    except OSError:
        return False
    return True


def _resolve(questions: list[tuple[str, str]]) -> list[Answer]:
    """Ask the resolvers, each question until one of them tells something."""
    answers: dict[tuple[str, str], Answer] = {}
    for resolver in resolvers():
        open_questions = [q for q in questions if q not in answers or answers[q].error]
        asked = [(resolver, *question) for question in open_questions]
        replies = ask_all(asked, timeout_seconds=_RESOLVER_TIMEOUT_SECONDS, recursive=True)
        answers |= dict(zip(open_questions, replies, strict=True))
    return [answers[question] for question in questions]


def resolvers() -> list[Server]:
    """Those of DNS_RESOLVERS, or of the system. Raises LookupFailed if there is none."""
    named = [server(text) for text in settings.DNS_RESOLVERS] or _system_resolvers(Path("/etc/resolv.conf"))
    if not named:
        raise LookupFailed("no resolver is known: DNS_RESOLVERS is empty, and so is /etc/resolv.conf")
    return named


def _system_resolvers(path: Path) -> list[Server]:
    with contextlib.suppress(OSError):
        lines = [line.split() for line in path.read_text().splitlines()]
        return [(words[1], DNS_PORT) for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return []


def server(text: str) -> Server:
    """From "192.0.2.1", "192.0.2.1:5353", "2001:db8::1" or "[2001:db8::1]:5353"."""
    address, port = text.strip(), str(DNS_PORT)
    if address.startswith("["):
        address, _, rest = address[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif address.count(":") == 1:
        address, _, port = address.partition(":")
    if not address or not port.isdigit():
        raise LookupFailed(f"“{text}” is not the address of a server, such as 192.0.2.1:53")
    return address, int(port)


def _text(server: Server) -> str:
    address, port = server
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
