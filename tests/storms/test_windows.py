"""Postgres and Python make the same window of the same samples: each is the other's oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import samples
from services.models import ProbeSample
from services.outcomes import Outcome
from storms import verdicts, windows
from storms.verdicts import Seen
from tests.storms.test_watch import NOW, Site, at

pytestmark = pytest.mark.django_db

SAMPLES = st.lists(
    st.tuples(
        st.integers(-240, 30),
        st.sampled_from([Outcome.OK] * 4 + list(Outcome)),
        st.sampled_from([80.0, 1799.0, 1801.0, 5000.0]),
        st.sampled_from([False] * 5 + [True]),
    ),
    max_size=40,
    unique_by=lambda sample: sample[0],
)


@pytest.mark.parametrize("kind", ["http_availability", "tls", "dns"])
def test_both_make_the_same_window(kind: str) -> None:
    site = Site.build(("primary",), kind=kind, window_seconds=60, closing_samples=7)
    (point, *_), target, policy = site.points, site.targets["primary"], site.policy.terms()

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SAMPLES)
    def hold(drawn: list[tuple[int, Outcome, float, bool]]) -> None:
        ProbeSample.objects.all().delete()
        rows = sorted(drawn)
        samples.write(
            [_row(site, seconds, outcome, total_ms=ms, is_blind=is_blind) for seconds, outcome, ms, is_blind in rows]
        )
        seen = [Seen(at(s), outcome, ms, "" if outcome == "ok" else f"saw {outcome}", b) for s, outcome, ms, b in rows]
        read = windows.read(NOW, [site.policy.service_id], [])
        there = read.get(windows.Key(site.policy.pk, target.pk))
        found = there.windows[point.pk] if there else verdicts.Window()
        assert found == verdicts.window(seen, policy, NOW)

    hold()


def _row(site: Site, seconds: float, outcome: str, **kw: Any) -> samples.Row:
    return site.row("primary", site.points[0], seconds, outcome, **kw)
