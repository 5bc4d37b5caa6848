"""Benches: what Tranche costs, beside a peer that does the same work in the same run, or beside a limit of ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One measured figure. `peer_value` is None where the peer isn't installed, and `peer` says so."""

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float | None

    @property
    def ratio(self) -> float | None:
        return round(self.value / self.peer_value, 3) if self.peer_value else None
