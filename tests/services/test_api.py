from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from customers.models import Customer
from services.models import Service, ServiceDomain, Target
from storms.models import StormPolicy
from tests import factories
from tests.answers import assert_problem, queries_of

ClientOf = Callable[[Customer], APIClient]


@pytest.fixture
def owner(db: None) -> Customer:
    return factories.customer()


@pytest.fixture
def client(owner: Customer, client_of: ClientOf) -> APIClient:
    return client_of(owner)


# --- services ------------------------------------------------------------------------------------------------------


def test_no_service_yet_is_a_bare_empty_array(client: APIClient) -> None:
    response = client.get("/v1/services")
    assert (response.status_code, response.content) == (200, b"[]")
    assert "Link" not in response


def test_a_service_is_made_read_changed_and_deleted(client: APIClient, owner: Customer) -> None:
    made = client.post("/v1/services", {"name": "app", "timeout_seconds": "2.5"})
    assert made.status_code == 201
    service = made.json()
    assert service == {
        "id": service["id"],
        "name": "app",
        "probe_method": "GET",
        "probe_path": "/",
        "uncacheable_path": "",
        "probe_headers": {},
        "probe_ipv4": True,
        "probe_ipv6": False,
        "minimum_certificate_days": 21,
        "expected_statuses": "200-399",
        "body_marker": "",
        "timeout_seconds": "2.5",
        "interval_seconds": 10,
        "created_at": service["created_at"],
    }
    assert Service.objects.get().customer == owner

    url = f"/v1/services/{service['id']}"
    assert client.get(url).json() == service
    assert client.get("/v1/services").json() == [service]

    changed = client.patch(url, {"probe_path": "/up", "interval_seconds": 30})
    assert changed.status_code == 200
    assert changed.json() == service | {"probe_path": "/up", "interval_seconds": 30}
    assert client.get(url).json() == changed.json()

    assert client.delete(url).status_code == 204
    assert_problem(client.get(url), 404)
    assert_problem(client.delete(url), 404)
    assert client.get("/v1/services").json() == []


def test_deleting_a_service_leaves_nothing_live_below_it(client: APIClient, owner: Customer) -> None:
    service = factories.service(customer=owner)
    domain = factories.domain(service=service)
    path = factories.target(domain=domain)
    policy = factories.policy(service=service)
    other = factories.policy(service=factories.domain().service)

    assert client.delete(f"/v1/services/{service.pk}").status_code == 204

    service.refresh_from_db()
    assert service.deleted_at is not None
    assert ServiceDomain.objects.get(pk=domain.pk).deleted_at == service.deleted_at
    assert StormPolicy.objects.get(pk=policy.pk).deleted_at == service.deleted_at
    assert not Target.objects.live().filter(pk=path.pk).exists()
    assert [*StormPolicy.objects.live()] == [other]
    assert ServiceDomain.objects.live().count() == 1


def test_what_was_deleted_can_be_made_again(client: APIClient) -> None:
    for _ in range(2):
        service = client.post("/v1/services", {"name": "app"}).json()
        made = client.post("/v1/domains", {"service": service["id"], "hostname": "www.example.com"})
        assert made.status_code == 201
        client.delete(f"/v1/services/{service['id']}")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": None}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "a", "probe_method": "POST"}, "probe_method"),
        ({"name": "a", "probe_path": "up"}, "probe_path"),
        ({"name": "a", "probe_path": "/a b"}, "probe_path"),
        ({"name": "a", "expected_statuses": "ok"}, "expected_statuses"),
        ({"name": "a", "expected_statuses": "200-9999"}, "expected_statuses"),
        ({"name": "a", "timeout_seconds": "0"}, "timeout_seconds"),
        ({"name": "a", "timeout_seconds": "NaN"}, "timeout_seconds"),
        ({"name": "a", "interval_seconds": 0}, "interval_seconds"),
        ({"name": "a", "interval_seconds": 301}, "interval_seconds"),
        ({"name": "a", "interval_seconds": 10**30}, "interval_seconds"),
        ({"name": "a", "colour": "red"}, "colour"),
        ({"name": "a", "customer": 1}, "customer"),
        ({"name": "a", "id": 7}, "id"),
        ({"name": "a", "deleted_at": None}, "deleted_at"),
    ],
)
def test_bad_services_are_refused_by_field(client: APIClient, body: dict[str, Any], field: str) -> None:
    assert_problem(client.post("/v1/services", body), 400, field)
    assert not Service.objects.exists()


