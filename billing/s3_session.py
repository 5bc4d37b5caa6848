"""botocore's HTTP session with the egress guard where its sockets open: a bucket's endpoint is whatever somebody typed.

Proxies of the environment are passed by, since a proxy would open the last socket where we can't see it.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore import awsrequest
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, Credentials, DeferredRefreshableCredentials
from botocore.exceptions import HTTPClientError, NoCredentialsError
from botocore.httpsession import URLLib3Session
from django.conf import settings
from urllib3.exceptions import NewConnectionError

from tranche_site.floor import egress

if TYPE_CHECKING:
    from billing.sources.s3 import Keys

_ROLE_REGION = "us-east-1"  # where STS answers for everybody, unless the environment names a nearer one
_ROLE_SECONDS = 3600
_MOST_ROLES = 500

_roles: dict[Keys, dict[str, Any]] = {}
"""What roles gave out, each for whoever may assume it: another customer's source with the same role must ask itself."""
_guard = threading.Lock()


def client(endpoint_url: str, keys: Keys) -> Any:
    """A client of S3 with these credentials. Raises BotoCoreError or ValueError."""
    session = botocore.session.Session()
    if keys.role_arn:
        session._credentials = _role(session, endpoint_url, keys)
    elif keys.access_key_id:
        session.set_credentials(keys.access_key_id, keys.secret)
    return _guarded(session, "s3", endpoint_url)


def forget(keys: Keys) -> None:
    """Have the role asked again, whatever it gave out before."""
    with _guard:
        _roles.pop(keys, None)


def _role(session: Any, endpoint_url: str, keys: Keys) -> Any:
    own = Credentials(keys.access_key_id, keys.secret) if keys.access_key_id else session.get_credentials()
    if own is None:
        raise NoCredentialsError
    with _guard:
        if keys not in _roles and len(_roles) >= _MOST_ROLES:
            _roles.clear()
        given = _roles.setdefault(keys, {})
    region = session.get_config_variable("region") or _ROLE_REGION
    fetcher = AssumeRoleCredentialFetcher(
        lambda service, **more: _guarded(session, service, endpoint_url, region_name=region, **more),
        own,
        keys.role_arn,
        {"RoleSessionName": "tranche", "ExternalId": keys.external_id, "DurationSeconds": _ROLE_SECONDS},
        cache=given,
    )
    return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


def _guarded(session: Any, service: str, endpoint_url: str, **more: Any) -> Any:
    config = Config(retries={"mode": "standard", "max_attempts": 3})
    made = session.create_client(service, endpoint_url=endpoint_url or None, config=config, **more)
    http = GuardedSession(timeout=(5, 20), verify=authorities(session.get_config_variable("ca_bundle")))
    made.meta.events.register(f"before-send.{service}", lambda request, **_: http.send(request))
    return made


class GuardedSession(URLLib3Session):
    """What its `send` returns to the client's event `before-send` is used in place of the client's own session."""

    def __init__(self, **kw: Any) -> None:
        super().__init__(**kw)
        self._manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}

    def send(self, request: Any) -> Any:
        try:
            return super().send(request)
        except HTTPClientError as error:
            cause = error.kwargs.get("error")
            if isinstance(cause, egress.Refused):
                raise cause from None  # as it is: botocore would try again what went wrong in HTTP
            raise


def authorities(configured: str | None) -> str | bool:
    """What to verify certificates with: a PEM file as botocore would find it, or True for the public authorities."""
    return configured or os.environ.get("REQUESTS_CA_BUNDLE") or True


class _Guarded:
    """A connection of urllib3 to the very address that was judged; TLS and the Host header keep the name."""

    host: str
    port: int
    timeout: float

    def _new_conn(self) -> socket.socket:
        try:
            return egress.connect(self.host, self.port, self.timeout, allow_private=settings.LOGS_ALLOW_PRIVATE)
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error  # type: ignore[arg-type]


class _Plain(_Guarded, awsrequest.AWSHTTPConnection):
    pass


class _Secure(_Guarded, awsrequest.AWSHTTPSConnection):
    pass


class _PlainPool(awsrequest.AWSHTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(awsrequest.AWSHTTPSConnectionPool):
    ConnectionCls = _Secure
