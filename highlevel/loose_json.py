"""JSON as language models write it: between other words, in code fences, with single quotes, trailing commas,
Python's constants, line breaks and unescaped quotes inside of strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

LONGEST = 50_000  # characters that are looked at
TRIES = 64  # opening braces that are tried
DEEPEST = 16  # objects in one another
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[A-Za-z_][\w-]*")
_ENDS = re.compile(r"\s*(?:[,:}\]]|$)")  # what follows a quote that closes a string


class _NoJson(ValueError):
    """Not even loosely."""


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The whole objects of a text from left to right, each before those inside of it. What a model thinks
    aloud (<think> ... </think>) does not count.
    """
    text = text[-LONGEST:].rpartition("</think>")[2].partition("<think>")[0]
    for found in list(re.finditer(r"\{", text))[:TRIES]:
        try:
            value, _ = json.JSONDecoder(strict=False).raw_decode(text, found.start())
        except (ValueError, RecursionError):
            try:
                value = _Reader(text, found.start()).value()
            except _NoJson:
                continue
        yield value


class _Reader:
    """Recursive descent through one value."""

    def __init__(self, text: str, at: int):
        self.text, self.at = text, at

    def value(self, depth: int = 0) -> Any:
        """The value that begins here; `at` is behind it then."""
        if depth > DEEPEST:
            raise _NoJson("too deep")
        here = self._next()
        if here == "{":
            return dict(self._items("}", depth))
        if here == "[":
            return list(self._items("]", depth))
        if here in "\"'":
            return self._string(here)
        if found := _NUMBER.match(self.text, self.at):
            self.at = found.end()
            number = float(found[0])
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        word = self._word()
        if word.lower() not in _CONSTANTS:
            raise _NoJson(word)
        return _CONSTANTS[word.lower()]

    def _items(self, end: str, depth: int) -> Iterator[Any]:
        """Of an object (key, value), of a list the values."""
        self.at += 1
        while self._next() != end:
            if end == "]":
                yield self.value(depth + 1)
            else:
                key = self._string(self._next()) if self._next() in "\"'" else self._word()
                if self._next() != ":":
                    raise _NoJson("no colon")
                self.at += 1
                yield key, self.value(depth + 1)
            if self._next() == ",":
                self.at += 1
            elif self._next() != end:
                raise _NoJson("no comma")
        self.at += 1

    def _string(self, quote: str) -> str:
        """Up to the quote behind which something ends: "don't" and "he said "go" to it" are strings."""
        written, at = [], self.at + 1
        while at < len(self.text):
            here = self.text[at]
            if here == "\\" and at + 1 < len(self.text):
                escaped, at = self.text[at + 1], at + 2
                written.append(_ESCAPES.get(escaped, escaped))
                continue
            at += 1
            if here == quote and _ENDS.match(self.text, at):
                self.at = at
                return "".join(written)
            written.append(here)
        raise _NoJson("no end of a string")

    def _word(self) -> str:
        found = _WORD.match(self.text, self.at)
        if found is None:
            raise _NoJson("no value")
        self.at = found.end()
        return found[0]

    def _next(self) -> str:
        """The next character that is no space."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        if self.at == len(self.text):
            raise _NoJson("cut off")
        return self.text[self.at]