def test_every_bad_field_is_named_at_once(client: APIClient) -> None:
    response = client.post("/v1/services", {"name": "a", "probe_path": "up", "interval_seconds": 301})
    assert_problem(response, 400, "probe_path", "interval_seconds")
    response = client.post("/v1/services", {"name": "a", "a/b": 1, "c~d": 2})
    assert_problem(response, 400, "a~1b", "c~0d")


def test_a_name_is_taken_once_whatever_its_case(client: APIClient, client_of: ClientOf) -> None:
    assert client.post("/v1/services", {"name": "app"}).status_code == 201
    [error] = assert_problem(client.post("/v1/services", {"name": "App"}), 409, "name")
    assert error["detail"] == "This customer has a service with this name."
    other = client.post("/v1/services", {"name": "shop"}).json()
    assert_problem(client.patch(f"/v1/services/{other['id']}", {"name": "APP"}), 409, "name")
    assert client_of(factories.customer()).post("/v1/services", {"name": "app"}).status_code == 201


def test_an_empty_patch_changes_nothing(client: APIClient, owner: Customer) -> None:
    service = factories.service(customer=owner)
    response = client.patch(f"/v1/services/{service.pk}", {})
    assert (response.status_code, response.json()["name"]) == (200, service.name)


# --- requests that are not requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    ["{", "", "nonsense", '{"name": NaN}', '{"name": Infinity}', "\xff".encode("latin-1"), "[" * 100_000, "1" * 5000],
)
def test_malformed_json_is_refused(client: APIClient, body: str | bytes) -> None:
    assert_problem(client.post("/v1/services", body, content_type="application/json"), 400, *(["name"] * (not body)))


@pytest.mark.parametrize("body", ["[]", '"app"', "7", "null", "true"])
def test_json_that_is_no_object_is_refused(client: APIClient, body: str) -> None:
    response = client.post("/v1/services", body, content_type="application/json")
    assert response.status_code == 400
    assert [error["pointer"] for error in response.json()["errors"]] == ["#"]


@pytest.mark.parametrize("text", [r"\ud800", r"\u0000", r"a\udfffb"])
def test_what_is_no_text_is_refused(client: APIClient, owner: Customer, text: str) -> None:
    path = factories.target(domain=factories.domain(service=factories.service(customer=owner)))
    service = f"/v1/services/{factories.service(customer=owner).pk}"
    for url, field in (
        (f"/v1/cdn-paths/{path.pk}", "cdn"),
        (f"/v1/cdn-paths/{path.pk}", "address"),
        (service, "name"),
        (service, "probe_method"),
        (service, text),
    ):
        response = client.patch(url, f'{{"{field}": "{text}"}}', content_type="application/json")
        assert response.status_code == 400
        assert len({error["pointer"] for error in response.json()["errors"]}) == 1


@pytest.mark.parametrize("charset", ["zlib", "base64", "utf-16", "nonsense"])
def test_the_charset_of_a_request_is_not_trusted(client: APIClient, charset: str) -> None:
    response = client.post("/v1/services", b'{"name": "app"}', content_type=f"application/json; charset={charset}")
    assert response.status_code == 201


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_other_content_types_are_refused(client: APIClient, content_type: str) -> None:
    assert_problem(client.post("/v1/services", "name=app", content_type=content_type), 415)


