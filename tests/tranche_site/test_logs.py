from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from celery import shared_task
from celery.contrib.testing.worker import start_worker
from django.test import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from customers import keys
from customers.models import Customer
from tests import factories
from tests.broker import broker_fixture  # noqa: F401
from tests.stack import until
from tranche_site.celery import app
from tranche_site.floor import logs

SECRETS = {
    "an API key": keys.generate(),
    "a webhook secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "a header": "Authorization: Bearer abcdef0123456789",
    "basic credentials": "Basic dXNlcjpwYXNzd29yZA==",
    "a DSN": "postgres://tranche:hunter2hunter2@db.example/tranche",
    "a password": "password=hunter2hunter2",
    "a secret in JSON": '{"client_secret": "hunter2hunter2"}',
    "a signed URL": "https://logs.example/x?X-Amz-Signature=deadbeefdeadbeef&a=1",
    "a private key": "-----BEGIN PRIVATE KEY-----\nMIIEvgIBADANBg\n-----END PRIVATE KEY-----",
}
_WORDS = ("hunter2", "MfKQ9", "abcdef0123", "dXNlcj", "deadbeef", "MIIEvg")


class Out:
    """What a formatter of ours writes for a root logger of this test's own."""

    def __init__(self, form: str) -> None:
        self.stream = io.StringIO()
        formatter = logs.configuration("DEBUG", form)["formatters"]["ours"]
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=formatter["foreign_pre_chain"], processors=formatter["processors"]
            )
        )

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture(params=logs.FORMS)
def out(request: pytest.FixtureRequest) -> Iterator[Out]:
    yield from _attached(request.param)


@pytest.fixture
def json_out() -> Iterator[Out]:
    yield from _attached("json")


def _attached(form: str) -> Iterator[Out]:
    out, root = Out(form), logging.getLogger()
    root.addHandler(out.handler)
    structlog.contextvars.clear_contextvars()
    yield out
    root.removeHandler(out.handler)
    structlog.contextvars.clear_contextvars()


def test_both_kinds_of_logger_write_the_same_shape(json_out: Out) -> None:
    logs.about(service_ids=[3, 1])
    logging.getLogger("storms.watch").warning("%s storms", 2)
    structlog.get_logger("storms.watch").warning("2 storms")
    theirs, ours = json_out.lines
    assert theirs.pop("timestamp").endswith("Z")
    assert ours.pop("timestamp").endswith("Z")
    assert theirs == ours == {
        "level": "warning", "logger": "storms.watch", "event": "2 storms", "service_ids": [1, 3],
    }  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_never_logged(out: Out, name: str) -> None:
    secret = SECRETS[name]
    body = secret[13:50] if name == "an API key" else None
    logging.getLogger("x").warning("refused %s here", secret)
    structlog.get_logger("x").warning("refused", given=secret, nested={"list": [secret]}, password="hunter2hunter2")
    try:
        raise ValueError(secret)
    except ValueError:
        logging.getLogger("x").exception("broke")
    assert not [word for word in (*_WORDS, *([body] if body else [])) if word in out.text]
    assert logs.HIDDEN in out.text
    assert out.text.count("refused") == 2


def test_what_is_no_secret_stays(json_out: Out) -> None:
    text = "token bucket of 5 calls; postgres://db.example/tranche; trk_0123abcd…; password unknown; 3 keys"
    structlog.get_logger("x").info(text, key="trk_0123abcd", count=0, tokens_left=None)
    (line,) = json_out.lines
    assert (line["event"], line["key"], line["count"], line["tokens_left"]) == (text, "trk_0123abcd", 0, None)


EVIL = "x\r\n2026-01-01T00:00:00Z CRITICAL root: forged \x1b[31mred\x1b[0m \x9b1m \u2028 \u202e end\x00"


def test_nothing_that_is_logged_begins_a_line_or_colours_a_terminal(out: Out) -> None:
    logging.getLogger("x").warning("host %s", EVIL)
    structlog.get_logger("x").warning("refused", host=EVIL, nested={EVIL: [EVIL]}, **{"na\nme": 1})
    try:
        raise ValueError(EVIL)
    except ValueError:
        logging.getLogger("x").exception("broke")
    for sign in "\r\x1b\x9b\u2028\u202e\x00":
        assert sign not in out.text
    assert r"\x1b[31mred" in out.text.replace("\\\\", "\\")
    assert not [line for line in out.text.splitlines() if line.startswith("2026-01-01")]


