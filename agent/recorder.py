"""A video of an episode for people, written beside the run.

A picture with shadows takes longer than everything else together, so a second process draws the tabletop: the
run sends it the world's state and the words, ten times a second of world time, and goes on. Of another world
the run sends the pictures. The file has its name only when it is whole: a killed run leaves a `.part` file
that the next run of the episode overwrites.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import queue
import signal
import sys
import traceback
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backbone.errors import UserError
from envs.errors import WorldError
from envs.registry import benchmark

if TYPE_CHECKING:
    from agent.loop import Step
    from envs.contract import EvaluationEnv

FPS = 10
VIEW = (640, 480)  # the person's view; beside it a column of policy cameras, below it the words
COLUMN, FOOTER, MARGIN = 240, 88, 12
INK, DIM, PAPER, ACCENT = (236, 236, 232), (150, 152, 158), (22, 24, 29), (255, 196, 61)
GOOD = (104, 211, 145)
DROP = "drop"


@dataclass(frozen=True)
class Caption:
    """The words and marks of one frame. target: (y, x) in the front camera, normalised, or None."""

    instruction: str
    subtask: str
    memory: str = ""
    target: tuple[float, float] | None = None
    seconds: float = 0.0
    progress: float = 0.0
    success: bool = False
    note: str = ""

    @classmethod
    def of(cls, step: Step, moment: dict[str, Any], note: str = "") -> Caption:
        """Of a tick: what the agent did, and of what happened `instruction`, `seconds`, `progress` and
        `success`."""
        plan = step.plan
        target = None if plan is None or plan.target is None else (plan.target.y, plan.target.x)
        words = ("", "") if plan is None else (plan.subtask, plan.memory)
        happened = moment["seconds"], moment["progress"], moment["success"]
        return cls(moment["instruction"], *words, target, *happened, note)


@dataclass(frozen=True)
class Pictures:
    """What a frame shows of a world that is not drawn from its state: for people, and of each camera."""

    view: np.ndarray
    pixels: dict[str, np.ndarray]


class Recorder:
    """Writes episodes in a second process: `begin` a file, `add` frames, `end` it (which waits).

    Start it early: it gets ready while the agent is loading. A context manager; leaving it drops a file that
    was not ended.

    suite: of the worlds to come. speed: how much faster than it happened.
    """

    def __init__(self, suite: str = "core", speed: int = 1):
        self._tabletop, self._speed = benchmark(suite).name == "tabletop", speed
        context = mp.get_context("spawn")
        self._queue = context.Queue()
        self._answer, answer = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_draw_all, args=(self._queue, answer, self._tabletop), daemon=True
        )
        self._process.start()
        answer.close()
        self._path: Path | None = None
        self._begun: set[Path] = set()  # whose part files may be there

    def begin(self, path: Path | str) -> None:
        """The frames from here on belong to this file."""
        self._path = Path(path)
        self._begun.add(self._path)
        self._queue.put(str(path))

    def add(self, env: EvaluationEnv, step: Step, moment: dict[str, Any], note: str = "") -> None:
        """A tick of an episode, as its watcher is told of it: as many frames as are due. A world other than
        the tabletop has to have a render mode."""
        pace = FPS / (env.rate * self._speed)
        due = int(moment["tick"] * pace + 1e-6) - int((moment["tick"] - 1) * pace + 1e-6)
        if self._answer.poll():
            self._failed()
        if not due:
            return
        shown = env.world.save() if self._tabletop else _pictures(env)
        self._queue.put((shown, Caption.of(step, moment, note), due))

    def end(self) -> None:
        """Wait until the file is whole and has its name. RuntimeError if drawing failed."""
        self._queue.put(None)
        self._failed()
        self._begun.discard(self._path)
        self._path = None

    def drop(self) -> None:
        """Forget the file under way, if there is one."""
        if self._path is not None:
            self._queue.put(DROP)
        self._path = None

    def close(self) -> None:
        self._process.terminate()
        self._process.join()
        self._queue.cancel_join_thread()  # nobody reads it any more
        for path in self._begun:
            _part(path).unlink(missing_ok=True)

    def _failed(self) -> None:
        """RuntimeError if the answer that comes is an error."""
        try:
            error = self._answer.recv()
        except EOFError:
            error = "the drawing process ended early"
        if error:
            raise RuntimeError(f"{self._path}: {error}")

    @property
    def behind(self) -> int:
        """About how many frames are sent and not drawn yet."""
        try:
            return self._queue.qsize()
        except NotImplementedError:  # macOS
            return 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _pictures(env: EvaluationEnv) -> Pictures:
    view = env.render()
    if view is None:
        raise WorldError(f"video: expected a world with a render mode, got none in suite {env.suite}")
    return Pictures(view, env.look()["pixels"])


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


class _Dropped(Exception):
    pass


def _draw_all(messages, answer, tabletop: bool) -> None:
    """The second process. Messages: a file's name, then frames (a state of the tabletop or Pictures, the
    words, how often), then None, or DROP; and so on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle
    os.environ.setdefault("LP_NUM_THREADS", "1")  # software GL: one core, the other one is the run's
    parent, path = mp.parent_process(), None

    def receive():
        while True:
            try:
                return messages.get(timeout=2.0)
            except queue.Empty:
                if not parent.is_alive():
                    sys.exit()

    try:
        if tabletop:
            from envs.tabletop.world import World

            world = World(render=True)
            world.render(*VIEW)  # the GL context takes its time; have it ready
        while True:
            path = Path(receive())
            try:
                with Video(_part(path)) as video:
                    while (item := receive()) is not None:
                        if item == DROP:
                            raise _Dropped
                        shown, caption, times = item
                        if tabletop:
                            world.restore(shown)
                            shown = Pictures(world.render(*VIEW), world.observe()["pixels"])
                        frame = compose(shown.view, shown.pixels, caption)
                        for _ in range(times):
                            video.add(frame)
            except _Dropped:
                _part(path).unlink(missing_ok=True)
                continue
            os.replace(_part(path), path)
            answer.send(None)
    except Exception as error:
        if path is not None:
            _part(path).unlink(missing_ok=True)
        answer.send(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


class Video:
    """An H.264 file in yuv420p, which every player and browser shows."""

    def __init__(self, path: Path | str, fps: int = FPS):
        import av

        self._container = av.open(str(path), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps))
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "21", "preset": "veryfast"}
        self._stream.codec_context.thread_count = 1
        self._sized = False

    def add(self, picture: np.ndarray) -> None:
        """picture: (H, W, 3) uint8, the same even size each time."""
        import av

        if not self._sized:
            self._stream.height, self._stream.width = picture.shape[:2]
            self._sized = True
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
            self._container.mux(packet)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None and not self._sized:
            self._container.close()
            raise UserError("video: expected at least one frame, got none")
        if kind is None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()


