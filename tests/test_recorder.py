"""Videos of any world: from the tabletop's states, or from the pictures that another one gives."""

from __future__ import annotations

import av
import numpy as np
import pytest

from agent.loop import Step
from agent.recorder import FPS, Caption, Recorder, compose
from envs.errors import WorldError
from envs.tabletop.env import TabletopEnv
from highlevel.plan import Plan

PLAN = Plan("press the red button", done=False, margin=1.0)
STEP = Step(np.zeros(7, np.float32), PLAN.subtask, PLAN)


def moment(tick: int, rate: float) -> dict:
    told = {"tick": tick, "seconds": tick / rate, "progress": 0.0, "success": False}
    return told | {"instruction": "press the red button"}


@pytest.fixture
def env():
    env = TabletopEnv("core", "press", render_mode="rgb_array", pixels="lazy")
    env.reset(seed=3)
    yield env
    env.close()


def filmed(env: TabletopEnv, suite: str, speed: int, path) -> np.ndarray:
    """The frames of twelve ticks. suite: which decides how the world is drawn."""
    with Recorder(suite, speed) as recorder:
        recorder.begin(path)
        for tick in range(1, 13):
            recorder.add(env, STEP, moment(tick, env.rate))
        recorder.end()
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


def test_states_and_pictures_make_the_same_video(env, tmp_path):
    drawn = filmed(env, "core", 2, tmp_path / "states.mp4")
    sent = filmed(env, "libero_spatial", 2, tmp_path / "pictures.mp4")
    assert drawn.shape == (12 // 4, 568, 880, 3) and np.array_equal(drawn, sent)
    assert drawn[0, :480, :640].std() > 20 and drawn[0, 480:].max() > 200


@pytest.mark.parametrize("rate", [5, 25, 30])
def test_a_video_lasts_as_long_as_the_episode(env, tmp_path, rate):
    env.rate = rate
    frames = filmed(env, "libero_spatial", 1, tmp_path / "film.mp4")
    assert len(frames) == int(12 / rate * FPS)


def test_a_world_that_shows_nothing_is_not_recorded(env):
    env.render_mode = None
    with Recorder("libero_spatial") as recorder, pytest.raises(WorldError, match="render mode"):
        recorder.add(env, STEP, moment(2, 20))


def test_a_frame_takes_pictures_of_any_shape_and_number():
    view = np.full((255, 301, 3), 200, np.uint8)
    front = np.zeros((96, 128, 3), np.uint8)
    for names in ([], ["front"], ["front", "left", "right"], ["front", "left", "right", "wrist", "back"]):
        frame = compose(view, dict.fromkeys(names, front), Caption("go", "pick " * 80))
        assert frame.shape[0] == 568 and frame.shape[1] % 2 == 0
        column = frame[:480, -240:].astype(int).sum(axis=2)
        assert ((column == 0).sum() > 0) == bool(names)
