"""Events on their way, over real sockets and a real Postgres."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient
from standardwebhooks import Webhook

from customers.models import Customer, DeliveryAttempt, Event, WebhookDelivery, WebhookEndpoint
from customers.webhooks import outbox, payload, verdict
from tests import factories, forked
from tests.answers import assert_problem
from tests.customers.receivers import Receiver, after, answer, endless, garbage, hang_up, receiver, silent
from tests.together import run_together
from tranche_site.floor import faults

pytestmark = pytest.mark.django_db(transaction=True)

State = WebhookDelivery.State


class Clock:
    """Time that a test moves. Signatures are of the real time, which it starts from."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock()
    faults.disarm()


@pytest.fixture(autouse=True)
def _private(settings: Any) -> None:
    settings.WEBHOOKS_ALLOW_PRIVATE = True


def endpoint(
    url: str, customer: Customer | None = None, kinds: tuple[str, ...] = ("*",)
) -> tuple[WebhookEndpoint, str]:
    row = WebhookEndpoint.objects.create(customer=customer or factories.customer(), url=url, kinds=list(kinds))
    return row, row.new_secret(datetime.now(UTC))


def happen(customer: Customer, count: int = 1, kind: str = "storm.opened") -> None:
    Event.objects.bulk_create(
        Event.about(kind, customer, f"number {number}", customer_id=customer.pk, number=number)
        for number in range(count)
    )


def send(clock: Clock) -> None:
    outbox.fan_out(clock())
    while outbox.send_due(clock):
        pass


def numbers(to: Receiver) -> list[int]:
    return [json.loads(body)["data"]["number"] for _, body in to.got]


def states(row: WebhookEndpoint) -> dict[str, int]:
    found: dict[str, int] = {}
    for state in WebhookDelivery.objects.filter(endpoint=row).values_list("state", flat=True):
        found[state] = found.get(state, 0) + 1
    return found


# --- what arrives ---------------------------------------------------------------------------------------------------


def test_an_event_arrives_signed_once_and_in_order(clock: Clock) -> None:
    with receiver() as to:
        row, secret = endpoint(to.url)
        happen(row.customer, 5)
        send(clock)
        send(clock)
    assert numbers(to) == [0, 1, 2, 3, 4]
    for headers, body in to.got:
        told: Any = Webhook(secret).verify(body, headers)
        assert told["type"] == "storm.opened" and told["id"] == headers["webhook-id"]
    assert [json.loads(body)["sequence"] for _, body in to.got] == [1, 2, 3, 4, 5]
    assert states(row) == {State.DELIVERED: 5}
    assert not Event.objects.filter(processed_at=None).exists()


def test_while_a_secret_is_replaced_both_sign(clock: Clock) -> None:
    with receiver() as to:
        row, old = endpoint(to.url)
        new = row.new_secret(clock())
        happen(row.customer)
        send(clock)
        row.refresh_from_db()
        row.previous_until = clock()
        row.save()
        happen(row.customer)
        send(clock)
    first, second = to.got
    for secret in (old, new):
        Webhook(secret).verify(first[1], first[0])
    Webhook(new).verify(second[1], second[0])
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(old).verify(second[1], second[0])


def test_only_what_was_asked_for_and_only_ones_own(clock: Clock) -> None:
    with receiver() as to, receiver() as other:
        row, _ = endpoint(to.url, kinds=("storm.*", "invoice.paid"))
        theirs, _ = endpoint(other.url)
        for kind in ("storm.opened", "weights.observed", "invoice.paid", "invoice.finalized"):
            happen(row.customer, kind=kind)
        Event.objects.create(kind="incident.opened", subject_type="x", subject_id=1, summary="ours alone")
        Event.objects.create(
            kind="incident.opened", customer=row.customer, subject_type="x", subject_id=1, summary="too"
        )
        send(clock)
    assert [json.loads(body)["type"] for _, body in to.got] == ["storm.opened", "invoice.paid"]
    assert other.got == [] and states(theirs) == {}


def test_two_workers_at_once_make_one_delivery_each(clock: Clock) -> None:
    row, _ = endpoint("http://127.0.0.1:9/")
    happen(row.customer, 1200)
    run_together(*[lambda: outbox.fan_out(clock())] * 4)
    outbox.fan_out(clock())
    found = list(WebhookDelivery.objects.order_by("sequence").values_list("sequence", "event_id"))
    assert [sequence for sequence, _ in found] == list(range(1, 1201))
    assert [event for _, event in found] == sorted(event for _, event in found)


