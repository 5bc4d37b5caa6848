"""From a request to a reply: who calls, how often, what goes wrong today, and then the operation itself."""

from __future__ import annotations

import re
import traceback
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from tests.route53_fake import access, faults, model
from tests.route53_fake.access import Principal
from tests.route53_fake.errors import Refusal
from tests.route53_fake.faults import Asked, Fault
from tests.route53_fake.model import Operation
from tests.route53_fake.operations import ACTIONS, Operations
from tests.route53_fake.server import Reply, Request

if TYPE_CHECKING:
    from tests.route53_fake.fake import Route53Fake

_STS = "https://sts.amazonaws.com/doc/2011-06-15/"
_ASSUME = "AssumeRole"


class Call(NamedTuple):
    """One request, and what became of it. `accepted`: it was done, whether the caller heard of it or not."""

    at: float
    account: str
    action: str
    zone_id: str
    changes: int
    accepted: bool
    error: str
    """The code that it was refused with."""
    fault: str

    def __str__(self) -> str:
        outcome = "accepted" if self.accepted else self.error or "dropped"
        changes = f"{self.changes} changes" if self.changes else ""
        words = (self.account, self.action, self.zone_id, changes, outcome, self.fault and f"({self.fault})")
        return " ".join(word for word in words if word)


class Gateway:
    def __init__(self, fake: Route53Fake) -> None:
        self._fake = fake
        self._operations = Operations(fake)

    def answer(self, request: Request) -> Reply:
        try:
            return _Call(self._fake, self._operations, request).run()
        except Exception:  # a mistake of the fake's own: told to the client, and to the test when it ends
            self._fake.bugs.append(traceback.format_exc())
            return _error(Refusal("FakeIsBroken", traceback.format_exc(), 500), model.NAMESPACE)


class _Call:
    """One request on its way through."""

    def __init__(self, fake: Route53Fake, operations: Operations, request: Request) -> None:
        self._fake = fake
        self._operations = operations
        self._request = request
        self._is_sts = request.path == "/"
        self._account = self._action = self._zone_id = ""
        self._changes = 0
        self._fault: Fault | None = None

    def run(self) -> Reply:
        error, accepted = "", False
        with self._fake.lock:
            try:
                reply = self._reply()
                accepted = not (self._fault and self._fault.kind in faults.BEFORE)
            except Refusal as refusal:
                error = refusal.code
                reply = _error(refusal, _STS if self._is_sts else model.NAMESPACE)
            self._fake.calls.append(self._call(accepted, error))
        return _spoilt(reply, self._fault) if self._fault else reply

    def _call(self, accepted: bool, error: str) -> Call:
        fault = self._fault.kind if self._fault else ""
        at = self._fake.clock()
        return Call(at, self._account, self._action, self._zone_id, self._changes, accepted, error, fault)

    def _reply(self) -> Reply:
        """Raises Refusal."""
        operation, path = self._route()
        self._action = operation.name
        caller = self._fake.access.principal(self._request.headers, self._fake.clock())
        self._account = caller.account
        if not self._is_sts:
            self._fake.limits.take(caller.account, operation.name, self._fake.clock())
        given = self._given(operation, path)
        self._zone_id = given.get("HostedZoneId") or (given["Id"] if operation.name == "GetHostedZone" else "")
        self._changes = len(given.get("ChangeBatch", {}).get("Changes", ()))
        if not self._is_sts:
            access.authorise(caller, operation.name, self._zone_id)
        asked = Asked(self._account, self._action, self._zone_id, self._changes, given)
        self._fault = self._fake.faults.take(asked)
        if self._fault and self._fault.kind in faults.BEFORE:
            if refusal := faults.refusal(self._fault.kind):
                raise refusal
            return Reply(500, b"", {})  # never sent
        return self._done(operation, caller, given)

    def _done(self, operation: Operation, caller: Principal, given: dict[str, Any]) -> Reply:
        if self._is_sts:
            answer = self._fake.access.assume(caller, given, self._fake.clock())
            return Reply(200, _sts_document(answer, operation), _headers())
        answer = self._operations.named(operation.name)(caller, given)
        if self._fault and self._fault.kind == "slow" and self._zone_id in self._fake.zones:
            self._fake.zones[self._zone_id].busy_until = self._fake.clock() + self._fault.seconds
        headers = _headers() | ({"Location": answer["Location"]} if "Location" in answer else {})
        return Reply(operation.status, model.document(answer, operation), headers)

    def _route(self) -> tuple[Operation, dict[str, str]]:
        request = self._request
        if self._is_sts:
            action = self._form().get("Action", "")
            if action != _ASSUME:
                raise Refusal("InvalidAction", f"Could not find operation {action}")
            return model.sts().operation(_ASSUME), {}
        for action in ACTIONS:
            operation = model.route53().operation(action)
            if request.method == operation.method and (found := operation.path.fullmatch(request.path)):
                return operation, found.groupdict()
        raise Refusal("InvalidAction", f"The fake knows no {request.method} {request.path}")

    def _form(self) -> dict[str, str]:
        return dict(parse_qsl(self._request.body.decode(), keep_blank_values=True))

    def _given(self, operation: Operation, path: dict[str, str]) -> dict[str, Any]:
        if not self._is_sts:
            return model.route53().read(operation, path, self._request.query, self._request.body)
        given: dict[str, Any] = {key: value for key, value in self._form().items() if key not in ("Action", "Version")}
        if re.fullmatch(r"\d+", given.get("DurationSeconds", "")):
            given["DurationSeconds"] = int(given["DurationSeconds"])
        try:
            model.check(given, operation.input)
        except Refusal as refusal:
            raise Refusal("ValidationError", refusal.message) from refusal
        return given