def compose(view: np.ndarray, pixels: dict[str, np.ndarray], caption: Caption) -> np.ndarray:
    """One frame: the person's view (of any size, shown as high as VIEW), beside it what the policy sees (with
    the plan's point), words below. Its sides are even."""
    from PIL import Image, ImageDraw

    person, high = Image.fromarray(view), VIEW[1]
    if person.height != high or person.width % 2:
        person = person.resize((round(person.width * high / person.height / 2) * 2, high))
    width, height = person.width + COLUMN, high + FOOTER
    frame = Image.new("RGB", (width, height), PAPER)
    frame.paste(person, (0, 0))
    draw = ImageDraw.Draw(frame)
    left, top, side = person.width + MARGIN, MARGIN, COLUMN - 2 * MARGIN
    if len(pixels) > 2:
        side = max(8, high // len(pixels) - 18 - 2 * MARGIN)
    for name, image in pixels.items():
        draw.text((left, top), f"{name} camera", font=_font(13), fill=DIM)
        top += 18
        scale = min(side, high - top - 6) / max(image.shape[:2])
        wide, tall = round(image.shape[1] * scale), round(image.shape[0] * scale)
        frame.paste(Image.fromarray(image).resize((wide, tall), Image.NEAREST), (left, top))
        if name == "front" and caption.target is not None:
            y, x = top + caption.target[0] * tall, left + caption.target[1] * wide
            draw.ellipse((x - 9, y - 9, x + 9, y + 9), outline=PAPER, width=4)
            draw.ellipse((x - 8, y - 8, x + 8, y + 8), outline=ACCENT, width=2)
        top += tall + MARGIN
    base = high + 8
    draw.text((MARGIN, base), _fit(draw, caption.instruction, 17, width - 120), font=_font(17), fill=INK)
    draw.polygon(((MARGIN, base + 32), (MARGIN, base + 44), (MARGIN + 9, base + 38)), fill=ACCENT)
    subtask = _fit(draw, caption.subtask, 19, width - 120)
    draw.text((MARGIN + 16, base + 26), subtask, font=_font(19), fill=ACCENT)
    if caption.memory and caption.memory != "nothing":
        memory = _fit(draw, f"memory: {caption.memory}", 14, width - 24)
        draw.text((MARGIN, base + 54), memory, font=_font(14), fill=DIM)
    clock = f"{caption.seconds:5.1f} s"
    draw.text((width - MARGIN, base + 2), clock, font=_font(14), fill=DIM, anchor="ra")
    if caption.note:
        draw.text((width - MARGIN, base + 54), caption.note, font=_font(14), fill=DIM, anchor="ra")
    if caption.success:
        draw.text((width - MARGIN, base + 26), "solved", font=_font(19), fill=GOOD, anchor="ra")
    bar = height - 5
    draw.rectangle((0, bar, width, height), fill=(44, 47, 54))
    draw.rectangle((0, bar, int(width * caption.progress), height), fill=GOOD if caption.success else ACCENT)
    return np.asarray(frame)


_FONTS: dict[int, object] = {}


def _font(size: int):
    from PIL import ImageFont

    if size not in _FONTS:
        _FONTS[size] = ImageFont.load_default(size)
    return _FONTS[size]


def _fit(draw, text: str, size: int, width: int) -> str:
    """Cut to the width, so that a long instruction never runs into the clock."""
    while len(text) > 3 and draw.textlength(text, font=_font(size)) > width:
        text = text[:-4].rstrip() + "..."
    return text
