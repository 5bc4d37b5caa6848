"""Whether two CDN paths of a hostname answer alike: status, redirect, cookies, headers and body of a few URLs.

A backup that answers is not yet one that is configured like the primary. Each URL is fetched twice through the primary
and once through the backup; in what the primary differs from itself there is nothing to compare. The requests are
probes: same engine, same egress guard, no redirect followed.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from django.conf import settings

from services import probe
from services.hostnames import is_printable_ascii
from services.probe import Family, Fault, Probe
from services.transport import Transport

DEFAULT_PATHS = ("/", "/robots.txt", "/favicon.ico", "/sitemap.xml", "/tranche-parity-404")
"""The last one is there nowhere: what is missing must be missing through both."""
FEWEST_PATHS, MOST_PATHS = 5, 20
BODY_LIMIT_BYTES = 256 * 1024
TIMEOUT_SECONDS = 10.0
_IN_FLIGHT = 4
_LONGEST_SHOWN = 200

_CDN_COOKIES = re.compile(
    r"__cf\w*|_cfuvid|cf_\w+|ak_bmsc|bm_(?:sv|sz|mi|s|so)|_abck|akaalb_.*|incap_ses_.*|visid_incap_.*|nlbi_.*", re.ASCII
)
"""Set by a CDN for itself, so that another one does not."""


# --- what is compared -------------------------------------------------------------------------------------------------


class Cookie(NamedTuple):
    name: str
    attributes: frozenset[str]
    """Of "secure", "httponly", "samesite=lax", "domain=example.com" and "path=/"; no value and no expiry."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer to one URL, without its body. With an `error` there was none, and the rest says nothing."""

    status: int | None = None
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By name in lower case."""
    location: str = ""
    """Where a redirect leads, as an absolute URL."""
    cookies: frozenset[Cookie] = frozenset()
    body_sha256: str = ""
    body_bytes: int = 0
    truncated: bool = False
    """There may be more of the body than was read."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the paths answer differently, in words for whoever configured the backup."""

    what: str
    """"answer", "status", "redirect", "redirect query", "body", "cookie NAME" or "header NAME"."""
    primary: str
    backup: str
    advice: str
    is_blocking: bool = False
    """Visitors would be served something else than through the primary, or nothing."""


def compare(primary: Reply, backup: Reply, again: Reply | None = None) -> list[Difference]:
    """What differs, the gravest first. `again` is the primary's second answer to the same request.

    With another status or none, all else would differ too and say nothing more.
    """
    if primary.error or backup.error:
        return [_silence(primary, backup)]
    statuses = {reply.status for reply in (primary, again) if reply and not reply.error}
    if backup.status not in statuses:
        advice = _status_advice(primary.status or 0, backup.status or 0)
        return [Difference("status", str(primary.status), str(backup.status), advice, is_blocking=True)]
    if _is_unsteady(primary, again):
        return []
    ours, theirs = _traits(primary), _traits(backup)
    passed_over = {*_restless(primary, again), *(["body"] if _is_packed_otherwise(primary, backup) else [])}
    differing = [what for what in {**ours, **theirs} if what not in passed_over and ours.get(what) != theirs.get(what)]
    found = [_difference(what, ours.get(what), theirs.get(what)) for what in differing]
    return sorted(found, key=lambda difference: (not difference.is_blocking, difference.what == "body"))


def remarks(primary: Reply, backup: Reply, again: Reply | None = None) -> list[str]:
    """What could not be compared, and why."""
    if primary.error or backup.error:
        return []
    if _is_unsteady(primary, again):
        statuses = f"{primary.status} and then {again.status if again else '-'}"
        return [f"The primary itself answered {statuses}, so nothing else is compared."]
    if primary.status != backup.status:
        return []
    found = []
    if again and again.error:
        found.append(
            f"The primary did not answer a second time ({_shown(again.error)}): what changes by itself isn't known."
        )
    if restless := _restless(primary, again):
        names = ", ".join(map(_shown, restless))
        found.append(f"Not compared, since the primary itself answers it differently each time: {names}.")
    if _is_packed_otherwise(primary, backup):
        found.append("The body is not compared, since one path packs it though that was not asked for.")
    elif primary.truncated and backup.truncated:
        found.append(f"Only the first {primary.body_bytes} bytes of the body are compared.")
    if primary.status in (403, 429) or (primary.status or 0) >= 500:
        found.append(f"Both paths answer {primary.status}: what visitors get can't be seen by this.")
    return found


