"""What a place of logs, or an API that estimates usage, has to offer, and how it fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

LOG_OPTIONS = ("sample_rate", "fields")
"""Of every place of logs: which share of the requests is logged, and what the fields of a format of one's own are called."""
_MOST_TEXT = 500


class SourceUnavailable(Exception):
    """It can't be read now, which says nothing of its objects. The text is the reason, in one line without a secret."""

    def __init__(self, text: str, hide: Iterable[str] = (), retry_seconds: int = 0) -> None:
        super().__init__(one_line(text, hide))
        self.retry_seconds = retry_seconds
        """How long the vendor asks us to wait; 0: it says nothing."""


class ObjectGone(Exception):
    """The object was deleted or replaced after it was listed. The next listing shows what became of it."""


def one_line(text: str, hide: Iterable[str] = ()) -> str:
    """In one line that can be stored, and without these secrets, which may be quoted back at us."""
    for secret in hide:
        if secret:
            text = text.replace(secret, "[secret]")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_MOST_TEXT]


@dataclass(frozen=True, slots=True)
class Access:
    """What the row of a source says, its secret opened."""

    location: str = ""
    endpoint_url: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    role_arn: str = ""
    external_id: str = field(default="", repr=False)
    access_key_id: str = ""
    secret: str = field(default="", repr=False)


# --- places of logs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class ListedObject:
    """One object as its source lists it. An etag stands for one content, so the same key with another is a new delivery."""

    key: str
    etag: str
    size_bytes: int


class Place(ABC):
    """A place that holds log objects."""

    @abstractmethod
    def objects(self, since: datetime | None = None) -> Iterator[ListedObject]:
        """The finished objects, by key. Raises SourceUnavailable.

        With `since`, when all were listed last, those may be left out that can't be new: a vendor says by their names how
        late they can be. None asks for every one, as somebody must once a day, since names may mislead.
        """

    @abstractmethod
    def fetched(self, item: ListedObject) -> AbstractContextManager[Path]:
        """The object as a file, as it was listed. Raises ObjectGone or SourceUnavailable, on leaving too."""


# --- estimates ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostHour:
    """What a vendor's statistics say that a host delivered in an hour."""

    host: str  # in normal form
    hour: datetime
    bytes: int
    requests: int
    low_bytes: int | None = None
    """With `high_bytes` the interval in which the vendor is 95 % sure of the truth; None: it doesn't say."""
    high_bytes: int | None = None
    sample_interval: float | None = None
    """1: nothing was left out; 10: one request in ten was looked at."""


class Estimator(ABC):
    """An API that tells sums, which may be sampled."""

    span = timedelta(hours=24)
    """How much is asked for and written in one go."""

    @abstractmethod
    def scope(self, known: Collection[str]) -> set[str]:
        """Which hostnames it can tell of; `known` are all of ours on its CDN, whosever."""

    @abstractmethod
    def hours(self, hosts: Collection[str], since: datetime, until: datetime) -> Iterator[HostHour]:
        """One for every host and every hour in [since, until) that it can tell of, those without traffic too.

        Others, of hosts that nobody asked for, are the caller's to leave out. Raises SourceUnavailable.
        """

    @property
    def is_spent(self) -> bool:
        """Whether so much was asked that the rest had better wait for another turn."""
        return False


# --- vendors ------------------------------------------------------------------------------------------------------

Problem = tuple[str, str]
"""A field of the row, and what to change there."""


@dataclass(frozen=True)
class Vendor:
    """One kind of source. It has a `place` or an `estimator`."""

    title: str
    fields: frozenset[str]
    """Of a row's location, endpoint_url, role_arn, external_id, access_key_id and secret, those that mean something."""
    problems: Callable[[Access], Iterator[Problem]]
    place: Callable[[Access, datetime], Place] | None = None
    estimator: Callable[[Access, datetime], Estimator] | None = None
    options: tuple[str, ...] = LOG_OPTIONS
    every_seconds: int = 0
    """Not looked at more often than this; 0: on every tick."""
