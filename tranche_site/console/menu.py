"""The sidebar, in the order of the apps, and the files that every page links."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.templatetags.static import static
from django.urls import reverse

if TYPE_CHECKING:
    from django.http import HttpRequest

# group → (title, icon, model), and a page where it is not the model's list
_GROUPS: dict[str, list[tuple[str, ...]]] = {
    "Customers": [
        ("Customers", "apartment", "customers.customer"),
        ("API keys", "key", "customers.apikey"),
        ("Events", "history", "customers.event"),
        ("Webhook endpoints", "webhook", "customers.webhookendpoint"),
        ("Webhook deliveries", "outgoing_mail", "customers.webhookdelivery"),
    ],
    "Services": [
        ("Services", "dns", "services.service"),
        ("Domains", "language", "services.servicedomain"),
        ("Targets", "route", "services.target"),
        ("CDNs", "cloud", "services.cdn"),
        ("Vantage points", "visibility", "services.vantagepoint"),
        ("Maintenance windows", "construction", "services.maintenancewindow"),
    ],
    "Storms": [
        ("CDN incidents", "crisis_alert", "storms.cdnincident"),
        ("Storms", "thunderstorm", "storms.stormevent"),
        ("Policies", "rule", "storms.stormpolicy"),
        ("Backtest", "history_toggle_off", "storms.stormpolicy", "backtest"),
        ("Verdicts", "monitor_heart", "storms.pathverdict"),
        ("Findings", "report", "storms.finding"),
    ],
    "DNS": [
        ("Plan", "conversion_path", "dns.weightchange", "plan"),
        ("Weight changes", "swap_horiz", "dns.weightchange"),
        ("Record sets", "balance", "dns.recordset"),
        ("Pins", "keep", "dns.pin"),
        ("Freezes", "ac_unit", "dns.freeze"),
        ("Drills", "exercise", "dns.drill"),
        ("Steering terms", "tune", "dns.steeringterms"),
        ("DNS accounts", "manage_accounts", "dns.dnsaccount"),
        ("Write attempts", "send", "dns.writeattempt"),
        ("Break-glass scripts", "emergency", "dns.breakglassscript"),
        ("Embedded records", "storage", "dns.embeddedrecord"),
    ],
    "Billing": [
        ("Invoices", "receipt_long", "billing.invoice"),
        ("Payments", "payments", "billing.payment"),
        ("Disputes", "gavel", "billing.dispute"),
        ("Exposure", "monitoring", "billing.invoice", "exposure"),
        ("Contracts", "contract", "billing.contract"),
        ("Cover rulings", "balance", "billing.coverruling"),
        ("Rate cards", "sell", "billing.ratecard"),
        ("Prices", "price_change", "billing.prices"),
        ("Spend alerts", "notifications", "billing.spendalert"),
        ("Usage by hour", "bar_chart", "billing.usagesnapshot"),
        ("Estimates", "query_stats", "billing.usageestimate"),
        ("Usage sources", "input", "billing.usagesource"),
        ("Log objects", "folder_zip", "billing.logobject"),
        ("Unknown hosts", "help", "billing.unknownhostusage"),
    ],
    "System": [
        ("Pages", "notifications_active", "tranche_site.page"),
        ("Paging channels", "contact_phone", "tranche_site.pagingchannel"),
        ("Digests", "mail", "tranche_site.digest"),
        ("Beat schedule", "schedule", "django_celery_beat.periodictask"),
        ("Kept views", "bookmarks", "tranche_site.savedview"),
        ("Users", "group", "auth.user"),
        ("Logins", "login", "axes.accesslog"),
        ("Login attempts", "lock_person", "axes.accessattempt"),
        ("Acts of staff", "fact_check", "admin.logentry"),
        ("Audit", "policy", "tranche_site.auditentry"),
        ("Audit seals", "verified", "tranche_site.auditseal"),
    ],
}


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    first = {"title": "Operations room", "icon": "dashboard", "link": reverse("admin:index")}
    groups = [
        {"title": group, "separator": True, "items": [_item(*entry) for entry in entries]}
        for group, entries in _GROUPS.items()
    ]
    return [{"items": [first]}, *groups]


def _item(title: str, icon: str, model: str, page: str = "") -> dict[str, Any]:
    app, name = model.split(".")
    return {
        "title": title,
        "icon": icon,
        "link": reverse(f"admin:{page or f'{app}_{name}_changelist'}"),
        "permission": _may_see(app, name),
    }


def _may_see(app: str, name: str) -> Callable[[HttpRequest], bool]:
    def may(request: HttpRequest) -> bool:
        return any(request.user.has_perm(f"{app}.{verb}_{name}") for verb in ("view", "change"))

    return may


def stylesheet(request: HttpRequest) -> str:
    return static("tranche/console.css")


def script(request: HttpRequest) -> str:
    return static("tranche/names.js")


def favicon(request: HttpRequest) -> str:
    return static("tranche/favicon.svg")
