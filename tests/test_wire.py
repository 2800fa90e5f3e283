"""Frames by strangers: what is a message reads as the public code reads it, all else is one short line."""

from __future__ import annotations

import datetime
import itertools
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

msgpack = pytest.importorskip("msgpack")
pytest.importorskip("websockets")

from serving import packb, unpackb  # noqa: E402

from agent.wire import LIMITS, Limits, pack, unpack  # noqa: E402
from backbone.errors import UserError  # noqa: E402

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
LOOK = {
    "observation/image": PICTURE,
    "observation/state": np.arange(8, dtype=np.float32),
    "prompt": "räume auf",
    "committed": np.zeros((2, 7)),
    "id": 7,
}

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=40)
plain |= st.binary(max_size=40)
kinds = arrays.boolean_dtypes() | arrays.integer_dtypes(endianness="?") | arrays.unsigned_integer_dtypes()
kinds |= arrays.floating_dtypes(endianness="?", sizes=(16, 32, 64)) | arrays.byte_string_dtypes(max_len=9)
kinds |= arrays.unicode_string_dtypes(endianness="?", max_len=9)
scalars = (arrays.boolean_dtypes() | arrays.integer_dtypes() | arrays.floating_dtypes()).flatmap(
    lambda dtype: arrays.from_dtype(dtype).map(dtype.type)
)
leaves = plain | scalars | arrays.arrays(kinds, arrays.array_shapes(min_dims=0, min_side=0, max_side=4))
names = (st.text() | st.binary()).filter(lambda name: "__n" not in str(name))
messages = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=5),
    max_leaves=8,
)


def same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(ours, np.ndarray | np.generic):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes()
    else:
        assert ours == theirs or ours != ours and theirs != theirs


def refused(frame, says="^message", limits=LIMITS):
    with pytest.raises(UserError, match=says) as told:
        unpack(frame, limits)
    line = str(told.value)
    assert line.startswith("message: expected ") and len(line) <= 300 and line.isprintable()


def short(value):
    return repr(value)[:30]


def array(**changes):
    """A frame with an array of four floats, or what is left of it; None takes a key away."""
    about = {"__ndarray__": True, "data": b"\0" * 16, "dtype": "<f4", "shape": [4]} | changes
    return msgpack.packb({key.encode(): value for key, value in about.items() if value is not None})


def number(data, dtype):
    return msgpack.packb({b"__npgeneric__": True, b"data": data, b"dtype": dtype})


@given(messages)
@settings(max_examples=150, deadline=None)
def test_a_message_is_packed_and_read_as_the_public_code_does(message):
    frame = packb(message)
    assert pack(message) == frame
    same(unpack(frame), unpackb(frame))


@given(st.binary(max_size=80) | st.lists(st.integers(0, 255)).map(bytes))
@example(b"\x81\xc4\x0b__ndarray__\xc3")
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_read_as_msgpack_reads_them_or_refused(frame):
    try:
        value = unpack(frame)
    except UserError:
        refused(frame)
    else:
        same(value, unpackb(frame))


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_a_message_with_bytes_changed_is_read_the_same_or_refused(data):
    frame = bytearray(pack(LOOK))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        value = unpack(bytes(frame))
    except UserError:
        refused(bytes(frame))
    else:
        same(value, unpackb(bytes(frame)))


def test_every_shorter_and_every_longer_frame_is_refused():
    frame = pack(LOOK)
    for end in range(len(frame)):
        refused(frame[:end], "that end too early")
    refused(frame + b"\0", f"expected msgpack of {len(frame)} bytes, got {len(frame) + 1}")


def test_pictures_stay_in_the_frame_and_cannot_be_written_to():
    frame = pack(LOOK)
    found = unpack(frame)
    within = np.frombuffer(frame, np.uint8)
    assert np.shares_memory(found["observation/image"], within)
    assert found["observation/state"].flags.aligned
    for key in ("observation/image", "observation/state"):
        with pytest.raises(ValueError, match="read-only"):
            found[key][:] = 0


