"""The console's pages of accounts, and of what they are told."""

from customers.admin import accounts, webhooks

__all__ = ["accounts", "webhooks"]
