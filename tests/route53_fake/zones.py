"""Hosted zones: their record sets in the order in which they are listed, their protections, and changes on the way."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.route53_fake import names
from tests.route53_fake.changes import Node
from tests.route53_fake.records import RecordSet

Position = tuple[str, str, str]
"""A name as it is sorted, a type, an identifier: where a listing may start."""


@dataclass(slots=True)
class Zone:
    id: str
    name: str
    account: str
    private: bool
    name_servers: tuple[str, ...]
    """Those of the delegation set, without the dot at the end, as the service gives them."""
    caller_reference: str
    nodes: dict[str, Node] = field(default_factory=dict)
    size: int = 0
    protections: dict[tuple[str, str], str] = field(default_factory=dict)
    busy_until: float = 0.0
    """No other change is taken before."""
    refuses: int = 0
    """How many of the next changes are refused as coming too early."""
    _sorted: list[tuple[str, str]] | None = None

    def commit(self, touched: dict[str, Node]) -> None:
        for name, node in touched.items():
            before = self.nodes.get(name, {})
            self.size += len(node) - len(before)
            if node:
                self.nodes[name] = node
            else:
                self.nodes.pop(name, None)
            if bool(before) != bool(node):
                self._sorted = None

    def listed(self, start: Position = ("", "", "")) -> Iterator[RecordSet]:
        """From the position on, by reversed labels, then type, then identifier."""
        if self._sorted is None:
            self._sorted = sorted((names.order(name), name) for name in self.nodes)
        first = bisect.bisect_left(self._sorted, (start[0], ""))
        for order, name in self._sorted[first:]:
            for there in sorted(self.nodes[name].values(), key=_within_name):
                if order != start[0] or _within_name(there) >= start[1:]:
                    yield there

    def described(self) -> dict[str, Any]:
        return {
            "Id": f"/hostedzone/{self.id}",
            "Name": self.name,
            "CallerReference": self.caller_reference,
            "Config": {"PrivateZone": self.private},
            "ResourceRecordSetCount": self.size,
        }


def _within_name(there: RecordSet) -> tuple[str, str]:
    return there.type, there.identifier or ""


@dataclass(slots=True)
class Submitted:
    """A batch that was accepted, on its way to the servers."""

    id: str
    number: int
    """In the order of submission."""
    zone: Zone
    touched: dict[str, Node]
    comment: str | None
    polls_left: int
    ready_at: float
    """PENDING until it was asked for so many times, and until then."""
    in_sync: bool = False
    served: bool = False
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def described(self) -> dict[str, Any]:
        return {
            "Id": f"/change/{self.id}",
            "Status": "INSYNC" if self.in_sync else "PENDING",
            "SubmittedAt": self.at,
            "Comment": self.comment,
        }
