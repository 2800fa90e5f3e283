"""What LeRobot's command line may set."""

from dataclasses import dataclass

from lerobot.robots import RobotConfig
from lerobot.teleoperators import TeleoperatorConfig


@RobotConfig.register_subclass("steersman")
@dataclass
class SteersmanConfig(RobotConfig):
    """See `envs.robots.sim.SimRobot`. renew_s: seconds from when a task is solved to the next scene (seed + 1
    and so on); 0: it stays.
    """

    suite: str = "core"
    family: str | None = None
    seed: int = 0
    latency: float = 0.0
    jitter: float = 0.0
    drop: float = 0.0
    noise: int = 0
    renew_s: float = 0.0


@TeleoperatorConfig.register_subclass("steersman_teacher")
@dataclass
class SteersmanTeacherConfig(TeleoperatorConfig):
    """The scripted teacher of the robot that was connected last."""
