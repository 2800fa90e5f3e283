"""By hand in lines of text, for pipes, files and other programs:

0-2.4 pick up the red block
2.4-end put it in the drawer | the drawer was open
save
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from backbone.errors import UserError
from highlevel.language_model import shortened
from training.annotate.draft import Draft
from training.annotate.episodes import Shown
from training.annotate.segments import Segment, Subtasks

HELP = (
    "lines: START-END SUBTASK [| MEMORY] (seconds; END may be 'end'), undo, show, save, skip, episode N, "
    "quit; an empty line saves"
)
_TIME = r"(\d+(?:\.\d+)?)s?"
_SEGMENT = re.compile(rf"{_TIME}\s*-\s*(?:{_TIME}|(end))\s+(.+)", re.IGNORECASE)
_EPISODE = re.compile(r"episode\s+(\d+)", re.IGNORECASE)

Known = Callable[[int], Sequence[Segment]]  # labels that an episode has already
Save = Callable[[int, Sequence[Segment]], None]


def by_lines(
    given: Iterable[str], episodes: Sequence[Shown], subtasks: Subtasks, known: Known, save: Save
) -> list[str]:
    """One episode after the other as the lines say. What is wrong is told and nothing changed; the end of the
    lines saves what is whole. Returns what was wrong.
    """
    wrong: list[str] = []

    def told(error: UserError) -> None:
        wrong.append(str(error))
        print(f"! {error}", flush=True)

    lines, at = iter(given), 0
    places = {episode.number: k for k, episode in enumerate(episodes)}
    print(HELP, flush=True)
    while at < len(episodes):
        episode = episodes[at]
        draft = Draft(len(episode), known(episode.number))
        print(f"episode {episode.number}: 0 to {episode.end:.2f} s, {episode.instruction}", flush=True)
        at += 1
        for command, rest in _commands(lines):
            try:
                if command == "segment":
                    put(draft, episode, subtasks, rest)
                elif command == "undo":
                    draft.undo()
                elif command == "show":
                    print("\n".join(shown(draft, episode)), flush=True)
                elif command == "save":
                    save(episode.number, draft.segments())
                    print(f"saved episode {episode.number}", flush=True)
                    break
                elif command == "ended":
                    if draft.changed:
                        save(episode.number, draft.segments())
                        print(f"saved episode {episode.number}", flush=True)
                    return wrong
                elif command == "quit":
                    return wrong
                elif command == "skip":
                    break
                else:
                    if int(rest) not in places:
                        raise UserError(f"episode: expected one of those to be labelled, got {rest}")
                    at = places[int(rest)]
                    break
            except UserError as error:
                told(error)
                if command == "ended":
                    return wrong
    return wrong


def put(draft: Draft, episode: Shown, subtasks: Subtasks, line: str) -> None:
    """Do what a line says: START-END SUBTASK [| MEMORY]."""
    found = _SEGMENT.fullmatch(line)
    if found is None:
        raise UserError(f"line: expected START-END SUBTASK [| MEMORY] or a command, got {shortened(line)}")
    words, _, memory = found[4].partition("|")
    start, end = float(found[1]), episode.end if found[3] else float(found[2])
    if end > episode.end + 0.5 / episode.fps:
        raise UserError(f"segment: expected an end by {episode.end:.2f} s, got {end:g}")
    subtask = subtasks.meant(words)
    draft.put(episode.frame(start), episode.frame(end), subtask, " ".join(memory.split()))


def shown(draft: Draft, episode: Shown) -> list[str]:
    """The draft in lines that could be given."""
    found = []
    for part in draft.parts:
        memory = f" | {part.memory}" if part.memory else ""
        start, end = episode.second(part.start), episode.second(part.end)
        found.append(f"{start:.2f}-{end:.2f} {part.subtask or '...'}{memory}")
    return found


def _commands(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        text = " ".join(line.split())
        if episode := _EPISODE.fullmatch(text):
            yield "episode", episode[1]
        elif text.lower() in ("undo", "show", "save", "skip", "quit", ""):
            yield text.lower() or "save", ""
        elif not text.startswith("#"):
            yield "segment", text
    while True:
        yield "ended", ""
