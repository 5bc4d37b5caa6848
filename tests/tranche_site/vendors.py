"""Strict stand-ins for PagerDuty, Opsgenie and Slack on loopback: they refuse what the real ones refuse."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ROUTING_KEY = "0123456789abcdef0123456789ABCDEF"
API_KEY = "eb243592-faa2-4ba2-a551-1afdf565c889"
SLACK_PATH = "/services/T0000/B0000/secret"
JSON = "application/json"


class Refused(Exception):
    def __init__(self, status: int, body: str, **headers: str) -> None:
        super().__init__(body)
        self.status, self.body, self.headers = status, body, headers


def must(holds: object, why: str, status: int = 400) -> None:
    if not holds:
        raise Refused(status, json.dumps({"status": "invalid event", "message": why}))


class Vendors:
    """`incidents` and `alerts` are what is open, acknowledged or closed by key; `messages` what Slack showed; `refusing`
    are answers to give first, whatever is asked."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.incidents: dict[str, str] = {}
        self.triggers: list[dict[str, Any]] = []
        self.alerts: dict[str, str] = {}
        self.created: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self.refusing: list[Refused] = []
        self.calls = 0

    def answer(self, path: str, headers: Any, raw: bytes) -> tuple[int, str]:
        self.calls += 1
        if self.refusing:
            raise self.refusing.pop(0)
        must(headers.get("Content-Type") == JSON, "Content-Type must be application/json", 415)
        body = json.loads(raw)
        parts = urlsplit(path)
        if parts.path == "/v2/enqueue":
            return self._pagerduty(body, len(raw))
        if parts.path.startswith("/v2/alerts"):
            return self._opsgenie(parts, headers, body)
        if parts.path.startswith("/services/"):
            return self._slack(parts.path, body)
        raise Refused(404, "not found")

    def _pagerduty(self, body: dict[str, Any], size: int) -> tuple[int, str]:
        must(size <= 512 * 1024, "Event is too large", 413)
        must(
            body.keys() <= {"routing_key", "event_action", "dedup_key", "payload", "client", "client_url", "links"}, "?"
        )
        must(body.get("routing_key") == ROUTING_KEY, "Invalid routing key")
        action, key = body.get("event_action"), body.get("dedup_key")
        must(action in ("trigger", "acknowledge", "resolve"), "'event_action' is invalid")
        must(key is None or (isinstance(key, str) and len(key) <= 255), "'dedup_key' is too long")
        if action == "trigger":
            payload = body.get("payload", {})
            must(payload.keys() <= {"summary", "source", "severity", "timestamp", "custom_details"}, "unknown field")
            must(payload.get("summary") and len(payload["summary"]) <= 1024, "'payload.summary' is missing or too long")
            must(payload.get("source"), "'payload.source' is missing or blank")
            must(payload.get("severity") in ("critical", "error", "warning", "info"), "'payload.severity' is invalid")
            datetime.fromisoformat(payload["timestamp"])
            for link in body.get("links", []):
                must(link.get("href", "").startswith("https://"), "'links.href' is invalid")
            self.triggers.append(body)
            self.incidents.setdefault(key, "triggered")
            if self.incidents[key] == "resolved":
                self.incidents[key] = "triggered"
        else:
            must(key, "'dedup_key' is missing or blank")
            if self.incidents.get(key) not in (None, "resolved"):
                self.incidents[key] = f"{action}d"
        return 202, json.dumps({"status": "success", "message": "Event processed", "dedup_key": key})

    def _opsgenie(self, parts: Any, headers: Any, body: dict[str, Any]) -> tuple[int, str]:
        must(headers.get("Authorization") == f"GenieKey {API_KEY}", "Could not authenticate", 401)
        if parts.path == "/v2/alerts":
            known = {
                "message",
                "alias",
                "description",
                "priority",
                "source",
                "tags",
                "details",
                "entity",
                "user",
                "note",
            }
            must(body.keys() <= known, "unknown field", 422)
            must(body.get("message") and len(body["message"]) <= 130, "message is missing or too long", 422)
            must(len(body.get("alias", "")) <= 512, "alias is too long", 422)
            must(len(body.get("description", "")) <= 15_000, "description is too long", 422)
            must(body.get("priority", "P3") in ("P1", "P2", "P3", "P4", "P5"), "priority is invalid", 422)
            must(len(body.get("source", "")) <= 100, "source is too long", 422)
            must(len(body.get("tags", [])) <= 20 and all(len(t) <= 50 for t in body.get("tags", [])), "tags", 422)
            self.created.append(body)
            if self.alerts.get(body["alias"]) in (None, "closed"):
                self.alerts[body["alias"]] = "open"
        else:
            found = re.fullmatch(r"/v2/alerts/([^/]+)/(acknowledge|close)", parts.path)
            must(found, "no such action", 404)
            assert found
            must(parse_qs(parts.query).get("identifierType") == ["alias"], "identifierType is needed for an alias", 422)
            must(body.keys() <= {"user", "source", "note"}, "unknown field", 422)
            must(len(body.get("user", "")) <= 100 and len(body.get("note", "")) <= 25_000, "too long", 422)
            alias = unquote(found[1])
            if self.alerts.get(alias, "closed") != "closed":
                self.alerts[alias] = {"acknowledge": "acknowledged", "close": "closed"}[found[2]]
        return 202, json.dumps({"result": "Request will be processed", "took": 0.1, "requestId": "r"})

    def _slack(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        if path != SLACK_PATH:
            raise Refused(404, "no_service")
        if body.keys() - {"text", "blocks"} or not (body.get("text") or body.get("blocks")):
            raise Refused(400, "no_text")
        for block in body.get("blocks", []):
            texts = block["elements"] if block["type"] == "context" else [block["text"]]
            most = {"section": 3000, "header": 150, "context": 3000}.get(block["type"], 0)
            if not all(t["type"] in ("plain_text", "mrkdwn") and 0 < len(t["text"]) <= most for t in texts):
                raise Refused(400, "invalid_blocks")
        self.messages.append(body["text"])
        return 200, "ok"


@contextmanager
def vendors() -> Iterator[Vendors]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            headers: dict[str, str] = {}
            try:
                status, text = made.answer(self.path, self.headers, raw)
            except Refused as refused:
                status, text, headers = refused.status, refused.body, refused.headers
            said = text.encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Vendors(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
