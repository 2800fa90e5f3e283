"""From LeRobot datasets to networks of the π family that an agent runs: samples, runs, mistakes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import test_prompted
import torch
from test_convert import published, write
from test_lerobot import write_set

from agent.loop import Agent
from agent.policy import load
from agent.prompted import PromptedPolicy
from backbone.errors import UserError
from backbone.observation import History, Observation
from envs.tabletop.env import TabletopEnv
from lowlevel.fast import FAST
from steersman.cli import main
from training.batches import Jitter
from training.collect import collect
from training.dropout import Dropout
from training.episodes import TEACHER
from training.labels import chunk_labels
from training.lerobot import LeRobotDataset
from training.loop import Config, Trainer
from training.samples import PromptedSampler

torch.set_num_threads(1)
words = test_prompted.words  # the fixture
MEMBERS = ("pi05", "pi05_subtask", "pi06", "pi07", "pi07_planner")
MEMBERS += ("pi07_paligemma", "pi07_paligemma_planner", "pi05_mem")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two episodes of the real world."""
    root = tmp_path_factory.mktemp("data") / "sorting"
    collect(root, ("core",), episodes=2, families=("sort",), seed=5, workers=0, quiet=True)
    return root


def run(dataset, out, name: str, **changes) -> Trainer:
    settings = {"steps": 8, "batch": 3, "precision": "no", "warmup": 1, "history_interval": 4, "threads": 1}
    return Trainer(Config(out=out, preset=f"{name}_tiny", datasets=(str(dataset),), **(settings | changes)))


def same(one, other, where: str = "") -> None:
    """Nested inputs, bit by bit."""
    assert type(one) is type(other) and (not isinstance(one, dict) or one.keys() == other.keys()), where
    if isinstance(one, dict):
        for name, value in one.items():
            same(value, other[name], f"{where}/{name}")
    else:
        assert one.dtype == other.dtype and torch.equal(one, other), where


# --- samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MEMBERS)
def test_a_network_is_trained_on_what_it_will_be_shown(name, dataset, tmp_path):
    metadata = {"speed": "20", "robot": "arm"}
    trainer = run(dataset, tmp_path / "run", name, metadata=metadata)
    trainer.save()
    policy, frames = load(tmp_path / "run/policy"), trainer.course.frames
    data, words = frames.datasets[0], policy.reader.words
    history = History(policy.network.preset.cameras[0][1].frames, policy.about["history_interval"])
    for row in range(14):
        images = {camera: data.images(camera, [row])[0] for camera in ("front", "wrist")}
        seen = history.add(Observation(images, data.state[row], data.task[row]))
        subtask = frames.subtask(data, row)
        trained = frames.inputs(data, row, np.random.default_rng(row))
        lag = int(np.random.default_rng(row).integers(1, 13))
        acting = policy.reader.inputs(
            seen, data.task[row], data.memory[row - lag] if row >= lag else "", subtask
        )
        for part in frames.written:  # what is learnt is what is written, and read by a controller
            text = subtask if part == "response" else data.memory[row]
            ids = [words.bos, *words.encode(text), words.eos]
            assert trained.pop(f"{part}_ids").tolist() == [ids]
        assert bool(trained["subgoals"]) == (name in ("pi07", "pi07_paligemma"))
        same({**trained, "subgoals": {}}, acting)
    assert "metadata_ids" in acting or "metadata" not in policy.reader.lengths
    assert "camera2" not in policy.reader.cameras


def test_a_batch_follows_from_seed_process_and_step(dataset, tmp_path):
    frames = run(dataset, tmp_path / "run", "pi07").course.frames
    fast = FAST.load(tmp_path / "run/fast")
    make = partial(PromptedSampler, frames, fast)
    first = make(seed=1).batch(4, 5)
    same(first, make(seed=1, threads=3).batch(4, 5))
    for other in (make(seed=2).batch(4, 5), make(seed=1, process=1).batch(4, 5), make(seed=1).batch(5, 5)):
        assert not torch.equal(first["actions"], other["actions"])
    assert first["images"]["camera0"].shape == (5, 6, 56, 56, 3) and first["fast_ids"].shape[0] == 5
    past = torch.cat([make(seed=1).batch(k, 8)["history"]["state"][:, 0] for k in range(12)])
    assert 0 < past.sum() < len(past), "some are without a past"


