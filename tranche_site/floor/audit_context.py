"""Tells Postgres who is at work and why, for the triggers that audit: with each statement that writes, within a request.

The settings are local to the transaction of the statement, so a pooler in between does no harm, and nobody inherits them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from django.db import connections

from tranche_site.floor import request_id

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

_said: ContextVar[dict[str, str] | None] = ContextVar("audit_context", default=None)
_WRITES = ("INSERT", "UPDATE", "DELETE", "WITH", "MERGE")
_SET = "SELECT set_config('tranche.audit', %s, true); "


@contextmanager
def context(**said: str) -> Iterator[None]:
    """What is written within is written down with these: actor, reason, request_id."""
    token = _said.set(dict(said))
    try:
        with ExitStack() as stack:
            for connection in connections.all():
                stack.enter_context(connection.execute_wrapper(_tell))
            yield
    finally:
        _said.reset(token)


def say(**said: str) -> None:
    """More about what is going on, as soon as it is known. Outside of a context nobody hears it."""
    current = _said.get()
    if current is not None:
        current.update({name: word for name, word in said.items() if word})


def _tell(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
    said = _said.get()
    # Several rows at once take no second statement beside theirs; within a transaction what was said before holds on.
    if said and not many and isinstance(sql, str) and sql.lstrip()[:8].upper().startswith(_WRITES):
        told = json.dumps({name: word[:2000] for name, word in said.items()})
        if params is None:
            sql, params = sql.replace("%", "%%"), ()
        if isinstance(params, dict):
            result = execute(
                _SET.replace("%s", "%(tranche_audit)s") + sql, {**params, "tranche_audit": told}, many, context
            )
        else:
            result = execute(_SET + sql, (told, *params), many, context)
        while context["cursor"].nextset():  # what the statement itself gives is the last of the results
            pass
        return result
    return execute(sql, params, many, context)


class AuditContext:
    """The middleware: whoever sends a request that may write is its actor. An API's key says so itself, once it is known."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return self._get_response(request)
        actor = ""
        if request.path_info.startswith("/admin/") and request.user.is_authenticated:
            actor = request.user.get_username()
        with context(actor=actor, request_id=request_id.of(request)):
            return self._get_response(request)
