"""Bunny's logging API: a growing text a day and zone, kept for three days."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from tests.billing.fake_api import Call, FakeApi, Reply


class FakeBunny(FakeApi):
    KEY = "bunny-key-canary-4711-abcdefgh"

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self.now = now
        self.days: dict[tuple[str, date], list[str]] = {}
        """By zone and day: its lines, oldest first."""
        self.tells_length = False
        self.changed_at = "Sun, 01 Mar 2026 10:00:00 GMT"

    def answer(self, call: Call) -> Reply:
        if call.headers.get("accesskey") != self.KEY:
            return Reply(401, f"Unauthorized: {call.headers.get('accesskey')}".encode())
        found = re.fullmatch(r"/(\d\d)-(\d\d)-(\d\d)/(\w+)\.log", call.path)
        if call.method != "GET" or not found:
            return Reply(404)
        month, day, year = (int(found[group]) for group in (1, 2, 3))
        asked = date(2000 + year, month, day)
        lines = self.days.get((found[4], asked))
        if lines is None or self.now.date() - asked > timedelta(days=3):
            return Reply(404)
        ordered = lines if call.query.get("order", "desc") == "asc" else lines[::-1]
        body = "".join(f"{line}\n" for line in ordered).encode()
        if self.tells_length:
            return Reply(200, body, {"Last-Modified": self.changed_at})
        return Reply(200, body, is_chunked=True)
