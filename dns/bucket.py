"""The token bucket of an account: API calls that may be made now, counted in Postgres for all workers together."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection

from dns.models import DnsAccount
from dns.providers.contract import ProviderError, Trouble

_NOW = """least(burst_calls, calls_left
    + greatest(0, extract(epoch FROM clock_timestamp() - calls_left_at)) * calls_per_second)"""


class Empty(ProviderError):
    """Our own count says no: nothing was sent, and the vendor has nothing against us."""


def is_empty(account_id: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {_NOW} < 1 FROM dns_accounts WHERE id = %s", [account_id])  # noqa: S608
        return bool(cursor.fetchone()[0])


def take(account_id: int, reserve_share: float = 0.0) -> bool:
    """Pay for one call, unless less than `reserve_share` of a full bucket would be left.

    Outside of any transaction: the row would stay locked for all other workers while the vendor is being called.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE dns_accounts SET calls_left = {_NOW} - 1, calls_left_at = clock_timestamp() "  # noqa: S608
            f"WHERE id = %s AND {_NOW} - 1 >= burst_calls * %s",
            [account_id, reserve_share],
        )
        return cursor.rowcount == 1


def meter(account: DnsAccount, reserve_share: float = 0.0) -> Callable[[], None]:
    """What a provider calls before each call to the vendor."""

    def spend() -> None:
        if not take(account.pk, reserve_share):
            raise Empty(
                f"{account}: its {account.burst_calls} calls, {account.calls_per_second:g} a second, are used up",
                permanent=False,
                trouble=Trouble.THROTTLED,
            )

    return spend


def drain(account_id: int, seconds: float) -> None:
    """Leave the account alone for so long: the vendor said that even what we count as ours was too much."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE dns_accounts SET calls_left = least(calls_left, 1 - calls_per_second * %s), "
            "calls_left_at = clock_timestamp() WHERE id = %s",
            [seconds, account_id],
        )
