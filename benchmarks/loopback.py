"""What the benchmarks of the policy server share: a real one in a process of its own on loopback, what it
takes of memory and processor, and looks to ask it about.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

from agent.robots import ROBOTS
from agent.wire import pack, unpack
from backbone.errors import UserError
from backbone.observation import Observation
from envs.registry import make

START = 120.0  # seconds until a server must have said that it serves
SERVING = re.compile(r"serving .* at (wss?)://127\.0\.0\.1:(\d+)")


class Served:
    """`steersman serve` in a process, with these options, until the `with` ends. log: what it said."""

    def __init__(self, *options: str):
        self.log = Path(tempfile.mkstemp(prefix="serve", suffix=".log")[1])
        command = [sys.executable, "-m", "steersman", "serve", "--port", "0", *options]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.pid = self.process.pid
        until = time.monotonic() + START
        while (found := SERVING.search(self.log.read_text())) is None:
            if self.process.poll() is not None or time.monotonic() > until:
                self.close()
                raise UserError(
                    f"server: expected one that serves, got {self.log.read_text().strip()[-300:]}"
                )
            time.sleep(0.1)
        self.scheme, self.port = found[1], int(found[2])
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def memory(self) -> float:
        """Megabytes that are resident; NaN once it is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return float("nan")
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def metrics(self) -> dict[str, float]:
        """Name with labels -> number."""
        scheme, context = self.scheme.replace("ws", "http"), ssl._create_unverified_context()
        context = context if scheme == "https" else None
        with urlopen(f"{scheme}://127.0.0.1:{self.port}/metrics", timeout=60, context=context) as page:
            lines = [line.rsplit(" ", 1) for line in page.read().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in lines}

    def seconds(self) -> float:
        """Of a processor that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> int | None:
        """End it as Ctrl-C does -> its exit status; None if it had to be killed."""
        if self.alive:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self.log.unlink(missing_ok=True)


class Memory(threading.Thread):
    """The most that a server took, looked at ten times a second."""

    def __init__(self, served: Served):
        super().__init__(daemon=True)
        self.served, self.most, self.ended = served, 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.1):
            self.most = max(self.most, self.served.memory())


def looks(count: int, seed: int = 0, suite: str = "core") -> list[dict[str, Any]]:
    """Requests along an episode of the tabletop world, two pictures of 224x224 each, without extra keys."""
    env, rng, found = make(suite, pixels="lazy"), np.random.default_rng(seed), []
    env.begin(seed)
    for _ in range(count):
        seen = Observation.from_env(env.look(), env.task_description)
        found.append(ROBOTS["libero"].message(seen, env.task_description))
        for _ in range(4):  # of twenty a second
            env.step(np.clip(rng.normal(size=7) / 2, -1, 1).astype(np.float32))
    env.close()
    return found


def milliseconds(seconds: list[float], *quantiles: float) -> list[float]:
    """Of these, rounded; NaN of none."""
    if not seconds:
        return [float("nan")] * len(quantiles)
    return [round(1000 * float(np.quantile(seconds, q)), 2) for q in quantiles]


# --- clients that behave ---------------------------------------------------------------------------------


def behave(url: str, number: int, period: float, certificate: str | None, ended, pipe) -> None:
    """Ask along an episode again and again, in a session of one's own; send (when, seconds, how far from the
    first time's actions, whether the words are the same) of each, or why it is at an end.
    """
    import websockets.sync.client

    context = ssl.create_default_context(cafile=certificate) if certificate else None
    requests, first, told = looks(20, seed=number), [], []
    try:
        with websockets.sync.client.connect(url, compression=None, max_size=None, ssl=context) as line:
            unpack(line.recv(timeout=60))
            due, at = time.perf_counter(), 0
            while not ended.is_set():
                asked = (
                    requests[at] | {"session": f"good {number}", "id": at} | ({} if at else {"reset": number})
                )
                start = time.perf_counter()
                line.send(pack(asked))
                reply = unpack(line.recv(timeout=60))
                taken = time.perf_counter() - start
                if reply.get("id") != at or "actions" not in reply:
                    raise UserError(f"reply: expected actions for {at}, got {str(reply)[:300]}")
                if len(first) < len(requests):
                    first.append(reply)
                off = float(np.abs(reply["actions"] - first[at]["actions"]).max())
                told.append((start, taken, off, reply["subtask"] == first[at]["subtask"]))
                at = (at + 1) % len(requests)
                due = max(due + period, time.perf_counter() - period)
                ended.wait(max(0.0, due - time.perf_counter()))
        pipe.send((told, ""))
    except Exception as error:
        pipe.send((told, f"{type(error).__name__}: {error}"[:300]))


class Good:
    """Two of them, each in a process."""

    def __init__(self, url: str, period: float, certificate: str | None):
        context = multiprocessing.get_context("spawn")
        self.ended, self.pipes, self.processes = context.Event(), [], []
        for number in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=behave, args=(url, number, period, certificate, self.ended, theirs), daemon=True
            )
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def end(self, began: float, over: float) -> dict[str, Any]:
        """What became of them before and during [began, over]."""
        self.ended.set()
        found: dict[str, Any] = {"lost": []}
        rows, of_one = [], 0
        for pipe in self.pipes:
            told, error = pipe.recv() if pipe.poll(70) else ([], "no word from it")
            found["lost"] += [error] if error else []
            rows += told
        for name, there in (("before", lambda t: t < began), ("during", lambda t: began <= t < over)):
            taken = [seconds for at, seconds, _, _ in rows if there(at)]
            of_one = len(taken)
            found[name] = {"requests": of_one, "p50_p99_most_ms": milliseconds(taken, 0.5, 0.99, 1.0)}
        found["furthest"] = max((off for _, _, off, _ in rows), default=float("nan"))
        found["other_words"] = sum(not same for *_, same in rows)
        return found