def test_a_body_has_a_limit(client: APIClient, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    assert_problem(client.post("/v1/services", {"name": "x" * 200}), 413)


def test_other_verbs_and_representations_are_refused(client: APIClient, owner: Customer) -> None:
    assert_problem(client.put(f"/v1/services/{factories.service(customer=owner).pk}", {"name": "a"}), 405)
    assert_problem(client.options("/v1/services"), 405)
    assert_problem(client.get("/v1/services", headers={"accept": "text/html"}), 406)


@pytest.mark.parametrize(
    "path", ["nothing", "services/0", "services/x", f"services/{'9' * 18}", f"services/{'9' * 19}"]
)
@pytest.mark.parametrize("method", ["get", "post", "patch", "delete"])
def test_unknown_addresses_are_json(client: APIClient, path: str, method: str) -> None:
    response = getattr(client, method)(f"/v1/{path}")
    assert response.status_code in ({404, 405} if method == "post" else {404})
    assert_problem(response, response.status_code)


# --- pages ---------------------------------------------------------------------------------------------------------


def _links(response: Any) -> dict[str, str]:
    parts = [part.split("; ") for part in response.get("Link", "").split(", ") if part]
    return {rel.removeprefix('rel="').rstrip('"'): url.strip("<>") for url, rel in parts}


def test_pages_follow_each_other_in_both_directions(client: APIClient, owner: Customer) -> None:
    ids = [factories.service(customer=owner).pk for _ in range(5)]

    def page(url: str) -> tuple[list[int], dict[str, str]]:
        response = client.get(url)
        assert response.status_code == 200
        return [row["id"] for row in response.json()], _links(response)

    first, links = page("/v1/services?limit=2")
    assert first == ids[:2] and set(links) == {"next"}
    second, links = page(links["next"])
    assert second == ids[2:4] and set(links) == {"next", "prev"}
    assert page(links["prev"]) == (first, {"next": page("/v1/services?limit=2")[1]["next"]})
    third, links = page(links["next"])
    assert third == ids[4:] and set(links) == {"prev"}
    assert page(links["prev"])[0] == second
    assert page("/v1/services")[0] == ids


def test_filters_stay_in_the_links(client: APIClient, owner: Customer) -> None:
    service = factories.service(customer=owner)
    for _ in range(2):
        factories.domain(service=service)
    response = client.get(f"/v1/domains?service={service.pk}&limit=1")
    assert f"service={service.pk}" in _links(response)["next"]
    assert len(client.get(_links(response)["next"]).json()) == 1


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=101", "limit=abc", "limit=-1", "limit=", "limit=1e3", "limit=" + "9" * 5000, "limit=²",
        "after=0", "after=abc", "after=" + "9" * 30, "before=x", "after=9223372036854775808",
    ],
)  # fmt: skip
def test_bad_pages_are_refused(client: APIClient, query: str) -> None:
    response = client.get(f"/v1/services?{query}")
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert [error["parameter"] for error in response.json()["errors"]] == [query.partition("=")[0]]


def test_a_page_may_lie_between_two_rows(client: APIClient, owner: Customer) -> None:
    ids = [factories.service(customer=owner).pk for _ in range(6)]
    first = client.get(f"/v1/services?after={ids[0]}&before={ids[5]}&limit=2")
    assert [row["id"] for row in first.json()] == ids[1:3]
    second = client.get(f"/v1/services?after={ids[5]}&before={ids[0]}&ordering=-id")
    assert [row["id"] for row in second.json()] == ids[4:0:-1]


# --- domains -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"probe_headers": {"Host": "other.test"}}, "probe_headers"),
        ({"probe_headers": {"X-Probe": "a\r\nb"}}, "probe_headers"),
        ({"probe_headers": ["X-Probe"]}, "probe_headers"),
        ({"probe_ipv4": False}, "probe_ipv4"),
        ({"uncacheable_path": "cart"}, "uncacheable_path"),
        ({"uncacheable_path": "/"}, "uncacheable_path"),
        ({"minimum_certificate_days": 400}, "minimum_certificate_days"),
    ],
)
def test_how_a_service_is_probed_is_checked(
    client: APIClient, owner: Customer, change: dict[str, Any], field: str
) -> None:
    service = factories.service(customer=owner)
    response = client.patch(f"/v1/services/{service.pk}", change)
    assert response.status_code == 400
    assert {error["pointer"].split("/")[1] for error in response.json()["errors"]} == {field}


