"""What a vendor that calls people can do, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Alarm:
    """What is to be said. `action` is trigger, repeat, acknowledge or resolve; `key` names the page at every vendor, in
    at most 255 characters; `url` is empty where PUBLIC_URL is; `by` is who acknowledged."""

    action: str
    key: str
    severity: str
    summary: str
    url: str
    opened_at: datetime
    by: str = ""

    @property
    def headline(self) -> str:
        """The summary with what became of it, for vendors that have no states."""
        said = {"repeat": "Still burning: ", "acknowledge": f"Seen by {self.by or 'somebody'}: ", "resolve": "Over: "}
        return f"{said.get(self.action, '')}{self.summary}"


class ChannelError(Exception):
    """What a vendor did not take. `permanent`: it never will; a person has to mend the channel."""

    def __init__(self, text: str, *, permanent: bool, retry_after_seconds: float = 0) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.retry_after_seconds = retry_after_seconds


class Channel(Protocol):
    """`fields` are its settings by name, each with what it is; those in `optional` may be left out."""

    fields: dict[str, str]
    optional: frozenset[str]

    def problems(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """By field, what is wrong with settings that somebody typed."""
        ...

    def send(self, alarm: Alarm, settings: Mapping[str, Any]) -> None:
        """Say it; saying it twice is harmless where the vendor knows `key`. Raises ChannelError."""
        ...


def cut(text: str, most: int) -> str:
    """At most so many characters, with an ellipsis where some are missing."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
