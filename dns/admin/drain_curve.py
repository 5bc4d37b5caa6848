"""The drain curve of a change: what resolvers still answered, some time after every authoritative server had it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dns.models import WeightChange

WIDTH, HEIGHT = 600, 120


@dataclass(frozen=True, slots=True)
class Point:
    after_seconds: float
    elsewhere: float
    """Share of the answers that lead where they no longer should (0 to 1)."""
    answers: int
    x: float
    y: float

    @property
    def text(self) -> str:
        return f"{self.elsewhere:.0%} of {self.answers} answers"


@dataclass(frozen=True, slots=True)
class Curve:
    points: list[Point]
    ttl_seconds: int
    ttl_x: float
    end_seconds: float
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def line(self) -> str:
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)

    @property
    def is_drained(self) -> bool:
        return self.points[-1].elsewhere == 0

    @property
    def alternative(self) -> str:
        return "; ".join(f"after {point.after_seconds:g} s {point.text} elsewhere" for point in self.points)


def draw(change: WeightChange) -> Curve | None:
    """None where no resolver was asked."""
    ttl = change.record_set.ttl_seconds
    found = [(point["after_seconds"], point["answers"]) for point in change.drain if sum(point["answers"].values())]
    if not found:
        return None
    end = max(found[-1][0], 2.0 * ttl)
    points = []
    for after, answers in found:
        share = elsewhere(change.weights, answers)
        points.append(Point(after, share, sum(answers.values()), WIDTH * after / end, HEIGHT * (1 - share)))
    return Curve(points, ttl, WIDTH * ttl / end, end)


def elsewhere(wanted: Mapping[str, int], answers: Mapping[str, int]) -> float:
    """The share of answers beyond what each path should have; those for no path at all count whole."""
    total = sum(answers.values())
    return sum(max(0.0, count / total - wanted.get(key, 0) / 100) for key, count in answers.items()) if total else 0.0
