"""Who calls Route 53, and each call: paid for first, made once, and its errors told as ProviderErrors.

A write is sent once, whatever comes of it: of one that may have been done the caller must hear. A read that met trouble on
the way is sent twice. Clients are kept by access, for all threads.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from django.conf import settings

from dns.providers.contract import ProviderError, Trouble
from dns.providers.route53 import refusals

REGION = "us-east-1"  # where Route 53's control plane is, for everybody
CONFIG = Config(
    region_name=REGION,
    connect_timeout=2,
    read_timeout=8,
    retries={"mode": "standard", "total_max_attempts": 1},
)
_AMAZONS = re.compile(r"https://[a-z0-9.-]+\.(amazonaws\.com(\.cn)?|api\.aws)/?")
_ROLE_SECONDS = 900
_ROLE_RENEWED_BEFORE_SECONDS = 120
_READS = 2
_MOST_HELD = 500

_ERRORS = (BotoCoreError, ClientError, ResponseParserError)


@dataclass(frozen=True, slots=True)
class Access:
    role_arn: str
    external_id: str = field(repr=False)
    endpoint_url: str | None
    access_key_id: str
    secret_access_key: str = field(repr=False)

    @classmethod
    def of(cls, options: Mapping[str, Any], credentials: Mapping[str, Any]) -> Access:
        role_arn, external_id = options.get("role_arn", ""), options.get("external_id", "")
        if role_arn and not external_id:
            raise ProviderError(
                "the account has a role_arn without an external_id", permanent=True, trouble=Trouble.MISCONFIGURED
            )
        endpoint = options.get("endpoint_url") or ""
        if not all(isinstance(text, str) for text in (role_arn, external_id, endpoint)):
            raise ProviderError(
                "role_arn, external_id and endpoint_url must be texts", permanent=True, trouble=Trouble.MISCONFIGURED
            )
        # Whoever may edit an account must not have our credentials sent to a place of their own, nor into our networks.
        if endpoint and not settings.DNS_API_ALLOW_PRIVATE and not _AMAZONS.fullmatch(endpoint):
            raise ProviderError(
                "endpoint_url must be Amazon's own, such as https://route53.amazonaws.com", permanent=True,
                trouble=Trouble.MISCONFIGURED,
            )  # fmt: skip
        keys = credentials.get("access_key_id", ""), credentials.get("secret_access_key", "")
        return cls(role_arn, external_id, options.get("endpoint_url") or None, *keys)


class Api:
    """Calls of one account. Operations are named as boto3 names them, their parameters and answers too."""

    def __init__(self, options: Mapping[str, Any], credentials: Mapping[str, Any], spend: Callable[[], None]) -> None:
        self._options = options
        self._credentials = credentials
        self._spend = spend

    @property
    def access(self) -> Access:
        return Access.of(self._options, self._credentials)

    def read(self, operation: str, part: str = "", **given: Any) -> Any:
        """The answer, or one part of it. Raises ProviderError."""
        for attempt in range(1, _READS + 1):
            try:
                return self._call(operation, part, given, is_write=False)
            except ProviderError as error:
                if attempt == _READS or error.trouble != Trouble.UNREACHABLE:
                    raise
        raise AssertionError

    def write(self, operation: str, part: str = "", **given: Any) -> Any:
        """The answer, or one part of it. Raises ProviderError, `unknown` if it may have been done."""
        return self._call(operation, part, given, is_write=True)

    def assume(self, external_id: str) -> None:
        """Try to assume the role with this external id. Raises ProviderError."""
        _assumed(replace(self.access, external_id=external_id), self._spend)

    def _call(self, operation: str, part: str, given: Mapping[str, Any], *, is_write: bool) -> Any:
        access = self.access
        client = _client(access, self._spend)
        action = client.meta.method_to_api_mapping[operation]
        self._spend()
        try:
            answer = getattr(client, operation)(**given)
        except _ERRORS as error:
            problem = refusals.refused(action, error, is_write=is_write)
            if refusals.needs_new_session(problem):
                _forget(access, client)
            raise problem from error
        if not part:
            return answer
        if part not in answer:
            raise refusals.unreadable(action, is_write=is_write)
        return answer[part]


# --- clients ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Held:
    lock: threading.Lock = field(default_factory=threading.Lock)
    """So that an access which takes its time keeps nobody else waiting."""
    client: Any = None
    serves_until: float = -math.inf


_held: dict[Access, _Held] = {}
_session: botocore.session.Session | None = None
_guard = threading.Lock()
"""Of both; a session makes one client at a time."""


def _client(access: Access, spend: Callable[[], None]) -> Any:
    with _guard:
        if access not in _held and len(_held) >= _MOST_HELD:
            _held.clear()
        held = _held.setdefault(access, _Held())
    with held.lock:
        if time.monotonic() >= held.serves_until:
            held.client, held.serves_until = _made(access, spend)
        return held.client


def _forget(access: Access, client: Any) -> None:
    """Its credentials no longer serve; unless another thread has got new ones already."""
    with _guard:
        if access in _held and _held[access].client is client:
            del _held[access]


def _made(access: Access, spend: Callable[[], None]) -> tuple[Any, float]:
    """A client, with the monotonic time until which its credentials serve."""
    if not access.role_arn:
        return _new("route53", access, access.access_key_id or None, access.secret_access_key or None), math.inf
    serves = time.monotonic() + _ROLE_SECONDS - _ROLE_RENEWED_BEFORE_SECONDS
    given = _assumed(access, spend)
    return _new("route53", access, given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]), serves


def _assumed(access: Access, spend: Callable[[], None]) -> dict[str, str]:
    sts = _new("sts", access, access.access_key_id or None, access.secret_access_key or None)
    spend()
    try:
        given: dict[str, str] = sts.assume_role(
            RoleArn=access.role_arn,
            RoleSessionName="tranche",
            ExternalId=access.external_id,
            DurationSeconds=_ROLE_SECONDS,
        )["Credentials"]
    except _ERRORS as error:
        problem = refusals.refused("AssumeRole", error, is_write=False)
        if problem.trouble == Trouble.REFUSED:
            problem.trouble = Trouble.MISCONFIGURED
        raise problem from error
    finally:
        sts.close()
    return given


def _new(service: str, access: Access, *keys: str | None) -> Any:
    global _session
    with _guard:
        _session = _session or botocore.session.get_session()
        try:
            return _session.create_client(service, REGION, None, True, None, access.endpoint_url, *keys, config=CONFIG)
        except (BotoCoreError, ValueError) as error:
            raise ProviderError(f"Route 53: {error}", permanent=True, trouble=Trouble.MISCONFIGURED) from error
