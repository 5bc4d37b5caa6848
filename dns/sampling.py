"""What a sample of DNS answers proves about the weights behind it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping


def consistent(
    percents: Mapping[str, int], answers: Mapping[str, int], names: Mapping[str, str] | None = None
) -> str | None:
    """Why a sample of DNS answers (count by key) contradicts the wanted percents, or None. `names` are for its words.

    Keys at 0 and 100 % allow no other answer; between, the share must lie in the Wilson 99 % interval.
    """
    total = sum(answers.values())
    names = names or {}
    for lane in sorted({*percents, *answers}):
        percent, count = percents.get(lane, 0), answers.get(lane, 0)
        low, high = (0.0, 1.0) if 0 < percent < 100 else (percent / 100, percent / 100)
        if 0 < percent < 100:
            low, high = wilson(count, total)
            if not low <= percent / 100 <= high:
                return f"{count} of {total} answers are {names.get(lane, lane)}, and {percent} % were wanted"
        elif not low <= (count / total if total else low) <= high:
            return f"{count} of {total} answers are {names.get(lane, lane)}, and {percent} % were wanted"
    return None


def wilson(successes: int, total: int, z: float = 2.576) -> tuple[float, float]:
    """The Wilson score interval of a share; z = 2.576 gives 99 %."""
    if not total:
        return 0.0, 1.0
    share, z2 = successes / total, z * z
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return middle - half, middle + half
