"""Where usage comes from: places of logs and APIs that estimate, what they told, and the files found."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_post_parameters
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldBooleanWidget

from billing import metering
from billing.models import LogObject, UsageEstimate, UsageSource
from billing.sources import VENDORS
from tranche_site.floor import sealed
from tranche_site.floor.console_admin import (
    AutocompleteSelectFilter,
    Form,
    InfinitePaginator,
    ModelAdmin,
    RangeDateTimeFilter,
    ReadOnly,
    coloured,
    confirmed,
    confirmed_for_many,
    data_size,
    display,
    settled,
    two_lines,
)

OBJECT_COLOURS = {"counted": "success", "retry": "warning", "quarantined": "danger", "replaced": ""}
_LATE_HOURS = 6
_LEADS = ("kind", "endpoint_url", "role_arn", "access_key_id")
"""What decides where a secret is sent, and whose it is."""


class SourceForm(Form):
    secret = forms.CharField(
        label="secret",
        required=False,
        max_length=500,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password", "spellcheck": "false"}),
        help_text="Of the access key; or Bunny’s access key, Cloudflare’s API token, Fastly’s API token.",
    )
    forget = forms.BooleanField(label="Forget what is kept", required=False, widget=UnfoldBooleanWidget)

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        asked = self.cleaned_data
        kind = asked.get("kind") or self.instance.kind
        vendor = VENDORS.get(kind)
        given, forget = asked.get("secret", ""), asked.get("forget", False)
        kept = bool(self.instance.sealed_credentials) and not forget
        if vendor is None:
            return asked
        if given and "secret" not in vendor.fields:
            self.add_error("secret", f"“{vendor.title}” has none: leave it empty.")
        if given and forget:
            self.add_error("forget", "Either give a new secret or have the old one forgotten.")
        if not given and kept and self._leads_elsewhere():
            self.add_error(
                "secret", "The kept secret would be sent to another place or with another key: give it again."
            )
        if not given and not kept and self._needs_secret(vendor.fields):
            self.add_error(
                "secret", "It goes with the access key ID." if kind == "s3" else "Without it nothing is told."
            )
        if given and kind == "s3" and not asked.get("access_key_id"):
            self.add_error("access_key_id", "A secret goes with the ID of its access key.")
        if given:
            try:
                sealed.current_key_id()
            except sealed.SealedError as error:
                self.add_error(None, str(error))
        return asked

    def _needs_secret(self, fields: frozenset[str]) -> bool:
        return "secret" in fields and ("access_key_id" not in fields or bool(self.cleaned_data.get("access_key_id")))

    def _leads_elsewhere(self) -> bool:
        before = UsageSource.objects.filter(pk=self.instance.pk).values(*_LEADS).first() or {}
        return any(self.cleaned_data.get(name, value) != value for name, value in before.items())


@admin.register(UsageSource)
class UsageSourceAdmin(ModelAdmin):
    writing_is_dangerous = True
    form = SourceForm
    list_display = ["name", "customer", "cdn", "what", "where", "enabled", "behind", "state"]
    list_select_related = ["customer", "cdn"]
    list_filter = ["enabled", "kind", "format", "cdn", ("customer", AutocompleteSelectFilter)]
    search_fields = ["name", "location", "customer__name"]
    autocomplete_fields = ["customer", "cdn"]
    readonly_fields = [
        "kept", "behind", "newest_usage_at", "listed_at", "listed_whole_at", "next_look_at", "cursor", "last_error", "note",
    ]  # fmt: skip
    add_fieldsets = [
        (None, {"fields": ["name", ("customer", "cdn")]}),
        ("Where it is", {"fields": [("kind", "format"), "location", "endpoint_url", "options", "enabled"]}),
        ("Role", {"fields": ["role_arn", "external_id"]}),
        ("Credentials", {"fields": ["access_key_id", "secret"], "description": "The secret is sealed at once."}),
    ]
    fieldsets = [
        (None, {"fields": ["name", ("customer", "cdn")]}),
        ("Where it is", {"fields": [("kind", "format"), "location", "endpoint_url", "options", "enabled"]}),
        ("Role", {"fields": ["role_arn", "external_id"]}),
        (
            "Credentials",
            {
                "fields": ["access_key_id", "kept", "secret", "forget"],
                "description": "Write only: it is sealed at once and never shown again. Left empty it stays as it is.",
            },
        ),
        (
            "Last look",
            {
                "fields": [
                    ("behind", "newest_usage_at"), ("listed_at", "listed_whole_at"), ("next_look_at", "cursor"),
                    "last_error", "note",
                ]
            },
        ),
    ]  # fmt: skip
    empty_hint = "Add the place where a CDN leaves its logs; usage and invoices follow from them."

    @method_decorator(sensitive_post_parameters())
    def changeform_view(self, *args: Any, **kw: Any) -> Any:
        return super().changeform_view(*args, **kw)

    def save_model(self, request: HttpRequest, obj: UsageSource, form: forms.ModelForm, change: bool) -> None:
        super().save_model(request, obj, form, change)
        given, forget = form.cleaned_data.get("secret", ""), form.cleaned_data.get("forget", False)
        if given or forget:
            obj.seal(given)
        if change:  # whoever changed something wants to see what comes of it, and not in a quarter of an hour
            obj.next_look_at = None
        obj.save(update_fields=["sealed_credentials", "next_look_at"])

    @display(description="what", ordering="kind")
    def what(self, source: UsageSource) -> str:
        return two_lines(source.get_kind_display(), source.format or "no invoice reads it")

    @display(description="where", ordering="location")
    def where(self, source: UsageSource) -> str:
        return source.location or ", ".join(str(name) for name in source.options)

    @display(description="behind", ordering="newest_usage_at")
    def behind(self, source: UsageSource) -> str:
        """How long ago the newest usage was that it told."""
        lag = source.lag(_now())
        if lag is None:
            return "nothing counted yet"
        minutes = max(0, int(lag.total_seconds() // 60))
        text = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
        return coloured(text, "warning" if minutes > _LATE_HOURS * 60 else "success")

    @display(description="state", ordering="last_error")
    def state(self, source: UsageSource) -> str:
        if source.last_error:
            return two_lines(coloured("can’t be read", "danger"), source.last_error)
        return two_lines(coloured("well", "success"), source.note) if source.note else coloured("well", "success")

    @display(description="kept")
    def kept(self, source: UsageSource) -> str:
        """What may be seen of a secret: whether there is one, and whether it is the one that somebody else has."""
        if not source.sealed_credentials:
            return "none"
        try:
            key, secret = sealed.key_id(source.sealed_credentials), source.secret()
        except sealed.SealedError as error:
            return format_html("{} {}", coloured("can’t be opened", "danger"), error)
        return format_html("<code>{}</code>, sealed with the key “{}”", sealed.fingerprint(secret), key)


def _now() -> datetime:
    return timezone.now()


@admin.register(LogObject)
class LogObjectAdmin(ReadOnly):
    list_display = ["name", "state_label", "rows", "bad_rows", "size", "reason", "processed_at"]
    list_select_related = ["source"]
    list_filter = ["state", "source", ("processed_at", RangeDateTimeFilter)]
    search_fields = ["key", "reason"]
    paginator = InfinitePaginator
    actions = ["read_selected_again"]
    actions_detail = ["read_again"]
    empty_hint = "Log files appear here once a usage source has been looked at."

    def has_read_again_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Who may say where logs are may have them read."""
        return request.user.has_perm("billing.change_usagesource")

    def offers(self, action_name: str, row: LogObject) -> bool:
        return row.state == LogObject.State.QUARANTINED

    @confirmed(
        "Read again",
        "It was given up. With the next look at its source it is tried again, as it lies there then.",
        submit="Read again",
        permission="read_again",
        icon="refresh",
    )
    def read_again(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        row = self.row_of(request, object_id, "read_again")
        metering.read_again([row])
        self.log_change(request, row, f"Read again: {form.cleaned_data['reason']}")
        return settled(request, self.url_of(row), f"{row} is read again with the next look at {row.source}.")

    @confirmed_for_many(
        "Read again what was given up",
        "With the next look at their sources they are tried again, as they lie there then.",
        submit="Read again",
        permission="read_again",
    )
    def read_selected_again(self, request: HttpRequest, queryset: QuerySet[LogObject], reason: str) -> None:
        rows = list(queryset.filter(state=LogObject.State.QUARANTINED))
        done = metering.read_again(rows)
        for row in rows:
            self.log_change(request, row, f"Read again: {reason}")
        self.message_user(request, f"Read again: {done}.", messages.SUCCESS if done else messages.WARNING)

    @display(description="file", ordering="key")
    def name(self, row: LogObject) -> str:
        return two_lines(row.key, row.source)

    @display(description="state", ordering="state", label=OBJECT_COLOURS)
    def state_label(self, row: LogObject) -> str:
        return row.state

    @display(description="size", ordering="size_bytes")
    def size(self, row: LogObject) -> str:
        return data_size(row.size_bytes)


@admin.register(UsageEstimate)
class UsageEstimateAdmin(ReadOnly):
    list_display = ["hour", "service", "target", "estimate", "requests", "sampled", "source", "updated_at"]
    list_select_related = ["service", "target__domain", "target__cdn", "source"]
    list_filter = [
        ("service", AutocompleteSelectFilter),
        ("customer", AutocompleteSelectFilter),
        "source",
        ("window_start", RangeDateTimeFilter),
    ]
    search_fields = ["service__name", "customer__name", "target__domain__hostname"]
    paginator = InfinitePaginator
    empty_hint = "What CDNs’ own statistics say, to compare with what was metered: add a source of estimates."

    @display(description="hour (UTC)", ordering="window_start")
    def hour(self, row: UsageEstimate) -> str:
        return f"{row.window_start:%Y-%m-%d %H:%M}–{row.window_end:%H:%M}"

    @display(description="estimate", ordering="bytes")
    def estimate(self, row: UsageEstimate) -> str:
        shown = format_html('<span title="{} bytes">{}</span>', f"{row.bytes:,}", data_size(row.bytes))
        if row.low_bytes is None or row.high_bytes is None or row.low_bytes == row.high_bytes:
            return shown
        return two_lines(shown, f"{data_size(row.low_bytes)} to {data_size(row.high_bytes)}")

    @display(description="sampled", ordering="sample_interval")
    def sampled(self, row: UsageEstimate) -> str:
        if row.sample_interval is None or row.sample_interval <= 1:
            return "no" if row.sample_interval else "not said"
        return f"1 in {row.sample_interval:.3g}"
