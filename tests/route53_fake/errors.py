"""Refusals: what the service says when it does not do what it was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class Refusal(Exception):
    """An error response: `code`, a message for people, the HTTP status, and the failing entries where it lists some."""

    def __init__(self, code: str, message: str, status: int = 400, errors: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.errors = errors


def invalid_input(message: str) -> Refusal:
    return Refusal("InvalidInput", message)


def invalid_batch(messages: Iterable[str]) -> Refusal:
    """All that is wrong with a batch, in one list in brackets, as Amazon writes it."""
    return Refusal("InvalidChangeBatch", f"[{', '.join(messages)}]")


def denied(arn: str, action: str, resource: str = "") -> Refusal:
    where = f" on resource: {resource}" if resource else ""
    return Refusal("AccessDenied", f"User: {arn} is not authorized to perform: {action}{where}", 403)
