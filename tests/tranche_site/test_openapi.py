from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from drf_spectacular.drainage import GENERATOR_STATS
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.tranche_site.test_tenancy import LINE, PUBLIC, ROUTES
from tranche_site.floor.openapi import KeptGenerator


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    GENERATOR_STATS.reset()
    KeptGenerator.forget()
    response = Client().get("/v1/openapi.json")
    assert response.status_code == 200
    assert response["Content-Type"] == "application/json"
    found: dict[str, Any] = response.json()
    return found


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert [*OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_it_was_made_without_a_guess(document: dict[str, Any]) -> None:
    assert not GENERATOR_STATS, "drf-spectacular warned: see stderr"


def test_it_is_made_once_whoever_asks_for_it_in_whatever_tongue(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drf_spectacular.generators.SchemaGenerator.get_schema", None)
    for asked in ("", "?lang=de", "?version=2"):
        assert Client().get(f"/v1/openapi.json{asked}").json() == document


def test_every_route_and_verb_is_in_it(document: dict[str, Any]) -> None:
    for route in ROUTES:
        if route.name in PUBLIC:
            continue
        path = route.url(0).replace("/0", "/{id}").replace(f"/{LINE}", "/{line}")
        verbs = [verb for verb in ("get", "patch") if hasattr(route.view.cls, verb)]
        actions = getattr(route.view, "actions", verbs)
        assert set(document["paths"][path]) == set(actions) - {"put", "head"}, path
    assert len(document["paths"]) == len(ROUTES) - len(PUBLIC)


def test_every_operation_wants_a_key_and_tells_how_it_refuses(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            assert operation["security"] == [{"ApiKey": []}], path
            assert {"400", "401", "403"} <= set(operation["responses"]), path
            assert ("404" in operation["responses"]) == ("{id}" in path), path
            assert ("409" in operation["responses"]) == (verb in ("post", "patch", "delete")), path
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert set(response["content"]) == {"application/problem+json"}


def _bodies(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            asked = operation.get("requestBody", {}).get("content", {})
            told = {status: response.get("content", {}) for status, response in operation["responses"].items()}
            for place, contents in (("request", asked), *told.items()):
                for kind, content in contents.items():
                    if kind.endswith("json"):
                        yield f"{verb} {path} {place}", content


def test_every_body_has_an_example_that_its_schema_allows(document: dict[str, Any]) -> None:
    wrong = {}
    for place, content in _bodies(document):
        schema = content["schema"] | {"components": document["components"]}
        checker = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        if "example" not in content:
            wrong[place] = "there is none"
        elif errors := [f"{error.json_path}: {error.message}" for error in checker.iter_errors(content["example"])]:
            wrong[place] = errors[0]
    assert wrong == {}


def test_the_headers_that_views_have_alike_are_described(document: dict[str, Any]) -> None:
    paths = document["paths"]
    listed = paths["/v1/services"]["get"]
    assert set(listed["responses"]["200"]["headers"]) >= {"Link", "ETag", "RateLimit", "X-Request-Id"}
    assert "Retry-After" in listed["responses"]["429"]["headers"]
    assert {"$ref": "#/components/parameters/IdempotencyKey"} in paths["/v1/services"]["post"]["parameters"]
    assert {"$ref": "#/components/parameters/IfMatch"} in paths["/v1/services/{id}"]["patch"]["parameters"]


@pytest.mark.parametrize(
    "path",
    [
        "events",
        "webhook-deliveries",
        "storms",
        "findings",
        "weight-changes",
        "drills",
        "invoices",
        "payments",
        "disputes",
    ],
)
def test_lists_of_what_happened_take_a_time(document: dict[str, Any], path: str) -> None:
    names = {parameter.get("name") for parameter in document["paths"][f"/v1/{path}"]["get"]["parameters"]}
    assert {"since", "until"} <= names


def test_lists_are_bare_arrays(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for path in ("services", "storms", "invoices", "routing"):
        content = document["paths"][f"/v1/{path}"]["get"]["responses"]["200"]["content"]
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert schemas[name]["type"] == "array"


def test_nothing_of_our_insides_is_described(document: dict[str, Any]) -> None:
    service = document["components"]["schemas"]["Service"]["properties"]
    assert "customer" not in service and "deleted_at" not in service


def test_the_reader_loads_nothing_from_elsewhere() -> None:
    page = Client().get("/v1/docs")
    assert page.status_code == 200
    text = page.content.decode()
    assert "/static/drf_spectacular_sidecar/swagger-ui" in text
    script = Client().get(re.findall(r'src="([^"]*[?]script=[^"]*)"', text)[0].replace("&amp;", "&"))
    assert script["Content-Type"].startswith("application/javascript")
    assert "/v1/openapi.json" in script.content.decode()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
