"""Every page of the console as Chromium shows it, narrow and wide, light and dark.

Of each it is asked that nothing runs over the edge, that axe-core finds nothing that keeps a person from it, that the
browser's console stays empty, and that nothing runs that was only stored: every text in the database has a script in it.

It goes to lists and rows, each in one of two looks; with PAGES=REGEX to those pages alone, in both, and also to where rows are
made and deleted (PAGES=. is all of it). With SHOTS=DIRECTORY it leaves pictures instead, of rows as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from tests.accessibility import over_the_edge, violations
from tests.browser import Browser
from tests.tranche_site import console_pages, hostile_rows
from tests.tranche_site import console_rows as rows

pytestmark = pytest.mark.django_db(transaction=True)

PAGES = os.environ.get("PAGES", "")
DAILY = r"^(?!.*\.(add|delete)$)"
SHOTS = os.environ.get("SHOTS", "")
LOOKS = ((420, "dark"), (1280, "light"))
"""Both widths and both themes, at half the price of ALL_LOOKS."""
ALL_LOOKS = ((420, "light"), (420, "dark"), (1280, "light"), (1280, "dark"))
PARTS = 3


@pytest.fixture
def browser(live_server: Any) -> Iterator[Browser]:
    browser = Browser(live_server.url.replace("localhost", "127.0.0.1"))
    yield browser
    browser.close()


@pytest.mark.parametrize("part", range(PARTS))
def test_every_page(part: int, browser: Browser) -> None:
    rows.everything()
    user = rows.operator()
    client = Client()
    client.force_login(user)
    browser.open("/healthz")
    browser.set_cookie(settings.SESSION_COOKIE_NAME, client.cookies[settings.SESSION_COOKIE_NAME].value)
    if not SHOTS:
        assert len(hostile_rows.poison()) > 80
    pages = {name: path for name, path in console_pages.all_of(user).items() if re.search(PAGES or DAILY, name)}
    wrong: dict[str, list[str]] = {}
    for n, name in list(enumerate(sorted(pages)))[part::PARTS]:
        looks = ALL_LOOKS if SHOTS else LOOKS if PAGES else LOOKS[n % 2 : n % 2 + 1]
        for said in dict.fromkeys(_look(browser, name, pages[name], looks)):
            wrong.setdefault(said, []).append(pages[name])
    if wrong:
        pytest.fail(
            "\n".join(f"{said}\n    at {' '.join(paths[:3])}, {len(paths)} pages" for said, paths in wrong.items())
        )


def _look(browser: Browser, name: str, path: str, looks: Sequence[tuple[int, str]]) -> list[str]:
    said: list[str] = []
    browser.open(path)
    for width, theme in looks:
        browser.resize(width)
        browser.dress(theme)
        if SHOTS:
            browser.shoot_whole(str(Path(SHOTS) / f"{name}-{width}-{theme}.png"))
        said += over_the_edge(browser) + violations(browser)
    if browser.script("return window.ran"):
        said.append("what was only stored has run")
    return said + browser.complaints()
