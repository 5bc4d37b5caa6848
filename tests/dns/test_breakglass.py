"""Break-glass scripts: made, renewed and signed; seen by their owner alone; and run, with nothing of ours left."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from rest_framework.test import APIClient

from customers.models import Customer
from dns import breakglass, observation, reconcile, tasks
from dns.models import BreakGlassScript, DnsAccount, RecordSet, SteeringTerms
from services.models import Service, Target
from tests import factories, servers
from tests.answers import assert_problem
from tests.dns.test_steering import ZONE, answers, newest, steered_service, tick, verdict
from tests.servers import PowerDns, powerdns_fixture  # noqa: F401

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
SECRET = "not for paper"


def account(vendor: str = "powerdns", **kw: Any) -> DnsAccount:
    row = factories.dns_account(vendor, options={"api_url": "https://ns-api.example:8081"}, **kw)
    row.seal({"api_key": SECRET})
    row.save()
    return row


def steered(vendor: str = "powerdns", backups: int = 1, **kw: Any) -> RecordSet:
    """A record set that was written three times, with its paths."""
    domain = kw.pop("domain", None) or factories.domain()
    factories.target(domain=domain, address="p.cdn.test")
    for rank in range(1, backups + 1):
        factories.target("backup", domain=domain, rank=rank, address=f"b{rank}.cdn.test")
    row: RecordSet = factories.record_set(
        **{"domain": domain, "account": account(vendor), "zone": "example.com", "zone_id": "Z1", "generation": 3} | kw
    )
    return row


def scripts(record_set: RecordSet) -> dict[str, str]:
    return dict(record_set.scripts.values_list("direction", "text"))


def commands(text: str) -> str:
    """Without what only people read."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


# --- made ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_each_steered_domain_has_two_scripts() -> None:
    record_set = steered()
    assert breakglass.refresh(NOW) == 1
    made = scripts(record_set)
    assert set(made) == {"shift", "fail_back"}
    assert "b1.cdn.test" in commands(made["shift"]) and "p.cdn.test" not in commands(made["shift"])
    assert "p.cdn.test" in commands(made["fail_back"]) and "b1.cdn.test" not in commands(made["fail_back"])
    hostname = record_set.domain.hostname
    for direction, text in made.items():
        head = text.partition("set -eu")[0]
        assert head.startswith(f"#!/usr/bin/env bash\n# Break-glass: {direction} {hostname}\n")
        assert "Made at:   2026-06-01 12:00:00 UTC, at generation 3" in head
        assert f"dig +short CNAME {hostname}\n" in head
        assert f"rev=3 at _tranche.{hostname}" in head
        assert "freeze" in head
        # It claims no generation that Tranche did not give out itself.
        assert set(re.findall(r"rev=(\d+)", text)) == {"3"}
        assert text.count("#!") == 1
    assert set(record_set.scripts.values_list("customer", "made_at")) == {(record_set.customer_id, NOW)}


@pytest.mark.django_db
@pytest.mark.parametrize("vendor", ["powerdns", "route53"])
def test_they_are_sound_shell_and_hold_no_secret(vendor: str) -> None:
    record_set = steered(vendor)
    breakglass.refresh(NOW)
    for text in scripts(record_set).values():
        subprocess.run(["bash", "-n"], input=text.encode(), check=True)
        assert SECRET not in text


@pytest.mark.django_db
@pytest.mark.parametrize("vendor", ["log", "embedded"])
def test_vendors_without_commands_have_none(vendor: str) -> None:
    steered(vendor)
    assert breakglass.refresh(NOW) == 0
    assert not BreakGlassScript.objects.exists()


@pytest.mark.django_db
def test_what_was_never_written_has_none() -> None:
    steered(generation=0)
    steered(zone="")
    assert breakglass.refresh(NOW) == 0


