"""Running a network: one prefill, texts confirmed, batches, solvers; every way of running gives the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_prompted import network, observation, words  # noqa: F401 (a fixture)

from agent.levels import Levels, Look
from agent.policy import Policy
from agent.prompted import PromptedPolicy
from backbone import joint
from backbone.errors import UserError
from backbone.inference import Run
from backbone.observation import History, Observation
from envs.tabletop.env import TabletopEnv
from highlevel.decoding import Alphabet, Writing, write
from lowlevel.flow import integrate, times
from lowlevel.sampling import Sampling

torch.set_num_threads(1)
WRITING = {"pi05_subtask": "opentau_pi05", "pi06": "opentau_pi06_subtask"}
PLANNING = {"pi07_planner": "opentau_pi07_planner", "pi07_paligemma_planner": "opentau_pi07_planner"}
ACTING = {"pi07": "opentau_pi07", "pi05_mem": "opentau_pi05_mem", "pi05": "openpi"}
TASKS = ("put the red block", "put the block", "red block in the bin")


def policy(name: str, words, seed: int = 0) -> PromptedPolicy:  # noqa: F811
    cameras = {"camera0": "front", "camera1": "side"}
    how = (WRITING | PLANNING | ACTING)[name]
    return PromptedPolicy(network(name, seed), words, how, {"state": 3, "actions": 2}, cameras)


def look(seed: int, **more) -> Observation:
    """The third has a second camera."""
    made = observation(seed, TASKS[seed % 3])
    images = dict(made.images) | ({"side": made.images["front"][::-1]} if seed % 3 == 2 else {})
    return replace(made, images=images, **more)


def closely(a, b, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, np.abs(b).max()), rtol=0)


@pytest.fixture(scope="module")
def episode() -> list[Observation]:
    """What the shipped agent saw along the beginning of an episode, look by look, and now and then a jolt."""
    env, rng, made = TabletopEnv(suite="core"), np.random.default_rng(0), Policy.from_pretrained("nano")
    seen, _ = env.reset(seed=10_000_003)
    looks, memory, before = [], "", None
    for number in range(12):
        looks.append(Observation.from_env(seen, env.task_description))
        before, chunk = made.step(looks[-1], memory, before)
        memory = before.memory
        for action in chunk.actions[:8] if number % 4 else np.clip(rng.normal(size=(8, 7)) * 0.4, -1, 1):
            seen, *_ = env.step(np.float32(action))
    env.close()
    return looks


# --- one prefill -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITING)
def test_what_was_written_is_what_a_fresh_pass_would_read(name, words):  # noqa: F811
    """Prefix, text and actions on one store equal a pass over everything from nothing."""
    made, seen = policy(name, words), look(2)
    made.reset(1)
    plan, chunk = made.step(seen)
    inputs = made.reader.inputs(seen, seen.instruction)
    inputs["response_ids"] = torch.tensor([plan.tokens])
    layout = made.network.layout.inference.prefix
    p, generator = made.network.preset, torch.Generator().manual_seed(1)
    with torch.no_grad():
        encoded = made.network.encode(layout, inputs)
        noise = torch.randn(1, 1, p.horizon, p.action_dim, generator=generator)

        def velocity(x, k):
            return joint.predict(made.network, encoded, x, times(p.steps)[k].expand(1, 1))

        expected = made.network.action_norm.inverse(integrate(velocity, noise, p.steps))[0, 0, :, :2]
        logits = made.network.logits(encoded.hidden[:, layout.span("response")])[0]
    closely(chunk.actions, expected.numpy())
    assert logits.argmax(-1).tolist()[: len(plan.tokens) - 1] == list(plan.tokens[1:])
    made.reset(1)
    told = made.act(seen, "put the block in")
    assert np.abs(told.actions - chunk.actions).max() > 1e-3, "another subtask, other actions"


@pytest.mark.parametrize("name", [*WRITING, *ACTING])
def test_leaving_out_what_is_not_there_changes_nothing(name, words):  # noqa: F811
    """A run that computes only what is there, against one in which everything has its place."""
    made = policy(name, words)
    for seed in range(3):
        seen, actions = look(seed), []
        for static in (False, True):
            made.engine.static = static
            made.engine._runs.clear()
            made.reset(seed)
            actions.append(made.act(seen, "put the red block").actions)
        closely(*actions)
    assert made.engine.look()._end == made.network.layout.inference.prefix.slots_needed
    made.engine.static = False
    made.engine._runs.clear()
    made.act(look(0), "put")
    assert made.engine._runs[1, 1]._end < made.network.layout.inference.prefix.slots_needed


def test_a_mask_of_words_says_how_long_a_text_is(words):  # noqa: F811
    """Also where the padding's id is a word: a trimmed run holds what a static one does."""
    made = network("pi06")
    ids = torch.tensor([[5, 0, 7, 9, 9, 9], [4, 6, 9, 9, 9, 9]])
    there = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]).bool()
    found = {"images": {"camera0": torch.rand(2, 56, 56, 3)}, "prompt_ids": ids, "there": {"prompt": there}}
    runs = [Run(made, 2, static=static) for static in (True, False)]
    for run in runs:
        run.read(run.layout.context, found)
    assert runs[1].hidden["prompt"].shape[1] == 3 and torch.equal(runs[0].valid, runs[1].valid)
    for row, length in enumerate((3, 2)):
        whole, trimmed = (run.hidden["prompt"][row, :length] for run in runs)
        torch.testing.assert_close(trimmed, whole, atol=1e-5, rtol=1e-5)


