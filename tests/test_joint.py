"""Training both levels at once: what is left out, what is recomputed, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_invariances import BATCH, changed, inputs, network

from backbone import joint
from backbone.errors import UserError
from training.dropout import Dropout

torch.set_num_threads(1)


def count_calls(made) -> list:
    """Grows with every pass through a block of the vision tower."""
    calls: list = []
    for block in made.towers["camera0"].blocks:
        block.norm2.register_forward_hook(lambda *_: calls.append(1))
    return calls


def batches_seen(made) -> int:
    """How often the vision tower is asked: once for what has a past, once for what has none."""
    return len({s.source.partition(".")[0] for s in made.layout.prefix.segments if s.kind == "image"})


def gradients(made) -> list[torch.Tensor]:
    return [p.grad.clone() for p in made.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["pi05_subtask", "pi07"])
def test_recomputing_in_the_backward_pass_changes_nothing(name):
    made = network(name).train()
    found = inputs(made)
    results = []
    for again in (False, True):
        made.zero_grad()
        made.recompute(again)
        calls = count_calls(made)
        out = made(both=found)
        out["loss"].backward()
        assert len(calls) == (2 if again else 1) * len(made.towers["camera0"].blocks) * batches_seen(made)
        results.append((out["loss"].detach(), gradients(made)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b)


def test_losses_weigh_what_is_real():
    made = network("pi05_subtask")
    found = inputs(made)
    with torch.no_grad():
        out = joint.losses(made, found)
        loss, real = out["tokens"]["fast"]
        assert torch.allclose(out["fast_loss"], loss.sum() / real.sum()) and not loss[~real].any()
        # Promised actions, padded steps and dimensions the robot has not count for nothing.
        more = {"delay": torch.tensor([2, 0, 0]), "dims": torch.tensor([4, 2, 4])}
        more["valid"] = torch.ones(BATCH, 6, dtype=torch.bool)
        more["valid"][2, 3:] = False
        counts = joint.losses(made, found | more)["flow"]["counts"]
        assert counts.tolist() == [4 * 4, 6 * 2, 3 * 4]
        wild = changed(found, actions=found["actions"].clone(), noise=found["noise"].clone())
        wild["actions"][1, :, 2:] += 5
        wild["noise"][1, :, :, 2:] += 5  # the same velocity is asked for
        assert joint.losses(made, found | {"z_weight": 0.1})["text_loss"] > out["text_loss"]
    with torch.no_grad():
        promised = joint.losses(made, found | {"delay": torch.full((BATCH,), 6)})
    assert promised["flow_loss"] == 0


def test_promised_actions_are_shown_clean():
    """Training-time real-time chunking: a promised action is data at time 0, whatever the noise is."""
    made = network("pi06")
    found = inputs(made) | {"delay": torch.tensor([2, 2, 2])}
    other = changed(found, noise=found["noise"].clone())
    other["noise"][:, :, :2] += 3
    with torch.no_grad():
        first, second = (joint.losses(made, f)["flow"]["velocity"] for f in (found, other))
    torch.testing.assert_close(first[:, :, 2:], second[:, :, 2:])


def test_delays_are_drawn_in_training_only():
    made = network("pi06", trained_delay=3)
    found = inputs(made)
    full = made.preset.horizon * made.preset.action_dim
    with torch.no_grad():
        assert joint.losses(made.eval(), found)["flow"]["counts"].tolist() == [full] * BATCH
        seen = {c for _ in range(40) for c in joint.losses(made.train(), found)["flow"]["counts"].tolist()}
    assert seen == {full - made.preset.action_dim * delay for delay in range(4)}


def test_what_is_dropped_and_how_often():
    made = network("pi07")
    found, generator = inputs(made, batch=BATCH), torch.Generator().manual_seed(0)
    found["history"] = {k: torch.ones_like(v) for k, v in found["history"].items()}
    before = {k: v.clone() for k, v in found["history"].items()}
    counts = {"history": 0, "subgoal": 0, "response": 0, "silent alone": 0}
    rounds = 2000
    for _ in range(rounds):
        out = Dropout().batch(found, generator)
        past = out["history"]["state"]
        assert past[:, -1].all(), "the present stays"
        counts["history"] += int((~past[:, 0]).sum())
        subgoal = out["there"]["subgoals.camera0"]
        assert torch.equal(subgoal, out["there"]["subgoals.camera1"]), "all cameras together"
        counts["subgoal"] += int((~subgoal).sum())
        silent = ~out["there"].get("response", torch.ones(BATCH, 1, dtype=torch.bool)).any(1)
        counts["response"] += int((silent & subgoal).sum())
        counts["silent alone"] += int((silent & ~subgoal).sum())
    total = rounds * BATCH
    assert counts["history"] / total == pytest.approx(0.3, abs=0.03)
    assert counts["subgoal"] / total == pytest.approx(0.75, abs=0.03)
    assert counts["response"] / (total - counts["subgoal"]) == pytest.approx(0.3, abs=0.04)
    assert counts["silent alone"] == 0
    assert all(torch.equal(found["history"][k], v) for k, v in before.items()), "the caller's is not changed"
    rng, metadata = np.random.default_rng(0), {"speed": 30, "robot": "arm", "fps": 20}
    left = [Dropout().fields(metadata, rng) for _ in range(4000)]
    assert all("fps" in fields for fields in left)
    assert np.mean(["speed" not in f for f in left]) == pytest.approx(0.15 + 0.85 * 0.05, abs=0.03)
    assert np.mean([len(f) == 1 for f in left]) == pytest.approx(0.15, abs=0.03)


def test_bad_batches_are_told_in_one_line():
    made = network("pi07")
    found = inputs(made)
    image = found["images"]["camera0"]
    for change, words in (
        (
            {"images": {"camera0": image[:, :, :, :, :2]}},
            r"camera0: expected pictures of shape \(B, 1 to 6, 56",
        ),
        ({"images": {"camera0": torch.cat((image, image), 1)}}, "camera0: expected pictures"),
        ({"images": {"camera0": image[:2]}}, "expected the same number of samples everywhere, got"),
        (
            {"prompt_ids": torch.ones(BATCH, 11, dtype=torch.long)},
            r"prompt: expected ids of shape \(B, up to 10\)",
        ),
        ({"prompt_ids": torch.full((BATCH, 3), 96)}, "prompt: expected ids below 96, got 96"),
        ({"prompt_ids": torch.full((BATCH, 3), -1)}, "prompt: expected ids from 0 on, got -1"),
        ({"fast_ids": torch.full((BATCH, 3), 32)}, "fast: expected ids below 32, got 32"),
        ({"state": found["state"][:, :2]}, r"state: expected a state of shape \(B, 6, 5\)"),
        ({"history": {"state": found["history"]["state"][:, :2]}}, "state: expected a history of shape"),
        ({"prompt_ids": torch.ones(BATCH, 3)}, "prompt: expected whole numbers as ids, got torch.float32"),
        (
            {"there": {"response": torch.ones(BATCH)}},
            "response: expected .* bool as there, got torch.float32",
        ),
        ({"subgoals": {"camera0": image}}, r"subgoals.camera0: expected pictures of shape \(B, 56, 56, 3\)"),
        ({"prompt_ids": None}, "prompt: expected 'prompt_ids', got none"),
        ({"response_ids": torch.ones(BATCH, 7).long()}, r"response: expected ids of shape \(B, up to 6\)"),
        ({"metadata_ids": torch.ones(BATCH, 6).long()}, r"metadata: expected ids of shape \(B, up to 5\)"),
        (
            {"history": {"camera0": found["history"]["camera0"][:, :2]}},
            r"camera0: expected a history of shape \(3, 6\), got \(3, 2\)",
        ),
        ({"images": {"camera9": image}}, "images: expected cameras of camera0, camera1, got 'camera9'"),
        ({"subgoals": {"side": image[:, 0]}}, "subgoals: expected cameras of camera0, camera1, got 'side'"),
        ({"images": dict.fromkeys(found["images"])}, "images: expected some of camera0, camera1, got none"),
        ({"actions": found["actions"][:, :2]}, r"actions: expected shape \(B, 6, 4\), got \(3, 2, 4\)"),
        ({"actions": found["actions"][..., :2]}, r"actions: expected shape \(B, 6, 4\), got \(3, 6, 2\)"),
    ):
        with pytest.raises(UserError, match=words) as error:
            joint.losses(made, changed(found, **change))
        assert "\n" not in str(error.value)


def test_a_planners_texts_that_are_too_long_are_told():
    made = network("pi07_planner")
    found = inputs(made)
    for name, most in (("prompt", 10), ("memory", 6), ("response", 6)):
        ids = torch.ones(BATCH, most + 1, dtype=torch.long)
        words = rf"{name}: expected ids of shape \(B, up to {most}\), got \(3, {most + 1}\)"
        with pytest.raises(UserError, match=words):
            joint.losses(made, changed(found, **{f"{name}_ids": ids}))