@pytest.mark.django_db
def test_they_ask_neither_health_nor_standing_shares() -> None:
    record_set = steered(backups=2)
    verdict(Target.objects.get(role="backup", rank=1), "DOWN")
    service = record_set.domain.service
    SteeringTerms.objects.create(customer=service.customer, service=service, standing_percent=5)
    breakglass.refresh(NOW)
    made = scripts(record_set)
    assert "b1.cdn.test" in commands(made["shift"]) and "b2.cdn.test" not in commands(made["shift"])
    assert "cdn.test" in commands(made["fail_back"]) and "b1" not in commands(made["fail_back"])


@pytest.mark.django_db
def test_a_lane_of_former_times_gets_nothing() -> None:
    record_set = steered("route53", written={"primary": "p.cdn.test", "backup-7": "old.cdn.test"})
    breakglass.refresh(NOW)
    for text in scripts(record_set).values():
        weights = dict(re.findall(r':([a-z]+(?:-\d)?)",\s+"Weight": (\d+)', text))
        assert weights["backup-7"] == "0"
        assert sorted(weights.values()) == ["0", "0", "100"]


@pytest.mark.django_db
def test_the_beacon_of_ours_has_no_say_in_them() -> None:
    record_set = steered("route53", data_plane=True, health_check_id="check-1")
    breakglass.refresh(NOW)
    for text in scripts(record_set).values():
        assert "check-1" not in text
        assert "Data-plane mode is off for this name" in text


@pytest.mark.django_db
def test_without_a_backup_there_is_one_way_only(client_of: Callable[[Customer], APIClient]) -> None:
    record_set = steered(backups=0)
    client = client_of(record_set.customer)
    breakglass.refresh(NOW)
    assert [told["direction"] for told in client.get("/v1/break-glass").json()] == ["fail_back"]
    assert breakglass.refresh(NOW) == 0
    factories.target("backup", domain=record_set.domain, address="b1.cdn.test")
    assert breakglass.refresh(NOW) == 1
    assert {told["direction"] for told in client.get("/v1/break-glass").json()} == {"shift", "fail_back"}


@pytest.mark.django_db
def test_one_that_cannot_be_made_holds_up_no_other() -> None:
    bad, good = steered(account=factories.dns_account("powerdns")), steered()
    Target.objects.filter(domain=bad.domain).update(address="$(reboot).cdn.test")
    assert breakglass.refresh(NOW) == 2
    assert set(scripts(bad).values()) == {""}
    assert all(scripts(good).values())
    assert breakglass.refresh(NOW) == 0


# --- made anew -------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_they_are_made_anew_every_day() -> None:
    record_set = steered()
    breakglass.refresh(NOW)
    assert breakglass.refresh(NOW + timedelta(hours=23, minutes=59)) == 0
    assert breakglass.refresh(NOW + timedelta(days=1)) == 1
    assert set(record_set.scripts.values_list("made_at", flat=True)) == {NOW + timedelta(days=1)}
    assert record_set.scripts.count() == 2


def _another_backup(record_set: RecordSet, settings: Any) -> None:
    Target.objects.filter(domain=record_set.domain, role="backup").update(enabled=False)
    factories.target("backup", domain=record_set.domain, address="new.cdn.test")


CHANGES: dict[str, Callable[[RecordSet, Any], Any]] = {
    "generation": lambda row, _: RecordSet.objects.update(generation=4),
    "TTL": lambda row, _: RecordSet.objects.update(ttl_seconds=31),
    "zone": lambda row, _: RecordSet.objects.update(zone_id="Z2"),
    "former lane": lambda row, _: RecordSet.objects.update(written={"backup-7": "old.cdn.test"}),
    "address": lambda row, _: Target.objects.filter(role="backup").update(address="new.cdn.test"),
    "path": _another_backup,
    "account": lambda row, _: DnsAccount.objects.update(options={"api_url": "https://ns.example", "server_id": "two"}),
    "key": lambda row, settings: setattr(settings, "BREAK_GLASS_KEY", base64.b64encode(b"k" * 32).decode()),
}


