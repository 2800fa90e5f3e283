"""What a robot is like, from a TOML file: its features in order, their units, limits, a way to rest."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from envs.errors import WorldError

HERE = Path(__file__).parent
UNITS = {"none": 1.0, "degrees": math.pi / 180, "percent": 0.01, "millimetres": 0.001}  # theirs to ours
MOTION = 0.01  # metres or radians
FROZEN = 2  # ticks: three pictures alike
STALE = 2.5  # ticks without an observation, after which the arm is held


@dataclass(frozen=True)
class Feature:
    """A number: ours = theirs * scale + offset. feature: the robot's name of it; name: ours."""

    feature: str
    name: str = ""
    scale: float = 1.0
    offset: float = 0.0

    def ours(self, value: float) -> float:
        return value * self.scale + self.offset

    def theirs(self, value: float) -> float:
        return (value - self.offset) / self.scale


@dataclass(frozen=True)
class Command(Feature):
    """One of an action. kind: "position" or "speed" (what is moved in a tick). low, high, and of positions
    speed and acceleration a second, of speeds acceleration: limits, in our units.

    of: the name of the state that it moves; reach: how far 1 moves it in a tick, where it is a speed.
    """

    kind: str = "position"
    low: float = -math.inf
    high: float = math.inf
    speed: float = math.inf
    acceleration: float = math.inf
    of: str | None = None
    reach: float | None = None


