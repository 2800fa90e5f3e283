"""Frames of video files by their time, to the frame."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from backbone.errors import UserError

OPEN = 8  # files kept open by a thread
AHEAD = 2.0  # seconds that are sooner decoded through than jumped over


class _File:
    """One open video. It goes on where it is if what is asked for comes soon, and jumps otherwise."""

    def __init__(self, path: Path):
        try:
            self.container = av.open(str(path))
            self.stream = self.container.streams.video[0]
        except (OSError, IndexError, av.error.FFmpegError) as error:
            raise UserError(f"video: {path} cannot be read ({error})") from error
        self.stream.thread_type = "AUTO"
        self.path, self.frame = path, None
        self.frames: Iterator | None = None

    def at(self, seconds: float, half: float) -> np.ndarray:
        """The frame that is nearest to a time, at most `half` of a frame's time away."""
        here = None if self.frame is None else self._time(self.frame)
        if here is None or not here - half <= seconds <= here + AHEAD:
            self._jump(seconds, half)
        while self.frame is not None and self._time(self.frame) <= seconds - half:
            self.frame = next(self.frames, None)
        if self.frame is None or self._time(self.frame) > seconds + half:
            got = "the end" if self.frame is None else f"one at {self._time(self.frame):.4f} s"
            self.frame = None
            raise UserError(f"video: expected a frame at {seconds:.4f} s of {self.path}, got {got}")
        return self.frame.to_ndarray(format="rgb24")

    def _jump(self, seconds: float, half: float) -> None:
        """To a frame that is not after the time. Some files need to be asked for an earlier one."""
        for back in (0.0, 1.0, 10.0, seconds):
            place = max(0, int((seconds - back) / self.stream.time_base))
            self.container.seek(place, stream=self.stream, backward=True)
            self.frames = self.container.decode(self.stream)
            self.frame = next(self.frames, None)
            if self.frame is not None and self._time(self.frame) <= seconds + half:
                return

    def _time(self, frame) -> float:
        return float(frame.pts * frame.time_base)


class Videos:
    """Reads frames of any number of files. Each thread has files of its own, the last few of them open."""

    def __init__(self) -> None:
        self._local = threading.local()

    def frames(self, path: Path, seconds: Sequence[float], fps: float) -> list[np.ndarray]:
        """Times, in any order -> (H, W, 3) uint8 each. UserError if there is no frame at one of them."""
        file, found = self._open(path), {}
        for time in sorted(set(seconds)):
            found[time] = file.at(time, 0.499 / fps)
        return [found[time] for time in seconds]

    def _open(self, path: Path) -> _File:
        files: OrderedDict[Path, _File] = self._local.__dict__.setdefault("files", OrderedDict())
        if path not in files:
            files[path] = _File(path)
        files.move_to_end(path)
        while len(files) > OPEN:
            files.popitem(last=False)[1].container.close()
        return files[path]
