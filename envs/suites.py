"""Suites: which task families an episode is drawn from, and which seeds belong to training and to evaluation.

An episode is a (suite, seed, family). Evaluation seed S of a user is world seed `EVALUATION_START` + S, which
no training episode ever uses. Without a family the seed chooses it: seeds go round the suite's families, so
any run of consecutive seeds is balanced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.errors import WorldError
from envs.tabletop.language import FAMILIES
from envs.tabletop.sampling import sample_task
from envs.tabletop.tasks import Task

EVALUATION_START = 10_000_000  # training seeds are 0 .. EVALUATION_START - 1


@dataclass(frozen=True)
class Suite:
    """A named set of episodes. `training`: whether demonstrations may be drawn from it."""

    name: str
    families: tuple[str, ...]
    about: str
    training: bool = True


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("core", FAMILIES, "every family, short"),
        Suite("long", ("sort", "stack", "stow", "clear", "press"), "four to eight subtasks"),
        Suite("memory", ("press", "swap"), "what the picture alone does not tell"),
        Suite("correction", ("sort", "stack", "stow"), "the instruction changes midway"),
        Suite("perturbed", ("sort", "stack", "stow", "clear", "swap"), "things are moved or dropped midway"),
        Suite("unseen", ("sort", "stack"), "pairs of colours that training never shows", training=False),
    )
}


def get_suite(name: str) -> Suite:
    """A suite by name. Raises WorldError naming the known ones."""
    if name not in SUITES:
        raise WorldError(f"unknown suite {name!r}; known: {', '.join(SUITES)}")
    return SUITES[name]


def suite_family(suite: str, seed: int, family: str | None = None) -> str:
    """The family of an episode: the one asked for, or the seed's turn. Raises WorldError for unknown
    names."""
    families = get_suite(suite).families
    if family is None:
        return families[int(seed) % len(families)]
    if family not in families:
        raise WorldError(f"unknown family {family!r} in suite '{suite}'; known: {', '.join(families)}")
    return family


def suite_task(suite: str, seed: int, family: str | None = None) -> Task:
    """The task of an episode. The same (suite, seed, family) gives the same task; WorldError for a negative
    seed."""
    if seed < 0:
        raise WorldError(f"a seed is a whole number from 0 up; got {seed}")
    name = suite_family(suite, seed, family)
    rng = np.random.default_rng([int(seed), list(SUITES).index(suite), FAMILIES.index(name)])
    return sample_task(name, rng, suite)
