"""Robots behind LeRobot's interface as worlds: units, limits, files that are wrong, drivers that fail."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest

from agent.safety import Limits, Safety
from envs.errors import WorldError
from envs.hardware import Hardware
from envs.robots.config import parse, read_config

ARM = {
    "robot": "test_hardware:Arm",
    "rate": 100,
    "cameras": {"front": {"feature": "cam", "size": [4, 4]}},
    "state": [{"feature": "pan.pos", "unit": "degrees"}, {"feature": "grip.pos", "unit": "percent"}],
    "action": [
        {
            "feature": "pan.pos",
            "unit": "degrees",
            "low": -1.5,
            "high": 1.5,
            "speed": 2.0,
            "acceleration": 40.0,
        },
        {"feature": "grip.pos", "unit": "percent", "low": 0.0, "high": 1.0},
    ],
    "rest": [{"pose": {"pan.pos": 0.0}, "seconds": 0.3}],
}


class Arm:
    """Two joints that go where they are told at once, in degrees and percent."""

    def __init__(self, pan: float = 57.29577951308232, connects: bool = True):
        self.at, self.connects = {"pan.pos": pan, "grip.pos": 50.0}, connects
        self.is_connected, self.told, self.left, self.threads = False, [], 0, set()
        self.well, self.out = threading.Event(), False
        self.well.set()

    observation_features = {"pan.pos": float, "grip.pos": float, "cam": (8, 6, 3)}
    action_features = {"pan.pos": float, "grip.pos": float}

    def connect(self, calibrate: bool = True):
        self.threads.add(threading.current_thread())
        if not self.connects or self.out:
            raise OSError("no such port")
        self.is_connected = True

    def get_observation(self):
        self._through()
        return {**self.at, "cam": np.full((8, 6, 3), 7, np.uint8)}

    def send_action(self, action):
        self._through()
        self.told.append(action)
        self.at = dict(action)
        return action

    def disconnect(self):
        self.is_connected, self.left = False, self.left + 1

    def _through(self):
        self.threads.add(threading.current_thread())
        self.well.wait()
        if self.out:
            self.is_connected = False
            raise ConnectionError("bus error")


def fit(picture, height, width):
    return picture[:height, :width]


def arm(robot=None, **changes) -> Hardware:
    return Hardware(parse(ARM | changes, "arm"), robot or Arm(), fit)


def until(true, seconds: float = 5.0) -> bool:
    end = time.perf_counter() + seconds
    while not true() and time.perf_counter() < end:
        time.sleep(0.005)
    return bool(true())


def test_their_units_become_ours_and_back():
    robot = Arm()
    with arm(robot) as world:
        seen = world.look()
        assert seen["agent_pos"] == pytest.approx([1.0, 0.5]) and seen["agent_pos"].dtype == np.float32
        assert seen["pixels"]["front"].shape == (4, 4, 3)
        world.step(np.array([math.pi / 4, 0.25]))
        assert robot.told == [pytest.approx({"pan.pos": 45.0, "grip.pos": 25.0})]
        world.look()
        assert world.position() == pytest.approx([math.pi / 4, 0.25], abs=1e-6)
    assert world.layout["cameras"] == {"front": (4, 4)} and world.rest == "last"
    assert Limits(**world.limits).speed == [2.0, math.inf]
    main = threading.current_thread()
    assert len(robot.threads) == 1 and main not in robot.threads  # one thread of its own


def test_it_rests_gently_and_is_always_disconnected():
    robot = Arm()
    with pytest.raises(RuntimeError, match="mine"), arm(robot) as world:
        safety = Safety(Limits(**world.limits))
        safety.reset(world.position())
        assert world.go_to_rest(safety)
        raise RuntimeError("mine")
    way = np.deg2rad([57.29577951308232, *(told["pan.pos"] for told in robot.told)])
    assert abs(way[-1]) < 0.03 and np.abs(np.diff(way)).max() <= 2.0 / 100 + 1e-6
    assert np.abs(np.diff(way, 2)).max() <= 40.0 / 100**2 + 1e-6
    assert all(told["grip.pos"] == pytest.approx(50.0, abs=1e-4) for told in robot.told)
    assert robot.left == 1 and not robot.is_connected


@pytest.mark.parametrize(
    "robot, said",
    [
        (Arm(connects=False), "not connected: no such port"),
        (Arm(pan=3.0 * 57.3), "'pan.pos': expected -1.5 to 1.5, got 3; is its unit right"),
    ],
)
def test_what_cannot_be_connected(robot, said):
    with pytest.raises(WorldError, match=said), arm(robot):
        pass
    assert robot.left == 1  # whatever half of it was there


def test_a_driver_that_hangs_stops_nobody_and_goes_on():
    robot = Arm()
    with arm(robot) as world:
        robot.well.clear()
        failed = []
        for _ in range(200):  # each would wait for ever
            for call in (world.look, lambda: world.step(np.zeros(2))):
                try:
                    call()
                except TimeoutError as error:
                    failed.append(str(error))
        assert len(failed) > 300 and set(failed) == {"the driver does not answer"}
        robot.well.set()
        assert until(lambda: sees(world)) and world.down is None
        world.step(np.array([0.5, 0.5]))
        assert until(lambda: robot.told and robot.told[-1]["pan.pos"] == pytest.approx(math.degrees(0.5)))
    assert robot.left == 1


def test_one_that_is_gone_is_connected_again_and_moves_from_where_it_is():
    robot = Arm()
    with arm(robot) as world:
        robot.out = True
        assert until(lambda: world.down is not None or not sees(world))
        with pytest.raises(ConnectionError, match="bus error|no such port"):
            world.step(np.zeros(2))
        robot.at["pan.pos"] = 30.0  # somebody pushed it
        robot.out = False
        assert until(lambda: world.reconnected == 1)
        world.look()
        safety = Safety(Limits(**world.limits))
        safety.found(world.position())
        assert safety(None)[0] == pytest.approx(math.radians(30.0)) and safety.resting


def sees(world: Hardware) -> bool:
    try:
        world.look()
    except (OSError, TimeoutError):
        return False
    return True


def test_a_picture_or_a_number_that_is_missing_is_told():
    robot = Arm()
    with arm(robot) as world:
        del robot.at["grip.pos"]
        with pytest.raises(WorldError, match="observation: expected 'grip.pos', got cam, pan.pos"):
            world.look()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"state": ["pan.po"]}, r"state: feature of the robot: .* got 'pan.po' \(did you mean 'pan.pos'\?\)"),
        ({"action": ["pan.pos"]}, "action: expected all features of the robot, got none for 'grip.pos'"),
        ({"cameras": {"wrist": "usb"}}, "camera of the robot: expected one of cam, got 'usb'"),
        ({"state": [{"feature": "pan.pos", "unit": "degree"}]}, r"'pan.pos': unit: .*did you mean 'degrees'"),
        ({"state": [{"feature": "pan.pos", "scal": 2}]}, "'pan.pos': key: .* got 'scal'"),
        ({"state": ["pan.pos", "pan.pos"]}, "state: expected features with different names"),
        ({"action": [{"feature": "pan.pos", "kind": "torque"}]}, "kind: expected one of position, speed"),
        ({"action": [{"feature": "pan.pos", "low": 2, "high": 1}]}, "expected low below high, got 2 and 1"),
        ({"action": [{"feature": "pan.pos", "speed": 0}]}, "expected speed above 0, got 0"),
        ({"rate": "fast"}, "rate: expected a number, got 'fast'"),
        ({"rest": [{"pose": {"tilt": 1.0}}]}, "rest: expected one of grip.pos, pan.pos, got 'tilt'"),
        ({"safety": {"box": [[0, 0, 0], [1, 1, 1]]}}, "box: expected the first three of the action to be sp"),
        ({"safety": {"frozen": -1}}, "frozen: expected a number of ticks, 0 for never, got -1"),
        ({"safety": {"motion": [0.1]}}, "motion: expected 2 numbers as the state has, got 1"),
        ({"colour": "red"}, "robot: key: expected one of .*, got 'colour'"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(changes, said):
    with pytest.raises(WorldError, match=said) as caught:
        arm(**changes)
    assert "\n" not in str(caught.value)


def test_robots_that_are_not_there(tmp_path):
    for name, said in (
        ("so102", r"robot: expected sim, so101 or a file .toml, got 'so102'"),
        (tmp_path / "none.toml", "robot: expected a file, got .* \\(No such file"),
    ):
        with pytest.raises(WorldError, match=said):
            read_config(name)
    (tmp_path / "bad.toml").write_text("rate = ")
    with pytest.raises(WorldError, match="robot: expected TOML in .*bad.toml"):
        read_config(tmp_path / "bad.toml")
    for robot, said in (
        ("nowhere:Arm", "expected module:Class, got 'nowhere:Arm'"),
        ("pathlib:Path", "expected LeRobot's Robot interface, got 'pathlib:Path' without connect"),
        ("envs.robots.sim:SimRobot", "expected settings of SimRobot, got others: .*'colour'"),
    ):
        settings = {"colour": 1} if "Sim" in robot else {}
        with pytest.raises(WorldError, match=said):
            Hardware(parse(ARM | {"robot": robot, "settings": settings}, "arm"), fit=fit)
    with pytest.raises(WorldError, match=r"camera 'front': expected pictures of \(4, 4\), got \(8, 6\)"):
        Hardware(parse(ARM, "arm"), Arm())


def test_lerobot_is_only_asked_where_one_of_its_types_is_named():
    try:
        import lerobot  # noqa: F401
    except ImportError:
        with pytest.raises(WorldError, match="expected the package lerobot for the type 'so101_follower'"):
            Hardware(read_config("so101"))
    else:
        with pytest.raises(WorldError, match="type of LeRobot: expected one of .*, got 'so102_follower'"):
            Hardware(parse(ARM | {"robot": "so102_follower"}, "arm"))
    config = read_config("so101")
    assert [c.of for c in config.action] == [f.name for f in config.state]
    assert config.state[0].ours(180.0) == pytest.approx(math.pi) and config.state[5].ours(50.0) == 0.5