def _silence(primary: Reply, backup: Reply) -> Difference:
    if primary.error:
        advice = "Without the primary's answer there is nothing to compare the backup with: see to the primary first."
    else:
        advice = "Add this hostname to the backup CDN, with a certificate for it, and see that it reaches the origin."
    return Difference("answer", _said(primary), _said(backup), advice, is_blocking=True)


def _said(reply: Reply) -> str:
    return f"no answer: {_shown(reply.error)}" if reply.error else f"status {reply.status}"


def _status_advice(primary: int, backup: int) -> str:
    if backup >= 500:
        return (
            "The backup gets no good answer from the origin: check the origin's address, the Host header that it is sent, "
            "and that the origin lets the backup CDN's addresses in."
        )
    if backup in (401, 403, 429):
        return "The backup refuses the request: compare its firewall, bot and access rules with the primary's."
    if 300 <= backup < 400 or 300 <= primary < 400:
        return "Only one path redirects: compare the redirect and HTTPS rules of both CDNs."
    if primary in (404, 410):
        return "What is missing through the primary is there through the backup: compare origin and error pages."
    if backup in (404, 410):
        return "What the primary has is missing through the backup: compare origin, Host header and path rules."
    return "Compare the origin and the rules for this URL at both CDNs."


def _is_unsteady(primary: Reply, again: Reply | None) -> bool:
    return again is not None and not again.error and again.status != primary.status


def _is_packed_otherwise(primary: Reply, backup: Reply) -> bool:
    return _packing(primary) != _packing(backup)


def _packing(reply: Reply) -> str:
    return _list(reply.headers.get("content-encoding", ()), without=("identity",))


def _restless(primary: Reply, again: Reply | None) -> list[str]:
    """In what the primary differs from itself."""
    if again is None or again.error:
        return []
    first, second = _traits(primary), _traits(again)
    return [what for what in {**first, **second} if first.get(what) != second.get(what)]


# --- a reply in traits: normal forms that are equal where the difference does not matter ------------------------------


def _traits(reply: Reply) -> dict[str, str]:
    """By the name that a difference bears. What a reply lacks has no trait."""
    traits = {}
    if reply.location:
        traits["redirect"], traits["redirect query"] = _place(reply.location)
    by_name: dict[str, set[str]] = defaultdict(set)
    for cookie in reply.cookies:
        if not _CDN_COOKIES.fullmatch(cookie.name):
            by_name[cookie.name].add("; ".join(sorted(cookie.attributes)) or "no attributes")
    traits |= {f"cookie {name}": " | ".join(sorted(sets)) for name, sets in sorted(by_name.items())}
    for name, values in sorted(reply.headers.items()):
        normal = _list if name.startswith("access-control-allow-") else _NORMAL.get(name)
        if normal and (text := normal(values)):
            traits[f"header {name}"] = text
    size = f"{'the first ' if reply.truncated else ''}{reply.body_bytes} bytes"
    return traits | {"body": f"{size}, SHA-256 {reply.body_sha256[:16]}…" if reply.body_bytes else "empty"}


def _place(location: str) -> tuple[str, str]:
    """Scheme, host and path of a URL, and what is asked of it."""
    try:
        parts = urlsplit(location)
        port = parts.port
    except ValueError:
        return location, ""
    if port == {"http": 80, "https": 443}.get(parts.scheme):
        port = None
    host = (parts.hostname or "").rstrip(".") + (f":{port}" if port else "")
    path = re.sub(r"%[0-9a-fA-F]{2}", lambda escape: escape[0].upper(), parts.path)
    return f"{parts.scheme}://{host}{path or '/'}", parts.query


def _list(values: Sequence[str], separator: str = ",", without: Sequence[str] = ()) -> str:
    """A list whose order, case and spaces mean nothing."""
    items = {" ".join(item.split()).lower() for value in values for item in value.split(separator)}
    return f"{separator} ".join(sorted(items - {"", *without}))


def _media_type(values: Sequence[str]) -> str:
    kind, *parameters = (part.strip().lower() for part in values[-1].split(";"))
    return "; ".join([kind, *sorted(p.replace('"', "").replace(" ", "") for p in parameters if p)])


def _policies(values: Sequence[str]) -> str:
    """Directives and their sources in one order, without nonces: those are new each time by design."""
    found = set()
    for value in values:
        directives = [directive.split() for directive in re.sub(r"'nonce-[^']*'", "'nonce-…'", value).split(";")]
        found.add("; ".join(sorted(f"{d[0].lower()} {' '.join(sorted(d[1:]))}".strip() for d in directives if d)))
    return " | ".join(sorted(found - {""}))


