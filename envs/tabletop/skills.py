"""Motions of the scripted teacher: each is a funnel, a function of the world's present state to one action.

A funnel lets the hand's horizontal error decide how low it may be: far away it travels at carry height, close
above the target it comes down. Nothing is remembered between steps, so every skill continues from wherever
the hand is, and the phase of a motion can be seen in the hand's pose, the fingers' width and the pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from envs.tabletop import scene as S
from envs.tabletop.arm import down, rotation_vector

if TYPE_CHECKING:
    from envs.tabletop.world import World

OPEN, CLOSE = -1.0, 1.0
STEP, TURN = 0.03, 0.15  # full scale of an action: metres, radians per control step
CARRY = 0.16  # height of travel, TCP
HOME = np.array([0.33, 0.0, 0.30])  # where the hand waits when all is done: it hides nothing there
IN_BIN, IN_BOX, IN_DRAWER = (
    0.058,
    0.068,
    0.066,
)  # heights of a block's centre when it is let go above a container
HOOK = 0.026  # hooking and pushing the drawer: distance of the closed fingers from the bar, along x
PRESSED = 0.030  # TCP height with the plunger pushed down


def move(
    world: World, goal: np.ndarray, yaw: float, grip: float, speed: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """(7,) float32 action towards TCP position `goal` (3,) and `yaw`; `speed` limits it along the table and
    upright."""
    error = goal - world.eef_pos()
    action = np.zeros(7, dtype=np.float32)
    flat = 0.6 * error[:2] / STEP
    action[:2] = flat * min(1.0, speed[0] / max(float(np.linalg.norm(flat)), 1e-9))
    action[2] = np.clip(0.6 * error[2] / STEP, -speed[1], speed[1])
    now = world.eef_yaw()
    tilt = rotation_vector(down(now) @ world.eef_rotation().T)
    action[3:5] = np.clip(0.5 * tilt[:2] / TURN, -1, 1)
    action[5] = np.clip(0.5 * (yaw - now) / TURN, -0.8, 0.8)
    action[6] = grip
    return action


def funnel(
    world: World,
    xy: np.ndarray,
    low: float,
    high: float,
    yaw: float,
    grip: float,
    tolerance: float,
    slope: float = 4.0,
    spread: float = 0.0,
    down_speed: float = 1.0,
) -> np.ndarray:
    """Towards (xy, low): down only as the horizontal error allows; up first, then across, where the hand is
    too low.

    tolerance: metres of error at which the hand may be at `low`; slope: metres of height per metre of error
    beyond.
    spread: further error (metres) that counts like a horizontal one, e.g. from the yaw.
    """
    hand = world.eef_pos()
    error = float(np.linalg.norm(xy - hand[:2]))
    height = low + float(np.clip((max(error, spread) - tolerance) * slope, 0.0, max(high - low, 0.0)))
    free = float(np.clip(1.0 - (height - hand[2] - 0.006) / 0.025, 0.0, 1.0))
    return move(world, np.array([xy[0], xy[1], height]), yaw, grip, (free, down_speed))


def block_yaw(world: World, color: str, near: float) -> float:
    """The grasp yaw of a block (a cube has four): the nearest to `near` at which both open fingers find
    room."""
    w, x, y, z = world.block_quat(color)
    axes = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
        [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
        [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    flat = axes[int(np.argmin(np.abs(axes[:, 2])))]  # whichever face it lies on, this axis is along the table
    yaw = float(np.arctan2(flat[1], flat[0]))
    near = float(np.clip(near, -0.6, 0.6))
    yaw += np.pi / 2 * round((near - yaw) / (np.pi / 2))
    if not _crowded(world, color, yaw):
        return yaw
    other = yaw - np.copysign(np.pi / 2, yaw)
    return yaw if _crowded(world, color, other) else other


def _crowded(world: World, color: str, yaw: float) -> bool:
    """Whether an open finger beside this block, with the hand at `yaw`, would come down on something."""
    center, scene = world.block_pos(color), world.scene
    for sign in (-1, 1):
        x, y = center[:2] + sign * 0.046 * np.array([-np.sin(yaw), np.cos(yaw)])
        for other in scene.blocks:
            p = world.block_pos(other)
            if other != color and max(abs(p[0] - x), abs(p[1] - y)) < 0.03 and p[2] > center[2] - 0.03:
                return True
        trays = [(world.bin_pos(c), S.BIN_INNER) for c in scene.bins]
        if scene.box is not None:
            trays.append((world.box_pos(), S.BOX_INNER))
        for p, inner in trays:
            edge = max(abs(p[0] - x), abs(p[1] - y))
            if inner - 0.007 < edge < inner + 0.013:
                return True
        if scene.drawer is not None:
            p = world.drawer_pos()
            dx, dy = abs(p[0] - x), abs(p[1] - y)
            if dx < 0.085 and dy < 0.105 and not (dx < 0.055 and dy < 0.073):
                return True
    return False


def in_hand(world: World) -> str | None:
    """The block that is gripped (not merely touched from above), or None."""
    color = world.held()
    if color is None or not 0.03 < world.gripper_width() < 0.062:
        return None
    return color if float(np.abs(world.block_pos(color) - world.eef_pos()).max()) < 0.03 else None


def leave(world: World) -> np.ndarray | None:
    """Out of the way of a block that the open hand is still around: straight up along it. None when there is
    none."""
    hand = world.eef_pos()
    for color in world.scene.blocks:
        offset = world.block_pos(color) - hand
        if np.abs(offset[:2]).max() < 0.03 and -0.045 < offset[2] < 0.03:
            still = world.gripper_width() < 0.05  # the fingers are only just letting go
            goal = hand + (offset[0], offset[1], 0.0 if still else 0.06)
            return move(world, goal, world.eef_yaw(), OPEN, (0.0, 0.0) if still else (0.4, 1.0))
    return None


def pick(world: World, color: str) -> np.ndarray:
    """Above the block, down, close, up."""
    hand, block, width = world.eef_pos(), world.block_pos(color), world.gripper_width()
    yaw = block_yaw(world, color, world.eef_yaw())
    low = max(block[2] + 0.004, 0.022)
    if in_hand(world) == color:
        # Up at once, straight: sliding along while still low would push neighbours.
        return move(world, np.array([hand[0], hand[1], hand[2] + 0.06]), world.eef_yaw(), CLOSE, (0.3, 0.8))
    around = np.abs(block[:2] - hand[:2]).max() < 0.03 and -0.045 < block[2] - hand[2] < 0.03
    out = None if around else leave(world)  # not of a block below the one wanted
    if out is not None:
        return out
    # Across the fingers a block may lie off centre (they push it to the middle); along them it only has to
    # overlap.
    turn, now = abs(yaw - world.eef_yaw()), world.eef_yaw()
    dx, dy = block[:2] - hand[:2]
    along, across = abs(dx * np.cos(now) + dy * np.sin(now)), abs(dy * np.cos(now) - dx * np.sin(now))
    near = along < 0.013 and across < 0.015 and hand[2] < low + 0.011 and turn < 0.3
    closing = along < 0.016 and across < 0.02 and hand[2] < low + 0.02 and turn < 0.5 and width < 0.072
    if width > 0.036 and (near or closing):
        return move(world, np.array([block[0], block[1], low]), yaw, CLOSE, (0.3, 0.5))
    if width < 0.066:  # the fingers have to open above the block
        low = max(low, block[2] + 0.055)
    return funnel(
        world, block[:2], low, block[2] - S.BLOCK_HALF + CARRY, yaw, OPEN, 0.010,
        spread=0.010 + 0.06 * max(0.0, turn - 0.12),
    )  # fmt: skip


def place(world: World, color: str, xy: np.ndarray, height: float, tolerance: float) -> np.ndarray:
    """Carries the block in the hand to (xy, height of its centre) and lets go."""
    hand, block = world.eef_pos(), world.block_pos(color)
    offset = hand - block
    if np.abs(xy - block[:2]).max() < tolerance and block[2] - height < 0.011:
        return move(world, hand, world.eef_yaw(), OPEN, (0.0, 0.0))
    low, turn, exact = height + float(offset[2]), abs(world.eef_yaw()), 0.4 * tolerance
    return funnel(
        world, xy + offset[:2], low, max(CARRY, low + 0.07), 0.0, CLOSE, exact, slope=2.0,
        spread=exact + 0.08 * max(0.0, turn - 0.25), down_speed=0.8,
    )  # fmt: skip


def press(world: World, color: str) -> np.ndarray:
    """Closed fingers above the button, down until it gives."""
    xy = world.button_pos(color)[:2]
    low = PRESSED if world.gripper_width() < 0.02 else S.BUTTON_TOP + 0.05
    return funnel(world, xy, low, 0.13, 0.0, CLOSE, 0.008, down_speed=0.8)


def lift(world: World, color: str) -> np.ndarray:
    """Straight up from the button, and wait there."""
    x, y, _ = world.button_pos(color)
    hand = world.eef_pos()
    return move(
        world, np.array([hand[0], hand[1], max(hand[2], S.BUTTON_TOP + 0.065)]), 0.0, CLOSE, (0.0, 0.8)
    )


def _fingers_shut(world: World, low: float, over: float) -> float:
    """`low`, or `over` as long as the fingers are not closed: a wide hand does not fit where a narrow one
    goes."""
    return low if world.gripper_width() < 0.02 else max(low, over)


def hooked(world: World) -> bool:
    """Whether the hand is in the gap between the drawer's front and its bar."""
    offset = world.eef_pos() - world.drawer_handle_pos()
    return bool(0.006 < offset[0] < 0.056 and abs(offset[1]) < 0.045 and offset[2] < 0.006)


