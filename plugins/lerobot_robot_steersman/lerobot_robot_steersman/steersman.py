"""LeRobot's classes around `SimRobot`, which does all of it."""

from __future__ import annotations

import time
from typing import Any

from lerobot.robots import Robot
from lerobot.teleoperators import Teleoperator

from envs.robots.sim import ACTION, SimRobot

from .config_steersman import SteersmanConfig, SteersmanTeacherConfig

_connected: list[SimRobot] = []


class Steersman(Robot):
    """The tabletop in wall time."""

    config_class = SteersmanConfig
    name = "steersman"

    def __init__(self, config: SteersmanConfig):
        super().__init__(config)
        self.config = config
        names = ("suite", "family", "seed", "latency", "jitter", "drop", "noise")
        self.sim = SimRobot(**{name: getattr(config, name) for name in names})
        self.cameras = self.sim.cameras
        self._seed, self._solved_at = config.seed, None

    @property
    def observation_features(self) -> dict[str, Any]:
        return self.sim.observation_features

    @property
    def action_features(self) -> dict[str, Any]:
        return self.sim.action_features

    @property
    def is_connected(self) -> bool:
        return self.sim.is_connected

    @property
    def is_calibrated(self) -> bool:
        return self.sim.is_calibrated

    def connect(self, calibrate: bool = True) -> None:
        self.sim.connect(calibrate)
        _connected.append(self.sim)

    def calibrate(self) -> None:
        self.sim.calibrate()

    def configure(self) -> None:
        self.sim.configure()

    def get_observation(self) -> dict[str, Any]:
        self._renew()
        return self.sim.get_observation()

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        return self.sim.send_action({name: float(value) for name, value in action.items()})

    def disconnect(self) -> None:
        self.sim.disconnect()

    def _renew(self) -> None:
        if not self.sim.solved or not self.config.renew_s:
            self._solved_at = None
        elif self._solved_at is None:
            self._solved_at = time.perf_counter()
        elif time.perf_counter() - self._solved_at >= self.config.renew_s:
            self._seed, self._solved_at = self._seed + 1, None
            self.sim.begin(self._seed)


class SteersmanTeacher(Teleoperator):
    """Does what the tabletop's scripted teacher would do: demonstrations without a person."""

    config_class = SteersmanTeacherConfig
    name = "steersman_teacher"

    def __init__(self, config: SteersmanTeacherConfig):
        super().__init__(config)
        self._connected = False

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(ACTION, float)

    @property
    def feedback_features(self) -> dict[str, Any]:
        return {}

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Before the robot or after it."""
        self._connected = True

    def calibrate(self) -> None:
        """There is nothing to calibrate."""

    def configure(self) -> None:
        """There is nothing to configure."""

    def get_action(self) -> dict[str, Any]:
        if not _connected:
            raise ConnectionError("steersman_teacher: expected a connected robot of type steersman, got none")
        return _connected[-1].demonstrate()

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        """Nothing is felt."""

    def disconnect(self) -> None:
        self._connected = False
