"""An origin's fault is nobody's storm, also not when its traces leave the windows, one target's a moment before another's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.models import Target
from storms.models import Finding, StormEvent
from storms.watch import watch
from tests import factories
from tests.samples import record, times

pytestmark = pytest.mark.django_db

NOON = datetime(2040, 3, 10, 12, tzinfo=UTC)
# Each target has its own phase within the second, and so has each vantage point: as the prober's slots have.
PHASES = {"primary": 0.5, "backup": 0.1, "origin": 0.4}
BEGIN, LENGTH = 90, 20


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize("window", [10, 30, 60])
def test_an_origin_fault_that_passes_leaves_no_storm(window: int) -> None:
    domain = factories.domain(service=factories.service(interval_seconds=1))
    factories.policy(service=domain.service, window_seconds=window, min_samples=6, min_failures=3, closing_samples=10)
    points = [factories.vantage_point() for _ in range(3)]
    for role, phase in PHASES.items():
        target: Target = factories.target(role, domain=domain)
        for rank, point in enumerate(points):
            slots = times(after((phase + rank / 3) % 1), after(200), 1)
            bad = [at for at in slots if after(BEGIN) <= at < after(BEGIN + LENGTH)]
            record([target], [point], bad, "http_5xx")
            record([target], [point], sorted(set(slots) - set(bad)))
    watch(after(BEGIN + LENGTH))
    assert Finding.objects.filter(kind="origin_fault").exists()
    assert not StormEvent.objects.exists()

    # Every target is well again; the bad samples leave the windows. In between, when nothing comes or goes but good ones
    # that are like those before, a look a second will do.
    for tick in range(BEGIN + LENGTH, BEGIN + LENGTH + window + 5):
        is_quiet = BEGIN + LENGTH + 6 <= tick < BEGIN + window - 1
        for part in (0.45,) if is_quiet else (0.05, 0.2, 0.35, 0.45, 0.55, 0.7, 0.8, 0.9):
            watch(after(tick + part))
            storm = StormEvent.objects.first()
            assert storm is None, f"at {tick + part}: {storm.attribution}: {storm.reason}"
