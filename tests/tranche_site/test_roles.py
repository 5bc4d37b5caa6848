"""What each role may do in the console, against a table of its own: pages are asked, not permissions."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse

from tranche_site import roles

# Nobody but superusers: schedules, groups, and what only machines make.
CLOSED = {
    "auth.group",
    "auth.user",
    "admin.logentry",
    "axes.accessattempt",
    "axes.accesslog",
    "django_celery_beat.periodictask",
} | {f"django_celery_beat.{name}schedule" for name in ("interval", "crontab", "clocked")}
LOOKS_AT_PEOPLE = {
    "auth.user", "auth.group", "admin.logentry", "axes.accessattempt", "axes.accesslog", "django_celery_beat.periodictask",
}  # fmt: skip
READS_BESIDE: dict[str, set[str]] = {
    "support": set(),
    "operator": {"django_celery_beat.periodictask"},
    "billing": set(),
    "security": LOOKS_AT_PEOPLE,
    "auditor": LOOKS_AT_PEOPLE,
}
ADDS = {
    "support": set(),
    "operator": {
        "services.service", "services.servicedomain", "services.target", "services.cdn", "services.vantagepoint",
        "services.maintenancewindow", "storms.stormpolicy", "dns.recordset", "dns.pin", "dns.freeze", "dns.drill",
        "dns.steeringterms", "dns.dnsaccount",
    },
    "billing": {
        "billing.contract", "billing.ratecard", "billing.prices", "billing.coverruling", "billing.usagesource",
        "customers.customer",
    },
    "security": {"auth.user", "tranche_site.pagingchannel"},
    "auditor": set(),
}  # fmt: skip
MODELS = {model._meta.label_lower: model for model in admin.site._registry}


def member(role: str) -> Client:
    roles.seed()
    user = User.objects.create_user(role, password="a long enough word", is_staff=True)
    user.groups.add(Group.objects.get(name=f"Tranche: {role}"))
    client = Client()
    client.force_login(user)
    return client


def url(label: str, what: str, *args: object) -> str:
    return reverse(f"admin:{label.replace('.', '_')}_{what}", args=args)


@pytest.mark.parametrize("role", ADDS)
def test_each_role_sees_and_adds_what_the_table_says(db: None, role: str) -> None:
    """What is refused is asked for; that pages which are not refused can be shown is test_console's."""
    client = member(role)
    request = type("Request", (), {"user": User.objects.get(username=role)})()
    sites = {label: admin.site._registry[model] for label, model in MODELS.items()}
    seen = {label for label, site in sites.items() if site.has_view_permission(request)}
    assert seen == set(MODELS) - CLOSED | READS_BESIDE[role]
    added = {label for label, site in sites.items() if site.has_add_permission(request)}
    assert added == ADDS[role]
    for what, allowed in (("changelist", seen), ("add", added)):
        for label in set(MODELS) - allowed:
            assert client.get(url(label, what)).status_code == 403, (label, what)
            assert client.post(url(label, what), {}).status_code == 403, (label, what)


def test_staff_without_a_role_and_strangers_see_nothing(db: None) -> None:
    User.objects.create_user("nobody", password="a long enough word", is_staff=True)
    for name in ("nobody", ""):
        client = Client()
        if name:
            client.force_login(User.objects.get(username=name))
        for label in MODELS:
            for what in ("changelist", "add"):
                assert client.get(url(label, what)).status_code in (302, 403), (name, label)


# What moves traffic or money, by whom; everybody else is refused.
ACTIONS = [
    ("dns.weightchange", "approve", {"operator"}),
    ("dns.weightchange", "reject", {"operator"}),
    ("dns.pin", "end_now", {"operator"}),
    ("dns.freeze", "lift", {"operator"}),
    ("storms.stormevent", "finish", {"operator"}),
    ("billing.invoice", "finalize", {"billing"}),
    ("billing.invoice", "void", {"billing"}),
    ("billing.invoice", "credit", {"billing"}),
    ("customers.apikey", "revoke", {"security"}),
    ("customers.webhookdelivery", "replay", {"operator"}),
]


@pytest.mark.parametrize(("label", "action", "allowed"), ACTIONS)
def test_actions_are_the_roles_own(db: None, label: str, action: str, allowed: set[str]) -> None:
    model_admin = admin.site._registry[MODELS[label]]
    assert hasattr(model_admin, action), "the table names an action that is not there"
    roles.seed()
    found = set()
    for role in ADDS:
        user = User.objects.create_user(f"{role}", is_staff=True)
        user.groups.add(Group.objects.get(name=f"Tranche: {role}"))
        request = type("Request", (), {"user": user})()
        checks = getattr(getattr(model_admin, action), "allowed_permissions", ())
        assert checks, "an action without a permission"
        if all(getattr(model_admin, f"has_{check}_permission")(request) for check in checks):
            found.add(role)
    assert found == allowed


def test_who_gives_access_gives_roles_and_no_more(db: None) -> None:
    client = member("security")
    boss = User.objects.create_superuser("boss", password="a long enough word")
    me = User.objects.get(username="security")
    ann = User.objects.create_user("ann", password="a long enough word", is_staff=True)
    for user in (boss, me):
        page = client.get(url("auth.user", "change", user.pk)).content.decode()
        assert 'name="_save"' not in page
        assert client.post(url("auth.user", "change", user.pk), {"username": "x"}).status_code == 403
        assert client.get(reverse("admin:auth_user_password_change", args=[user.pk])).status_code == 403
    other = Group.objects.create(name="everything")
    support = Group.objects.get(name="Tranche: support")
    form = {"username": "ann", "is_staff": "on", "is_active": "on", "is_superuser": "on", "groups": [support.pk]}
    answer = client.post(
        url("auth.user", "change", ann.pk), form | {"date_joined_0": "2026-01-01", "date_joined_1": "00:00"}
    )
    assert answer.status_code == 302
    ann.refresh_from_db()
    assert not ann.is_superuser and list(ann.groups.all()) == [support]
    answer = client.post(url("auth.user", "change", ann.pk), form | {"groups": [other.pk]})
    assert answer.status_code == 200 and other not in ann.groups.all()


def test_seeding_leaves_alone_what_somebody_changed(db: None) -> None:
    assert set(roles.seed()) == roles.NAMES
    group = Group.objects.get(name="Tranche: support")
    group.permissions.clear()
    assert roles.seed() == []
    assert group.permissions.count() == 0
    assert set(roles.seed(reset=True)) == roles.NAMES
    assert group.permissions.count() > 20
