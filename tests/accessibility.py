"""What keeps a person from a page: asked of Chromium itself, and of axe-core, the engine that most such tools are built on."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.browser import Browser

NOT_ASKED = ("landmark-unique",)
"""simplebar calls every region that scrolls “scrollable content”."""
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")
_RUN = """
const done = arguments[arguments.length - 1];
const [tags, off] = [%s, %s];
const rules = Object.fromEntries(off.map(rule => [rule, {enabled: false}]));
axe.run(document, {runOnly: {type: 'tag', values: tags}, rules, resultTypes: ['violations']}).then(
    found => done(found.violations.flatMap(rule => rule.nodes.map(node =>
        `${rule.id} (${rule.impact}): ${node.html.slice(0, 160)} ${node.any.map(a => a.message).join('; ')}`))),
    error => done(['axe: ' + error]));
"""
_OVER_THE_EDGE = """
const most = document.documentElement.clientWidth + 1;
if (document.documentElement.scrollWidth <= most) return [];
const scrolls = element => { for (let at = element.parentElement; at && at !== document.body; at = at.parentElement)
    if (getComputedStyle(at).overflowX !== 'visible') return true; return false; };
return [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > most && !scrolls(e))
    .slice(0, 5).map(e => `${Math.round(e.getBoundingClientRect().right - most)} px over the edge: ${e.outerHTML.slice(0, 160)}`)
    .concat([`the page is ${document.documentElement.scrollWidth} px wide`]);
"""


@cache
def _engine() -> str:
    return resources.files("selenium_axe_python").joinpath("axe-core/axe.min.js").read_text()


def violations(browser: Browser) -> list[str]:
    """One line each: rule, severity, element."""
    if not browser.script("return 'axe' in window"):
        browser.script(_engine())
    return list(browser.script_and_wait(_RUN % (json.dumps(TAGS), json.dumps(NOT_ASKED))))


def over_the_edge(browser: Browser) -> list[str]:
    """What makes the page wider than the window; tables that scroll by themselves may."""
    return list(browser.script(_OVER_THE_EDGE))
