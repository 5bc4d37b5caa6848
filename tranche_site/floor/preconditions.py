"""ETags (RFC 9110): who has a representation already is spared it, and who changes a row says which one he saw."""

from __future__ import annotations

import hashlib
import re
from http import HTTPStatus

from rest_framework.exceptions import APIException

_TAG = re.compile(r'\s*(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


class PreconditionRequired(APIException):
    status_code = HTTPStatus.PRECONDITION_REQUIRED
    default_detail = (
        "Send the ETag of what you saw as If-Match, so that nobody's change is lost (or *, for whatever is there)."
    )
    default_code = "if_match_required"


class PreconditionFailed(APIException):
    status_code = HTTPStatus.PRECONDITION_FAILED
    default_detail = "This was changed meanwhile: read it again, and send its ETag as If-Match."
    default_code = "changed_meanwhile"


def etag(content: bytes) -> str:
    """A strong ETag of a representation."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def names(header: str, tag: str) -> bool:
    """Whether a list of ETags, or *, names this one. Weak ones are compared by what they say."""
    return header.strip() == "*" or tag in _TAG.findall(header)