def test_a_domain_comes_with_its_challenge(client: APIClient, owner: Customer) -> None:
    service = factories.service(customer=owner)
    made = client.post("/v1/domains", {"service": service.pk, "hostname": "WWW.Example.com."})
    assert made.status_code == 201
    row = ServiceDomain.objects.get()
    assert made.json() == {
        "id": row.pk,
        "service": service.pk,
        "hostname": "www.example.com",
        "challenge": {
            "name": "_tranche-challenge.www.example.com",
            "value": f"token={row.challenge}",
            "issued_at": made.json()["challenge"]["issued_at"],
        },
        "proof": "not verified",
        "lost_since": None,
        "verified_at": None,
        "checked_at": None,
        "check_result": "",
        "created_at": made.json()["created_at"],
    }
    assert row.customer == owner
    assert client.get(f"/v1/domains/{row.pk}").json() == made.json()
    assert client.get(f"/v1/domains?service={service.pk}").json() == [made.json()]
    assert client.get(f"/v1/domains?service={factories.service(customer=owner).pk}").json() == []
    assert_problem(client.patch(f"/v1/domains/{row.pk}", {"hostname": "b.example.com"}), 405)
    assert client.delete(f"/v1/domains/{row.pk}").status_code == 204
    assert client.get("/v1/domains").json() == []


def test_an_international_name_is_kept_in_its_ascii_form(client: APIClient, owner: Customer) -> None:
    service = factories.service(customer=owner)
    made = client.post("/v1/domains", {"service": service.pk, "hostname": "bücher.example"})
    assert made.json()["hostname"] == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("hostname", "reason"),
    [
        ("192.0.2.1", "not an IP address"),
        ("2001:db8::1", "not an IP address"),
        ("[2001:db8::1]", "not an IP address"),
        ("1.2.3", "not an IP address"),
        ("https://www.example.com", "scheme"),
        ("www.example.com:443", "port"),
        ("www.example.com/path", "path"),
        ("www example.com", "spaces"),
        ("*.example.com", "Wildcards"),
        ("localhost", "full name"),
        ("a..example.com", "not a valid label"),
        ("-a.example.com", "not a valid label"),
        ("a_b.example.com", "not a valid label"),
        ("", "blank"),
        ("a." * 127 + "com", "253"),
        (7, "Not a valid string"),
        (["www.example.com"], "Not a valid string"),
    ],
)
def test_what_is_no_hostname_is_refused_with_the_reason(
    client: APIClient, owner: Customer, hostname: Any, reason: str
) -> None:
    service = factories.service(customer=owner)
    errors = assert_problem(client.post("/v1/domains", {"service": service.pk, "hostname": hostname}), 400, "hostname")
    assert reason in errors[0]["detail"]
    assert not ServiceDomain.objects.exists()


def test_a_hostname_that_another_customer_has_proven_is_taken(client: APIClient, owner: Customer) -> None:
    factories.domain(hostname="www.example.com")
    service = factories.service(customer=owner)
    response = client.post("/v1/domains", {"service": service.pk, "hostname": "www.Example.com"})
    assert_problem(response, 409, "hostname")


def test_an_unproven_claim_blocks_nobody(client: APIClient, owner: Customer) -> None:
    factories.domain(verified=False, hostname="www.example.com")
    factories.domain(hostname="gone.example.com", deleted_at=timezone.now())
    service = factories.service(customer=owner)
    for hostname in ("www.example.com", "gone.example.com"):
        assert client.post("/v1/domains", {"service": service.pk, "hostname": hostname}).status_code == 201


def test_a_customer_claims_a_hostname_once(client: APIClient, owner: Customer) -> None:
    for verified in (True, False):
        domain = factories.domain(verified=verified, service=factories.service(customer=owner))
        service = factories.service(customer=owner)
        response = client.post("/v1/domains", {"service": service.pk, "hostname": domain.hostname})
        [error] = assert_problem(response, 409, "hostname")
        assert error["detail"] == "This customer has this hostname already."


