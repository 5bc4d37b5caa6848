from __future__ import annotations

from rest_framework.test import APIClient

from tests import factories


def test_the_account_tells_whose_key_it_is(db: None) -> None:
    owner = factories.customer(name="Acme")
    secret = factories.api_key(owner, scopes=("read",))
    response = APIClient().get("/v1/account", headers={"authorization": f"Bearer {secret}"})
    assert response.status_code == 200
    account = response.json()
    assert account["customer"] == {
        "id": owner.pk,
        "name": "Acme",
        "billing_email": "",
        "alert_email": "",
        "wants_alerts": True,
    }
    assert account["key"]["name"] == "tests"
    assert account["key"]["scopes"] == ["read"]
    assert account["key"]["prefix"] == secret[:12]
    assert secret not in response.text
