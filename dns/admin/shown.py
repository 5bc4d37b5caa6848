"""What several of these pages show alike, and what they keep alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import User
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join

from dns.providers.contract import Trouble
from services.models import ServiceDomain
from tranche_site.floor.console_admin import ModelAdmin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from django import forms

CHANGE_COLOURS = {
    "wanted": "info",
    "held": "warning",
    "submitted": "info",
    "unknown": "warning",
    "confirmed": "info",
    "observed": "success",
    "failed": "danger",
    "superseded": "",
}
PASSING = frozenset({Trouble.THROTTLED, Trouble.UNREACHABLE, Trouble.STALE})
"""Troubles that go away by themselves; the others wait for a person."""


def trouble_colour(trouble: str) -> str:
    return "warning" if trouble in PASSING else "danger"


def worded(name: str) -> str:
    """A name out of the code as people read it."""
    return name.replace("_", " ")


def path_names(domain: ServiceDomain) -> dict[str, str]:
    """Role and CDN of each path by its id, as weights name it; the targets and their CDNs must have been fetched."""
    return {str(target.pk): f"{target.role} {target.cdn or target.address}" for target in domain.targets.all()}


def weights(percents: Mapping[str, int | str], names: Mapping[str, str]) -> str:
    """“primary Edgeline 0 %”, one path a line."""
    lines = [(names.get(key, f"target {key}"), share) for key, share in percents.items()]
    spans = format_html_join("", '<span class="block">{} <b class="whitespace-nowrap">{} %</b></span>', lines)
    return format_html("<div>{}</div>", spans or "-")


def copyable(text: str) -> str:
    """A click marks all of it."""
    return format_html('<code class="tr-copy">{}</code>', text)


def copyable_lines(text: str) -> str:
    return format_html('<pre class="tr-copy tr-copy-lines">{}</pre>', text)


def stacked(parts: Iterable[str]) -> str:
    return format_html('<div class="tr-stacked">{}</div>', format_html_join("", "<div>{}</div>", ((p,) for p in parts)))


def operator(request: HttpRequest) -> User:
    """The console's views let nobody in who is not logged in."""
    user = request.user
    assert user.is_authenticated  # noqa: S101
    return user


class OperatorsOwn(ModelAdmin):
    """Made by a person, with an author, and ended by an action; never edited, so that the record says what was decided."""

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool) -> None:
        obj.created_by = operator(request)
        super().save_model(request, obj, form, change)

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """The audit log says why, as after every other act."""
        return f"Added: {form.cleaned_data['reason']}"


class Shared(ModelAdmin):
    """Rows that workers write to all the time: a page saves what it edits, and leaves the rest as they left it."""

    # Fields that follow from what was edited.
    saved_besides: tuple[str, ...] = ()

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool) -> None:
        if not change:
            super().save_model(request, obj, form, change)
            return
        edited = [field.name for field in obj._meta.concrete_fields if field.name in form.cleaned_data]
        obj.save(update_fields=[*edited, *self.saved_besides])
