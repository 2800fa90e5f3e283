"""The screen of a session: the front camera, beside it words, below these another camera, at the bottom keys.
Drawn for whatever size there is: narrow terminals lose the other camera, small ones both.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from agent.console.pictures import half_blocks
from agent.console.shown import Note, Part, Shown

WORDS = 44  # columns that words get at least
ROWS = 18  # that they get at least before there is another picture below them
LEAST, OTHER = 20, 14  # columns below which a picture shows nothing
KEYS = (
    "space pause", ". step", "-/+ speed", "x STOP", "r reset", "n next", "p nudge", "d drop", "enter say",
    "t drive", "v video", "q quit",
)  # fmt: skip
DRIVING = (
    "t hand back", "x STOP", "arrows move", "w/s up, down", "a/d turn", "g grip", "enter subtask: ...",
    "space pause", "q quit",
)  # fmt: skip
TYPING = "  an instruction, a correction, stop, go on, or subtask: ...   esc gives up"
OVER = "this one is over: n the next task, r again, or enter and say something else"
MARKS = {"": ("→", "bold yellow"), "done": ("✓", "green"), "cut": ("↷", "dim")}
WRITER = ("▏", "bold yellow")  # behind the last word that was written
BY = {"person": "you", "oracle": "the teacher"}
NOTES = {"you": "cyan", "warn": "red", "good": "bold green", "event": "dim"}
Lines = list[list[Segment]]


@dataclass
class Frame:
    """One screen of `shown`. typed: the line that is being typed, None while nobody types. pictures: "half"
    or "none".
    """

    shown: Shown
    typed: str | None = None
    pictures: str = "half"
    _size = (0, 0)  # of the front camera, columns and rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or console.size.height
        for number, line in enumerate(self.lines(console, options.max_width, height)):
            if number:
                yield Segment.line()
            yield from line

    def lines(self, console: Console, width: int, height: int) -> Lines:
        """`height` lines of exactly `width` cells."""
        foot = self._foot(width)
        body = max(1, height - 1 - len(foot))
        left = self._picture(console, width, body, 0)
        taken = Segment.get_line_length(left[0]) if left else 0
        self._size = taken, len(left)
        beside = width - taken - 1
        other = self._picture(console, beside, body - ROWS, 1) if left else []
        right = _words(console, self.shown, beside, body - len(other))
        right += [[] for _ in range(body - len(right) - len(other))] + other
        out = _render(console, _bar(self.shown), width)[:1]
        for row in range(body):
            picture = left[row] if row < len(left) else [Segment(" " * taken)]
            words = right[row] if row < len(right) else []
            out.append([*picture, Segment(" "), *Segment.adjust_line_length(words, beside)])
        out += [line for text in foot for line in _render(console, text, width)[:1]]
        return [Segment.adjust_line_length(line, width) for line in out[:height]]

    def place(self, column: int, row: int) -> tuple[float, float] | None:
        """(y, x) in the front camera, normalised, of a cell of what was drawn last; None outside of it."""
        (wide, high), row = self._size, row - 1  # below the first line
        return ((row + 0.5) / high, (column + 0.5) / wide) if row in range(high) and column < wide else None

    def _picture(self, console: Console, width: int, rows: int, number: int) -> Lines:
        """A camera: the first as large as leaves room for words, another with its name above."""
        cameras = list(self.shown.pixels.items())
        if self.pictures == "none" or number >= len(cameras) or console.color_system is None:
            return []
        name, image = cameras[number]
        high, wide = image.shape[:2]
        most = width - WORDS if number == 0 else width - 1
        side = min(most, int(2 * (rows - number) * wide / high)) // 2 * 2
        if side < (LEAST, OTHER)[number]:
            return []
        lines = half_blocks(image, side, self._point(name))[:rows]
        label = [_render(console, Text(f" {name} camera", "dim"), width)[0]] if number else []
        return label + [[Segment(" "), *line] if number else line for line in lines]

    def _point(self, camera: str) -> tuple[float, float] | None:
        target = self.shown.target
        return (target.y, target.x) if target is not None and target.camera == camera else None

    def _foot(self, width: int) -> list[Text]:
        shown = self.shown
        if self.typed is not None:
            said = Text.assemble((" > ", "bold cyan"), self.typed, ("▏", "bold cyan"))
            if not self.typed:
                said.append(TYPING, "dim")
            elif said.cell_len > width:  # the end is what one is typing
                said = said[said.cell_len - width :]
        elif shown.message:
            said = Text(f" {shown.message}", "bold red")
        else:
            said = Text(f" {OVER}" if shown.over else " ", "cyan")
        keys = []
        for key in DRIVING if shown.driving else KEYS:
            name, what = key.split(" ", 1)
            keys.append(Text.assemble((name, "bold red" if name == "x" else "bold"), (f" {what}", "dim")))
        return [
            _one_line(line) for line in (said, *(Text(" ") + line for line in _flow(keys, width - 1)[:2]))
        ]


def _words(console: Console, shown: Shown, width: int, rows: int) -> Lines:
    """What is asked, remembered, seen, how far it is; then the newest of subtasks and events that fit."""
    lines = _render(console, facts(shown, width), width)
    left = rows - len(lines) - 2
    events = [note for note in shown.notes if note.kind not in ("subtask", "start")]
    few = min(len(events), max(2, left // 3)) if left >= 6 else 0
    lines.append([])
    for part in shown.parts()[-max(1, left - few - (1 if few else 0)) :]:
        lines += _render(console, part_line(part, width), width)[:1]
    if few:
        lines.append([])
        for note in events[-few:]:
            lines += _render(console, _note(note), width)[:1]
    return lines[:rows]


def facts(shown: Shown, width: int) -> Table:
    """What is asked, remembered and seen, how far it is, and the numbers."""
    words = Table.grid(padding=(0, 1))
    words.add_column(style="dim", justify="right", width=11)
    words.add_column(ratio=1)
    words.add_row("instruction", Text(shown.instruction, "bold"))
    draft = shown.writing
    memory = Text(shown.memory or "nothing", "italic" if shown.memory else "italic dim")
    scene = Text(shown.scene, "italic")
    if draft is not None and not draft.subtask:
        if draft.scene:
            scene = Text.assemble((draft.scene, "italic"), WRITER)
        elif draft.memory:
            memory = Text.assemble((draft.memory, "italic"), WRITER)
    words.add_row("memory", memory)
    if scene:
        words.add_row("sees", scene)
    words.add_row("progress", _progress(shown, max(8, min(30, width - 26))))
    words.add_row("", Text("\n").join(_flow(_numbers(shown), width - 12)))
    return words


def _bar(shown: Shown) -> Text:
    """The first line: what runs, and how."""
    state, style = "running", "black on green"
    if shown.waits:
        state, style = "stopped: say go on", "black on yellow"
    if shown.driving:
        state, style = "you drive", "black on cyan"
    if shown.solved is not None:
        state, style = "solved", "bold black on bright_green"
    if shown.paused:
        state, style = "paused", "black on yellow"
    if shown.stopped:
        state, style = "EMERGENCY STOP: x or r frees the arm", "bold white on red"
    speed = "" if shown.speed == 1 else f"  speed {shown.speed:g}"
    bar = Text.assemble(
        (" steersman ", "bold reverse"), f" {shown.title} ", (f" {state} ", style),
        f"  {shown.seconds:.1f} s", (f"  {shown.clock}{speed}", "dim"),
    )  # fmt: skip
    if shown.recording:
        bar.append(f"  ● {shown.recording}", "bold red")
    return _one_line(bar)


def _progress(shown: Shown, width: int) -> RenderableType:
    if shown.progress is None:
        return Text("not judged: no goal is known", "dim")
    solved = shown.solved is not None
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(1.0, shown.progress, width, complete_style="green" if solved else "yellow")
    row.add_row(bar, Text(f"solved {shown.solved:.1f} s", "green") if solved else f"{shown.progress:.0%}")
    return row


def _numbers(shown: Shown) -> list[Text]:
    found = []
    if shown.margin is not None:
        found.append(f"margin {shown.margin:.1f}")
    if shown.look_ms is not None:
        found.append(f"look {shown.look_ms:.0f} ms")
    if shown.clock == "realtime" and shown.age_ms is not None:
        found.append(f"plan {shown.age_ms:.0f} ms old")
    if shown.hertz is not None:
        found.append(f"{shown.hertz:.0f} Hz")
    return [Text(text, "dim") for text in found]


def _flow(items: list[Text], width: int) -> list[Text]:
    """Items side by side, in as few lines as there must be."""
    lines = [Text()]
    for item in items:
        if lines[-1] and lines[-1].cell_len + item.cell_len + 2 > width:
            lines.append(Text())
        lines[-1].append("  " if lines[-1] else "").append_text(item)
    return lines


def part_line(part: Part, width: int = 1000) -> Text:
    """A subtask of the history: since when, how it ended, its words, and, while it is done, where it points
    if there is room.
    """
    mark, style = MARKS["done" if part.text == "done" else part.end]
    line = Text.assemble((f"{part.since:6.1f} s ", "dim"), (mark, style), " ")
    line.append(part.text, "dim" if part.end else "bold yellow")
    if part.by == "writing":
        line.append(*WRITER)
    elif part.by in BY:
        line.append(f"  by {BY[part.by]}", "cyan")
    if not part.end and part.where and line.cell_len + len(part.where) + 2 <= width:
        line.append(f"  {part.where}", "dim")
    return _one_line(line)


def _note(note: Note) -> Text:
    return _one_line(Text.assemble((f"{note.seconds:6.1f} s ", "dim"), (note.text, NOTES[note.kind])))


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _render(console: Console, what: RenderableType, width: int) -> Lines:
    options = console.options.update(width=max(1, width), height=None)
    return console.render_lines(what, options, pad=False, style=Style.null())
