"""A directory and those below it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from django.conf import settings

from billing.sources.contract import Access, ListedObject, ObjectGone, Place, Problem, SourceUnavailable, Vendor
from billing.sources.names import is_ignored


class Directory(Place):
    """The etag is made of modification time and size: reading every file on every tick for a checksum would cost more than
    counting it again, which is all that a file touched without a change costs. Unfinished files bear a name that is
    ignored and are renamed into place.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._oddly_named: dict[str, Path] = {}

    def objects(self, since: datetime | None = None) -> Iterator[ListedObject]:
        try:
            yield from self._below(self.root)
        except OSError as error:
            raise SourceUnavailable(f"{self.root}: {error.strerror}") from error

    def _below(self, directory: Path) -> Iterator[ListedObject]:
        """By key, with no more in memory than the names of one directory and of those above it."""
        with os.scandir(directory) as entries:
            names = [
                (_key(entry.name) + ("/" if is_directory else ""), entry.name, is_directory)
                for entry in entries
                if not is_ignored(entry.name)
                and ((is_directory := entry.is_dir(follow_symlinks=False)) or entry.is_file(follow_symlinks=False))
            ]
        for _, name, is_directory in sorted(names):
            try:
                if is_directory:
                    yield from self._below(directory / name)
                else:
                    yield self._listed(directory / name)
            except FileNotFoundError:
                continue  # a log rotation between reading the directory and looking at the file

    def _listed(self, path: Path) -> ListedObject:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        name = os.fspath(path.relative_to(self.root))
        key = _key(name)
        if key != name:
            self._oddly_named[key] = path
        return ListedObject(key, f"{status.st_mtime_ns:x}-{status.st_size:x}", status.st_size)

    @contextmanager
    def fetched(self, item: ListedObject) -> Iterator[Path]:
        path = self._oddly_named.get(item.key) or self.root / item.key
        yield path
        try:
            if self._listed(path) == item:
                return
        except OSError as error:
            raise ObjectGone(item.key) from error
        raise ObjectGone(item.key)


def _key(name: str) -> str:
    """A name that is not UTF-8 is written with its bytes in hexadecimal, or Postgres would refuse it."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _problems(access: Access) -> Iterator[Problem]:
    if not access.location.startswith("/"):
        yield "location", "Name a directory from the root on, such as /var/log/cdn."
    elif not _is_allowed(Path(access.location)):
        yield (
            "location",
            f"It lies in none of LOG_DIRECTORIES ({', '.join(settings.LOG_DIRECTORIES) or 'none is set'}).",
        )


def _is_allowed(path: Path) -> bool:
    """Wherever links lead: whoever may name a directory could else read this machine's own files by their lines."""
    there = path.resolve()
    return any(there.is_relative_to(Path(root).resolve()) for root in settings.LOG_DIRECTORIES)


def _place(access: Access, now: datetime) -> Directory:
    if not _is_allowed(Path(access.location)):
        raise SourceUnavailable(f"{access.location} lies in none of LOG_DIRECTORIES")
    return Directory(Path(access.location))


VENDOR = Vendor("Directory", frozenset({"location"}), _problems, place=_place)
