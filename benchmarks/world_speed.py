"""Speed of the tabletop world on one core: control steps per second, and pictures per second.

OMP_NUM_THREADS=1 python benchmarks/world_speed.py
"""

from __future__ import annotations

import time

import numpy as np

from envs.tabletop.scene import COLORS, Scene
from envs.tabletop.world import World

SCENE = Scene(
    blocks={c: (0.36 + 0.08 * (i % 3), -0.08 + 0.12 * (i // 3), 0.02, 0.3 * i) for i, c in enumerate(COLORS)},
    bins={"red": (0.40, -0.27), "blue": (0.58, -0.27)},
    drawer=(0.62, 0.2),
)


def rate(do, seconds: float = 3.0) -> float:
    """Calls per second of `do`, after one to warm up."""
    do()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        do()
        count += 1
    return count / (time.perf_counter() - start)


def main() -> None:
    world, rng = World(), np.random.default_rng(0)
    world.reset_scene(SCENE)
    scale = np.array([1, 1, 1, 0, 0, 1, 1])
    print(f"control steps/s, no rendering   {rate(lambda: world.step(rng.uniform(-1, 1, 7) * scale)):8.0f}")
    print(f"resets/s                        {rate(lambda: world.reset_scene(SCENE)):8.0f}")
    world.reset_scene(SCENE)
    both = rate(world.observe)
    print(f"observations/s (front + wrist)  {both:8.0f}   = {2 * both:.0f} images/s")
    for name, size in (("front", 128), ("wrist", 64)):
        do = lambda n=name, s=size: world.cameras.picture(world.data, n, s, s, nice=False)
        print(f"{name} {size}x{size} images/s".ljust(32) + f"{rate(do):8.0f}")
    print(f"person view 640x480 images/s    {rate(world.render):8.1f}")
    world.close()


if __name__ == "__main__":
    main()