_NORMAL: dict[str, Callable[[Sequence[str]], str]] = {
    "content-type": _media_type,
    "cache-control": _list,
    # CDNs pack by themselves, and add this or take it away as they do.
    "vary": partial(_list, without=("accept-encoding",)),
    "strict-transport-security": partial(_list, separator=";"),
    "content-security-policy": _policies,
    "x-frame-options": _list,
    "x-content-type-options": _list,
    "x-robots-tag": _list,
}
"""The headers that mean something to visitors. All others are a CDN's own affair: date, age, via, x-cache, …"""

_ADVICE = {
    "redirect": "Visitors are sent elsewhere: compare the redirect rules, and that both CDNs send the origin the same Host.",
    "redirect query": "The redirect carries another query: compare the rules for query strings.",
    "header content-type": "Compare what both CDNs do to this header; browsers may show the page differently.",
    "header cache-control": "Browsers and caches would keep the page for another time: compare the caching rules.",
    "header vary": "The backup's cache may mix up answers that the primary keeps apart: compare the cache keys.",
    "header x-robots-tag": "Search engines would treat the pages differently: compare the header rules.",
    "body": (
        "The pages differ. If this URL is made anew for each request, that means nothing; else compare the origin, and what "
        "each CDN does to pages."
    ),
}


def _difference(what: str, primary: str | None, backup: str | None) -> Difference:
    is_cookie = what.startswith("cookie ")
    if what in _ADVICE:
        advice = _ADVICE[what]
    elif not is_cookie:
        advice = "Set the same header at both CDNs, or at the origin only."
    elif backup is None:
        advice = "The backup drops this cookie: have it pass Set-Cookie on, and not answer this URL from its cache."
    elif primary is None:
        advice = "Only the backup sets this cookie: if it also caches this URL, visitors may get one another's."
    else:
        advice = "The same cookie with other attributes may not be sent back: pass Set-Cookie on unchanged."
    is_blocking = what == "redirect" or (is_cookie and backup is None)
    return Difference(_shown(what), _shown(primary), _shown(backup), advice, is_blocking=is_blocking)


def _shown(text: str | None) -> str:
    """Whoever answers chooses these texts."""
    if not text:
        return "nothing"
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


# --- the report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UrlParity:
    """One path of the hostname. `again` is the primary's second answer, if the first two came about."""

    path: str
    primary: Reply
    backup: Reply
    again: Reply | None = None

    @property
    def differences(self) -> list[Difference]:
        return compare(self.primary, self.backup, self.again)

    @property
    def remarks(self) -> list[str]:
        return remarks(self.primary, self.backup, self.again)

    @property
    def is_blocking(self) -> bool:
        return any(difference.is_blocking for difference in self.differences)

    @property
    def shows_something(self) -> bool:
        """A good answer through both; two equal errors prove no backup."""
        statuses = [reply.status for reply in (self.primary, self.backup, self.again) if reply and not reply.error]
        return len(statuses) > 1 and all(status is not None and status < 400 for status in statuses)


@dataclass(frozen=True, slots=True)
class ParityReport:
    hostname: str
    urls: tuple[UrlParity, ...]

    @property
    def is_blocking(self) -> bool:
        """Whether the backup must not be relied upon yet: something grave differs, or nothing shows that it is alike."""
        return any(url.is_blocking for url in self.urls) or not any(url.shows_something for url in self.urls)

    @property
    def summary(self) -> str:
        differing = [url for url in self.urls if url.differences]
        grave = [f"{url.path} ({d.what})" for url in self.urls for d in url.differences if d.is_blocking]
        if grave:
            return f"The backup does not answer like the primary: {', '.join(grave)}."
        if self.is_blocking:
            return (
                f"No URL of {self.hostname} gives a good answer through both paths, so nothing shows that they are alike: "
                "name paths that answer."
            )
        if differing:
            return f"{len(differing)} of {len(self.urls)} URLs of {self.hostname} differ a little between the paths."
        return f"All {len(self.urls)} URLs of {self.hostname} answer alike through both paths."


# --- fetching ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Via:
    """Where to connect: a CDN's name for the domain, or an IP address."""

    address: str
    port: int = 443
    family: Family = Family.EITHER


def path_problem(path: str) -> str | None:
    """Why `path` can't be asked for, or None."""
    if not path.startswith("/"):
        return f"“{path}”: begin with a slash."
    if not is_printable_ascii(path):
        return f"“{path}”: use printable ASCII without spaces (percent-encode the rest)."
    return f"“{path}”: leave out the fragment, which no server sees." if "#" in path else None


