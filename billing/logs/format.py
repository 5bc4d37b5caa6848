"""What a log format is: where its rows are, and which SQL over a row gives time, host and bytes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

# A longer line is no log row; the largest CloudFront row, with 20 KB of headers and an 8 KB URL, is far below.
LINE_LIMIT = 1 << 20


class LogUnreadable(Exception):
    """This object as a whole can't be counted, so nothing of it is. The text is the reason, in one line."""


class ReaderUnavailable(Exception):
    """This machine can't read just now, whatever the object: its disk is full, or fails. Nothing is said of the object."""


MACHINE_FAULTS = frozenset(
    {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)


def unreadable(error: OSError) -> LogUnreadable | ReaderUnavailable:
    """Whose fault it is that a file can't be read."""
    text = error.strerror or "can't be opened"
    return ReaderUnavailable(text) if error.errno in MACHINE_FAULTS else LogUnreadable(text)


@dataclass(frozen=True)
class Column:
    """One value of a row: its name in the format, the SQL for its text, and the SQL over that for its value or NULL."""

    label: str
    text: str
    value: str


@dataclass(frozen=True)
class RowQuery:
    """How the rows of one object are read. All SQL is over `scan`'s columns, then over those of `derived`."""

    scan: str  # a table function call; {log} and {compression} are filled in
    at: Column  # value: minutes since 1970, UTC
    host: Column
    bytes: Column
    malformed: str  # SQL condition: this is no row of the format at all
    malformed_reason: str
    is_row: str = "true"  # false for blank lines and comments
    derived: str = ""  # further columns, computed once per row
    flaw: str = "NULL"  # SQL for why a row is bad although its three values may be good, or NULL
    excluded: str = "false"  # a good row that by rule is not counted
    identity: str = "NULL"  # with the time it tells a request; the same twice counts once; NULL: no dedupe
    all_identified: bool = False  # a row without identity is bad; only for `quick`, where it costs less to add up
    of_another_kind: str = "false"  # SQL condition: a line after which nothing read so far can be trusted
    of_another_kind_reason: str = ""
    is_text: bool = False  # lines as they stand, not JSON: they may need mending before DuckDB takes them
    decode_host: Callable[[str], str] = str
    quick: RowQuery | None = None  # a faster way to the same rows, trusted only if it finds no bad one


@dataclass(frozen=True)
class FieldMap:
    """For formats whose field names the customer chooses: which field holds what, and what can be read with that."""

    names: Mapping[str, str | None]
    optional: frozenset[str]  # these may be None: the log has no such field
    query_of: Callable[[Mapping[str, str | None]], Callable[[str], RowQuery]]


@dataclass(frozen=True)
class Format:
    """One log format. `query` looks at the object's first lines, and raises LogUnreadable if it is something else."""

    name: str
    title: str
    query: Callable[[str], RowQuery]
    fields: FieldMap | None = None

    def with_fields(self, names: Mapping[str, str | None]) -> Format:
        """The format under this field map. Raises ValueError, which says what to change, if it can't be one."""
        if self.fields is None:
            raise ValueError(f"The format {self.name} has fixed field names: leave the field map empty.")
        known, optional = self.fields.names, self.fields.optional
        if unknown := [key for key in names if key not in known]:
            raise ValueError(f"The field map has an unknown key “{unknown[0]}”: its keys are {', '.join(known)}.")
        for key, default in known.items():
            if key not in names:
                without = ", or null if the log has none" if key in optional else ""
                raise ValueError(f"The field map lacks “{key}”: name the log's field, such as “{default}”{without}.")
            name = names[key]
            if not ((name is None and key in optional) or _is_field_name(name)):
                raise ValueError(
                    f"The field map's “{key}” is {name!r}: name one top-level field of the log, such as “{default}”,"
                    " without quotes, braces and backslashes."
                )
        spellings = {name for name in names.values() if name is not None}
        for name in sorted(spellings):
            if other := next((o for o in sorted(spellings) if o > name and o.lower() == name.lower()), None):
                raise ValueError(f"The field map names both “{name}” and “{other}”: rename one of the log's fields.")
        return replace(self, query=self.fields.query_of(names), fields=replace(self.fields, names=dict(names)))


def _is_field_name(name: object) -> bool:
    """These names enter SQL, so what could end a literal there is refused rather than escaped."""
    return isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable() and not set(name) & set("'\"\\{}")
