"""Logs that something went wrong with, by a seed; and `python -m tests.billing.log_mutations FIRST COUNT`, which reads
them and says in one line of JSON what became of them. It is a process of its own so that its memory can be measured.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from billing import logs
from billing.logs import Format, LogReading, LogUnreadable
from tests.billing.log_lines import GOOD, log_text, random_log

FORMATS = list(logs.FORMATS)
_TEXT = {"cloudfront", "bunny"}

Mutation = Callable[[bytes, random.Random], bytes]


def mutated(seed: int) -> tuple[str, bytes, list[str]]:
    """A format, the bytes of a log of it after one to three mutations, and their names."""
    chance = random.Random(seed)
    format = FORMATS[seed % len(FORMATS)]
    data = random_log(format, chance, chance.choice([0, 1, 3, 30, 30, 300])).encode()
    names = []
    for _ in range(chance.choice([0, 1, 1, 2])):
        name = chance.choice(list(_OF_TEXT))
        data = _OF_TEXT[name](data, chance)
        names.append(name)
    if chance.random() < 0.6:
        name = chance.choice(list(_OF_GZIP))
        data = _OF_GZIP[name](data, chance)
        names.append(name)
    return format, data, names


# --- of the text ----------------------------------------------------------------------------------------------------


def _place(data: bytes, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _flip_bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 3, 30]) if data else 0):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _random_bytes(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return data[:at] + chance.randbytes(chance.choice([1, 10, 5000])) + data[at:]


def _cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: _place(data, chance)]


def _cut_out(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted((_place(data, chance), _place(data, chance)))
    return data[:start] + data[end:]


def _double_chunk(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted((_place(data, chance), _place(data, chance)))
    at = _place(data, chance)
    return data[:at] + data[start:end] + data[at:]


def _shuffle_lines(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\n")
    chance.shuffle(lines)
    return b"\n".join(lines)


def _drop_first_line(data: bytes, chance: random.Random) -> bytes:
    return data.partition(b"\n")[2]


def _insert(*pieces: bytes) -> Mutation:
    def insert(data: bytes, chance: random.Random) -> bytes:
        for _ in range(chance.choice([1, 1, 5])):
            at = _place(data, chance)
            data = data[:at] + chance.choice(pieces) + data[at:]
        return data

    return insert


def _insert_lines(*pieces: bytes) -> Mutation:
    def insert(data: bytes, chance: random.Random) -> bytes:
        lines = data.split(b"\n")
        for _ in range(chance.choice([1, 1, 5])):
            lines.insert(chance.randrange(len(lines) + 1), chance.choice(pieces))
        return b"\n".join(lines)

    return insert


def _replace(*pairs: tuple[bytes, bytes]) -> Mutation:
    def replace(data: bytes, chance: random.Random) -> bytes:
        old, new = chance.choice(pairs)
        parts = data.split(old)
        if chance.random() < 0.5:
            return new.join(parts)
        at = chance.randrange(len(parts))
        return new.join((old.join(parts[: at + 1]), old.join(parts[at + 1 :]))) if at + 1 < len(parts) else data

    return replace


def _other_format(data: bytes, chance: random.Random) -> bytes:
    other = random_log(chance.choice(FORMATS), chance, 3).encode()
    at = data.find(b"\n", _place(data, chance)) + 1
    return data[:at] + other + data[at:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    return data * (chance.choice([2, 20]) if len(data) < 1 << 20 else 2)


_ODD_LINES = (
    b"", b" ", b"\t", b"\v", b"\f", b"\r", b"\0", b"\0" * 4096, b"#", b"#Fields: date time", b"{}", b"[]", b"null", b"{",
    b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b"}", b'{"a": "\\ud800"}', b"|" * 11, b"|" * 12, b"\t" * 9, b"\t" * 10,
    b"<134>", b"<134>x: {}", b"-", b"^", "٣".encode(), b"\xff\xfe", b"\xc3", b"\x01\x02\x01", b"x" * 70_000,
)  # fmt: skip
_LONG = (b"x" * ((1 << 20) + 1), b" " * (2 << 20), b'{"a":"' + b"y" * (1 << 20) + b'"}')

_OF_TEXT: dict[str, Mutation] = {
    "bits flipped": _flip_bits,
    "random bytes": _random_bytes,
    "cut off": _cut_off,
    "cut out": _cut_out,
    "a chunk twice": _double_chunk,
    "lines shuffled": _shuffle_lines,
    "first line lost": _drop_first_line,
    "odd lines": _insert_lines(*_ODD_LINES),
    "odd bytes": _insert(
        b"\0", b"\r", b"\n", b"\r\n", b"\xff", b"\xef\xbb\xbf", b'"', b"\\", b"{", b"}", b"\t", b"|", b"\x01"
    ),
    "a line too long": _insert_lines(*_LONG),
    "other line ends": _replace((b"\n", b"\r\n"), (b"\n", b"\r"), (b"\n", b"\n\n"), (b"\n", b"\0")),
    "other numbers": _replace(
        (b"1", b"-1"),
        (b"000", b"1e3"),
        (b"2", b"2.5"),
        (b"3", "٣".encode()),
        (b"17", b"99999999999999999999"),
        (b"2026", b"1996"),
        (b"2026", b"0002026"),
        (b"Z", b"+99:99"),
        (b"1000", b"NaN"),
        (b":00", b":60"),
    ),
    "other hosts": _replace(
        (b"example", b"EXAMPLE"),
        (b"example.com", b"example.com:99999"),
        (b"www", "bücher".encode()),
        (b"www", b"\\u0000"),
        (b"www", b"w" * 70),
        (b"www", b"%00"),
        (b".com", b"." * 300),
        (b"www.", b"-"),
        (b"www", b"a@b"),
        (b"www", b"["),
    ),
    "other values": _replace(
        (b'"', b""),
        (b'": ', b'": null, "x": '),
        (b'": ', b'": {"a": '),
        (b"true", b"maybe"),
        (b"-", b"^"),
        (b"example.com", b""),
        (b"{", b"{{"),
        (b"}", b"},"),
        (b"timestamp", b"Timestamp"),
        (b"|", b"||"),
        (b"\t", b" "),
    ),
    "byte order mark": lambda data, chance: b"\xef\xbb\xbf" * chance.choice([1, 2]) + data,
    "UTF-16": lambda data, chance: data.decode(errors="replace").encode(chance.choice(["utf-16", "utf-16-le"])),
    "another format": _other_format,
    "many times": _repeat,
    "only line ends": lambda data, chance: data + b"\n" * chance.choice([1, 100_000]),
}


# --- of the gzip ----------------------------------------------------------------------------------------------------


def _packed(data: bytes, chance: random.Random) -> bytes:
    return gzip.compress(data, chance.choice([0, 1, 6]), mtime=0)


def _packed_then(change: Mutation) -> Mutation:
    return lambda data, chance: change(_packed(data, chance), chance)


def _flip_within(first: int | None, last: int | None) -> Mutation:
    def flip(data: bytes, chance: random.Random) -> bytes:
        places = range(len(data))[first:last]
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 3])):
            if places:
                changed[chance.choice(places)] ^= 1 << chance.randrange(8)
        return bytes(changed)

    return flip


def _members(data: bytes, chance: random.Random) -> bytes:
    at = _place(data, chance)
    return _packed(data[:at], chance) + _packed(data[at:], chance)


def _bomb(data: bytes, chance: random.Random) -> bytes:
    """A thousand times as large as it looks, some with a lie about it at the end."""
    line = data.rpartition(b"\n")[0].rpartition(b"\n")[2]
    filling = chance.choice([b"\n", b" ", b"x", line + b"\n", b"{}\n", b"\0"])
    block = gzip.compress(filling * ((4 << 20) // len(filling)), mtime=0)
    return (
        gzip.compress(data, mtime=0)
        + block * chance.choice([1, 20])
        + chance.choice([b"", gzip.compress(b"", mtime=0)])
    )


_OF_GZIP: dict[str, Mutation] = {
    "packed": _packed,
    "packed, cut off": _packed_then(_cut_off),
    "packed, end lost": _packed_then(lambda data, chance: data[: -chance.randrange(1, 12)]),
    "packed, bits flipped": _packed_then(_flip_bits),
    "packed, header changed": _packed_then(_flip_within(0, 10)),
    "packed, trailer changed": _packed_then(_flip_within(-8, None)),
    "packed, cut out": _packed_then(_cut_out),
    "packed, a chunk twice": _packed_then(_double_chunk),
    "packed twice": _packed_then(_packed),
    "packed, then more": _packed_then(
        lambda data, chance: data + chance.choice([b"\0", b"\n", b"more", data[:20], b"\x1f\x8b"])
    ),
    "packed in members": _members,
    "bomb": _bomb,
}


# --- the reading ----------------------------------------------------------------------------------------------------


def rows_of(format: Format, path: Path) -> int | None:
    """How many rows there are, told by looking at line ends alone. None: the gzip does not say what its content is."""
    is_gzip = path.read_bytes()[:2] == b"\x1f\x8b"
    try:
        with gzip.open(path) if is_gzip else path.open("rb") as file:
            return sum(1 for line in _lines(file) if _is_row(format.name, line))
    except (OSError, EOFError, zlib.error):
        return None


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Of lines that are too long, as many pieces as there are: such an object is refused, however many they are."""
    is_first = True
    while line := file.readline(4 << 20):
        while is_first and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        yield line
        is_first = False


