"""The world one acts in, without gymnasium: scenes are placed in one model, control runs at 20 Hz.

Frames: world = robot base, metres, table top at z = 0. Action (7,) in [-1, 1]: position delta (full scale
0.03 m per step), axis-angle delta in the world frame (full scale 0.15 rad per step), gripper (+1 closes,
-1 opens: LIBERO's sign).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from envs.errors import WorldError
from envs.tabletop import scene as S
from envs.tabletop.arm import (
    FINGER_OPEN,
    JOINT_SPEED,
    KP,
    KV,
    REST,
    ArmKinematics,
    axis_angle_of_hand,
    down,
    rotation,
    rotation_vector,
)
from envs.tabletop.cameras import CAMERAS
from envs.tabletop.gl import mujoco
from envs.tabletop.scene import COLORS, Scene
from envs.tabletop.simulation import EDITED, OBJ, Simulation

CONTROL_HZ = 20
SUBSTEPS = 10  # of 5 ms
POSITION_SCALE, ROTATION_SCALE = 0.03, 0.15  # full scale of an action, per step
WORKSPACE_LOW = np.array([0.26, -0.40, 0.013])
WORKSPACE_HIGH = np.array([0.74, 0.40, 0.42])
LEASH, TURN_LEASH = 0.05, 0.35  # how far the command may run ahead of the real hand (m, rad)
MISS = 0.01  # a pose counts as reachable if the joints come this near (m)
YAW_LIMIT, TILT_LIMIT = 2.0, 0.3
START = np.array([0.42, 0.0, 0.24])  # TCP at the start, before the scene's offset
FINGER_STEP = 0.012  # metres per control step: half the stroke of a 4 cm grasp takes two steps
LAMP_SECONDS = 0.8


class Snapshot(NamedTuple):
    """All that `World.restore` needs: the physics state, the edited model fields, the plain variables."""

    physics: np.ndarray
    model: dict[str, np.ndarray]
    variables: dict[str, Any]


class World(Simulation):
    """One table. `reset` places a scene, `step` moves the arm, `observe` renders.

    The same (scene, seed) followed by the same actions gives the same bits, whatever the object was
    used for before.
    """

    def __init__(self, render: bool = True) -> None:
        super().__init__(render)
        self.kinematics = ArmKinematics()
        self.task: Any = None  # what the episode asks for; changes when the person changes the instruction
        self._place(Scene())

    # ---- episode ----

    def reset(self, task: Any, seed: int) -> None:
        """Sets the table for `task` (anything with `scene(rng) -> Scene`), drawn with `seed`."""
        self.task = task
        self.reset_scene(task.scene(np.random.default_rng(seed)))

    def reset_scene(self, scene: Scene) -> None:
        """Sets the table for an explicit scene."""
        self._place(scene)

    def _place(self, scene: Scene) -> None:
        m, d = self.model, self.data
        for name, value in self._pristine.items():
            getattr(m, name)[:] = value
        mujoco.mj_resetData(m, d)
        self.scene = scene
        self._park_all()
        m.light_diffuse[:] *= scene.light
        table = self._id(OBJ.mjOBJ_GEOM, "table")
        m.mat_rgba[m.geom_matid[table], :3] = np.clip(0.92 + 0.08 * scene.tone, 0, 1)
        for color, (x, y, z, yaw) in scene.blocks.items():
            self._check_color(color, "block")
            self._show(color)
            m.body_gravcomp[self._body[color]] = 0.0
            a = self._qpos[color]
            d.qpos[a : a + 7] = (x, y, z, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        for slot, names, limit in ((scene.bins, "bin", S.MAX_BINS), (scene.buttons, "button", S.MAX_BUTTONS)):
            if len(slot) > limit:
                raise WorldError(f"a scene holds at most {limit} {names}s, not {len(slot)}")
        for i, (color, at) in enumerate(scene.bins.items()):
            self._check_color(color, "bin")
            self._show(f"bin{i}", at)
            rgb = 0.86 * np.array(COLORS[color]) + 0.06
            m.geom_rgba[self._geoms[f"bin{i}"], :3] = rgb
            m.geom_rgba[self._geoms[f"bin{i}"][0], :3] = 0.72 * rgb
        for i, (color, at) in enumerate(scene.buttons.items()):
            self._check_color(color, "button")
            self._show(f"button{i}", at)
            m.geom_rgba[self._plunger_geom[i], :3] = COLORS[color]
        if scene.box is not None:
            self._show("box", scene.box)
        if scene.drawer is not None:
            self._show("cabinet", scene.drawer)
            d.qpos[self._qpos["drawer"]] = np.clip(scene.drawer_opening, 0, S.DRAWER_TRAVEL)
        if len(scene.mats) not in (0, S.MAX_MATS):
            raise WorldError(f"a scene has no mats or {S.MAX_MATS}, not {len(scene.mats)}")
        for i, at in enumerate(scene.mats):
            self._show(f"mat{i}", at)
        self._bin_index = {c: i for i, c in enumerate(scene.bins)}
        self._button_index = {c: i for i, c in enumerate(scene.buttons)}
        dx, dy, dz, yaw, finger = scene.arm_offset
        self._command = np.clip(START + (dx, dy, dz), WORKSPACE_LOW, WORKSPACE_HIGH)
        self._turn = down(float(np.clip(yaw, -YAW_LIMIT, YAW_LIMIT)))
        self._q = self.kinematics.solve(REST, self._command, self._turn, iterations=50)
        finger = float(np.clip(finger, 0.0, FINGER_OPEN))
        self._grip, self._miss = finger, 0.0
        d.qpos[:7], d.qpos[7:9] = self._q, finger
        d.ctrl[:7], d.ctrl[7:9] = self._q, finger
        self._down: set[str] = set()
        self._lamp_until: dict[str, float] = {}
        self.press_log: list[str] = []
        self.steps = 0
        mujoco.mj_step(m, d, 20)  # blocks settle into their contacts, so an episode starts at rest
        d.time = 0.0
        mujoco.mj_fwdPosition(m, d)
        self._lamps()

    def step(self, action: np.ndarray) -> None:
        """One control step of 1/20 s, no rendering. action (7,), clipped to [-1, 1]; else WorldError."""
        a = np.asarray(action, dtype=np.float64)
        if a.shape != (7,):
            raise WorldError(f"an action has shape (7,): position, rotation, gripper; got shape {a.shape}")
        if not np.isfinite(a).all():
            raise WorldError(f"an action must be finite numbers in [-1, 1]; got {a.tolist()}")
        a = np.clip(a, -1.0, 1.0)
        d = self.data
        position, turn = self._next_command(a)
        # Out of reach the command stays where it was, else it drags the hand along the edge of its reach.
        for option in ((position, turn), (position, self._turn), (self._command, turn)):
            goal = self.kinematics.solve(self._q, *option)
            miss = self._missed_by(goal, *option)
            if miss < max(MISS, self._miss):
                (self._command, self._turn), self._miss = option, miss
                break
        else:
            goal = self._q
        reach = JOINT_SPEED / CONTROL_HZ
        goal = self._q + (goal - self._q) / max(1.0, float(np.max(np.abs(goal - self._q) / reach)))
        self._grip = self._next_grip(closing=a[6] > 0)
        # Servos follow a straight line in joint space; the added term cancels the lag of their damping.
        lead_q = KV / KP * (goal - self._q) * CONTROL_HZ
        d.ctrl[7:9] = self._grip
        for k in range(1, SUBSTEPS + 1):
            d.ctrl[:7] = self._q + (goal - self._q) * (k / SUBSTEPS) + lead_q
            mujoco.mj_step(self.model, d)
        self._q = goal
        self.steps += 1
        mujoco.mj_fwdPosition(self.model, d)  # poses and contacts of the state just reached
        self._press()
        self._lamps()

    def _next_command(self, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where an action sends the hand: ahead of it by a leash at most, so pressing does not wind it up."""
        hand, turned = self.eef_pos(), self.eef_rotation()
        ahead = np.clip(self._command + POSITION_SCALE * a[:3], WORKSPACE_LOW, WORKSPACE_HIGH) - hand
        position = hand + ahead * min(1.0, LEASH / max(float(np.linalg.norm(ahead)), 1e-9))
        turn = self._limit_turn(rotation(ROTATION_SCALE * a[3:6]) @ self._turn)
        lead = rotation_vector(turn @ turned.T)
        size = float(np.linalg.norm(lead))
        return position, rotation(lead * (TURN_LEASH / size)) @ turned if size > TURN_LEASH else turn

    def _missed_by(self, q: np.ndarray, position: np.ndarray, turn: np.ndarray) -> float:
        """How far joints q are from a pose, in metres; a radian counts as 0.1 m."""
        at, turned = self.kinematics.forward(q)
        return float(np.linalg.norm(position - at) + 0.1 * np.linalg.norm(rotation_vector(turn @ turned.T)))

    def _next_grip(self, closing: bool) -> float:
        """The fingers' command moves at a steady speed, and turns round at once where the fingers are."""
        fingers = float(self.data.qpos[7] + self.data.qpos[8]) / 2
        if closing:
            return max(min(self._grip, fingers) - FINGER_STEP, 0.0)
        return min(max(self._grip, fingers) + FINGER_STEP, FINGER_OPEN)

    def _limit_turn(self, turn: np.ndarray) -> np.ndarray:
        """The nearest rotation within the yaw and tilt limits."""
        yaw = self._yaw_of(turn)
        if abs(yaw) > YAW_LIMIT:
            turn = rotation(np.array([0, 0, np.clip(yaw, -YAW_LIMIT, YAW_LIMIT) - yaw])) @ turn
            yaw = float(np.clip(yaw, -YAW_LIMIT, YAW_LIMIT))
        tilt = rotation_vector(turn @ down(yaw).T)
        size = float(np.linalg.norm(tilt))
        return rotation(tilt * (TILT_LIMIT / size)) @ down(yaw) if size > TILT_LIMIT else turn

    def _press(self) -> None:
        touched = self._touching(self._hand_bodies)
        for color, i in self._button_index.items():
            depth = self.data.qpos[self._qpos[f"plunger{i}"]]
            if color in self._down:
                if depth < S.RELEASE_DEPTH:
                    self._down.discard(color)
            elif depth > S.PRESS_DEPTH and self._plunger_geom[i] in touched:
                self._down.add(color)
                self.press_log.append(color)
            if color in self._down:
                self._lamp_until[color] = self.time + LAMP_SECONDS

    def _lamps(self) -> None:
        for color, i in self._button_index.items():
            mat, lit = self._lamp_mat[i], self.lamp_on(color)
            rgb = np.array(COLORS[color])
            self.model.mat_rgba[mat, :3] = 0.8 * rgb + 0.2 if lit else 0.30 * rgb + 0.04
            self.model.mat_emission[mat] = 0.8 if lit else 0.0

    # ---- observation ----

    def state_vector(self) -> np.ndarray:
        """(8,) float32: TCP position, axis-angle of the hand, the two finger joints."""
        fingers = self.data.qpos[7:9]
        return np.concatenate([self.eef_pos(), axis_angle_of_hand(self.eef_rotation()), fingers]).astype(
            np.float32
        )

    def observe(self) -> dict[str, Any]:
        """{"pixels": {"front" (128, 128, 3), "wrist" (64, 64, 3)} uint8, "agent_pos" (8,) float32}."""
        pixels = {
            name: self.cameras.picture(self.data, name, size, size, nice=False)
            for name, size in CAMERAS.items()
        }
        return {"pixels": pixels, "agent_pos": self.state_vector()}

    def render(self, width: int = 640, height: int = 480, camera: str = "person") -> np.ndarray:
        """(H, W, 3) uint8 for people: shadows, reflections, smooth edges."""
        return self.cameras.picture(self.data, camera, width, height, nice=True)

    def close(self) -> None:
        """Frees the GL contexts."""
        self.cameras.close()

    # ---- snapshots ----

    def save(self) -> Snapshot:
        """The exact present: restoring it and repeating the actions repeats the bits."""
        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(self.model, spec))
        mujoco.mj_getState(self.model, self.data, physics, spec)
        fields = {name: getattr(self.model, name).copy() for name in EDITED}
        variables = dict(
            task=self.task,
            scene=self.scene,
            _command=self._command.copy(),
            _turn=self._turn.copy(),
            _q=self._q.copy(),
            _grip=self._grip,
            _miss=self._miss,
            _down=set(self._down),
            _lamp_until=dict(self._lamp_until),
            press_log=list(self.press_log),
            steps=self.steps,
            _bin_index=dict(self._bin_index),
            _button_index=dict(self._button_index),
        )
        return Snapshot(physics, fields, variables)

    def restore(self, snapshot: Snapshot) -> None:
        """Back to a snapshot of this or another World."""
        for name, value in snapshot.model.items():
            getattr(self.model, name)[:] = value
        mujoco.mj_setState(self.model, self.data, snapshot.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        for name, value in snapshot.variables.items():
            setattr(self, name, value.copy() if hasattr(value, "copy") else value)
        mujoco.mj_fwdPosition(self.model, self.data)

    # ---- the truth (for teachers, goals and tests) ----

    @property
    def time(self) -> float:
        """Seconds of simulated time since the reset."""
        return self.steps / CONTROL_HZ

    def command_pos(self) -> np.ndarray:
        """(3,) where the hand is being sent."""
        return self._command.copy()

    def command_yaw(self) -> float:
        """The turn the hand is being sent to."""
        return self._yaw_of(self._turn)

    def button_pressed(self, color: str) -> bool:
        """Whether the button is down now."""
        return color in self._down

    def lamp_on(self, color: str) -> bool:
        """Whether the button's lamp is lit: while pressed and 0.8 s after."""
        return color in self._down or self.time < self._lamp_until.get(color, -1.0) - 1e-9
