"""What each recorded frame teaches: a chunk of actions, a past memory, and how near the plan is to
changing.
"""

from __future__ import annotations

import numpy as np

from training.episodes import TEACHER

HORIZON = 10  # actions in a chunk
MEMORY_LAGS = 12  # the past memory a planner is given is 1 .. this many steps old
NOTHING = "nothing"  # the memory before there is any
DONE = "done"  # the subtask that has no end


def chunk_labels(
    action: np.ndarray,
    driver: np.ndarray,
    subtask: np.ndarray,
    done: int | str | None = None,
    horizon: int = HORIZON,
    through: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The chunk of actions that frame t should predict, and how much of it is known.

    action: (T, A) the teacher's action in the state of each frame; driver: (T,); subtask: (T,) ids or
    texts; done: that of the subtask that has no end; through: the actions go on through the end of a
    subtask (for a network that knows no subtasks). Returns actions (T, horizon, A) float32 and valid
    (T, horizon) bool.

    The teacher's label is right for the state it was asked in. So the labels that follow frame t are a
    rollout of the teacher only while the teacher drives: they are valid up to and including the first frame
    that something else drove. Where the subtask of frame t has ended, a chunk made for it should hold
    still: no motion, the gripper as it was.
    """
    frames, dims = action.shape
    actions = np.zeros((frames, horizon, dims), np.float32)
    valid = np.zeros((frames, horizon), bool)
    known = np.ones(frames, bool)  # every frame so far, up to t + k - 1, was driven by the teacher
    ended = np.zeros(frames, bool)  # the subtask of frame t ended at or before t + k, on a known path
    here = np.arange(frames)
    last = action.astype(np.float32)
    for k in range(horizon):
        u = np.minimum(here + k, frames - 1)
        inside = here + k < frames
        if not through:
            ended |= known & inside & (subtask[u] != subtask)
        # Past the end of the episode only a finished task is known to stay as it is.
        if done is not None:
            ended |= known & ~inside & (subtask[u] == done)
        follow = known & inside & ~ended
        last = np.where(follow[:, None], action[u].astype(np.float32), last)
        hold = np.concatenate([np.zeros_like(last[:, :-1]), last[:, -1:]], axis=1)
        valid[:, k] = follow | ended
        actions[:, k] = np.where(ended[:, None], hold, np.where(follow[:, None], last, 0))
        known &= inside & (driver[u] == TEACHER)
    return actions, valid


def switch_distance(*texts: np.ndarray) -> np.ndarray:
    """Frames to the nearest frame where one of the (T,) id arrays takes a new value; the first frame is
    one.
    """
    frames = len(texts[0])
    change = np.arange(frames) == 0
    for ids in texts:
        change[1:] |= ids[1:] != ids[:-1]
    at, here = np.flatnonzero(change), np.arange(frames)
    right = np.searchsorted(at, here).clip(max=len(at) - 1)
    left = (right - 1).clip(min=0)
    return np.minimum(abs(at[right] - here), abs(at[left] - here)).astype(np.int32)


def past_memory(memory: np.ndarray, nothing: int | str, lags: int = MEMORY_LAGS) -> np.ndarray:
    """(T,) ids or texts -> (T, lags): what was remembered 1 .. lags steps ago, `nothing` before the start."""
    here = np.arange(len(memory))[:, None] - np.arange(1, lags + 1)
    return np.where(here >= 0, memory[here.clip(min=0)], nothing)


def choose_frames(
    distance: np.ndarray, rng: np.random.Generator, every: int = 3, near: int = 4
) -> np.ndarray:
    """Rows worth keeping: every third from a random phase, and every second within `near` of a switch."""
    here = np.arange(len(distance))
    keep = (here + rng.integers(every)) % every == 0
    keep |= (distance <= near) & ((here + rng.integers(2)) % 2 == 0)
    return np.flatnonzero(keep)
