"""Pictures of the table: fast plain ones for the policy, good ones for people, exact projection."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.errors import WorldError
from envs.tabletop.gl import mujoco, no_gl

CAMERAS = {"front": 128, "wrist": 64}  # the policy's cameras and their square pictures' sides
_ALL = (*CAMERAS, "person")


class Cameras:
    """Renderers of one model, made when first needed (a GL context costs tens of milliseconds)."""

    def __init__(self, model: mujoco.MjModel, enabled: bool = True) -> None:
        self.model, self.enabled = model, enabled
        self._ids = {n: mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, n) for n in _ALL}
        self._renderers: dict[tuple[int, int, bool], mujoco.Renderer] = {}
        self._look = mujoco.MjvOption()

    def picture(self, data: mujoco.MjData, camera: str, width: int, height: int, nice: bool) -> np.ndarray:
        """(H, W, 3) uint8. `nice`: shadows, smooth edges, and the room around the table."""
        self._known(camera)
        if not self.enabled:
            raise WorldError("this world was made with render=False and has no pictures")
        key = (width, height, nice)
        if key not in self._renderers:
            self._renderers[key] = self._open(width, height, nice)
        renderer = self._renderers[key]
        self._look.geomgroup[4] = int(nice)
        renderer.update_scene(data, camera, scene_option=self._look)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = int(nice)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0  # a second drawing of everything
        return renderer.render()

    def _open(self, width: int, height: int, nice: bool) -> mujoco.Renderer:
        vis = self.model.vis
        vis.global_.offwidth, vis.global_.offheight = max(width, 640), max(height, 480)
        # Read once, when the context is made. Coarser cylinders draw 1.6 times faster and look the same.
        vis.quality.offsamples, vis.quality.shadowsize = (4, 1024) if nice else (0, 0)
        vis.quality.numslices, vis.quality.numstacks = (20, 10) if nice else (16, 8)
        try:
            return mujoco.Renderer(self.model, height, width)
        except Exception as error:  # MuJoCo raises many kinds here, depending on what is missing
            raise no_gl(error) from error

    def project(self, data: mujoco.MjData, xyz: Any, camera: str) -> tuple[float, float]:
        """World point (3,) -> (y, x) in the camera's square picture, [0, 1], y down; may lie outside."""
        i = self._known(camera)
        local = data.cam_xmat[i].reshape(3, 3).T @ (np.asarray(xyz, dtype=np.float64) - data.cam_xpos[i])
        # A square picture has one scale for both axes; the camera looks along its own -z.
        scale = 0.5 / np.tan(np.deg2rad(self.model.cam_fovy[i]) / 2) / max(-local[2], 1e-6)
        return float(0.5 - local[1] * scale), float(0.5 + local[0] * scale)

    def unproject(self, data: mujoco.MjData, yx: Any, height: float, camera: str) -> np.ndarray:
        """(3,) the world point at `height` (m) that is seen at (y, x): `project` the other way round."""
        i = self._known(camera)
        half = np.tan(np.deg2rad(self.model.cam_fovy[i]) / 2)
        local = np.array([(2 * yx[1] - 1) * half, (1 - 2 * yx[0]) * half, -1.0])
        ray, eye = data.cam_xmat[i].reshape(3, 3) @ local, data.cam_xpos[i]
        down = min(float(ray[2]), -1e-6)  # a ray above the horizon meets no table: far away
        return eye + ray * ((height - eye[2]) / down)

    def _known(self, camera: str) -> int:
        if camera not in self._ids:
            raise WorldError(f"camera must be one of {', '.join(_ALL)}; got {camera!r}")
        return self._ids[camera]

    def close(self) -> None:
        """Frees the GL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
