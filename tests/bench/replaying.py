"""How many samples a second a backtest replays on one core: a month of one host, with the noise that hosts have."""

from __future__ import annotations

import time

from storms import backtest
from storms.simulation import Prober
from storms.verdicts import Policy
from tests.bench import Result
from tests.storms.test_simulation import DAY, POINTS, START, noise

DAYS, ROUNDS, LIMIT = 30, 3, 1_000_000


def backtest_samples() -> Result:
    recording = Prober(POINTS).run(START, START + DAYS * DAY, noise(1, DAYS), 1)
    best = min(_seconds(recording) for _ in range(ROUNDS))
    return Result("backtest_samples", round(len(recording) / best), "1/s", "limit", LIMIT)


def _seconds(recording: backtest.Recording) -> float:
    began = time.process_time()
    backtest.replay(recording, Policy())
    return time.process_time() - began