# --- confirming --------------------------------------------------------------------------------------------


def sharpened(name: str, seed: int):
    """A random network whose texts end now and then."""
    made = network(name, seed)
    with torch.no_grad():
        made.decoder.norm.weight.mul_(2)
        made.text.table.weight[1] *= 1.0 + seed % 3
    return made


@pytest.mark.parametrize("name", [*WRITING, *PLANNING])
def test_a_guess_never_changes_what_is_written(name, words):  # noqa: F811
    alphabet, rng = Alphabet(words.bos, (words.eos,)), np.random.default_rng(0)
    lengths, confirmed = set(), 0
    for seed in range(5):
        made = sharpened(name, seed)
        how = (WRITING | PLANNING)[name]
        reader = PromptedPolicy(made, words, how, {"state": 3}, {"camera0": "front"}).reader
        found = reader.inputs(observation(seed), TASKS[0])

        def fresh(static, made=made, found=found):
            run = Run(made, static=static)
            run.read(run.layout.context, found, keep=())
            return run

        greedy = write(fresh(False), alphabet)[0]
        lengths |= {len(text) for text in greedy.texts}
        guesses = [greedy.texts, [list(t)[:2] for t in greedy.texts], [[*t[:-1], 5, 6] for t in greedy.texts]]
        for _ in range(4):
            mutant = [list(text) for text in greedy.texts]
            text = mutant[rng.integers(len(mutant))]
            text[rng.integers(1, len(text))] = int(rng.integers(4, 20))
            guesses.append(mutant)
        for at, guess in enumerate([*guesses, None]):
            run = fresh(static=bool(at % 2))
            writing = Writing(run, alphabet, [guess])
            writing.ahead = 1 + 3 * (at % 3)  # as on a GPU, some tokens between two questions
            again = writing.finish()[0]
            assert again.texts == greedy.texts
            assert again.margin == pytest.approx(greedy.margin, abs=2e-3)
            assert again.confirmed == ([list(t) for t in guess or ()] == [list(t) for t in greedy.texts])
            assert again.passes <= greedy.passes
            confirmed += again.confirmed
            assert again.passes == 1 or not again.confirmed
            plain = fresh(static=True)
            write(plain, alphabet)
            assert torch.equal(run.valid, plain.valid), "nothing of a wrong guess is left"
            if run.static:
                real = run.valid[0].nonzero()[:, 0]
                torch.testing.assert_close(run.cache.keys[:, :, real], plain.cache.keys[:, :, real])
    assert confirmed and len(lengths) > 1


