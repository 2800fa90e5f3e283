"""A real robot as a world: anything with LeRobot's `Robot` interface, described by a file (docs/hardware.md).

The interface is all that is relied on: connect, is_connected, observation_features, action_features,
get_observation, send_action, disconnect. lerobot is imported only where a type of its own is named. All calls
of the driver are made by one thread (`envs.robots.line`), with time limits.
"""

from __future__ import annotations

import atexit
import math
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from envs.errors import WorldError
from envs.robots.config import Config, expected
from envs.robots.line import Line
from envs.robots.named import make_robot

READ, SEND = 0.5, 0.4  # of a tick, that a reading and a command are waited for
FIRST = 20.0  # seconds that connecting may take
ASTRAY = 0.1  # of its range, that a position may lie outside of it at the start
NEAR = 0.03  # metres or radians from a pose, that are there
OLD = 1.0  # seconds after which a reading is none

Fit = Callable[[np.ndarray, int, int], np.ndarray]  # (H, W, 3) to height and width
Guard = Callable[[np.ndarray], np.ndarray]

_OPEN: weakref.WeakSet[Hardware] = weakref.WeakSet()


class Hardware:
    """The world of a robot: `look`, `step`, and plain facts for who acts in it. A context manager: it is
    connected, and disconnected whatever happens.

    fit: makes pictures of another size, where the configuration (or `sizes`, by our names of the cameras)
    asks for one. robot: used instead of making the one of the configuration. WorldError in one line for a
    feature, a camera or a type that is not there.
    """

    def __init__(
        self,
        config: Config,
        robot: Any = None,
        fit: Fit | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
    ):
        self.config = config
        self._ours = robot is None
        self.robot = make_robot(config.robot, config.settings) if robot is None else robot
        self.rate = config.rate
        self.rest = "zero" if any(c.kind == "speed" for c in config.action) else "last"
        self._fit = fit
        self.sizes = self._checked(sizes or {})
        self._names = {f.name: i for i, f in enumerate(config.state)}
        self._line: Line | None = None
        self._state: np.ndarray | None = None
        self._sent = np.clip(np.zeros(len(config.action)), self.limits["low"], self.limits["high"])

    # -- its facts

    @property
    def limits(self) -> dict[str, Any]:
        """Of `agent.safety.Limits`, as plain data."""
        return self.config.limits

    @property
    def layout(self) -> dict[str, Any]:
        """Of a dataset of it: robot, fps, cameras (height, width), names of state and action."""
        fps = int(self.rate) if self.rate == int(self.rate) else self.rate
        names = {part: tuple(f.name for f in getattr(self.config, part)) for part in ("state", "action")}
        return {"robot": self.config.dataset, "fps": fps, "cameras": dict(self.sizes), **names}

    @property
    def solved(self) -> bool | None:
        """Whether the task is done, where the robot can tell (a simulated one); else None."""
        return getattr(self.robot, "solved", None)

    # -- the line to it

    def connect(self) -> None:
        """WorldError where it is not there, not calibrated, or not like its configuration."""
        self._line = Line(self.robot, self._read)
        _OPEN.add(self)
        try:
            try:
                self._line.open(FIRST)
            except WorldError:
                raise
            except Exception as error:
                raise WorldError(f"robot '{self.config.name}': not connected: {_line(error)}") from None
            if not getattr(self.robot, "is_calibrated", True):
                raise WorldError(
                    f"robot '{self.config.name}': expected it calibrated (lerobot-calibrate), it is not"
                )
            self.ready()
            self._check_position()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect; also where it hangs, if it hears."""
        if self._line is not None:
            self._line.close()
            self._line = None
            if self._ours and hasattr(self.robot, "close"):  # a simulated one
                self.robot.close()

    def __enter__(self) -> Hardware:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def down(self) -> str | None:
        """Why nothing gets through, if nothing does."""
        return "not connected" if self._line is None else self._line.down

    @property
    def reconnected(self) -> int:
        """How often it was connected again."""
        return 0 if self._line is None else self._line.reconnected

    # -- a world

    def look(self) -> dict[str, Any]:
        """{"pixels": {camera: (H, W, 3) uint8}, "agent_pos": (D,) float32, "time"}: the present, or what was
        seen last where the driver is slow; time: when it was read. ConnectionError or TimeoutError where
        there is none, and whatever the driver raises.
        """
        seen = self._open().look(READ / self.rate)
        if time.perf_counter() - seen.time > OLD:
            raise TimeoutError(f"no observation for over {OLD:g} s")
        self._state = seen.values["agent_pos"]
        taken = seen.values.get("time", seen.time)
        return {**seen.values, "time": min(taken, seen.time)}

    def step(self, action: np.ndarray) -> None:
        """Send it. The same errors, where it did not get there."""
        given = np.asarray(action, float)
        if given.shape != (len(self.config.action),) or not np.isfinite(given).all():
            raise WorldError(
                f"action: expected {len(self.config.action)} finite numbers, got {given.tolist()}"
            )
        command = {c.feature: c.theirs(float(v)) for c, v in zip(self.config.action, given, strict=True)}
        self._open().send(command, SEND / self.rate)
        self._sent = given

    def ready(self, seconds: float = FIRST) -> None:
        """Look until there is something to see. WorldError where it is gone for so long."""
        until = time.perf_counter() + seconds
        while True:
            try:
                self.look()
                return
            except (OSError, TimeoutError) as error:
                if time.perf_counter() > until:
                    raise WorldError(f"robot '{self.config.name}': no observation: {_line(error)}") from None
            time.sleep(0.05)

    def state(self) -> np.ndarray:
        """(D,) float32, as it was seen last."""
        if self._state is None:
            raise WorldError("state: expected a robot that was looked at, got none")
        return self._state

    def hand(self) -> np.ndarray | None:
        """(3,) where it is, if it has a box to stay in."""
        return None if self.config.box is None else self.state()[:3]

    def position(self) -> np.ndarray | None:
        """(A,) the action that holds it where it is; None where the state does not tell."""
        here = np.zeros(len(self.config.action))
        for i, command in enumerate(self.config.action):
            if command.kind == "position":
                if command.of is None:
                    return None
                here[i] = self.state()[self._names[command.of]]
        return here

    def go_to_rest(self, guard: Guard) -> bool:
        """Along the waypoints, each action through `guard` (the safety layer) -> whether it got there. Ends
        early where the robot does not answer any more.
        """
        try:
            return all([self._go(waypoint.pose, waypoint.seconds, guard) for waypoint in self.config.rest])
        except (OSError, TimeoutError, WorldError):
            return False

    def _go(self, pose: Mapping[str, float], seconds: float, guard: Guard) -> bool:
        """In these seconds, or up to three times as many where the limits make it slower."""
        self.look()
        start, ticks = self.state().copy(), max(1, math.ceil(seconds * self.rate))
        due = time.perf_counter()
        held = self._sent if (at := self.position()) is None else at
        for tick in range(1, 3 * ticks + 1):
            self.look()
            if tick > ticks and self._near(pose):
                break
            done = min(1.0, tick / ticks)
            action = np.zeros(len(self.config.action))
            for i, command in enumerate(self.config.action):
                goal = pose.get(command.name if command.kind == "position" else command.of or "")
                index = None if command.of is None else self._names[command.of]
                if command.kind == "position" and goal is None:
                    action[i] = held[i]
                elif command.kind == "position":
                    action[i] = goal if index is None else start[index] + (goal - start[index]) * done
                elif goal is not None and command.reach and index is not None:
                    left = (goal - self.state()[index]) / max(1, ticks - tick)
                    action[i] = np.clip(left / command.reach, command.low, command.high)
            self.step(guard(action))
            due += 1 / self.rate
            time.sleep(max(0.0, due - time.perf_counter()))
        return self._near(pose)

    def _near(self, pose: Mapping[str, float]) -> bool:
        """Whether it is there, as far as its state tells."""
        states = {(c.name if c.kind == "position" else c.of): c.of for c in self.config.action if c.of}
        told = {states[name]: goal for name, goal in pose.items() if name in states}
        return all(abs(self.state()[self._names[name]] - goal) <= NEAR for name, goal in told.items())

    # -- how it is read

    def _open(self) -> Line:
        if self._line is None:
            raise ConnectionError("not connected")
        return self._line

    def _read(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """What the driver gave, in our names and units."""
        missing = [f.feature for f in (*self.config.state, *self.config.cameras.values())]
        missing = [name for name in missing if name not in observation]
        if missing:
            raise WorldError(f"observation: expected '{missing[0]}', got {', '.join(sorted(observation))}")
        state = np.array([f.ours(float(observation[f.feature])) for f in self.config.state], np.float32)
        pixels = {}
        for name, camera in self.config.cameras.items():
            picture = np.asarray(observation[camera.feature])
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                got = f"{picture.shape} {picture.dtype}"
                raise WorldError(f"camera '{name}': expected (H, W, 3) uint8, got {got}")
            if picture.shape[:2] != self.sizes[name] and self._fit is not None:
                picture = self._fit(picture, *self.sizes[name])
            pixels[name] = picture
        return {"pixels": pixels, "agent_pos": state} | self._taken()

    def _taken(self) -> dict[str, float]:
        """When the oldest picture was taken, where the robot's cameras tell, as LeRobot's do."""
        cameras = getattr(self.robot, "cameras", None)
        if not isinstance(cameras, Mapping):
            return {}
        used = [cameras.get(camera.feature) for camera in self.config.cameras.values()]
        stamps = [getattr(camera, "latest_timestamp", None) for camera in used]
        stamps = [stamp for stamp in stamps if isinstance(stamp, float)]
        return {"time": min(stamps)} if stamps else {}

    def _checked(self, sizes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """The features are there -> sizes of the pictures."""
        config, seen, done = self.config, self.robot.observation_features, self.robot.action_features
        known = [name for name, kind in seen.items() if not isinstance(kind, tuple)]
        for feature in config.state:
            if feature.feature not in known:
                raise WorldError(expected(feature.feature, known, "state: feature of the robot"))
        for command in config.action:
            if command.feature not in done:
                raise WorldError(expected(command.feature, done, "action: feature of the robot"))
        if unsaid := [name for name in done if name not in {c.feature for c in config.action}]:
            raise WorldError(f"action: expected all features of the robot, got none for '{unsaid[0]}'")
        found: dict[str, tuple[int, int]] = {}
        cameras = {name: kind for name, kind in seen.items() if isinstance(kind, tuple)}
        for name, camera in config.cameras.items():
            if camera.feature not in cameras:
                raise WorldError(expected(camera.feature, cameras, "camera of the robot"))
            has = tuple(cameras[camera.feature][:2])
            found[name] = camera.size or sizes.get(name) or has
            if found[name] != has and self._fit is None:
                raise WorldError(f"camera '{name}': expected pictures of {found[name]}, got {has}")
        return found

    def _check_position(self) -> None:
        """A robot that stands far outside of its limits is most likely read in the wrong unit."""
        for command in self.config.action:
            if command.kind != "position" or command.of is None:
                continue
            at, span = self.state()[self._names[command.of]], command.high - command.low
            if math.isfinite(span) and not (
                command.low - ASTRAY * span <= at <= command.high + ASTRAY * span
            ):
                raise WorldError(
                    f"'{command.of}': expected {command.low:g} to {command.high:g}, got {at:.4g}; "
                    "is its unit right?"
                )


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@atexit.register
def _farewell() -> None:
    for hardware in list(_OPEN):
        hardware.close()