def test_services_of_others_do_not_exist(client: APIClient, owner: Customer) -> None:
    foreign, deleted = factories.service().pk, factories.service(customer=owner, deleted_at=timezone.now()).pk
    for nobody in (foreign, deleted, 10**9, 0, -1, 10**30):
        body = {"service": nobody, "hostname": "www.example.com"}
        [error] = assert_problem(client.post("/v1/domains", body), 400, "service")
        assert error["code"] == "does_not_exist"
        assert error["detail"].replace(str(nobody), "") == 'Invalid pk "" - object does not exist.'


@pytest.mark.parametrize("service", [None, True, 1.5, "x", {}, [], "1" * 5000, 1e300])
def test_what_is_no_id_is_refused(client: APIClient, service: Any) -> None:
    assert_problem(client.post("/v1/domains", {"service": service, "hostname": "www.example.com"}), 400, "service")


@pytest.mark.parametrize("path", ["domains", "cdn-paths", "storm-policies", "storms", "routing", "usage-snapshots"])
@pytest.mark.parametrize("value", ["abc", "1.5", "nan", "%00", "1%2C2", "9" * 5000])
def test_bad_filters_are_refused(client: APIClient, path: str, value: str) -> None:
    response = client.get(f"/v1/{path}?service={value}")
    assert response.status_code == 400
    assert [error["parameter"] for error in response.json()["errors"]] == ["service"]


@pytest.mark.parametrize("value", ["-1", "0", "9" * 30])
def test_a_filter_for_nobody_matches_nothing(client: APIClient, value: str) -> None:
    response = client.get(f"/v1/domains?service={value}")
    assert (response.status_code, response.json()) == (200, [])