def _is_row(format: str, line: bytes) -> bool:
    if format not in _TEXT:
        return bool(line.strip())  # of the same characters that may stand between JSON texts
    line = line.removesuffix(b"\n").removesuffix(b"\r").replace(b"\r", b" ")
    return line.strip(b" \t") not in (b"", b"\1\2\1") and not (format == "cloudfront" and line.startswith(b"#"))


def problems(format: Format, path: Path, reading: LogReading) -> list[str]:
    found = []
    fates = reading.counted + reading.excluded + reading.duplicates + reading.bad_rows
    if reading.rows != fates or min(reading.counted, reading.excluded, reading.duplicates, reading.bad_rows) < 0:
        found.append(f"{reading.rows} rows, but {fates} fates")
    rows = rows_of(format, path)
    if rows is not None and rows != reading.rows:
        found.append(f"{rows} rows in the file, but {reading.rows} read")
    if reading.counted != sum(line.requests for line in reading.usage):
        found.append("the usage does not add up to what was counted")
    if len({line[:2] for line in reading.usage}) != len(reading.usage):
        found.append("a host and minute occurs twice")
    if len(reading.bad) != min(reading.bad_rows, 100) or any(
        not bad.reason or "\n" in bad.reason for bad in reading.bad
    ):
        found.append("the bad rows are not told as they should be")
    return found