@pytest.mark.parametrize(
    "dtype",
    ["O", "|O", "V8", "|V0", "i4,i4", ">i2, f4", "(1000000000,)f4", "(2,)u1", "T", "|T16", "M8[ns]", "m8"]
    + ["<c16", "f16", "g", "U1000000000", "U", "U0", "S0", "<U", "a5", "i3", "f", "nope", "", "f4\0", " f4"]
    + [b"<f4", None, 5, 1.0, True, ["<f4"], [["x", "O"]], {"names": ["x"]}, [], "str", "object", "c8"]
    + ["<f4" * 1_000_000],
    ids=short,
)  # fmt: skip
def test_dtypes_that_are_not_plain_numbers_or_text_are_refused(dtype):
    refused(array(dtype=dtype))
    refused(number(1, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bool", "uint8", "=f4", "f4", "|u1", ">i8", "b1", "int64"])
def test_plain_names_of_dtypes_are_read(dtype):
    frame = array(dtype=dtype, shape=[16 // np.dtype(dtype).itemsize])
    same(unpack(frame), unpackb(frame))
    same(unpack(number(True if "b" in dtype else 1, dtype)), np.dtype(dtype).type(1))


@pytest.mark.parametrize(
    "shape",
    [[3], [5], [-4], [-2, -2], [4.0], [True, 4], [np.nan], ["4"], [None], 4, "4", b"\4", {}, None, [[4]]]
    + [[2**63], [2**32, 2**32], [2**62, 4], [0, 2**63], [2**32, 0], [2**64 - 1, 0], []]
    + [[1] * 65, [4] + [1] * 10_000],
    ids=short,
)  # fmt: skip
def test_shapes_that_are_not_of_the_data_are_refused(shape):
    refused(array(shape=shape))
    if isinstance(shape, list) and 0 in shape:
        refused(array(shape=shape, data=b""), "bytes at most")


@pytest.mark.parametrize("data", [None, "0" * 16, 16, [0] * 16, b"", b"\0" * 15, b"\0" * 17, {}, True])
def test_data_that_is_no_array_is_refused(data):
    refused(array(data=data))


def test_what_numpy_would_only_trip_over_later_is_refused():
    refused(array(dtype="|b1", data=b"\0\1\2\1"), "bytes 0 and 1")
    for code in (0x110000, 0xFFFFFFFF, 0xD800, 0xDFFF):
        for order in "<>":
            refused(array(dtype=f"{order}U1", data=struct.pack(f"{order}4I", 65, 66, code, 67)), "characters")


@pytest.mark.parametrize(
    ("data", "dtype"),
    [(300, "u1"), (-1, "<u8"), (2**63, "<i8"), (True, "<i4"), (1, "|b1"), ("5", "<f4"), (b"5", "|u1")]
    + [(1.0, "<i4"), (None, "<f8"), ([1], "<f8"), ({}, "<f8"), ("a", "<U1"), (b"a", "|S1"), (True, "<f4")],
)  # fmt: skip
def test_numbers_that_are_not_of_their_dtype_are_refused(data, dtype):
    refused(number(data, dtype), "expected a number of")


def test_numbers_beyond_a_floats_range_are_infinite():
    assert unpack(number(1e300, "<f4")) == np.inf and unpack(number(-(2**63), "<f2")) == -np.inf
    assert np.isnan(unpack(number(float("nan"), "<f4")))


TEXT_KEYS = {"__ndarray__": True, "data": b"\0" * 16, "dtype": "<f4", "shape": [4]}


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"", "0 bytes that end too early"),
        (b"\xc1", "without extensions, got the byte 0xc1"),
        (msgpack.packb(msgpack.ExtType(5, b"12345")), "without extensions"),
        (msgpack.packb(msgpack.Timestamp(5, 5)), "without extensions"),
        (msgpack.packb({"at": datetime.datetime.now(datetime.UTC)}, datetime=True), "without extensions"),
        (msgpack.packb({1: 2}), "text or bytes as keys, got int"),
        (b"\x81\x90\x01", "text or bytes as keys, got list"),
        (b"\x81\x80\x01", "text or bytes as keys, got dict"),
        (msgpack.packb({b"__ndarray__": {b"__ndarray__": 1}}), "no b'data'"),
        (msgpack.packb(TEXT_KEYS), "the keys of an array as bytes, got text"),
        (msgpack.packb(TEXT_KEYS, use_bin_type=False), "the keys of an array as bytes"),
        (array(data=None), "got no b'data'"),
        (array(dtype=None), "got no b'dtype'"),
        (array(shape=None), "got no b'shape'"),
        (b"\x82\xa1a\x01\xa1a\x01", "each key once, got 'a' twice"),
        (b"\xa2\xff\xff", "UTF-8"),
        (b"\xa3\xed\xa0\x80", "UTF-8"),  # half of a surrogate pair
        (b"\x81\xa1\xff\x00", "UTF-8"),
        ("text", "as bytes, got str"),
        (None, "as bytes, got NoneType"),
    ],
)
def test_frames_that_are_no_message(frame, says):
    refused(frame, says)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"\x91" * 17 + b"\x01", "16 deep at most"),
        (b"\x81\xa1x" * 17 + b"\x01", "16 deep at most"),
        (b"\x91" * 1_000_000, "16 deep at most"),
        (b"\xdd\xff\xff\xff\xff", "20000 items at most"),
        (b"\xdf\xff\xff\xff\xff", "20000 items at most"),
        (b"\xdf\x80\x00\x00\x00" + b"\x01" * 99, "20000 items at most"),
        (b"\xdc\x10\x00\x01", "end too early"),
        (b"\xc6\xff\xff\xff\xff1234", "end too early"),
        (b"\xdb\xff\xff\xff\xff1234", "1048576 bytes of text at most"),
        (b"\xdb\x00\x0f\xff\xff1234", "end too early"),
        (b"\x92" + 2 * msgpack.packb("x" * 600_000), "1048576 bytes of text at most"),
        ((b"\xdd" + struct.pack(">I", 19_000)) * 5 + b"\x80" * 100_000, "20000 items at most"),
        (b"\xdd" + struct.pack(">I", 100_000) + b"\x80" * 100_000, "20000 items at most"),
        (bytes(LIMITS.bytes + 1), "67108864 bytes at most, got 67108865"),
    ],
)
def test_what_would_take_more_than_its_bytes_is_refused(frame, says):
    refused(frame, says)


