"""Where things stand when an episode begins: random tables on which nothing overlaps and all is within
reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from envs.tabletop import scene as S
from envs.tabletop.arm import FINGER_OPEN
from envs.tabletop.language import COLORS, SIDES
from envs.tabletop.scene import Scene

Params = Mapping[str, Any]  # a task's, see `tasks.Task`
AREA = ((0.33, 0.67), (-0.31, 0.31))  # where things stand: x, y
HALF = {
    "block": 0.028,
    "bin": S.BIN_INNER + 0.006,
    "box": S.BOX_INNER + 0.006,
    "button": 0.046,
    "mat": S.MAT_HALF,
}
GAP_BLOCK, GAP_FIXTURE = 0.038, 0.02  # an open finger fits beside a block; fixtures stand closer


class _Layout:
    """Rejection sampling of axis-aligned footprints."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.taken: list[tuple[str, float, float, float, float]] = []
        self.full = False

    def fits(self, kind: str, x: float, y: float, hx: float, hy: float) -> bool:
        for other, ox, oy, ohx, ohy in self.taken:
            gap = GAP_BLOCK if "block" in (kind, other) else GAP_FIXTURE
            if abs(x - ox) < hx + ohx + gap and abs(y - oy) < hy + ohy + gap:
                return False
        return True

    def put(
        self, kind: str, x: float, y: float, hx: float | None = None, hy: float | None = None
    ) -> tuple[float, float]:
        self.taken.append((kind, x, y, hx or HALF[kind], hy or HALF[kind]))
        return x, y

    def place(self, kind: str, xs: tuple[float, float] | None = None, ys: tuple[float, float] | None = None):
        half = HALF[kind]
        for _ in range(60):
            (x0, x1), (y0, y1) = xs or AREA[0], ys or AREA[1]
            if xs is None and kind != "block":  # fixtures stay within the area as a whole
                x0, x1, y0, y1 = x0 + half - 0.03, x1 - half + 0.03, y0 + half - 0.03, y1 - half + 0.03
            x, y = float(self.rng.uniform(x0, x1)), float(self.rng.uniform(y0, y1))
            if self.fits(kind, x, y, half, half):
                return self.put(kind, x, y)
        self.full = True
        return 0.5, 0.0

    def blocks(self, colors: Sequence[str], xs: tuple[float, float] | None = None) -> dict[str, tuple]:
        order = self.rng.permutation(len(colors))
        out = {}
        for i in order:
            x, y = self.place("block", xs)
            out[colors[i]] = (x, y, S.BLOCK_HALF, float(self.rng.uniform(-np.pi / 4, np.pi / 4)))
        return out


def _finish(rng: np.random.Generator, layout: _Layout, **parts: Any) -> Scene | None:
    if layout.full:
        return None
    finger = FINGER_OPEN if rng.random() < 0.5 else float(rng.uniform(0.0, FINGER_OPEN))
    offset = (
        float(rng.uniform(-0.08, 0.08)), float(rng.uniform(-0.18, 0.18)), float(rng.uniform(-0.07, 0.06)),
        float(rng.uniform(-0.4, 0.4)), finger,
    )  # fmt: skip
    return Scene(
        arm_offset=offset, light=float(rng.uniform(0.85, 1.15)), tone=float(rng.uniform(-1, 1)), **parts
    )


def _sort_scene(params: Params, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    bins = {c: layout.place("bin") for c in params["bins"]}
    blocks = layout.blocks([c for c, _ in params["moves"]] + list(params["others"]))
    return _finish(rng, layout, blocks=blocks, bins=bins)


def _stack_scene(params: Params, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    return _finish(rng, layout, blocks=layout.blocks([*params["tower"], *params["others"]]))


def _stow_scene(params: Params, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    x, y = float(rng.uniform(0.58, 0.62)), float(rng.uniform(-0.10, 0.10))
    reach = S.DRAWER_TRAVEL + 0.085  # the open drawer's handle
    layout.put("drawer", x - reach / 2, y, reach / 2 + 0.01, S.CABINET_HALF_WIDTH + 0.02)
    blocks = layout.blocks([*params["blocks"], *params["others"]], xs=(0.33, x - 0.05))
    opening = 0.0 if rng.random() < 0.7 else float(rng.uniform(0.03, S.DRAWER_TRAVEL))
    return _finish(rng, layout, blocks=blocks, drawer=(x, y), drawer_opening=opening)


def _clear_scene(params: Params, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    box = layout.place("box")
    return _finish(rng, layout, blocks=layout.blocks(list(params["blocks"])), box=box)


def _swap_scene(params: Params, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    x, y, pitch = rng.uniform(0.42, 0.58), rng.uniform(-0.06, 0.06), rng.uniform(0.14, 0.19)
    mats = []
    for k in (1, 0, -1):
        at = float(x + rng.uniform(-0.04, 0.04)), float(y + k * pitch + rng.uniform(-0.01, 0.01))
        mats.append(layout.put("mat", *at))
    blocks = {}
    for color, side in params["places"]:
        mx, my = mats[SIDES.index(side)]
        dx, dy, yaw = (
            rng.uniform(-0.012, 0.012),
            rng.uniform(-0.012, 0.012),
            rng.uniform(-np.pi / 4, np.pi / 4),
        )
        blocks[color] = (float(mx + dx), float(my + dy), S.BLOCK_HALF, float(yaw))
    blocks |= layout.blocks(list(params["others"]))
    blocks = {c: blocks[c] for c in (COLORS[i] for i in rng.permutation(len(COLORS))) if c in blocks}
    return _finish(rng, layout, blocks=blocks, mats=tuple(mats))


def _press_scene(params: Params, rng: np.random.Generator) -> Scene | None:
    layout = _Layout(rng)
    buttons = {c: layout.place("button", (0.37, 0.63), (-0.26, 0.26)) for c in params["buttons"]}
    return _finish(rng, layout, buttons=buttons)


SCENES = {
    "sort": _sort_scene, "stack": _stack_scene, "stow": _stow_scene,
    "clear": _clear_scene, "swap": _swap_scene, "press": _press_scene,
}  # fmt: skip
