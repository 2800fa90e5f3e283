"""The recipe from nothing to a policy, small: simulated frames, training, a round of DAgger, training."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agent.policy import Policy
from training.cache import Cache
from training.episodes import AGENT

SMALL = "--episodes 8 --suites core --minutes 0.03 --rounds 1 --round-episodes 4 --round-minutes 0.03"
SMALL += " --final-minutes 0.03 --batches 2 2 --processes 1"


@pytest.mark.slow
def test_the_recipe_makes_a_policy_and_knows_what_it_has_done(tmp_path):
    command = [sys.executable, "-m", "training.recipe", "--out", str(tmp_path), *SMALL.split()]
    subprocess.run(command, check=True)
    Policy.from_pretrained(tmp_path / "run/policy")
    assert (Cache(tmp_path / "cache").driver == AGENT).any(), "the agent drove in the round"
    shards = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/front.npy")}
    subprocess.run(command, check=True)
    assert shards == {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/front.npy")}
    stages = [json.loads(line)["stage"] for line in (tmp_path / "recipe.jsonl").open()]
    assert stages[:5] == ["recipe", "demonstrations", "first training", "round 1", "training 1"]
