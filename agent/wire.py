"""The frames of openpi's protocol: msgpack, with numpy arrays as maps whose keys are bytes.

An array is {b"__ndarray__": True, b"data": its bytes in C order, b"dtype": "<f4", b"shape": [..]}, a numpy
scalar {b"__npgeneric__": True, b"data": a number, b"dtype": ..}. Whoever speaks it, client or server, packs
and unpacks with these two.

Reading is ours, not msgpack's, since a stranger may have written the frame: what a frame may cost is bounded
before anything is made of it (a byte of msgpack can stand for a dict of 64), pictures stay where they are in
the frame, and dtypes are those of a short list. Numpy would take others from a string, among them one whose
bytes are addresses to read from ("T"). Nothing is ever unpickled.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from backbone.errors import UserError

DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU][1-9]\d{0,8})")  # of arrays
NAMES = {kind.__name__ for kind in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64)}
NAMES |= {"int64", "float16", "float32", "float64", "bool"}  # some clients write these
AXES = 16
SHOWN = 60  # characters of what came, in an error


@dataclass(frozen=True)
class Limits:
    """What a frame may hold. bytes: of the frame, and of what a shape may span. items: values, keys, dicts
    and lists together. depth: dicts and lists in one another. text: bytes of all texts together.

    Reading a frame takes memory for its numbers of several bytes once more, four times its texts, and some
    200 bytes for an item.
    """

    bytes: int = 64 << 20
    items: int = 20_000
    depth: int = 16
    text: int = 1 << 20


LIMITS = Limits()


def pack(value: Any) -> bytes:
    """Nested dicts and lists of strings, numbers, arrays and numpy scalars. UserError for anything else."""
    try:
        return needed("msgpack").packb(value, default=_as_map)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"message: expected text, numbers and arrays, got {_short(error)}") from None


def unpack(data: bytes, limits: Limits = LIMITS) -> Any:
    """The same again; arrays are read-only, large ones views of `data`. UserError, in one short line, where
    it is not such a message or is beyond the limits.
    """
    if not isinstance(data, bytes | bytearray):
        raise UserError(f"message: expected msgpack as bytes, got {type(data).__name__}")
    frame = memoryview(data).toreadonly()
    if len(frame) > limits.bytes:
        raise UserError(f"message: expected {limits.bytes} bytes at most, got {len(frame)}")
    reader = _Reader(frame, limits)
    try:
        value = reader.value(0)
    except (IndexError, struct.error):
        raise UserError(f"message: expected msgpack, got {len(frame)} bytes that end too early") from None
    if reader.at != len(frame):
        raise UserError(f"message: expected msgpack of {reader.at} bytes, got {len(frame)}")
    return bytes(value) if isinstance(value, memoryview) else value


def needed(module: str) -> ModuleType:
    """A module of the extra `remote`. UserError that names it where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            "remote policy: expected the packages msgpack, websockets and prometheus-client, found no module "
            f"'{error.name}'; pip install 'steersman[remote]'"
        ) from None


def _as_map(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray | np.generic) and DTYPE.fullmatch(value.dtype.str):
        if isinstance(value, np.ndarray):
            about = {b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
            return {b"__ndarray__": True, **about}
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} {getattr(value, 'dtype', '')}".strip())


# --- reading ---------------------------------------------------------------------------------------------

# An item's first byte -> the number behind it: its value, or how many bytes or items follow.
NUMBERS = {0xCA + at: struct.Struct(">" + kind) for at, kind in enumerate("fdBHIQbhiq")}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
ONE, TWO, FOUR = (struct.Struct(">" + kind) for kind in "BHI")
TEXTS = {0xD9: ONE, 0xDA: TWO, 0xDB: FOUR}
BINARIES = {0xC4: ONE, 0xC5: TWO, 0xC6: FOUR}
LISTS = {0xDC: TWO, 0xDD: FOUR}
MAPS = {0xDE: TWO, 0xDF: FOUR}


