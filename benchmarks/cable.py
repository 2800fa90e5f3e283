"""What breaks between agent and robot, at random moments: does the arm hold, and go on when it is over?

    python benchmarks/cable.py --moments 200 --out cable.json

The simulated robot (`steersman run --robot sim`) in wall time, the agent beside it, both levels of the agent
on a server in a process of its own (`steersman serve`), a line between them that can be cut, and a recording.
At random moments of its episodes something breaks for a while: the server is killed and started again, or
stands still; the network is pulled (nobody is told) or refuses; the robot's cable is out, its driver hangs, a
camera freezes or goes dark.

"holds" is the time from the fault to the robot's first tick (of 50 ms) that it is told to hold still and that
is followed by none that it is not; "still" to the first in which the hand no longer moved, whose servos have
to brake; "late": after `limit` it was told to move, and moved. "acts" is the time from the end of the fault
until a command reached the robot that moves it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
import websockets.sync.client
from cut import Cable

from agent import live
from agent.evaluation.statistics import quantile, wilson
from agent.loop import Agent
from agent.operate import Operator
from agent.policies import open_policy
from agent.recording import Frame, Recording
from agent.recording.runs import RunReader, RunWriter
from envs.hardware import Hardware
from envs.robots.config import read_config
from envs.robots.sim import SimRobot

KINDS = (
    "server killed", "server stands still", "network pulled", "network refuses", "robot disconnected",
    "driver hangs", "camera frozen", "camera dark",
)  # fmt: skip


@dataclass
class Settings:
    """moments: how many faults. kinds: of these. gap, lasts: seconds (least, most) between two, and of one.
    limit: seconds in which the arm has to hold. still: metres a second, below which it does. patience:
    seconds in which it has to act again.
    """

    moments: int = 200
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    suite: str = "core"
    checkpoint: str = "nano"
    gap: tuple[float, float] = (1.0, 4.0)
    lasts: tuple[float, float] = (0.5, 2.0)
    limit: float = 0.2
    still: float = 0.02
    patience: float = 6.0
    seconds: float = 60.0
    out: Path | None = None


class Server:
    """`steersman serve` in a process of its own, on the same port each time."""

    def __init__(self, checkpoint: str):
        self._checkpoint = checkpoint
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "steersman", "serve", "--checkpoint", self._checkpoint]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([*command, "--port", str(self.port)], **quiet)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                with websockets.sync.client.connect(f"ws://127.0.0.1:{self.port}", open_timeout=60) as line:
                    line.recv(timeout=60)
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit("the server did not start")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Watched(SimRobot):
    """thought: when a command reached it that moves the hand. done: of each tick when it began, whether it
    did such a command, and the hand's speed in it (metres a second).
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.thought: list[float] = []
        self.done: list[tuple[float, bool, float]] = []

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        done = super().send_action(action)
        if any(value for name, value in done.items() if name != "gripper"):
            self.thought.append(time.perf_counter())
        return done

    def _tick(self, env: Any) -> bool:
        began, given = time.perf_counter(), super()._tick(env)
        self.done.append((began, bool(self.commanded[:-1].any()), self.hand_speed()))
        return given


@dataclass
class Log:
    """A writer of recordings that only counts, and takes the times of events."""

    name: str = "log"
    pictures: bool = False
    events: list[tuple[float, str]] = field(default_factory=list)
    frames: int = 0
    episodes: list[int] = field(default_factory=list)

    def begin(self, run: Any) -> None:
        self.frames = 0

    def add(self, frame: Frame) -> None:
        now, self.frames = time.perf_counter(), self.frames + 1
        self.events += [(now, event) for event in frame.step.events]

    def told(self, what: str, text: str) -> None: ...

    def end(self) -> None:
        self.episodes.append(self.frames)

    def drop(self) -> None: ...

    def close(self) -> None: ...


def main(settings: Settings) -> None:
    draw = random.Random(settings.seed)
    server = Server(settings.checkpoint)
    log, rows, solved = Log(), [], []
    with Cable(server.port) as cable, tempfile.TemporaryDirectory() as folder:
        policy = open_policy(f"ws://127.0.0.1:{cable.port}")
        hardware = Hardware(read_config("sim"), Watched(suite=settings.suite))
        agent = Agent(policy, clock=live.clock(hardware.rate))
        with hardware, Recording(RunWriter(folder), log) as recording:
            operator = Operator(hardware, agent, recording, linger=0.5)
            breaker = Breaker(settings, draw, server, cable, hardware.robot, agent, log, rows)
            episode = 0
            while len(rows) < settings.moments:
                while hardware.down is not None or policy.link.down is not None:
                    time.sleep(0.05)  # what was broken last is being connected again
                hardware.robot.begin(1000 + episode)
                breaker.go()
                outcome = operator.episode(
                    1000 + episode, hardware.robot.instruction, settings.seconds, rest=False
                )
                breaker.pause()
                solved.append(bool(outcome.solved))
                told = outcome.cadence.faults
                print(f"episode {episode}: {outcome.ended}, {len(rows)} moments so far, {told}", flush=True)
                episode += 1
        runs = RunReader(folder)
        whole = [footer["length"] for footer in runs.episodes]
        agent.clock.beside.close()
        policy.close()
    server.kill()
    report(settings, rows, solved, whole == log.episodes, sum(whole))


