"""Fastly's historical stats as far as we ask them, with what they refuse and what they get wrong."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from tests.billing.fake_api import Call, FakeApi, Reply, as_json

HOUR = timedelta(hours=1)


class FakeFastly(FakeApi):
    KEY = "fastly-key-canary-4711-abcdefgh"

    def __init__(self, now: datetime) -> None:
        super().__init__()
        self.now = now
        self.services: dict[str, dict[datetime, tuple[int, int]]] = {}
        """By ID: requests and bytes of each hour."""
        self.shield_bytes = 0
        """What one of its places fetched from another in each hour: in `bandwidth`, and no delivery."""

    def answer(self, call: Call) -> Reply:
        if call.headers.get("fastly-key") != self.KEY:
            return as_json(
                401, {"msg": f"Provided credentials are missing or invalid: {call.headers.get('fastly-key')}"}
            )
        found = re.fullmatch(r"/stats/service/(\w+)", call.path)
        if not found or found[1] not in self.services:
            return as_json(404, {"msg": "Record not found", "detail": "Cannot find service"})
        if call.query.get("by", "day") != "hour":
            return as_json(400, {"status": "error", "msg": "these tests want hours"})
        since, until = _time(call.query["from"]), _time(call.query["to"])
        rows = []
        for hour, (requests, size) in sorted(self.services[found[1]].items(), reverse=True):
            # Both ends are in it, and an hour that is not counted yet is not.
            if since <= hour <= until and hour + HOUR + timedelta(minutes=15) <= self.now:
                rows.append(
                    {
                        "service_id": found[1], "start_time": int(hour.timestamp()), "requests": requests + 1,
                        "bandwidth": size + self.shield_bytes, "edge_requests": requests,
                        "edge_resp_header_bytes": size // 3, "edge_resp_body_bytes": size - size // 3,
                        "shield_resp_body_bytes": self.shield_bytes,
                    }
                )  # fmt: skip
        meta = {"to": str(until), "from": str(since), "by": "hour", "region": "all"}
        return as_json(200, {"status": "success", "meta": meta, "msg": None, "data": rows})


def _time(text: str) -> datetime:
    """A date alone is taken for its noon."""
    if text.isdecimal():
        return datetime.fromtimestamp(int(text), UTC)
    at = datetime.fromisoformat(text)
    return at.replace(hour=12, tzinfo=UTC) if len(text) == 10 else at.replace(tzinfo=UTC)
