"""A prefix in S3 or a compatible store, reached through the egress guard."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings

from billing.sources.contract import Access, ListedObject, ObjectGone, Place, Problem, SourceUnavailable, Vendor
from billing.sources.names import earliest, is_ignored
from tranche_site.floor import egress

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

LATE = timedelta(hours=48)
"""CloudFront's files come up to 24 hours late, under a name with the hour of their requests."""
_MOST_JUMPS = 1000
"""Of one listing. With more families of names than this, listing their old ones costs less than passing over them."""
_CHUNK_BYTES = 1 << 20
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}", re.ASCII)
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII)
_KEY_ID = re.compile(r"\w{3,128}", re.ASCII)
_AMAZONS = re.compile(r"https://[a-z0-9.-]+\.(amazonaws\.com(\.cn)?|api\.aws)/?")


class Keys(NamedTuple):
    """Whose credentials: a role, keys, or with neither what botocore finds, which may ask the machine's own metadata."""

    access_key_id: str = ""
    secret: str = ""
    role_arn: str = ""
    external_id: str = ""


class Bucket(Place):
    def __init__(self, bucket: str, prefix: str, endpoint_url: str, keys: Keys | None = None) -> None:
        from botocore.exceptions import BotoCoreError

        from billing import s3_session

        self.bucket, self.prefix, self.keys = bucket, prefix, keys or Keys()
        try:
            self.client: Any = s3_session.client(endpoint_url, self.keys)
        except (BotoCoreError, ValueError) as error:
            raise SourceUnavailable(str(error), [self.keys.secret]) from error

    def objects(self, since: datetime | None = None) -> Iterator[ListedObject]:
        """With `since`, of names that have a day in them those which that time could not have seen."""
        day = (since - LATE).date() if since else None
        after, jumps = "", 0
        while True:
            for item in self._after(after):
                start = earliest(item.key, len(self.prefix), day) if day and jumps < _MOST_JUMPS else ""
                if item.key < start:
                    after, jumps = start, jumps + 1
                    break
                yield item
            else:
                return

    def _after(self, start: str) -> Iterator[ListedObject]:
        from botocore.exceptions import BotoCoreError, ClientError

        more = {"StartAfter": start} if start else {}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix, **more)
        try:
            for page in pages:
                for entry in page.get("Contents", ()):
                    key = entry["Key"]
                    if not key.endswith("/") and not is_ignored(key.rpartition("/")[2]):
                        yield ListedObject(key, entry["ETag"].strip('"'), entry["Size"])
        except (BotoCoreError, ClientError, egress.Refused) as error:
            raise self._unavailable(f"s3://{self.bucket}/{self.prefix}", error) from error

    @contextmanager
    def fetched(self, item: ListedObject) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="tranche-object-") as directory:
            path = Path(directory) / "object"
            self._download(item, path)
            yield path

    def _download(self, item: ListedObject, path: Path) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            # If-Match: what is counted under an etag is what had that etag.
            response = self.client.get_object(Bucket=self.bucket, Key=item.key, IfMatch=f'"{item.etag}"')
            with path.open("wb") as file:
                for chunk in response["Body"].iter_chunks(_CHUNK_BYTES):
                    file.write(chunk)
        except ClientError as error:
            if _status(error) in (404, 412):
                raise ObjectGone(item.key) from error
            raise self._unavailable(item.key, error) from error
        except (BotoCoreError, egress.Refused) as error:
            raise self._unavailable(item.key, error) from error

    def _unavailable(self, what: str, error: Exception) -> SourceUnavailable:
        from botocore.exceptions import ClientError

        from billing import s3_session

        if isinstance(error, ClientError) and _status(error) in (400, 403):
            s3_session.forget(self.keys)  # of a role, whose rights or trust may have changed since
        return SourceUnavailable(f"{what}: {error}", [self.keys.secret])


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _problems(access: Access) -> Iterator[Problem]:
    bucket, _, _ = access.location.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        yield "location", "Name a bucket and what its keys begin with, such as my-logs/cloudflare/."
    if access.role_arn and not _ROLE.fullmatch(access.role_arn):
        yield "role_arn", "Write the ARN of a role, such as arn:aws:iam::123456789012:role/tranche-logs."
    if access.external_id and not _EXTERNAL_ID.fullmatch(access.external_id):
        yield "external_id", "Leave it empty, and one is made: letters, digits and +=,.@:/- are allowed."
    if access.external_id and not access.role_arn:
        yield "external_id", "It goes with a role: leave it empty, or give the role’s ARN."
    if access.access_key_id and not _KEY_ID.fullmatch(access.access_key_id):
        yield "access_key_id", "An access key’s ID has letters and digits only; its secret goes below."
    if _leads_astray(access):
        yield "endpoint_url", "A role is Amazon’s: leave it empty, or give the store’s own keys in place of the role."


def _leads_astray(access: Access) -> bool:
    """A role is assumed at the endpoint: nobody may have our own credentials sign for a server of theirs."""
    is_theirs = bool(access.endpoint_url) and not _AMAZONS.fullmatch(access.endpoint_url)
    return bool(access.role_arn) and is_theirs and not settings.LOGS_ALLOW_PRIVATE


def _place(access: Access, now: datetime) -> Bucket:
    if access.role_arn and not access.external_id:
        raise SourceUnavailable("it has a role_arn without an external_id: save it in the console, and one is made")
    if access.access_key_id and not access.secret:
        raise SourceUnavailable("it has an access_key_id without its secret: set it in the console")
    if _leads_astray(access):
        raise SourceUnavailable("it has a role_arn and an endpoint_url that is not Amazon’s")
    bucket, _, prefix = access.location.removeprefix("s3://").partition("/")
    keys = Keys(access.access_key_id, access.secret, access.role_arn, access.external_id)
    return Bucket(bucket, prefix, access.endpoint_url, keys)


VENDOR = Vendor(
    "S3 or compatible",
    frozenset({"location", "endpoint_url", "role_arn", "external_id", "access_key_id", "secret"}),
    _problems,
    place=_place,
)
