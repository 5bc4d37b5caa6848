"""What every answer tells browsers: what a page may load and do, and that nothing of ours is kept by caches in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

_NOWHERE = "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
# The console's Alpine and htmx make functions of attributes, hence unsafe-eval; styles stand in attributes and pictures.
CONSOLE = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    f"form-action 'self'; {_NOWHERE}"
)
READER = f"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; form-action 'none'; {_NOWHERE}"
PAGE = f"default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; form-action 'none'; {_NOWHERE}"
DATA = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PERMISSIONS = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


class Headers:
    """The middleware that says so; a view that says more has its way."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self._get_response(request)
        is_page = response.get("Content-Type", "").startswith("text/html")
        response.setdefault("Content-Security-Policy", _policy(request.path_info, is_page))
        response.setdefault("Permissions-Policy", PERMISSIONS)
        if request.path_info.startswith("/admin/"):
            response.setdefault("Cache-Control", "no-store")
        return response


def _policy(path: str, is_page: bool) -> str:
    if path.startswith("/admin/"):
        return CONSOLE
    if path.startswith("/v1/docs"):
        return READER
    return PAGE if is_page else DATA