def test_what_is_too_long_is_told_without_its_data() -> None:
    customer = factories.customer()
    event = Event.about("storm.opened", customer, "é" * 5000, customer_id=customer.pk, much="é" * 30_000)
    event.save()
    body = payload.body(event, 1)
    told = json.loads(body)
    assert len(body) <= payload.MOST_BYTES
    assert (told["data"], told["is_truncated"], told["subject"]["id"]) == ({}, True, customer.pk)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_receiver_that_is_down_is_waited_for_and_the_order_stays(clock: Clock) -> None:
    with receiver(answer(503), answer(503), answer(200)) as to:
        row, _ = endpoint(to.url)
        happen(row.customer, 3)
        send(clock)
        assert numbers(to) == [0] and states(row) == {State.PENDING: 3}
        clock.pass_by(seconds=4)
        send(clock)
        assert numbers(to) == [0]
        clock.pass_by(seconds=3)
        send(clock)
        assert numbers(to) == [0, 0]
        clock.pass_by(minutes=6)
        send(clock)
    assert numbers(to) == [0, 0, 0, 1, 2]
    assert {headers["webhook-id"] for headers, _ in to.got[:3]} == {to.got[0][0]["webhook-id"]}
    row.refresh_from_db()
    assert (row.state, row.failures, states(row)) == ("enabled", 0, {State.DELIVERED: 3})
    assert [t.status for t in DeliveryAttempt.objects.filter(delivery__sequence=1)] == [503, 503, 200]


def test_those_that_fail_are_waited_for_apart(clock: Clock) -> None:
    with receiver(answer(500), answer(200)) as bad, receiver() as good:
        rows = [endpoint(to.url)[0] for to in (bad, good)]
        for row in rows:
            happen(row.customer)
        send(clock)
        clock.pass_by(minutes=1)
        for row in rows:
            happen(row.customer)
        outbox.fan_out(clock())
        outbox.send_due(clock, failing=False)
        assert (numbers(bad), numbers(good)) == ([0], [0, 0])
        outbox.send_due(clock, failing=True)
        assert (numbers(bad), numbers(good)) == ([0, 0, 0], [0, 0])


def test_one_message_that_is_refused_holds_nobody_up(clock: Clock) -> None:
    with receiver(answer(422, b"no \x1b[31mstorms\x00 please"), answer(200)) as to:
        row, _ = endpoint(to.url)
        happen(row.customer, 3)
        send(clock)
        assert numbers(to) == [0, 1, 2]
        clock.pass_by(minutes=1)
        send(clock)
    assert numbers(to) == [0, 1, 2, 0]
    first = DeliveryAttempt.objects.order_by("id")[0]
    assert (first.error, first.answer) == ("answered 422", "no  [31mstorms  please")


def test_a_message_that_breaks_the_receiver_is_stepped_over(clock: Clock) -> None:
    with receiver(*[answer(500)] * 3, answer(200)) as to:
        row, _ = endpoint(to.url)
        happen(row.customer, 2)
        for _ in range(3):
            send(clock)
            clock.pass_by(minutes=6)
        assert numbers(to) == [0, 0, 0]
        send(clock)
        assert numbers(to) == [0, 0, 0, 1]


def test_gone_disables_and_everything_can_be_sent_again(clock: Clock) -> None:
    with receiver(answer(410), answer(200)) as to:
        row, _ = endpoint(to.url)
        happen(row.customer, 3)
        send(clock)
        row.refresh_from_db()
        assert (row.state, row.disabled_reason) == ("disabled", "It answered 410 Gone.")
        assert states(row) == {State.DEAD: 3}
        assert Event.objects.get(kind="webhook_endpoint.disabled").customer == row.customer
        happen(row.customer)
        send(clock)
        assert len(to.got) == 1
        dead = WebhookDelivery.objects.filter(state=State.DEAD)
        assert outbox.replay(dead, clock()) == 0  # first it must be enabled
        outbox.enable(row)
        assert outbox.replay(dead, clock()) == 3
        send(clock)
    assert numbers(to) == [0, 0, 1, 2] and states(row) == {State.DELIVERED: 3}
    assert len({headers["webhook-id"] for headers, _ in to.got}) == 3


