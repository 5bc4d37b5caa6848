"""What tests ask of the API's answers."""

from __future__ import annotations

from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient


def assert_problem(response: Any, status: int, *fields: str) -> list[dict[str, str]]:
    """It is a problem document that names exactly these fields of the body; returns its errors."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status and problem["title"] and problem["type"] == "about:blank"
    errors: list[dict[str, str]] = problem.get("errors", [])
    assert {error["pointer"] for error in errors} == {f"#/{field}" for field in fields}
    assert all(error["code"] and error["detail"] for error in errors)
    return errors


def queries_of(client: APIClient, path: str) -> int:
    """How many queries a list costs, once the key's use has been noted."""
    client.get(path)
    with CaptureQueriesContext(connection) as captured:
        assert client.get(path).status_code == 200
    return len(captured)
