"""Network namespaces for tests: networks where nobody else is, and from where nothing gets out."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

_NEEDED = (
    "this test needs network namespaces: install util-linux, mount, iproute2 and nftables (.ci/packages does), and run "
    "the tests as root, or where others may make user namespaces (kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns)"
)


def alone(*further: str) -> list[str]:
    """What to put before a command so that it runs in a network of its own, as root there. `further`: also "--mount"."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip", "mount"))):
        pytest.fail(_NEEDED)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--net", *further]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.fail(_NEEDED)
    return command
