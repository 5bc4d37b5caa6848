"""botocore's HTTP session with the egress guard where its sockets open: a bucket's endpoint is whatever somebody typed.

Proxies of the environment are passed by, since a proxy would open the last socket where we can't see it.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from botocore import awsrequest
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from django.conf import settings
from urllib3.exceptions import NewConnectionError

from tranche_site.floor import egress


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
