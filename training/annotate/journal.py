"""Episodes that are labelled, one line each, in the dataset's own meta/: the next run finds what a kill left.

The journal is the person's or the model's work; the columns of the data files are made from it (writing.py).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from backbone.errors import UserError
from training.annotate.segments import Segment, checked

JOURNAL = "meta/annotations.jsonl"


class Journal:
    """Of one dataset, open for one process. labels: segments by episode, once they are read; due: episodes
    that are to be labelled anew. UserError where another process annotates.
    """

    def __init__(self, root: Path):
        self.path, self._file, self._ours = root / JOURNAL, None, True
        self.labels: dict[int, tuple[Segment, ...]] = {}
        self.due: set[int] = set()
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UserError(f"annotate: expected to write {self.path} ({error.strerror})") from None
        self._file = os.fdopen(descriptor, "rb+", buffering=0)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the system when we end
            if not os.path.samestat(os.fstat(descriptor), self.path.stat()):
                raise OSError("taken away meanwhile")
        except OSError:
            self._ours = False
            self.close()
            raise UserError(f"annotate: another process annotates {root}") from None

    def read(self, lengths: Mapping[int, int]) -> None:
        """What was done before; the last line about an episode counts. lengths: frames by episode. UserError
        for lines that are not of this dataset.
        """
        self._lengths = lengths
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:  # a line that a kill has cut
            self._file.truncate(len(whole))
        for line in whole.splitlines():
            try:
                said = json.loads(line)
                if "again" in said:
                    self.due |= {int(number) for number in said["again"]}
                    continue
                number = int(said["episode"])
                segments = checked([Segment(*parts) for parts in said["segments"]], self._lengths[number])
            except (ValueError, KeyError, TypeError) as error:
                got = f"'{line[:80].decode(errors='replace')}' ({error})"
                raise UserError(
                    f"annotate: expected episodes of this dataset in {self.path}, got {got}"
                ) from None
            self.labels[number] = segments
            self.due.discard(number)

    def again(self, numbers: Sequence[int]) -> None:
        """These are to be labelled anew; what they have stands until then."""
        if numbers:
            self._append({"again": list(numbers)})
            self.due |= set(numbers)

    def add(self, number: int, segments: Sequence[Segment], by: str) -> None:
        """Keep an episode's labels: on the disk after this call. by: who says so."""
        segments = checked(segments, self._lengths[number])
        parts = [astuple(segment) for segment in segments]
        self._append({"episode": number, "by": by, "segments": parts})
        self.labels[number] = segments
        self.due.discard(number)

    def _append(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        before = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(before)
            raise UserError(f"annotate: {self.path} cannot be written ({error.strerror})") from None

    def close(self) -> None:
        if self._file is not None:
            if self._ours and not os.fstat(self._file.fileno()).st_size:
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