@settings(max_examples=50)
@given(st.text(max_size=60), st.sampled_from(logs.FORMS))
def test_one_line_each_whatever_is_in_it(text: str, form: str) -> None:
    render = logs.as_json if form == "json" else logs.as_line
    event = logs.escape(None, "", logs.redact(None, "", {"event": text, "value": text, "level": "info", "logger": "x"}))
    line = render(None, "", event)
    assert isinstance(line, str)
    assert len(line.splitlines()) == 1
    assert not any(ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0 for sign in line)


def test_many_ids_are_named_in_part() -> None:
    logs.about(service_ids=range(100))
    try:
        assert structlog.contextvars.get_contextvars()["service_ids"] == [*range(20), "and 80 more"]
    finally:
        structlog.contextvars.clear_contextvars()


# --- requests -------------------------------------------------------------------------------------------------------


def _finished(out: Out) -> dict[str, Any]:
    (line,) = [line for line in out.lines if line["event"] in ("request_finished", "request_failed")]
    return line


def test_each_request_is_a_line(db: None, json_out: Out) -> None:
    Client().get("/healthz?a=%0A")
    line = _finished(json_out)
    assert line["request"] == "GET /healthz?a=%0A"
    assert (line["code"], line["bytes"], line["view"], line["level"]) == (200, 2, "tranche_site.health.alive", "info")
    assert 0 <= line["ms"] < 5000
    assert len(line["request_id"]) == 32
    assert "customer_id" not in line


def test_a_request_by_key_names_prefix_and_customer_and_never_the_key(db: None, json_out: Out) -> None:
    owner = Customer.objects.create(name="x")
    secret = factories.api_key(owner)
    Client(headers={"authorization": f"Bearer {secret}"}).get("/v1/services")
    line = _finished(json_out)
    assert (line["key"], line["customer_id"], line["code"]) == (keys.prefix(secret), owner.pk, 200)
    assert secret[13:] not in json_out.text


def test_a_person_is_named_by_id(json_out: Out, admin_client: Client, admin_user: Any) -> None:
    admin_client.get("/admin/")
    assert _finished(json_out)["user_id"] == admin_user.pk


def test_an_error_is_one_line_with_its_traceback(db: None, json_out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("password=hunter2hunter2")

    monkeypatch.setattr("customers.authentication._find", fail)
    Client(raise_request_exception=False, headers={"authorization": "Bearer x"}).get("/v1/services")
    line = _finished(json_out)
    assert (line["event"], line["code"], line["level"]) == ("request_failed", 500, "error")
    assert "RuntimeError" in line["exception"]
    assert "hunter2" not in json_out.text
    assert len([each for each in json_out.lines if "exception" in each]) == 1


# --- tasks ----------------------------------------------------------------------------------------------------------


@shared_task(name="tests.say")
def say() -> None:
    logging.getLogger("tests").warning("in a task")


@pytest.mark.django_db(transaction=True)
def test_a_task_carries_the_ids_of_whoever_sent_it(json_out: Out, broker: None) -> None:
    structlog.contextvars.bind_contextvars(request_id="r-1")
    logs.about(service_ids=[7], storm_ids=[9])
    with start_worker(app, perform_ping_check=False, pool="solo", queues=["storms", "dns"]):
        # Starting it has Django set its handlers up anew.
        logging.getLogger().addHandler(json_out.handler)
        sent = say.apply_async(queue="storms")
        structlog.contextvars.clear_contextvars()
        until(lambda: "in a task" in json_out.text)
    (line,) = [line for line in json_out.lines if line["event"] == "in a task"]
    assert line["task_id"] == sent.id
    assert line["task"] == "tests.say"
    assert (line["request_id"], line["service_ids"], line["storm_ids"]) == ("r-1", [7], [9])


# --- processes ------------------------------------------------------------------------------------------------------


def test_a_form_that_is_none_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="LOG_FORMAT is “xml”: it is json or console"):
        logs.chosen_form("xml")
    assert logs.chosen_form("console") == "console"


def test_json_away_from_a_terminal() -> None:
    script = (
        "import logging, logging.config; from tranche_site.floor import logs;"
        "logging.config.dictConfig(logs.configuration('INFO', logs.chosen_form()));"
        "logging.getLogger('a').info('b'); logging.getLogger('httpx').info('never')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).resolve().parents[2])  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["event"] == "b"
