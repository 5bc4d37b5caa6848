"""Record sets: armed or not and why, what stands in DNS, and what an operator does to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import OuterRef, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.widgets import UnfoldAdminTextInputWidget

from dns import accounts, beacon, ownership, readiness
from dns.admin.shown import Shared, operator, path_names, weights, worded
from dns.models import DnsAccount, RecordSet, WeightChange
from dns.providers import provider_class
from dns.providers.contract import ProviderError
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    BaseDialogForm,
    Form,
    ReasonForm,
    coloured,
    confirmed,
    display,
    moment,
    refused,
    settled,
    two_lines,
)

if TYPE_CHECKING:
    from django.db.models import QuerySet


# --- the check list ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the check list, with the word and the icon of how it stands."""

    name: str
    state: str
    icon: str
    text: str
    advice: str
    is_must: bool


_ICONS = {"ok": "check_circle", "fails": "cancel", "warning": "warning", "unclear": "help"}


def check_list(record_set: RecordSet) -> list[Line]:
    return [_line(check) for check in record_set.checks]


def _line(check: dict[str, Any]) -> Line:
    is_must = check.get("is_must", True)
    if check.get("holds"):
        state = "ok"
    elif check.get("is_unclear"):
        state = "unclear"
    else:
        state = "fails" if is_must else "warning"
    name = check["name"]
    return Line(
        name.upper() if name in ("ttl", "caa") else worded(name), state, _ICONS[state], check.get("text", ""),
        "" if state == "ok" else check.get("advice", ""), is_must,
    )  # fmt: skip


# --- lists ------------------------------------------------------------------------------------------------------------


class ArmedFilter(admin.SimpleListFilter):
    title = "armed"
    parameter_name = "armed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "armed"), ("no", "not armed"), ("released", "released")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RecordSet]) -> QuerySet[RecordSet]:
        if self.value() == "released":
            return queryset.filter(released_at__isnull=False)
        if self.value() in ("yes", "no"):
            return queryset.filter(released_at__isnull=True, armed_at__isnull=self.value() == "no")
        return queryset


class StandsFilter(admin.SimpleListFilter):
    title = "in DNS"
    parameter_name = "stands"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("drifted", "drifted"), ("alone", "left alone: edited by hand")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RecordSet]) -> QuerySet[RecordSet]:
        if self.value() == "drifted":
            return queryset.filter(drifted_since__isnull=False)
        return queryset.filter(is_held=True) if self.value() == "alone" else queryset


# --- forms ------------------------------------------------------------------------------------------------------------


class RecordSetForm(Form):
    class Meta:
        model = RecordSet
        fields = "__all__"
        labels = {"ttl_seconds": "TTL, seconds"}

    def clean_account(self) -> DnsAccount:
        account: DnsAccount = self.cleaned_data["account"]
        row = self.instance
        if row.pk and account.pk != row.account_id and row.generation and not row.released_at:
            raise ValidationError(f"Its records stand at {row.account}: release them there first.")
        return account

    def clean_apex_addresses(self) -> Any:
        return self.cleaned_data["apex_addresses"] or {}


class AdoptForm(ReasonForm):
    """Shows first what would be replaced."""

    form_before_template = "console/adopt.html"

    def get_before_template_context(self, request: HttpRequest, object_id: int | str | None = None) -> dict[str, Any]:
        row = RecordSet.objects.select_related("account", "domain").filter(pk=object_id or 0).first()
        try:
            return {"found": ownership.preview(row) if row else ""}
        except ProviderError as error:
            return {"error": error, "trouble": worded(error.trouble)}


class ReleaseForm(ReasonForm):
    hostname = forms.CharField(
        label="Type the hostname", max_length=253, widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"})
    )

    def clean_hostname(self) -> str:
        typed: str = self.cleaned_data["hostname"].strip().rstrip(".").lower()
        row = RecordSet.objects.select_related("domain").filter(pk=self.object_id).first()
        if row is None or typed != row.domain.hostname:
            raise ValidationError("This is not its hostname.")
        return typed


# --- the page ---------------------------------------------------------------------------------------------------------