def _peak_mib() -> int:
    """Not by getrusage: that would begin with what the process had that started this one."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) >> 10


def main(first: int, count: int) -> None:
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    wrong: list[str] = []
    rows, slowest, began = 0, (0.0, ""), time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        for format in FORMATS:  # so that the first of them does not pay for starting DuckDB
            path.write_text(log_text(format, GOOD[format]()))
            logs.read(logs.FORMATS[format], path)
        for seed in range(first, first + count):
            name, data, mutations = mutated(seed)
            path.write_bytes(data)
            start = time.monotonic()
            try:
                reading = logs.read(logs.FORMATS[name], path)
            except LogUnreadable as error:
                outcomes["refused"] += 1
                reasons[str(error)[:24]] += 1
                if "--verbose" in sys.argv:
                    print(seed, name, mutations, len(data), error, f"{time.monotonic() - start:.2f} s", file=sys.stderr)
                if not str(error) or "\n" in str(error):
                    wrong.append(f"{seed} {name} {mutations}: the reason is not one line")
            except Exception as error:
                wrong.append(f"{seed} {name} {mutations}: {type(error).__name__}: {error}")
            else:
                outcomes["read"] += 1
                rows += reading.rows
                outcomes["read, with bad rows"] += bool(reading.bad_rows)
                outcomes["read, though the gzip is broken"] += rows_of(logs.FORMATS[name], path) is None
                wrong += [f"{seed} {name} {mutations}: {what}" for what in problems(logs.FORMATS[name], path, reading)]
            if "--verbose" in sys.argv:
                print("rss", _peak_mib(), seed, mutations, file=sys.stderr)
            slowest = max(slowest, (time.monotonic() - start, f"{seed} {name} {mutations}"))
    told = {
        "files": count,
        "outcomes": outcomes,
        "reasons": dict(reasons.most_common(12)),
        "rows": rows,
        "wrong": wrong,
        "slowest_seconds": round(slowest[0], 2),
        "slowest": slowest[1],
        "seconds": round(time.monotonic() - began, 1),
        "rss_mib": _peak_mib(),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
