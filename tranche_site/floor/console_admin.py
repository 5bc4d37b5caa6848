"""What every page of the operator console inherits: the one place where the apps touch unfold.

Conventions that the classes here keep, so that no admin has to:

* times are shown in UTC, to the second, with their age as a tooltip;
* a change of state that is no edit is an action with a confirmation and a reason, sent by POST, and leaves an audit
  entry that says the reason; what moves traffic or money, or can't be taken back, is marked as dangerous;
* what a person must not write is `ReadOnly`; what is kept after deletion is `SoftDelete`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache, wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied, ValidationError
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.timesince import timesince, timeuntil
from unfold import admin as unfold_admin
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter, RangeDateTimeFilter
from unfold.decorators import action
from unfold.decorators import display as unfold_display
from unfold.enums import ActionVariant
from unfold.forms import BaseDialogForm
from unfold.paginator import InfinitePaginator
from unfold.widgets import UnfoldAdminTextareaWidget

from tranche_site.floor import access, audit_context, console_lists
from tranche_site.floor.soft_delete import restore, soft_delete

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList

    Column = Callable[[Any], str]

__all__ = [
    "ActionVariant",
    "AutocompleteSelectFilter",
    "BaseDialogForm",
    "ChoicesDropdownFilter",
    "Form",
    "InfinitePaginator",
    "ModelAdmin",
    "RangeDateTimeFilter",
    "ReadOnly",
    "ReadOnlyInline",
    "ReasonForm",
    "SoftDelete",
    "TabularInline",
    "action",
    "asker",
    "coloured",
    "confirmed",
    "confirmed_for_many",
    "dangerous_action",
    "data_size",
    "display",
    "moment",
    "percent",
    "refused",
    "settled",
    "two_lines",
    "when",
]

# --- how values are written -----------------------------------------------------------------------------------------


def moment(at: datetime | None) -> str:
    """A time to the second; its age is the tooltip. The column or label beside it says that it is UTC."""
    if at is None:
        return "-"
    now = timezone.now()
    age = f"in {timeuntil(at, now)}" if at > now else f"{timesince(at, now)} ago"
    return format_html(
        '<time datetime="{}" title="{}" class="whitespace-nowrap">{}</time>',
        at.isoformat(),
        age,
        at.strftime("%Y-%m-%d %H:%M:%S"),
    )


def coloured(text: object, colour: str = "") -> str:
    """A coloured word: success, info, warning, danger, or none."""
    return render_to_string("unfold/helpers/label.html", {"text": text, "type": colour})


def display(*, description: str, ordering: str | None = None, label: Mapping[str, str] | None = None) -> Any:
    """Django's, with a coloured label for each value of a state; unfold's own labels stand in lists only."""

    def decorate(function: Callable[..., Any]) -> Any:
        shown = function if label is None else _coloured(function, label)
        return unfold_display(description=description, ordering=ordering)(shown)

    return decorate


def _coloured(function: Callable[..., Any], colours: Mapping[str, str]) -> Callable[..., str]:
    @wraps(function)
    def shown(*args: Any) -> str:
        value = function(*args)
        return coloured(value, colours.get(value, ""))

    return shown


@cache
def when(field: str) -> Column:
    """A column, or read-only field, for a model's datetime field."""

    def column(row: Any) -> str:
        return moment(getattr(row, field))

    column.__name__ = field
    label = field.removesuffix("_at").replace("_", " ")
    return display(description=f"{label} (UTC)", ordering=field)(column)


