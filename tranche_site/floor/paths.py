"""Addresses of the API are taken with and without a slash at the end: a redirect would lose the body of a POST."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from tranche_site.floor.problems import API_PREFIX


def without_trailing_slash(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        path = request.path_info
        if path.startswith(API_PREFIX) and path != API_PREFIX and path.endswith("/") and not path.endswith("//"):
            request.path_info, request.path = path[:-1], request.path[:-1]
        return get_response(request)

    return middleware
