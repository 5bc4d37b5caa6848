"""The catalogue against the code: every kind that is written is in it, and every kind in it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from customers import catalogue, configuration
from customers.models import Event
from dns.models import Drill
from storms.detector import FindingKind
from tests import factories

ROOT = Path(__file__).resolve().parents[2]
APPS = ("customers", "services", "storms", "dns", "billing", "tranche_site")
# Kinds that the code puts together, with the file that does.
FAMILIES = {
    "customers/configuration.py": {
        f"{noun}.{verb}" for noun, verbs in configuration.NOUNS.values() for verb in verbs.split()
    },
    "storms/watch.py": {f"finding.{kind.value}" for kind in FindingKind},
    "storms/incidents.py": {f"incident.{word}" for word in ("opened", "confirmed", "over")},
    "dns/drills.py": {f"drill.{state}" for state in Drill.State} - {"drill.scheduled"},
    "dns/readiness.py": {"domain.armed", "domain.disarmed"},
    "billing/disputes.py": {f"dispute.{word}" for word in ("opened", "accepted", "rejected", "withdrawn")},
    "billing/invoicing.py": {"invoice.voided", "credit_note.voided", "invoice.marked_uncollectible"},
    "customers/models/api_key.py": {f"api_key.{word}" for word in ("issued", "rotated", "revoked")},
}
_FIRST = re.compile(r"Event\.(?:record|about)\(\s*(f?)\"([^\"]+)\"")


def _sources() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for app in APPS
        for path in (ROOT / app).rglob("*.py")
        if path.name != "catalogue.py" and "migrations" not in path.parts
    }


def test_what_is_written_is_in_the_catalogue_and_the_other_way_round() -> None:
    sources = _sources()
    literal = {text for source in sources.values() for f, text in _FIRST.findall(source) if not f}
    assert literal <= set(catalogue.KINDS)
    composed = {name for name, source in sources.items() for f, text in _FIRST.findall(source) if f and "{" in text}
    assert composed == set(FAMILIES)
    everything = "\n".join(sources.values())
    written = set().union(*FAMILIES.values()) | {name for name in catalogue.KINDS if f'"{name}"' in everything}
    assert written == set(catalogue.KINDS)


def test_an_unknown_kind_is_an_error_of_ours(db: None) -> None:
    customer = factories.customer()
    with pytest.raises(ValueError, match=r"storm\.brewing is not in customers/catalogue\.py"):
        Event.record("storm.brewing", customer, "clouds", customer_id=customer.pk)


@pytest.mark.parametrize("text", ["*", "storm.*", "storm.opened", "api_key.*"])
def test_patterns(text: str) -> None:
    assert catalogue.is_pattern(text)


@pytest.mark.parametrize(
    "text", ["", "storm", "storm*", "s*", "storm.?pened", "incident.*", "**", "storm.**", "[s]torm.*"]
)
def test_no_patterns(text: str) -> None:
    assert not catalogue.is_pattern(text)


def test_matching() -> None:
    assert catalogue.matches(["dispute.*", "storm.opened"], "storm.opened")
    assert not catalogue.matches(["storm.*"], "stormy.weather")
    assert not catalogue.matches([], "storm.opened")