@pytest.mark.django_db
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_them_anew(change: str, settings: Any) -> None:
    record_set = steered()
    breakglass.refresh(NOW)
    before = dict(record_set.scripts.values_list("direction", "signature"))
    CHANGES[change](record_set, settings)
    later = NOW + timedelta(minutes=5)
    assert breakglass.refresh(later) == 1
    assert breakglass.refresh(later) == 0
    after = dict(record_set.scripts.values_list("direction", "signature"))
    assert all(before[direction] != after[direction] for direction in before)
    for script in record_set.scripts.all():
        verified(script.text, script.signature)


@pytest.mark.django_db
def test_what_nobody_has_yet_comes_first() -> None:
    old = [steered() for _ in range(3)]
    breakglass.refresh(NOW)
    new = steered()
    later = NOW + timedelta(days=1)
    assert breakglass.refresh(later, limit=2) == 2
    assert new.scripts.count() == 2
    assert breakglass.refresh(later, limit=2) == 2
    assert breakglass.refresh(later, limit=2) == 0
    assert all(row.scripts.filter(made_at=later).count() == 2 for row in old)


@pytest.mark.django_db
def test_it_takes_the_same_queries_however_many(django_assert_num_queries: Any) -> None:
    for count in (1, 6):
        for _ in range(count):
            steered()
        with django_assert_num_queries(5):
            assert breakglass.refresh(NOW) == count


@pytest.mark.django_db
def test_what_is_steered_no_more_loses_them() -> None:
    gone, kept = steered(), steered()
    breakglass.refresh(NOW)
    gone.domain.deleted_at = timezone.now()
    gone.domain.save()
    tasks.refresh_break_glass()
    assert not gone.scripts.exists()
    assert kept.scripts.count() == 2


# --- signed ----------------------------------------------------------------------------------------------------------


def verified(text: str, signature: str) -> None:
    key = load_pem_public_key(breakglass.public_key_pem().encode())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(base64.b64decode(signature), text.encode())


@pytest.mark.django_db
def test_the_signature_is_of_exactly_this_text() -> None:
    steered()
    breakglass.refresh(NOW)
    one, other = BreakGlassScript.objects.order_by("-direction")
    verified(one.text, one.signature)
    for text in (other.text, one.text.replace("b1.cdn.test", "evil.cdn.test"), one.text + "\n"):
        with pytest.raises(InvalidSignature):
            verified(text, one.signature)


@pytest.mark.django_db
def test_the_command_in_the_script_checks_it(tmp_path: Path) -> None:
    assert shutil.which("openssl")
    steered()
    breakglass.refresh(NOW)
    script = BreakGlassScript.objects.filter(direction="shift").get()
    (tmp_path / "tranche.pem").write_text(breakglass.public_key_pem())
    (tmp_path / "script.sh").write_text(script.text)
    (tmp_path / "script.sig").write_bytes(base64.b64decode(script.signature))
    command = re.search(r"^# Verify: +(openssl .*)$", script.text, re.MULTILINE)
    assert command

    def check() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["bash", "-c", command[1]], cwd=tmp_path, capture_output=True)

    assert (check().returncode, check().stdout.strip()) == (0, b"Signature Verified Successfully")
    (tmp_path / "script.sh").write_text(script.text.replace("b1.cdn.test", "evil.cdn.test"))
    assert check().returncode != 0


def test_the_key_is_the_settings_own_or_made_of_the_secret_key(settings: Any) -> None:
    derived = breakglass.public_key_pem()
    assert derived == breakglass.public_key_pem()
    settings.SECRET_KEY = "another"
    assert breakglass.public_key_pem() != derived
    settings.BREAK_GLASS_KEY = base64.b64encode(b"k" * 32).decode()
    own = breakglass.public_key_pem()
    settings.SECRET_KEY = "a third"
    assert breakglass.public_key_pem() == own
    for wrong in ("k" * 32, base64.b64encode(b"short").decode(), "ä"):
        settings.BREAK_GLASS_KEY = wrong
        with pytest.raises(ImproperlyConfigured, match="BREAK_GLASS_KEY"):
            breakglass.public_key_pem()


