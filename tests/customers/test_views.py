"""What every view does alike: idempotency, preconditions, strict queries, limits, request ids."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from customers import idempotency
from customers.models import Customer, IdempotentRequest
from services.models import Service
from tests import factories
from tests.answers import assert_problem
from tests.together import run_together
from tranche_site.floor import rate_limit
from tranche_site.floor.rate_limit import Limiter, Quota

ClientOf = Callable[[Customer], APIClient]


@pytest.fixture
def owner(db: None) -> Customer:
    return factories.customer()


@pytest.fixture
def client(owner: Customer) -> APIClient:
    """Without the If-Match that other tests' clients send."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {factories.api_key(owner)}")
    return client


# --- idempotency ----------------------------------------------------------------------------------------------------


def post(client: APIClient, key: str, body: dict[str, Any], path: str = "/v1/services") -> Any:
    return client.post(path, body, headers={"Idempotency-Key": key})


def test_the_same_again_acts_once_and_answers_alike(client: APIClient) -> None:
    first = post(client, "order-1", {"name": "shop"})
    again = post(client, "order-1", {"name": "shop"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json() and again["ETag"] == first["ETag"]
    assert "Idempotent-Replayed" not in first and again["Idempotent-Replayed"] == "true"
    assert Service.objects.count() == 1


def test_another_body_or_address_with_the_same_key_is_refused(client: APIClient) -> None:
    service = post(client, "order-1", {"name": "shop"}).json()["id"]
    for answer in (
        post(client, "order-1", {"name": "other"}),
        post(client, "order-1", {"service": service, "hostname": "www.example.org"}, "/v1/domains"),
    ):
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency_key_reused"
    assert Service.objects.count() == 1


def test_a_refusal_frees_the_key(client: APIClient) -> None:
    assert post(client, "order-1", {"name": ""}).status_code == 400
    assert IdempotentRequest.objects.count() == 0
    assert post(client, "order-1", {"name": "shop"}).status_code == 201


def test_keys_are_the_customers_own_and_last_a_day(client: APIClient, client_of: ClientOf) -> None:
    post(client, "order-1", {"name": "shop"})
    assert post(client_of(factories.customer()), "order-1", {"name": "theirs"}).status_code == 201
    IdempotentRequest.objects.update(created_at=timezone.now() - idempotency.KEPT)
    assert post(client, "order-1", {"name": "a day later"}).status_code == 201
    assert idempotency.prune(timezone.now() + timedelta(hours=23)) == 1
    assert IdempotentRequest.objects.count() == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "läuft", "a\tb"])
def test_keys_that_are_none_are_refused(client: APIClient, key: str) -> None:
    answer = client.post("/v1/services", {"name": "shop"}, HTTP_IDEMPOTENCY_KEY=key)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "idempotency_key"
    assert Service.objects.count() == 0


@pytest.mark.django_db(transaction=True)
def test_fifty_at_once_make_one() -> None:
    secret = factories.api_key(factories.customer())
    answers: list[Any] = []

    def ask() -> None:
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
        answers.append(post(client, "order-1", {"name": "shop"}))

    run_together(*[ask] * 50)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer for answer in answers) == 1
    assert Service.objects.count() == 1


