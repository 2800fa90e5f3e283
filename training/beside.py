"""Processes beside or of a training run: a closed-loop evaluation, and the workers of `--processes`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backbone.errors import UserError

_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU")


class Evaluation:
    """`steersman evaluate` on a checkpoint, in a process of its own. A failure costs the numbers, not the
    training.
    """

    def __init__(
        self,
        checkpoint: Path,
        out: Path,
        step: int,
        episodes: int,
        suite: str = "core",
        planner: str = "learned",
    ):
        self.step, self.out = step, out
        out.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "steersman.cli",
            "evaluate",
            "--checkpoint",
            checkpoint,
            "--out",
            out,
        ]
        command += ["--suite", suite, "--planner", planner, "--episodes", episodes, "--workers", 1]
        environment = {k: v for k, v in os.environ.items() if k not in _DISTRIBUTED} | {
            "OMP_NUM_THREADS": "1"
        }
        with (out / "output.txt").open("w") as output:
            self._process = subprocess.Popen(
                [str(c) for c in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,  # Ctrl-C is the training's to handle
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def result(self) -> dict[str, float] | None:
        """Success rate overall and per family; None if it failed (OUT/output.txt says why)."""
        try:
            summary = json.loads((self.out / "summary.json").read_text())
            rates = {name: family["rate"] for name, family in summary["families"].items()}
            values = {"success": summary["overall"]["rate"], "progress": summary["progress"]} | rates
            return {name: float(v) for name, v in values.items() if v is not None} or None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def stop(self) -> None:
        if self.running:
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()


def _worker(rank: int, count: int, port: int, threads: int, target: Callable, arguments: tuple) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    import torch

    torch.set_num_threads(threads)
    try:
        target(*arguments)
    except UserError as error:
        if rank == 0:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def on_processes(count: int, target: Callable, *arguments: Any) -> int:
    """Run `target(*arguments)` in `count` CPU processes that train together (gloo). Returns the worst exit
    code.

    On a CPU two processes of one thread each train faster than one of two threads.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // count)
    crew = [
        context.Process(target=_worker, args=(rank, count, port, threads, target, arguments))
        for rank in range(count)
    ]
    # Ctrl-C and SIGTERM reach or are passed to the workers, which stop together and save.
    passed = {s: signal.signal(s, lambda n, _: _pass_on(crew, n)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        for process in crew:
            process.start()
        while any(p.is_alive() for p in crew):
            for process in crew:
                process.join(timeout=0.5)
                if process.exitcode:  # the others would wait for it for ever
                    for other in crew:
                        other.join(timeout=5)
                        if other.is_alive():
                            other.terminate()
    finally:
        for number, handler in passed.items():
            signal.signal(number, handler)
    return max(abs(p.exitcode or 0) for p in crew)


def _pass_on(crew: list, number: int) -> None:
    for process in crew:
        # A terminal's Ctrl-C has reached the workers already, as one process group.
        if process.is_alive() and number == signal.SIGTERM:
            os.kill(process.pid, number)
