"""Known CDN outages, replayed: would the default policy have declared what was one, and only that? Pure but for its file.

`history.csv` has the form of every phase in columns, taken from the published reviews: what it hit, where, how large a
share of an affected customer's probes failed and how, whether it came and went. Two customers are simulated for each
incident, one affected and one not, probed from two vantage points in each of five regions.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path

from storms import backtest
from storms.backtest import Result
from storms.recordings import SECOND, Recording, to_micros
from storms.simulation import PATHS, PRIMARY, Fault, Prober
from storms.verdicts import Policy, VantagePoint

FILE = Path(__file__).with_name("history.csv")
REGIONS = ("af", "ap", "eu", "na", "sa")
POINTS = tuple(VantagePoint(f"{region}-{n}", region, f"{region} network {n}") for region in REGIONS for n in (1, 2))
BEFORE, AFTER = 15 * 60 * SECOND, 2 * 3600 * SECOND
"""How long before and after an incident its customers are watched."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One row of the file. `regions` empty: everywhere. Seconds `on` and `off` are 0 where it is steady."""

    incident: str
    provider: str
    name: str
    started_at: datetime
    ended_at: datetime
    hits: str
    regions: tuple[str, ...]
    fail_share: float
    outcome: str
    latency_ms: float | None
    on_seconds: int
    off_seconds: int
    expected: str
    source: str

    def fault(self) -> Fault | None:
        """What it did to the probes of an affected customer."""
        if self.hits == "nothing":
            return None
        if self.hits == "resolver" and self.fail_share < 1:
            return None  # answers are kept (`services.addresses`) while a resolver fails now and then
        points = frozenset(point.name for point in POINTS if not self.regions or point.region in self.regions)
        return Fault(
            to_micros(self.started_at), to_micros(self.ended_at), self.outcome, self.fail_share,
            frozenset({PRIMARY}) if self.hits == PRIMARY else frozenset(PATHS), points, self.latency_ms,
            self.on_seconds * SECOND, self.off_seconds * SECOND,
            blinds=self.hits == "resolver",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was expected of one incident, and what was found. The unaffected customer must see nothing at all."""

    incident: str
    provider: str
    expected: str
    affected: Result
    unaffected: Result
    phases: tuple[Phase, ...]

    @property
    def found(self) -> str:
        if self.affected.storms:
            count = len(self.affected.storms)
            return "storm" if count == 1 else f"{count} storms"
        return "finding" if any(finding.kind == "latency" for finding in self.affected.findings) else "none"

    @property
    def problem(self) -> str:
        """What differs from the expected, or ""."""
        if self.unaffected.storms or self.unaffected.findings:
            return "an unaffected customer was told of it"
        if self.found != self.expected:
            return f"expected {self.expected}, found {self.found}"
        opening = next((phase for phase in self.phases if phase.expected == "storm"), None)
        if opening and not opening.started_at <= self.affected.storms[0].detected_at <= opening.ended_at:
            return f"the storm was not found in the phase “{opening.name}”"
        return ""


def read(path: Path = FILE) -> list[Phase]:
    with path.open(newline="", encoding="utf-8") as lines:
        return [_phase(row) for row in csv.DictReader(lines)]


def _phase(row: dict[str, str]) -> Phase:
    return Phase(
        row["incident"], row["provider"], row["phase"], datetime.fromisoformat(row["started_at"]),
        datetime.fromisoformat(row["ended_at"]), row["hits"], () if row["regions"] == "*" else tuple(row["regions"].split()),
        float(row["fail_share"]), row["outcome"], float(row["latency_ms"]) if row["latency_ms"] else None,
        int(row["on_seconds"]), int(row["off_seconds"]), row["expected"], row["source"],
    )  # fmt: skip


def incidents(phases: Iterable[Phase]) -> Iterator[tuple[Phase, ...]]:
    return (tuple(rows) for _, rows in groupby(phases, key=lambda phase: phase.incident))


def replay(phases: tuple[Phase, ...], policy: Policy, seed: int = 1) -> Verdict:
    """Replay one incident for both customers."""
    affected = backtest.replay(recording(phases, seed), policy)
    unaffected = backtest.replay(recording(phases, seed, is_affected=False), policy)
    expected = next((p.expected for p in phases if p.expected in ("storm", "finding")), "none")
    return Verdict(phases[0].incident, phases[0].provider, expected, affected, unaffected, phases)


def recording(phases: tuple[Phase, ...], seed: int, *, is_affected: bool = True) -> Recording:
    """What the prober would have recorded of a customer. Who isn't affected is hit only by what hits the prober itself."""
    faults = [fault for p in phases if (is_affected or p.hits == "resolver") and (fault := p.fault())]
    start = min(to_micros(phase.started_at) for phase in phases) - BEFORE
    end = max(to_micros(phase.ended_at) for phase in phases) + AFTER
    return Prober(POINTS).run(start, end, faults, seed)