def test_chunks_are_known_as_far_as_the_teacher_drove(dataset, tmp_path):
    frames = run(dataset, tmp_path / "run", "pi05_subtask").course.frames
    data, horizon = frames.datasets[0], frames.horizon
    first, last = data.rows(0)
    assert (data.driver[first:last] != TEACHER).any(), "this episode has bursts"
    rows = slice(first, last)
    parts = data.action[rows], data.driver[rows], data.subtask.ids[rows]
    chunks, valid = chunk_labels(*parts, data.subtask.table.index("done"), horizon)
    for row in range(first, last, 3):
        chunk, known = frames.actions(data, row)
        assert np.array_equal(known, valid[row]) and np.array_equal(chunk[known], chunks[row][known])
        assert (chunk[~known] == chunk[known.sum() - 1]).all()
    batch = PromptedSampler(frames, FAST.load(tmp_path / "run/fast")).batch(0, 64)
    whole = batch["valid"].all(1)
    assert 0 < whole.sum() < 64 and torch.equal(batch["there"]["fast"].any(1), whole), (
        "tokens of whole chunks"
    )
    assert (batch["dims"] == 7).all()


def test_datasets_of_others(tmp_path):
    root = write_set(tmp_path / "video", video=True, target=[[0.5, 0.25]] * 28)
    course = run(root, tmp_path / "run", "pi05", sizes={"horizon": 4}).course
    data, frames = course.frames.datasets[0], course.frames
    assert course.cameras == {"camera0": "top"} and course.about["dims"] == {"state": 2, "actions": 2}
    chunk, valid = frames.actions(data, 17)  # the last but one of its episode
    assert valid.tolist() == [True, True, False, False]
    assert np.allclose(chunk, data.action[[17, 18, 18, 18]])
    inputs = frames.inputs(data, 17, np.random.default_rng(0))
    assert list(inputs["images"]) == ["camera0"]
    norm = course.network.action_norm(torch.from_numpy(data.action))
    assert norm.min() == pytest.approx(-1, abs=0.1) and norm.max() == pytest.approx(1, abs=0.1)
    with pytest.raises(UserError, match="'pi05_subtask_tiny' needs a column 'subtask_index'"):
        run(root, tmp_path / "other", "pi05_subtask")
    with pytest.raises(UserError, match="'pi07_planner_tiny' needs a column 'memory'"):
        run(root, tmp_path / "other", "pi07_planner")


# --- training ----------------------------------------------------------------------------------------------


def test_one_batch_is_learnt_by_heart(dataset, tmp_path):
    trainer = run(dataset, tmp_path / "run", "pi05_subtask", average=0.5, learning_rate=6e-3, batch=4)
    data, frames = trainer.course.frames.datasets[0], trainer.course.frames
    trainer.course.sampler.frames.how = replace(frames.how, jitter=Jitter(images=0), dropout=Dropout(0, 0, 0))
    batch = trainer.batches(0)
    first = {k: float(v) for k, v in trainer.learn(batch, 0.0).items()}
    for _ in range(70):
        last = trainer.learn(batch, 0.5)
    assert last["text_loss"] < 0.05 * first["text_loss"] and last["fast_loss"] < 0.5 * first["fast_loss"]
    assert last["flow_loss"] < 0.5 * first["flow_loss"]
    trainer.save()
    policy = PromptedPolicy.from_pretrained(tmp_path / "run/policy")
    key = [0, 0, 0, 0]
    for which, row in frames_drawn(trainer, key, 4):
        seen = frames.observation(frames.datasets[which], row)
        plan = policy.plan(seen)
        assert plan.text == frames.subtask(data, row), "the subtask and, in tokens, its place"


def frames_drawn(trainer: Trainer, key: list[int], size: int) -> list:
    places = trainer.course.sampler.places
    return [(int(d), int(r)) for d, r in places[np.random.default_rng(key).integers(len(places), size=size)]]


