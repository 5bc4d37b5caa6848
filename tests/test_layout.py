"""What the documents and the Makefile promise is there."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("customers", "services", "storms", "dns", "billing", "tranche_site", "tests")
_DOTTED = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
_PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*")


def _tokens(document: str, kind: re.Pattern[str]) -> list[str]:
    """Everything in backticks that looks like this, each once."""
    quoted = re.findall(r"`([^`\n]+)`", (REPOSITORY / document).read_text())
    return list(dict.fromkeys(token for token in quoted if kind.fullmatch(token)))


def _resolve(dotted: str) -> object:
    """The module, or what hangs on it. Raises ModuleNotFoundError or AttributeError."""
    names = dotted.split(".")
    found: object = import_module(names[0])
    for depth, name in enumerate(names[1:], 2):
        if not hasattr(found, name):
            import_module(".".join(names[:depth]))
        found = getattr(found, name)
    return found


def test_the_flow_names_things_that_exist() -> None:
    names = _tokens("docs/flow.md", _DOTTED)
    assert len(names) >= 10
    missing = []
    for name in names:
        try:
            _resolve(name)
        except (ModuleNotFoundError, AttributeError) as error:
            missing.append(f"{name}: {error}")
    assert missing == []


def test_a_name_that_does_not_exist_would_be_found() -> None:
    assert callable(_resolve("storms.watch.watch"))
    with pytest.raises((ModuleNotFoundError, AttributeError)):
        _resolve("storms.watch.wait")
    with pytest.raises((ModuleNotFoundError, AttributeError)):
        _resolve("storms.watcher.watch")


@pytest.mark.parametrize("document", ["docs/flow.md", "README.md"])
def test_paths_in_documents_exist(document: str) -> None:
    """Paths within the repository; what a run makes (var/) or the system has (/…) is not."""
    paths = [path for path in _tokens(document, _PATH) if not path.startswith(("/", "var/", "http"))]
    tops = {path.name for path in REPOSITORY.iterdir()}
    missing = [path for path in paths if path.split("/")[0] in tops and not (REPOSITORY / path).exists()]
    assert missing == []


def test_every_target_of_the_makefile_says_what_it_does() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = re.findall(r"^([a-z][\w-]*):(?!=)(.*)$", makefile, re.MULTILINE)
    assert {"help", "run", "test", "drill", "bench"} <= {name for name, _ in targets}
    assert [name for name, rest in targets if " ## " not in rest] == []
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert set(phony.split()) == {name for name, _ in targets}


def test_the_top_level_holds_what_was_agreed() -> None:
    agreed = {
        "manage.py", "tranche_site", "customers", "services", "storms", "billing", "dns", "requirements.txt", "tests",
        "README.md", "LICENSE", "Makefile", "pyproject.toml", "docs",
    }  # fmt: skip
    ignored = {line.rstrip("/") for line in (REPOSITORY / ".gitignore").read_text().split()}
    there = {path.name for path in REPOSITORY.iterdir() if not path.name.startswith(".")} - ignored
    assert there == agreed


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "tests"])
def test_every_test_file_mirrors_a_package(package: str) -> None:
    assert (REPOSITORY / "tests" / package / "__init__.py").exists()
