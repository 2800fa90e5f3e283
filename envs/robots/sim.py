"""A robot that everyone has: the tabletop behind LeRobot's `Robot` interface, in wall time.

A thread steps the table at 20 Hz whether or not anybody is there, and draws what its cameras see. A command
counts for one tick, which begins when it comes if one is due; where none has come the arm holds. What real
ones do to you can be had on purpose: latency, jitter, dropped frames, and (`faults`) cameras that freeze or
die, a cable that is pulled, a driver that hangs. Neither lerobot nor torch is imported.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from typing import Any

import numpy as np

from envs.errors import WorldError
from envs.tabletop.cameras import CAMERAS
from envs.tabletop.env import TabletopEnv
from envs.tabletop.world import CONTROL_HZ

STATE = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right")
ACTION = ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper")
PATIENCE = 10.0  # seconds that the table may take to be there
SLACK = 0.025  # seconds after a tick was due, that the next command is waited for
HASTE = 0.001  # seconds sooner that a tick is due, for a command that waits
GRAINS = 16  # of noise in a frame
AHEAD = 2  # commands that wait at most: older ones are lost, else the arm would lag behind for ever


class Faults:
    """What goes wrong until `heal`. frozen, dark: cameras whose picture stays, and that fail."""

    def __init__(self):
        self.frozen: set[str] = set()
        self.dark: set[str] = set()
        self.cut = False
        self.well = threading.Event()  # cleared: calls hang
        self.well.set()

    def freeze(self, *cameras: str) -> None:
        """These (all, if none is named) show the same picture for ever."""
        self.frozen = set(cameras or CAMERAS)

    def blind(self, *cameras: str) -> None:
        """These (all, if none is named) give no picture: reading the robot raises."""
        self.dark = set(cameras or CAMERAS)

    def disconnect(self) -> None:
        """The cable is pulled: nothing gets through, connecting neither."""
        self.cut = True

    def hang(self) -> None:
        """Calls of the driver do not return."""
        self.well.clear()

    def heal(self) -> None:
        """All is well again. Who was cut off has to connect."""
        self.frozen, self.dark, self.cut = set(), set(), False
        self.well.set()


class SimRobot:
    """suite, family: of the tabletop; seed: which evaluation episode stands on the table when it is connected
    (`begin` sets another one up).

    latency: seconds until a frame can be read; jitter: their standard deviation; drop: the share of frames
    that is lost; noise: the seed of both. The state is that of the arm now, as encoders tell it.
    """

    name = "steersman"
    is_calibrated = True

    def __init__(
        self,
        suite: str = "core",
        family: str | None = None,
        seed: int = 0,
        latency: float = 0.0,
        jitter: float = 0.0,
        drop: float = 0.0,
        noise: int = 0,
    ):
        if not (0 <= latency < 10 and 0 <= jitter < 10 and 0 <= drop < 1):
            got = f"{latency}, {jitter} and {drop}"
            raise WorldError(
                f"robot: expected latency and jitter of 0 to 10 s, and drop from 0 to 1, got {got}"
            )
        self.suite, self.family = suite, family
        self.latency, self.jitter, self.drop = latency, jitter, drop
        self.faults, self.cameras = Faults(), dict.fromkeys(CAMERAS)
        self.is_connected = self.solved = False
        self.instruction, self.ticks, self.episode_ticks = "", 0, 0
        self._noise = np.random.default_rng(noise)
        self._lock, self._table = threading.Condition(), threading.RLock()
        self._frames: deque[tuple[float, dict[str, np.ndarray]]] = deque()
        self._commands: deque[np.ndarray] = deque(maxlen=AHEAD)
        self._state = np.zeros(len(STATE), np.float32)
        self.commanded = np.zeros(len(ACTION))  # in the last tick
        self._speed, self._grip = 0.0, -1.0
        self._seed: int | None = seed  # to be set up
        self._there, self._ending = threading.Event(), False
        self._broken: Exception | None = None
        self._thread: threading.Thread | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.suite}"

    @property
    def observation_features(self) -> dict[str, Any]:
        return dict.fromkeys(STATE, float) | {name: (n, n, 3) for name, n in CAMERAS.items()}

    @property
    def action_features(self) -> dict[str, Any]:
        """Of the hand, in full scales a tick: 0.03 m and 0.15 rad; gripper: above 0 it closes."""
        return dict.fromkeys(ACTION, float)

    # -- LeRobot's interface

    def connect(self, calibrate: bool = True) -> None:
        """ConnectionError while the cable is out. The first time the table is set."""
        self._reached()
        if self.is_connected:
            raise ConnectionError(f"{self} is connected already")
        if self._thread is None:
            self._thread = threading.Thread(target=self._live, name="table", daemon=True)
            self._thread.start()
            self._wait()
            # After OpenGL was opened, so that it is done before that is closed: who is cut off while it draws
            # takes the program down with an error.
            atexit.register(_close, weakref.ref(self))
        self._wait()
        self.is_connected = True

    def calibrate(self) -> None:
        """There is nothing to calibrate."""

    def configure(self) -> None:
        """There is nothing to configure."""

    def get_observation(self) -> dict[str, Any]:
        """The numbers of STATE and a picture of each camera, (N, N, 3) uint8."""
        self._reached()
        self._needs_connection()
        if dark := sorted(self.faults.dark):
            raise TimeoutError(f"camera '{dark[0]}' gives no frame")
        with self._lock:
            now = time.perf_counter()
            while len(self._frames) > 1 and self._frames[1][0] <= now:
                self._frames.popleft()
            pictures, state = self._frames[0][1], self._state
        return dict(zip(STATE, map(float, state), strict=True)) | {n: p.copy() for n, p in pictures.items()}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """For the next tick -> as it is done. WorldError for other features, or numbers not finite."""
        self._reached()
        self._needs_connection()
        if set(action) != set(ACTION):
            wrong = sorted(set(action) ^ set(ACTION))
            raise WorldError(f"action: expected {', '.join(ACTION)}, got a difference in '{wrong[0]}'")
        given = np.array([action[name] for name in ACTION], np.float64)
        if not np.isfinite(given).all():
            raise WorldError(f"action: expected finite numbers, got {given.tolist()}")
        given = np.clip(given, -1.0, 1.0)
        with self._lock:
            if not given[:-1].any():  # to hold still is not kept waiting
                self._commands.clear()
            self._commands.append(given)
            self._lock.notify_all()
        return dict(zip(ACTION, map(float, given), strict=True))

    def disconnect(self) -> None:
        """The table stays as it is, and the arm holds."""
        self.is_connected = False
        with self._lock:
            self._commands.clear()

    # -- what no real one has

    def begin(self, seed: int) -> None:
        """Set the table for this evaluation episode. WorldError where that cannot be."""
        self._there.clear()
        with self._lock:
            self._seed = seed
        if self._thread is not None:
            self._wait()

    def hand_speed(self) -> float:
        """Metres a second, in the last tick."""
        return self._speed

    def demonstrate(self) -> dict[str, float]:
        """What the scripted teacher would do now, as an action."""
        with self._table:
            action = self._teacher.label().action
        return dict(zip(ACTION, map(float, action), strict=True))

    def close(self) -> None:
        """Take the table down. It cannot be connected again."""
        self.is_connected, self._ending = False, True
        self.faults.well.set()
        if self._thread is not None:
            self._thread.join(PATIENCE)

    # -- the table's thread

    def _live(self) -> None:
        env = None
        try:
            env = TabletopEnv(self.suite, self.family, pixels="lazy")
            due, period = time.perf_counter(), 1 / CONTROL_HZ
            while not self._ending:
                told = self._tick(env)
                due = max(due + period, time.perf_counter() - period)
                time.sleep(max(0.0, due - time.perf_counter()))
                with self._lock:
                    if self._commands:  # it was early, or there are several: a little faster
                        due -= HASTE * len(self._commands)
                    elif told and self._lock.wait_for(self._wanted, SLACK):
                        due = time.perf_counter()  # the ticks of who drives it are ours
        except Exception as error:  # told to whoever calls
            self._broken = error
            self._there.set()
        finally:
            if env is not None:
                env.close()  # where the pictures were drawn

    def _wanted(self) -> bool:
        return bool(self._commands) or self._ending

    def _tick(self, env: TabletopEnv) -> bool:
        """-> whether there was a command."""
        with self._lock:
            seed, self._seed = self._seed, None
            given = command = self._commands.popleft() if self._commands else None
        with self._table:
            if seed is not None:
                env.begin(seed)
                self._teacher = env.teacher()
                self._teacher.reset()
                self.solved, self.episode_ticks, self._grip = False, 0, -1.0
                self.commanded = np.zeros(len(ACTION))
            else:
                if command is None:
                    command = np.zeros(len(ACTION))
                    command[-1] = self._grip
                self.commanded = command
                self._grip, before = float(command[-1]), env.state()[:3]
                info = env.step(command)[-1]
                self._speed = float(np.linalg.norm(env.state()[:3] - before)) * CONTROL_HZ
                self.solved = self.solved or info["is_success"]
                self.episode_ticks += 1
            self.instruction, self.max_ticks = env.task_description, env.max_steps
            taken, seen = time.perf_counter(), env.look()
        with self._lock:
            if seed is not None:
                self._frames.clear()
                self._commands.clear()
            self._show(taken, seen["pixels"])
            self._state = seen["agent_pos"]
            self.ticks += 1
        if self._seed is None:
            self._there.set()
        return given is not None

    def _show(self, taken: float, pixels: dict[str, np.ndarray]) -> None:
        """Send a frame on its way."""
        if self._frames:
            last = self._frames[-1][1]
            if self._noise.random() < self.drop:
                return
        for name, picture in pixels.items():
            frozen = self._frames and name in self.faults.frozen
            pixels[name] = last[name] if frozen else self._sensed(picture)
        late = max(0.0, self.latency + self.jitter * self._noise.standard_normal())
        due = taken + late
        if self._frames:
            due = max(due, self._frames[-1][0])  # none overtakes another
        self._frames.append((due, pixels))

    def _sensed(self, picture: np.ndarray) -> np.ndarray:
        """As a sensor sees it: no two frames are alike to the last bit."""
        flat = np.array(picture).reshape(-1)
        flat[self._noise.integers(len(flat), size=GRAINS)] ^= 1
        return flat.reshape(picture.shape)

    def _reached(self) -> None:
        self.faults.well.wait()
        if self.faults.cut:
            raise ConnectionError("no answer, is the cable in?")

    def _needs_connection(self) -> None:
        if self._broken is not None:
            raise ConnectionError(f"the table is gone: {self._broken}")
        if not self.is_connected:
            raise ConnectionError(f"{self} is not connected")

    def _wait(self) -> None:
        if not self._there.wait(PATIENCE):
            raise ConnectionError(f"no table within {PATIENCE:.0f} s")
        if isinstance(self._broken, WorldError):
            raise self._broken
        if self._broken is not None:
            raise ConnectionError(f"the table is gone: {self._broken}") from self._broken


def _close(robot: weakref.ref[SimRobot]) -> None:
    if (there := robot()) is not None:
        there.close()
