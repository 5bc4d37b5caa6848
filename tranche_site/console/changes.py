"""Weight changes as the console's pages show them: with the names of what they move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dns.models import WeightChange
from services.models import Target


@dataclass(frozen=True, slots=True)
class Share:
    name: str
    before: int | None
    after: int


@dataclass(frozen=True, slots=True)
class Change:
    row: WeightChange
    shares: list[Share]

    @property
    def seconds(self) -> float | None:
        row = self.row
        return (row.observed_at - row.wanted_at).total_seconds() if row.observed_at else None


def with_shares(rows: Iterable[WeightChange], targets: Iterable[Target]) -> list[Change]:
    """`targets` are those that the changes may name, with their CDNs."""
    names = {str(target.pk): f"{target.role} {target.cdn or target.address}" for target in targets}
    return [Change(row, list(_shares(row, names))) for row in rows]


def named(rows: Iterable[WeightChange]) -> Iterable[Target]:
    """The targets that these changes name: one query."""
    keys = {int(key) for row in rows for key in (*row.weights, *row.previous_weights) if str(key).isdecimal()}
    return Target.objects.filter(pk__in=keys).select_related("cdn")


def _shares(row: WeightChange, names: Mapping[str, str]) -> Iterable[Share]:
    for key, after in row.weights.items():
        yield Share(names.get(key, f"target {key}"), row.previous_weights.get(key), after)