def test_after_three_days_it_is_given_up(clock: Clock) -> None:
    row, _ = endpoint("http://127.0.0.1:9/")  # nobody listens
    happen(row.customer, 2)
    for _ in range(200):
        send(clock)
        clock.pass_by(hours=1)
        row.refresh_from_db()
        if row.disabled_at:
            break
    assert row.disabled_reason == "Nothing could be delivered for three days."
    assert states(row) == {State.DEAD: 2}
    assert timedelta(days=3) <= row.disabled_at - row.created_at <= timedelta(days=4)
    assert max(WebhookDelivery.objects.values_list("attempts", flat=True)) <= verdict.TRIES


@pytest.mark.parametrize("lie", [garbage, hang_up, answer(302, Location="http://127.0.0.1:9/")])
def test_lies_are_failures(clock: Clock, lie: Any) -> None:
    with receiver(lie) as to:
        row, _ = endpoint(to.url)
        happen(row.customer)
        send(clock)
    delivery = WebhookDelivery.objects.get()
    assert (delivery.state, len(to.got)) == (State.PENDING, 1) and delivery.last_error


def test_whoever_talks_without_an_end_is_not_listened_to(clock: Clock) -> None:
    with receiver(endless) as to:
        row, _ = endpoint(to.url)
        happen(row.customer)
        send(clock)
    assert states(row) == {State.DELIVERED: 1}
    assert len(DeliveryAttempt.objects.get().answer) == outbox.KEPT_CHARACTERS


def test_silence_ends_by_the_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(outbox, "CONNECT_SECONDS", 0.2)
    with receiver(silent) as to:
        row, _ = endpoint(to.url)
        happen(row.customer)
        send(clock)
        assert states(row) == {State.PENDING: 1}
        assert 200 <= DeliveryAttempt.objects.get().milliseconds < 5000


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/", "https://127.0.0.1/", "https://[::1]/", "https://169.254.169.254/x"]
)
def test_nobody_is_led_into_our_own_networks(clock: Clock, settings: Any, url: str) -> None:
    settings.WEBHOOKS_ALLOW_PRIVATE = False
    row, _ = endpoint(url)
    happen(row.customer)
    send(clock)
    assert WebhookDelivery.objects.get().last_error.startswith("egress guard:")


def test_a_worker_that_dies_in_between_sends_it_again_under_its_id(clock: Clock) -> None:
    with receiver() as to:
        row, _ = endpoint(to.url)
        happen(row.customer)
        outbox.fan_out(clock())

        def die() -> None:
            faults.arm("webhooks.sent", forked.die)
            outbox.send_due(clock)

        assert forked.Child(die).wait() == "killed"
        assert (len(to.got), states(row)) == (1, {State.PENDING: 1})
        send(clock)
        assert len(to.got) == 1  # the dead worker's lease still runs
        clock.pass_by(seconds=outbox.LEASE.total_seconds() + 1)
        send(clock)
    assert len(to.got) == 2 and to.got[0][0]["webhook-id"] == to.got[1][0]["webhook-id"]
    assert states(row) == {State.DELIVERED: 1}


def test_whatever_the_receivers_do_what_was_emitted_was_delivered_or_is_dead(clock: Clock) -> None:
    """Good, flaky, refusing, slow, lying and dead receivers, over four days that pass in seconds."""
    kinds: list[tuple[Any, ...]] = [
        (answer(200),), (answer(500), answer(200)), (answer(404),), (after(0.05, answer(204)),),
        (garbage, hang_up, answer(200)), (answer(429, Retry_After="30"), answer(200)),
    ]  # fmt: skip
    managers = [receiver(*answers) for answers in kinds]
    open_ = [manager.__enter__() for manager in managers]
    try:
        rows = [endpoint(to.url)[0] for to in open_] + [endpoint("http://127.0.0.1:9/")[0]]
        for row in rows:
            happen(row.customer, 30)
        for _ in range(60):
            send(clock)
            clock.pass_by(hours=2)
        for row in rows:
            found = states(row)
            assert sum(found.values()) == 30 and State.PENDING not in found, row.url
        for to, row in zip(open_, rows, strict=False):
            ids = {headers["webhook-id"] for headers, _ in to.got}
            assert len(ids) == 30, row.url
            if states(row) == {State.DELIVERED: 30}:
                assert sorted(set(numbers(to))) == list(range(30))
        assert states(rows[0]) == {State.DELIVERED: 30} and numbers(open_[0]) == list(range(30))
        assert states(rows[2]) == states(rows[-1]) == {State.DEAD: 30}
    finally:
        for manager in managers:
            manager.__exit__(None, None, None)


