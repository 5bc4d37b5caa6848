"""A stranger's ten minutes: the guide's own blocks, one after another in one shell, against the real thing."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import Stack

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
_MARK = "---- block %d ----"


@pytest.fixture
def stack() -> Iterator[Stack]:
    stack = Stack()
    yield stack
    stack.close()


def test_the_guide_does_what_it_says(stack: Stack, tmp_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    stack.start()
    stack.await_ready()
    script = "set -eu\n" + "".join(f'echo\necho "{_MARK % number}"\n{block}' for number, block in enumerate(blocks))
    script = script.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{stack.port}")
    done = subprocess.run(
        ["bash", "-c", script], env=stack.environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    account, made, checked, paths, looked, drawn, changed, deleted = (
        part.strip() for part in re.split(r"---- block \d+ ----", done.stdout)[1:]
    )
    assert json.loads(account)["customer"]["name"] == "Demo Shop"
    assert json.loads((tmp_path / "service.json").read_text())["name"] == "my shop"
    assert "'name': '_" in made and "'value':" in made
    assert json.loads(checked)["proof"] == "not verified"
    assert [slug for slug in ("cloudflare", "cloudfront") if slug in paths]
    assert paths.count('"address":') == 2 and '"mode":"watch_only"' in paths
    found = _documents(looked)
    assert [row["role"] for row in found[0]] == ["primary", "backup"]
    assert found[2] == [] and found[3][0]["hostname"] == "www.my-shop.example"
    assert found[4][0]["currency"] == "USD" and len(found[5]) <= 5
    assert drawn == "" and (tmp_path / "timeline.svg").read_text().startswith("<svg ")
    first, second = _documents(changed)
    assert first["name"] == "our shop"
    assert (second["status"], second["code"]) == (412, "changed_meanwhile")
    assert deleted == ""


def _documents(text: str) -> list:  # type: ignore[type-arg]
    """JSON documents that stand one behind the other."""
    decoder, found, place = json.JSONDecoder(), [], 0
    while place < len(text):
        document, place = decoder.raw_decode(text, place)
        found.append(document)
        while place < len(text) and text[place].isspace():
            place += 1
    return found
