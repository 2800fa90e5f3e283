"""Guided real-time chunking: the published weights, the true pull through a network, seams that fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_agent import OBSERVATION, Script
from test_engine import closely, look, policy
from test_prompted import words  # noqa: F401 (a fixture)

from agent.asks import Ask
from agent.clock import Clock
from agent.evaluation.settings import Settings
from agent.levels import Look
from agent.loop import Agent
from backbone.errors import UserError
from highlevel.plan import Plan
from lowlevel.flow import times
from lowlevel.guided import Guided, corrected, prefix_weights
from lowlevel.sampling import Sampling

torch.set_num_threads(1)
BOTH = pytest.mark.parametrize("jacobian", ["true", "identity"])


def test_the_published_weights():
    """Delay 3, horizon 8 of a chunk of 12, as LeRobot's code gives them."""
    middle = {
        "zeros": [0, 0, 0, 0, 0],
        "ones": [1, 1, 1, 1, 1],
        "linear": [0.833, 0.667, 0.5, 0.333, 0.167],
        "exp": [0.631, 0.368, 0.189, 0.077, 0.018],
    }
    for schedule, numbers in middle.items():
        found = prefix_weights(schedule, 3, 8, 12)
        np.testing.assert_allclose(found, [1, 1, 1, *numbers, 0, 0, 0, 0], atol=5e-4)
        assert torch.equal(Guided(schedule).weights(3, 5, 12), found)
        assert torch.equal(Guided(schedule, horizon=8).weights(3, 9, 12), found)
    assert prefix_weights("exp", 4, 2, 6).tolist() == [1, 1, 1, 1, 0, 0]  # what is promised stays so
    assert prefix_weights("ones", 2, 9, 6).tolist() == [1] * 6


def test_the_published_strengths():
    found = [Guided(weight=10.0).strength(t) for t in times(10).tolist()]
    np.testing.assert_allclose(found, [10, 9.11, 4.25, 2.76, 2.17, 2, 2.17, 2.76, 4.25, 9.11], atol=5e-3)
    assert Guided(weight=3.0).strength(0.9) == 3.0


@BOTH
def test_the_correction_is_the_formula(jacobian):
    """A velocity that mixes actions: x's clean chunk is (I - t M) x - t b, so its Jacobian is known."""
    generator = torch.Generator().manual_seed(0)
    x, wanted, b = (torch.randn(2, 1, 6, 3, generator=generator) for _ in range(3))
    matrix, weights = torch.randn(6, 6, generator=generator), torch.rand(2, 1, 6, 1, generator=generator)
    guided, time = Guided(jacobian=jacobian, weight=4.0), 0.7
    with torch.inference_mode():
        got = corrected(lambda x: matrix @ x + b, x, time, wanted, weights, guided)
    v = matrix @ x + b
    error = (wanted - (x - time * v)) * weights
    pulled = (torch.eye(6) - time * matrix).T @ error if jacobian == "true" else error
    g = (0.3**2 + 0.7**2) / (0.3 * 0.7)
    torch.testing.assert_close(got, v - g * pulled)


@pytest.mark.parametrize("name", ["pi05", "pi07"])
def test_the_pull_through_a_network_is_that_of_finite_differences(name, words):  # noqa: F811
    made, seen = policy(name, words), look(2)
    p, generator = made.network.preset, torch.Generator().manual_seed(1)
    with torch.inference_mode():
        run = made.controller.look()
        made.controller.read(run, [seen], ["put the block"])
        run.prepare_actions()
        told = made.controller.modulation(10, "euler")[0][4]
        shape = 1, 1, p.horizon, p.action_dim
        x, along, back = (torch.randn(shape, generator=generator) for _ in range(3))
        plain, step = run.velocity(x, told), 1e-2
        moved = (run.velocity(x + step * along, told) - run.velocity(x - step * along, told)) / (2 * step)
        before = run.cache.keys.clone()
        with torch.inference_mode(False), torch.enable_grad():
            traced = x.clone().requires_grad_()
            v = run.traced(traced, told)
            (pulled,) = torch.autograd.grad(v, traced, back.clone())
        assert torch.equal(before, run.cache.keys)
    closely(v.detach(), plain, 1e-5)
    there, here = float((back * moved).sum()), float((pulled * along).sum())
    assert abs(there) > 0.05 and here == pytest.approx(there, rel=0.02)
    only = torch.zeros_like(back)
    only[:, :, 0] = 1  # one action's error moves the others: that is what the identity leaves out
    with torch.inference_mode(False), torch.enable_grad():
        (pulled,) = torch.autograd.grad(run.traced(traced, told), traced, only)
    assert pulled[:, :, 1:].abs().max() > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@BOTH
