"""Hostile messages to a policy server that has let us in, each drawn from a generator: FRAMES are ones that
nobody can mean, ODD ones that may be answered.
"""

from __future__ import annotations

import os
import pickle
import struct
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np

from agent.wire import pack

Rng = np.random.Generator
Make = Callable[[Rng], bytes]

DTYPES = ("O", "|O", "V8", "|V0", "i4,i4", "(1000000000,)f4", "T", "|T16", "M8[ns]", "m8", "c8", "f16", "U0")
DTYPES += (
    "U1000000000",
    "S2000000000",
    "nope",
    "",
    "f4" * 50_000,
    b"<f4",
    None,
    5,
    True,
    ["<f4"],
    {"names": ["x"]},
)
DTYPES += ([["x", "O"]], "object", "<U1", "|b1")  # the last two with bytes that are none
SHAPES = ([3], [-4], [-2, -2], [4.0], [True, 4], [float("nan")], ["4"], [None], 4, "4", b"4", {}, None, [[4]])
SHAPES += ([2**63], [2**32, 2**32], [2**62, 4], [0, 2**63], [2**32, 0], [1] * 65, [4] * 5000, [4, [4]], [])
DATA = ("0" * 16, 16, [0] * 16, b"", b"0" * 15, b"0" * 17, {}, True, None, float("inf"))
LONG = "x" * 70_000
WRONG: Mapping[str, tuple[Any, ...]] = {  # of each key of a request, none of which can be meant
    "session": (5, "", "x" * 65, LONG, b"a", ["a"], {"a": "b"}, 1.5, True, np.zeros(3), np.float32(1)),
    "say": (5, b"a", ["stop"], {"stop": 1}, 1.5, True, np.array(["stop"]), LONG),
    "subtask": (5, b"a", ["a"], {"a": "b"}, 1.5, True, np.zeros((9, 9)), LONG),
    "memory": (5, b"a", ["a"], {"a": "b"}, 1.5, True, np.zeros(3), LONG),
    "previous": (5, b"a", ["a"], {"a": "b"}, 1.5, True, np.zeros(3), LONG),
    "want": (5, b"plan", "everything", ["plan"], {"plan": 1}, "", LONG, np.zeros(3), True, 0.0),
    "committed": (
        5, "a", [[0.0] * 7], np.zeros(7), np.zeros((2, 6)), np.zeros((2, 7), np.uint8), np.zeros((1, 1, 7)),
        np.full((2, 7), np.nan), np.full((1, 7), 1e300), np.zeros((100_000, 7), np.float32),
        np.array([["a"] * 7]), True,
    ),
    "id": (1.5, [1], {"a": 1}, b"a", True, np.zeros(3), "x" * 65, LONG, float("nan")),
    "reset": ("yes", -1, 1.5, [1], {}, b"a", np.zeros(2), 2**64 - 1, float("nan"), LONG),
    "prompt": (5, b"a", ["a"], {"a": "b"}, 1.5, True, np.zeros(3), LONG, None, "x" * 900_000, "\x00\x1b[2J"),
    "observation/state": (
        np.full(8, np.nan, np.float32), np.full(8, np.inf), np.full(8, 1e300), np.zeros(7), np.zeros(9),
        np.zeros(0), np.zeros((2, 4, 4)), np.zeros(100_000), np.array(["a"] * 8), np.zeros(8, bool), "state",
        [1, 2], [None] * 8, b"12345678", None, {}, 5, np.array(5.0),
    ),
}  # fmt: skip


def look(rng: Rng, side: int = 64) -> dict[str, Any]:
    """A request as it should be, of noise."""
    picture = rng.integers(0, 256, (side, side, 3), np.uint8)
    return {
        "observation/image": picture,
        "observation/wrist_image": picture[::-1],
        "observation/state": rng.normal(size=8).astype(np.float32) / 4,
        "prompt": "pick up the red block",
    }


def choice(rng: Rng, of) -> Any:
    return of[int(rng.integers(len(of)))]


def size(rng: Rng, most: int) -> int:
    """Mostly small, at times up to `most`."""
    return int(most ** rng.random())


# --- messages --------------------------------------------------------------------------------------------


def request(rng: Rng, **changes) -> bytes:
    """Half of them with an id, whose errors a server answers without hanging up."""
    about = {"id": int(rng.integers(1 << 31))} if rng.random() < 0.5 else {}
    return pack(look(rng) | about | changes)


