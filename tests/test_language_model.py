"""Language models as planners: reading what they write, a real (tiny, random) one, and the loop above it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from agent.evaluation.settings import Settings, build
from agent.loop import Agent
from agent.planners import is_foreign_planner, open_planner, planner_identity
from backbone.errors import UserError
from backbone.observation import History, Observation
from highlevel.language_model import Dialect, question
from highlevel.plan import DONE, Plan, Target
from highlevel.vision_language import VisionLanguagePlanner
from lowlevel.baselines import ZeroController

RED = "pick up the red block"
RNG = np.random.default_rng(0)
SEEN = Observation(
    {
        "front": RNG.integers(0, 256, (40, 40, 3), np.uint8),
        "wrist": RNG.integers(0, 256, (24, 32, 3), np.uint8),
    },
    np.zeros(8, np.float32),
)


# -- reading an answer


@pytest.mark.parametrize(
    "text",
    [
        '{"memory": "m", "subtask": "pick up the red block", "done": false, "target": null}',
        '```json\n{"memory": "m",\n "subtask": "pick up the red block"}\n```',
        'Sure! Here it is: {"memory": "m", "subtask": "pick up the red block"} I hope {that} helps.',
        "{'memory': 'm', 'subtask': 'pick up the red block', 'done': False, 'target': None}",
        '{"memory": "m", "subtask": "pick up the red block",}',
        '{memory: "m", subtask: "pick up the red block", target: [0.1, 0.2,],}',
        '{"memory": "m", "subtask": "pick up the red block"} {"memory": "n", "subtask": "open the drawer"}',
        '{"thought": "hm"} {"memory": "m", "subtask": "pick up the red block"}',
        '{"answer": {"memory": "m", "subtask": "pick up the red block"}}',
        '<think>{"subtask": "open the drawer"}</think>{"memory": "m", "subtask": "pick up the red block"}',
        '{"subtask": "open the dr\n{"memory": "m", "subtask": "pick up  the red\nblock", "done": "false"}',
    ],
)
def test_an_answer_is_found_however_it_is_wrapped(text):
    plan = Dialect().read(text, "old")
    assert (plan.subtask, plan.memory, plan.done, plan.target) == (RED, "m", False, None)


def test_quotes_inside_of_words():
    plan = Dialect().read("{'memory': 'it's red, don't drop it', 'subtask': 'pick up the red block'}")
    assert plan.memory == "it's red, don't drop it"
    plan = Dialect().read('{"memory": "he said "go" to me", "subtask": "open \\"it\\"",}')
    assert (plan.memory, plan.subtask) == ('he said "go" to me', 'open "it"')


@pytest.mark.parametrize(
    "text",
    [
        "", "no idea", "{", "{{{{{{" * 9999, "[" * 9999, '{"memory": "m"}', '{"subtask": 5}',
        '{"subtask": " "}',
        '{"subtask": ["pick up the red block"]}', '{"subtask": "pick up the r', '{"done": false}', "null",
        '<think>{"subtask": "open the drawer"}', '{"a":' * 9999, '"subtask": "pick up the red block"',
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_short_line(text):
    with pytest.raises(UserError, match='^answer: expected a JSON object with "subtask", got ') as error:
        Dialect().read(text, "old")
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("memory", "kept"),
    [("", "old"), (', "memory": null', "old"), (', "memory": 7', "old"), (', "memory": {"a": 1}', "old"),
     (', "memory": ""', ""), (', "memory": " two\\nlines "', "two lines"),
     (', "memory": ["a", "b"]', "a; b")],
)  # fmt: skip
def test_memory_is_what_is_written_and_else_the_old_one(memory, kept):
    assert Dialect().read(f'{{"subtask": "x"{memory}}}', "old").memory == kept


@pytest.mark.parametrize(
    "text",
    ['{"subtask": "done"}', '{"subtask": "Done."}', '{"done": true}', '{"subtask": "wait", "done": "True"}',
     '{"subtask": null, "done": 1, "target": [0.5, 0.5]}'],
)  # fmt: skip
def test_done_is_said_in_either_way(text):
    plan = Dialect().read(text, "old", "front")
    assert (plan.subtask, plan.done, plan.target, plan.memory) == (DONE, True, None, "old")


@pytest.mark.parametrize(
    ("target", "read"),
    [("[0.25, 0.5]", (0.25, 0.5)), ('{"x": 0.5, "y": 0}', (0.0, 0.5)), ("[0, 1]", (0.0, pytest.approx(1.0))),
     ("[412, 630]", None), ("[-0.1, 0.5]", None), ("[NaN, 0.5]", None), ("[0.5]", None), ('"here"', None),
     ("[true, false]", None), ("[[0.1, 0.2], 0.3]", None), ("null", None)],
)  # fmt: skip
def test_a_target_is_a_place_in_the_picture_or_none(target, read):
    found = Dialect().read(f'{{"subtask": "x", "target": {target}}}', camera="side").target
    assert (found if found is None else (found.y, found.x)) == read
    assert found is None or (
        found.camera == "side" and found.x < 1 and Plan("x", found).text.count("<loc") == 2
    )
    assert Dialect().read(f'{{"subtask": "x", "target": {target}}}', camera=None).target is None


def test_location_tokens_in_the_words_are_the_target():
    plan = Dialect().read('{"subtask": "pick it up <loc0512><loc0256>"}', camera="front")
    assert plan.subtask == "pick it up" and plan.target == Target(512.5 / 1024, 256.5 / 1024)


def test_of_a_list_the_one_that_is_meant():
    dialect = Dialect(subtasks=(RED, "open the drawer"))
    assert dialect.read('{"subtask": "Pick up the RED block."}').subtask == RED
    assert dialect.read('{"subtask": "done"}').done
    with pytest.raises(UserError, match="^subtask: expected one of the 2 that were listed, got 'dance'"):
        dialect.read('{"subtask": "dance"}')
    assert dialect.schema()["properties"]["subtask"]["enum"] == [RED, "open the drawer", DONE]
    assert RED in dialect.rules("front") and '"front"' in dialect.rules("front")
    with pytest.raises(UserError, match="^subtasks: expected a list"):
        Dialect(subtasks="dance")


def test_the_question_names_what_is_seen_now():
    past = History(2)
    past.add(SEEN)
    later = past.add(Observation({k: 255 - v for k, v in SEEN.images.items()}, SEEN.state))
    text, pictures = question(later, "tidy up", "two are in", Plan("close the drawer"))
    for part in ("Instruction: tidy up", "Memory: two are in", "close the drawer", '"front", "wrist"'):
        assert part in text
    assert [name for name, _ in pictures] == ["front", "wrist"]
    np.testing.assert_array_equal(pictures[1][1], 255 - SEEN.images["wrist"])
    with pytest.raises(UserError, match=r"camera 'front' expected \(H, W, 3\) uint8, got \(4, 4\) float64"):
        question(Observation({"front": np.zeros((4, 4))}, SEEN.state), "tidy up", "", None)
    assert Dialect(camera="top").pointed(SEEN) == "front" and Dialect(camera=None).pointed(SEEN) is None


# -- a real model

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A LLaVA with random weights and a tokenizer of bytes, as `save_pretrained` writes it."""
    special = ["<pad>", "<s>", "</s>", "<image>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({w: i for i, w in enumerate([*special, *alphabet])}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens=["<image>"],
    )  # fmt: skip
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessor(size=size, crop_size=size)
    processor = LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=16, patch_size=8, projection_dim=32),
        text_config=LlamaConfig(**small, vocab_size=len(tokenizer), num_key_value_heads=2,
                                max_position_embeddings=8192),
        image_token_index=3, pad_token_id=0,
    )  # fmt: skip
    found = tmp_path_factory.mktemp("vlm")
    LlavaForConditionalGeneration(config).save_pretrained(found)
    processor.save_pretrained(found)
    return found


