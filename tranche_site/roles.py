"""What staff may do, by the job that they have. Seeded as groups, create-only: what somebody changed in the console stays.

Nobody but a superuser may do everything. Support and auditors read; operators steer and bill nobody; billing bills and steers
nothing; security gives access, and has none of what it gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from django.contrib.auth.models import Group, Permission
from django.db.models import Q

OURS = ("customers", "services", "storms", "dns", "billing", "tranche_site")
_ACT = ("add", "change")


@dataclass(frozen=True, slots=True)
class Role:
    """`may`: what it writes, verbs by model; everything of ours is read, and of others' apps what `reads` names."""

    name: str
    meaning: str
    may: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reads: tuple[str, ...] = ()


def _may(models: str, verbs: tuple[str, ...] = _ACT) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(models.split(), verbs)


ROLES = (
    Role("Tranche: support", "reads everything of customers, and changes nothing"),
    Role(
        "Tranche: operator",
        "steers: storms, plans, pins, freezes, drills, domains, vantage points",
        _may(
            "services.service services.servicedomain services.target services.cdn services.vantagepoint "
            "services.maintenancewindow storms.stormpolicy storms.stormevent storms.cdnincident dns.recordset dns.pin "
            "dns.freeze dns.drill dns.steeringterms dns.dnsaccount"
        )
        | _may("dns.weightchange customers.webhookdelivery tranche_site.page", ("change",)),
        ("django_celery_beat.periodictask",),
    ),
    Role(
        "Tranche: billing",
        "bills: contracts, prices, invoices, payments, disputes, rulings, usage sources",
        _may(
            "billing.contract billing.ratecard billing.prices billing.coverruling billing.payment billing.spendalert "
            "billing.usagesource customers.customer"
        )
        | _may("billing.invoice billing.dispute billing.logobject billing.unknownhostusage", ("change",))
        | _may("tranche_site.page", ("change",)),
    ),
    Role(
        "Tranche: security",
        "gives access: API keys, staff, whom to call",
        _may("customers.apikey auth.user tranche_site.pagingchannel") | _may("tranche_site.page", ("change",)),
        ("auth.group", "admin.logentry", "axes.accessattempt", "axes.accesslog", "django_celery_beat.periodictask"),
    ),
    Role(
        "Tranche: auditor",
        "reads everything, what staff did included, and changes nothing",
        reads=(
            "auth.user",
            "auth.group",
            "admin.logentry",
            "axes.accessattempt",
            "axes.accesslog",
            "django_celery_beat.periodictask",
        ),
    ),
)
NAMES = frozenset(role.name for role in ROLES)


def seed(*, reset: bool = False) -> list[str]:
    """Make the groups that are missing, or with `reset` all of them as they stand here. Returns the names of those made."""
    made = []
    for role in ROLES:
        group, is_new = Group.objects.get_or_create(name=role.name)
        if is_new or reset:
            group.permissions.set(_permissions(role))
            made.append(role.name)
    return made


def _permissions(role: Role) -> Iterable[Permission]:
    wanted = Q(content_type__app_label__in=OURS, codename__startswith="view_")
    for model in role.reads:
        wanted |= _one(model, "view")
    for model, verbs in role.may.items():
        for verb in ("view", *verbs):
            wanted |= _one(model, verb)
    return Permission.objects.filter(wanted)


def _one(model: str, verb: str) -> Q:
    app, name = model.split(".")
    return Q(content_type__app_label=app, codename=f"{verb}_{name}")