def test_limits_can_be_set():
    limits, frame = Limits(bytes=200, items=10, depth=2, text=6), pack({"a": [1, 2, 3], "b": {"c": "xyz"}})
    same(unpack(frame, limits), unpackb(frame))
    for less in ({"items": 9}, {"depth": 1}, {"text": 5}, {"bytes": len(frame) - 1}):
        refused(frame, "at most", Limits(**{"bytes": 200, "items": 10, "depth": 2, "text": 6} | less))


def test_no_error_repeats_what_came():
    long, binary = "x\n\x1b[31m" * 50_000, bytes(range(256)) * 1000
    for value in (long, [long], [binary] * 99, binary):
        for key in ("dtype", "shape", "data"):
            refused(array(**{key: value}))
        for dtype in ("<f4", long):
            refused(number(value, dtype))
    for key in (long, binary):
        refused(b"\x82" + 2 * (msgpack.packb(key) + b"\x01"), "each key once")


BOMBS = """
import resource, struct, sys
from agent.wire import LIMITS, unpack
from backbone.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
full = LIMITS.items - 5
for item in (b"\\x80", b"\\x90", b"\\x81\\xa1a\\x80", b"\\xcb" + bytes(8), b"\\xc4\\x01a", b"\\xa1\\xff"):
    for outer in (b"\\xdd" + struct.pack(">I", full), (b"\\xdd" + struct.pack(">I", full)) * 10):
        try:
            unpack(outer + item * full)
        except UserError:
            pass
try:
    unpack(b"\\xdb" + struct.pack(">I", 1 << 20) + "\\U0001f600".encode() + b"x" * ((1 << 20) - 4))
except UserError:
    sys.exit("a megabyte of text is allowed")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in kilobytes there")
def test_bombs_take_little_memory():
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
    run = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 20  # MB


def test_what_can_be_read_again_only_here_is_not_packed():
    for value in (
        np.datetime64(1, "s"),
        np.zeros(2, "M8[s]"),
        np.zeros(2, np.longdouble),
        np.array(["a"], "O"),
    ):
        with pytest.raises(UserError, match="^message: expected text, numbers and arrays, got"):
            pack({"x": value})
    deep = []
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(UserError, match="^message: expected text, numbers and arrays, got"):
        pack(deep)


@pytest.mark.parametrize("shape", itertools.product([0, 1, 3], repeat=2))
def test_empty_arrays_are_arrays(shape):
    frame = pack(np.zeros(shape, np.float32))
    same(unpack(frame), unpackb(frame))
