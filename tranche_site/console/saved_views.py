"""Keeping a list's filters under a name, and letting go of them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_POST

from tranche_site.models import SavedView

if TYPE_CHECKING:
    from django.db.models import Model
    from django.http import HttpRequest, HttpResponse

_NOT_KEPT = ("p", "_csv", "e", "_popup", "_to_field")
"""Places in a list, and what is no filter."""


class SaveForm(forms.Form):
    list = forms.CharField(max_length=100)
    name = forms.CharField(max_length=40)
    query = forms.CharField(max_length=1000, required=False)
    is_shared = forms.BooleanField(required=False)


@require_POST
def save(request: HttpRequest) -> HttpResponse:
    form = SaveForm(request.POST)
    model = _model(request.POST.get("list", ""))
    if model is None or not admin.site.get_model_admin(model).has_view_or_change_permission(request):
        raise PermissionDenied
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    if not form.is_valid():
        messages.error(request, "Give the view a name of at most 40 letters; its filters may be 1,000 long.")
        return HttpResponseRedirect(url)
    asked = form.cleaned_data
    query = urlencode([pair for pair in parse_qsl(asked["query"]) if pair[0] not in _NOT_KEPT])
    mine = SavedView.objects.filter(owner_id=request.user.pk, list=asked["list"])
    if not query:
        messages.error(request, "There is nothing to keep: search or filter first.")
    elif mine.exclude(name=asked["name"]).count() >= SavedView.MOST:
        messages.error(request, f"You have {SavedView.MOST} views of this list: let go of one first.")
    else:
        mine.update_or_create(
            name=asked["name"], owner_id=request.user.pk, list=asked["list"],
            defaults={"query": query, "is_shared": asked["is_shared"]},
        )  # fmt: skip
        messages.success(request, f"The view “{asked['name']}” is kept.")
    return HttpResponseRedirect(f"{url}?{query}" if query else url)


@require_POST
def drop(request: HttpRequest, pk: int) -> HttpResponse:
    view = get_object_or_404(SavedView, pk=pk, owner_id=request.user.pk)
    view.delete()
    messages.success(request, f"The view “{view.name}” is gone.")
    model = _model(view.list)
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist" if model else "admin:index"
    return HttpResponseRedirect(reverse(name))


def _model(label: str) -> type[Model] | None:
    try:
        model = apps.get_model(label)
    except (LookupError, ValueError):
        return None
    return model if admin.site.is_registered(model) else None
