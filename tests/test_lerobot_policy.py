"""Policies that LeRobot itself made and saved, driving the arm; what needs LeRobot skips where it is not."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.lerobot_policy import match
from agent.loop import Agent
from agent.policies import identity, open_policy
from backbone.errors import PolicyError, UserError
from backbone.observation import Observation
from envs.tabletop.env import TabletopEnv

FRONT, WRIST, STATE = "observation.images.image", "observation.images.image2", "observation.state"
SEEN = Observation(
    {
        "front": np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8),
        "wrist": np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8),
    },
    np.linspace(-1, 1, 8, dtype=np.float32),
)


@pytest.mark.parametrize(
    ("features", "cameras", "found"),
    [
        (["image", "image2"], ["front", "wrist"], ["front", "wrist"]),
        (["image2", "image"], ["front", "wrist"], ["wrist", "front"]),
        (["wrist", "front"], ["front", "wrist"], ["wrist", "front"]),
        (["top", "hand"], ["front", "wrist"], ["front", "wrist"]),
        (["hand", "front"], ["front", "wrist"], ["wrist", "front"]),
        (["image"], ["front", "wrist"], ["front"]),
        ([], ["front"], []),
    ],
)
def test_pictures_are_matched_by_name_then_in_order(features, cameras, found):
    named = [f"observation.images.{name}" for name in features]
    assert match(named, cameras) == dict(zip(named, found, strict=True))


@pytest.mark.parametrize(
    ("features", "cameras"),
    [
        (["top"], ["front", "wrist"]),
        (["a", "b", "c"], ["front", "wrist"]),
        (["image"], []),
        (["image2"], ["a", "b"]),
    ],
)
def test_no_camera_for_a_picture_or_too_many(features, cameras):
    with pytest.raises(UserError, match="^lerobot policy: expected a camera for each of"):
        match([f"observation.images.{name}" for name in features], cameras)


def test_without_lerobot_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    with pytest.raises(
        UserError, match=r"^lerobot policy: expected the package lerobot \(0.4 or later\), found none$"
    ):
        open_policy(f"lerobot:{tmp_path}")


def feature(kind: str, *shape: int):
    from lerobot.configs.types import FeatureType, PolicyFeature

    return PolicyFeature(FeatureType[kind], shape)


def save(config, out):
    """As LeRobot's training leaves it: random weights, and statistics that change what goes in and out."""
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors

    torch.manual_seed(0)
    policy = get_policy_class(config.type)(config)
    stats = {}
    for name, found in {**config.input_features, **config.output_features}.items():
        shape = (3, 1, 1) if "image" in name else found.shape
        stats[name] = {"mean": torch.full(shape, 0.3), "std": torch.full(shape, 0.5)}
        stats[name] |= {"min": torch.full(shape, -2.0), "max": torch.full(shape, 2.0)}
    for part in (policy, *make_pre_post_processors(config, dataset_stats=stats)):
        part.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def act(tmp_path_factory):
    pytest.importorskip("lerobot")
    from lerobot.policies.act.configuration_act import ACTConfig

    small = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 64, "n_encoder_layers": 1, "latent_dim": 8}
    pictures = {FRONT: feature("VISUAL", 3, 128, 128), WRIST: feature("VISUAL", 3, 64, 64)}
    config = ACTConfig(
        device="cpu", chunk_size=10, n_action_steps=10, n_vae_encoder_layers=1,
        pretrained_backbone_weights=None, input_features=pictures | {STATE: feature("STATE", 8)},
        output_features={"action": feature("ACTION", 7)}, **small,
    )  # fmt: skip
    return save(config, tmp_path_factory.mktemp("act"))


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    pytest.importorskip("lerobot")
    pytest.importorskip("diffusers")
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

    config = DiffusionConfig(
        device="cpu", n_obs_steps=2, horizon=8, n_action_steps=4, down_dims=(16, 32), num_train_timesteps=10,
        num_inference_steps=2, pretrained_backbone_weights=None, crop_shape=None,
        input_features={FRONT: feature("VISUAL", 3, 96, 96), STATE: feature("STATE", 8)},
        output_features={"action": feature("ACTION", 7)},
    )  # fmt: skip
    return save(config, tmp_path_factory.mktemp("diffusion"))


