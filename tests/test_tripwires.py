"""Nobody who types an address, a name or an endpoint leads us to where we may not go.

The judges are listeners, on every forbidden address, that count who comes; each test runs its part of `tests/tripwires.py`
in a network of its own, where nobody else is and from where nothing gets out.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import netns

REPOSITORY = Path(__file__).resolve().parents[1]


def in_its_own_network(part: str, home: Path) -> dict[str, Any]:
    seed = random.SystemRandom().randrange(1 << 32)
    environment = {
        "PATH": os.environ["PATH"],
        "TRANCHE_HOME": str(home),
        "DJANGO_SETTINGS_MODULE": "tranche_site.settings",
        "SECRET_KEY": "only for tests",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [*netns.alone("--mount"), sys.executable, "-m", "tests.tripwires", part, str(seed)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"seed {seed}: {report}")  # pytest shows it where a test fails
    return report


def test_no_spelling_of_a_forbidden_address_is_connected_to(tmp_path: Path) -> None:
    report = in_its_own_network("literals", tmp_path)
    assert sum(sink["cases"] for sink in report.values()) >= 1440
    for sink in report.values():
        assert sink["accepts"] == {}
        assert sink["let through"] == []
        assert sink["refused"] == sink["cases"]
        # Most of them lead there, were it not for the guard: the rest does not even resolve.
        assert sink["accepts without the guard"] > sink["cases without the guard"] / 2


def test_nor_is_this_machine_by_its_public_addresses(tmp_path: Path) -> None:
    report = in_its_own_network("own", tmp_path)
    for sink in report.values():
        assert sink["reasons"] == {"this machine": sink["cases"]}
        assert sink["accepts"] == {}
        assert sink["accepts without the guard"] >= sink["cases without the guard"]


def test_a_name_that_changes_its_mind_gains_nothing(tmp_path: Path) -> None:
    report = in_its_own_network("rebinding", tmp_path)
    assert report["sequences"] == 200
    assert report["accepts"] == {}
    assert report["forbidden"] > report["mixed"] > 50
    assert report["forbidden and refused"] == report["forbidden"]
    # What had public answers alone went there.
    assert report["public and refused"] == []
    assert report["public accepts"] == report["public"] > 50


def test_no_redirect_is_followed(tmp_path: Path) -> None:
    report = in_its_own_network("redirects", tmp_path)
    assert report == {"redirected": 100, "requests": 100, "accepts": {}}
