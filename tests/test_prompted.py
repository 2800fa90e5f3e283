"""The π family from observation to plan and actions: prompts to the letter, history, subtask, one prefill."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_convert import published, write
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from agent.loop import Agent
from agent.prompted import PromptedPolicy
from backbone import checkpoint, family
from backbone.errors import UserError
from backbone.network import Network
from backbone.observation import History, Observation
from backbone.prompts import PROMPTS, metadata_ids, metadata_words, prompt, prompt_ids, state_words
from backbone.reader import fit
from backbone.words import Words
from steersman.cli import main

torch.set_num_threads(1)
TEXTS = (
    "Task: put the red block in bin , State: ; Action: Memory: Past Response: Subtask: Metadata: Speed: fast"
)
LENGTHS = {"prompt": 170, "response": 14, "metadata": 9, "memory": 9}


def some_words() -> Words:
    """Words, single digits and marks, as a Hugging Face tokenizer."""
    vocabulary = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        *dict.fromkeys(TEXTS.split()),
        *"0123456789-",
    ]
    vocabulary += ["\n", " ", "Actions:"]
    model = Tokenizer(WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d|[,;\n-]|[A-Za-z]+:?| +"), "isolated")
    marks = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return Words(PreTrainedTokenizerFast(tokenizer_object=model, **marks))


@pytest.fixture(scope="module")
def words() -> Words:
    return some_words()


def network(name: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    made = Network(family.build(name, True, **LENGTHS))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


def policy(name: str, words: Words, how: str, seed: int = 0) -> PromptedPolicy:
    cameras = {"camera0": "front"}
    return PromptedPolicy(network(name, seed), words, how, {"state": 3, "actions": 2}, cameras)


def observation(seed: int = 0, instruction: str = "put the red block in bin") -> Observation:
    rng = np.random.default_rng(seed)
    images = {"front": rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)}
    return Observation(images, rng.normal(size=3).astype(np.float32), instruction)


# --- prompts -----------------------------------------------------------------------------------------------


LITERAL = {  # as the public code has them: of a task, three numbers of state and a past memory
    "openpi": "Task: pick it up, State: 0 128 255;\nAction: ",
    "lerobot_0.4": f"Task: pick it up, State: 0 128 255{' 128' * 29};\nAction: ",
    "openpi_libero": "pick it up\0\n",
    "lerobot_memory": "Task: pick it up;\nAction: ",
    "opentau_pi05": f"Task: pick it_up\n, State: 0 128 255{' 128' * 29};\n",
    "opentau_pi05_continuous": "Task: pick it_up\n, ",
    "opentau_pi06": f"Task: pick it_up\n<eos>State: 0 128 255{' 128' * 29}<eos>Actions:",
    "opentau_pi06_subtask": f"Task: pick it_up\n<eos>State: 0 128 255{' 128' * 29}<eos>Response:",
    "opentau_pi07": "Task: pick it_up\n, ",
    "opentau_pi07_planner": f"Task: pick it_up\n, Past Memory: did a, State: 0 128 255{' 128' * 29}, ",
    "opentau_pi07_paligemma": "Task: pick it_up\n, ",
    "opentau_pi07_paligemma_planner": "the planner's",
    "opentau_pi05_mem": "Task: pick it_up\n<eos>Actions:",
}
LITERAL["opentau_pi07_paligemma_planner"] = LITERAL["opentau_pi07_planner"]
RESPONSES = {
    "opentau_pi05": "go<eos>;\n", "opentau_pi06_subtask": "go<eos>Actions:", "opentau_pi07": "Subtask: go, ",
    "opentau_pi07_planner": "go<eos>", "opentau_pi07_paligemma": "Subtask: go",
    "opentau_pi07_paligemma_planner": "go<eos>",
}  # fmt: skip


class Letters:
    """Takes a text apart and puts it together, so that what a network is told can be read."""

    def encode(self, text: str, begin: bool = False) -> list[int]:
        return [1] * begin + [ord(letter) for letter in text]


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_literal(name):
    how, state = PROMPTS[name], np.array([-1.0, 0.0, 0.999])
    ids = prompt_ids(how, Letters(), 500, "pick it_up\n", state, "did a")
    assert ids[0] == 1 and "".join(map(chr, ids[1:])) == LITERAL[name]
    assert name not in RESPONSES or how.response.format(text="go") == RESPONSES[name]


def test_states_are_literal():
    state = np.array([-1.0, 0.0, 0.999, -1.5, 1.5])
    assert state_words(state, PROMPTS["openpi"]) == "0 128 255 -1 255"
    assert state_words(state, PROMPTS["opentau_pi05"]).startswith("0 128 255 0 255 128 128")
    edge = np.linspace(-1, 1, 257)[:-1]
    assert state_words(edge, PROMPTS["openpi"]) == " ".join(map(str, range(256)))
    values = torch.rand(32, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    theirs = ((values.clamp(-1, 1) + 1) * 128).long().clamp(0, 255).tolist()  # OpenTau's formula
    assert state_words(values.numpy(), PROMPTS["opentau_pi07_planner"]) == " ".join(map(str, theirs))
    with pytest.raises(UserError, match="prompt: expected one of openpi, lerobot_0.4"):
        prompt("pi99")
    with pytest.raises(UserError, match="at most 32 dimensions, got 40"):
        state_words(np.zeros(40), PROMPTS["lerobot_0.4"])


def test_metadata_is_literal():
    assert metadata_words({}) == ""
    assert metadata_words({"fps": 20, "speed": 30}) == "Metadata: Speed: 30,  FPS: 20, "
    said = {"speed": 30, "quality": 5, "mistake": False, "robot": "arm", "fps": 20, "control": "ee"}
    whole = "Metadata: Speed: 30,  Quality: 5,  Mistake: False,  Robot: arm,  FPS: 20,  Control: ee, "
    assert metadata_words(said, PROMPTS["opentau_pi07"]) == whole
    floats = whole.replace("30,", "30.0,").replace(" 5,", " 5.0,")
    assert metadata_words(said, PROMPTS["opentau_pi07_paligemma"]) == floats
    planner, letters = PROMPTS["opentau_pi07_paligemma_planner"], Letters()
    short = "Metadata: Speed: 30,  Quality: 5,  Mistake: False,  FPS: 20, "
    assert metadata_ids(planner, letters, said) == letters.encode(short, begin=True)
    assert metadata_ids(planner, letters, {}) == letters.encode("Metadata: ", begin=True)
    assert metadata_ids(PROMPTS["opentau_pi07"], letters, {"speed": None, "robot": ""}) == []
    with pytest.raises(UserError, match="metadata: expected some of speed, quality, .*, got 'mood'"):
        metadata_words({"mood": "good"})
    with pytest.raises(UserError, match="metadata: expected numbers, got speed 'fast'"):
        metadata_words({"speed": "fast"}, PROMPTS["opentau_pi07_paligemma"])


def test_a_long_memory_never_pushes_the_state_out(words):
    how, state = PROMPTS["opentau_pi07_planner"], np.array([0.1, -0.2, 0.3])
    long = " ".join(["put the red block in the bin"] * 40)
    ids = prompt_ids(how, words, 200, "put_the red\nblock", state, long)
    text = words.tokenizer.decode(ids)
    assert len(ids) <= 200 and ids[0] == words.bos
    squeezed = "".join(text.split())
    assert squeezed.endswith("State:" + "".join(state_words(state, how).split()) + ",")
    assert "redblockinthebin,State" in squeezed and "putredblock" not in squeezed, "the last of the memory"
    with pytest.raises(UserError, match="prompt: expected at most 20 tokens"):
        prompt_ids(how, words, 20, "put", state, long)


def test_eos_and_parted_texts(words):
    assert words.encode("put<eos>the", begin=True) == [
        words.bos,
        *words.encode("put"),
        words.eos,
        *words.encode("the"),
    ]
    assert words.encode("put\0\n") == words.encode("put") + words.encode("\n")
    assert words.decode([*words.encode("put the"), words.eos, *words.encode("red")]).split() == ["put", "the"]
    with pytest.raises(UserError, match="cannot be loaded"):
        Words.load("./nowhere")


# --- observations ------------------------------------------------------------------------------------------


def test_pictures_keep_their_proportions():
    picture = np.full((20, 40, 3), 255, np.uint8)
    centred, left_top = fit(picture, 56, 1, "front")[0], fit(picture, 56, 1, "front", "left_top")[0]
    assert centred.shape == (56, 56, 3) and (centred[:14] == -1).all() and (centred[14:42] > 0.999).all()
    assert (left_top[:28] == -1).all() and (left_top[28:] > 0.999).all()
    square = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    assert torch.equal(fit(square, 56, 1, "front")[0], torch.from_numpy(square)), "left as it is"
    many = np.stack([square, square[::-1], square])
    assert torch.equal(fit(many, 56, 1, "front"), fit(square, 56, 1, "front")), "the last one"
    assert fit(many, 56, 2, "front").shape == (1, 2, 56, 56, 3)
    for wrong in (picture.astype(np.float32), picture[..., :2], picture[0]):
        with pytest.raises(UserError, match="camera 'front' expected"):
            fit(wrong, 56, 1, "front")


def test_history_knows_what_there_was():
    history = History(3, interval=2)
    seen = [history.add(observation(seed)) for seed in range(6)]
    assert [o.history.tolist() for o in seen[:3]] == [[False, False, True]] * 2 + [[False, True, True]]
    last = seen[5]
    assert last.history.all() and last.images["front"].shape == (3, 40, 56, 3)
    for at, moment in enumerate((1, 3, 5)):
        assert np.array_equal(last.images["front"][at], observation(moment).images["front"])
        assert np.array_equal(last.state[at], observation(moment).state)
    assert not seen[0].images["front"][:2].any()
    history.reset()
    assert history.add(observation()).history.tolist() == [False, False, True]
    with pytest.raises(UserError, match="at least 1 frame"):
        History(0)


# --- planner and controller --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "how"), [("pi05_subtask", "opentau_pi05"), ("pi06", "opentau_pi06_subtask")]
)
def test_planning_and_acting_on_one_prefill(name, how, words):
    made = policy(name, words, how)
    made.reset(3)
    plan, chunk = made.step(observation())
    assert chunk.actions.shape == (6, 2) and np.isfinite(chunk.actions).all()
    assert plan.tokens[0] == words.bos and plan.margin >= 0
    assert made.plan(observation()).tokens == plan.tokens
    made.reset(3)
    if words.eos in plan.tokens and words.encode(plan.subtask) == list(
        plan.tokens[1 : plan.tokens.index(words.eos)]
    ):
        again = made.act(observation(), plan.subtask)
        np.testing.assert_allclose(again.actions, chunk.actions, atol=1e-4)
    made.reset(3)
    other = made.act(observation(), "put the block in bin")
    made.reset(3)
    assert np.abs(other.actions - made.act(observation(), "red").actions).max() > 1e-3, "the subtask is read"


def test_pi07_planner_and_controller_drive_an_agent(words):
    planners = (policy("pi07_planner", words, "opentau_pi07_planner", seed) for seed in range(9))
    planner = next(p for p in planners if p.plan(observation()).subtask)  # random weights may write nothing
    controller = policy("pi07", words, "opentau_pi07")
    with pytest.raises(UserError, match="expected a network that makes actions, got 'pi07_planner"):
        planner.act(observation(), "put")
    with pytest.raises(UserError, match="expected a network that writes plans, got 'pi07"):
        controller.plan(observation())
    agent = Agent(controller, planner=planner.planner, execute=3)
    agent.reset("put the red block in bin", seed=1)
    history = History(6)
    for tick in range(7):
        step = agent.step(history.add(observation(tick)))
        assert step.action.shape == (2,) and not any("failed" in event for event in step.events), step.events
    assert agent.plan.tokens[0] == words.bos
    full = history.add(observation(7))
    controller.reset(1)
    with_past = controller.act(full, "put the red block").actions
    controller.reset(1)
    now = Observation({"front": full.images["front"][-1]}, full.state[-1], full.instruction)
    without = controller.act(History(6).add(now), "put the red block").actions
    assert np.abs(with_past - without).max() > 1e-4, "the past is seen"
    controller.reset(1)
    more = {"metadata": {"speed": "fast"}, "subgoals": {"front": full.images["front"][0]}}
    told = controller.act(
        Observation(full.images, full.state, full.instruction, history=full.history, **more),
        "put the red block",
    )
    assert np.abs(told.actions - with_past).max() > 1e-4, "metadata and subgoals are seen"


def test_committed_actions_are_kept(words):
    made = policy("pi06", words, "opentau_pi06_subtask")
    promised = np.array([[0.1, -0.2], [0.3, 0.4]], np.float32)
    chunk = made.act(observation(), "put", promised)
    assert np.allclose(chunk.actions[:2], promised)
    for wrong in (np.zeros((6, 2)), np.zeros((2, 3))):
        with pytest.raises(UserError, match="committed actions: expected shape"):
            made.act(observation(), "put", wrong)


def test_bad_input_is_told_in_one_line(words):
    made = policy("pi05_subtask", words, "opentau_pi05")
    good = observation()
    for wrong, what in (
        (Observation({"side": good.images["front"]}, good.state), "expected some camera of front, got side"),
        (Observation(good.images, np.zeros(4, np.float32)), "expected a state of 3 numbers"),
        (Observation(good.images, good.state * np.nan), "finite"),
    ):
        with pytest.raises(UserError, match=what):
            made.check(wrong)
    with pytest.raises(UserError, match="subtask: expected at most 14 tokens"):
        made.act(good, "put the red block " * 9)
    with pytest.raises(UserError, match="cameras: expected names of camera0"):
        PromptedPolicy(made.network, words, "opentau_pi05", {}, {"left": "front"})


def test_from_disk(words, tmp_path):
    path = tmp_path / "net"
    policy("pi05_subtask", words, "opentau_pi05").save_pretrained(path)
    again = PromptedPolicy.from_pretrained(path, cameras={"camera0": "front"})
    assert again.action_dim == 2 and again.horizon == 6
    assert (
        again.plan(observation()).tokens
        == policy("pi05_subtask", words, "opentau_pi05").plan(observation()).tokens
    )
    half = PromptedPolicy.from_pretrained(path, dtype=torch.bfloat16, cameras={"camera0": "front"})
    assert half.network.text.table.weight.dtype == torch.bfloat16
    assert half.network.decoder.norm.weight.dtype == torch.float32
    rough, exact = (p.act(observation(), "red").actions for p in (half, again))
    assert 0 < np.abs(rough - exact).max() < 0.3 * np.abs(exact).max(), "it runs in bfloat16, nearly alike"
    assert np.isfinite(half.plan(observation()).margin)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_bit_by_bit(words, tmp_path, dtype):
    made = policy("pi07", words, "opentau_pi07")
    checkpoint.cast(made.network, dtype)
    made.save_pretrained(tmp_path / "whole")
    checkpoint.save(tmp_path / "sharded", made.network, None, about=made.about, shard=40_000)
    words.save(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    ours = made.network.state_dict()
    for name in ("whole", "sharded"):
        again = PromptedPolicy.from_pretrained(tmp_path / name, dtype=dtype).network
        assert again.preset == made.network.preset
        for key, tensor in again.state_dict().items():
            assert tensor.dtype == ours[key].dtype and torch.equal(tensor, ours[key]), key
    assert again.text.table.weight.dtype == dtype and again.decoder.norm.weight.dtype == torch.float32


def test_converted_with_a_tokenizer(words, tmp_path):
    words.save(tmp_path / "words")
    made, theirs = published("pi07")
    source = write(tmp_path / "src", theirs)
    arguments = [
        str(source),
        str(tmp_path / "out"),
        "--preset",
        "pi07_tiny",
        "--tokenizer",
        str(tmp_path / "words"),
    ]
    assert main(["convert", *arguments]) == 0
    policy = PromptedPolicy.from_pretrained(tmp_path / "out", cameras={"camera0": "front"})
    segment = policy.network.layout["state_word"]
    assert list(segment.ids) == words.encode("State: ") and segment.length == len(segment.ids)
    assert policy.action_dim == 3 and policy.about["prompt"] == "opentau_pi07"
    assert main(["convert", *arguments, "--prompt", "pi99"]) == 2
