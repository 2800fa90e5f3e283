"""The tabletop world: exact repetition, exact projection, and a hand that can do what the tasks ask."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from envs.errors import WorldError
from envs.tabletop.arm import (
    FINGER_OPEN,
    JOINT_HIGH,
    JOINT_LOW,
    REST,
    ArmKinematics,
    axis_angle_of_hand,
    down,
)
from envs.tabletop.scene import BLOCK_HALF, DRAWER_TRAVEL, Scene
from envs.tabletop.world import LAMP_SECONDS, WORKSPACE_HIGH, WORKSPACE_LOW, World

OPEN, CLOSE = -1.0, 1.0
BUSY = Scene(
    blocks={
        "red": (0.42, 0.05, 0.02, 0.3),
        "blue": (0.50, -0.12, 0.02, -0.2),
        "orange": (0.36, -0.1, 0.02, 0),
    },
    bins={"green": (0.45, -0.27), "yellow": (0.60, -0.27)},
    drawer=(0.62, 0.15),
    drawer_opening=0.05,
    buttons={"purple": (0.42, 0.28)},
    arm_offset=(0.02, -0.03, 0.01, 0.2, 0.02),
    light=0.9,
    tone=0.5,
)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def pictures(world: World) -> World:
    """A world that can draw; machines without OpenGL skip the tests of pixels."""
    try:
        world.observe()
    except WorldError as error:
        pytest.skip(str(error))
    return world


def go(world: World, target, grip: float, yaw: float = 0.0, steps: int = 40) -> None:
    """Drives the hand to a position and yaw, at full speed."""
    for _ in range(steps):
        gap, turn = np.asarray(target) - world.command_pos(), yaw - world.command_yaw()
        action = np.array([*gap / 0.03, 0, 0, turn / 0.15, grip])
        world.step(action)
        if np.linalg.norm(world.eef_pos() - target) < 0.003 and abs(world.eef_yaw() - yaw) < 0.03:
            return


def wait(world: World, grip: float, steps: int = 6) -> None:
    for _ in range(steps):
        world.step(np.array([0, 0, 0, 0, 0, 0, grip]))


def trace(world: World, steps: int = 60, seed: int = 0) -> np.ndarray:
    """Physics of an episode of random actions, as one array."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(steps):
        world.step(rng.uniform(-1, 1, 7) * [1, 1, 1, 0.3, 0.3, 1, 1] - [0, 0, 0.3, 0, 0, 0, 0])
        rows.append(np.concatenate([world.data.qpos, world.data.qvel, world.state_vector()]))
    return np.array(rows)


def test_same_scene_and_actions_give_the_same_bits_whatever_came_before(world: World) -> None:
    world.reset_scene(
        Scene(buttons={"red": (0.5, 0.0)}, box=(0.5, 0.25), blocks={"green": (0.4, 0, 0.02, 0)})
    )
    trace(world, 30, seed=5)
    world.reset_scene(BUSY)
    fresh = World(render=False)
    fresh.reset_scene(BUSY)
    assert np.array_equal(trace(world), trace(fresh))


def test_reset_draws_the_scene_from_the_seed(world: World) -> None:
    task = SimpleNamespace(scene=lambda rng: Scene(blocks={"red": (rng.uniform(0.4, 0.5), 0, BLOCK_HALF, 0)}))
    places = []
    for seed in (1, 2, 1):
        world.reset(task, seed)
        places.append(world.block_pos("red"))
    assert np.array_equal(places[0], places[2])
    assert abs(places[0][0] - places[1][0]) > 1e-3


def test_snapshot_is_exact(world: World) -> None:
    world.reset_scene(BUSY)
    trace(world, 25)
    snapshot = world.save()
    log, held = list(world.press_log), world.held()
    first = trace(world, 25, seed=1)
    world.reset_scene(Scene())
    world.restore(snapshot)
    assert (world.press_log, world.held(), world.steps) == (log, held, 25)
    assert np.array_equal(trace(world, 25, seed=1), first)
    other = World(render=False)
    other.restore(snapshot)
    assert np.array_equal(trace(other, 25, seed=1), first)


def test_pictures_repeat_and_leave_the_physics_alone(pictures: World) -> None:
    def run(look: bool) -> tuple[np.ndarray, np.ndarray]:
        pictures.reset_scene(BUSY)
        for _ in range(5):
            if look:
                pictures.observe()
            pictures.step(np.array([0.5, 0.2, -0.5, 0, 0, 0.3, 1]))
        return pictures.data.qpos.copy(), pictures.observe()["pixels"]["front"]

    (q1, a), (q2, b) = run(True), run(False)
    assert np.array_equal(q1, q2) and np.array_equal(a, b)
    shapes = {k: v.shape for k, v in pictures.observe()["pixels"].items()}
    assert shapes == {"front": (128, 128, 3), "wrist": (64, 64, 3)} and a.dtype == np.uint8
    assert pictures.render(160, 120).shape == (120, 160, 3)


