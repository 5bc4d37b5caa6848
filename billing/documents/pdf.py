"""A sheet as PDF, set by typst from the template beside this module. The same sheet gives the same bytes anywhere.

So that it does, the time in the file is when the document was issued, and fonts are those that come with typst (Latin, Greek,
Cyrillic, Hebrew, Arabic). For other scripts, name a directory of fonts in INVOICE_FONTS.
"""

from __future__ import annotations

import functools
import json
import os
import re
import threading
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typst
from django.conf import settings

from billing.documents.sheet import Sheet

_TEMPLATE = Path(__file__).with_name("invoice.typ")
_LONG_WORD = re.compile(r"\S{25,}")
_PIECE_AFTER_PUNCTUATION, _PIECE = 8, 16
_ZERO_WIDTH_SPACE = "\u200b"
_lock = threading.Lock()


def render(sheet: Sheet) -> bytes:
    """One PDF. No text of a sheet can make it fail: text is data to the template.

    Raises RuntimeError in a fork of a process that rendered: typst's threads are not in it, and it would wait for ever.
    """
    compiler, of_process = _compiler(getattr(settings, "INVOICE_FONTS", ""))
    if of_process != os.getpid():
        raise RuntimeError("this process was forked from one that made PDFs: make them in one of the two only")
    with _lock:  # a compiler serves one thread at a time
        made = compiler.compile(
            format="pdf", sys_inputs={"sheet": as_json(sheet)}, timestamp=int(sheet.written_at.timestamp())
        )
    return bytes(made)


@functools.cache
def _compiler(fonts: str) -> tuple[Any, int]:
    """Made once in a process, whose id is told: it keeps the fonts and the parsed template."""
    found = typst.Fonts(include_system_fonts=False, font_paths=[fonts] if fonts else [])
    compiler: Any = typst.Compiler(_TEMPLATE, root=_TEMPLATE.parent, font_paths=found)
    return compiler, os.getpid()


def as_json(sheet: Sheet) -> str:
    """What the template reads."""
    told = asdict(sheet, dict_factory=_without_details)
    return json.dumps(_breakable(told), default=str)


def _without_details(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if name != "details"}


def _breakable(value: Any) -> Any:
    """Words that no column is wide enough for may break, as in HTML."""
    if isinstance(value, str):
        return _LONG_WORD.sub(lambda found: _broken(found[0]), value)
    if isinstance(value, dict):
        return {key: _breakable(part) for key, part in value.items()}
    return [_breakable(part) for part in value] if isinstance(value, (list, tuple)) else value


def _broken(word: str) -> str:
    pieces = [""]
    for character in word:
        length, last = len(pieces[-1]), pieces[-1][-1:]
        is_full = length >= _PIECE or (length >= _PIECE_AFTER_PUNCTUATION and last in "@./:_-")
        # A mark stays with the letter that it stands on.
        if is_full and not unicodedata.combining(character) and character not in "\u200d\ufe0f":
            pieces.append("")
        pieces[-1] += character
    return _ZERO_WIDTH_SPACE.join(pieces)