def test_nano_confirms_what_it_would_write(episode):
    made = Policy.from_pretrained("nano")
    before, confirmed = None, 0
    for seen in episode:
        plain = made.plan(seen)
        plan = made.plan(seen, previous=before)
        assert (plan.tokens, plan.subtask, plan.memory) == (plain.tokens, plain.subtask, plain.memory)
        assert plan.margin == pytest.approx(plain.margin, abs=1e-3)
        if plain.target:
            closely([plan.target.y, plan.target.x], np.array([plain.target.y, plain.target.x]))
        confirmed += plan.origin == "confirmed"
        before = plain
    assert 0 < confirmed < len(episode) - 1


# --- many at once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WRITING, *ACTING])
def test_each_of_a_batch_gets_what_it_would_get_alone(name, words):  # noqa: F811
    made = policy(name, words)
    frames = made.network.preset.cameras[0][1].frames
    looks = []
    for seed in range(4):
        history, seen = History(frames), look(seed)
        for past in range(seed):
            history.add(look(seed + 3 * past))
        seen = history.add(seen)
        before = made.plan(look(seed + 1)) if made.planner and seed % 2 else None
        committed = np.full((seed, 2), 0.1, np.float32) if seed else None
        looks.append(Look(seen, "", before, committed, torch.Generator().manual_seed(seed)))
    together = made.step_batch(looks)
    for seed, (one, (plan, chunk)) in enumerate(zip(looks, together, strict=True)):
        alone, its = made.step_batch([replace(one, generator=torch.Generator().manual_seed(seed))])[0]
        assert (plan.tokens, plan.subtask, plan.origin) == (alone.tokens, alone.subtask, alone.origin)
        closely(chunk.actions, its.actions)
        assert one.committed is None or np.allclose(chunk.actions[:seed], one.committed)
    assert made.step_batch([]) == []


def test_nano_in_a_batch(episode):
    made = Policy.from_pretrained("nano")
    sentences = ("open the drawer", "press the red button then the blue button", "clear the table")
    looks = [
        Look(seen.with_instruction(sentences[k % 3]), "", None, None, torch.Generator().manual_seed(k))
        for k, seen in enumerate(episode)
    ]
    for k, (plan, chunk) in enumerate(made.step_batch(looks)):
        alone, its = made.step_batch([replace(looks[k], generator=torch.Generator().manual_seed(k))])[0]
        assert plan.tokens == alone.tokens and plan.margin == pytest.approx(alone.margin, abs=1e-3)
        closely(chunk.actions, its.actions, 1e-4)


# --- ways of running ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITING)
def test_a_tick_in_one_piece_is_the_same(name, words):  # noqa: F811
    """As CUDA graphs record it: fixed shapes, the last plan taken to hold, mended where it does not."""
    plain, made = policy(name, words), policy(name, words)
    made.engine.static = made.engine.whole_ticks = True
    work, before = [], None
    for seed in (0, 0, 1, 1, 4, 4):
        plain.reset(seed)
        made.reset(seed)
        expected, chunk = plain.step(look(seed), previous=before)
        run = made.engine.look()
        run.replayed = lambda name, do, tensors: work.append(name[0]) or do(*tensors)
        plan, its = made.step(look(seed), previous=before)
        assert (plan.tokens, plan.origin) == (expected.tokens, expected.origin)
        closely(its.actions, chunk.actions)
        if plan.origin == "confirmed":
            steps = ["velocity"] * made.network.preset.steps
            assert work == ["tick", "read", "predict", "draw", *steps], "one step of work, and what is in it"
        work.clear()
        before = plan
    assert before.origin == "confirmed"


def test_other_words_are_the_same_work(words):  # noqa: F811
    """A recording serves every instruction, plan and state: names and shapes of the work do not change."""
    made, known = policy("pi06", words), []
    made.engine.static = made.engine.whole_ticks = True
    plans = [made.plan(look(seed)) for seed in (1, 2)]
    for instruction, before in (("put", plans[0]), ("put the red block in the bin", plans[1])):
        made.reset(1)
        work = set()

        def note(name, do, tensors, work=work):
            work.add((name, tuple((t.shape, t.dtype) for t in tensors)))
            return do(*tensors)

        made.engine.look().replayed = note
        made.step(look(0).with_instruction(instruction), previous=before)
        known.append({item for item in work if item[0][0] == "tick"})
    assert known[0] == known[1] and len(known[0]) == 1


