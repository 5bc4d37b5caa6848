"""Who is at the console: sessions that end, a second factor, and a fresh password before what is dangerous.

All of it is kept in the session, as times, so that it costs no query. The pages that ask are the console's
(`tranche_site.console.access_pages`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

if TYPE_CHECKING:
    from django.http.response import HttpResponseBase

CONSOLE = "/admin/"
BEGAN, SEEN, SURE, FACTOR = "began_at", "seen_at", "sure_at", "second_factor_at"
SEEN_EVERY_SECONDS = 60
"""A session is written down as used no more often than this."""
LONGER_TO_POST = 2
"""Who opened a dialog in time may type for as long again: what was typed is not to be lost."""


class StaffAccess:
    """The middleware that lets nobody past the end of a session, or without a second factor where one is asked for."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        answer = _stop(request) if request.path_info.startswith(CONSOLE) else None
        return answer or self._get_response(request)


def _stop(request: HttpRequest) -> HttpResponse | None:
    if not request.user.is_authenticated:
        return None
    session, now = request.session, time.time()
    if BEGAN not in session:  # somebody has just logged in, with a password
        session.update({BEGAN: now, SEEN: now, SURE: now})
    if now - session[BEGAN] > settings.SESSION_HOURS * 3600:
        return _log_out(request, f"Sessions end after {settings.SESSION_HOURS} hours. Please log in again.")
    if now - session[SEEN] > settings.SESSION_IDLE_MINUTES * 60:
        return _log_out(
            request, f"You were away for more than {settings.SESSION_IDLE_MINUTES} minutes. Please log in again."
        )
    if now - session[SEEN] > SEEN_EVERY_SECONDS and not _is_polling(request):
        session[SEEN] = now
    if settings.TWO_FACTOR and FACTOR not in session and request.path_info not in _free():
        return leave(request, _asking("admin:second_factor", request.get_full_path()))
    return None


def _is_polling(request: HttpRequest) -> bool:
    """A page that refreshes itself is nobody at the desk."""
    return "HX-Request" in request.headers and request.path_info.endswith("/live")


def _free() -> tuple[str, ...]:
    return tuple(reverse(f"admin:{name}") for name in ("second_factor", "login", "logout", "jsi18n"))


def _log_out(request: HttpRequest, why: str) -> HttpResponse:
    logout(request)
    messages.warning(request, why)
    return leave(request, _asking("admin:login", request.get_full_path() if request.method == "GET" else CONSOLE))


def _asking(page: str, then: str) -> str:
    return f"{reverse(page)}?{urlencode({'next': then})}"


def leave(request: HttpRequest, url: str) -> HttpResponse:
    """To another page, also from within a part of one."""
    if "HX-Request" in request.headers:
        # htmx ignores where an answer of 302 leads the browser.
        return HttpResponse(status=401, headers={"HX-Redirect": url})
    return HttpResponseRedirect(url)


# --- a fresh password -----------------------------------------------------------------------------------------------


def ask_again(request: HttpRequest) -> HttpResponse | None:
    """Where the password was given too long ago: the way to the page that asks for it. None: go on."""
    most: int = settings.REAUTHENTICATE_SECONDS
    if not most:
        return None
    most = most if request.method == "GET" else most * LONGER_TO_POST
    if time.time() - request.session.get(SURE, 0) <= most:
        return None
    return leave(request, _asking("admin:sure", _page_of(request)))


def note_sure(request: HttpRequest) -> None:
    """The password has just been given."""
    request.session[SURE] = time.time()


def note_second_factor(request: HttpRequest) -> None:
    request.session.cycle_key()
    request.session[FACTOR] = time.time()


def _page_of(request: HttpRequest) -> str:
    """The page on which the person is: that of a dialog, or the one that was asked for."""
    page = request.headers.get("HX-Current-URL") or (
        request.headers.get("Referer", "") if request.method == "POST" else ""
    )
    return next_of(request, page) if page else request.get_full_path()


def next_of(request: HttpRequest, url: str) -> str:
    """Where to go on, if that is a page of ours; else the console's first one."""
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    is_ours = url_has_allowed_host_and_scheme(url, {request.get_host()}, require_https=request.is_secure())
    return path if is_ours and path.startswith(CONSOLE) else CONSOLE
