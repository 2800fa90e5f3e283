"""Evaluation on many machines, through Ray: the same slots as in a process here, one worker for each free
processor (or graphics card). The seeds wait in a queue; records come back as they are made and are kept here.
"""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.evaluation.provenance import provenance
from agent.evaluation.settings import Settings
from agent.evaluation.slots import Measure, Slots
from backbone.errors import UserError
from envs.errors import WorldError

Record = dict[str, Any]
SAME = ("steersman", "torch", "mujoco", "numpy")  # versions that seeds are the same with


def run_on_ray(
    settings: Settings,
    seeds: Sequence[int],
    take: Callable[[Record], bool],
    measure: Measure | None,
    address: str,
    workers: int | None = None,
    met: Callable[[dict[str, Any]], None] = lambda who: None,
) -> None:
    """address: a cluster's ("auto": the one this machine is in), or "local" for one that is begun here and
    ended afterwards. workers: as many as the cluster has processors by default. met: told each machine's
    provenance.

    A worker that dies costs its episodes (error records) and is replaced. UserError where Ray or the cluster
    is not there, and where a machine has other versions than this one.
    """
    try:
        import ray
        from ray.util.queue import Empty, Queue
    except ImportError:
        raise UserError("ray: expected the package 'ray', found none; pip install 'steersman[ray]'") from None
    mine = not ray.is_initialized()
    if mine:
        try:
            where = {} if address == "local" else {"address": address}
            ray.init(**where, log_to_driver=False, include_dashboard=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"ray: expected a cluster at '{address}', found none ({reason})") from None
    share = {"num_gpus": 1} if (settings.device or "").startswith("cuda") else {"num_cpus": 1}
    there = ray.cluster_resources()
    most = int(there.get("GPU" if "num_gpus" in share else "CPU", 0))
    if most < 1:
        raise UserError(f"ray: expected a cluster with a free {list(share)[0][4:]}, got {there}")
    actor = ray.remote(**share)(Worker)
    todo, said = Queue(actor_options={"num_cpus": 0}), Queue(actor_options={"num_cpus": 0})
    crew: dict[Any, tuple[int, Any]] = {}  # what it is at -> its number, itself
    at: dict[int, set[int]] = {}  # each one's seeds
    ready: set[int] = set()
    left, versions, stopped = set(seeds), provenance()["versions"], False

    def hire() -> None:
        number = len(at)
        at[number] = set()
        worker = actor.remote()
        work = worker.work.remote(number, settings, weights, measure, todo, said)
        crew[work] = number, worker

    def keep(record: Record) -> None:
        nonlocal stopped
        left.discard(record["seed"])
        if take(record):
            stopped = True
            _empty(todo, Empty)  # what has begun goes on to its end

    try:
        weights = [(name, ray.put(data)) for name, data in _weights(settings)]
        for seed in seeds:
            todo.put(seed)
        for _ in range(min(workers or most, most, -(-len(seeds) // settings.batch))):
            hire()
        while crew:
            try:
                number, kind, value = said.get(timeout=0.5)
            except Empty:
                ended, _ = ray.wait(list(crew), num_returns=1, timeout=0)
                for work in ended:
                    number, _ = crew.pop(work)
                    try:
                        ray.get(work)
                    except ray.exceptions.RayError as error:
                        line = f"the worker ended: {str(error).strip().splitlines()[0]}"
                        if number not in ready:
                            reason = str(error).strip().splitlines()[-1]
                            raise UserError(
                                f"ray: expected workers that begin, one ended ({reason})"
                            ) from None
                        for seed in sorted(at[number]):
                            keep({"seed": seed, "error": line})
                        if not todo.empty():
                            hire()
                continue
            if kind == "refused":
                raise UserError(value)
            if kind == "met":
                other = {n: v for n, v in value["versions"].items() if n in SAME and v != versions[n]}
                if other:
                    name, got = next(iter(other.items()))
                    where = value["host"]
                    raise UserError(f"ray: expected {name} {versions[name]} everywhere, got {got} on {where}")
                ready.add(number)
                met({name: part for name, part in value.items() if name != "host"})
            elif kind == "began":
                at[number].add(value)
            else:
                at[number].discard(value["seed"])
                keep(value)
        for seed in () if stopped else sorted(left):
            keep({"seed": seed, "error": "the worker that was given it ended"})
    finally:
        for _, worker in crew.values():
            ray.kill(worker)
        for queue in (todo, said):
            queue.shutdown(force=True)
        if mine:
            ray.shutdown()


class Worker:
    """On one of the machines."""

    def work(
        self, number: int, settings: Settings, weights: list, measure: Measure | None, todo, said
    ) -> None:
        """Take seeds until there are none, and say what comes of them."""
        import ray
        from ray.util.queue import Empty

        said.put((number, "met", provenance() | {"host": platform.node()}))
        with tempfile.TemporaryDirectory() as folder:
            for name, data in weights:
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes(ray.get(data))
            if weights:
                settings = dataclasses.replace(settings, checkpoint=folder)
            try:
                if settings.networked:
                    import torch

                    torch.set_num_threads(1)
                slots = Slots(settings, measure)
            except (UserError, WorldError) as error:
                said.put((number, "refused", str(error)))
                return

        def seeds() -> Iterator[int]:
            while True:
                try:
                    seed = todo.get_nowait()
                except Empty:
                    return
                said.put((number, "began", seed))
                yield seed

        def take(record: Record) -> bool:
            said.put((number, "record", record))
            return False

        slots.run(seeds(), take)
        slots.close()


def _weights(settings: Settings) -> Iterator[tuple[str, bytes]]:
    """The files of a checkpoint that other machines may not have: (name, content)."""
    from backbone import checkpoint

    if not settings.networked or settings.checkpoint in checkpoint.shipped():
        return
    folder = checkpoint.find(settings.checkpoint)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def _empty(queue, empty: type[Exception]) -> None:
    while True:
        try:
            queue.get_nowait()
        except empty:
            return