def test_a_check_looks_for_the_challenge(client: APIClient, owner: Customer, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = factories.domain(verified=False, service=factories.service(customer=owner))

    def check(row: ServiceDomain) -> ServiceDomain:
        assert row == domain
        row.check_result, row.checked_at = "Not verified: the TXT record is missing.", timezone.now()
        return row

    monkeypatch.setattr("services.proof.check", check)  # its own tests ask real name servers
    response = client.post(f"/v1/domains/{domain.pk}/check")
    assert response.status_code == 200
    assert response.json()["check_result"] == "Not verified: the TXT record is missing."
    assert response.json()["checked_at"] is not None


# --- CDNs and paths ------------------------------------------------------------------------------------------------


def test_cdns_are_listed_for_everybody(client: APIClient) -> None:
    cdn = factories.cdn()
    assert client.get("/v1/cdns").json() == [{"slug": cdn.slug, "name": cdn.name}]


def test_a_path_is_made_changed_and_switched_off(client: APIClient, owner: Customer) -> None:
    domain, cdn = factories.domain(service=factories.service(customer=owner)), factories.cdn()
    made = client.post(
        "/v1/cdn-paths", {"domain": domain.pk, "role": "backup", "cdn": cdn.slug, "address": "edge.example.net"}
    )
    assert made.status_code == 201
    path = made.json()
    assert path == {
        "id": path["id"],
        "domain": domain.pk,
        "role": "backup",
        "rank": 1,
        "cdn": cdn.slug,
        "address": "edge.example.net",
        "port": 443,
        "probe_path": "",
        "capacity_percent": 100,
        "enabled": True,
        "created_at": path["created_at"],
        "verdict": None,
    }
    assert Target.objects.get().customer == owner

    url = f"/v1/cdn-paths/{path['id']}"
    assert client.patch(url, {"capacity_percent": 50}).json() == path | {"capacity_percent": 50}
    assert client.delete(url).status_code == 204
    assert client.get(url).json()["enabled"] is False
    assert client.get("/v1/cdn-paths?enabled=true").json() == []


def test_paths_are_filtered(client: APIClient, owner: Customer) -> None:
    domain = factories.domain(service=factories.service(customer=owner))
    primary, backup = factories.target(domain=domain), factories.target("backup", domain=domain)
    factories.target(domain=factories.domain(service=factories.service(customer=owner)))

    def ids(query: str) -> list[int]:
        return [row["id"] for row in client.get(f"/v1/cdn-paths?{query}").json()]

    assert ids(f"domain={domain.pk}") == ids(f"service={domain.service_id}") == [primary.pk, backup.pk]
    assert ids(f"domain={domain.pk}&role=backup") == [backup.pk]
    assert ids(f"domain={domain.pk}&enabled=true") == [primary.pk, backup.pk]
    assert ids("enabled=false") == []
    for query in ("role=nonsense", "enabled=nonsense"):
        assert client.get(f"/v1/cdn-paths?{query}").status_code == 400


@pytest.mark.parametrize(
    ("change", "status", "fields"),
    [
        ({"role": "reference"}, 400, ["role"]),
        ({"role": "canary"}, 400, ["role"]),
        ({"cdn": "nobody"}, 400, ["cdn"]),
        ({"cdn": None}, 400, ["cdn", "role"]),
        ({"cdn": {"slug": "x"}}, 400, ["cdn"]),
        ({"address": "https://edge.example.net"}, 400, ["address"]),
        ({"address": "edge.example.net:8443"}, 400, ["address"]),
        ({"port": 0}, 400, ["port"]),
        ({"port": 65536}, 400, ["port"]),
        ({"capacity_percent": 1001}, 400, ["capacity_percent"]),
        ({"rank": -1}, 400, ["rank"]),
        ({"verdict": {}}, 400, ["verdict"]),
        ({"role": "primary"}, 409, ["domain"]),
        ({}, 409, ["domain", "rank"]),
    ],
)
def test_bad_paths_are_refused_by_field(
    client: APIClient, owner: Customer, change: dict[str, Any], status: int, fields: list[str]
) -> None:
    domain = factories.domain(service=factories.service(customer=owner))
    cdn = factories.cdn()
    for role in ("primary", "backup"):
        factories.target(role, domain=domain, cdn=cdn)
    body = {"domain": domain.pk, "role": "backup", "cdn": cdn.slug, "address": "edge.example.net"} | change
    assert_problem(client.post("/v1/cdn-paths", body), status, *fields)
    assert Target.objects.count() == 2


def test_a_path_keeps_its_domain_and_role(client: APIClient, owner: Customer) -> None:
    path = factories.target(domain=factories.domain(service=factories.service(customer=owner)))
    for field, value in (("domain", path.domain_id), ("role", "backup")):
        [error] = assert_problem(client.patch(f"/v1/cdn-paths/{path.pk}", {field: value}), 400, field)
        assert error["code"] == "fixed"


def test_paths_of_a_deleted_domain_are_gone(client: APIClient, owner: Customer) -> None:
    path = factories.target(domain=factories.domain(service=factories.service(customer=owner)))
    assert path.domain
    client.delete(f"/v1/domains/{path.domain_id}")
    assert client.get("/v1/cdn-paths").json() == []
    assert_problem(client.get(f"/v1/cdn-paths/{path.pk}"), 404)


# --- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["services", "domains", "cdns", "cdn-paths"])
def test_a_list_costs_the_same_however_long(client: APIClient, owner: Customer, path: str) -> None:
    def make() -> None:
        factories.target(domain=factories.domain(service=factories.service(customer=owner)))

    make()
    one = queries_of(client, f"/v1/{path}")
    for _ in range(19):
        make()
    assert len(client.get(f"/v1/{path}").json()) == 20
    assert queries_of(client, f"/v1/{path}") == one == 2


def test_no_customers_claims_keep_others_waiting(client_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.MOST_UNPROVEN", 2)
    service = factories.service()
    client = client_of(service.customer)
    factories.domain(service=service)  # proven
    answers = [
        client.post("/v1/domains", {"service": service.pk, "hostname": f"www{n}.example.net"}, format="json")
        for n in range(3)
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 409]
    assert answers[2].json()["code"] == "too_many"


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_beyond_all_numbers_is_refused(client_of: Any, number: str) -> None:
    service = factories.service()
    client = client_of(service.customer)
    said = f'{{"name": "x", "interval_seconds": {number}}}'
    assert client.post("/v1/services", said, content_type="application/json").status_code == 400
    said = f'{{"service": {number}, "hostname": "www.example.net"}}'
    assert client.post("/v1/domains", said, content_type="application/json").status_code == 400