@pytest.mark.parametrize("camera", ["front", "wrist"])
@pytest.mark.parametrize("at", [(0.52, 0.1, 0.05), (0.50, -0.06, 0.02), (0.60, 0.03, 0.1)])
def test_projection_meets_the_picture(pictures: World, camera: str, at: tuple[float, float, float]) -> None:
    """A 6 mm cube's pixels, found as the difference it makes, lie where `project` says."""
    pictures.reset_scene(Scene(blocks={"yellow": (0.3, 0.3, 0.02, 0)}))
    go(pictures, (0.46, 0.0, 0.3), OPEN)
    geom = pictures.model.geom("yellow").id
    size = pictures.model.geom_size[geom].copy()
    try:
        pictures.model.geom_size[geom] = 0.003
        pictures.place_block("yellow", (0.3, 3.0, 0.5))
        without = pictures.cameras.picture(pictures.data, camera, 256, 256, nice=False).astype(int)
        pictures.place_block("yellow", at)
        change = (
            np.abs(pictures.cameras.picture(pictures.data, camera, 256, 256, nice=False) - without).sum(-1)
            > 30
        )
    finally:
        pictures.model.geom_size[geom] = size
    rows, columns = np.nonzero(change)
    y, x = pictures.project(at, camera)
    if not (0.02 < y < 0.98 and 0.02 < x < 0.98):
        assert camera == "wrist"  # everything on the table is in the front camera's view
        return
    assert len(rows)
    assert abs(rows.mean() + 0.5 - 256 * y) < 1.0 and abs(columns.mean() + 0.5 - 256 * x) < 1.0


def test_work_area_is_in_the_front_view(world: World) -> None:
    for x in (0.30, 0.70):
        for y in (-0.34, 0.34):
            assert all(0.0 < v < 1.0 for v in world.project((x, y, 0.0)))


def test_inverse_kinematics_reaches_the_work_area_within_limits() -> None:
    arm = ArmKinematics()
    for x in np.linspace(0.30, 0.70, 4):
        for y in np.linspace(-0.34, 0.34, 5):
            for yaw in (-0.8, 0.0, 1.57):
                target = np.array([x, y, 0.12])
                q = arm.solve(REST, target, down(yaw), iterations=60)
                at, turn = arm.forward(q)
                assert np.linalg.norm(at - target) < 2e-3 and np.abs(turn - down(yaw)).max() < 0.02, (
                    x,
                    y,
                    yaw,
                )
                assert (q > JOINT_LOW).all() and (q < JOINT_HIGH).all()


def test_axis_angle_is_continuous_for_a_hand_that_points_down() -> None:
    last = None
    for yaw in np.linspace(-1.9, 1.9, 200):
        tilt = 0.02 * np.sin(40 * yaw)
        c, s = np.cos(tilt), np.sin(tilt)
        vector = axis_angle_of_hand(down(yaw) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]))
        assert last is None or np.linalg.norm(vector - last) < 0.1
        last = vector


def test_hand_follows_the_command_within_a_step(world: World) -> None:
    world.reset_scene(Scene())
    for _ in range(8):
        world.step(np.array([0, 0.8, 0, 0, 0, 0, OPEN]))
    assert np.linalg.norm(world.command_pos() - world.eef_pos()) < 0.024  # one step of this command
    wait(world, OPEN, 3)
    assert np.linalg.norm(world.command_pos() - world.eef_pos()) < 2e-3


def test_command_stays_in_the_workspace_and_on_its_leash(world: World) -> None:
    world.reset_scene(Scene())
    for direction in (np.ones(3), -np.ones(3), np.array([1, -1, -1.0])):
        for _ in range(40):
            world.step(np.array([*direction, 1, 1, 1, OPEN]))
            assert (world.eef_pos() > WORKSPACE_LOW - 0.02).all() and (
                world.eef_pos() < WORKSPACE_HIGH + 0.02
            ).all()
            assert np.linalg.norm(world.command_pos() - world.eef_pos()) < 0.08
    assert np.abs(world.data.qvel).max() < 20


