"""What each role may do in the console, against a table of its own: pages are asked, not permissions."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.test import Client, RequestFactory
from django.urls import reverse

from tests.tranche_site import console_rows as rows
from tests.tranche_site.test_console_actions import actions
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


# Every action of the console, by whom; everybody else is refused.
EVERYBODY = set(ADDS)
OF_OPERATORS = """
customers.webhookdelivery.replay customers.webhookendpoint.enable customers.webhookendpoint.replay_dead
dns.dnsaccount.try_again dns.drill.cancel dns.freeze.lift dns.pin.end_now dns.recordset.check_now dns.recordset.adopt
dns.recordset.release dns.recordset.arm_data_plane dns.recordset.disarm_data_plane dns.weightchange.approve
dns.weightchange.reject dns.weightchange.approve_selected dns.weightchange.reject_selected services.maintenancewindow.lift
services.service.add_domain services.service.add_maintenance services.service.delete_softly services.service.restore
services.servicedomain.check_proof services.servicedomain.delete_softly services.servicedomain.restore
storms.cdnincident.confirm storms.cdnincident.annotate storms.stormevent.acknowledge storms.stormevent.annotate
storms.stormevent.finish storms.stormevent.declare storms.stormpolicy.delete_softly storms.stormpolicy.restore
"""
OF_BILLING = """
billing.contract.amend billing.contract.withdraw billing.contract.retire billing.dispute.accept billing.dispute.reject
billing.invoice.finalize billing.invoice.approve billing.invoice.pay billing.invoice.credit billing.invoice.void
billing.invoice.give_up billing.logobject.read_again
billing.logobject.read_selected_again billing.prices.next_version customers.customer.delete_softly customers.customer.restore
"""
OF_SECURITY = """
auth.user.reset_second_factor axes.accessattempt.let_in customers.apikey.revoke customers.customer.issue_key
tranche_site.pagingchannel.try_it
"""
READING = """
billing.invoicelineitem.evidence dns.breakglassscript.download dns.breakglassscript.download_signature
dns.breakglassscript.download_key storms.stormevent.evidence_document
"""
OF_WHO_IS_CALLED = "tranche_site.page.acknowledge tranche_site.page.hand_back tranche_site.page.acknowledge_selected"
OF_SUPERUSERS = " ".join(
    f"django_celery_beat.periodictask.{word}_tasks" for word in ("enable", "disable", "toggle", "run")
)
ACTIONS = {
    action: allowed
    for actions, allowed in (
        (OF_OPERATORS, {"operator"}),
        (OF_BILLING, {"billing"}),
        (OF_SECURITY, {"security"}),
        (READING, EVERYBODY),
        (OF_WHO_IS_CALLED, {"operator", "billing", "security"}),
        (OF_SUPERUSERS, set()),
    )
    for action in actions.split()
}


def test_the_table_names_every_action() -> None:
    assert {name for name, _ in actions()} == set(ACTIONS)


@pytest.mark.parametrize("role", [*ADDS, "nobody"])
def test_what_is_not_a_roles_own_is_refused(db: None, role: str) -> None:
    if role == "nobody":
        client = Client()
        client.force_login(User.objects.create_user(role, password="a long enough word", is_staff=True))
    else:
        client = member(role)
    rows.everything()
    request = RequestFactory().get("/")
    request.user = User.objects.get(username=role)
    for name, action in actions():
        label, _, word = name.rpartition(".")
        site = admin.site._registry[MODELS[label]]
        checks = getattr(action, "allowed_permissions", ())
        is_listed = word in site.get_actions(request) if word in (site.actions or ()) else None
        may = all(getattr(site, f"has_{check}_permission")(request) for check in checks) if checks else bool(is_listed)
        assert may == (role in ACTIONS[name]), name
        if may:
            continue
        row = MODELS[label]._default_manager.order_by("pk").first()
        answer = {"_form_submitted": "True", "reason": "because I can", "post": "yes"}
        if is_listed is None:
            place = url(label, word) if word in (site.actions_list or ()) else url(label, word, row and row.pk)
            assert client.post(place, answer).status_code == 403, name
        else:
            before = list(MODELS[label]._default_manager.order_by("pk").values())
            client.post(url(label, "changelist"), answer | {"action": word, "_selected_action": [row and row.pk]})
            assert list(MODELS[label]._default_manager.order_by("pk").values()) == before, name


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