def _spoilt(reply: Reply, fault: Fault) -> Reply:
    """The reply as the fault lets it through."""
    match fault.kind:
        case "timeout_before" | "timeout_after":
            return Reply(reply.status, b"", {}, "close", fault.seconds)
        case "reset_before":
            return Reply(reply.status, b"", {}, "reset")
        case "lost_reply":
            return Reply(reply.status, b"", {}, "close")
        case "applied_500" | "applied_503":
            refusal = faults.refusal(fault.kind)
            assert refusal is not None
            return _error(refusal, model.NAMESPACE)
        case "garbled":
            return Reply(reply.status, b"<html><body>Bad gateway</p>", reply.headers)
        case "half":
            return Reply(reply.status, reply.body, reply.headers, "half")
        case "slow":
            return Reply(reply.status, reply.body, reply.headers, after_seconds=fault.seconds)
        case _:
            return reply


def _headers() -> dict[str, str]:
    return {"Content-Type": "text/xml", "x-amzn-RequestId": str(uuid.uuid4())}


def _error(refusal: Refusal, namespace: str) -> Reply:
    entries = "".join(
        "<ProtectionError>"
        + "".join(f"<{key}>{escape(value)}</{key}>" for key, value in entry.items())
        + "</ProtectionError>"
        for entry in refusal.errors
    )
    side = "Sender" if refusal.status < 500 else "Receiver"
    headers = _headers()
    text = (
        f'<?xml version="1.0"?>\n<ErrorResponse xmlns="{namespace}"><Error><Type>{side}</Type>'
        f"<Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message>"
        f"{f'<Errors>{entries}</Errors>' if entries else ''}</Error>"
        f"<RequestId>{headers['x-amzn-RequestId']}</RequestId></ErrorResponse>"
    )
    return Reply(refusal.status, text.encode(), headers)


def _sts_document(answer: dict[str, Any], operation: Operation) -> bytes:
    return (
        f'<AssumeRoleResponse xmlns="{_STS}"><AssumeRoleResult>{model.content(answer, operation.output)}'
        f"</AssumeRoleResult><ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata>"
        "</AssumeRoleResponse>"
    ).encode()
