"""By hand at a terminal: play through an episode, cut it where something else begins, name the parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console
from rich.segment import Segment as Cells
from rich.style import Style

from agent.console.keys import ENTER, Keyboard, Line, leaving
from agent.console.pictures import half_blocks
from agent.console.screen import Screen
from backbone.errors import UserError
from training.annotate.draft import Draft
from training.annotate.episodes import Shown
from training.annotate.lines import Known, Save, shown
from training.annotate.segments import Subtasks

KEYS = (
    "space play   , . one frame   < > a second   [ ] segments   s split   j join   t begins here instead",
    "n name   m memory   u undo   w save, next   x skip   b back   q save, quit   Q quit",
)
WHITE = Style(color="white")
COLOURS = ("green", "yellow", "blue", "magenta", "cyan", "red")
GLANCE, PLAYING = 0.2, 0.03  # seconds to wait for a key
WORDS = 40  # columns beside the picture
LEAST = 16  # columns below which a picture shows nothing
Lines = list[list[Cells]]


class Marks:
    """One episode on a person's desk. frame: what is looked at. message: what was wrong with the last key.
    over: "" while it goes on, then what is next: "next", "back" or "quit".
    """

    def __init__(self, episode: Shown, draft: Draft, subtasks: Subtasks, save: Save, title: str = ""):
        self.episode, self.draft, self.subtasks, self._save = episode, draft, subtasks, save
        self.title, self.frame, self.over, self.message = title, 0, "", ""
        self.line, self._typing = Line(), ""
        self._since: tuple[float, int] | None = None  # when it began to play, and where
        self._keys: dict[str, Callable[[], None]] = {
            " ": self.play, ",": lambda: self.go(-1), ".": lambda: self.go(1),
            "<": lambda: self.go(-self._second), ">": lambda: self.go(self._second),
            "[": lambda: self.jump(-1), "]": lambda: self.jump(1),
            "s": self.split, "j": lambda: self.draft.join(self.frame), "t": self.begin,
            "n": lambda: self.type("name"), "m": lambda: self.type("memory"), "u": self.draft.undo,
            "w": lambda: self.leave("next"), "x": lambda: self.leave("next", keep=False),
            "b": lambda: self.leave("back"), "q": lambda: self.leave("quit"),
            "Q": lambda: self.leave("quit", keep=False),
        }  # fmt: skip
        self._second = max(1, round(episode.fps))

    @property
    def playing(self) -> bool:
        return self._since is not None

    @property
    def typing(self) -> str:
        """What is being typed: "name", "memory" or "" for nothing."""
        return self._typing if self.line.text is not None else ""

    def press(self, key: str) -> None:
        """A key; what is wrong with it becomes the message."""
        self.message = ""
        try:
            if self.typing:
                if (text := self.line.press(key)) is not None and key == ENTER:
                    self._typed(text)
            elif key in self._keys:
                self._keys[key]()
        except UserError as error:
            self.message = str(error)

    def tick(self) -> None:
        """Let time pass, while it plays."""
        if self._since is not None:
            began, first = self._since
            self.frame = first + int((time.monotonic() - began) * self.episode.fps)
            if self.frame >= len(self.episode) - 1:
                self.frame, self._since = len(self.episode) - 1, None

    def play(self) -> None:
        if self.playing:
            self._since = None
            return
        self.frame = 0 if self.frame == len(self.episode) - 1 else self.frame
        self._since = time.monotonic(), self.frame

    def go(self, frames: int) -> None:
        self._since = None
        self.frame = min(max(self.frame + frames, 0), len(self.episode) - 1)

    def jump(self, way: int) -> None:
        """To where the segment begins, or the next one."""
        self._since = None
        starts = [part.start for part in self.draft.parts]
        if way > 0:
            self.frame = next((s for s in starts if s > self.frame), len(self.episode) - 1)
        else:
            self.frame = max((s for s in starts if s < self.frame), default=0)

    def split(self) -> None:
        self.draft.split(self.frame)
        self.type("name")

    def begin(self) -> None:
        """Of the two segments' starts around here, the nearer one moves here."""
        here, part = self.frame, self.draft.parts[self.draft.at(self.frame)]
        later = part.end - here < here - part.start or part.start == 0
        if later and part.end == len(self.episode):
            raise UserError("begins here: expected a segment before or behind this one, got none")
        self.draft.move(part.end if later else part.start, here)

    def type(self, what: str) -> None:
        self._since, self._typing = None, what
        part = self.draft.parts[self.draft.at(self.frame)]
        self.line.open(part.subtask if what == "name" else part.memory)

    def leave(self, way: str, keep: bool = True) -> None:
        """keep: if it can be; who wants to leave half a work says so. Untouched, it stays as it was."""
        if keep and (self.draft.changed or way == "next"):
            self._save(self.episode.number, self.draft.segments())
        self.over = way

    def _typed(self, text: str) -> None:
        if self._typing == "name":
            self.draft.name(self.frame, self.subtasks.meant(text))
        else:
            self.draft.remember(self.frame, " ".join(text.split()))


