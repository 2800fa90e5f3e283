"""The network's numbers: masks, train/inference parity, decoding, flow, and that it can learn at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.policy import Policy
from backbone import losses
from backbone.attention import MASKED, attend, mask_bias
from backbone.cache import Beside
from backbone.config import VisionConfig
from backbone.inference import Run
from backbone.layout import Layout, Segment
from backbone.network import Network
from backbone.normalise import Normaliser
from backbone.observation import Observation
from backbone.pointer import read_out, soft_target
from backbone.presets import preset
from backbone.tokenizer import EOS, PAD, POINT, Tokenizer
from backbone.transformer import _RMS
from backbone.vision import VisionTower
from highlevel.decoding import write
from highlevel.learned import ALPHABET
from lowlevel.flow import integrate

torch.set_num_threads(1)
WORDS = "pick up the red green blue block put in bin drawer open done nothing pressed and now".split()
TOKENIZER = Tokenizer.from_words(WORDS)


def make(seed: int = 0, **changes) -> Network:
    """A network with random weights everywhere, also where training starts from zero."""
    torch.manual_seed(seed)
    network = Network(preset("nano", words=TOKENIZER.words, vocabulary=TOKENIZER.fingerprint, **changes))
    for parameter in network.parameters():
        if parameter.std() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    network.state_norm.set_quantiles(-torch.ones(8) * 2, torch.ones(8) * 3)
    return network.eval()


def batch(size: int, seed: int = 0) -> tuple[dict, dict]:
    rng = np.random.default_rng(seed)
    subtasks = ["pick up the red block", "put the blue block in the bin", "open the drawer", "done"]
    chosen = [subtasks[i] for i in rng.integers(0, 4, size)]
    targets = [
        TOKENIZER.encode(f"Updated Memory: nothing Subtask: {s}{'<eos>' if s == 'done' else '<point>'}", 25)
        for s in chosen
    ]
    points = rng.random((size, 2), dtype=np.float32)
    points[[s == "done" for s in chosen]] = np.nan
    images = {
        "front": torch.from_numpy(rng.integers(0, 256, (size, 128, 128, 3), dtype=np.uint8)),
        "wrist": torch.from_numpy(rng.integers(0, 256, (size, 64, 64, 3), dtype=np.uint8)),
    }
    state = torch.from_numpy(rng.normal(size=(size, 8)).astype(np.float32))
    instructions = ["put the red block in the drawer", "pick up the blue block and now the green block"]
    planner = {
        "images": images,
        "state": state,
        "instruction_ids": torch.tensor([TOKENIZER.encode(instructions[i % 2], 24) for i in range(size)]),
        "memory_ids": torch.tensor([TOKENIZER.encode("nothing", 12)] * size),
        "target_ids": torch.tensor(targets),
        "point": torch.from_numpy(points),
        "weight": torch.ones(size),
    }
    controller = {
        "images": {"wrist": images["wrist"]},
        "state": state,
        "plan_ids": torch.tensor(
            [TOKENIZER.encode(f"{s} <loc0{100 + i}><loc0300>", 16) for i, s in enumerate(chosen)]
        ),
        "actions": torch.from_numpy(rng.uniform(-1, 1, (size, 10, 7)).astype(np.float32)),
        "valid": torch.ones(size, 10, dtype=torch.bool),
        "weight": torch.ones(size),
    }
    return planner, controller


def row(data: dict, i: int) -> dict:
    return {k: row(v, i) if isinstance(v, dict) else v[i : i + 1] for k, v in data.items()}


def observation(planner: dict, i: int, instruction: str = "put the red block in the drawer") -> Observation:
    images = {name: image[i].numpy() for name, image in planner["images"].items()}
    return Observation(images, planner["state"][i].numpy(), instruction)


# --- layout ----------------------------------------------------------------------------------------------


def test_masks_follow_from_the_list():
    layout = make().layout
    allowed, prefix = layout.allowed, layout.prefix

    def sees(a: str, b: str) -> bool:
        tile = allowed[layout.span(a), layout.span(b)]
        assert tile.all() or not tile.any()
        return bool(tile.all())

    assert sees("wrist", "state") and sees("state", "wrist")
    assert not any(sees("wrist", other) for other in ("front", "instruction", "memory", "plan", "actions"))
    assert sees("front", "memory") and sees("memory", "front") and sees("instruction", "state")
    assert sees("decoded", "front") and sees("decoded", "wrist") and not sees("front", "decoded")
    assert sees("plan", "state") and sees("plan", "wrist")
    assert not any(sees("plan", other) for other in ("front", "instruction", "memory", "decoded"))
    assert [name for name in layout.names[:-1] if sees("actions", name)] == ["wrist", "state", "plan"]
    text = allowed[layout.span("decoded"), layout.span("decoded")]
    assert torch.equal(text, torch.ones_like(text).tril())
    assert layout.planner.names == ("wrist", "state", "front", "instruction", "memory", "decoded")
    assert layout.controller.names == ("wrist", "state", "plan")
    assert prefix.length + 10 == layout.length
    assert layout.controller.slots[-1] == layout.slots[layout.span("plan")][-1]


def test_layouts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="does not come before"):
        Layout((Segment("a", "text", 2, "a", sees=("b",)), Segment("b", "text", 2, "b")))
    with pytest.raises(ValueError, match="cannot be computed without"):
        make().layout.select(("front",))
    packed = Layout((Segment("a", "text", 3, "a"), Segment("b", "text", 2, "b")), positions="packed")
    valid = torch.tensor([[True, False, False, True, True]])
    assert packed.token_positions(valid)[0, 3:].tolist() == [1, 2]


def test_rows_without_keys_stay_finite():
    bias = mask_bias(torch.zeros(1, 2, 3, dtype=torch.bool), torch.bfloat16)
    assert bias.min() > -torch.inf and MASKED < -1e4
    for implementation in ("math", "sdpa"):
        q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 3, 2, 8)
        assert attend(q, k, k, bias.float(), implementation).isfinite().all()


def test_attention_implementations_agree():
    q, k, v = torch.randn(2, 5, 6, 8), torch.randn(2, 7, 2, 8), torch.randn(2, 7, 2, 8)
    bias = mask_bias(torch.rand(2, 5, 7) > 0.3, torch.float32)
    for other in ("sdpa", "folded", "auto"):
        torch.testing.assert_close(attend(q, k, v, bias, other), attend(q, k, v, bias, "math"))
        torch.testing.assert_close(attend(q, k, v, None, other), attend(q, k, v, None, "math"))
    with pytest.raises(ValueError, match="expected 'auto', 'sdpa', 'folded' or 'math'"):
        attend(q, k, v, bias, "flash")


def test_rms_backward():
    x = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    for shape in ((4,), (3, 4)):
        weight = torch.randn(shape, dtype=torch.double, requires_grad=True)
        assert torch.autograd.gradcheck(lambda a, b: _RMS.apply(a, b, 1e-6), (x, weight))


# --- one network, many ways to compute it ----------------------------------------------------------------


def test_a_sample_does_not_depend_on_its_batch():
    network, (planner, _) = make(), batch(4)
    layout = network.layout.planner
    inputs = {**planner, "target_ids": planner["target_ids"][:, :-1]}
    with torch.no_grad():
        together = network.encode(layout, inputs).hidden
        for i in range(4):
            alone = network.encode(network._shortened(layout, row(inputs, i)), row(inputs, i))
            for name in layout.names:
                span = alone.layout.span(name)
                real = alone.valid[0, span]
                a = alone.hidden[0, span][real]
                b = together[i, layout.span(name)][: len(real)][real]
                torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_the_controllers_part_is_the_same_with_and_without_the_planners():
    network, (planner, controller) = make(), batch(2)
    everything = {**planner, **{k: v for k, v in controller.items() if k != "images"}}
    everything["target_ids"] = planner["target_ids"][:, :-1]
    with torch.no_grad():
        full = network.encode(network.layout.prefix, everything)
        part = network.encode(network.layout.controller, controller)
    for name in part.layout.names:
        a, b = full.hidden[:, full.layout.span(name)], part.hidden[:, part.layout.span(name)]
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["math", "sdpa"])
def test_inference_on_the_cache_equals_training(attention):
    network, (planner, controller) = make(attention=attention), batch(3)
    target = planner["target_ids"]
    inputs = {**planner, "target_ids": target[:, :-1].masked_fill(target[:, 1:] == PAD, PAD)}
    longest = int((target != PAD).sum(1).argmax())
    with torch.no_grad():
        encoded = network.encode(network.layout.planner, inputs)
        expected = encoded.hidden[longest, encoded.layout.span("decoded")]
        run = Run(network)
        run.read(("wrist", "state", "front", "instruction", "memory"), row(planner, longest))
        steps = [run.write("decoded", target[longest : longest + 1, i : i + 1], i) for i in range(5)]
        at_once = run.write("decoded", target[longest : longest + 1, :5], 0)
        torch.testing.assert_close(torch.cat(steps, 1)[0], expected[:5], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(at_once[0], expected[:5], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(
            run.fine["front"], encoded.fine["front"][longest : longest + 1], atol=1e-5, rtol=1e-4
        )

        # the expert, after the planner wrote on the same cache, against a training pass of the controller
        # alone
        run.read(("plan",), row(controller, longest))
        run.prepare_actions()
        x, time = torch.randn(1, 3, 10, 7), torch.tensor([[0.9, 0.5, 0.1]])
        part = network.encode(
            network._shortened(network.layout.controller, row(controller, longest)), row(controller, longest)
        )
        positions, mask = network.suffix_view(part.layout, part.valid, 3)
        together = network.velocity(
            x, network.modulation(time), positions, mask_bias(mask, x.dtype), Beside(part.memory, False)
        )
        for i in range(3):
            alone = run.velocity(x[:, i], network.modulation(time[:, i : i + 1]))
            torch.testing.assert_close(alone, together[:, i], atol=2e-5, rtol=1e-4)


def test_losses_weigh_and_ignore_padding():
    network, (planner, controller) = make(), batch(3)
    with torch.no_grad():
        one = network(planner=row(planner, 1))
        masked = {**planner, "weight": torch.tensor([0.0, 1.0, 0.0])}
        other = network(planner=masked)
        assert abs(one["text_loss"] - other["text_loss"]) < 1e-4
        assert abs(one["point_loss"] - other["point_loss"]) < 1e-4
        torch.manual_seed(1)
        a = network(controller=controller, flow_samples=1)["flow_loss"]
        wild = {**controller, "actions": controller["actions"].clone(), "valid": controller["valid"].clone()}
        wild["actions"][:, 5:] = 0
        wild["valid"][:, 5:] = False
        torch.manual_seed(1)
        b = network(controller=wild, flow_samples=1)["flow_loss"]
        assert a.isfinite() and b.isfinite() and a != b


def test_a_target_that_is_too_long_is_refused_not_cut():
    network, (planner, _) = make(), batch(1)
    planner["target_ids"] = torch.full((1, 30), 9)
    with pytest.raises(ValueError, match="'decoded' holds 1 to 24 tokens, got 29"):
        network(planner=planner)


def test_knowledge_insulation_stops_the_flow_loss():
    for insulated in (False, True):
        network, (_, controller) = make(knowledge_insulation=insulated), batch(2)
        network(controller=controller)["loss"].backward()
        assert network.expert.blocks[0].qkv.weight.grad is not None
        assert (network.towers["wrist"].project.weight.grad is None) == insulated


# --- planner ---------------------------------------------------------------------------------------------


def test_confirming_writes_what_greedy_writes():
    rng = np.random.default_rng(0)
    for seed in range(4):
        network, (planner, _) = make(seed), batch(2, seed)
        with torch.no_grad():
            network.head.weight.mul_(5)
            network.head.weight[POINT] += network.head.weight.std() * 2 * torch.randn(192)

        def fresh(i, network=network, planner=planner):
            run = Run(network)
            run.read(("wrist", "state", "front", "instruction", "memory"), row(planner, i))
            return run

        greedy = write(fresh(0), ALPHABET)[0]
        tokens = greedy.texts[0]
        guesses = [
            tokens,
            write(fresh(1), ALPHABET)[0].texts[0],
            tokens[:3],
            tokens + (9, 9),
        ]
        for _ in range(6):
            guess = list(tokens)
            guess[rng.integers(1, len(guess))] = int(rng.integers(7, TOKENIZER.words))
            guesses.append(tuple(guess))
        for guess in guesses:
            again = write(fresh(0), ALPHABET, [(guess,)])[0]
            assert again.texts == greedy.texts
            assert again.margin == pytest.approx(greedy.margin, abs=1e-3)
            assert again.confirmed == (guess == tokens)
            torch.testing.assert_close(again.state, greedy.state, atol=1e-4, rtol=1e-3)


def test_pointer_read_out_is_exact_on_its_own_targets():
    points = torch.rand(200, 2) * 0.9 + 0.05
    error = (read_out(soft_target(points, 32, 0.7).log()) - points).abs().max() * 128
    assert error < 0.15  # pixels
    assert read_out(torch.randn(3, 1024)).shape == (3, 2)


# --- controller ------------------------------------------------------------------------------------------


def test_flow_reaches_the_data_along_a_straight_velocity():
    actions, noise = torch.randn(1, 4, 2), torch.randn(1, 4, 2)
    velocity = noise - actions
    for steps in (1, 5):
        torch.testing.assert_close(integrate(lambda x, i: velocity, noise, steps), actions)
    kept = integrate(lambda x, i: velocity * 0, noise, 5, promised=(actions, torch.arange(4)[:, None] < 2))
    assert torch.equal(kept[:, :2], actions[:, :2]) and torch.equal(kept[:, 2:], noise[:, 2:])


def test_flow_times_lean_to_noise():
    times = losses.sample_time((20000,), "cpu")
    assert 0.001 <= times.min() and times.max() <= 1.0
    assert abs(times.mean() - 0.6) < 0.01  # the mean of Beta(1.5, 1)


def test_normaliser():
    norm = Normaliser(3)
    norm.set_quantiles([-1, 2.0, 0], [3, 2.0, 1e-5])
    x = torch.tensor([[3.0, 2.5, 0.5]])
    assert norm(x)[0, 0] == 1 and norm(x)[0, 1] == 0.5  # nothing divided by a range of nothing
    torch.testing.assert_close(norm.inverse(norm(x)), x)
    published = Normaliser(2, narrow=0.0)  # openpi: (x - q01) / (q99 - q01 + 1e-6) * 2 - 1
    published.set_quantiles([0.5, -2.0], [0.5, 4.0])
    torch.testing.assert_close(published(torch.tensor([0.5, 1.0])), torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(published.inverse(torch.tensor([-1.0, 1.0])), torch.tensor([0.5, 4.0]))
    with pytest.raises(ValueError):
        norm.set_quantiles([0, 1], [1, 2])


def test_policy_steps_on_one_prefill():
    network, (planner, _) = make(), batch(1)
    policy, look = Policy(network, TOKENIZER, seed=3), observation(planner, 0)
    plan, chunk = policy.step(look)
    alone = policy.plan(look)
    assert plan.tokens == alone.tokens and plan.text == alone.text
    policy.reset(3)
    again = policy.act(look, plan.text)
    np.testing.assert_allclose(chunk.actions, again.actions, atol=1e-4)
    assert chunk.actions.shape == (10, 7) and chunk.actions.dtype == np.float32
    assert policy.plan(look, "", alone).origin == "confirmed"
    policy.reset(3)
    kept = policy.act(look, "done", committed=np.full((3, 7), 0.25, np.float32))
    assert (kept.actions[:3] == 0.25).all()


# --- vision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_space_time_tower(stem):
    torch.manual_seed(0)
    config = VisionConfig(32, 16, 4, 2, 32, stem=stem, patch=8, channels=(8, 16), spacetime_every=2, frames=3)
    tower = VisionTower(config, 24).eval()
    plain = VisionTower(replace(config, spacetime_every=0), 24).eval()
    plain.load_state_dict(tower.state_dict())
    video = torch.rand(2, 3, 32, 32, 3) * 2 - 1
    now = plain(video[:, -1])[0]
    assert now.shape == (2, config.tokens, 24)
    assert torch.equal(tower(video[:, -1])[0], now)
    assert torch.equal(tower(video[:, -1:])[0], now)
    absent = torch.zeros(2, 3, dtype=torch.bool)
    torch.testing.assert_close(tower(video, absent)[0], now, atol=1e-5, rtol=1e-4)
    wild = video.clone()
    wild[:, :2] = 9.0
    assert torch.equal(tower(wild, absent)[0], tower(video, absent)[0])
    assert torch.equal(tower(video)[0], tower(video, absent)[0]), "without a history there is none"
    assert not torch.allclose(tower(video, ~absent)[0], now, atol=1e-3)


# --- learning --------------------------------------------------------------------------------------------


def test_it_overfits_a_few_samples():
    torch.manual_seed(0)
    network = Network(preset("nano", words=TOKENIZER.words, vocabulary=TOKENIZER.fingerprint)).train()
    planner, controller = batch(4)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, fused=True)
    first = None
    for _ in range(70):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = network(planner=planner, controller=controller)
        first = first or {k: v.item() for k, v in out.items()}
        optimiser.zero_grad()
        out["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    assert out["text_accuracy"] == 1 and out["token_accuracy"] == 1
    assert out["point_error_px"] < 2 and out["point_loss"] < 0.2
    assert out["flow_loss"] < 0.5 * first["flow_loss"]
    assert EOS in planner["target_ids"] and POINT in planner["target_ids"]
