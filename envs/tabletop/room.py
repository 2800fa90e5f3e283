"""What makes the table a place: the grain of its wood and, for people, a room around it."""

from __future__ import annotations

import numpy as np


def room_xml() -> str:
    """MJCF of what people see around the table (geom group 4: never in the policy's cameras)."""
    look = 'contype="0" conaffinity="0" group="4"'

    def box(size: str, pos: str, rgb: str) -> str:
        return f'<geom type="box" size="{size}" pos="{pos}" {look} rgba="{rgb} 1"/>'

    rng = np.random.default_rng(3)
    legs = [
        box("0.03 0.03 0.36", f"{x} {y} -0.40", "0.25 0.26 0.28")
        for x in (-0.15, 0.85)
        for y in (-0.56, 0.56)
    ]
    wall = "0.82 0.84 0.83"
    parts = [
        f'<geom type="plane" size="6 6 1" pos="0 0 -0.76" material="floor" {look}/>',
        # Wall behind the robot with a window from y = -0.9 to 1.1; wall on the left.
        box("0.05 3 0.48", "-1.6 0 -0.28", wall),
        box("0.05 3 0.5", "-1.6 0 1.95", wall),
        box("0.05 0.95 0.625", "-1.6 -1.95 0.825", wall),
        box("0.05 0.75 0.625", "-1.6 2.05 0.825", wall),
        box("3 0.05 1.6", "1.4 2.4 0.8", "0.74 0.78 0.79"),
        *[box("0.03 0.02 0.64", f"-1.58 {y} 0.82", "0.95 0.95 0.95") for y in (-1.0, -0.24, 0.52, 1.3)],
        *[box("0.06 1.17 0.02", f"-1.57 0.15 {z}", "0.95 0.95 0.95") for z in (0.2, 1.45)],
        box("0.14 1.2 0.015", "-1.48 0.15 0.19", "0.90 0.89 0.86"),
        # A plant on the sill and books on a shelf.
        f'<geom type="cylinder" size="0.07 0.07" pos="-1.45 0.85 0.27" rgba="0.75 0.42 0.30 1" {look}/>',
        *[
            f'<geom type="ellipsoid" size="0.025 0.05 0.14" '
            f'pos="{-1.45 + 0.06 * np.cos(a):.3f} {0.85 + 0.06 * np.sin(a):.3f} 0.44" '
            f'euler="{0.5 * -np.sin(a):.3f} {0.5 * np.cos(a):.3f} {a:.3f}" rgba="0.22 0.48 0.27 1" {look}/>'
            for a in np.linspace(0, 2 * np.pi, 7, endpoint=False)
        ],
        box("0.55 0.13 0.015", "-0.55 2.22 0.50", "0.62 0.50 0.38"),
    ]
    at = -1.0
    for _ in range(14):
        w, h = rng.uniform(0.015, 0.03), rng.uniform(0.11, 0.16)
        rgb = " ".join(f"{c:.2f}" for c in rng.uniform(0.25, 0.75, 3))
        parts.append(box(f"{w:.3f} 0.09 {h:.3f}", f"{at + w:.3f} 2.22 {0.515 + h:.3f}", rgb))
        at += 2 * w + 0.002
    for y in np.arange(-5.0, 6.5, 0.42):  # the skyline outside
        h, grey = rng.uniform(0.3, 1.9), rng.uniform(0.60, 0.74)
        parts.append(
            box(
                f"0.2 {rng.uniform(0.14, 0.26):.2f} {h:.2f}",
                f"{rng.uniform(-6.5, -5.0):.2f} {y:.2f} {h - 1.6:.2f}",
                f"{grey:.2f} {grey + 0.03:.2f} {grey + 0.07:.2f}",
            )
        )
    return "".join(legs + parts)


def wood_texture(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: pale planks with grain. Drawn, not loaded, so the package ships no pictures."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    planks = 6
    row = np.floor(y * planks).astype(int)
    shift, shade = rng.uniform(0, 9, planks)[row], rng.uniform(-0.025, 0.025, planks)[row]
    wave = 0.02 * np.sin(2 * np.pi * (x + shift)) + 0.01 * np.sin(4 * np.pi * (2 * x + shift))
    grain = (
        np.sin(2 * np.pi * (34 * (y + wave) + shift)) * 0.5
        + np.sin(2 * np.pi * (81 * (y + 0.6 * wave))) * 0.3
    )
    noise = np.repeat(rng.normal(0, 1, (height, width // 32)), 32, axis=1)[:, :width]
    value = shade + 0.012 * grain + 0.006 * noise - 0.05 * (np.abs(y * planks - np.round(y * planks)) < 0.012)
    color = np.array([0.70, 0.655, 0.59]) + value[..., None] * np.array([1.0, 1.02, 1.05])
    return (np.clip(color, 0, 1) * 255).astype(np.uint8)
