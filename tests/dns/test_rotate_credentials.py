"""Exchanging the key of credentials: all rows in the end, none twice, and nothing that somebody else holds or wrote."""

from __future__ import annotations

import base64
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction

from dns.management.commands import rotate_credentials
from dns.models import DnsAccount
from tests import factories
from tests.together import run_together
from tranche_site.floor import sealed

pytestmark = pytest.mark.django_db(transaction=True)


def entry(name: str, fill: int) -> str:
    return f"{name}:{base64.b64encode(bytes([fill]) * 32).decode()}"


NEW, OLD = entry("new", 1), entry("old", 2)


@pytest.fixture(autouse=True)
def _old_key(settings: Any) -> None:
    settings.CREDENTIAL_KEYS = [OLD]


def account(secret: str) -> DnsAccount:
    made = factories.dns_account()
    made.sealed_credentials = sealed.seal({"secret": secret}, made.credentials_aad)
    made.save()
    return made


def rotate(*arguments: str) -> str:
    out = StringIO()
    call_command("rotate_credentials", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def opened(row: DnsAccount) -> tuple[str, str]:
    """The key that it is sealed with, and the secret."""
    row.refresh_from_db()
    text = row.sealed_credentials
    return sealed.key_id(text), sealed.open_sealed(text, row.credentials_aad)["secret"]


def test_a_dry_run_counts_and_writes_nothing(settings: Any) -> None:
    one, none = account("one"), factories.dns_account()
    settings.CREDENTIAL_KEYS = [NEW, OLD]
    said = rotate()
    assert "1 accounts are sealed with another key than “new”" in said
    assert "1 with “old”, which can be opened" in said
    assert "nothing was written: add --apply" in said
    assert opened(one) == ("old", "one")
    none.refresh_from_db()
    assert none.sealed_credentials == ""


def test_all_are_sealed_anew_batch_by_batch(settings: Any) -> None:
    rows = [account(f"secret {number}") for number in range(rotate_credentials.BATCH + 5)]
    settings.CREDENTIAL_KEYS = [NEW, OLD]
    newest = account("sealed with the new key already")
    before = newest.sealed_credentials

    said = rotate("--apply")

    assert "100 of 105 sealed anew" in said and "105 of 105 sealed anew" in said
    settings.CREDENTIAL_KEYS = [NEW]  # nothing needs the old key any more
    assert [opened(row) for row in rows] == [("new", f"secret {number}") for number in range(len(rows))]
    newest.refresh_from_db()
    assert newest.sealed_credentials == before
    assert rotate("--apply") == "0 accounts are sealed with another key than “new”\n"


def test_no_secret_is_printed(settings: Any) -> None:
    row = account("canary-4711")
    settings.CREDENTIAL_KEYS = [NEW, OLD]
    for arguments in ((), ("--apply",)):
        said = rotate(*arguments)
        assert "canary" not in said and row.sealed_credentials not in said


@pytest.mark.parametrize("arguments", [(), ("--apply",)])
def test_what_cannot_be_opened_is_listed_and_left(settings: Any, arguments: tuple[str, ...]) -> None:
    good, swapped, lost, garbled = account("good"), account("swapped"), account("lost"), account("garbled")
    swapped.sealed_credentials = good.sealed_credentials
    garbled.sealed_credentials = "no sealed text"
    settings.CREDENTIAL_KEYS = [entry("gone", 3)]
    lost.sealed_credentials = sealed.seal({"secret": "lost"}, lost.credentials_aad)
    bad = [swapped, lost, garbled]
    for row in bad:
        row.save()
    settings.CREDENTIAL_KEYS = [NEW, OLD]

    before = [row.sealed_credentials for row in bad]
    out = StringIO()
    with pytest.raises(CommandError, match=", ".join(str(row.pk) for row in bad)) as caught:
        call_command("rotate_credentials", *arguments, stdout=out, stderr=out)

    assert caught.value.returncode == 1
    assert str(good.pk) not in str(caught.value).split(": ")[1].replace("DNS accounts ", "").split(", ")
    assert f"account {lost.pk}: " in out.getvalue() and "“gone”, which CREDENTIAL_KEYS lacks" in out.getvalue()
    for row in bad:
        row.refresh_from_db()
    assert [row.sealed_credentials for row in bad] == before
    assert opened(good) == ("new" if arguments else "old", "good")


def test_what_somebody_holds_is_left_for_the_next_run(settings: Any) -> None:
    held, free = account("held"), account("free")
    settings.CREDENTIAL_KEYS = [NEW, OLD]
    said: list[str] = []

    def run() -> None:
        with pytest.raises(CommandError) as caught:
            rotate("--apply")
        said.append(str(caught.value))

    with transaction.atomic():
        DnsAccount.objects.select_for_update().get(pk=held.pk)
        run_together(run)

    assert said == [f"in use meanwhile, so left as they are; run this again: DNS accounts {held.pk}"]
    assert opened(free) == ("new", "free")
    assert opened(held) == ("old", "held")
    rotate("--apply")
    assert opened(held) == ("new", "held")


def test_two_runs_at_once_share_the_work(settings: Any) -> None:
    rows = [account(f"secret {number}") for number in range(40)]
    settings.CREDENTIAL_KEYS = [NEW, OLD]

    def run() -> None:
        try:
            rotate("--apply")
        except CommandError as error:  # the other one still had some locked
            assert "run this again" in str(error)

    run_together(run, run)
    rotate("--apply")
    assert [opened(row) for row in rows] == [("new", f"secret {number}") for number in range(len(rows))]


def test_without_a_key_nothing_begins(settings: Any) -> None:
    settings.CREDENTIAL_KEYS, settings.EMBEDDED_POSTGRES = [], False
    with pytest.raises(CommandError, match="set CREDENTIAL_KEYS"):
        rotate("--apply")
