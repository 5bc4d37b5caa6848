"""Sets of HTTP status codes as people write them: “200-299,304”."""

from functools import lru_cache

from django.core.exceptions import ValidationError


@lru_cache(maxsize=1024)
def parse(text: str) -> frozenset[int]:
    """The codes that `text` names. Raises ValueError with the part that is wrong."""
    codes: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            raise ValueError(f"“{part.strip()}” is neither a code nor a range such as 200-299.") from None
        if not 100 <= low <= high <= 599:
            raise ValueError(f"“{part.strip()}” is not within 100 to 599, low to high.")
        codes.update(range(low, high + 1))
    return frozenset(codes)


def validate(text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        raise ValidationError(str(error), code="invalid_statuses") from None