def data_size(count: int) -> str:
    """Decimal units, as CDNs bill them: 1234567 is “1.23 MB”."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if abs(value) < 1000:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.2f} {unit}"


def two_lines(first: object, second: object) -> str:
    """A name, and below it whose it is: saves a column."""
    return format_html('<div>{}<span class="tr-below">{}</span></div>', first, second)


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


# --- forms ----------------------------------------------------------------------------------------------------------


class Form(forms.ModelForm):
    """Checks the database's constraints whole, also over fields that the model fills in itself, such as the customer.

    Django skips a constraint that names a field outside the form, and Postgres would then answer with a crash page.
    `constraint_fields` names the field that a constraint's message belongs to.
    """

    constraint_fields: dict[str, str] = {}

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if set(self.errors) - {NON_FIELD_ERRORS}:
            return
        for constraint in self.instance._meta.constraints:
            try:
                constraint.validate(type(self.instance), self.instance)
            except ValidationError as error:
                self._place(error, self.constraint_fields.get(constraint.name))

    def _place(self, error: ValidationError, field: str | None) -> None:
        general = self.errors.get(NON_FIELD_ERRORS)
        if general is not None:
            general.data = [said for said in general.as_data() if said.messages[0] not in error.messages]
            if not general.data:
                del self.errors[NON_FIELD_ERRORS]
        self.add_error(field if field in self.fields else None, error.messages)


class ReasonForm(BaseDialogForm):
    """For what a person does to a record that is kept for ever: never without a word about why."""

    reason = forms.CharField(
        max_length=1000,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="Kept with your name in the audit log.",
    )


# --- actions --------------------------------------------------------------------------------------------------------


def confirmed(
    description: str,
    question: str,
    *,
    submit: str,
    permission: str = "change",
    icon: str | None = None,
    variant: ActionVariant = ActionVariant.DEFAULT,
    form_class: type[BaseDialogForm] = ReasonForm,
    dangerous: bool = False,
) -> Callable[[Callable[..., HttpResponse]], Any]:
    """An action on one row that asks first, and for the reason. A GET shows the question; only the POST of its form acts.

    A `form_class` that asks for no reason is for what changes nothing but our knowledge. `dangerous` is for what moves
    traffic or money or can't be taken back; it stands on the action as `is_dangerous`.
    """
    dialog = {"title": description, "description": question, "form_class": form_class, "form_submit_text": submit}
    made = action(description=description, permissions=[permission], icon=icon, variant=variant, dialog=dialog)
    return lambda function: _marked(made(_with_reason(function)), dangerous)


def _with_reason(function: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """What is written meanwhile is audited with the reason that was given."""

    @wraps(function)
    def acts(self: ModelAdmin, request: HttpRequest, form: forms.Form, *args: Any, **kwargs: Any) -> HttpResponse:
        audit_context.say(reason=form.cleaned_data.get("reason", ""))
        return function(self, request, form, *args, **kwargs)

    return acts


def dangerous_action(function: Any) -> Any:
    """Marks an action, or a view, that asks in a page of its own, as `confirmed(dangerous=True)` marks the others."""
    return _marked(function, True)


def _marked(function: Any, dangerous: bool) -> Any:
    """What is dangerous asks for the password again, where it was given too long ago."""
    if not dangerous:
        function.is_dangerous = False
        return function

    @wraps(function)
    def sure(*args: Any, **kwargs: Any) -> Any:
        request = next(arg for arg in args if isinstance(arg, HttpRequest))
        return access.ask_again(request) or function(*args, **kwargs)

    setattr(sure, "is_dangerous", True)  # noqa: B010  functions have attributes, which mypy does not know
    return sure


def confirmed_for_many(
    description: str, question: str, *, submit: str, permission: str, dangerous: bool = False
) -> Callable[[Callable[..., None]], Any]:
    """An action on the rows that are ticked in a list, which asks first, and for the reason, in a page of its own.

    It is called with (request, queryset, reason).
    """

    def decorate(function: Callable[..., None]) -> Any:
        @wraps(function)
        def asks(self: ModelAdmin, request: HttpRequest, queryset: models.QuerySet[Any]) -> HttpResponse | None:
            form = ReasonForm(request, None, request.POST if "_form_submitted" in request.POST else None)
            if form.is_valid():
                audit_context.say(reason=form.cleaned_data["reason"])
                function(self, request, queryset, form.cleaned_data["reason"])
                return None  # back to the list
            context = {
                **self.admin_site.each_context(request), "opts": self.opts, "title": description, "question": question,
                "submit": submit, "form": form, "back": request.get_full_path(),
                "kept": [(name, value) for name in _TICKED for value in request.POST.getlist(name)],
            }  # fmt: skip
            return render(request, "console/ask_many.html", context)

        return _marked(admin.action(description=description, permissions=[permission])(asks), dangerous)

    return decorate


_TICKED = ("action", "select_across", "_selected_action")
"""What the list says of the rows that are ticked, and is said again with the reason."""


def settled(request: HttpRequest, url: str, message: str) -> HttpResponse:
    """The answer of an action that is done: back to a page, with a message, also from within a dialog."""
    return _leave(request, url, messages.SUCCESS, message)


def refused(request: HttpRequest, url: str, message: str) -> HttpResponse:
    return _leave(request, url, messages.ERROR, message)


def asker(request: HttpRequest, otherwise: str) -> str:
    """The page of ours that led to an action, where it said so (`?next=`): people go on where they were."""
    asked = request.GET.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(asked, {request.get_host()}, require_https=request.is_secure())
    return asked if is_ours else otherwise


def _leave(request: HttpRequest, url: str, level: int, message: str) -> HttpResponse:
    messages.add_message(request, level, message)
    if "HX-Request" in request.headers:
        return HttpResponse(headers={"HX-Redirect": url})
    return HttpResponseRedirect(url)


# --- the classes ----------------------------------------------------------------------------------------------------


class _Shown:
    """Reads datetime fields in UTC wherever they are only shown, and keeps `fixed_fields` as they were created."""

    model: type[models.Model]
    fixed_fields: tuple[str, ...] = ()

    def _is_datetime(self, name: Any) -> bool:
        fields = {field.name: field for field in self.model._meta.get_fields()}
        return isinstance(name, str) and isinstance(fields.get(name), models.DateTimeField)

    def _shown(self, names: Any) -> list[Any]:
        return [when(name) if self._is_datetime(name) else name for name in names]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        names = list(super().get_readonly_fields(request, obj))  # type: ignore[misc]
        return self._shown(names + [name for name in self.fixed_fields if obj is not None])

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        readonly = self.get_readonly_fields(request, obj)
        frozen = obj is not None and not self.has_change_permission(request, obj)  # type: ignore[attr-defined]
        return [
            (title, {**options, "fields": [self._in_fieldset(name, readonly, frozen) for name in options["fields"]]})
            for title, options in super().get_fieldsets(request, obj)  # type: ignore[misc]
        ]

    def _in_fieldset(self, name: Any, readonly: list[Any], frozen: bool) -> Any:
        if isinstance(name, (list, tuple)):
            return [self._in_fieldset(part, readonly, frozen) for part in name]
        return when(name) if self._is_datetime(name) and (frozen or when(name) in readonly) else name


class ModelAdmin(_Shown, unfold_admin.ModelAdmin):
    form = Form
    list_per_page = 50
    list_filter_submit = True
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they count the whole table
    actions_on_bottom = False
    list_before_template = "console/list_before.html"
    warn_unsaved_form = True
    formfield_overrides = {
        models.URLField: {"assume_scheme": "https"},
        models.JSONField: {"widget": UnfoldAdminTextareaWidget(attrs={"rows": 4})},
    }
    # What an empty list tells the person who looks at it.
    empty_hint = ""
    # Whether what people add or change here moves traffic or money, or gives access; see `confirmed`.
    writing_is_dangerous = False

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return self._shown(super().get_list_display(request))

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        if console_lists.ASKED in request.GET:
            return console_lists.as_csv(self, request, timezone.now())
        return super().changelist_view(request, extra_context)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Every change of the row, and whose it was, for those who may read that; else what people did to it here."""
        if not request.user.has_perm("tranche_site.view_auditentry"):
            answer: HttpResponse = super().history_view(request, object_id, extra_context)
            return answer
        asked = urlencode({"table__exact": self.opts.db_table, "row_id__exact": unquote(object_id)})
        return HttpResponseRedirect(f"{reverse('admin:tranche_site_auditentry_changelist')}?{asked}")

    def changeform_view(self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        may = self.has_change_permission(request) if object_id else self.has_add_permission(request)
        again = access.ask_again(request) if self.writing_is_dangerous and may else None
        return again or super().changeform_view(request, object_id, *args, **kwargs)

    def offers(self, action_name: str, row: Any) -> bool:
        """Whether an action makes sense for this row as it stands now."""
        return True

    def get_actions_detail(self, request: HttpRequest, object_id: str) -> list[Any]:
        actions = super().get_actions_detail(request, object_id)
        row = self.get_object(request, object_id) if actions else None
        prefix = f"{self.opts.app_label}_{self.opts.model_name}_"
        return [found for found in actions if row and self.offers(found.action_name.removeprefix(prefix), row)]

    def row_of(self, request: HttpRequest, object_id: str, action_name: str) -> Any:
        """The row that an action is asked for; refuses what the page would not have offered."""
        row = self.get_object(request, object_id)
        if row is None:
            raise Http404
        if not self.offers(action_name, row):
            raise PermissionDenied
        return row

    def url_of(self, row: models.Model) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[row.pk])

    def list_url(self) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")


