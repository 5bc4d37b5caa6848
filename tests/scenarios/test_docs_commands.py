"""Every command that the documents give is run by a test; those that run as they stand do so in tests/tranche_site/test_up.py."""

from __future__ import annotations

import re

import pytest

from tests import docs_commands
from tests.docs_commands import ELSEWHERE, REPOSITORY, RUN, Command, class_of, commands

ALL = [command for document in docs_commands.DOCUMENTS for command in commands(document)]


def test_every_command_has_a_class() -> None:
    unknown = [f"{one.document}:{one.line}: {one.text}" for one in ALL if not class_of(one)]
    assert unknown == [], "add them to RUN or ELSEWHERE of tests/docs_commands.py"


def test_no_class_is_empty_and_no_command_is_of_two() -> None:
    for pattern in [*RUN, *ELSEWHERE]:
        assert any(re.fullmatch(pattern, one.text) for one in ALL), f"no document has {pattern}"
    for one in ALL:
        assert sum(bool(re.fullmatch(pattern, one.text)) for pattern in [*RUN, *ELSEWHERE]) == 1, one


@pytest.mark.parametrize("pattern", ELSEWHERE)
def test_the_test_that_does_the_same_exists(pattern: str) -> None:
    where, why = ELSEWHERE[pattern]
    path, _, name = where.partition("::")
    assert (REPOSITORY / path).exists()
    assert not name or re.search(rf"^(async )?def {name}\(", (REPOSITORY / path).read_text(), re.MULTILINE)
    assert why


def test_commands_are_found_in_fences_and_blocks_and_nothing_else_is() -> None:
    text = """
    make run     # everything
    beat ─► probe
    KEY=$(cat x)
    rows = counted

```sh
curl -H "X: #1" \\
    http://x   # asks
# only a comment
frobnicate
```

```json
{"make": "test"}
```
A `make test` in a line.
"""
    assert [(one.line, one.text) for one in commands("x.md", text)] == [
        (2, "make run"), (4, "KEY=$(cat x)"), (8, 'curl -H "X: #1" http://x'), (11, "frobnicate"),
    ]  # fmt: skip
    assert class_of(Command("x.md", 1, "frobnicate")) == ""


def test_enough_of_them_are_run_as_they_stand() -> None:
    assert sum(class_of(one) == "run" for one in ALL) >= 18