def by_lerobot(path, seen, count: int) -> np.ndarray:
    """(count, 7) as LeRobot's own robot loop asks for them, one at a time."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot.policies.utils import prepare_observation_for_inference

    config = PreTrainedConfig.from_pretrained(path)
    policy = get_policy_class(config.type).from_pretrained(path, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=str(path))
    raw = {FRONT: seen.images["front"], WRIST: seen.images["wrist"], STATE: seen.state}
    raw = {name: value.copy() for name, value in raw.items() if name in config.input_features}
    actions = []
    with torch.inference_mode():
        for _ in range(count):
            batch = before(prepare_observation_for_inference(dict(raw), torch.device("cpu"), "go"))
            actions.append(after(policy.select_action(batch))[0].numpy())
    return np.stack(actions)


def test_a_chunk_is_what_lerobot_would_do_with_it(act):
    controller = open_policy(f"lerobot:{act}")
    chunk = controller.act(SEEN, "go")
    assert chunk.actions.dtype == np.float32 and chunk.actions.shape == (10, 7) and controller.action_dim == 7
    np.testing.assert_allclose(chunk.actions, by_lerobot(act, SEEN, 10), atol=1e-6)
    assert np.ptp(chunk.actions) > 0.1


def test_a_policy_with_a_past_is_asked_at_every_tick_and_a_seed_says_all(diffusion):
    controller, env = open_policy(f"lerobot:{diffusion}"), TabletopEnv(pixels="lazy")
    runs = []
    for seed in (3, 3, 4):
        env.begin(0)
        agent = Agent(controller, planner="none", execute=8)
        agent.reset(env.task_description, seed)
        torch.manual_seed(len(runs))
        steps = []
        for _ in range(6):
            assert agent.needs_observation
            steps.append(agent.step(env.look()))
            env.step(steps[-1].action.clip(-1, 1))
        runs.append(np.stack([s.action for s in steps]))
        assert {len(s.events) for s in steps} == {1} and not agent.failures
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 1e-3
    env.close()


def test_pictures_of_another_size_are_fitted(diffusion):
    from agent.robots import resize_with_pad

    controller = open_policy(f"lerobot:{diffusion}")
    first = controller.act(SEEN, "go").actions
    controller.reset()
    fitted = Observation({"front": resize_with_pad(SEEN.images["front"], 96, 96)}, SEEN.state)
    np.testing.assert_array_equal(first, controller.act(fitted, "go").actions)


def test_an_agent_of_an_act_policy_moves_the_real_arm(act):
    env, controller = TabletopEnv(pixels="lazy"), open_policy(f"lerobot:{act}")
    env.begin(0)
    start, agent = env.world.state_vector(), Agent(controller, planner="none", execute=8)
    agent.reset(env.task_description)
    looked = []
    for _ in range(17):
        step = agent.step(env.look() if agent.needs_observation else None)
        looked.append(step.looked)
        env.step(step.action)
    assert [t for t, did in enumerate(looked) if did] == [0, 8, 16] and not agent.failures
    assert np.abs(env.world.state_vector() - start)[:3].max() > 0.01
    env.close()


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (Observation({"wrist": SEEN.images["wrist"]}, SEEN.state), "expected a camera for each of"),
        (Observation(SEEN.images, SEEN.state[:7]), r"expected a state of shape \(8,\)"),
    ],
)
def test_an_observation_that_does_not_fit(act, seen, says):
    with pytest.raises(UserError, match=says):
        open_policy(f"lerobot:{act}").act(seen, "go")


def copied(source, out, without: str = ""):
    out.mkdir()
    for file in source.iterdir():
        if file.name != without:
            (out / file.name).symlink_to(file)
    return out


def test_half_of_a_policy_is_none(act, tmp_path):
    for name in ("config.json", "model.safetensors", "policy_preprocessor.json"):
        with pytest.raises(UserError, match=f"expected a file {name} in"):
            open_policy(f"lerobot:{copied(act, tmp_path / name, without=name)}")
    weights = load_file(act / "model.safetensors")
    dropped = sorted(weights)[0]
    del weights[dropped]
    partial = copied(act, tmp_path / "partial", without="model.safetensors")
    save_file(weights, partial / "model.safetensors")
    with pytest.raises(UserError, match=f"expected one that loads, .*{dropped}"):
        open_policy(f"lerobot:{partial}")
    unknown = copied(act, tmp_path / "unknown", without="config.json")
    config = json.loads((act / "config.json").read_text()) | {"type": "no_such_policy"}
    (unknown / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="expected one that loads, .*no_such_policy"):
        open_policy(f"lerobot:{unknown}")


def test_weights_that_are_not_numbers_move_no_arm(act, tmp_path):
    weights = load_file(act / "model.safetensors")
    weights["model.action_head.bias"] = torch.full_like(weights["model.action_head.bias"], torch.nan)
    broken = copied(act, tmp_path / "broken", without="model.safetensors")
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(PolicyError, match=r"expected finite actions \(H, 7\), got some that are not$"):
        open_policy(f"lerobot:{broken}").act(SEEN, "go")
    assert identity(f"lerobot:{broken}") != identity(f"lerobot:{act}")


def test_an_identity_covers_the_processors(act, tmp_path):
    other = copied(act, tmp_path / "other", without="policy_preprocessor.json")
    text = (act / "policy_preprocessor.json").read_text()
    (other / "policy_preprocessor.json").write_text(text)
    assert identity(f"lerobot:{other}") == identity(f"lerobot:{act}")
    (other / "policy_preprocessor.json").write_text(text.replace("MEAN_STD", "IDENTITY"))
    assert identity(f"lerobot:{other}") != identity(f"lerobot:{act}")
