"""How an availability is told: in percent, and by a colour. Pure."""

from __future__ import annotations


def shown(availability: float) -> str:
    """Rounded down: what is not quite 100 % never reads as 100 %."""
    return f"{int(availability * 10_000) / 100:.2f} %"


def colour(availability: float | None) -> str:
    """The name of its colour in pictures and stylesheets; “none” without a vote."""
    if availability is None:
        return "none"
    for least, name in ((1.0, "all"), (0.99, "most"), (0.9, "some")):
        if availability >= least:
            return name
    return "few"
