"""A teacher for OGBench: what differs from the goal and what stands in its way decides the next subtask, the
package's own Markov oracles carry it out.

It looks at the world's state alone, afresh at every tick: whatever comes between, it goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

from envs.benchmarks import ogbench_words as words
from envs.benchmarks.ogbench_words import FREE, OPENED, SLIDES, STOWED_Y, Arrangement
from envs.contract import DONE, NO_MEMORY, Label

IN_DRAWER = np.array([0.33, -0.24, 0.066])  # where a cube is let go above the open drawer's floor
EXACT, ENOUGH = 0.02, 0.035  # metres from a goal: while the hand is at it, and once it is left alone
GRASPED = 0.1  # of the finger's contact reading
SIDE = 0.04  # of a cube
_ACROSS, _ALONG = (0.0, 0.1, -0.1, 0.2, -0.2, 0.3, -0.3), (0.425, 0.35, 0.5)
SPOTS = [np.array([x, y, SIDE / 2]) for y in _ACROSS for x in _ALONG]  # to put a cube aside


@dataclass(frozen=True)
class Step:
    """A subtask, the thing that the hand is at while it does it, and what the oracle is told."""

    subtask: str
    thing: str  # "cube0", "button1", "drawer", "window"
    told: dict[str, Any]


class Oracle:
    """Bound to one world. `goal` tells the arrangement that the episode under way asks for."""

    def __init__(self, world: Any, goal: Callable[[], Arrangement]) -> None:
        self._world, self._goal = world, goal
        kinds = {
            "cube": CubeMarkovOracle,
            "button": ButtonMarkovOracle,
            "drawer": DrawerMarkovOracle,
            "window": WindowMarkovOracle,
        }
        self._hands = {name: kind(env=world) for name, kind in kinds.items()}
        with _own_numbers():  # of a place to go to afterwards, which we never do
            for hand in self._hands.values():
                hand.reset(None, {})

    def reset(self) -> None:
        """Nothing: it remembers nothing."""

    def label(self) -> Label:
        now = View(self._world)
        goal = self._goal()
        step = scene_step(now, goal) if goal.slides else cubes_step(now, goal)
        if step is None or self._world._success:  # the benchmark is content with less than we are
            return Label(DONE, None, NO_MEMORY, np.zeros(5, np.float32))
        hand = self._hands[step.thing.rstrip("0123456789")]
        action = now.back_off(step.thing)
        if action is None and step.thing in SLIDES:
            yaw, bar = now.seen["proprio/effector_yaw"], now.seen[f"privileged/{step.thing}_handle_yaw"]
            action = now.line_up(step.thing, hand.shortest_yaw(yaw[0], bar[0], n=2) - yaw[0])
        if action is None:
            action = hand.select_action(None, now.seen | step.told)
        return Label(step.subtask, None, NO_MEMORY, np.clip(action, -1, 1).astype(np.float32))


class View:
    """The present as the teacher sees it."""

    def __init__(self, world: Any) -> None:
        self.world, self.seen = world, world.compute_ob_info()
        self.hand = self.seen["proprio/effector_pos"]
        count = sum(name.endswith("_quat") for name in self.seen)
        self.cubes = np.stack([self.seen[f"privileged/block_{i}_pos"] for i in range(count)])
        touching = self.seen["proprio/gripper_contact"][0] > GRASPED
        near = np.linalg.norm(self.cubes - self.hand, axis=1)
        self.held = int(near.argmin()) if touching and near.min() < SIDE else None
        self.things = {f"cube{i}": xyz for i, xyz in enumerate(self.cubes)}
        if "privileged/drawer_pos" in self.seen:
            self.things |= {name: self.seen[f"privileged/{name}_handle_pos"] for name in SLIDES}
            self.things |= {f"button{i}": world.data.site(f"btntop_{i}").xpos.copy() for i in range(2)}

    def back_off(self, thing: str) -> np.ndarray | None:
        """(5,) straight up from something else that the hand is still at; None where there is none."""
        at = min(self.things, key=lambda name: np.linalg.norm(self.things[name] - self.hand))
        away = np.linalg.norm(self.things[at][:2] - self.hand[:2])
        if at == thing or away > 0.06 or self.hand[2] > self.things[at][2] + 0.1:
            return None
        letting_go = at.startswith("cube") and self.held is not None
        return np.array([0, 0, 0.0 if letting_go else 1.0, 0, -1.0])

    def line_up(self, slide: str, turn: float) -> np.ndarray | None:
        """(5,) over a handle's middle and along it, above it, before the fingers go down around it: they get
        stuck on the bar otherwise. None when the hand is in place, or not yet near. turn: radians to go."""
        away = self.things[slide] - self.hand
        aside, above = np.linalg.norm(away[:2]), -away[2]
        if above > 0.09 or aside > 0.06 or (aside < 0.025 and (abs(turn) < 0.3 or above < 0.03)):
            return None
        return np.array([*away[:2] / 0.05, 1.0 if above < 0.06 else 0.0, turn / 0.3, -1.0])

    def carry(self, cube: int, to: np.ndarray, subtask: str) -> Step:
        told = {
            "privileged/target_block": cube,
            "privileged/target_block_pos": to,
            "privileged/target_block_yaw": np.zeros(1),
        }
        return Step(subtask, f"cube{cube}", told)

    def is_at(self, cube: int, to: np.ndarray) -> bool:
        limit = EXACT if self.held == cube else ENOUGH
        return bool(np.linalg.norm(self.cubes[cube] - to) <= limit)

    def lock(self, slide: str, state: int) -> Step | None:
        """Press the button that locks a drawer or window, unless it is as wished."""
        number = SLIDES.index(slide)
        if self.seen[f"privileged/button_{number}_state"] == state:
            return None
        told = {
            "privileged/target_button": number,
            "privileged/target_button_top_pos": self.things[f"button{number}"],
            "privileged/target_button_state": state,
        }
        return Step(words.turn_lock(slide, state), f"button{number}", told)

    def slide(self, name: str, position: float) -> Step | None:
        """Bring the drawer or the window to a joint position, unlocked first; None when it is there."""
        off = abs(self.seen[f"privileged/{name}_pos"][0] - position)
        at_it = np.linalg.norm(self.things[name] - self.hand) < 0.035
        still = abs(self.seen[f"privileged/{name}_vel"][0]) < 0.1  # m/s: what is thrown shut comes open again
        if off <= (0.012 if at_it else ENOUGH) and (still or not at_it):
            return None
        joint = self.world.model.joint(f"{name}_slide")
        left = position - self.seen[f"privileged/{name}_pos"][0]
        target = self.things[name] + left * self.world.data.xaxis[joint.id]
        told = {f"privileged/target_{name}_handle_pos": target}
        return self.lock(name, FREE) or Step(words.slide_to(name, position), name, told)


def scene_step(now: View, goal: Arrangement) -> Step | None:
    """The cube first, then the drawer and its lock, then the window and its lock."""
    stow = goal.cubes[0, 1] < STOWED_Y
    if stow and not _is_stowed(now, goal):
        opening = now.slide("drawer", OPENED["drawer"])
        return opening or now.carry(0, IN_DRAWER, "put the red cube in the drawer")
    if not stow and (now.held == 0 or not now.is_at(0, goal.cubes[0])):
        return now.carry(0, goal.cubes[0], words.move(0, goal.cubes[0]))
    for at, name in enumerate(SLIDES):
        step = now.slide(name, goal.slides[at]) or now.lock(name, goal.locks[at])
        if step is not None:
            return step
    return None


def _is_stowed(now: View, goal: Arrangement) -> bool:
    """In the drawer and near its floor, but not so far to one side as to miss the goal once that is shut."""
    aside = abs(now.cubes[0, 0] - goal.cubes[0, 0])
    low = now.held != 0 or now.cubes[0, 2] < IN_DRAWER[2] + SIDE / 2
    return bool(now.world._is_in_drawer(now.cubes[0])) and low and aside <= ENOUGH


def cubes_step(now: View, goal: Arrangement) -> Step | None:
    """Lower goals first, what lies free first; what keeps another from its goal goes aside."""
    order = sorted(range(len(now.cubes)), key=lambda i: goal.cubes[i, 2])
    missing = [i for i in order if i == now.held or not now.is_at(i, goal.cubes[i])]
    if not missing:
        return None
    ready = {i for i in missing if _is_ready(now, goal, i)}
    if now.held is not None:
        return _deliver(now, goal, now.held, now.held in ready)
    bare = [i for i in missing if not _covers(now, i)]
    for i in bare:
        if i in ready:
            return _deliver(now, goal, i, True)
    for i in bare:
        if any(_blocks(now, goal, i, j) for j in missing if j != i):
            return _deliver(now, goal, i, False)
    return _deliver(now, goal, bare[0], False)


def _deliver(now: View, goal: Arrangement, cube: int, home: bool) -> Step:
    if home:
        return now.carry(cube, goal.cubes[cube], words.move(cube, goal.cubes[cube]))
    others = np.delete(now.cubes, cube, axis=0)
    taken = np.concatenate([others, goal.cubes])[:, :2]
    free = [spot for spot in SPOTS if np.linalg.norm(taken - spot[:2], axis=1).min() > 2 * SIDE]
    return now.carry(cube, free[0], f"put the {words.COLORS[cube]} cube aside")


def _is_ready(now: View, goal: Arrangement, cube: int) -> bool:
    """Whether a cube's goal is free of others and has below it what belongs there."""
    to = goal.cubes[cube]
    for j, xyz in enumerate(now.cubes):
        close = np.linalg.norm(xyz[:2] - to[:2])
        if j != cube and close < 1.4 * SIDE and xyz[2] > to[2] - SIDE / 2 and not now.is_at(j, goal.cubes[j]):
            return False
    below = to - (0, 0, SIDE)
    if below[2] < 0:
        return True
    under = [j for j, xyz in enumerate(goal.cubes) if np.linalg.norm(xyz - below) < EXACT]
    return all(now.is_at(j, goal.cubes[j]) for j in under)


def _covers(now: View, cube: int) -> list[int]:
    """The cubes that stand on one."""
    above = now.cubes - now.cubes[cube]
    return [
        j
        for j, (x, y, z) in enumerate(above)
        if j not in (cube, now.held) and np.hypot(x, y) < SIDE and z > SIDE / 2
    ]


def _blocks(now: View, goal: Arrangement, cube: int, other: int) -> bool:
    """Whether a cube stands on another, or where the other belongs."""
    on_goal = np.linalg.norm(now.cubes[cube, :2] - goal.cubes[other, :2]) < 1.4 * SIDE
    return bool(on_goal) or cube in _covers(now, other)


@contextmanager
def _own_numbers():
    """The oracles draw from numpy's global generator: leave it as it was."""
    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)
