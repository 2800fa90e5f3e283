"""A robot or a teleoperator by its name: a type of LeRobot's, or a class of anybody's."""

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
TELEOP = ("connect", "action_features", "get_action", "disconnect")


def make_robot(name: str, settings: Mapping[str, Any], what: str = "robot") -> Any:
    """ "module:Class", made of its settings (a class of LeRobot's kind, of its configuration), or a type of
    LeRobot's or one of its plug-ins. what: "robot" or "teleop". WorldError in one line where it cannot be
    had.
    """
    made = _of_class(name, settings, what) if ":" in name else _of_lerobot(name, settings, what)
    interface, kind = (INTERFACE, "Robot") if what == "robot" else (TELEOP, "Teleoperator")
    missing = [part for part in interface if not hasattr(type(made), part) and not hasattr(made, part)]
    if missing:
        raise WorldError(f"{what}: expected LeRobot's {kind} interface, got '{name}' without {missing[0]}")
    return made


def _of_class(name: str, settings: Mapping[str, Any], what: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise WorldError(f"{what}: expected module:Class, got '{name}' ({_line(error)})") from None
    made = getattr(kind, "config_class", None)
    try:
        return kind(**settings) if made is None else kind(made(**settings))
    except TypeError as error:
        raise WorldError(f"{what}: expected settings of {attribute}, got others: {_line(error)}") from None


def _of_lerobot(name: str, settings: Mapping[str, Any], what: str) -> Any:
    try:
        import lerobot.robots  # isort: skip  (what is missing then is lerobot itself)
        import draccus
        import lerobot.cameras
        import lerobot.teleoperators
        from lerobot.robots import RobotConfig, make_robot_from_config
        from lerobot.teleoperators import TeleoperatorConfig, make_teleoperator_from_config
        from lerobot.utils.import_utils import register_third_party_plugins
    except ImportError as error:
        missing = error.name or _line(error)
        raise WorldError(
            f"{what}: expected the package lerobot for the type '{name}', found no module '{missing}'; "
            "pip install lerobot, or name a class as module:Class"
        ) from None
    kinds, where, make = RobotConfig, lerobot.robots, make_robot_from_config
    if what == "teleop":
        kinds, where, make = TeleoperatorConfig, lerobot.teleoperators, make_teleoperator_from_config
    for package in (where, lerobot.cameras):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            with suppress(Exception):  # those whose own packages are missing; they are no longer known then
                importlib.import_module(found.name)
            with suppress(Exception):
                kind = found.name.rpartition(".")[2]
                importlib.import_module(f"{found.name}.configuration_{kind}")
    register_third_party_plugins()
    known = kinds.get_known_choices()
    if name not in known:
        raise WorldError(expected(name, known, f"{what}: type of LeRobot"))
    try:
        config = draccus.decode(kinds, {"type": name, **settings})
    except Exception as error:  # draccus raises kinds of its own
        raise WorldError(f"{what}: expected settings of '{name}', got others: {_line(error)}") from None
    try:
        return make(config)
    except Exception as error:
        raise WorldError(f"{what}: '{name}' cannot be made: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
