from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from drf_spectacular.drainage import GENERATOR_STATS
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.tranche_site.test_tenancy import LINE, PUBLIC, ROUTES


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    GENERATOR_STATS.reset()
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
