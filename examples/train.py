"""Train an agent: nano from a cache of demonstrations, a network of the pi family from LeRobot v3 datasets.
The same command resumes a run that was cut off.

python examples/train.py --cache data/cache --out runs/nano --minutes 60 --processes 2

python examples/train.py --init runs/pi05 --datasets data/mine --out runs/mine --steps 20000

accelerate launch examples/train.py ...        (GPUs)
"""

from __future__ import annotations

from typing import Annotated

import tyro

from training.beside import on_processes
from training.loop import Config, train


def main(config: Annotated[Config, tyro.conf.arg(name="")], processes: int = 1) -> int:
    """Options of `steersman train`.

    Args:
        config: the run.
        processes: CPU processes that train together, each with its share of the cores.
    """
    if processes > 1:
        return on_processes(processes, train, config)
    train(config)
    return 0


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.train", "train.py", sys.argv[1:]))