def with_array(rng: Rng, **changes) -> bytes:
    """A request with an array written by hand in the place of one of its values; None takes a key away."""
    about = {"__ndarray__": True, "data": b"\7" * 16, "dtype": "<f4", "shape": [4]} | changes
    about = {key.encode(): value for key, value in about.items() if value is not None}
    key = choice(rng, ("observation/image", "observation/state", "committed", "say", "other"))
    message = {"prompt": "go", "observation/state": 0, "id": 1} | {key: about}
    return msgpack.packb(message)


def cut(rng: Rng) -> bytes:
    whole = request(rng)
    return whole[: int(rng.integers(1, len(whole)))]


def nested(rng: Rng) -> bytes:
    return choice(rng, (b"\x91", b"\x81\xa1x", b"\x91\x81\xa1x")) * size(rng, 1_000_000) + b"\x01"


def many(rng: Rng) -> bytes:
    """As many items as a frame of a megabyte may have, each far larger in memory than on the wire."""
    count = 20_000 + size(rng, 500_000)
    item = choice(rng, (b"\x80", b"\x90", b"\xc0", b"\xa1x", b"\x81\xa1a\x80", b"\x91\x90"))
    if rng.random() < 0.3:
        keys = b"".join(b"\xa8" + b"%08x" % at + b"\x80" for at in range(25_000))
        return b"\xdf" + struct.pack(">I", 25_000) + keys
    return b"\xdd" + struct.pack(">I", count) + item * count


def declared(rng: Rng) -> bytes:
    code = choice(rng, (0xDD, 0xDF, 0xC6, 0xDB, 0xDC, 0xDE, 0xC5, 0xDA, 0xC9))
    count = choice(rng, (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 1 << 24, 0xFFFF0000))
    return bytes([code]) + struct.pack(">I", count) + rng.bytes(size(rng, 2000))


def extension(rng: Rng) -> bytes:
    code = int(rng.integers(-128, 128))
    value = msgpack.ExtType(code, rng.bytes(size(rng, 300))) if code >= 0 else msgpack.Timestamp(5, 5)
    return msgpack.packb({"prompt": value} if rng.random() < 0.5 else value)


class Opens:
    """What an unpickler would be made to do."""

    def __reduce__(self):
        return os.mkdir, (MARK,)


MARK = os.path.join(tempfile.gettempdir(), "steersman_was_unpickled")


def pickled(rng: Rng) -> bytes:
    code = pickle.dumps(Opens())
    if rng.random() < 0.3:
        return code
    other = {b"nd": True, b"kind": b"O", b"type": "O", b"data": code}  # of another library, which unpickles
    value = choice(rng, (code, msgpack.ExtType(42, code), other))
    if rng.random() < 0.4:
        value = {b"__ndarray__": True, b"data": code, b"dtype": "|O", b"shape": []}
    return msgpack.packb({"observation/image": value, "observation/state": value, "prompt": "go"})


def odd_keys(rng: Rng) -> bytes:
    key = choice(
        rng, (b"\x01", b"\xc0", b"\x90", b"\x80", b"\xcb" + bytes(8), b"\xc3", b"\xa1\xff", b"\xd4\x01a")
    )
    twice = b"\x82\xa1a\x01\xa1a\x02"
    return twice if rng.random() < 0.2 else b"\x82\xa6prompt\xa2go" + key + b"\x01"


def text_keys(rng: Rng) -> bytes:
    about = {"__ndarray__": True, "data": b"\7" * 16, "dtype": "<f4", "shape": [4]}
    return msgpack.packb({"observation/image": about, "id": 5}, use_bin_type=rng.random() < 0.5)


def scalar(rng: Rng) -> bytes:
    data = choice(rng, (300, -1, 2**63, True, "5", b"5", None, [1], {}, "1e999", LONG))
    about = {b"__npgeneric__": True, b"data": data, b"dtype": choice(rng, ("|u1", "|S1", *DTYPES))}
    if rng.random() < 0.2:
        about.pop(choice(rng, (b"data", b"dtype")))
    return msgpack.packb({"id": about, "prompt": "go"})


