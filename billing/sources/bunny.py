"""Bunny's logs: a file a day and pull zone, which grows while its day lasts and is gone three days later."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from pathlib import Path

from billing.sources.calls import Api, endpoint_problems
from billing.sources.contract import LOG_OPTIONS, Access, ListedObject, ObjectGone, Place, Problem, Vendor

BASE_URL = "https://logging.bunnycdn.com"
DAYS_KEPT = 3
LATE = timedelta(hours=1)
"""After this no line of a day comes any more; Bunny says five minutes."""
_ORDER = {"order": "asc"}  # the newest line comes first otherwise
_ZONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


class Bunny(Place):
    """A day's etag is its length and time of modification where Bunny tells them, and else a checksum of all of it.

    What is fetched may have grown since it was listed, under an etag that no later listing will show again: then the day
    counts once more as a whole, in place of what had counted.
    """

    def __init__(self, access: Access, now: datetime) -> None:
        self._zone = access.location
        self._now = now
        self._api = Api("Bunny", BASE_URL, "AccessKey", access)

    def objects(self, since: datetime | None = None) -> Iterator[ListedObject]:
        today = self._now.date()
        for age in range(DAYS_KEPT, -1, -1):
            day = today - timedelta(days=age)
            over = datetime.combine(day, time(), self._now.tzinfo) + timedelta(days=1) + LATE
            if since is None or since < over:
                yield from self._listed(day)

    def _listed(self, day: date) -> Iterator[ListedObject]:
        with self._api.download(self._path(day), _ORDER) as response:
            if response is None:  # nobody visited, or the day is no longer kept
                return
            length, changed = response.headers.get("Content-Length", ""), response.headers.get("Last-Modified", "")
            if length.isdecimal() and changed:
                size, etag = int(length), hashlib.sha256(f"{length} {changed}".encode()).hexdigest()[:40]
            else:
                size, digest = 0, hashlib.sha256()
                for chunk in response.iter_bytes():
                    size += len(chunk)
                    digest.update(chunk)
                etag = digest.hexdigest()
        yield ListedObject(f"{day:%Y-%m-%d}/{self._zone}.log", etag, size)

    @contextmanager
    def fetched(self, item: ListedObject) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="tranche-object-") as directory:
            path = Path(directory) / "object"
            with self._api.download(self._path(date.fromisoformat(item.key[:10])), _ORDER) as response:
                if response is None:
                    raise ObjectGone(item.key)
                with path.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
            yield path

    def _path(self, day: date) -> str:
        return f"/{day:%m-%d-%y}/{self._zone}.log"


def _problems(access: Access) -> Iterator[Problem]:
    if not _ZONE.fullmatch(access.location):
        yield "location", "Write the ID of the pull zone, such as 60367."
    yield from endpoint_problems(access)


VENDOR = Vendor(
    "Bunny’s logging API",
    frozenset({"location", "endpoint_url", "secret"}),
    _problems,
    place=Bunny,
    options=LOG_OPTIONS,
    every_seconds=300,
)