def test_the_documents_own_lines_check_a_signature(clock: Clock) -> None:
    document = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"
    [code] = re.findall(r"^```python\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    with receiver() as to:
        row, secret = endpoint(to.url)
        happen(row.customer)
        send(clock)
    headers, body = to.got[0]
    assert names["is_ours"](headers, body, secret)
    assert not names["is_ours"](headers, body + b" ", secret)
    assert not names["is_ours"](headers | {"webhook-timestamp": "1"}, body, secret)
    assert not names["is_ours"](headers, body, "whsec_" + "A" * 43 + "=")


# --- the API --------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(client_of: Callable[[Customer], APIClient]) -> APIClient:
    return client_of(factories.customer())


def test_an_endpoint_is_made_tried_rotated_and_deleted(client: APIClient, clock: Clock) -> None:
    with receiver() as to:
        made = client.post("/v1/webhook-endpoints", {"url": to.url, "kinds": ["storm.*"]})
        assert made.status_code == 201 and made["Cache-Control"] == "no-store"
        secret, url = made.json()["secret"], f"/v1/webhook-endpoints/{made.json()['id']}"
        assert "secret" not in client.get(url).json()
        assert secret.encode() not in b"".join(bytes(str(v), "utf-8") for v in WebhookEndpoint.objects.values_list()[0])
        tried = client.post(f"{url}/test")
        assert tried.status_code == 201
        clock.pass_by(minutes=1)  # past what the API wrote by the real time
        send(clock)
        headers, body = to.got[0]
        assert Webhook(secret).verify(body, headers)["type"] == "webhook.test"  # type: ignore[call-overload]
    delivery = client.get(f"/v1/webhook-deliveries/{tried.json()['id']}").json()
    assert (delivery["state"], delivery["event"], delivery["attempts"]) == ("delivered", headers["webhook-id"], 1)
    assert [t["status"] for t in client.get(f"/v1/webhook-deliveries/{delivery['id']}/attempts").json()] == [200]
    events = client.get("/v1/events?type=webhook.test").json()
    assert [event["id"] for event in events] == [headers["webhook-id"]]
    assert client.post(f"{url}/rotate-secret").json()["secret"] != secret
    assert client.patch(url, {"kinds": ["*"]}).json()["kinds"] == ["*"]
    assert client.delete(url).status_code == 204
    assert client.get("/v1/webhook-endpoints").json() == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kinds": ["storm"]}, "kinds"), ({"kinds": ["incident.*"]}, "kinds"), ({"kinds": []}, "kinds"),
        ({"kinds": "*"}, "kinds"),
        ({"url": "http://example.org/"}, "url"), ({"url": "https://example.org:22/"}, "url"), ({"url": "ftp://x"}, "url"),
        ({"url": "https://ann:secret@example.org/"}, "url"), ({"secret": "whsec_mine"}, "secret"),
    ],
)  # fmt: skip
def test_bad_endpoints_are_refused_by_field(
    client: APIClient, settings: Any, change: dict[str, Any], field: str
) -> None:
    settings.WEBHOOKS_ALLOW_PRIVATE = False
    body = {"url": "https://example.org/hook", "kinds": ["*"]} | change
    assert_problem(client.post("/v1/webhook-endpoints", body), 400, field)


def test_replays_by_the_api(client: APIClient, clock: Clock) -> None:
    with receiver(answer(410), answer(200)) as to:
        made = client.post("/v1/webhook-endpoints", {"url": to.url, "kinds": ["*"]}).json()
        url = f"/v1/webhook-endpoints/{made['id']}"
        first = client.post(f"{url}/test").json()
        clock.pass_by(minutes=1)
        send(clock)
        assert client.get(url).json()["state"] == "disabled"
        replay = f"/v1/webhook-deliveries/{first['id']}/replay"
        assert client.post(replay).status_code == 409
        assert client.post(f"{url}/test").status_code == 409
        assert client.post(f"{url}/enable").json()["state"] == "enabled"
        assert client.post(replay).json()["state"] == "pending"
        assert client.post(replay).status_code == 409
        clock.pass_by(minutes=1)
        send(clock)
        assert client.get(f"/v1/webhook-deliveries/{first['id']}").json()["state"] == "delivered"
        assert client.post(f"{url}/replay-dead").json() == {"replayed": 0}
    kinds = {kind["type"] for kind in client.get("/v1/event-kinds").json()}
    assert "storm.opened" in kinds and "incident.opened" not in kinds
