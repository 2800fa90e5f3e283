"""The frames of openpi's protocol: msgpack, with numpy arrays as maps whose keys are bytes.

An array is {b"__ndarray__": True, b"data": its bytes in C order, b"dtype": "<f4", b"shape": [..]}, a numpy
scalar {b"__npgeneric__": True, b"data": a number, b"dtype": ..}. Whoever speaks it, client or server, packs
and unpacks with these two.
"""

from __future__ import annotations

import math
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from backbone.errors import UserError

REFUSED = "VOc"  # kinds of dtype that neither side takes: records, objects, complex numbers


def pack(value: Any) -> bytes:
    """Nested dicts and lists of strings, numbers, arrays and numpy scalars. UserError for anything else."""
    try:
        return needed("msgpack").packb(value, default=_as_map)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"message: expected text, numbers and arrays, got {error}") from None


def unpack(data: bytes) -> Any:
    """The same again; arrays are read-only views of `data`. UserError where it is not such a message."""
    try:
        return needed("msgpack").unpackb(data, object_hook=_from_map)
    except UserError:
        raise
    except Exception as error:  # msgpack has many types for it, and so has numpy for a wrong dtype
        reason = str(error) or type(error).__name__
        came = f"{len(data)} bytes ({reason})"
        raise UserError(f"message: expected msgpack with numpy arrays, got {came}") from None


def needed(module: str) -> ModuleType:
    """A module of the extra `remote`. UserError that names it where it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"remote policy: expected the packages msgpack and websockets, found no module '{error.name}'; "
            "pip install 'steersman[remote]'"
        ) from None


def _as_map(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in REFUSED:
        if isinstance(value, np.ndarray):
            about = {b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
            return {b"__ndarray__": True, **about}
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} {getattr(value, 'dtype', '')}".strip())


def _from_map(found: dict) -> Any:
    if b"__ndarray__" in found:
        dtype, shape, data = _dtype(found), tuple(found[b"shape"]), found[b"data"]
        if min(shape, default=0) < 0 or len(data) != math.prod(shape) * dtype.itemsize:
            raise UserError(f"message: expected an array {dtype} of shape {shape}, got {len(data)} bytes")
        return np.ndarray(shape, dtype, data)
    if b"__npgeneric__" in found:
        return _dtype(found).type(found[b"data"])
    return found


def _dtype(found: dict) -> np.dtype:
    dtype = np.dtype(found[b"dtype"])
    if dtype.kind in REFUSED:
        raise UserError(f"message: expected arrays of numbers or text, got dtype {dtype}")
    return dtype
