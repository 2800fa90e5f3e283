"""Meta-World's fifty tasks: what each asks for, in our words, and which suites they are in."""

from __future__ import annotations

INSTRUCTIONS: dict[str, str] = {
    "assembly-v3": "lift the nut by its handle and slip it over the peg",
    "basketball-v3": "drop the basketball through the hoop",
    "bin-picking-v3": "carry the cube from the red bin over to the blue one",
    "box-close-v3": "set the lid on the box",
    "button-press-topdown-v3": "push the button down from above",
    "button-press-topdown-wall-v3": "reach over the wall and push the button down from above",
    "button-press-v3": "push the button into its box",
    "button-press-wall-v3": "reach around the wall and push the button into its box",
    "coffee-button-v3": "start the coffee machine with its button",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the spout of the coffee machine",
    "dial-turn-v3": "turn the dial half way round",
    "disassemble-v3": "lift the nut off the peg",
    "door-close-v3": "swing the door shut",
    "door-lock-v3": "turn the lock clockwise so that the door is locked",
    "door-open-v3": "pull the door open by its handle",
    "door-unlock-v3": "turn the lock counter-clockwise so that the door is free",
    "drawer-close-v3": "push the drawer shut",
    "drawer-open-v3": "pull the drawer open by its handle",
    "faucet-close-v3": "turn the tap clockwise",
    "faucet-open-v3": "turn the tap counter-clockwise",
    "hammer-v3": "take the hammer and drive the nail into the wall",
    "hand-insert-v3": "lower the gripper into the hole",
    "handle-press-side-v3": "push the handle on the side down",
    "handle-press-v3": "push the handle down",
    "handle-pull-side-v3": "lift the handle on the side up",
    "handle-pull-v3": "lift the handle up",
    "lever-pull-v3": "swing the lever up through a quarter turn",
    "peg-insert-side-v3": "push the peg sideways into the hole of the box",
    "peg-unplug-side-v3": "pull the plug sideways out of its socket",
    "pick-out-of-hole-v3": "lift the puck out of the hole and bring it to the goal",
    "pick-place-v3": "pick up the puck and hold it at the goal",
    "pick-place-wall-v3": "lift the puck over the wall and hold it at the goal",
    "plate-slide-back-side-v3": "slide the plate sideways out of the cabinet",
    "plate-slide-back-v3": "slide the plate back out of the cabinet",
    "plate-slide-side-v3": "slide the plate sideways into the cabinet",
    "plate-slide-v3": "slide the plate straight into the cabinet",
    "push-back-v3": "draw the puck back to the goal",
    "push-v3": "push the puck along the table to the goal",
    "push-wall-v3": "push the puck past the wall to the goal",
    "reach-v3": "move the gripper to the goal",
    "reach-wall-v3": "move the gripper past the wall to the goal",
    "shelf-place-v3": "put the cube on the shelf",
    "soccer-v3": "push the football into the net",
    "stick-pull-v3": "take the stick, hook the thermos with it and pull it to the goal",
    "stick-push-v3": "take the stick and push the thermos with it to the goal",
    "sweep-into-v3": "brush the cube along the table into the hole",
    "sweep-v3": "brush the cube over the edge of the table",
    "window-close-v3": "slide the window shut",
    "window-open-v3": "slide the window open",
}

_MEDIUM = (
    *("basketball-v3", "bin-picking-v3", "box-close-v3", "coffee-pull-v3", "coffee-push-v3", "hammer-v3"),
    *("peg-insert-side-v3", "push-wall-v3", "soccer-v3", "sweep-into-v3", "sweep-v3"),
)
_HARD = (
    *("assembly-v3", "hand-insert-v3", "pick-out-of-hole-v3", "pick-place-v3", "push-back-v3", "push-v3"),
)
_VERY_HARD = ("disassemble-v3", "pick-place-wall-v3", "shelf-place-v3", "stick-pull-v3", "stick-push-v3")

TASKS: dict[str, tuple[str, ...]] = {
    "metaworld_mt50": tuple(INSTRUCTIONS),
    "metaworld_mt10": (
        *("reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3"),
        *("button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3"),
    ),
    # Difficulties as Seo et al. 2022 (Masked World Models) sorted them and LeRobot evaluates them.
    "metaworld_easy": tuple(t for t in INSTRUCTIONS if t not in {*_MEDIUM, *_HARD, *_VERY_HARD}),
    "metaworld_medium": _MEDIUM,
    "metaworld_hard": _HARD,
    "metaworld_very_hard": _VERY_HARD,
}
