"""What lies under docs/deploy, and what docs/deploying.md says of settings, against the code."""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "docs" / "deploy"
ENTRYPOINT = DEPLOY / "entrypoint.sh"
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
_PROMETHEUS_OWN = {"up"}
_WORD = re.compile(r"\b(tranche_\w+|up)\b")


# --- settings -------------------------------------------------------------------------------------------------------


def _in_settings() -> set[str]:
    text = (REPOSITORY / "tranche_site" / "settings.py").read_text()
    return set(re.findall(r'env\.\w+\(\s*"([A-Z][A-Z0-9_]+)"', text)) | {"DATABASE_URL", "PG_DSN"}


def _elsewhere() -> set[str]:
    """What is read outside the settings, by those that must work without them."""
    found = set(re.findall(r"\$\{((?:WEB|WORKER)_[A-Z]+)", ENTRYPOINT.read_text()))
    for path in ("floor/embedded.py", "management/commands/prepare.py", "gunicorn_conf.py"):
        text = (REPOSITORY / "tranche_site" / path).read_text()
        found |= set(re.findall(r'(?:environ\.(?:get|setdefault)|Env\(\)\.str)\("([A-Z_]+)"', text))
    return found


def _in_table() -> set[str]:
    text = (REPOSITORY / "docs" / "deploying.md").read_text()
    rows = re.findall(r"^\| (`[A-Z][^|]+) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row)}


def test_every_setting_is_in_the_table_and_every_row_is_read() -> None:
    assert len(_in_settings()) > 50
    assert {"TRANCHE_PG_BIN", "ADMIN_PASSWORD", "WEB_THREADS"} <= _elsewhere()
    assert _in_table() == _in_settings() | _elsewhere()


def test_the_example_names_settings_that_exist() -> None:
    text = (DEPLOY / "tranche.env.example").read_text()
    names = set(re.findall(r"^([A-Z_]+)=", text, re.MULTILINE))
    assert names - {"POSTGRES_PASSWORD"} <= _in_table()
    assert {"SECRET_KEY", "DATABASE_URL", "REDIS_URL", "CREDENTIAL_KEYS"} <= names


# --- alerts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(db: None) -> set[str]:
    """Every name that /metrics has, as PromQL writes it. Requests are counted after their answer, so ask twice."""
    client = Client()
    client.get("/metrics")
    families = list(text_string_to_metric_families(client.get("/metrics").content.decode()))
    named = {sample.name for family in families for sample in family.samples}
    # Gauges by row have no sample while there is no row; the family is there nevertheless.
    return named | {family.name for family in families}


def test_rules_have_the_shape_that_prometheus_reads() -> None:
    assert list(ALERTS) == ["groups"]
    assert sum(len(group["rules"]) for group in ALERTS["groups"]) == len(RULES) >= 25  # no name twice
    for group in ALERTS["groups"]:
        assert set(group) == {"name", "rules"}
    for name, rule in RULES.items():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"Tranche[A-Z]\w+", name)
        assert re.fullmatch(r"\d+[smhd]", rule["for"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"].endswith(".")
        for left, right in ("()", "{}", "[]"):
            assert rule["expr"].count(left) == rule["expr"].count(right)
        assert rule["expr"].count('"') % 2 == 0


def test_every_rule_asks_for_what_is_exported(exported: set[str]) -> None:
    for name, rule in RULES.items():
        asked = set(_WORD.findall(re.sub(r'"[^"]*"', '""', rule["expr"]))) - _PROMETHEUS_OWN
        assert asked <= exported, f"{name} asks for {asked - exported}"
        assert asked or name == "TrancheWebDown"


def test_every_rule_has_its_runbook_and_every_runbook_its_rule() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    runbooks = dict(re.findall(r"^#### (Tranche\w+)\n\n(.+)$", text, re.MULTILINE))
    assert set(runbooks) == set(RULES)
    for name, rule in RULES.items():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert len(runbooks[name]) > 60


def test_runbooks_name_rules_settings_and_figures_that_exist(exported: set[str]) -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    assert set(re.findall(r"\bTranche[A-Z]\w+", text)) <= set(RULES)
    # Probers serve these two themselves.
    theirs = {"tranche_samples_waiting", "tranche_spool_bytes"}
    assert set(re.findall(r"`(tranche_[a-z]+_[a-z_]+)`", text)) <= exported | theirs


# --- processes ------------------------------------------------------------------------------------------------------


def _roles() -> dict[str, list[list[str]]]:
    """The entrypoint's arguments of every process, by the file that starts it."""
    procfile = dict(re.findall(r"^(\w+): (.+)$", (DEPLOY / "Procfile").read_text(), re.MULTILINE))
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    started = [re.search(r"^ExecStart=(.+)$", unit.read_text(), re.MULTILINE) for unit in UNITS]
    return {
        "Procfile": [line.split()[1:] for line in procfile.values()],
        "compose.yaml": [one["command"] for one in compose.values() if "tranche" in one["image"]],
        "systemd": [found[1].split()[1:] for found in started if found],
    }


@pytest.mark.parametrize("place", ["Procfile", "compose.yaml", "systemd"])
def test_every_process_is_started_by_a_role_that_exists(place: str) -> None:
    roles = _roles()[place]
    known = set(re.findall(r"^    (\w+)\)", ENTRYPOINT.read_text(), re.MULTILINE))
    assert {"web", "beat", "worker", "prober"} <= {role[0] for role in roles} <= known


@pytest.mark.parametrize("place", ["Procfile", "compose.yaml"])
def test_every_queue_has_a_worker(place: str) -> None:
    served = {queue for role in _roles()[place] if role[0] == "worker" for queue in role[1].split(",")}
    routed = {str(route["queue"]) for route in settings.CELERY_TASK_ROUTES.values()} | {
        settings.CELERY_TASK_DEFAULT_QUEUE
    }
    assert routed <= served


def _enter(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ENTRYPOINT, *arguments], capture_output=True, text=True, timeout=60, check=False,
                          env={"PATH": os.environ["PATH"], **environment})  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("web",), {}, "web: set SECRET_KEY"),
        (("beat",), {"SECRET_KEY": "x"}, "beat: set REDIS_URL"),
        (("worker", "dns"), {"SECRET_KEY": "x", "REDIS_URL": "redis://x"}, "worker: set DATABASE_URL"),
        (("dance",), {}, "“dance” is no role"),
        (("healthy",), {"WEB_BIND": "127.0.0.1:1"}, "/healthz: <urlopen error [Errno 111] Connection refused>"),
    ],
)
def test_the_entrypoint_says_what_is_missing(
    arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    done = _enter(*arguments, **environment)
    assert done.returncode in (1, 64)
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_a_worker_is_told_its_queues() -> None:
    done = _enter("worker", SECRET_KEY="x", REDIS_URL="redis://x", DATABASE_URL="postgres://x/x")
    assert done.returncode != 0
    assert "which queues?" in done.stderr


def test_units_are_sound_and_confined(tmp_path: Path) -> None:
    """As systemd itself reads them, where it is installed; in any case with what confines them."""
    for unit in UNITS:
        text = unit.read_text()
        for line in (
            "User=tranche",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "PrivateTmp=yes",
            "CapabilityBoundingSet=",
        ):
            assert f"\n{line}\n" in text, f"{unit.name} lacks {line}"
        (tmp_path / unit.name).write_text(text.replace("/opt/tranche/docs/deploy/entrypoint.sh", "/bin/true"))
    shutil.copy(DEPLOY / "systemd" / "tranche.target", tmp_path)
    if analyze := shutil.which("systemd-analyze"):
        done = subprocess.run([analyze, "verify", *tmp_path.iterdir()], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_image_runs_unprivileged_and_tells_its_health() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=", text, re.MULTILINE)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert text.index("USER 10001") < text.index("ENTRYPOINT")
    assert re.search(r'^HEALTHCHECK .*\\\n +CMD \["/app/docs/deploy/entrypoint.sh", "healthy"\]$', text, re.MULTILINE)
    # The last stage is made of the base and of what was built, and of nothing else of this directory.
    assert re.findall(r"^COPY (.+)$", text.rpartition("\nFROM ")[2], re.MULTILINE) == ["--from=build /app /app"]


def test_only_what_runs_reaches_the_image() -> None:
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().split("\n") if line and line[0] != "#"]
    assert lines[0] == "**"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert {"manage.py", "tranche_site", "dns", "docs/deploy/entrypoint.sh"} <= let_in
    assert not [name for name in let_in if not (REPOSITORY / name).exists()]
    assert not let_in & {"tests", ".git", "var", "docs"}


def test_scripts_are_sound() -> None:
    for script in (ENTRYPOINT, DEPLOY / "try-image.sh"):
        assert os.access(script, os.X_OK)
        shell = script.read_text().partition("\n")[0].rpartition("/")[2].removeprefix("env ")
        subprocess.run([shell, "-n", script], check=True)


def test_a_deployment_as_the_guide_says_has_no_warning(tmp_path: Path) -> None:
    environment = {
        **os.environ, "TRANCHE_HOME": str(tmp_path), "SECRET_KEY": secrets.token_urlsafe(50), "HTTPS_ONLY": "1",
        "ALLOWED_HOSTS": "tranche.example.net", "CSRF_TRUSTED_ORIGINS": "https://tranche.example.net",
        "DATABASE_URL": "postgres://tranche@db.example.net/tranche", "REDIS_URL": "redis://valkey.example.net/0",
        "CREDENTIAL_KEYS": f"k1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }  # fmt: skip
    environment.pop("PG_DSN", None)
    command = [sys.executable, "-W", "ignore", "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=settings.BASE_DIR)
    assert done.returncode == 0, done.stderr
    tell = "from django.conf import settings as s; print(s.TWO_FACTOR, s.REAUTHENTICATE_SECONDS, s.SESSION_COOKIE_NAME)"
    environment |= {"DJANGO_SETTINGS_MODULE": "tranche_site.settings"}
    environment = {
        name: value for name, value in environment.items() if name not in ("TWO_FACTOR", "REAUTHENTICATE_SECONDS")
    }
    said = subprocess.run(
        [sys.executable, "-c", tell], env=environment, capture_output=True, text=True, cwd=settings.BASE_DIR
    )
    assert said.stdout.split() == ["True", "900", "__Host-session"], said.stderr
