"""The pages that ask who is there: for the second factor, and for the password before what is dangerous."""

from __future__ import annotations

import base64
import io
from typing import Any

import segno
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
from django.utils.safestring import SafeString, mark_safe
from django_otp import match_token
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from tranche_site.floor import access

RECOVERY_CODES = 8
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
    user, then = _user(request), access.next_of(request, request.GET.get("next", ""))
    if access.FACTOR in request.session:
        return HttpResponseRedirect(then)
    mine = TOTPDevice.objects.filter(user=user)
    device = None if mine.filter(confirmed=True).exists() else mine.get_or_create(user=user, defaults=_new())[0]
    form = CodeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        code = form.cleaned_data["code"]
        if device is not None and _enrolled(device, code):
            access.note_second_factor(request)
            _log(user, "Set up the second factor")
            return _show_codes(request, user, then)
        if device is None and match_token(user, code):  # locks the device: no code is good twice
            access.note_second_factor(request)
            return HttpResponseRedirect(then)
        _log(user, "A wrong code of the second factor")
        form.add_error(
            "code", "That is not the code of this moment. Each is good once; after several wrong ones, wait a little."
        )
    context = {"title": "Second factor", "form": form}
    if device is not None:
        context |= {"picture": _picture(device), "key": base64.b32encode(device.bin_key).decode()}
    return _page(request, "console/second_factor.html", context)


def _new() -> dict[str, Any]:
    return {"name": "app", "confirmed": False}


def _enrolled(device: TOTPDevice, code: str) -> bool:
    with transaction.atomic():
        locked = TOTPDevice.objects.select_for_update().get(pk=device.pk)
        allowed, _ = locked.verify_is_allowed()
        if locked.confirmed or not allowed or not locked.verify_token(code):
            return False
        locked.confirmed = True
        locked.save()
    return True


def _picture(device: TOTPDevice) -> SafeString:
    """What an app scans, as SVG."""
    drawn = io.BytesIO()
    segno.make(device.config_url, error="m").save(drawn, kind="svg", scale=5, xmldecl=False, svgns=False, light="#fff")
    return mark_safe(drawn.getvalue().decode())  # noqa: S308  made of modules alone


def _show_codes(request: HttpRequest, user: User, then: str) -> HttpResponse:
    """Once: for the day on which the telephone is gone."""
    StaticDevice.objects.filter(user=user).delete()
    device = StaticDevice.objects.create(user=user, name="recovery codes")
    codes = [StaticToken.random_token() for _ in range(RECOVERY_CODES)]
    StaticToken.objects.bulk_create(StaticToken(device=device, token=code) for code in codes)
    return _page(request, "console/recovery_codes.html", {"title": "Recovery codes", "codes": codes, "then": then})


def reset_second_factor(user: User) -> None:
    """He sets up another with his next log-in; sessions that had the old one end."""
    with transaction.atomic():
        TOTPDevice.objects.filter(user=user).delete()
        StaticDevice.objects.filter(user=user).delete()
        end_sessions(user)


def end_sessions(user: User) -> None:
    # Django keeps whose a session is inside it. Staff have few.
    mine = [row.pk for row in Session.objects.all() if row.get_decoded().get("_auth_user_id") == str(user.pk)]
    Session.objects.filter(pk__in=mine).delete()


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


def _page(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    return render(request, template, {**admin.site.each_context(request), **context})


def _user(request: HttpRequest) -> User:
    user = request.user
    assert isinstance(user, User)  # noqa: S101  of admin_view
    return user


def _log(user: User, said: str) -> None:
    LogEntry.objects.create(
        user=user, content_type=ContentType.objects.get_for_model(User), object_id=str(user.pk), object_repr=str(user),
        action_flag=CHANGE, change_message=said,
    )  # fmt: skip
