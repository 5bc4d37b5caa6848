"""Pages, which somebody answers here, and the channels that call people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.views.decorators.debug import sensitive_post_parameters
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextInputWidget

from tranche_site.floor import sealed
from tranche_site.floor.console_admin import (
    ActionVariant,
    BaseDialogForm,
    Form,
    InfinitePaginator,
    ModelAdmin,
    RangeDateTimeFilter,
    ReadOnly,
    ReadOnlyInline,
    asker,
    coloured,
    confirmed,
    display,
    moment,
    refused,
    settled,
    two_lines,
)
from tranche_site.models import Page, PageNotice, PagingChannel
from tranche_site.paging import sync
from tranche_site.paging.channels import VENDORS, Alarm, ChannelError

if TYPE_CHECKING:
    from django.db.models import QuerySet

SEVERITY_COLOURS = {"critical": "danger", "error": "danger", "warning": "warning", "info": "info"}
STATE_COLOURS = {"burning": "danger", "acknowledged": "warning", "over": "success"}
NOTICE_COLOURS = {"pending": "info", "sent": "success", "failed": "danger", "dropped": ""}


class PageStateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state, state) for state in STATE_COLOURS]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "burning":
            return queryset.unanswered()
        if self.value() == "acknowledged":
            return queryset.open().filter(acknowledged_at__isnull=False)
        return queryset.filter(resolved_at__isnull=False) if self.value() == "over" else queryset


class NoticeInline(ReadOnlyInline):
    model = PageNotice
    fields = ["channel", "action", "number", "state_label", "attempts", "sent_at", "error"]
    readonly_fields = ["state_label"]
    show_change_link = False
    verbose_name_plural = "notices"

    def get_queryset(self, request: HttpRequest) -> QuerySet[PageNotice]:
        return super().get_queryset(request).select_related("channel")

    @display(description="state", label=NOTICE_COLOURS)
    def state_label(self, notice: PageNotice) -> str:
        return notice.state


@admin.register(Page)
class PageAdmin(ReadOnly):
    list_display = ["what", "severity_label", "state_label", "opened_at", "told", "answer"]
    list_select_related = ["acknowledged_by"]
    list_filter = [PageStateFilter, "severity", ("opened_at", RangeDateTimeFilter)]
    search_fields = ["summary", "key"]
    paginator = InfinitePaginator
    fieldsets = [
        (
            None,
            {
                "fields": [
                    "summary", ("severity_label", "state_label"), "cause", ("opened_at", "resolved_at"),
                    ("acknowledged_at", "acknowledged_by"), ("repeats", "next_repeat_at"), "key",
                ],
            },
        )
    ]  # fmt: skip
    readonly_fields = ["severity_label", "state_label", "cause"]
    inlines = [NoticeInline]
    actions = ["acknowledge_selected"]
    actions_detail = ["acknowledge", "hand_back"]
    empty_hint = "Nobody was called yet. Pages are made of incidents, held plans, blindness and broken invariants."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Page]:
        return super().get_queryset(request).prefetch_related("notices__channel")

    @display(description="what")
    def what(self, page: Page) -> str:
        return page.summary

    @display(description="severity", label=SEVERITY_COLOURS)
    def severity_label(self, page: Page) -> str:
        return page.severity

    @display(description="state")
    def state_label(self, page: Page) -> str:
        said = coloured(page.state, STATE_COLOURS[page.state])
        if page.acknowledged_at and not page.resolved_at:
            return two_lines(
                said, format_html("by {} at {}", page.acknowledged_by or "-", moment(page.acknowledged_at))
            )
        return said

    @display(description="told")
    def told(self, page: Page) -> str:
        """The newest word in each channel."""
        newest = {notice.channel: notice for notice in sorted(page.notices.all(), key=lambda notice: notice.pk)}
        parts = (
            (channel, coloured(f"{notice.action}: {notice.state}", NOTICE_COLOURS[notice.state]))
            for channel, notice in newest.items()
        )
        return format_html_join("", "<div>{} {}</div>", parts) or "nobody: no channel takes it"

    @display(description="cause")
    def cause(self, page: Page) -> str:
        return format_html('<a class="text-link" href="{}">{}</a>', page.path, page.path)

    @display(description="answer")
    def answer(self, page: Page) -> str:
        if page.state != "burning":
            return ""
        link = reverse("admin:tranche_site_page_acknowledge", args=[page.pk])
        return render_to_string(
            "console/ask.html", {"link": link, "title": "Acknowledge", "icon": "visibility", "kind": "tr-yes"}
        )

    def has_acknowledge_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("tranche_site.change_page")

    def offers(self, action_name: str, row: Page) -> bool:
        return row.state == ("acknowledged" if action_name == "hand_back" else "burning")

    @confirmed(
        "Acknowledge",
        "You are on it: nobody is called again about this while it grows no worse, and the vendors are told.",
        submit="Acknowledge",
        permission="acknowledge",
        icon="visibility",
        variant=ActionVariant.SUCCESS,
        form_class=BaseDialogForm,
    )
    def acknowledge(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        page = self.row_of(request, object_id, "acknowledge")
        sync.acknowledge(page, _person(request), timezone.now())
        self.log_change(request, page, "Acknowledged.")
        return settled(request, asker(request, self.url_of(page)), "Acknowledged: it is yours.")

    @confirmed(
        "Hand back",
        "Nobody is on it after all: people are called again at once, and every quarter of an hour.",
        submit="Hand back",
        permission="acknowledge",
        icon="undo",
    )
    def hand_back(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        page = self.row_of(request, object_id, "hand_back")
        sync.hand_back(page, timezone.now())
        self.log_change(request, page, f"Handed back: {form.cleaned_data['reason']}")
        return settled(request, asker(request, self.url_of(page)), "Handed back: people are called again.")

    @admin.action(description="Acknowledge", permissions=["acknowledge"])
    def acknowledge_selected(self, request: HttpRequest, queryset: QuerySet[Page]) -> None:
        done = 0
        for page in queryset.filter(acknowledged_at=None, resolved_at=None):
            if sync.acknowledge(page, _person(request), timezone.now()):
                self.log_change(request, page, "Acknowledged.")
                done += 1
        self.message_user(request, f"Acknowledged: {done}.", messages.SUCCESS if done else messages.WARNING)


def _person(request: HttpRequest) -> User:
    user = request.user
    assert user.is_authenticated  # noqa: S101  the console lets nobody else in
    return user


# --- channels -------------------------------------------------------------------------------------------------------

_LABELS = {
    "routing_key": "Integration key", "api_key": "API key", "url": "Address", "to": "To", "api_url": "Address of the API",
}  # fmt: skip
_SECRET = ("routing_key", "api_key", "url")
_WRITE_ONLY = "Sealed at once. What is left empty stays as it is."


def _field(name: str) -> forms.CharField:
    texts = [f"{kind}: {vendor.fields[name]}" for kind, vendor in VENDORS.items() if name in vendor.fields]
    secret: dict[str, str] = {"autocomplete": "new-password", "spellcheck": "false"}
    widget = UnfoldAdminPasswordWidget(attrs=secret) if name in _SECRET else UnfoldAdminTextInputWidget()
    return forms.CharField(
        label=_LABELS[name], required=False, max_length=2000, widget=widget, help_text=" ".join(texts)
    )


class ChannelForm(Form):
    routing_key = _field("routing_key")
    api_key = _field("api_key")
    url = _field("url")
    to = _field("to")
    api_url = _field("api_url")

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        if self.instance.pk:
            for name, said in VENDORS[self.instance.kind].fields.items():
                if name in self.fields:
                    self.fields[name].help_text = said

    wanted: dict[str, str]
    """What is to be sealed; empty: nothing new."""

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        asked = self.cleaned_data
        kind = asked.get("kind") or self.instance.kind
        self.wanted = {}
        if kind not in VENDORS:
            return asked
        vendor = VENDORS[kind]
        given = {name: asked[name].strip() for name in _NAMES if asked.get(name, "").strip()}
        for name in given.keys() - vendor.fields.keys():
            self.add_error(name, f"“{kind}” has no such setting: leave it empty.")
        if not given and self.instance.sealed_credentials:
            return asked
        if "api_url" in given and not given.keys() & set(_SECRET) and self.instance.sealed_credentials:
            self.add_error("api_url", "The key is sent to where this leads: give it again.")
        self.wanted = self._kept() | given
        for name, problem in vendor.problems(self.wanted).items():
            self.add_error(name, problem)
        try:
            sealed.current_key_id()
        except sealed.SealedError as error:
            self.add_error(None, str(error))
        return asked

    def _kept(self) -> dict[str, str]:
        try:
            return self.instance.settings() if self.instance.pk else {}
        except sealed.SealedError:
            return {}  # it is given anew


_NAMES = ("routing_key", "api_key", "url", "to", "api_url")


@admin.register(PagingChannel)
class PagingChannelAdmin(ModelAdmin):
    writing_is_dangerous = True
    form = ChannelForm
    list_display = ["name", "kind", "minimum_severity", "is_enabled", "trouble_label", "created_at"]
    list_filter = ["kind", "is_enabled"]
    search_fields = ["name"]
    fixed_fields = ("kind",)  # what is sealed is that vendor's
    readonly_fields = ["trouble_label", "kept", "created_at"]
    add_fieldsets = [
        (None, {"fields": [("name", "kind"), ("minimum_severity", "is_enabled")]}),
        ("What the vendor needs", {"fields": list(_NAMES), "description": _WRITE_ONLY}),
    ]
    fieldsets = [
        (None, {"fields": [("name", "kind"), ("minimum_severity", "is_enabled"), ("trouble_label", "created_at")]}),
        ("What the vendor needs", {"fields": ["kept", *_NAMES], "description": _WRITE_ONLY}),
    ]
    actions_detail = ["try_it"]
    empty_hint = "Add PagerDuty, Opsgenie, Slack or mail: until then nobody is called about incidents and held plans."

    def get_fieldsets(self, request: HttpRequest, obj: PagingChannel | None = None) -> list[Any]:
        found = super().get_fieldsets(request, obj)
        foreign = set(_NAMES) - VENDORS[obj.kind].fields.keys() if obj else set()
        if obj and not self.has_change_permission(request, obj):
            foreign = set(_NAMES)
        return [
            (title, {**part, "fields": [n for n in part["fields"] if not isinstance(n, str) or n not in foreign]})
            for title, part in found
        ]

    @method_decorator(sensitive_post_parameters())
    def changeform_view(self, *args: Any, **kw: Any) -> Any:
        return super().changeform_view(*args, **kw)

    def save_model(self, request: HttpRequest, obj: PagingChannel, form: forms.ModelForm, change: bool) -> None:
        """What a sender writes meanwhile stays."""
        assert isinstance(form, ChannelForm)  # noqa: S101
        with transaction.atomic():
            if change:
                obj.save(update_fields=["name", "minimum_severity", "is_enabled"])
            else:
                super().save_model(request, obj, form, change)
            if form.wanted:
                obj.seal(form.wanted)
                obj.save(update_fields=["sealed_credentials"])

    @display(description="state", ordering="trouble")
    def trouble_label(self, channel: PagingChannel) -> str:
        if not channel.is_enabled:
            return coloured("off")
        if not channel.trouble:
            return coloured("well", "success")
        return two_lines(coloured("in trouble", "danger"), channel.trouble)

    @display(description="kept")
    def kept(self, channel: PagingChannel) -> str:
        try:
            found = channel.settings()
        except sealed.SealedError as error:
            return format_html("{} {}", coloured("can’t be opened", "danger"), error)
        lines = (
            (name.replace("_", " "), sealed.fingerprint(value) if name in _SECRET else value)
            for name, value in sorted(found.items())
        )
        return format_html_join("", "<div>{}: <code>{}</code></div>", lines) or "nothing"

    @confirmed(
        "Send a test",
        "A page that begins and is over at once is sent to this channel alone.",
        submit="Send",
        icon="send",
        variant=ActionVariant.PRIMARY,
        form_class=BaseDialogForm,
    )
    def try_it(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        channel = self.row_of(request, object_id, "try_it")
        now = timezone.now()
        said = {"key": f"tranche/test/{channel.pk}/{now.timestamp():.0f}", "severity": channel.minimum_severity}
        summary = f"A test of the channel {channel} by {request.user}"
        try:
            for action in ("trigger", "resolve"):
                VENDORS[channel.kind].send(
                    Alarm(action, summary=summary, url="", opened_at=now, **said), channel.settings()
                )
        except (ChannelError, sealed.SealedError) as error:
            return refused(request, self.url_of(channel), f"{channel} did not take it: {error}")
        self.log_change(request, channel, "Sent a test.")
        return settled(request, self.url_of(channel), f"{channel} took it.")
