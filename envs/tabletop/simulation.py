"""The compiled table with every object in it: where things are, moving them by hand, parking what a scene
lacks. `World` makes it a world one acts in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.errors import WorldError
from envs.tabletop import scene as S
from envs.tabletop.cameras import Cameras
from envs.tabletop.gl import mujoco
from envs.tabletop.scene import COLORS, Scene, compile_model

EDITED = (
    "geom_contype",
    "geom_conaffinity",
    "geom_rgba",
    "body_gravcomp",
    "mat_rgba",
    "mat_emission",
    "light_diffuse",
)
OBJ = mujoco.mjtObj


class Simulation:
    """Model, data, cameras, and the truth about them (for teachers, goals and tests)."""

    scene: Scene

    def __init__(self, render: bool = True) -> None:
        self.model = compile_model()
        self.data = mujoco.MjData(self.model)
        self.cameras = Cameras(self.model, enabled=render)
        m = self.model
        self._pristine = {name: getattr(m, name).copy() for name in EDITED}
        self._site = self._id(OBJ.mjOBJ_SITE, "tcp")
        self._body = {m.body(i).name: i for i in range(m.nbody)}
        self._mocap = {
            name: int(m.body_mocapid[i]) for name, i in self._body.items() if m.body_mocapid[i] >= 0
        }
        self._geoms = {
            name: self._geoms_of(i) for name, i in self._body.items() if name in self._mocap or name in COLORS
        }
        self._qpos = {m.joint(i).name: int(m.jnt_qposadr[i]) for i in range(m.njnt)}
        self._dof = {m.joint(i).name: int(m.jnt_dofadr[i]) for i in range(m.njnt)}
        self._block_of_geom = {self._id(OBJ.mjOBJ_GEOM, c): c for c in COLORS}
        self._plunger_geom = [self._id(OBJ.mjOBJ_GEOM, f"plunger{i}") for i in range(S.MAX_BUTTONS)]
        self._finger_bodies = (self._body["finger_left"], self._body["finger_right"])
        self._hand_bodies = (*self._finger_bodies, self._body["hand"])
        self._lamp_mat = [self._id(OBJ.mjOBJ_MATERIAL, f"lamp{i}") for i in range(S.MAX_BUTTONS)]
        self._drawer_body = self._body["drawer"]
        self._bin_index: dict[str, int] = {}
        self._button_index: dict[str, int] = {}

    # ---- where things are ----

    def eef_pos(self) -> np.ndarray:
        """(3,) the point between the finger tips (TCP)."""
        return self.data.site_xpos[self._site].copy()

    def eef_rotation(self) -> np.ndarray:
        """(3, 3) of the hand; `down(yaw)` when it points down."""
        return self.data.site_xmat[self._site].reshape(3, 3).copy()

    def eef_yaw(self) -> float:
        """Turn of the hand about the world's z; 0: fingers open along y."""
        return self._yaw_of(self.eef_rotation())

    def gripper_width(self) -> float:
        """Distance between the finger pads, 0 to 0.08 m."""
        return float(self.data.qpos[7] + self.data.qpos[8])

    def block_pos(self, color: str) -> np.ndarray:
        """(3,) centre of a block."""
        return self.data.xpos[self._known(color, self.scene.blocks, "block", self._body.get(color))].copy()

    def block_quat(self, color: str) -> np.ndarray:
        """(4,) w, x, y, z of a block."""
        return self.data.xquat[self._known(color, self.scene.blocks, "block", self._body.get(color))].copy()

    def held(self) -> str | None:
        """The block that both fingers touch, or None."""
        both = self._touching(self._finger_bodies[:1]) & self._touching(self._finger_bodies[1:])
        for geom in sorted(both):
            if geom in self._block_of_geom:
                return self._block_of_geom[geom]
        return None

    def bin_pos(self, color: str) -> np.ndarray:
        """(3,) centre of a bin's floor."""
        i = self._known(color, self._bin_index, "bin", self._bin_index.get(color))
        return self.data.mocap_pos[self._mocap[f"bin{i}"]] + (0, 0, S.FLOOR)

    def box_pos(self) -> np.ndarray:
        """(3,) centre of the big box's floor."""
        return self.data.mocap_pos[self._mocap["box"]] + (0, 0, S.FLOOR)

    def drawer_opening(self) -> float:
        """How far the drawer is open, 0 to 0.14 m."""
        return float(self.data.qpos[self._qpos["drawer"]])

    def drawer_pos(self) -> np.ndarray:
        """(3,) centre of the drawer's floor, wherever the drawer is."""
        return self.data.xpos[self._drawer_body] + (S.DRAWER_INNER[0], 0, S.DRAWER_FLOOR)

    def drawer_handle_pos(self) -> np.ndarray:
        """(3,) middle of the handle's bar (the bar lies along y)."""
        return self.data.xpos[self._drawer_body] + (S.HANDLE[0], 0, S.HANDLE[1])

    def mat_pos(self, i: int) -> np.ndarray:
        """(3,) centre of mat i: 0 left (+y), 1 middle, 2 right."""
        return self.data.mocap_pos[self._mocap[f"mat{i}"]].copy()

    def button_pos(self, color: str) -> np.ndarray:
        """(3,) middle of the plunger's top, wherever it is pressed to."""
        i = self._known(color, self._button_index, "button", self._button_index.get(color))
        depth = float(self.data.qpos[self._qpos[f"plunger{i}"]])
        return self.data.mocap_pos[self._mocap[f"button{i}"]] + (0, 0, S.BUTTON_TOP - depth)

    def project(self, xyz: Any, camera: str = "front") -> tuple[float, float]:
        """World point (3,) -> (y, x) in the camera's square picture, [0, 1], y down; may lie outside."""
        return self.cameras.project(self.data, xyz, camera)

    def unproject(self, yx: Any, height: float, camera: str = "front") -> np.ndarray:
        """(3,) the world point at a height (m) that is seen at (y, x)."""
        return self.cameras.unproject(self.data, yx, height, camera)

    # ---- disturbances (the world moves, not the robot) ----

    def place_block(self, color: str, xyz: Any, yaw: float = 0.0) -> None:
        """Puts a block of the scene somewhere else, at rest."""
        self._known(color, self.scene.blocks, "block", 0)
        a, v = self._qpos[color], self._dof[color]
        self.data.qpos[a : a + 3] = xyz
        self.data.qpos[a + 3 : a + 7] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        self.data.qvel[v : v + 6] = 0.0
        mujoco.mj_fwdPosition(self.model, self.data)

    def push_block(self, color: str, velocity: Any) -> None:
        """Gives a block a linear velocity (3,), m/s."""
        self._known(color, self.scene.blocks, "block", 0)
        self.data.qvel[self._dof[color] : self._dof[color] + 3] = velocity

    def set_drawer(self, opening: float) -> None:
        """Moves the drawer to an opening in metres."""
        self.data.qpos[self._qpos["drawer"]] = np.clip(opening, 0, S.DRAWER_TRAVEL)
        self.data.qvel[self._dof["drawer"]] = 0.0
        mujoco.mj_fwdPosition(self.model, self.data)

    # ---- inside ----

    @staticmethod
    def _yaw_of(turn: np.ndarray) -> float:
        return float(np.arctan2(turn[1, 0] - turn[0, 1] * -1.0, turn[0, 0] - turn[1, 1]))

    def _id(self, kind: Any, name: str) -> int:
        return mujoco.mj_name2id(self.model, kind, name)

    def _geoms_of(self, body: int) -> list[int]:
        """Geoms of a body and of the bodies below it."""
        m = self.model
        return [
            g for g in range(m.ngeom) if m.geom_bodyid[g] == body or m.body_rootid[m.geom_bodyid[g]] == body
        ]

    def _park_all(self) -> None:
        """Unused objects: no contacts, not drawn, weightless, far below the table."""
        m, d = self.model, self.data
        for n, (name, geoms) in enumerate(self._geoms.items()):
            m.geom_contype[geoms] = m.geom_conaffinity[geoms] = 0
            m.geom_rgba[geoms, 3] = 0.0
            at = (0.2 * n, 0.0, -5.0)
            if name in self._mocap:
                d.mocap_pos[self._mocap[name]] = at
            else:
                m.body_gravcomp[self._body[name]] = 1.0
                d.qpos[self._qpos[name] : self._qpos[name] + 3] = at

    def _show(self, name: str, at: tuple[float, float] | None = None) -> None:
        geoms = self._geoms[name]
        for field in ("geom_contype", "geom_conaffinity", "geom_rgba"):
            getattr(self.model, field)[geoms] = self._pristine[field][geoms]
        if at is not None:
            self.data.mocap_pos[self._mocap[name]] = (*at, 0.0)

    def _touching(self, bodies: tuple[int, ...]) -> set[int]:
        """Geoms that touch one of these bodies."""
        d, m = self.data, self.model
        if d.ncon == 0:
            return set()
        pairs = d.contact.geom[: d.ncon]
        on = np.isin(m.geom_bodyid[pairs], bodies)
        return {int(g) for g in np.concatenate([pairs[on[:, 0], 1], pairs[on[:, 1], 0]])}

    @staticmethod
    def _check_color(color: str, what: str) -> None:
        if color not in COLORS:
            raise WorldError(f"a {what}'s colour must be one of {', '.join(COLORS)}; got {color!r}")

    @staticmethod
    def _known(color: str, present: Any, what: str, value: Any) -> Any:
        if color not in present:
            raise WorldError(
                f"there is no {color} {what} in this scene; it has {', '.join(present) or 'none'}"
            )
        return value
