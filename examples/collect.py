"""Record demonstrations as a LeRobot dataset; with --checkpoint a DAgger round, in which the agent drives
in turn.

    python examples/collect.py --out data/demonstrations --episodes 1200 --suites core core long memory
    python examples/collect.py --out data/dagger-1 --episodes 300 --seed 1000000 --checkpoint runs/nano/policy
    python examples/collect.py --out data/scene --suites ogbench_scene --episodes 200
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from training.collect import collect


def main(
    out: Path = Path("data/demonstrations"),
    suites: tuple[str, ...] = ("core",),
    episodes: int = 600,
    seed: int = 0,
    families: tuple[str, ...] | None = None,
    checkpoint: str | None = None,
    workers: int | None = None,
    drawing: Literal["published", "fast"] = "published",
) -> int:
    """Options of `steersman collect`.

    Args:
        out: the dataset; episodes that are there already are not made again.
        suites: taken in turn; name one twice for twice its share. Suites of a benchmark that has a teacher
            (metaworld_*, ogbench_*) are recorded in its own layout.
        episodes: how many in all.
        seed: the first seed; the others follow. Below 10000000, where evaluation begins.
        families: only these task families, or a benchmark's tasks.
        checkpoint: a policy to drive in turn with the teacher (DAgger).
        workers: processes; the number of cores by default.
        drawing: of a benchmark's pictures: as its own package draws them, or fast, without shadows and the
            like.
    """
    writer = collect(out, suites, episodes, seed, families, checkpoint, workers, drawing=drawing)
    solved = sum(episode["success"] for episode in writer.episodes)
    print(f"{out}: {len(writer.episodes)} episodes ({solved} solved), {writer.frames} frames")
    return 0


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.collect", "collect.py", sys.argv[1:]))
