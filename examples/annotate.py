"""Give the episodes of a LeRobot dataset subtask and memory labels: by a vision-language model, or by hand in
the terminal (over a pipe: lines of text). The same command goes on where it was cut off.

    python examples/annotate.py data/mine --by openai:MODEL@http://localhost:8000/v1 --subtasks subtasks.txt
    python examples/annotate.py data/mine --by vlm:path/to/model --out data/labelled
    python examples/annotate.py data/mine --by hand
    echo "0-2.4 pick up the red block" | python examples/annotate.py data/mine --by hand --episodes 3
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from agent.planners import LOCAL, SERVED, open_planner
from backbone.errors import UserError
from training.annotate.asking import Asker
from training.annotate.lines import by_lines
from training.annotate.run import at_terminal, by_model, compared, lines_of, opened, read_subtasks

HAND = "hand"
WORDS = 1500  # tokens of an answer, at most


def main(
    dataset: Annotated[str, tyro.conf.Positional],
    by: str = HAND,
    out: Path | None = None,
    subtasks: tuple[str, ...] = (),
    cameras: tuple[str, ...] = (),
    episodes: tuple[int, ...] = (),
    redo: bool = False,
    language_columns: bool = False,
    frames: int = 32,
    rate: float = 2.0,
    side: int = 336,
    tries: int = 3,
    refine: bool = False,
    at_once: int = 1,
    timeout: float = 120.0,
    new_tokens: int = WORDS,
    device: str = "cpu",
    compare: str | None = None,
) -> int:
    """Options of `steersman annotate`.

    Args:
        dataset: a folder or a hub id, LeRobot v3.
        by: hand, vlm:DIRECTORY_OR_HUB_ID or openai:MODEL@BASE_URL.
        out: label a copy there instead of the dataset itself.
        subtasks: the only ones there may be, and files with one a line.
        cameras: to be shown; the first one by default.
        episodes: only these.
        redo: episodes too that have labels already.
        language_columns: write LeRobot's language columns too, which LeRobot 0.4 cannot read.
        frames: the most that a model is shown of an episode.
        rate: frames a second that it is shown, as far as that many allow.
        side: pixels of the longer side of what it is shown.
        tries: how often it is asked about an episode.
        refine: ask about each change of subtask once more, shown the frames around it.
        at_once: episodes that a server is asked about at the same time.
        timeout: seconds for an answer of a server.
        new_tokens: the most that it may write.
        device: of a vlm.
        compare: a dataset of the same episodes with true labels, to tell how far they agree.
    """
    if by != HAND and not by.startswith((LOCAL, SERVED)):
        raise UserError(f"by: expected hand, vlm:NAME or openai:MODEL@BASE_URL, got '{by}'")
    known, label, wrong = read_subtasks(subtasks), None, None
    if by != HAND:
        served = by.startswith("openai:")
        options = {"timeout": timeout, "patience": 2 * timeout, "picture": "jpeg"} if served else {}
        model = open_planner(by, device=device, new_tokens=new_tokens, **options)
        label = Asker(model, known, frames, rate, side, tries, refine)
    with opened(dataset, out, cameras, redo, episodes) as work:
        if work.before:
            print(f"{work.before} of {work.chosen} episodes have labels (--redo for new ones)", flush=True)
        try:
            if label is not None:
                by_model(work, label, by, at_once)
            elif work.todo:
                given = work.todo, known, lambda n: work.known.get(n, ()), lambda n, s: work.save(n, s, HAND)
                if at_terminal():
                    from training.annotate.screen import by_keys  # it takes a second

                    by_keys(*given)
                else:
                    wrong = by_lines(lines_of(sys.stdin), *given)
        except UserError:
            if work.journal.labels:
                print(f"what was labelled is kept in {work.journal.path}; the same command goes on")
            raise
        files = work.apply(language_columns)
        left = [e.number for e in work.episodes if e.number not in work.known]
        print(f"{work.root}: {len(work.known)} of {len(work.episodes)} episodes labelled, {files} files new")
        if kept := [n for n in work.failed if n in work.known]:
            print(f"with the labels that they had: {' '.join(map(str, kept))}")
        if left:
            print(f"without labels: {' '.join(map(str, left))}")
        if compare is not None:
            print(compared(work.known, compare))
    return 1 if work.failed or wrong else 0


if __name__ == "__main__":
    from steersman.cli import run

    sys.exit(run("examples.annotate", "annotate.py", sys.argv[1:]))
