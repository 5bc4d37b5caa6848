"""Accounts at DNS vendors: what the customer must grant, what is the matter, and credentials that are only ever written."""

from __future__ import annotations

import re
import secrets
from collections import defaultdict
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_post_parameters
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldBooleanWidget

from dns import accounts, vendors
from dns.admin.shown import Shared, copyable, copyable_lines, stacked, trouble_colour, worded
from dns.models import DnsAccount, RecordSet
from dns.providers import provider_class
from dns.providers.contract import ProviderError, Zone, candidate_zones
from tranche_site.floor import sealed
from tranche_site.floor.console_admin import (
    ActionVariant,
    AutocompleteSelectFilter,
    BaseDialogForm,
    Form,
    coloured,
    confirmed,
    display,
    moment,
    settled,
    two_lines,
)

CREDENTIALS = {"route53": ("access_key_id", "secret_access_key"), "powerdns": ("api_key",)}
"""By vendor, the fields of its credentials, which are kept and exchanged together."""
_SECRETS = [name for names in CREDENTIALS.values() for name in names]
_WRITE_ONLY = "Write only: they are sealed at once and never shown again. What is left empty stays as it is."
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII)
MOST_NAMES = 500
"""Hostnames whose permissions are printed on one page."""


def _secret(label: str, help_text: str = "") -> forms.CharField:
    widget = UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password", "spellcheck": "false"})
    return forms.CharField(label=label, required=False, max_length=500, widget=widget, help_text=help_text)


_PLACES = ("api_url", "flush_urls", "endpoint_url", "server_id")


class AccountForm(Form):
    access_key_id = _secret("Route 53: access key ID")
    secret_access_key = _secret("Route 53: secret access key", "Better none: a role that trusts this server.")
    api_key = _secret("PowerDNS: API key")
    forget = forms.BooleanField(label="Forget what is kept", required=False, widget=UnfoldBooleanWidget)

    given: dict[str, str]

    def clean_options(self) -> dict[str, Any]:
        options = self.cleaned_data["options"]
        if options in (None, ""):
            return {}
        if not isinstance(options, dict):
            raise ValidationError('Write an object, such as {"api_url": "https://…"}.')
        return options

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        asked = self.cleaned_data
        vendor = asked.get("vendor") or self.instance.vendor
        if "options" in asked:
            asked["options"] = self._with_external_id(vendor, asked["options"])
        self._clean_credentials(vendor)
        return asked

    def _with_external_id(self, vendor: str, options: dict[str, Any]) -> dict[str, Any]:
        """Ours to choose and unique to the account, so that nobody can have us come to another customer's role."""
        own = self.instance.options.get("external_id", "") if self.instance.pk else ""
        wanted = options.get("external_id") or own
        if not wanted:
            return options | {"external_id": secrets.token_urlsafe(24)} if vendor == "route53" else options
        others = DnsAccount.objects.filter(options__external_id=wanted).exclude(pk=self.instance.pk)
        if not isinstance(wanted, str) or not _EXTERNAL_ID.fullmatch(wanted):
            self.add_error("options", "external_id: leave it out, and one is made.")
        elif others.exists():
            self.add_error("options", "external_id: another account has this one. Leave it out, and one is made.")
        return options | {"external_id": wanted}

    def _clean_credentials(self, vendor: str) -> None:
        asked = self.cleaned_data
        self.given = {name: asked[name] for name in _SECRETS if asked.get(name)}
        wanted = CREDENTIALS.get(vendor, ())
        for name in self.given:
            if name not in wanted:
                self.add_error(name, f"An account at “{vendor}” has no such credentials: leave it empty.")
        for name in wanted:
            if self.given and name not in self.given:
                self.add_error(name, "They are kept together: give all of them.")
        kept = bool(self.instance.sealed_credentials) and not asked.get("forget")
        if kept and not self.given and self._leads_elsewhere(asked.get("options", self.instance.options)):
            self.add_error("options", "Credentials are sent to where this leads: give them again.")
        if self.given and asked.get("forget"):
            self.add_error("forget", "Either give new credentials or have the old ones forgotten.")
        if self.given:
            try:
                sealed.current_key_id()
            except sealed.SealedError as error:
                self.add_error(None, str(error))

    def _leads_elsewhere(self, options: dict[str, Any]) -> bool:
        """Whether what is kept would be sent to another place than those who gave it knew of."""
        before = DnsAccount.objects.filter(pk=self.instance.pk).values_list("options", flat=True).first() or {}
        return any(options.get(name) != before.get(name) for name in _PLACES)


class TroubleFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("trouble", "in trouble"), ("well", "well")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() == "well":
            return queryset.filter(trouble="")
        return queryset.exclude(trouble="") if self.value() == "trouble" else queryset


@admin.register(DnsAccount)
class DnsAccountAdmin(Shared):
    writing_is_dangerous = True
    form = AccountForm
    list_display = ["name", "vendor", "state", "customer", "calls", "created_at"]
    list_select_related = ["customer"]
    list_filter = [TroubleFilter, "vendor", ("customer", AutocompleteSelectFilter)]
    search_fields = ["name", "customer__name"]
    autocomplete_fields = ["customer"]
    fixed_fields = ("vendor",)  # options, credentials and record sets are that vendor's
    readonly_fields = ["state", "trouble_text", "calls", "external_id", "kept", "permissions", "created_at"]
    add_fieldsets = [
        (None, {"fields": [("name", "customer"), "vendor", "options", "fencing"]}),
        ("Credentials", {"fields": _SECRETS, "description": _WRITE_ONLY}),
        ("Calls", {"fields": ["calls_per_second", "burst_calls"]}),
    ]
    fieldsets = [
        (None, {"fields": [("name", "customer"), ("vendor", "created_at"), "state", "trouble_text"]}),
        ("Options", {"fields": ["options", "external_id", "fencing"]}),
        ("Credentials", {"fields": ["kept", *_SECRETS, "forget"], "description": _WRITE_ONLY}),
        ("Calls", {"fields": ["calls_per_second", "burst_calls", "calls"]}),
        ("Permissions to grant", {"fields": ["permissions"]}),
    ]
    actions_detail = ["try_again"]
    empty_hint = "Add the account whose zones hold the customers’ weighted records; “log” only writes what it would do."

    def get_fieldsets(self, request: HttpRequest, obj: DnsAccount | None = None) -> list[Any]:
        """What has a meaning at this account's vendor."""
        found = super().get_fieldsets(request, obj)
        if obj is None:
            return found
        foreign = {name for vendor, names in CREDENTIALS.items() if vendor != obj.vendor for name in names}
        hidden = foreign | {name for name, is_shown in self._only_where(obj).items() if not is_shown}
        words = {"description": ""} if obj.vendor not in CREDENTIALS else {}
        return [
            (
                title,
                {**part, **words, "fields": [n for n in part["fields"] if not isinstance(n, str) or n not in hidden]},
            )
            for title, part in found
        ]

    def _only_where(self, account: DnsAccount) -> dict[str, bool]:
        return {
            "trouble_text": bool(account.trouble),
            "external_id": account.vendor == "route53",
            "forget": bool(account.sealed_credentials),
        }

    @method_decorator(sensitive_post_parameters())
    def changeform_view(self, *args: Any, **kw: Any) -> Any:
        return super().changeform_view(*args, **kw)

    def save_model(self, request: HttpRequest, obj: DnsAccount, form: forms.ModelForm, change: bool) -> None:
        assert isinstance(form, AccountForm)  # noqa: S101
        super().save_model(request, obj, form, change)
        is_new = bool(form.given) or form.cleaned_data.get("forget", False)
        if is_new:
            obj.seal(form.given)
            obj.save(update_fields=["sealed_credentials"])
        if change and (is_new or {"options", "fencing"} & set(form.changed_data)):
            accounts.retry(obj)

    def response_post_save_add(self, request: HttpRequest, obj: DnsAccount) -> HttpResponse:
        return redirect(self.url_of(obj))  # shows what the customer has to grant

    # --- what is shown ---

    @display(description="state", ordering="trouble")
    def state(self, account: DnsAccount) -> str:
        if not account.trouble:
            return coloured("well", "success")
        said = coloured(worded(account.trouble), trouble_colour(account.trouble))
        return two_lines(said, format_html("since {} UTC", moment(account.trouble_since)))

    @display(description="calls left now")
    def calls(self, account: DnsAccount) -> str:
        if not provider_class(account.vendor).is_metered:
            return "not counted"
        return f"{calls_left(account, timezone.now())} of {account.burst_calls}"

    @display(description="external id")
    def external_id(self, account: DnsAccount) -> str:
        """Its role must ask for it: no secret, but nobody else's."""
        own = account.options.get("external_id", "")
        return copyable(own) if own else "none yet: save the account, and one is made"

    @display(description="kept")
    def kept(self, account: DnsAccount) -> str:
        """What may be seen of secrets: which there are, and whether they are those that somebody else has."""
        if not account.sealed_credentials:
            return "none" if account.vendor in CREDENTIALS else f"“{account.vendor}” needs none"
        try:
            key = sealed.key_id(account.sealed_credentials)
            found = account.credentials()
        except sealed.SealedError as error:
            return format_html("{} {}", coloured("can’t be opened", "danger"), error)
        lines = [
            format_html("{}: <code>{}</code>", worded(name), sealed.fingerprint(str(value)))
            for name, value in sorted(found.items())
        ]
        return stacked([*lines, f"sealed with the key “{key}”"])

    @display(description="text to hand over")
    def permissions(self, account: DnsAccount) -> str:
        # The template asks several times for a field that is only shown.
        if "shown_permissions" not in account.__dict__:
            account.__dict__["shown_permissions"] = permissions(account)
        shown: str = account.__dict__["shown_permissions"]
        return shown

    # --- actions ---

    def offers(self, action_name: str, row: DnsAccount) -> bool:
        return bool(row.trouble)

    @confirmed(
        "Try again now",
        "What the vendor refused is tried again at once, and every check list of the account is gone through.",
        submit="Try again",
        icon="refresh",
        variant=ActionVariant.PRIMARY,
        form_class=BaseDialogForm,  # what machines would do as well, sooner
    )
    def try_again(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        account = self.row_of(request, object_id, "try_again")
        accounts.retry(account)
        self.log_change(request, account, "Tried again.")
        return settled(request, self.url_of(account), f"{account} is tried again within seconds.")


def calls_left(account: DnsAccount, now: datetime) -> int:
    """Of the account's bucket, which fills while nobody looks."""
    waited = max(0.0, (now - account.calls_left_at).total_seconds())
    return max(0, int(min(account.burst_calls, account.calls_left + waited * account.calls_per_second)))


def permissions(account: DnsAccount) -> str:
    """What the customer has to grant, zone by zone. The provider is made for its words alone: nobody is called."""
    zones: dict[tuple[str, str], list[str]] = defaultdict(list)
    rows = (
        RecordSet.objects.live().filter(account=account).select_related("domain").order_by("zone", "domain__hostname")
    )
    for row in rows[:MOST_NAMES]:
        zones[row.zone, row.zone_id].append(row.domain.hostname)
    if not zones:
        return "Add its record sets first: what is to be granted names their zones and hostnames."
    try:
        provider = vendors.provider_of(account)
        parts = []
        for (name, zone_id), hostnames in zones.items():
            zone, note = Zone(name, zone_id), ""
            if not name or (provider.has_zone_ids and not zone_id):
                zone, note = _unknown(name or candidate_zones(hostnames[0])[-1], provider.has_zone_ids)
            text = provider.permissions(zone, hostnames)
            parts.append(stacked([note or zone.name, copyable_lines(text) if text else "nothing to grant by text"]))
    except ProviderError as error:
        return format_html("{} {}", coloured(worded(error.trouble), trouble_colour(error.trouble)), error)
    return stacked(parts)


def _unknown(name: str, has_ids: bool) -> tuple[Zone, str]:
    """A zone that nobody has found yet, because that takes a permission too."""
    if has_ids:
        return Zone(name, "ZONE_ID"), f"{name}: the zone was not found yet; put its id in place of ZONE_ID"
    return Zone(name), f"{name}: the zone was not found yet; put the right one in its place"
