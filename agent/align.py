"""Where to go on in a chunk of speeds that comes late.

A chunk is a path from where the robot was when it looked. What it did until the chunk came may be the
beginning of that path, nothing, or something else. Beginning with its first action does twice what was
done already; passing over as many actions as were done leaves out what was not: a hand that is told at every
look to jump, and always comes too late for it, never moves. So the chunk is entered where its path is nearest
to what was done, and what is still missing there is made up for.
"""

from __future__ import annotations

import numpy as np

NEAR = 0.25  # of the largest action: places so much alike are the same, and the later one is taken


def entered(actions: np.ndarray, done: np.ndarray) -> tuple[np.ndarray, int]:
    """actions (H, A): speeds, the gripper last. done (D, A): what the robot did since the observation.

    Returns the chunk with what is missing made up for, in its first actions from there on, no faster than
    anything in it or done, and how many of its actions are passed over.
    """
    actions = np.array(actions, np.float32)
    if not len(done):
        return actions, 0
    most = min(len(done), len(actions) - 1)
    way = np.cumsum(np.concatenate((np.zeros_like(actions[:1]), actions[:most])), 0)  # (most + 1, A)
    far = np.linalg.norm(way - np.sum(done, 0), axis=1)
    near = NEAR * max(np.abs(actions).max(), np.abs(done).max())
    start = int(np.flatnonzero(far <= far.min() + near)[-1])
    missing = (way[start] - np.sum(done, 0))[:-1]
    fastest = np.maximum(np.abs(actions).max(0), np.abs(done).max(0))[:-1]
    for action in actions[start:]:
        wanted = action[:-1] + missing
        action[:-1] = np.clip(wanted, -fastest, fastest)
        missing = wanted - action[:-1]
    return actions, start
