"""The pages that ask who is there: for the second factor, and for the password before what is dangerous."""

from __future__ import annotations

import io
import logging
from typing import Any

import segno
from axes.helpers import get_lockout_response
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from tranche_site.floor import access, sealed
from tranche_site.models import SecondFactor

logger = logging.getLogger(__name__)

_CODE = {"autocomplete": "one-time-code", "inputmode": "text", "autofocus": True, "spellcheck": "false"}


class CodeForm(forms.Form):
    code = forms.CharField(max_length=16, widget=UnfoldAdminTextInputWidget(attrs=_CODE), help_text="Six digits.")

    def clean_code(self) -> str:
        return str(self.cleaned_data["code"]).replace(" ", "").lower()


class PasswordForm(forms.Form):
    password = forms.CharField(
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "current-password", "autofocus": True})
    )


# --- the second factor ----------------------------------------------------------------------------------------------


def second_factor(request: HttpRequest) -> HttpResponse:
    """Asks for a code, of somebody who has an app for it; else shows what to scan, and keeps that once a code is right."""
    try:
        return _second_factor(request)
    except sealed.SealedError as error:
        logger.error("the second factor can't be asked for: %s", error)
        return _page(request, "console/second_factor.html", {"title": "Second factor", "trouble": str(error)}, 503)


def _second_factor(request: HttpRequest) -> HttpResponse:
    user, then = _user(request), access.next_of(request, request.GET.get("next", ""))
    if access.FACTOR in request.session:
        return HttpResponseRedirect(then)
    factor = SecondFactor.of(user)
    context: dict[str, Any] = {"title": "Second factor", "is_new": not factor.confirmed, "is_open": factor.is_open}
    if context["is_new"] and not factor.is_open:
        return _page(request, "console/second_factor.html", context)
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        code = form.cleaned_data["code"]
        if not factor.confirmed and (codes := factor.enrol(code)):
            access.note_second_factor(request)
            _log(user, "Set up the second factor")
            return _page(
                request, "console/recovery_codes.html", {"title": "Recovery codes", "codes": codes, "then": then}
            )
        if factor.accepts(code):
            access.note_second_factor(request)
            return HttpResponseRedirect(then)
        _log(user, "A wrong code of the second factor")
        form.add_error(
            "code", "That is not the code of this moment. Each is good once; after several wrong ones, wait a little."
        )
    context["form"] = form
    if not factor.confirmed:
        context |= {"picture": _picture(factor.url), "key": factor.key}
    return _page(request, "console/second_factor.html", context)


def _picture(url: str) -> SafeString:
    """What an app scans, as SVG."""
    drawn = io.BytesIO()
    segno.make(url, error="m").save(drawn, kind="svg", scale=5, xmldecl=False, svgns=False, light="#fff")
    return mark_safe(drawn.getvalue().decode())  # noqa: S308  made of modules alone


def reset_second_factor(user: User) -> None:
    """The person sets up another with the next log-in; sessions that had the old one end."""
    with transaction.atomic():
        SecondFactor.anew(user, timezone.now())
        end_sessions(user)


def end_sessions(user: User) -> None:
    # Django keeps whose a session is inside it. Staff have few.
    mine = [row.pk for row in Session.objects.all() if row.get_decoded().get("_auth_user_id") == str(user.pk)]
    Session.objects.filter(pk__in=mine).delete()


# --- passwords ------------------------------------------------------------------------------------------------------


def password_change(request: HttpRequest) -> HttpResponse:
    """Django's page, with the old password asked of the back end first: that counts what is wrong, and locks out who guesses."""
    if request.method == "POST":
        old = request.POST.get("old_password", "")
        if authenticate(request, username=_user(request).get_username(), password=old) is None and is_locked_out(
            request
        ):
            return get_lockout_response(request, {})
    answer: HttpResponse = admin.site.password_change(request)
    return answer


def is_locked_out(request: HttpRequest) -> bool:
    return bool(getattr(request, "axes_locked_out", False))


# --- a fresh password -----------------------------------------------------------------------------------------------


def sure(request: HttpRequest) -> HttpResponse:
    user, then = _user(request), access.next_of(request, request.GET.get("next", ""))
    form = PasswordForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        # Through the back end, which counts what is wrong and locks out who guesses.
        if authenticate(request, username=user.get_username(), password=form.cleaned_data["password"]) == user:
            access.note_sure(request)
            messages.success(request, "Thank you. Now go on.")
            return HttpResponseRedirect(then)
        form.add_error("password", "That is not your password.")
    minutes = settings.REAUTHENTICATE_SECONDS // 60
    return _page(
        request, "console/sure.html", {"title": "Your password", "form": form, "minutes": minutes, "then": then}
    )


def _page(request: HttpRequest, template: str, context: dict[str, Any], status: int = 200) -> HttpResponse:
    return render(request, template, {**admin.site.each_context(request), **context}, status=status)


def _user(request: HttpRequest) -> User:
    user = request.user
    assert isinstance(user, User)  # noqa: S101  of admin_view
    return user


def _log(user: User, said: str) -> None:
    LogEntry.objects.create(
        user=user, content_type=ContentType.objects.get_for_model(User), object_id=str(user.pk), object_repr=str(user),
        action_flag=CHANGE, change_message=said,
    )  # fmt: skip