def test_a_failure_of_ours_leaves_neither_effect_nor_key(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the process dies: the row of the key goes with the transaction."""

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    client.raise_request_exception = False
    with monkeypatch.context() as patched:
        patched.setattr(idempotency, "keep", fail)
        assert post(client, "order-1", {"name": "shop"}).status_code == 500
    assert (Service.objects.count(), IdempotentRequest.objects.count()) == (0, 0)
    assert post(client, "order-1", {"name": "shop"}).status_code == 201


# --- preconditions --------------------------------------------------------------------------------------------------


def test_of_two_who_edit_the_same_the_second_is_told(client: APIClient) -> None:
    made = client.post("/v1/services", {"name": "shop"})
    url, seen = f"/v1/services/{made.json()['id']}", made["ETag"]
    assert client.get(url)["ETag"] == seen
    assert_problem(client.patch(url, {"name": "mine"}), 428)
    first = client.patch(url, {"name": "mine"}, headers={"If-Match": seen})
    assert first.status_code == 200
    answer = client.patch(url, {"name": "yours"}, headers={"If-Match": seen})
    assert_problem(answer, 412)
    assert answer.json()["code"] == "changed_meanwhile"
    assert Service.objects.get().name == "mine"
    assert client.patch(url, {"name": "yours"}, headers={"If-Match": f'"other", {first["ETag"]}'}).status_code == 200
    assert_problem(client.delete(url), 428)
    assert_problem(client.delete(url, headers={"If-Match": seen}), 412)
    assert client.delete(url, headers={"If-Match": "*"}).status_code == 204


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_gets_through() -> None:
    service = factories.service()
    secret = factories.api_key(service.customer)
    url, answers = f"/v1/services/{service.pk}", []
    seen = APIClient().get(url, headers={"authorization": f"Bearer {secret}"})["ETag"]
    lock = threading.Lock()

    def ask(name: str) -> Callable[[], None]:
        def work() -> None:
            client = APIClient()
            answer = client.patch(url, {"name": name}, headers={"authorization": f"Bearer {secret}", "If-Match": seen})
            with lock:
                answers.append(answer.status_code)

        return work

    run_together(*(ask(f"name {number}") for number in range(8)))
    assert sorted(answers) == [200, *[412] * 7]


def test_what_somebody_has_already_is_not_sent_again(client: APIClient) -> None:
    client.post("/v1/services", {"name": "shop"})
    for url in ("/v1/services", f"/v1/services/{Service.objects.get().pk}"):
        first = client.get(url)
        again = client.get(url, headers={"If-None-Match": first["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again["ETag"] == first["ETag"]
    Service.objects.update(name="other")
    assert client.get(url, headers={"If-None-Match": first["ETag"]}).status_code == 200


def test_what_changes_by_itself_is_nobodys_edit(client: APIClient, owner: Customer) -> None:
    domain = factories.domain(service=factories.service(customer=owner))
    seen = client.get(f"/v1/domains/{domain.pk}")["ETag"]
    domain.checked_at = timezone.now()
    domain.save()
    assert client.delete(f"/v1/domains/{domain.pk}", headers={"If-Match": seen}).status_code == 204


def test_the_account_is_edited_with_care(client: APIClient, owner: Customer) -> None:
    seen = client.get("/v1/account")["ETag"]
    assert_problem(client.patch("/v1/account", {"billing_email": "a@example.org"}), 428)
    answer = client.patch("/v1/account", {"billing_email": "a@example.org"}, headers={"If-Match": seen})
    assert answer.json()["customer"]["billing_email"] == "a@example.org"
    assert_problem(client.patch("/v1/account", {"name": "Evil"}, headers={"If-Match": "*"}), 400, "name")
    owner.refresh_from_db()
    assert (owner.name, owner.billing_email) == (answer.json()["customer"]["name"], "a@example.org")


# --- queries and addresses ------------------------------------------------------------------------------------------


def test_a_parameter_that_nobody_reads_is_refused(client: APIClient, owner: Customer) -> None:
    service = factories.service(customer=owner)
    for path in ("services?colour=red", f"services/{service.pk}?limit=1", "account?x=1", "spend?month=2026-03"):
        answer = client.get(f"/v1/{path}")
        assert answer.status_code == 400, path
        assert answer.json()["errors"][0]["parameter"] == path.partition("?")[2].partition("=")[0]
    assert client.post("/v1/services?colour=red", {"name": "a"}).status_code == 400


def test_a_key_in_the_address_is_refused(client: APIClient, owner: Customer) -> None:
    answer = client.get(f"/v1/services?api_key={factories.api_key(owner)}")
    assert answer.status_code == 400
    assert "Authorization header" in answer.json()["detail"]


def test_lists_can_be_turned_round(client: APIClient, owner: Customer) -> None:
    ids = [factories.service(customer=owner).pk for _ in range(3)]
    assert [row["id"] for row in client.get("/v1/services?ordering=-id").json()] == ids[::-1]
    following = client.get("/v1/services?ordering=-id&limit=1")["Link"].partition(">")[0].lstrip("<")
    assert [row["id"] for row in client.get(following).json()] == ids[1:2]
    assert client.get("/v1/services?ordering=name").status_code == 400


def test_a_slash_at_the_end_does_no_harm(client: APIClient) -> None:
    assert client.post("/v1/services/", {"name": "shop"}).status_code == 201
    assert client.get("/v1/services/").json() == client.get("/v1/services").json()
    assert client.get("/v1/services//").status_code == 404


def test_every_answer_has_a_request_id(client: APIClient) -> None:
    assert client.get("/v1/services", headers={"X-Request-Id": "from-the-caller"})["X-Request-Id"] == "from-the-caller"
    for odd in ("short", "x" * 65, "with blank", "<script>"):
        assert client.get("/v1/services", headers={"X-Request-Id": odd})["X-Request-Id"] not in ("", odd)
    for path in ("/v1/nothing", "/healthz", "/admin/login/"):
        assert len(client.get(path)["X-Request-Id"]) == 32
    refusal = client.get("/v1/services/1")
    assert refusal.json()["request_id"] == refusal["X-Request-Id"]


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests and workers have customers of the same ids, and the same Valkey."""
    limiter = _limiter(f"rate-{uuid.uuid4()}")
    monkeypatch.setattr(rate_limit, "_limiter", lambda: limiter)


limited = pytest.mark.usefixtures("nobody_asked")


@limited
def test_a_key_and_its_customer_have_limits_that_every_answer_tells(client: APIClient, settings: Any) -> None:
    settings.API_RATE_PER_KEY = 3
    left = [client.get("/v1/services")["RateLimit"] for _ in range(3)]
    assert [told.partition(";t=")[0] for told in left] == ['"key";r=2', '"key";r=1', '"key";r=0']
    refused = client.get("/v1/services")
    assert_problem(refused, 429)
    assert refused["RateLimit-Policy"] == '"key";q=3;w=60'
    assert 1 <= int(refused["Retry-After"]) <= 2 * rate_limit.WINDOW_SECONDS


@limited
def test_keys_of_one_customer_share_its_limit(owner: Customer, client_of: ClientOf, settings: Any) -> None:
    settings.API_RATE_PER_CUSTOMER = 2
    assert [client_of(owner).get("/v1/services").status_code for _ in range(3)] == [200, 200, 429]
    assert client_of(factories.customer()).get("/v1/services").status_code == 200


@limited
def test_guesses_of_keys_are_few_whatever_they_say_of_their_address(owner: Customer, settings: Any) -> None:
    settings.API_RATE_PER_ADDRESS = 2
    guesses = [
        APIClient(REMOTE_ADDR="198.51.100.7").get(
            "/v1/services", headers={"authorization": "Bearer trk_guess", "x-forwarded-for": f"192.0.2.{number}"}
        ).status_code
        for number in range(4)
    ]  # fmt: skip
    assert guesses == [401, 401, 429, 429]
    good = {"authorization": f"Bearer {factories.api_key(owner)}"}
    assert APIClient(REMOTE_ADDR="198.51.100.7").get("/v1/services", headers=good).status_code == 200
    settings.TRUSTED_PROXIES = 1
    behind = {"authorization": "Bearer trk_guess", "x-forwarded-for": "203.0.113.9, 192.0.2.77"}
    assert APIClient(REMOTE_ADDR="198.51.100.7").get("/v1/services", headers=behind).status_code == 401


def _limiter(prefix: str = "rate") -> Limiter:
    return Limiter(django_settings.REDIS_URL or django_settings.EMBEDDED.redis_url, prefix)


def _quota(most: int) -> Quota:
    return Quota("test", f"{timezone.now().timestamp()}", most)


def test_fifty_threads_get_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "TIMEOUT_SECONDS", 30)  # a busy machine is no Valkey that is away
    limiter, quota, allowed = _limiter(), _quota(100), []
    began = time.monotonic()

    def ask() -> None:
        allowed.extend(limiter.take([quota]).is_allowed for _ in range(200))

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The window slides meanwhile: what was let through at first makes room at the rate of the quota.
    room = 100 * (time.monotonic() - began) / rate_limit.WINDOW_SECONDS
    assert len(allowed) == 10_000
    assert 100 <= sum(allowed) <= 100 + room


