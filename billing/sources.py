"""Where CDNs leave their logs: listing a place, and getting one object as a local file."""

from __future__ import annotations

import os
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from billing.models import UsageSource
from tranche_site.floor import egress

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_IGNORED_ENDINGS = (".tmp", ".part")
_S3_CHUNK_BYTES = 1 << 20


class SourceUnavailable(Exception):
    """The place can't be listed or read now; says nothing about its objects. The text is the reason, in one line."""


class ObjectGone(Exception):
    """The object was deleted or replaced after it was listed. The next listing shows what became of it."""


@dataclass(frozen=True, order=True)
class ListedObject:
    """One object as its source lists it. An etag stands for one content, so the same key with another is a new delivery."""

    key: str
    etag: str
    size_bytes: int


class Place(ABC):
    """A place that holds log objects."""

    @abstractmethod
    def objects(self) -> Iterator[ListedObject]:
        """All finished objects, by key. Raises SourceUnavailable."""

    @abstractmethod
    def fetched(self, item: ListedObject) -> AbstractContextManager[Path]:
        """The object as a file, exactly as it was listed. Raises ObjectGone or SourceUnavailable, on leaving too."""


def place_of(source: UsageSource) -> Place:
    if source.kind == UsageSource.Kind.DIRECTORY:
        return Directory(Path(source.location))
    bucket, _, prefix = source.location.removeprefix("s3://").partition("/")
    return Bucket(bucket, prefix, source.endpoint_url)


class Directory(Place):
    """A directory and those below it.

    The etag is made of modification time and size: reading every file on every tick for a checksum would cost more than
    counting it again, which is all that a file touched without a change costs. Unfinished files bear a name that is
    ignored and are renamed into place.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: dict[str, Path] = {}

    def objects(self) -> Iterator[ListedObject]:
        try:
            yield from sorted(self._below(self.root))
        except OSError as error:
            raise SourceUnavailable(f"{self.root}: {error.strerror}") from error

    def _below(self, directory: Path) -> Iterator[ListedObject]:
        with os.scandir(directory) as entries:
            for entry in entries:
                if _is_ignored(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._below(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    try:
                        yield self._listed(Path(entry.path))
                    except FileNotFoundError:
                        continue  # a log rotation between reading the directory and looking at the file

    def _listed(self, path: Path) -> ListedObject:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        # A name that is not UTF-8 is written with its bytes in hexadecimal, or Postgres would refuse it.
        key = os.fsencode(path.relative_to(self.root)).decode(errors="backslashreplace")
        self._paths[key] = path
        return ListedObject(key, f"{status.st_mtime_ns:x}-{status.st_size:x}", status.st_size)

    @contextmanager
    def fetched(self, item: ListedObject) -> Iterator[Path]:
        path = self._paths[item.key]
        yield path
        try:
            if self._listed(path) == item:
                return
        except OSError as error:
            raise ObjectGone(item.key) from error
        raise ObjectGone(item.key)


class Bucket(Place):
    """A prefix in S3 or a compatible store, reached through the egress guard.

    Credentials come from the environment, as botocore finds them; that may ask the machine's own metadata service.
    """

    def __init__(self, bucket: str, prefix: str, endpoint_url: str) -> None:
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        from billing.s3_session import GuardedSession, authorities

        self.bucket, self.prefix = bucket, prefix
        session, config = botocore.session.Session(), Config(retries={"mode": "standard", "max_attempts": 3})
        try:
            self.client: Any = session.create_client("s3", endpoint_url=endpoint_url or None, config=config)
            http = GuardedSession(timeout=(5, 20), verify=authorities(session.get_config_variable("ca_bundle")))
        except (BotoCoreError, ValueError) as error:
            raise SourceUnavailable(str(error)) from error
        self.client.meta.events.register("before-send.s3", lambda request, **_: http.send(request))

    def objects(self) -> Iterator[ListedObject]:
        from botocore.exceptions import BotoCoreError, ClientError

        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        try:
            for page in pages:
                for entry in page.get("Contents", ()):
                    key = entry["Key"]
                    if not key.endswith("/") and not _is_ignored(key.rpartition("/")[2]):
                        yield ListedObject(key, entry["ETag"].strip('"'), entry["Size"])
        except (BotoCoreError, ClientError, egress.Refused) as error:
            raise SourceUnavailable(f"s3://{self.bucket}/{self.prefix}: {error}") from error

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
                for chunk in response["Body"].iter_chunks(_S3_CHUNK_BYTES):
                    file.write(chunk)
        except ClientError as error:
            if _status(error) in (404, 412):
                raise ObjectGone(item.key) from error
            raise SourceUnavailable(f"{item.key}: {error}") from error
        except (BotoCoreError, egress.Refused) as error:
            raise SourceUnavailable(f"{item.key}: {error}") from error


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.endswith(_IGNORED_ENDINGS)
