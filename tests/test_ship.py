"""What is shipped: half the bytes, the same network, and a card whose numbers come from the evaluations."""

from __future__ import annotations

import json

import pytest
import torch

from backbone import checkpoint
from backbone.errors import UserError
from backbone.network import Network
from backbone.presets import preset
from backbone.tokenizer import Tokenizer
from envs.tabletop.language import all_words
from training import ship


@pytest.fixture
def run(tmp_path):
    tokenizer = Tokenizer.from_words(all_words())
    torch.manual_seed(0)
    network = Network(preset("nano", words=tokenizer.words, vocabulary=tokenizer.fingerprint))
    checkpoint.save(tmp_path / "run/policy", network, tokenizer)
    stages = [{"stage": "first training", "time": "t", "minutes": 3, "out": "/somewhere"}] * 2
    (tmp_path / "recipe.jsonl").write_text("".join(json.dumps(s) + "\n" for s in stages))
    return tmp_path


def test_a_shipped_policy_is_small_and_tells_its_scores(run, tmp_path):
    score = {"n": 200, "successes": 123, "rate": 0.615, "low": 0.546, "high": 0.680}
    planner = {"looks": 9, "agreement": 0.5}
    planner |= {"looks_away_from_switches": 4, "agreement_away_from_switches": 0.75}
    planner |= {"memory_agreement": 1.0, "grounding_pixels_median": 0.4, "grounding_pixels_p90": 1.2}
    planner |= {"done_early": score, "done_late": score}
    settings = {"suite": "core", "execute": 8}
    summary = {"overall": score, "families": {"sort": score}, "planner": planner, "settings": settings}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/summary.json").write_text(json.dumps(summary))
    ship.main(run, learned=tmp_path / "evaluation", to=tmp_path / "package")
    card = (tmp_path / "package/nano/README.md").read_text()
    assert "| sort | 123/200 (55 to 68%) |" in card and "75.0% of 4 looks" in card
    assert card.count("first training") == 1 and "/somewhere" not in card
    full, half = run / "run/policy/model.safetensors", tmp_path / "package/nano/model.safetensors"
    assert half.stat().st_size < 0.55 * full.stat().st_size
    before, after = (checkpoint.load(path.parent)[0].state_dict() for path in (full, half))
    assert all(torch.allclose(before[k].float(), after[k].float(), rtol=1e-3, atol=1e-4) for k in before)


def test_an_evaluation_that_is_not_there_is_named(run, tmp_path):
    with pytest.raises(UserError, match="summary.json, found none"):
        ship.main(run, learned=tmp_path / "nowhere", to=tmp_path / "package")
    assert not (tmp_path / "package").exists()
