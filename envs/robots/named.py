"""A robot by its name: a type of LeRobot's, or a class of anybody's."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from envs.errors import WorldError
from envs.robots.config import expected

INTERFACE = (
    "connect", "is_connected", "observation_features", "action_features", "get_observation", "send_action",
    "disconnect",
)  # fmt: skip


def make_robot(name: str, settings: Mapping[str, Any]) -> Any:
    """ "module:Class", made of its settings (a class of LeRobot's kind, of its configuration), or a type of
    LeRobot's or one of its plug-ins. WorldError in one line where it cannot be had.
    """
    robot = _of_class(name, settings) if ":" in name else _of_lerobot(name, settings)
    missing = [part for part in INTERFACE if not hasattr(type(robot), part) and not hasattr(robot, part)]
    if missing:
        raise WorldError(f"robot: expected LeRobot's Robot interface, got '{name}' without {missing[0]}")
    return robot


def _of_class(name: str, settings: Mapping[str, Any]) -> Any:
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise WorldError(f"robot: expected module:Class, got '{name}' ({_line(error)})") from None
    made = getattr(kind, "config_class", None)
    try:
        return kind(**settings) if made is None else kind(made(**settings))
    except TypeError as error:
        raise WorldError(f"robot: expected settings of {attribute}, got others: {_line(error)}") from None


def _of_lerobot(name: str, settings: Mapping[str, Any]) -> Any:
    try:
        import draccus
        import lerobot.cameras
        import lerobot.robots
        from lerobot.robots import RobotConfig, make_robot_from_config
        from lerobot.utils.import_utils import register_third_party_plugins
    except ImportError as error:
        missing = error.name or _line(error)
        raise WorldError(
            f"robot: expected the package lerobot for the type '{name}', found no module '{missing}'; "
            "pip install lerobot, or name a class as module:Class"
        ) from None
    for package in (lerobot.robots, lerobot.cameras):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            with suppress(Exception):  # those whose own packages are missing; they are no longer known then
                importlib.import_module(found.name)
            with suppress(Exception):
                kind = found.name.rpartition(".")[2]
                importlib.import_module(f"{found.name}.configuration_{kind}")
    register_third_party_plugins()
    known = RobotConfig.get_known_choices()
    if name not in known:
        raise WorldError(expected(name, known, "robot: type of LeRobot"))
    try:
        config = draccus.decode(RobotConfig, {"type": name, **settings})
    except Exception as error:  # draccus raises kinds of its own
        raise WorldError(f"robot: expected settings of '{name}', got others: {_line(error)}") from None
    try:
        return make_robot_from_config(config)
    except Exception as error:
        raise WorldError(f"robot: '{name}' cannot be made: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
