"""What Amazon's refusals, and what the way there, mean: from errors of botocore to ProviderErrors.

Of a write nobody knows what became (`unknown`) once it was sent and no answer came that can be read; a server error is none.
"""

from __future__ import annotations

import re

from botocore.exceptions import (
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
)
from botocore.parsers import ResponseParserError

from dns.providers.contract import ProviderError, Trouble

_THROTTLED = {
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException"}
_ACCESS = {
    "AccessDenied",
    "AccessDeniedException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "NotAuthorized",
    "OptInRequired",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_NO_ANSWER = {"InternalError", "InternalFailure", "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable"}
_NO_ZONE = {"HostedZoneNotFound", "InvalidDomainName", "NoSuchHostedZone"}
_NEVER_SENT = (
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    MetadataRetrievalError,
    ProxyConnectionError,
)
_SENT_PERHAPS = (ConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError)

_BATCH = (
    # A batch may have several of these wrong with it. What was read too long ago comes before what may follow from it.
    (Trouble.PROTECTED, re.compile(r"\bprotect(ed|ions?)\b")),
    (Trouble.STALE, re.compile(r"but it was not found|provided do not match|but it already exists")),
    (
        Trouble.FOREIGN,
        re.compile(r"a non-weighted set exists|other rrsets exist|conflicts with other records|a conflicting rrset"),
    ),
    (Trouble.UNSAFE, re.compile(r"not permitted at apex")),
)
_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)+\.?")


class DeniedWrite(ProviderError):
    """Denied one batch. The customer's policy lists names, so it may well be that of one name, and no other's."""

    is_accounts = False


def refused(action: str, error: Exception, *, is_write: bool) -> ProviderError:
    """What an error of botocore's stands for."""
    if isinstance(error, ClientError):
        return _answered(action, error, is_write)
    message = f"Route 53 {action}: {error}"
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ProviderError(message, permanent=True, trouble=Trouble.ACCESS)
    if isinstance(error, _NEVER_SENT):
        return ProviderError(message, permanent=False, trouble=Trouble.UNREACHABLE)
    if isinstance(error, _SENT_PERHAPS):
        return ProviderError(message, permanent=False, unknown=is_write, trouble=Trouble.UNREACHABLE)
    return ProviderError(message, permanent=True)  # botocore did not even send it: our mistake


def unreadable(action: str, *, is_write: bool) -> ProviderError:
    return ProviderError(
        f"Route 53 {action}: an answer that can’t be read", permanent=False, unknown=is_write,
        trouble=Trouble.UNREACHABLE,
    )  # fmt: skip


def needs_new_session(error: ProviderError) -> bool:
    """Whether new credentials may help: the session has run out, or was revoked."""
    return error.trouble == Trouble.ACCESS


def code_of(error: ProviderError) -> str:
    """Amazon's word for it, or ""."""
    cause = error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


def _answered(action: str, error: ClientError, is_write: bool) -> ProviderError:
    said = error.response.get("Error", {})
    code = said.get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = " ".join([said.get("Message") or "", *error.response.get("messages", ())]).strip()
    message = f"Route 53 {action}: {code}: {text}"
    if code in _THROTTLED:
        return ProviderError(message, permanent=False, trouble=Trouble.THROTTLED)
    if code in _EXPIRED:
        return ProviderError(message, permanent=False, trouble=Trouble.ACCESS)
    if code in _ACCESS:
        kind = (
            DeniedWrite if action == "ChangeResourceRecordSets" and code.startswith("AccessDenied") else ProviderError
        )
        return kind(message, permanent=True, trouble=Trouble.ACCESS)
    if code in _NO_ANSWER or status >= 500:
        return ProviderError(message, permanent=False, unknown=is_write, trouble=Trouble.UNREACHABLE)
    if code in _NO_ZONE:
        return ProviderError(message, permanent=True, trouble=Trouble.ZONE)
    if code in ("InvalidChangeBatch", "InvalidInput"):
        trouble = _batch_trouble(text)
        return ProviderError(message, permanent=trouble != Trouble.STALE, trouble=trouble)
    return ProviderError(message, permanent=True)


def _batch_trouble(text: str) -> Trouble:
    """Without the names in it, which may be called anything."""
    words = _NAME.sub("", text).lower()
    return next((trouble for trouble, pattern in _BATCH if pattern.search(words)), Trouble.REFUSED)