def test_the_window_slides() -> None:
    """What was used in the window before counts by the share of it that lies within the last minute."""
    limiter, quota = _limiter(), _quota(100)
    client = redis.Redis.from_url(django_settings.REDIS_URL or django_settings.EMBEDDED.redis_url)
    seconds, micros = client.time()
    slot, into = divmod(seconds + micros / 1e6, rate_limit.WINDOW_SECONDS)
    client.hset(f"rate:test:{quota.key}", mapping={"s": int(slot) - 1, "c": 100, "p": 0})
    verdict = limiter.take([quota])
    used = 100 * (1 - into / rate_limit.WINDOW_SECONDS)
    assert verdict.is_allowed == (used + 1 <= 100)
    assert verdict.left == pytest.approx(100 - used - verdict.is_allowed, abs=2)
    client.hset(f"rate:test:{quota.key}", mapping={"s": int(slot) - 2, "c": 100, "p": 100})
    assert limiter.take([quota]).left == 99


def test_without_valkey_each_process_goes_on_with_a_quarter() -> None:
    limiter, quota = Limiter("unix:///nowhere/valkey.sock"), _quota(100)
    verdicts = [limiter.take([quota]) for _ in range(30)]
    assert sum(verdict.is_allowed for verdict in verdicts) == 100 // rate_limit.ALONE_SHARE
    assert verdicts[-1].headers["RateLimit-Policy"] == '"test";q=25;w=60'


def test_a_list_costs_two_queries_however_long(client: APIClient, owner: Customer) -> None:
    factories.service(customer=owner)
    client.get("/v1/services")  # notes the key's use

    def count() -> int:
        before = len(connection.queries_log)
        client.get("/v1/services")
        return len(connection.queries_log) - before

    connection.force_debug_cursor = True
    try:
        one = count()
        for _ in range(30):
            factories.service(customer=owner)
        connection.queries_log.clear()
        assert (one, count()) == (2, 2)
    finally:
        connection.force_debug_cursor = False