@dataclass(frozen=True)
class Camera:
    """feature: the robot's name of it. size: (height, width) to fit its pictures to; None: as they are."""

    feature: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Waypoint:
    """On the way to rest: states or commands by our names, and the seconds that getting there takes."""

    pose: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Config:
    """A robot. robot: a type of LeRobot's or module:Class; settings: its own. dataset: what it is called in
    recordings. box: ((x, y, z), (x, y, z)) that the hand, the first three states, stays in. stale: seconds
    without an observation after which it is held. frozen: ticks that a picture may stay the same while the
    robot moves, by `motion` in some number of its state; 0: for ever.
    """

    name: str
    robot: str
    rate: float
    cameras: Mapping[str, Camera]
    state: tuple[Feature, ...]
    action: tuple[Command, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    stale: float = 0.0
    box: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    rest: tuple[Waypoint, ...] = ()
    frozen: int = 0
    motion: tuple[float, ...] = ()
    dataset: str = ""

    @property
    def limits(self) -> dict[str, Any]:
        """Of `agent.safety.Limits`, as plain data."""
        column = lambda name: [getattr(command, name) for command in self.action]
        limits: dict[str, Any] = {name: column(name) for name in ("low", "high", "speed", "acceleration")}
        limits |= {"positions": [c.kind == "position" for c in self.action], "rate": self.rate}
        if self.box is not None:
            limits |= {"box": self.box, "reach": self.action[0].reach}
        return limits


def read_config(
    name: str | Path, settings: Mapping[str, Any] | None = None, safety: Mapping[str, Any] | None = None
) -> Config:
    """A file, or one that comes with us by its name ("sim"). settings, safety: instead of the file's own, by
    key. WorldError in one line for what is wrong with it.
    """
    path = Path(name)
    if path.suffix != ".toml":
        known = sorted(p.stem for p in HERE.glob("*.toml"))
        path = HERE / f"{name}.toml"
        if str(name) not in known:
            raise WorldError(f"robot: expected {', '.join(known)} or a file .toml, got '{name}'")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorldError(f"robot: expected a file, got '{path}' ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorldError(f"robot: expected TOML in '{path}', got {' '.join(str(error).split())}") from None
    for part, given in (("settings", settings), ("safety", safety)):
        if given:
            data[part] = _table(part, data.get(part, {})) | dict(given)
    return parse(data, path.stem)


def parse(data: Mapping[str, Any], name: str) -> Config:
    """The same of what such a file says."""
    keys = ("name", "robot", "rate", "cameras", "state", "action", "settings", "safety", "rest", "dataset")
    only("robot", data, keys)
    for key in ("robot", "rate", "state", "action"):
        if key not in data:
            raise WorldError(f"{key}: expected it in the robot's configuration, got none")
    if not isinstance(data["robot"], str):
        raise WorldError(f"robot: expected a type of LeRobot's or module:Class, got {data['robot']!r}")
    rate = number("rate", data["rate"])
    if not 0 < rate <= 1000:
        raise WorldError(f"rate: expected above 0 and up to 1000 a second, got {rate:g}")
    state = tuple(_feature(item) for item in _list("state", data["state"]))
    action = tuple(_command(item) for item in _list("action", data["action"]))
    for part, features in (("state", state), ("action", action)):
        names = [f.name for f in features]
        if not names or len(set(names)) < len(names):
            raise WorldError(
                f"{part}: expected features with different names, got {', '.join(names) or 'none'}"
            )
    states = {f.name for f in state}
    action = tuple(
        replace(c, of=c.name) if c.kind == "position" and c.of is None and c.name in states else c
        for c in action
    )
    for command in action:
        if command.of is not None and command.of not in states:
            raise WorldError(f"action '{command.name}': {expected(command.of, states, 'of')}")
    safety = _table("safety", data.get("safety", {}))
    only("safety", safety, ("stale", "box", "frozen", "motion"))
    frozen = safety.get("frozen", FROZEN)
    if not isinstance(frozen, int) or frozen < 0:
        raise WorldError(f"frozen: expected a number of ticks, 0 for never, got {frozen!r}")
    kinds = [c.kind for c in action[:3]]
    box = _box(safety["box"]) if "box" in safety else None
    if box is not None and (kinds != ["speed"] * 3 or not action[0].reach):
        raise WorldError("box: expected the first three of the action to be speeds with a reach, got others")
    return Config(
        name=str(data.get("name", name)),
        robot=data["robot"],
        rate=rate,
        cameras={str(k): _camera(k, v) for k, v in _table("cameras", data.get("cameras", {})).items()},
        state=state,
        action=action,
        settings=_table("settings", data.get("settings", {})),
        stale=number("stale", safety.get("stale", STALE / rate)),
        box=box,
        rest=tuple(_waypoint(item, state, action) for item in _list("rest", data.get("rest", []))),
        frozen=frozen,
        motion=_motion(safety.get("motion", MOTION), len(state)),
        dataset=str(data.get("dataset", data.get("name", name))),
    )


def expected(got: str, known: Iterable[str], what: str) -> str:
    """One line for a name that is not there."""
    known = sorted(known)
    close = difflib.get_close_matches(got, known, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"{what}: expected one of {', '.join(known) or 'none'}, got '{got}'{hint}"


def only(what: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    """WorldError for a key that is not known."""
    for key in table:
        if key not in known:
            raise WorldError(expected(str(key), known, f"{what}: key"))


def number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise WorldError(f"{what}: expected a number, got {value!r}")
    return float(value)


def _table(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise WorldError(f"{what}: expected a table, got {value!r}")
    return dict(value)


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise WorldError(f"{what}: expected a list, got {value!r}")
    return value


def _measured(item: Any, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Of a feature: what all have, its unit as a scale."""
    item = {"feature": item} if isinstance(item, str) else _table("feature", item)
    feature = item.get("feature")
    if not isinstance(feature, str):
        raise WorldError(f"feature: expected the robot's name of it, got {feature!r}")
    only(f"'{feature}'", item, ("feature", "name", "unit", "scale", "offset", *more))
    unit = item.pop("unit", "none")
    if unit not in UNITS:
        raise WorldError(f"'{feature}': {expected(str(unit), UNITS, 'unit')}")
    item = {"name": feature} | item
    for key in ("scale", "offset", "low", "high", "speed", "acceleration", "reach"):
        if key in item:
            item[key] = number(f"'{feature}' {key}", item[key])
    item["scale"] = item.get("scale", 1.0) * UNITS[unit]
    if not item["scale"] or math.isinf(item["scale"]):
        raise WorldError(f"'{feature}': expected a scale that is not 0, got {item['scale']:g}")
    return item


def _feature(item: Any) -> Feature:
    return Feature(**_measured(item))


def _command(item: Any) -> Command:
    found = Command(**_measured(item, ("kind", "low", "high", "speed", "acceleration", "of", "reach")))
    if found.kind not in ("position", "speed"):
        raise WorldError(f"'{found.feature}': {expected(str(found.kind), ('position', 'speed'), 'kind')}")
    if not found.low <= found.high:
        raise WorldError(f"'{found.feature}': expected low below high, got {found.low:g} and {found.high:g}")
    for name in ("speed", "acceleration"):
        if not getattr(found, name) > 0:
            raise WorldError(f"'{found.feature}': expected {name} above 0, got {getattr(found, name):g}")
    return found


def _camera(name: str, value: Any) -> Camera:
    value = {"feature": value} if isinstance(value, str) else _table(f"camera '{name}'", value)
    only(f"camera '{name}'", value, ("feature", "size"))
    size = value.get("size")
    if size is not None and not (
        isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
    ):
        raise WorldError(f"camera '{name}': expected size = [height, width], got {size!r}")
    return Camera(str(value.get("feature", name)), None if size is None else (size[0], size[1]))


def _box(value: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    corners = tuple(tuple(number("box", n) for n in _list("box", corner)) for corner in _list("box", value))
    if [len(corner) for corner in corners] != [3, 3]:
        raise WorldError(f"box: expected [[x, y, z], [x, y, z]], got {value!r}")
    return corners  # type: ignore[return-value]


def _motion(value: Any, size: int) -> tuple[float, ...]:
    numbers = [value] * size if isinstance(value, int | float) else _list("motion", value)
    if len(numbers) != size:
        raise WorldError(f"motion: expected {size} numbers as the state has, got {len(numbers)}")
    return tuple(number("motion", n) for n in numbers)


def _waypoint(item: Any, state: tuple[Feature, ...], action: tuple[Command, ...]) -> Waypoint:
    item = _table("rest", item)
    only("rest", item, ("pose", "seconds"))
    pose = {k: number(f"rest '{k}'", v) for k, v in _table("rest", item.get("pose", {})).items()}
    known = {c.name for c in action if c.kind == "position"} | {c.of for c in action if c.reach and c.of}
    for name in pose:
        if name not in known:
            raise WorldError(expected(name, known, "rest"))
    seconds = number("rest seconds", item.get("seconds", 3.0))
    if not 0 < seconds <= 60:
        raise WorldError(f"rest: expected above 0 and up to 60 seconds, got {seconds:g}")
    return Waypoint(pose, seconds)