def test_no_weight_or_nothing_promised_is_plain_sampling(jacobian, guidance, words):  # noqa: F811
    made, seen = policy("pi06", words), look(1)
    kept, left = np.full((2, 2), 0.3, np.float32), np.full((3, 2), -0.2, np.float32)

    def drawn(prefix, **given):
        made.controller.sampling = Sampling(prefix=prefix, guidance=guidance)
        made.reset(4)
        return made.act(seen, "put the block", **given).actions

    plain = drawn(None)
    assert np.array_equal(drawn(Guided(jacobian=jacobian)), plain)
    silent = drawn(Guided(jacobian=jacobian, weight=0.0), committed=kept, leftover=left)
    assert np.array_equal(silent[:2], kept) and np.array_equal(silent[2:], plain[2:])
    led = drawn(Guided(jacobian=jacobian), committed=kept, leftover=left)
    assert np.array_equal(led[:2], kept) and not np.allclose(led[2:], plain[2:], atol=1e-3)


@BOTH
def test_a_chunk_is_drawn_towards_what_was_left(jacobian, words):  # noqa: F811
    made, seen = policy("pi05", words), look(1)
    made.reset(0)
    left = made.act(seen, "put the block").actions[1:]  # another draw of the same: it can be gone on from

    def away(prefix):
        made.controller.sampling = Sampling(prefix=prefix, steps=10)
        made.reset(4)
        drawn = made.act(seen, "put the block", leftover=left).actions
        return np.abs(drawn[: len(left)] - left).mean(1)

    plain = away(None)
    frozen = away(Guided("ones", 10.0, jacobian=jacobian))
    soft = away(Guided("exp", 10.0, jacobian=jacobian))
    assert frozen.mean() < 0.1 * plain.mean(), "nearly as promised"
    assert soft[0] < 0.5 * plain[0] and soft.mean() < plain.mean()


@BOTH
@pytest.mark.parametrize("fixed", [False, True])
def test_each_of_a_batch_is_led_as_it_would_be_alone(jacobian, fixed, words):  # noqa: F811
    made = policy("pi06", words)
    if fixed:
        made.engine.fix_shapes()
    made.controller.sampling = Sampling(prefix=Guided(jacobian=jacobian))
    looks = []
    for seed in range(3):  # the first has promised nothing
        kept = np.full((seed, 2), 0.1 * seed, np.float32) if seed else None
        left = np.full((3 - seed, 2), -0.1, np.float32) if seed else None
        looks.append(Look(look(seed), "", None, kept, torch.Generator().manual_seed(seed), left))
    texts = ["put the block", "red block", "put the red block"]
    for seed, chunk in enumerate(made.act_batch(looks, texts)):
        alone = replace(looks[seed], generator=torch.Generator().manual_seed(seed))
        closely(chunk.actions, made.act_batch([alone], [texts[seed]])[0].actions)


def test_what_is_left_gets_to_the_controller():
    class Asked(Script):
        def noise(self, seed):
            return None

        def ask(self, what, observation, *rest, committed, leftover, generator, subtask):
            numbers = [[] if a is None else np.round(a[:, 0] * 10).tolist() for a in (committed, leftover)]
            given.append(numbers)
            return Ask(lambda: self.step(observation, *rest))

    given: list = []
    clock = Clock(realtime=True, rate=20, chunk=0.1, keep=True)
    agent = Agent(Asked(Plan("go on")), execute=5, clock=clock)
    agent.reset("go")
    for _ in range(20):
        agent.step(OBSERVATION if agent.needs_observation else None)
    # two ticks late, every five: at the second look three are done of ten, or five, two of them passed over
    assert given[:3] == [[[], []], [[3, 4], [5, 6, 7, 8, 9]], [[5, 6], [7, 8, 9]]]


def test_what_cannot_be_is_told_in_one_line(words):  # noqa: F811
    for wrong, what in (
        ({"schedule": "cosine"}, "guided schedule: expected one of zeros, ones, linear, exp, got 'cosine'"),
        ({"jacobian": "none"}, "guided jacobian: expected one of true, identity"),
        ({"weight": -1.0}, "guided weight: expected 0 or more"),
        ({"horizon": 0}, "guided horizon: expected at least 1"),
    ):
        with pytest.raises(UserError, match=what):
            Guided(**wrong)
    for wrong in ({}, {"clock": "realtime"}, {"keep": True}):
        with pytest.raises(UserError, match="guided: expected the clock 'realtime' and keep"):
            Settings(guided="true", **wrong)
    settings = Settings(guided="identity", clock="realtime", keep=True)
    assert settings.sampling().prefix == Guided(jacobian="identity")
    made = policy("pi05", words)
    made.controller.sampling = Sampling(prefix=Guided())
    with pytest.raises(UserError, match="leftover actions: expected shape"):
        made.act(look(0), "put", leftover=np.zeros((2, 3)))
    made.engine.how = "compiled"
    with pytest.raises(UserError, match="guided: expected 'eager' for the true Jacobian, got 'compiled'"):
        made.controller.promised(made.engine.look(), [None])