def test_a_real_model_reads_all_of_the_prompt_and_its_garbage_is_no_plan(directory):
    planner = VisionLanguagePlanner.from_pretrained(str(directory), dtype="float32", new_tokens=12)
    read = []
    planner.model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0]))
    with pytest.raises(UserError, match='^answer: expected a JSON object with "subtask", got '):
        planner.plan(SEEN, "tidy up", "two are in", None)
    told = planner.processor.tokenizer.decode(read[0][0])
    assert told.count("<image>") == 2 * 4 and "Instruction: tidy up" in told and "two are in" in told
    assert told.startswith("user: You steer a robot arm") and told.endswith("assistant: ")


def test_the_pictures_reach_the_model_and_it_writes_the_same_twice(directory):
    planner = VisionLanguagePlanner.from_pretrained(str(directory), dtype="float32", new_tokens=24)
    seen = []
    looked = lambda _, args, given: seen.append(given["pixel_values"] if "pixel_values" in given else args[0])
    planner.model.model.vision_tower.register_forward_pre_hook(looked, with_kwargs=True)

    def written(observation):
        with pytest.raises(UserError) as error:
            planner.plan(observation, "tidy up", "", None)
        return str(error.value)

    assert written(SEEN) == written(SEEN)
    written(Observation({k: 255 - v for k, v in SEEN.images.items()}, SEEN.state))
    assert seen[0].shape == (2, 3, 16, 16) and (seen[0] == seen[1]).all() and not (seen[0] == seen[2]).all()


