"""Accounts, their API keys, and the events that tell them what happened."""

from customers.models.api_key import SCOPES, STAFF_SCOPES, ApiKey
from customers.models.customer import Customer, CustomerQuerySet
from customers.models.event import Event
from customers.models.idempotent_request import IdempotentRequest
from customers.models.webhook import DeliveryAttempt, WebhookDelivery, WebhookEndpoint

__all__ = [
    "SCOPES",
    "STAFF_SCOPES",
    "ApiKey",
    "Customer",
    "CustomerQuerySet",
    "DeliveryAttempt",
    "Event",
    "IdempotentRequest",
    "WebhookDelivery",
    "WebhookEndpoint",
]
