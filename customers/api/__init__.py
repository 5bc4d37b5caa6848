"""The account’s own part of the v1 API."""