class View:
    """A screen of marks: the picture, beside it the segments, below it the time, the words and the keys."""

    def __init__(self, marks: Marks):
        self.marks = marks

    def lines(self, console: Console, width: int, height: int) -> Lines:
        """`height` lines of exactly `width` cells."""
        marks, episode = self.marks, self.marks.episode
        foot = [self._bar(width), self._said(), *(_text(f" {keys}", dim=True) for keys in KEYS)]
        now = f"{episode.second(marks.frame):.2f} of {episode.end:.2f} s, frame {marks.frame}"
        head = [_text(f" {marks.title} {now}{'  playing' if marks.playing else ''}", bold=True)]
        head.append(_text(f" {episode.instruction}"))
        body = max(1, height - len(head) - len(foot))
        left = self._picture(console, width, body)
        taken = Cells.get_line_length(left[0]) if left else 0
        right, out = self._parts(body), head
        for row in range(body):
            picture = left[row] if row < len(left) else [Cells(" " * taken)]
            out.append([*picture, Cells(" "), *(right[row] if row < len(right) else [])])
        return [Cells.adjust_line_length(line, width) for line in [*out, *foot][:height]]

    def _picture(self, console: Console, width: int, rows: int) -> Lines:
        """The cameras below each other, as large as there is room for."""
        if console.color_system is None:
            return []
        episode, found = self.marks.episode, []
        share = rows // len(episode.cameras)
        for camera in episode.cameras:
            image = episode.picture(camera, self.marks.frame)
            high, wide = image.shape[:2]
            columns = min(width - WORDS, int(2 * share * wide / high))
            if columns >= LEAST:
                found += half_blocks(image, columns)[:share]
        widest = max((Cells.get_line_length(line) for line in found), default=0)
        return [Cells.adjust_line_length(line, widest) for line in found]

    def _parts(self, rows: int) -> Lines:
        """The segments around here, and the list to choose from."""
        marks = self.marks
        here, said = marks.draft.at(marks.frame), shown(marks.draft, marks.episode)
        known = [f"  {k} {text}" for k, text in enumerate(marks.subtasks.known, 1)]
        room = max(1, rows - len(known) - 1) if known else rows
        first = max(0, min(here - room // 2, len(said) - room))
        found = [
            [
                Cells("> " if k == here else "  ", Style(bold=True)),
                Cells(text, Style(color=_colour(k), bold=k == here)),
            ]
            for k, text in list(enumerate(said))[first : first + room]
        ]
        return found + ([[], *(_text(text, dim=True) for text in known)] if known else [])

    def _bar(self, width: int) -> list[Cells]:
        """Time from left to right, coloured by segment, with the frame that is looked at."""
        marks, cells = self.marks, []
        count = len(marks.episode)
        here = marks.frame * (width - 1) // max(1, count - 1)
        for column in range(width):
            k = marks.draft.at(min(column * count // width, count - 1))
            cells.append(Cells(*("█", WHITE) if column == here else ("━", Style(color=_colour(k)))))
        return list(Cells.simplify(cells))

    def _said(self) -> list[Cells]:
        marks = self.marks
        if marks.typing:
            return [Cells(f" {marks.typing}: ", Style(bold=True, color="cyan")), Cells(f"{marks.line.text}▏")]
        return [Cells(f" {marks.message}", Style(bold=True, color="red"))]


def by_keys(
    episodes: list[Shown], subtasks: Subtasks, known: Known, save: Save, console: Console | None = None
) -> None:
    """One episode after the other, until all are done or the person leaves."""
    console = console or Console()
    screen, at = Screen(console), 0
    # who closes the terminal leaves too
    with leaving(), suppress(EOFError), Keyboard() as keyboard, console.screen():
        while at < len(episodes):
            episode = episodes[at]
            title = f"{episode.name} episode {episode.number} ({at + 1} of {len(episodes)})"
            marks = Marks(episode, Draft(len(episode), known(episode.number)), subtasks, save, title)
            while not marks.over:
                marks.tick()
                screen.draw(View(marks))
                for key in keyboard.read(PLAYING if marks.playing else GLANCE):
                    marks.press(key)
                    if marks.over:
                        break
            if marks.over == "quit":
                return
            at = max(0, at + (1 if marks.over == "next" else -1))


def _text(text: str, **style: bool) -> list[Cells]:
    return [Cells(text, Style(**style))]


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]
