"""LIBERO's and LIBERO-PRO's suites: their tasks, instructions, published initial states and horizons.

Nothing of the benchmark's package is imported before its tasks are asked for.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from envs.errors import WorldError

# Control ticks that an episode may take, from openpi's evaluation of LIBERO; a variant has its suite's.
HORIZONS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
# LIBERO-PRO's: other words, other looks, other places, another goal. libero_90 has none.
VARIANTS = ("lan", "object", "swap", "task")
SUITES = (*HORIZONS, *(f"{s}_{v}" for s in HORIZONS if s != "libero_90" for v in VARIANTS))


@dataclass(frozen=True)
class LiberoTask:
    """name: as the benchmark calls it. instruction: what the robot is told. bddl: path of its definition.
    states: (n, 1 + nq + nv) float64, the published initial states, each time, qpos, qvel."""

    name: str
    instruction: str
    bddl: str
    states: np.ndarray


def base_suite(suite: str) -> str:
    """The suite of LIBERO that a variant was made from; itself for those five."""
    return suite if suite in HORIZONS else suite.rpartition("_")[0]


def told_by_file(suite: str) -> bool:
    """Whether a suite's instructions are those in its task files.

    `task.language` is read off a file's name, which a variant shares with the task it was made from. Where
    the perturbation is of the words (_lan) or of the goal (_task) that would be the unperturbed instruction:
    LIBERO-PRO's authors say to take the file's (their issue 14). The other suites keep `task.language`, as
    in every published result.
    """
    return suite not in HORIZONS and suite.endswith(("_lan", "_task"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the package's chatter (prints, and warnings of a missing macro file) out of our output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@cache
def tasks(suite: str) -> tuple[LiberoTask, ...]:
    """A suite's tasks in the benchmark's order. WorldError for a package that lacks or cannot find them."""
    if suite not in SUITES:
        raise WorldError(f"unknown suite {suite!r}; known: {', '.join(SUITES)}")
    with quiet():
        from libero.libero import benchmark

        found = benchmark.get_benchmark(suite)()
        numbers = range(found.n_tasks)
        paths = [found.get_task_bddl_file_path(i) for i in numbers]
        words = [t.language for t in found.tasks]
        try:
            states = [np.asarray(found.get_task_init_states(i), np.float64) for i in numbers]
            if told_by_file(suite):
                from libero.libero.envs.bddl_utils import get_problem_info

                words = [get_problem_info(path)["language_instruction"] for path in paths]
        except (OSError, ValueError) as error:  # such as paths set by another package's LIBERO_CONFIG_PATH
            raise WorldError(f"suite {suite}: its files are not there: {_line(error)}") from None
    names = [t.name for t in found.tasks]
    rows = zip(names, words, paths, states, strict=True)
    return tuple(LiberoTask(n, " ".join(w.split()), p, s) for n, w, p, s in rows)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