class TabularInline(_Shown, unfold_admin.TabularInline):
    form = Form
    extra = 0
    tab = True


class _NobodyWrites:
    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnly(_NobodyWrites, ModelAdmin):
    """Rows that machines write, or that must stay as they were written."""

    actions_on_top = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyInline(_NobodyWrites, TabularInline):
    """Rows of another page, to look at and to go to."""

    show_change_link = True
    can_delete = False
    per_page = 20

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return self._shown(super().get_fields(request, obj))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return list({*super().get_readonly_fields(request, obj), *self.get_fields(request, obj)})


class DeletedFilter(admin.SimpleListFilter):
    """Deleted rows are out of sight until somebody asks for them."""

    title = "deleted"
    parameter_name = "deleted"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Deleted ones"), ("all", "All of them")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        if self.value() == "all":
            return queryset
        return queryset.filter(deleted_at__isnull=self.value() != "yes")

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        first, *rest = super().choices(changelist)
        yield {**first, "display": "Those in use"}
        yield from rest


class SoftDelete(ModelAdmin):
    """Rows that are kept after deletion, because storms, usage and invoices point at them."""

    actions_detail: Any = ["delete_softly", "restore"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and getattr(obj, "deleted_at", None) is None

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        return [*super().get_list_filter(request), DeletedFilter]

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        found, may_have_duplicates = super().get_search_results(request, queryset, search_term)
        if request.resolver_match and request.resolver_match.url_name == "autocomplete":
            found = found.filter(deleted_at__isnull=True)  # nothing new hangs on what is deleted
        return found, may_have_duplicates

    def offers(self, action_name: str, row: Any) -> bool:
        return (row.deleted_at is None) == (action_name != "restore") and super().offers(action_name, row)

    def obstacle(self, row: Any) -> str:
        """What must happen before `row` can be deleted; empty if nothing."""
        return ""

    def remove(self, row: Any, now: datetime) -> None:
        soft_delete(row, now)

    def bring_back(self, row: Any) -> None:
        restore(row)

    @confirmed(
        "Delete",
        "It disappears from the lists and stops working, with all that belongs to it. Its history stays: storms, usage and "
        "invoices point at it. Restoring it brings all of that back.",
        submit="Delete",
        icon="delete",
        variant=ActionVariant.DANGER,
    )
    def delete_softly(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row = self.row_of(request, object_id, "delete_softly")
        if obstacle := self.obstacle(row):
            return refused(request, self.url_of(row), obstacle)
        self.remove(row, timezone.now())
        self.log_change(request, row, f"Deleted: {form.cleaned_data['reason']}")
        return settled(request, self.list_url(), f"{row} is deleted.")

    @confirmed(
        "Restore",
        "It works again as it did, with what was deleted together with it.",
        submit="Restore",
        icon="restore_from_trash",
        variant=ActionVariant.PRIMARY,
    )
    def restore(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row = self.row_of(request, object_id, "restore")
        try:
            self.bring_back(row)
        except ValidationError as error:
            return refused(request, self.url_of(row), " ".join(error.messages))
        self.log_change(request, row, f"Restored: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(row), f"{row} is restored.")
