"""The recipe from nothing to a policy, small: simulated frames, training, a round of DAgger, training."""

from __future__ import annotations

import json

import pytest

from agent.policy import Policy
from training.cache import Cache
from training.dataset import AGENT
from training.recipe import Recipe, follow


@pytest.mark.slow
def test_the_recipe_makes_a_policy_and_knows_what_it_has_done(tmp_path):
    recipe = Recipe(
        out=tmp_path,
        episodes=8,
        suites=("core",),
        minutes=0.03,
        rounds=1,
        round_episodes=4,
        round_minutes=0.03,
        final_minutes=0.03,
        batches=(2, 2),
        processes=1,
    )
    policy = follow(recipe)
    Policy.from_pretrained(policy)
    assert (Cache(tmp_path / "cache").driver == AGENT).any(), "the agent drove in the round"
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/front.npy")}
    follow(recipe)
    assert shards == {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/front.npy")}
    stages = [json.loads(line)["stage"] for line in (tmp_path / "recipe.jsonl").open()]
    assert stages[:5] == ["recipe", "demonstrations", "first training", "round 1", "training 1"]