def open_drawer(world: World) -> np.ndarray:
    """Closed fingers down behind the bar, then pull towards the robot."""
    handle, hand = world.drawer_handle_pos(), world.eef_pos()
    if hooked(world):
        left = S.DRAWER_TRAVEL - world.drawer_opening()
        return move(
            world,
            np.array([hand[0] - max(left, 0.015), handle[1], handle[2] - 0.010]),
            0.0,
            CLOSE,
            (0.8, 0.5),
        )
    target = handle + (HOOK, 0, 0)
    low = _fingers_shut(world, handle[2] - 0.010, handle[2] + 0.05)
    return funnel(world, target[:2], low, CARRY, 0.0, CLOSE, 0.010)


def close_drawer(world: World) -> np.ndarray:
    """Closed fingers down before the bar, then push away from the robot."""
    handle, hand = world.drawer_handle_pos(), world.eef_pos()
    offset = hand - handle
    if -0.055 < offset[0] < -0.006 and abs(offset[1]) < 0.045 and offset[2] < 0.008:
        return move(world, np.array([hand[0] + 0.05, handle[1], handle[2] - 0.006]), 0.0, CLOSE, (0.8, 0.5))
    target = handle - (HOOK + 0.008, 0, 0)
    low = _fingers_shut(world, handle[2] - 0.006, handle[2] + 0.05)
    return funnel(world, target[:2], low, CARRY, 0.0, CLOSE, 0.010)


def rest(world: World) -> np.ndarray:
    """Nothing left to do: up, home, and still, the hand open. From home the cameras see the whole table, so
    who stopped too early can see it."""
    out = leave(world)
    if out is not None:
        return out
    free = float(np.clip((world.eef_pos()[2] - CARRY) / 0.05, 0.0, 1.0))
    return move(world, HOME, 0.0, OPEN, (free, 0.8))