def test_compiled_without_a_break(words):  # noqa: F811
    """torch.compile sees whole functions: `fullgraph` raises where one breaks, whatever the backend."""
    plain, made = policy("pi06", words), policy("pi06", words)
    made.engine.prepare("compiled", backend="aot_eager")
    before = None
    for seed in (0, 0, 1):
        plain.reset(seed)
        made.reset(seed)
        expected, chunk = plain.step(look(seed), previous=before)
        plan, its = made.step(look(seed), previous=before)
        assert plan.tokens == expected.tokens
        closely(its.actions, chunk.actions)
        before = plan


def test_compiled_with_a_past(words):  # noqa: F811
    plain, made = policy("pi07", words), policy("pi07", words)
    made.engine.prepare("compiled", backend="aot_eager")
    history = History(plain.network.preset.cameras[0][1].frames)
    for seed in range(3):
        seen = history.add(observation(seed, "put red"))
        plain.reset(seed)
        made.reset(seed)
        closely(made.act(seen, "put the block").actions, plain.act(seen, "put the block").actions)


def test_ways_that_there_are_not(words):  # noqa: F811
    made: Levels = policy("pi05", words)
    with pytest.raises(UserError, match="expected one of eager, compiled, graphs, got 'fast'"):
        made.prepare("fast")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="expected a CUDA device for 'graphs', got 'cpu'"):
            made.prepare("graphs")
    with pytest.warns(UserWarning, match="cannot compile here, staying 'eager'"):
        made.engine.prepare("compiled", backend="no-such-compiler")
    assert made.engine.how == "eager" and made.act(look(0), "put").actions.shape == (6, 2)
    run = Run(network("pi06"))
    with pytest.raises(UserError, match="response: expected at most 14 tokens, got 16"):
        run.write("response", torch.ones(1, 4, dtype=torch.long), 12)
    with pytest.raises(ValueError, match="'response' was read with 14 tokens, now 15"):
        run._give({"response": 15})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", WRITING)
def test_graphs_replay_the_same(name, words):  # noqa: F811
    plain, made = policy(name, words), policy(name, words)
    for each in (plain, made):
        each.network.to("cuda")
    made.prepare("graphs")
    before = None
    for seed in (0, 0, 1, 1, 2, 2):
        plain.reset(seed)
        made.reset(seed)
        expected, chunk = plain.step(look(seed), previous=before)
        plan, its = made.step(look(seed), previous=before)
        assert plan.tokens == expected.tokens
        closely(its.actions, chunk.actions, 1e-4)
        before = plan


# --- what is kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pi07", "pi05_mem"])
def test_frames_are_looked_at_once(name, words):  # noqa: F811
    made, fresh = policy(name, words), policy(name, words)
    history = History(made.network.preset.cameras[0][1].frames)
    for tick in range(9):
        seen = history.add(observation(tick))
        fresh.engine.frames.forget()
        made.reset(tick)
        fresh.reset(tick)
        counted = made.engine.frames.computed
        actions = [each.act(seen, "put the red block").actions for each in (made, fresh)]
        closely(*actions)
        new = made.engine.frames.computed - counted
        assert new == (2 if tick == 0 else 1), "the new frame, and at the start the blank before it"


def test_modulation_is_made_once_and_follows_the_weights(words):  # noqa: F811
    made = policy("pi05", words).controller
    each, still = made.modulation(4, "euler")
    assert made.modulation(4, "euler")[0] is each and len(each) == 4
    with torch.no_grad():
        expected = made.network.modulation(torch.tensor([[0.75]]))
        torch.testing.assert_close([m[0] for m in each[1]], [m[0] for m in expected])
        made.network.time_in.weight.mul_(2)
    assert made.modulation(4, "euler")[0] is not each


# --- how a chunk is drawn ----------------------------------------------------------------------------------


