"""Labelling a dataset: which episodes, who says what they are, and that nothing said is lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from backbone.errors import PolicyError, UserError
from training.annotate import writing
from training.annotate.episodes import Shown, cameras
from training.annotate.journal import Journal
from training.annotate.segments import Segment, Subtasks, agreement, gathered, texts
from training.lerobot import LeRobotDataset, find

Label = Callable[[Shown], Sequence[Segment]]
FAULTS = 2  # answers in a row that did not come: a server that is gone, not an episode that it refuses


class Work:
    """A dataset that is being labelled, by nobody else meanwhile. todo: episodes without labels; failed: why
    some were left so.
    """

    def __init__(self, root: Path, journal: Journal, shown: Sequence[str], redo: bool, wanted: Sequence[int]):
        self.root, self.journal, self.failed = root, journal, dict[int, str]()
        writing.finish(root)
        self.dataset = LeRobotDataset(root)
        shown = cameras(self.dataset, shown)
        self.episodes = [Shown(self.dataset, k, shown) for k in range(len(self.dataset.numbers))]
        numbers = {episode.number for episode in self.episodes}
        for number in wanted:
            if number not in numbers:
                raise UserError(f"episodes: expected some of {min(numbers)} to {max(numbers)}, got {number}")
        journal.read({episode.number: len(episode) for episode in self.episodes})
        there = writing.known_labels(root)
        self.known = {n: gathered(*there[n]) for n in numbers if n in there and all(there[n][0])}
        self.known |= journal.labels
        chosen = [episode for episode in self.episodes if not wanted or episode.number in wanted]
        if redo:
            journal.again([episode.number for episode in chosen if episode.number in self.known])
        self.todo = [e for e in chosen if e.number not in self.known or e.number in journal.due]
        self.chosen, self.before = len(chosen), len(chosen) - len(self.todo)

    def save(self, number: int, segments: Sequence[Segment], by: str) -> None:
        self.journal.add(number, segments, by)
        self.known[number] = tuple(segments)
        self.failed.pop(number, None)

    def apply(self, language: bool) -> int:
        """Write what is known into the data files; how many are new."""
        return writing.apply(self.root, self.journal.labels, language) if self.known else 0


@contextmanager
def opened(
    dataset: str | Path,
    out: Path | None = None,
    shown: Sequence[str] = (),
    redo: bool = False,
    episodes: Sequence[int] = (),
) -> Iterator[Work]:
    """A dataset, or its copy at `out`, to be labelled. redo: episodes too that have labels. UserError
    where that cannot be.
    """
    root = find(dataset)
    if not (root / "meta/info.json").is_file():
        LeRobotDataset(root)  # says what is missing
    if out is not None:
        if not out.exists():
            cameras(LeRobotDataset(root), shown)  # before it is copied
        root = writing.copied(root, out)
    writing.changeable(root)
    with Journal(root) as journal:
        yield Work(root, journal, shown, redo, episodes)


def by_model(work: Work, label: Label, by: str, at_once: int = 1) -> None:
    """Let a model label what is to be done, some episodes at a time. One that it cannot is left as it is.
    PolicyError where it does not answer any more; what was done is kept.
    """
    if at_once < 1:
        raise UserError(f"at-once: expected at least 1, got {at_once}")
    faults, done, todo = 0, 0, list(work.todo)
    pool = ThreadPoolExecutor(at_once, "label") if at_once > 1 else None

    def ask(episode: Shown) -> Callable[[], Sequence[Segment]]:
        return pool.submit(label, episode).result if pool else partial(label, episode)

    try:
        running = [(episode, ask(episode)) for episode in todo[:at_once]]
        rest = iter(todo[at_once:])
        while running:
            episode, answer = running.pop(0)
            done += 1
            try:
                segments = answer()
                work.save(episode.number, segments, by)
                faults, said = 0, f"{len(segments)} segments"
            except UserError as error:
                fault = isinstance(error, PolicyError)
                faults = faults + 1 if fault else 0
                if faults == FAULTS or (fault and len(todo) == 1):
                    raise
                work.failed[episode.number] = said = str(error)
                said = f"no labels: {said}"
            print(f"episode {episode.number} ({done} of {len(todo)}): {said}", flush=True)
            if (following := next(rest, None)) is not None:
                running.append((following, ask(following)))
    finally:
        if pool:
            pool.shutdown(wait=False, cancel_futures=True)


def read_subtasks(named: Sequence[str]) -> Subtasks:
    """Subtasks as they are given, or from files that hold one a line."""
    known: list[str] = []
    for name in named:
        path = Path(name)
        if path.is_file():
            try:
                known += path.read_text().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"subtasks: {path} cannot be read as text ({error})") from None
        elif path.suffix in (".txt", ".md", ".csv") or "/" in name:
            raise UserError(f"subtasks: expected a file or a subtask, found no file {name}")
        else:
            known.append(name)
    found = Subtasks(known)
    if named and not found.known:
        raise UserError(f"subtasks: expected some, got none in {', '.join(named)}")
    return found


def lines_of(stream) -> Iterator[str]:
    """As they come, without waiting for more than one."""
    while line := stream.readline():
        yield line


def compared(known: Mapping[int, Sequence[Segment]], true: str | Path) -> str:
    """How far labels agree with those of another dataset of the same episodes, in a line."""
    root = find(true)
    fps, there = LeRobotDataset(root).fps, writing.known_labels(root)
    both = [n for n in known if n in there and any(there[n][0])]
    if not both:
        raise UserError(f"compare: expected labels of the same episodes in {true}, found none")
    each = []
    for number in both:
        given, wanted = texts(known[number])[0], there[number][0]
        if len(given) != len(wanted):
            got = f"{len(given)} and {len(wanted)} frames in episode {number}"
            raise UserError(f"compare: expected the same episodes in {true}, got {got}")
        each.append((len(given), agreement(given, wanted)))
    frames = sum(count * one["frames"] for count, one in each) / sum(count for count, _ in each)
    found, extra = (sum(one[name] for _, one in each) / len(each) for name in ("found", "extra"))
    errors = sorted(one["error"] for _, one in each if one["error"] == one["error"])
    middle = f"{errors[len(errors) // 2] / fps:.2f} s" if errors else "unknown"
    return (
        f"compared with {true}, {len(both)} episodes: {frames:.1%} of frames have the same subtask; of its "
        f"changes {found:.1%} are found, {middle} off (median), and {extra:.1%} of ours are not there"
    )


def at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