@admin.register(RecordSet)
class RecordSetAdmin(Shared):
    writing_is_dangerous = True
    form = RecordSetForm
    list_display = ["name", "account", "armed", "stands", "observed", "ttl", "observed_at"]
    list_select_related = ["domain__service", "account"]
    list_filter = [
        ArmedFilter,
        StandsFilter,
        "account",
        ("domain__service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
    ]
    search_fields = ["domain__hostname", "zone", "account__name"]
    autocomplete_fields = ["domain", "account"]
    fixed_fields = ("domain",)
    saved_besides = ("zone_id", "next_check_at", "is_restless")
    readonly_fields = [
        "armed", "checked_at", "zone_id", "generation", "stands", "observed", "observed_generation", "observed_at",
        "observation", "lanes", "data_plane", "health_check_id", "arms_at", "released_at",
    ]  # fmt: skip
    add_fieldsets = [(None, {"fields": ["domain", "account", ("zone", "ttl_seconds"), "apex_addresses"]})]
    fieldsets = [
        (None, {"fields": ["domain", "account", ("zone", "ttl_seconds"), "apex_addresses"]}),
        (
            "What DNS answers",
            {
                "fields": [
                    ("stands", "observed"), "observation", ("generation", "observed_generation"),
                    ("observed_at", "zone_id"), "lanes",
                ],
            },
        ),
        ("State", {"fields": [("armed", "checked_at"), ("arms_at", "released_at")]}),
        (
            "Data plane",
            {
                "fields": [("data_plane", "health_check_id")],
                "description": "A health check on our beacon that shifts traffic without a call to the vendor’s API. "
                "It is armed and disarmed above.",
            },
        ),
    ]  # fmt: skip
    actions_detail = [
        "check_now",
        {"title": "Act", "items": ["adopt", "release", "arm_data_plane", "disarm_data_plane"]},
    ]
    change_form_outer_before_template = "console/checks.html"
    empty_hint = "Without a record set a domain is watched and never steered. Add one for each verified domain."

    def get_fieldsets(self, request: HttpRequest, obj: RecordSet | None = None) -> list[Any]:
        found = super().get_fieldsets(request, obj)
        has_data_plane = obj is not None and provider_class(obj.account.vendor).has_data_plane
        return [part for part in found if has_data_plane or part[0] != "Data plane"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[RecordSet]:
        changes = WeightChange.objects.filter(record_set=OuterRef("pk")).order_by("-generation")
        found: QuerySet[RecordSet] = super().get_queryset(request)
        return found.annotate(newest=Subquery(changes.values("state")[:1])).prefetch_related("domain__targets__cdn")

    @display(description="domain", ordering="domain__hostname")
    def name(self, row: RecordSet) -> str:
        return two_lines(row.domain, f"{row.domain.service.name}, zone {row.zone or 'not found yet'}")

    @display(description="TTL", ordering="ttl_seconds")
    def ttl(self, row: RecordSet) -> str:
        return f"{row.ttl_seconds} s"

    @display(description="armed", ordering="armed_at")
    def armed(self, row: RecordSet) -> str:
        if row.released_at:
            return two_lines(coloured("released"), "only watched")
        if row.armed_at:
            return coloured("armed", "success")
        return two_lines(coloured("not armed", "warning"), row.unarmed_reason)

    @display(description="in DNS", ordering="drifted_since")
    def stands(self, row: RecordSet) -> str:
        since = format_html("since {} UTC", moment(row.drifted_since)) if row.drifted_since else ""
        if row.is_held:
            return two_lines(coloured("left alone", "warning"), format_html("a person edits it {}", since))
        if row.drifted_since:
            return two_lines(coloured("drifted", "danger"), since)
        newest = getattr(row, "newest", None)
        if newest == WeightChange.State.HELD:
            return two_lines(coloured("held", "warning"), "a plan waits for a person")
        if newest == WeightChange.State.FAILED:
            return two_lines(coloured("failed", "danger"), "the newest plan could not be written")
        if newest in WeightChange.LIVE:
            return coloured("on its way", "info")
        return coloured("as written", "success") if row.observed_generation else coloured("never written")

    @display(description="observed weights")
    def observed(self, row: RecordSet) -> str:
        return weights(row.observed_weights, path_names(row.domain))

    @display(description="written lanes")
    def lanes(self, row: RecordSet) -> str:
        """Every lane that was ever written; one that is no longer a path stays at 0."""
        return format_html_join("", "<div>{}: <code>{}</code></div>", sorted(row.written.items())) or "none"

    def has_delete_permission(self, request: HttpRequest, obj: RecordSet | None = None) -> bool:
        return False  # its records in DNS would stay and nobody would own them

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, obj: RecordSet | None = None, **kw: Any
    ) -> HttpResponse:
        context["check_list"] = check_list(obj) if obj else []
        answer: HttpResponse = super().render_change_form(request, context, *args, obj=obj, **kw)
        return answer

    def save_model(self, request: HttpRequest, obj: RecordSet, form: forms.ModelForm, change: bool) -> None:
        if {"account", "zone"} & set(form.changed_data):
            obj.zone_id = ""  # of another zone: it is found anew
        obj.next_check_at, obj.is_restless = timezone.now(), True
        super().save_model(request, obj, form, change)

    def response_post_save_add(self, request: HttpRequest, obj: RecordSet) -> HttpResponse:
        return redirect(self.url_of(obj))  # where its check list is

    # --- actions ---

    def offers(self, action_name: str, row: RecordSet) -> bool:
        is_ours = row.generation > 0 and row.released_at is None
        match action_name:
            case "check_now":
                return row.released_at is None
            case "adopt":
                # To adopt is to begin with everything on the primary: nothing for what stands as it should.
                return not (is_ours and row.observed_generation and not row.drifted_since and not row.is_held)
            case "release":
                return is_ours
            case "arm_data_plane":
                can = provider_class(row.account.vendor).has_data_plane
                return can and is_ours and row.armed_at is not None and not row.data_plane
            case "disarm_data_plane":
                return row.data_plane
        return True

    def _act(self, request: HttpRequest, object_id: str, action_name: str) -> RecordSet:
        """The row with all that acts of ownership want to know of it."""
        pk = self.row_of(request, object_id, action_name).pk
        return RecordSet.objects.select_related("account", "domain__service").get(pk=pk)

    @confirmed(
        "Check now",
        "Goes through the list: the vendor’s account, the zone’s delegation, the paths. This takes a few seconds.",
        submit="Check",
        icon="checklist",
        variant=ActionVariant.PRIMARY,
        form_class=BaseDialogForm,  # a look, which machines take every day
    )
    def check_now(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row = self._act(request, object_id, "check_now")
        readiness.check(row.pk, timezone.now())
        row.refresh_from_db()
        self.log_change(request, row, f"Checked: {row.unarmed_reason or 'armed'}")
        if row.armed_at:
            return settled(request, self.url_of(row), f"{row.domain} is armed.")
        return refused(request, self.url_of(row), f"{row.domain} is not armed: {row.unarmed_reason}.")

    @confirmed(
        "Adopt",
        "What stands at the name is replaced by ours in one write, with everything on the primary. From then on "
        "Tranche steers it.",
        submit="Adopt",
        icon="move_up",
        variant=ActionVariant.WARNING,
        form_class=AdoptForm,
        dangerous=True,
    )
    def adopt(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row = self._act(request, object_id, "adopt")
        try:
            change = ownership.adopt(row, operator(request))
        except (ProviderError, ValueError) as error:
            return self._not_done(request, row, "adopted", error)
        self.log_change(request, row, f"Adopted, as generation {change.generation}: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(row), f"{row.domain} is adopted: everything is on its primary.")

    @confirmed(
        "Release",
        "Our records are replaced by a simple CNAME to the primary, in one write, and nothing moves its traffic any more, "
        "in a storm neither.",
        submit="Release",
        icon="move_down",
        variant=ActionVariant.DANGER,
        form_class=ReleaseForm,
        dangerous=True,
    )
    def release(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row = self._act(request, object_id, "release")
        try:
            target = ownership.release(row, operator(request))
        except (ProviderError, ValueError) as error:
            return self._not_done(request, row, "released", error)
        self.log_change(request, row, f"Released to {target}: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(row), f"{row.domain} is released: a CNAME to {target}.")

    @confirmed(
        "Arm data plane",
        "A health check on our beacon is put onto the primary’s record. It shifts traffic to the backup when a storm wants "
        "all of it there, also while the vendor’s API is out of reach.",
        submit="Arm",
        icon="health_and_safety",
        dangerous=True,
    )
    def arm_data_plane(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row = self._act(request, object_id, "arm_data_plane")
        try:
            warnings = beacon.arm(row, operator(request))
        except (ProviderError, beacon.NotArmable) as error:
            return self._not_done(request, row, "armed", error)
        for warning in warnings:
            messages.warning(request, warning)
        self.log_change(request, row, f"Armed the data plane: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(row), f"{row.domain}: its data plane is armed, once DNS shows it.")

    @confirmed(
        "Disarm data plane",
        "The health check is taken off the record: traffic is then steered by the vendor’s API alone.",
        submit="Disarm",
        icon="remove_moderator",
        variant=ActionVariant.DANGER,
        dangerous=True,
    )
    def disarm_data_plane(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row = self._act(request, object_id, "disarm_data_plane")
        try:
            beacon.disarm(row, operator(request))
        except (ProviderError, beacon.NotArmable) as error:
            return self._not_done(request, row, "disarmed", error)
        self.log_change(request, row, f"Disarmed the data plane: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(row), f"{row.domain}: its data plane is disarmed.")

    def _not_done(self, request: HttpRequest, row: RecordSet, what: str, error: Exception) -> HttpResponse:
        trouble = ""
        if isinstance(error, ProviderError):
            accounts.note_trouble(row.account, error)
            trouble = f" ({worded(error.trouble)})"
        if isinstance(error, ProviderError) and error.unknown:
            return refused(
                request, self.url_of(row), f"{row.domain}: nobody knows whether it is {what}: {error}{trouble}"
            )
        return refused(request, self.url_of(row), f"{row.domain} was not {what}: {error}{trouble}")