def test_grasp_lift_and_stack(world: World) -> None:
    world.reset_scene(Scene(blocks={"red": (0.40, 0.1, 0.02, 0.3), "blue": (0.50, -0.15, 0.02, 0.0)}))
    go(world, (0.40, 0.1, 0.12), OPEN, 0.3)
    go(world, (0.40, 0.1, 0.02), OPEN, 0.3)
    assert world.held() is None
    wait(world, CLOSE)
    assert world.held() == "red"
    go(world, (0.40, 0.1, 0.16), CLOSE, 0.3)
    wait(world, CLOSE, 40)
    assert world.held() == "red" and world.block_pos("red")[2] == pytest.approx(0.16, abs=0.004)
    go(world, (0.50, -0.15, 0.16), CLOSE)
    go(world, (0.50, -0.15, 0.062), CLOSE)
    wait(world, OPEN)
    go(world, (0.50, -0.15, 0.16), OPEN)
    wait(world, OPEN, 40)
    assert np.allclose(world.block_pos("red"), (0.50, -0.15, 0.06), atol=0.008)
    assert np.allclose(world.block_pos("blue"), (0.50, -0.15, 0.02), atol=0.004)
    assert world.held() is None and world.gripper_width() == pytest.approx(2 * FINGER_OPEN, abs=1e-3)


def test_drawer_is_pulled_stays_and_is_pushed_shut(world: World) -> None:
    world.reset_scene(Scene(drawer=(0.62, 0.12)))
    turn, handle = np.pi / 2, world.drawer_handle_pos()
    go(world, handle + (0, 0, 0.08), OPEN, turn)
    go(world, handle, OPEN, turn)
    wait(world, CLOSE)
    go(world, handle - (0.08, 0, 0), CLOSE, turn)
    wait(world, OPEN, 4)
    go(world, world.eef_pos() + (0, 0, 0.1), OPEN, turn)
    opening = world.drawer_opening()
    assert 0.06 < opening < DRAWER_TRAVEL
    wait(world, OPEN, 60)
    assert world.drawer_opening() == pytest.approx(opening, abs=5e-4)
    handle = world.drawer_handle_pos()
    go(world, handle + (-0.05, 0, 0.06), CLOSE, turn)
    go(world, handle + (-0.05, 0, 0), CLOSE, turn)
    go(world, handle + (0.07, 0, 0), CLOSE, turn, steps=10)
    go(world, world.eef_pos() - (0.05, 0, 0), CLOSE, turn)
    assert abs(world.drawer_opening()) < 0.006


def test_presses_are_counted_once_and_the_lamp_goes_out(world: World) -> None:
    world.reset_scene(Scene(buttons={"red": (0.45, 0.0), "green": (0.45, -0.2)}))
    top = world.button_pos("red")
    for count in (1, 2):
        go(world, top + (0, 0, 0.03), CLOSE)
        assert not world.button_pressed("red")
        go(world, top - (0, 0, 0.004), CLOSE, steps=10)
        assert world.button_pressed("red") and world.lamp_on("red") and not world.lamp_on("green")
        wait(world, CLOSE, 10)
        assert world.press_log == ["red"] * count
    go(world, top + (0, 0, 0.05), CLOSE)
    assert not world.button_pressed("red") and world.lamp_on("red")
    wait(world, CLOSE, int(LAMP_SECONDS * 20))
    assert not world.lamp_on("red")


def test_a_block_on_a_button_is_no_press(world: World) -> None:
    world.reset_scene(Scene(buttons={"red": (0.5, 0.2)}, blocks={"blue": (0.5, 0.2, 0.057, 0)}))
    world.push_block("blue", (0, 0, -1.0))
    wait(world, OPEN, 10)
    assert world.press_log == []


def test_parked_objects_touch_nothing_and_stay_put(world: World) -> None:
    world.reset_scene(Scene())
    wait(world, OPEN, 40)
    assert world.data.ncon == 0
    assert np.abs(world.data.qvel[9:]).max() < 1e-9


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.zeros(6), "shape"),
        (np.full(7, np.nan), "finite"),
        (np.array([0, 0, np.inf, 0, 0, 0, 1]), "finite"),
    ],
)
def test_bad_actions_are_one_clear_line(world: World, action: np.ndarray, words: str) -> None:
    with pytest.raises(WorldError, match=words) as raised:
        world.step(action)
    assert "\n" not in str(raised.value)


def test_bad_scenes_and_questions_are_one_clear_line(world: World) -> None:
    with pytest.raises(WorldError, match="colour"):
        world.reset_scene(Scene(blocks={"pink": (0.5, 0, 0.02, 0)}))
    with pytest.raises(WorldError, match="at most 3 bins"):
        world.reset_scene(Scene(bins={c: (0.5, 0.0) for c in ("red", "green", "blue", "yellow")}))
    world.reset_scene(Scene())
    with pytest.raises(WorldError, match="no red block"):
        world.block_pos("red")
    with pytest.raises(WorldError, match="camera must be one of"):
        world.render(camera="side")


def test_missing_opengl_says_what_to_install() -> None:
    code = "from envs.tabletop.world import World; World().observe()"
    env = {**os.environ, "MUJOCO_GL": "nonsense"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert "WorldError" in done.stderr and "libegl1" in done.stderr and "MUJOCO_GL" in done.stderr
