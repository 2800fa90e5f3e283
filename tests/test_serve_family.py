"""Networks of the π family behind the server: with a planner of their own, and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_prompted import LENGTHS, words  # noqa: F401
from test_serve import line

from agent.prompted import PromptedPolicy
from agent.serving import Background, Serving
from backbone import family
from backbone.errors import UserError
from backbone.network import Network
from backbone.observation import Observation

DIMS = {"state": 8, "actions": 7}
SIZES = {"state_dim": 8, "action_dim": 7}
CAMERAS = {"camera0": "front", "camera1": "wrist"}


@pytest.fixture(scope="module")
def shown() -> Observation:
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (40, 56, 3), np.uint8) for name in CAMERAS.values()}
    return Observation(images, rng.normal(size=8).astype(np.float32), "put the red block in bin")


def saved(name: str, how: str, words, folder, **sizes) -> str:  # noqa: F811
    torch.manual_seed(8)  # one that writes some words
    made = Network(family.build(name, True, **LENGTHS, **sizes))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    PromptedPolicy(made.eval(), words, how, DIMS).save_pretrained(folder)
    return str(folder)


def test_one_that_plans(words, shown, tmp_path):  # noqa: F811
    where = saved("pi05_subtask", "opentau_pi05", words, tmp_path / "policy", **SIZES)
    policy = PromptedPolicy.from_pretrained(where, cameras=CAMERAS)
    policy.reset(4)
    plan, chunk = policy.step(shown)
    with Background(Serving(checkpoint=where, port=0)) as server, line(server) as client:
        reply = client.ask(shown, reset=4)
        assert client.metadata["steersman"]["horizon"] == policy.horizon
    assert reply["subtask"] == plan.text and reply["actions"].shape == (policy.horizon, 7)
    assert np.abs(reply["actions"] - chunk.actions).max() < 1e-5


def test_one_that_does_not(words, shown, tmp_path):  # noqa: F811
    where = saved("pi05", "openpi", words, tmp_path / "policy", **SIZES)
    with pytest.raises(UserError, match="planner: this checkpoint writes no plans, expected 'none'"):
        with Background(Serving(checkpoint=where, port=0)):
            pass
    policy = PromptedPolicy.from_pretrained(where, cameras={"camera0": "wrist"})
    policy.reset(4)
    chunk = policy.act(shown, shown.instruction)
    serving = Serving(checkpoint=where, planner="none", cameras={"camera0": "wrist"}, port=0)
    with Background(serving) as server, line(server) as client:
        reply = client.ask(shown, reset=4)
        assert client.metadata["steersman"]["planner"] is False
        refused = client.ask(shown, subtask="put the red block in bin", id=1)
    assert (reply["subtask"], reply["origin"]) == (shown.instruction, "instruction")
    assert np.abs(reply["actions"] - chunk.actions).max() < 1e-5
    assert "expected a server that plans" in refused["error"]


def test_one_that_makes_other_actions_than_it_says_is_refused(words, tmp_path):  # noqa: F811
    where = saved("pi05", "openpi", words, tmp_path / "policy", state_dim=8)
    with pytest.raises(UserError, match=r"checkpoint .*: expected actions of 7 numbers, it makes \(6, 4\)"):
        with Background(Serving(checkpoint=where, planner="none", port=0)):
            pass
