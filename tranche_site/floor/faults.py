"""Named points at side-effect boundaries where a test can kill, stop or fail the process. Nothing in production."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_armed: dict[str, Callable[[], None]] = {}


def fault_point(name: str) -> None:
    """Say that the code is at `name`, for example “dns.submitted”."""
    if _armed and (act := _armed.get(name)):
        act()


def arm(name: str, act: Callable[[], None]) -> None:
    """Run `act` whenever `name` is reached, until `disarm`."""
    _armed[name] = act


def disarm() -> None:
    _armed.clear()


def is_armed() -> bool:
    return bool(_armed)
