"""Steersman's tabletop for LeRobot: `--robot.type=steersman`, `--teleop.type=steersman_teacher`."""

from .config_steersman import SteersmanConfig, SteersmanTeacherConfig
from .steersman import Steersman, SteersmanTeacher

__all__ = ["Steersman", "SteersmanConfig", "SteersmanTeacher", "SteersmanTeacherConfig"]