def test_a_model_that_has_learned_to_answer_is_a_planner(directory):
    """Its last layer is solved for the words that it is to say behind this prompt; the rest stays random."""
    planner = VisionLanguagePlanner.from_pretrained(str(directory), dtype="float32", new_tokens=40)
    model, tokenizer, asked = planner.model, planner.processor.tokenizer, {}
    generate = model.generate

    def watched(**inputs):
        asked.update(inputs)
        return generate(**inputs)

    model.generate = watched
    with pytest.raises(UserError):
        planner.plan(SEEN, "tidy up", "two are in", None)
    answer = [*tokenizer('{"subtask":"go"}').input_ids, tokenizer.eos_token_id]
    given = {"pixel_values": asked["pixel_values"]}
    given["input_ids"] = torch.cat([asked["input_ids"], torch.tensor([answer])], 1)
    with torch.no_grad():
        states = model.model(**given).last_hidden_state[0, -len(answer) - 1 : -1].double()
        wanted = 10 * torch.nn.functional.one_hot(torch.tensor(answer), len(tokenizer)).double()
        model.lm_head.weight.copy_((torch.linalg.pinv(states) @ wanted).T)
    plan = planner.plan(SEEN, "tidy up", "two are in", None)
    assert (plan.subtask, plan.memory, plan.done) == ("go", "two are in", False)


class Handover:
    """Its first plan is one planner's, all others another's."""

    def __init__(self, first, then):
        self.first, self.then = first, then

    def plan(self, observation, instruction, memory, previous):
        return (self.first if previous is None else self.then).plan(
            observation, instruction, memory, previous
        )


class Says:
    """One plan, whatever it sees."""

    def plan(self, observation, instruction, memory, previous):
        return Plan(RED, memory="m")


def test_garbage_leaves_the_last_subtask_standing(directory):
    random = open_planner(f"vlm:{directory}", new_tokens=8, dtype="float32")
    controller = ZeroController(7)
    agent = Agent(controller, Handover(Says(), random), controller, execute=2)
    agent.reset("tidy up")
    steps = [agent.step(SEEN) for _ in range(6)]
    garbled = [e for step in steps for e in step.events if e.startswith("planner garbled: answer: expected")]
    assert garbled and all("\n" not in event for event in garbled)
    assert {step.subtask for step in steps} == {RED} and agent.memory == "m" and agent.failures == 0


def test_it_plans_in_a_world_by_its_name(directory):
    env, agent = build(Settings(planner=f"vlm:{directory}", controller="obedient", device="cpu"))
    try:
        observation, _ = env.reset(seed=0)
        agent.planner.new_tokens = 4
        assert "pick up the red block" in agent.planner.dialect.rules("front")
        agent.reset(env.task_description)
        step = agent.step(env.look())
    finally:
        env.close()
    assert step.events[0].startswith("planner garbled: answer: expected") and not step.action[:6].any()


def test_what_is_no_model_is_refused_in_one_line(directory, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in (f"vlm:{tmp_path}", "vlm:", "vlm2"):
        with pytest.raises(UserError, match="^planner: expected ") as error:
            open_planner(name)
        assert "\n" not in str(error.value)
    planner = VisionLanguagePlanner.from_pretrained(str(directory))
    planner.processor.chat_template = None
    with pytest.raises(UserError, match="^planner: expected a processor with a chat template"):
        VisionLanguagePlanner(planner.model, planner.processor)
    with pytest.raises(UserError, match="^dtype: expected one of auto, float32"):
        VisionLanguagePlanner.from_pretrained(str(directory), dtype="float3")


def test_the_identity_of_a_directory_is_what_is_in_it(directory, tmp_path):
    name = f"vlm:{directory}"
    assert is_foreign_planner(name) and not is_foreign_planner("oracle")
    assert planner_identity(name) == planner_identity(name)
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert planner_identity(f"vlm:{tmp_path}") == planner_identity(name)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert planner_identity(f"vlm:{tmp_path}") != planner_identity(name)


def test_the_identity_of_a_hub_id_is_its_commit(tmp_path):
    home, commit = tmp_path / "models--some--model", "0123456789abcdef" * 2 + "01234567"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "snapshots" / commit / "config.json").write_text("{}")
    code = "from agent.planners import planner_identity as of; print(of('vlm:some/model')); of('vlm:a/b')"
    there = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=there, capture_output=True, text=True, timeout=60
    )
    assert found.stdout.strip() == f"planner some/model, commit {commit}"
    assert "UserError: planner: expected a directory or a hub id, got 'a/b'" in found.stderr