@pytest.mark.parametrize("name", ["pi07", "pi07_paligemma_planner"])
def test_a_resumed_run_is_the_same_bit_by_bit(name, dataset, tmp_path):
    def learn(trainer: Trainer, steps: int) -> list[float]:
        return [float(trainer.learn(trainer.batches(trainer.step), 0.1)["loss"]) for _ in range(steps)]

    whole = run(dataset, tmp_path / "whole", name)
    losses = learn(whole, 4)
    first = run(dataset, tmp_path / "parts", name)
    before = learn(first, 2)
    first.save()
    second = run(dataset, tmp_path / "parts", name)
    assert before + learn(second, 2) == losses
    for a, b in zip(whole.bare.parameters(), second.bare.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["pi05_subtask", "pi05_mem"])
def test_what_a_run_leaves_drives_the_table(name, dataset, tmp_path):
    trainer = run(dataset, tmp_path / "run", name, steps=2, sizes={"horizon": 5})
    trainer.run()
    planner = "learned" if name == "pi05_subtask" else "none"
    agent = Agent.from_pretrained(str(tmp_path / "run/policy"), planner=planner, execute=4)
    assert agent.policy.horizon == 5 and agent.policy.action_dim == 7
    env = TabletopEnv(suite="core", family="sort")
    observation, _ = env.reset(seed=10_000_000)
    agent.reset(env.task_description)
    looks = 0
    for tick in range(9):
        needed = agent.needs_observation
        assert needed == (name == "pi05_mem" or tick % 4 == 0)  # one that looks back sees every frame
        step = agent.step(observation if needed else None)
        assert not any("failed" in event for event in step.events), step.events
        looks += step.looked
        observation, *_ = env.step(step.action)
    env.close()
    assert looks == 3
    if name == "pi05_mem":
        assert agent._past.add(Observation.from_env(observation, "")).history.tolist()[-3:] == [True] * 3


def test_from_a_checkpoint(dataset, tmp_path):
    first = run(dataset, tmp_path / "first", "pi05_subtask", steps=2)
    first.run()
    start = str(tmp_path / "first/policy")
    second = run(dataset, tmp_path / "second", "pi05_subtask", init=start, train="expert", learning_rate=1e-2)
    assert second.course.fast.encode(np.zeros((1, 6, 7))) == first.course.fast.encode(np.zeros((1, 6, 7)))
    assert (
        second.course.vocabulary == first.course.vocabulary and second.course.cameras == first.course.cameras
    )
    before = {n: p.clone() for n, p in second.bare.named_parameters()}
    trained = dict(zip(before, first.average.shadow, strict=True))
    assert all(torch.equal(p, trained[n]) for n, p in before.items())
    second.learn(second.batches(0), 0.0)
    second.save()
    moved = {n.split(".")[0] for n, p in second.bare.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"expert", "action_in", "action_out", "time_in", "time_out"}
    again = PromptedPolicy.from_pretrained(tmp_path / "second/policy")
    again.save_pretrained(tmp_path / "copy")
    assert FAST.load(tmp_path / "copy/fast").size == first.course.fast.size
    assert PromptedPolicy.from_pretrained(tmp_path / "copy").about == again.about
    assert torch.equal(second.bare.action_norm.low, first.bare.action_norm.low)


