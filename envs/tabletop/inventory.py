"""What stands where, in words: "red in blue yellow table green up". A planner that learns to write this
beside its plans has to tell every colour and every place apart, also those that the plan does not name.
"""

from __future__ import annotations

from envs.tabletop import tasks
from envs.tabletop.language import COLORS, SIDES
from envs.tabletop.world import World


def inventory(world: World) -> str:
    """Blocks, each with its place, in the fixed order of colours; where there are none, the buttons.

    A place is "up" (in the hand), "in" and a bin's colour, "box", "drawer", "on" and the colour of the block
    below, "left", "middle" or "right" (mats), or "table".
    """
    if not world.scene.blocks:
        return " ".join(color for color in COLORS if color in world.scene.buttons)
    return " ".join(f"{color} {place_of(world, color)}" for color in COLORS if color in world.scene.blocks)


def place_of(world: World, color: str) -> str:
    scene = world.scene
    if world.held() == color:
        return "up"
    for bin_color in scene.bins:
        if tasks.in_bin(world, color, bin_color):
            return f"in {bin_color}"
    if scene.box is not None and tasks.in_box(world, color):
        return "box"
    if scene.drawer is not None and tasks.in_drawer(world, color):
        return "drawer"
    for base in scene.blocks:
        if base != color and tasks.on_block(world, color, base):
            return f"on {base}"
    for side in SIDES if scene.mats else ():
        if tasks.on_mat(world, color, side):
            return side
    return "table"