class Breaker:
    """Breaks things while an episode runs, in a thread of its own."""

    def __init__(self, settings, draw, server, cable, robot, agent, log, rows):
        self.settings, self.draw, self.rows = settings, draw, rows
        self.server, self.cable, self.robot, self.agent = server, cable, robot, agent
        self.log = log
        self._going, self._idle = threading.Event(), threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def go(self) -> None:
        """Once the arm has moved: what breaks before that ends a run."""
        self._moved = len(self.robot.thought)
        self._going.set()

    def pause(self) -> None:
        """After what is broken now."""
        self._going.clear()
        with self._idle:
            pass

    def _run(self) -> None:
        while True:
            self._going.wait()
            time.sleep(self.draw.uniform(*self.settings.gap))
            with self._idle:
                if self._going.is_set() and len(self.robot.thought) > self._moved:
                    if len(self.rows) < self.settings.moments:
                        self._break(self.draw.choice(self.settings.kinds))

    def _break(self, kind: str) -> None:
        wrong, right = self._ways(kind)
        began, lasts = time.perf_counter(), self.draw.uniform(*self.settings.lasts)
        speed = self.robot.hand_speed()
        wrong()
        time.sleep(lasts)
        ticks = [tick for tick in self.robot.done if tick[0] > began]
        row = {"kind": kind, "speed": speed, "lasts": time.perf_counter() - began}
        row["holds"] = _last(ticks, lambda told, v: told, began)
        row["still"] = _last(ticks, lambda told, v: v > self.settings.still, began)
        late = [at for at, told, v in ticks if told and v > self.settings.still]
        row["late"] = max(late, default=began) - began > self.settings.limit
        row["before"] = [event for at, event in self.log.events[-20:] if at < began]
        right()
        ended = time.perf_counter()
        while time.perf_counter() < ended + self.settings.patience:
            if (again := next((at for at in self.robot.thought[-50:] if at > ended), None)) is not None:
                row["acts"] = again - ended
                break
            if not self._going.is_set() or self.agent.done:  # it was over: nothing is left to be done
                row["over"] = True
                break
            time.sleep(0.01)
        row["events"] = [event for at, event in self.log.events[-200:] if at >= began]
        self.rows.append(row)

    def _ways(self, kind: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """How it is broken, and mended."""
        faults, camera = self.robot.faults, self.draw.choice(("front", "wrist"))
        return {
            "server killed": (self.server.kill, self.server.start),
            "server stands still": (
                lambda: self.server.signal(signal.SIGSTOP),
                lambda: self.server.signal(signal.SIGCONT),
            ),
            "network pulled": (self.cable.pull, self.cable.plug),
            "network refuses": (self.cable.refuse, self.cable.plug),
            "robot disconnected": (faults.disconnect, faults.heal),
            "driver hangs": (faults.hang, faults.heal),
            "camera frozen": (lambda: faults.freeze(camera), faults.heal),
            "camera dark": (lambda: faults.blind(camera), faults.heal),
        }[kind]


def _last(
    ticks: list[tuple[float, bool, float]], moves: Callable[[bool, float], bool], began: float
) -> float:
    """Seconds from `began` to the first tick after all in which something moved; 0 where nothing did."""
    moving = [i for i, (_, told, speed) in enumerate(ticks) if moves(told, speed)]
    after = moving[-1] + 1 if moving else 0
    return (ticks[after][0] if after < len(ticks) else time.perf_counter()) - began if moving else 0.0


def report(settings: Settings, rows: list[dict], solved: list[bool], whole: bool, frames: int) -> None:
    heads = f"{'n':>5}{'moving':>8}{'holds ms p50':>14}{'most':>7}{'late':>6}{'still ms p50':>14}{'most':>7}"
    print(f"{'':22}{heads}{'acts s p50':>12}{'most':>7}")
    for kind in (*settings.kinds, "all"):
        mine = [row for row in rows if kind in (row["kind"], "all")]
        if not mine:
            continue
        holds, still, acts = ([r[name] for r in mine if name in r] for name in ("holds", "still", "acts"))
        moving = sum(row["speed"] > settings.still for row in mine)
        late = sum(row["late"] for row in mine)
        told = f"{kind:22}{len(mine):5}{moving:8}{quantile(holds, 0.5) * 1000:14.0f}{max(holds) * 1000:7.0f}"
        told += f"{late:6}{quantile(still, 0.5) * 1000:14.0f}{max(still) * 1000:7.0f}"
        told += f"{quantile(acts, 0.5):12.2f}{max(acts):7.2f}" if acts else ""
        print(told)
    never = sum("acts" not in row and "over" not in row for row in rows)
    low, high = wilson(sum(solved), len(solved))
    print(
        f"{never} of {len(rows)} did not act again within {settings.patience:g} s; {sum(solved)} of "
        f"{len(solved)} episodes solved ({low:.0%} to {high:.0%}); recordings "
        f"{'whole' if whole else 'NOT WHOLE'}, {frames} frames"
    )
    if settings.out is not None:
        settings.out.write_text(json.dumps({"rows": rows, "solved": solved, "whole": whole}, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Settings))
    os._exit(0)