def test_from_published_weights(tmp_path, words):
    """Converted with a tokenizer, then trained on somebody's videos with a given FAST tokenizer."""
    words.save(tmp_path / "words")
    source = write(tmp_path / "src", published("pi07")[1])
    out = tmp_path / "converted"
    options = ["--preset", "pi07_tiny", "--tokenizer", str(tmp_path / "words"), "--dtype", "float32"]
    assert main(["convert", str(source), str(out), *options]) == 0
    rng = np.random.default_rng(0)
    FAST.fit(rng.uniform(-1, 1, (40, 6, 2)), scale=2, size=32).save(tmp_path / "fast")
    more = {"preset": None, "init": str(out), "datasets": (str(write_set(tmp_path / "set", video=True)),)}
    more |= {"steps": 1, "batch": 2, "precision": "no", "out": tmp_path / "run", "fast": tmp_path / "fast"}
    trainer = Trainer(Config(**more))
    state_word = trainer.bare.layout["state_word"]
    assert list(state_word.ids) == words.encode("State: ") and trainer.course.learning_rate == 2.5e-5
    trainer.run()
    policy = PromptedPolicy.from_pretrained(tmp_path / "run/policy")
    assert policy.about["dims"] == {"state": 2, "actions": 2} and policy.about["source"] == str(source)
    assert policy.about["history_interval"] == 10, "a second"
    seen = Observation({"top": np.zeros((64, 64, 3), np.uint8)}, np.zeros(2, np.float32), "wipe the table")
    assert policy.act(seen, "wipe").actions.shape == (6, 2)
    with pytest.raises(UserError, match="--keep-normalisation of .*: expected datasets with"):
        Trainer(Config(**(more | {"keep_normalisation": True, "out": tmp_path / "other"})))
    with pytest.raises(UserError, match="expected --preset pi07_tiny, as .* is, got pi06_tiny"):
        Trainer(Config(**(more | {"preset": "pi06_tiny"})))


def test_the_flow_teaches_the_backbone_where_nothing_else_does(dataset, tmp_path):
    for name, alone in (("pi05", True), ("pi06", False)):
        trainer = run(dataset, tmp_path / name, name)
        assert trainer.bare.preset.knowledge_insulation is not alone and trainer.course.unused is alone
        (batch,) = trainer.batches(0)
        trainer.course.losses(trainer.network, batch)["flow_loss"].backward()
        reached = trainer.bare.text.table.weight.grad is not None
        assert reached is alone


# --- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"datasets": None}, "expected --datasets, paths or hub ids of LeRobot v3 datasets, got none"),
        ({"planner_batch": 3}, "--planner-batch does not apply to 'pi05_subtask_tiny', got 3"),
        ({"preset": "nano", "z_weight": 0.1}, "--z-weight does not apply to 'nano', got 0.1"),
        ({"preset": "pi05"}, "expected a --tokenizer for 'pi05', got none"),
        ({"cameras": {"left": "front"}}, "expected names of camera0, camera1, got 'left'"),
        ({"cameras": {"camera0": "side"}}, "expected some of side in .*, got front, wrist"),
        ({"prompt": "pi99"}, "prompt: expected one of openpi"),
        ({"metadata": {"mood": "good"}}, "metadata: expected some of speed"),
        ({"sizes": {"width": 3}}, "expected --sizes of .*, got 'width'"),
        ({"sizes": {"prompt": 9}}, "prompt: expected at most 9 tokens, got"),
        ({"trained_delay": 6}, "expected a --trained-delay from 0 to 5, got 6"),
        ({"preset": "pi07_planner_tiny", "train": "expert"}, "has no action expert"),
        ({"keep_normalisation": True}, "needs a checkpoint"),
        ({"tokenizer": "./nowhere"}, "tokenizer: './nowhere' cannot be loaded"),
    ],
)
def test_mistakes_are_told_in_one_line(changes, said, dataset, tmp_path):
    settings = {"preset": "pi05_subtask_tiny", "datasets": (str(dataset),), "steps": 1, "out": tmp_path}
    settings["precision"] = "no"
    with pytest.raises(UserError, match=said) as error:
        Trainer(Config(**(settings | changes)))
    assert "\n" not in str(error.value)


def test_the_command(dataset, tmp_path, capfd):
    options = ["--preset", "pi06_tiny", "--datasets", str(dataset), "--out", str(tmp_path / "run")]
    options += ["--cameras", "camera0", "wrist", "--steps", "1", "--batch", "2", "--precision", "no"]
    assert main(["train", *options]) == 0
    assert load(tmp_path / "run/policy").reader.cameras == {"camera0": "wrist"}
    assert LeRobotDataset(dataset).name == "sorting"
    assert main(["train", *options, "--no-touch"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: train: --touch does not apply")