def picture(rng: Rng) -> bytes:
    shapes = (
        (0, 0, 3),
        (1, 1, 3),
        (7, 64, 3),
        (64, 64),
        (64, 64, 4),
        (64, 64, 1),
        (5000, 8, 3),
        (3, 3, 3),
        (3,),
    )
    shape = choice(rng, (*shapes, (), (2, 64, 64, 3), (1 << 20, 1, 3), (0, 1 << 20, 3)))
    value = np.zeros(shape, choice(rng, (np.uint8, np.float32)))
    if rng.random() < 0.5:
        value = np.zeros((64, 64, 3), choice(rng, (np.int8, np.int64, np.uint16, bool, "S1", "U1")))
    elif rng.random() < 0.3:
        value = np.full((64, 64, 3), choice(rng, (np.nan, np.inf, -1.0, 1e30, 255.0)), np.float32)
    elif rng.random() < 0.3:
        value = choice(rng, (None, 5, "picture", b"\xff\xd8\xff\xe0", [[0] * 3] * 9, {}, np.float32(1)))
    return request(rng, **{choice(rng, PICTURES): value})


def lacking(rng: Rng) -> bytes:
    message = look(rng)
    for key in choice(rng, (("observation/image",), ("observation/state",), ("observation/wrist_image",))):
        message.pop(key)
    return pack(message | {"id": 1})


def not_dict(rng: Rng) -> bytes:
    others = None, True, 5, 1.5, "stop", b"stop", [1, 2], [], {}, [look(rng)], np.zeros(9), {"a": 1}
    return pack(choice(rng, others))


def of_key(key: str) -> Make:
    def make(rng: Rng) -> bytes:
        value = choice(rng, WRONG[key])
        if key == "prompt" and value is None:
            value = 7
        id_less = {} if key == "id" or rng.random() < 0.3 else {"id": 3}
        return pack(look(rng) | id_less | {key: value})

    return make


def changed(rng: Rng) -> bytes:
    frame = bytearray(request(rng))
    most = 80 if rng.random() < 0.7 else len(frame)
    for _ in range(1 + size(rng, 8)):
        frame[int(rng.integers(most))] = int(rng.integers(256))
    return bytes(frame)


FRAMES: dict[str, Make] = {
    "random bytes": lambda rng: rng.bytes(size(rng, 5000)),
    "no bytes": lambda rng: b"",
    "cut off": cut,
    "bytes behind": lambda rng: request(rng) + rng.bytes(1 + size(rng, 100)),
    "nested": nested,
    "many items": many,
    "declared sizes": declared,
    "extension types": extension,
    "pickles": pickled,
    "keys that are none": odd_keys,
    "array, keys as text": text_keys,
    "array, dtype": lambda rng: with_array(rng, dtype=choice(rng, DTYPES)),
    "array, shape": lambda rng: with_array(rng, shape=choice(rng, SHAPES)),
    "array, data": lambda rng: with_array(rng, data=choice(rng, DATA)),
    "array, key missing": lambda rng: with_array(rng, **{choice(rng, ("data", "dtype", "shape")): None}),
    "number, odd": scalar,
    "text not UTF-8": lambda rng: msgpack.packb({"prompt": ""})[:-1] + b"\xa4go\xff\xfe",
    "text of megabytes": lambda rng: msgpack.packb({"prompt": "x" * (1 << 20 | size(rng, 4 << 20))}),
    "not a dict": not_dict,
    "picture": picture,
    "something lacking": lacking,
    **{f"{key.removeprefix('observation/')}": of_key(key) for key in WRONG},
}


# --- messages that may be answered -----------------------------------------------------------------------


def unknown(rng: Rng) -> bytes:
    names = ("margin", "__class__", "observation/depth", "😀" * 20, "../../etc/passwd", "", "a" * 5000)
    return request(rng, **{choice(rng, names): choice(rng, (1, "x", [1, [2, [3]]], np.zeros(9), None))})


def words(rng: Rng) -> str:
    letters = "abc äöü 日本 😀 <loc0001> <eos> \n \t ' \" ; % {} \u202e\u0301"
    return "".join(choice(rng, letters) for _ in range(size(rng, 900)))


PICTURES = "observation/image", "observation/wrist_image"
LONG_ONES = [np.zeros(shape, np.uint8) for shape in ((8, 4096, 3), (4096, 8, 3), (3, 8, 4000), (8, 8, 3))]

ODD: dict[str, Make] = {
    "bytes changed": changed,
    "keys nobody knows": unknown,
    "a session each": lambda rng: request(rng, session=rng.bytes(16).hex()),
    "odd words": lambda rng: request(
        rng, **{choice(rng, ("prompt", "memory", "subtask", "say")): words(rng)}
    ),
    "picture, long": lambda rng: request(rng, **{choice(rng, PICTURES): choice(rng, LONG_ONES)}),
    "picture, large": lambda rng: pack(look(rng, 600) | {"id": 1}),
}