def test_second_order_at_the_same_cost():
    """dx/dt = x + t from t = 1 to 0: the error falls with the square of the step."""
    start = torch.ones(1, 1, 1)
    exact = (start + 2) * np.exp(-1.0) - 1  # x = (x1 + 1 + 1) e^(t - 1) - t - 1
    errors = {}
    for solver in ("euler", "midpoint", "adams"):
        for n in (8, 16):
            calls = []

            def velocity(x, k, n=n, solver=solver, calls=calls):
                calls.append(k)
                return x + times(n, solver)[k]

            errors[solver, n] = abs(float(integrate(velocity, start, n, solver=solver) - exact))
            assert calls == list(range(n)), "one evaluation a step"
    assert 1.8 < errors["euler", 8] / errors["euler", 16] < 2.3
    for solver in ("midpoint", "adams"):
        assert 3.3 < errors[solver, 8] / errors[solver, 16] < 5
        assert errors[solver, 16] < errors["euler", 16] / 4
    with pytest.raises(UserError, match="solver: expected one of euler"):
        times(4, "magic")
    with pytest.raises(UserError, match="an even number of evaluations, got 5"):
        times(5, "midpoint")


def test_best_of_several_on_one_prefix(words):  # noqa: F811
    made, seen = policy("pi06", words), look(1)
    found = []

    def critic(observation, subtask, candidates):
        assert observation is seen and subtask == "put the block"
        found.append(candidates)
        return -np.abs(candidates).sum((1, 2))

    made.controller.sampling = Sampling(candidates=5, critic=critic)
    made.reset(4)
    best = made.act(seen, "put the block").actions
    (candidates,) = found
    assert candidates.shape == (5, 6, 2) and len({c.tobytes() for c in candidates}) == 5
    assert np.array_equal(best, candidates[np.abs(candidates).sum((1, 2)).argmin()])
    made.controller.sampling = Sampling()
    p, generator = made.network.preset, torch.Generator().manual_seed(4)
    noise = torch.randn(1, 5, p.horizon, p.action_dim, generator=generator)
    for k in range(5):  # each is what its noise alone would have become
        made.controller.noise = lambda generators, k=k: noise[:, k : k + 1]
        closely(made.act(seen, "put the block").actions, candidates[k])
    for wrong, what in (
        ({"candidates": 3}, "expected a critic to choose among 3"),
        ({"candidates": 0}, "expected at least 1, got 0"),
        ({"guidance": float("nan")}, "expected a finite number"),
        ({"solver": "midpoint", "steps": 3}, "an even number"),
    ):
        with pytest.raises(UserError, match=what):
            Sampling(**wrong)


@pytest.mark.parametrize("name", ["pi06", "pi07"])
def test_guidance_leaves_the_untold_and_passes_the_told(name, words):  # noqa: F811
    made, seen = policy(name, words), look(1)

    def drawn(guidance, subtask="put the block"):
        made.controller.sampling = Sampling(guidance=guidance, steps=1)
        made.reset(4)
        return made.act(seen, subtask).actions

    plain, much = drawn(1.0), drawn(3.0)
    untold = drawn(0.0)
    closely(much, untold + 3 * (plain - untold), 1e-4)  # one step is linear in the velocity
    assert np.abs(plain - untold).max() > 1e-3
    closely(drawn(0.0, "red"), untold)  # nothing of the subtask is left
    if name == "pi07":
        made.controller.sampling = Sampling(steps=1)
        made.reset(4)
        closely(made.act(seen, "").actions, untold)  # as if it had never been told one
    with pytest.raises(UserError, match="told a subtask apart from its task"):
        flat = policy("pi05", words)
        flat.controller.sampling = Sampling(guidance=2.0)
        flat.act(seen, "put")


def test_guided_plans_on_one_prefill(words):  # noqa: F811
    made = policy("pi06", words)
    made.controller.sampling = Sampling(guidance=2.0, steps=2)
    made.reset(1)
    plan, chunk = made.step(look(1))
    assert plan.tokens == made.plan(look(1)).tokens
    made.reset(1)
    if plan.subtask and made.reader.words.encode(plan.subtask) == list(plan.tokens[1:-1]):
        closely(made.act(look(1), plan.subtask).actions, chunk.actions)