class _Reader:
    """One pass over a frame. Binaries are views until it is known what they belong to."""

    def __init__(self, frame: memoryview, limits: Limits):
        self.frame, self.limits = frame, limits
        self.at, self.items, self.text = 0, limits.items, limits.text

    def value(self, depth: int) -> Any:
        """The item that begins here. IndexError or struct.error where the frame ends before it does."""
        code = self.frame[self.at]
        self.at += 1
        self.items -= 1
        if self.items < 0:
            raise UserError(f"message: expected {self.limits.items} items at most, got more")
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code >= 0xA0:
            if code < 0xC0:
                return self._text(code & 0x1F)
            if code in NUMBERS:
                return self._number(NUMBERS[code])
            if code in CONSTANTS:
                return CONSTANTS[code]
            if code in TEXTS:
                return self._text(self._number(TEXTS[code]))
            if code in BINARIES:
                return self._take(self._number(BINARIES[code]))
            if code in LISTS:
                return self._list(self._number(LISTS[code]), depth + 1)
            if code in MAPS:
                return self._map(self._number(MAPS[code]), depth + 1)
            raise UserError(f"message: expected msgpack without extensions, got the byte 0x{code:02x}")
        if code >= 0x90:
            return self._list(code & 0x0F, depth + 1)
        return self._map(code & 0x0F, depth + 1)

    def _number(self, kind: struct.Struct) -> Any:
        (number,) = kind.unpack_from(self.frame, self.at)
        self.at += kind.size
        return number

    def _take(self, count: int) -> memoryview:
        end = self.at + count
        if end > len(self.frame):
            raise IndexError
        found = self.frame[self.at : end]
        self.at = end
        return found

    def _text(self, count: int) -> str:
        self.text -= count
        if self.text < 0:
            raise UserError(f"message: expected {self.limits.text} bytes of text at most, got more")
        try:
            return str(self._take(count), "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"message: expected text in UTF-8, got {_short(error.reason)}") from None

    def _enter(self, items: int, depth: int) -> None:
        if depth > self.limits.depth:
            raise UserError(f"message: expected dicts and lists {self.limits.depth} deep at most, got deeper")
        if items > self.items:
            raise UserError(f"message: expected {self.limits.items} items at most, got more")
        if items > len(self.frame) - self.at:
            raise IndexError

    def _list(self, count: int, depth: int) -> list:
        self._enter(count, depth)
        found = [self.value(depth) for _ in range(count)]
        return [bytes(x) if type(x) is memoryview else x for x in found]

    def _map(self, count: int, depth: int) -> Any:
        self._enter(2 * count, depth)
        found: dict[str | bytes, Any] = {}
        for _ in range(count):
            key = self.value(depth)
            if type(key) is memoryview:
                key = bytes(key)
            elif type(key) is not str:
                raise UserError(f"message: expected text or bytes as keys, got {type(key).__name__}")
            if key in found:
                raise UserError(f"message: expected each key once, got {_short(key)} twice")
            found[key] = self.value(depth)
        if b"__ndarray__" in found:
            return _array(found, self.limits)
        if b"__npgeneric__" in found:
            return _scalar(found)
        if "__ndarray__" in found or "__npgeneric__" in found:
            raise UserError("message: expected the keys of an array as bytes, got text")
        for key, value in found.items():
            if type(value) is memoryview:
                found[key] = bytes(value)
        return found


def _array(found: dict, limits: Limits) -> np.ndarray:
    data, name, shape = _parts(found, b"data", b"dtype", b"shape")
    dtype = _dtype(name)
    if type(data) is not memoryview:
        raise UserError(f"message: expected an array's data as bytes, got {type(data).__name__}")
    if type(shape) is not list or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > AXES:
        raise UserError(f"message: expected a shape of {AXES} whole numbers at most, got {_short(shape)}")
    if math.prod(n or 1 for n in shape) * dtype.itemsize > limits.bytes:
        raise UserError(f"message: expected arrays of {limits.bytes} bytes at most, got {_short(shape)}")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise UserError(f"message: expected {dtype} of shape {_short(shape)}, got {len(data)} bytes")
    # Numbers of several bytes must lie where the processor wants them; pictures may lie anywhere.
    array = np.ndarray(shape, dtype, data if dtype.itemsize == 1 else bytes(data))
    if dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise UserError("message: expected bool as bytes 0 and 1, got others")
    if dtype.kind == "U" and not _is_text(array):
        raise UserError(f"message: expected characters in {dtype}, got others")
    return array


def _is_text(array: np.ndarray) -> bool:
    codes = array.reshape(-1).view(array.dtype.byteorder.replace("|", "=") + "u4")
    return not ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any()


def _scalar(found: dict) -> np.generic:
    data, name = _parts(found, b"data", b"dtype")
    dtype = _dtype(name)
    fits = type(data) in {"b": (bool,), "i": (int,), "u": (int,), "f": (float, int)}.get(dtype.kind, ())
    if fits and dtype.kind in "iu":
        fits = np.iinfo(dtype).min <= data <= np.iinfo(dtype).max
    if not fits:
        raise UserError(f"message: expected a number of {dtype}, got {_short(data)}")
    with np.errstate(over="ignore"):  # beyond a float's range is infinite
        return dtype.type(data)


def _parts(found: dict, *keys: bytes) -> tuple[Any, ...]:
    for key in keys:
        if key not in found:
            raise UserError(f"message: expected an array with {', '.join(map(repr, keys))}, got no {key!r}")
    return tuple(found[key] for key in keys)


def _dtype(name: Any) -> np.dtype:
    dtype = _known(name) if type(name) is str and len(name) <= SHOWN else None
    if dtype is None:
        raise UserError(f"message: expected arrays of numbers or text, got dtype {_short(name)}")
    return dtype


@lru_cache(256)
def _known(name: str) -> np.dtype | None:
    """None where it is not one of ours: numpy is only asked about those."""
    return np.dtype(name) if DTYPE.fullmatch(name) or name in NAMES else None


def _short(value: Any) -> str:
    """A line that can be shown, whatever it is."""
    if isinstance(value, Exception):
        text = " ".join(str(value).split()) or type(value).__name__
    elif isinstance(value, str | bytes):
        text = repr(value[:SHOWN])
    elif isinstance(value, memoryview):
        text = f"{len(value)} bytes"
    elif isinstance(value, list):
        text = f"({', '.join(_short(x) for x in value[:AXES])}{', ...' if len(value) > AXES else ''})"
    elif isinstance(value, bool | int | float | None):
        text = str(value)
    else:
        text = type(value).__name__
    return text if len(text) <= 2 * SHOWN else text[: 2 * SHOWN] + "..."