def to_fetch(paths: Sequence[str]) -> list[str]:
    """Each path once; where there are fewer than five, the default ones make up for it. Raises ValueError."""
    if problem := next(filter(None, map(path_problem, paths)), None):
        raise ValueError(problem)
    if len(set(paths)) > MOST_PATHS:
        raise ValueError(f"At most {MOST_PATHS} paths.")
    others = [path for path in DEFAULT_PATHS if path not in paths]
    own = list(dict.fromkeys(paths))
    return own + others[: max(FEWEST_PATHS - len(own), 0)]


def check_parity(
    hostname: str,
    paths: Sequence[str],
    primary: Via,
    backup: Via,
    *,
    request_headers: tuple[str, ...] = (),
    timeout_seconds: float = TIMEOUT_SECONDS,
    ca_file: str = "",
) -> ParityReport:
    """The URLs of the hostname through both paths, a few at a time. A path that fails is a difference, never an exception.

    `request_headers` are lines, as `services.headers` makes them of a service's. `timeout_seconds` is for each request;
    all of them take at most as many times that as there are paths. Raises ValueError if a path can't be asked for. Runs
    an event loop of its own, so it is for synchronous code.
    """
    chosen = to_fetch(paths)

    async def run() -> tuple[UrlParity, ...]:
        transport = Transport(_IN_FLIGHT, ca_file)
        get = partial(fetch, transport, hostname, request_headers=request_headers, timeout_seconds=timeout_seconds)

        async def one(path: str) -> UrlParity:
            first, other = await asyncio.gather(get(path, primary), get(path, backup))
            again = None if first.error or other.error else await get(path, primary)
            return UrlParity(path, first, other, again)

        try:
            return tuple(await asyncio.gather(*map(one, chosen)))
        finally:
            transport.close()

    return ParityReport(hostname, asyncio.run(run()))


async def fetch(
    transport: Transport,
    hostname: str,
    path: str,
    via: Via,
    *,
    request_headers: tuple[str, ...] = (),
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Reply:
    """One URL through one address. `path` must be one without a `path_problem`."""
    said = await transport.send(
        Probe(
            hostname, via.address, via.port, path, headers=request_headers, family=via.family,
            body_limit_bytes=BODY_LIMIT_BYTES, keeps_head=True, timeout_seconds=timeout_seconds,
            allow_private=settings.PROBE_ALLOW_PRIVATE,
        )
    )  # fmt: skip
    return _read(said, f"https://{hostname}{path}")


def _read(said: probe.Reply, url: str) -> Reply:
    if said.fault or said.status is None:
        is_ours = said.fault in (Fault.OURS, Fault.UNTRIED)
        return Reply(error=f"{'could not be asked: ' if is_ours else ''}{said.fault_text or 'no response arrived'}")
    headers = _headers(said.head)
    location = headers.get("location", [""])[0] if 300 <= said.status < 400 else ""
    return Reply(
        status=said.status,
        headers=headers,
        location=_absolute(url, location),
        cookies=frozenset(filter(None, map(_cookie, headers.get("set-cookie", ())))),
        body_sha256=hashlib.sha256(said.body).hexdigest(),
        body_bytes=len(said.body),
        truncated=said.is_cut,
    )


def _headers(head: bytes) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in head.decode("latin-1").split("\n"):
        if line.startswith((" ", "\t")) and headers[name]:  # RFC 9112, 5.2: a line folded as in old times
            headers[name][-1] += f" {line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            headers[name].append(value.strip())
    return dict(headers)


def _absolute(url: str, location: str) -> str:
    try:
        return urljoin(url, location) if location else ""
    except ValueError:
        return location


def _cookie(line: str) -> Cookie | None:
    """From a Set-Cookie line, by the rules of RFC 6265, 5.2."""
    pair, *rest = (part.strip() for part in line.split(";"))
    name, equals, _ = pair.partition("=")
    if not equals or not name.strip():
        return None
    attributes: set[str] = set()
    for part in rest:
        key, _, value = (piece.strip() for piece in part.partition("="))
        match key.lower():
            case "secure" | "httponly" as flag:
                attributes.add(flag)
            case "samesite" if value:
                attributes.add(f"samesite={value.lower()}")
            case "domain" if value:
                attributes.add(f"domain={value.lower().removeprefix('.')}")
            case "path" if value.startswith("/"):
                attributes.add(f"path={value}")
    return Cookie(name.strip(), frozenset(attributes))
