from typing import Any


def dashboard(request: Any, context: dict[str, Any]) -> dict[str, Any]:
    return context


def navigation(request: Any) -> list[dict[str, Any]]:
    return []
