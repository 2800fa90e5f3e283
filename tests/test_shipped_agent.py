"""The agent in the package, closed loop: it solves tasks it has never seen, without a network connection."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agent.evaluation import Settings, evaluate
from agent.evaluation.episode import run_episode
from agent.evaluation.settings import build
from backbone import checkpoint
from backbone.errors import UserError
from backbone.observation import Observation

NANO = checkpoint.SHIPPED / "nano"
pytestmark = pytest.mark.skipif(not (NANO / checkpoint.WEIGHTS).is_file(), reason="no shipped checkpoint yet")
EPISODES = 12  # two of each family; README.md has the scores on 200


@pytest.fixture(autouse=True, scope="module")
def offline():
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield
    patch.undo()


@pytest.mark.slow
def test_it_solves_held_out_tasks(tmp_path):
    summary = evaluate(Settings(), range(500, 500 + EPISODES), tmp_path)
    assert summary["errors"] == 0 and summary["overall"]["n"] == EPISODES
    assert {family["n"] for family in summary["families"].values()} == {2}
    looks = [look for line in (tmp_path / "episodes.jsonl").open() for look in json.loads(line)["looks"]]
    assert {look["origin"] for look in looks} <= {"decoded", "confirmed"}, "the network wrote every plan"
    assert summary["overall"]["successes"] >= 10, summary["families"]


def test_the_same_seed_gives_the_same_episode():
    env, agent = build(Settings(family="stow"))
    actions = []
    for _ in range(2):
        steps = []
        run_episode(env, agent, 501, watch=lambda env, step, moment, steps=steps: steps.append(step.action))
        actions.append(np.stack(steps))
    env.close()
    assert np.array_equal(*actions)


def test_what_it_writes_moves_the_arm():
    """The same observation with another subtask gives another motion: the controller reads the text."""
    env, agent = build(Settings(family="sort"))
    env.reset(seed=10_000_502)
    observation = Observation.from_env(env.look(), env.unwrapped.task_description)
    plan, chunk = agent.policy.step(observation)
    agent.policy.reset()
    elsewhere = agent.policy.act(observation, f"{plan.subtask} <loc0700><loc0100>").actions
    agent.policy.reset()
    other_side = agent.policy.act(observation, f"{plan.subtask} <loc0700><loc0900>").actions
    env.close()
    assert plan.subtask.startswith("pick up the") and plan.target is not None
    apart = np.abs(elsewhere[:, :2].sum(0) - other_side[:, :2].sum(0)).max()
    assert apart > 0.5, "left and right of the picture are different motions"


def test_it_refuses_what_it_cannot_understand():
    env, agent = build(Settings())
    env.reset(seed=10_000_000)
    with pytest.raises(UserError, match="instruction: expected English words"):
        agent.reset("mets le bloc rouge dans le tiroir")
    agent.reset("clear the table")
    picture = env.look()
    with pytest.raises(UserError, match="camera 'front'"):
        agent.step({"pixels": {"wrist": picture["pixels"]["wrist"]}, "agent_pos": picture["agent_pos"]})
    with pytest.raises(UserError, match="uint8"):
        pixels = {name: image.astype(np.float32) for name, image in picture["pixels"].items()}
        agent.step({"pixels": pixels, "agent_pos": picture["agent_pos"]})
    with pytest.raises(UserError, match="finite"):
        agent.step({"pixels": picture["pixels"], "agent_pos": picture["agent_pos"] * np.nan})
    env.close()


def test_it_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 25e6
    for name in (checkpoint.CONFIG, checkpoint.WEIGHTS, checkpoint.TOKENIZER, checkpoint.CARD):
        assert (NANO / name).is_file()