# --- seen ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_owner_sees_them_and_nobody_else(client_of: Callable[[Customer], APIClient]) -> None:
    record_set = steered()
    breakglass.refresh(NOW)
    client = client_of(record_set.customer)
    told = client.get("/v1/break-glass").json()
    assert {row["direction"] for row in told} == {"shift", "fail_back"}
    for row in told:
        assert (row["domain"], row["hostname"]) == (record_set.domain_id, record_set.domain.hostname)
        assert row["made_at"] == "2026-06-01T12:00:00Z"
        verified(row["text"], row["signature"])
    assert len(client.get(f"/v1/break-glass?service={record_set.domain.service_id}").json()) == 2
    assert client.get(f"/v1/break-glass?domain={record_set.domain_id + 1}").json() == []
    outsider = client_of(factories.customer())
    assert outsider.get("/v1/break-glass").json() == []
    assert outsider.get(f"/v1/break-glass?domain={record_set.domain_id}").json() == []


@pytest.mark.django_db
def test_any_key_gets_the_public_key(client_of: Callable[[Customer], APIClient]) -> None:
    client = client_of(factories.customer())
    for accepted in ("*/*", "text/plain"):
        answer = client.get("/v1/break-glass-key", HTTP_ACCEPT=accepted)
        assert (answer.status_code, answer["Content-Type"]) == (200, "text/plain; charset=us-ascii")
        assert answer.content.decode() == breakglass.public_key_pem()
    assert_problem(client.post("/v1/break-glass-key"), 405)
    assert_problem(APIClient().get("/v1/break-glass-key"), 401)


# --- run -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def at_powerdns(powerdns: PowerDns, settings: Any) -> Service:
    """A service of one domain that is written at a real server, at home."""
    settings.DNS_API_ALLOW_PRIVATE = True
    settings.AUTHORITY_OVERRIDES = {ZONE: powerdns.text}
    observation.forget_servers()
    powerdns.zone(ZONE)
    service = steered_service(vendor="powerdns")
    row = DnsAccount.objects.get()
    row.options = {"api_url": powerdns.api_url}
    row.seal({"api_key": servers.API_KEY})
    row.save()
    tick(service)
    assert newest(service).state == "observed", newest(service).error
    return service


@pytest.mark.django_db(transaction=True)
def test_run_by_hand_they_move_the_answers_and_bring_them_home(
    at_powerdns: Service,
    powerdns: PowerDns,
    tmp_path: Path,
) -> None:
    """With bash, curl and the customer's own key; no other program, no database, nothing of ours."""
    curl = shutil.which("curl")
    assert curl
    (tmp_path / "curl").symlink_to(curl)
    breakglass.refresh(timezone.now())
    record_set = RecordSet.objects.get()
    hostname, port = record_set.domain.hostname, powerdns.address[1]

    def run(direction: str) -> None:
        script = tmp_path / f"{direction}.sh"
        script.write_text(scripts(record_set)[direction])
        own = {"PATH": str(tmp_path), "PDNS_API_URL": powerdns.api_url, "PDNS_API_KEY": servers.API_KEY}
        done = subprocess.run([shutil.which("bash") or "", script], cwd="/", env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    assert answers(port, hostname) == {"primary0.cdn.test": 20}
    for _ in range(2):  # a second time it changes nothing
        run("shift")
        assert answers(port, hostname) == {"backup0.cdn.test": 20}

    # Back again, Tranche finds its own newest revision and weights that are not its own.
    reconcile.sweep(timezone.now(), everything=True)
    record_set.refresh_from_db()
    assert record_set.drifted_since
    assert record_set.observation == "backup-1 is backup0.cdn.test at 100 %, and 0 % was written"

    run("fail_back")
    assert answers(port, hostname) == {"primary0.cdn.test": 20}
    reconcile.sweep(timezone.now(), everything=True)
    record_set.refresh_from_db()
    assert not record_set.drifted_since
