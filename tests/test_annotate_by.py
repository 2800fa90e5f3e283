"""Who says the labels: a server's model, a model of transformers, a person with keys, lines of text. The
episodes are the real world's, so the teacher's labels are the truth.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import sys
import termios

import numpy as np
import pytest
from chat_server import ChatServer
from labels import stripped
from PIL import Image
from terminals import Terminal
from test_language_model import directory  # noqa: F401  (the fixture: a tiny LLaVA with random weights)

from agent.planners import open_planner
from backbone.errors import UserError
from highlevel.openai_server import KEY
from steersman.cli import main
from training.annotate import writing
from training.annotate.asking import Asker
from training.annotate.draft import Draft
from training.annotate.episodes import Shown
from training.annotate.journal import JOURNAL
from training.annotate.screen import Marks
from training.annotate.segments import Segment, Subtasks, agreement, gathered
from training.collect import collect
from training.lerobot import LeRobotDataset
from training.loop import Config, Trainer

FPS = 20


@pytest.fixture(scope="module")
def true(tmp_path_factory):
    """Two episodes with the teacher's labels."""
    root = tmp_path_factory.mktemp("data") / "true"
    collect(root, ("memory", "core"), episodes=2, seed=5, workers=0, quiet=True)
    return root


@pytest.fixture
def bare(true, tmp_path, monkeypatch):
    """The same without labels."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(KEY, raising=False)
    return stripped(true, tmp_path / "bare")


@pytest.fixture
def truth(true):
    """The teacher's segments, by instruction as a model sees it."""
    dataset = LeRobotDataset(true)
    return {
        Shown(dataset, k, ()).instruction: gathered(*writing.known_labels(true)[k])
        for k in range(len(dataset.numbers))
    }


def asked_about(body: dict) -> tuple[str, list[float], list[np.ndarray]]:
    """Instruction, times and pictures of a question."""
    parts = body["messages"][1 if body["messages"][0]["role"] == "system" else 0]["content"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    times = [float(found[1]) for text in texts if (found := re.fullmatch(r"([\d.]+) s:", text))]
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]
    return texts[0].removeprefix("Instruction: "), times, pictures


def answer(segments, times=None) -> str:
    """Segments in seconds; times: the only ones that are told apart."""

    def second(frame: int) -> float:
        at = frame / FPS
        return at if times is None else min([*times, segments[-1].end / FPS], key=lambda t: abs(t - at))

    said = [
        {"start": second(s.start), "end": second(s.end), "subtask": s.subtask, "memory": s.memory}
        for s in segments
    ]
    return json.dumps({"segments": said})


def right(bare, true) -> list[dict[str, float]]:
    given, wanted = writing.known_labels(bare), writing.known_labels(true)
    return [agreement(given[n][0], wanted[n][0]) for n in wanted if any(given[n][0])]


# -- a model on a server


def test_a_server_that_knows_gives_the_truth_back(bare, true, truth, capsys):
    with ChatServer(lambda body, n: answer(truth[asked_about(body)[0]])) as server:
        by = ["--by", f"openai:gpt@{server.url}", "--compare", str(true)]
        assert main(["annotate", str(bare), *by]) == 0
        assert "2 episodes: 100.0% of frames have the same subtask" in capsys.readouterr().out
        assert writing.known_labels(bare) == writing.known_labels(true)  # memories too
        assert len(server.asked) == 2
        assert main(["annotate", str(bare), *by]) == 0 and len(server.asked) == 2, "nothing is left to do"
        assert main(["annotate", str(bare), *by, "--redo", "--episodes", "1"]) == 0 and len(server.asked) == 3
    one, dataset = server.asked[0], LeRobotDataset(bare)
    _, times, pictures = asked_about(one)
    assert times[0] == 0 and len(times) == len(pictures) and np.diff(times).max() <= 0.51
    for time, picture in zip(times, pictures, strict=True):
        seen = dataset.images("front", [round(time * FPS)])[0]
        assert abs(seen.astype(int) - picture).mean() < 4  # as JPEG
    schema = one["response_format"]["json_schema"]["schema"]["properties"]["segments"]["items"]
    assert schema["required"] == ["start", "end", "subtask", "memory"] and "enum" not in json.dumps(schema)


def test_one_that_knows_only_what_it_is_shown_is_off_by_half_a_step(bare, true, truth):
    """Segments shorter than a step are lost to it, so this is the one with long ones."""

    def said(body, n):
        words, times, _ = asked_about(body)
        return answer(truth[words], times)

    with ChatServer(said) as server:
        assert main(["annotate", str(bare), "--by", f"openai:gpt@{server.url}", "--episodes", "1"]) == 0
    (found,) = right(bare, true)
    assert found["found"] == 1 and found["extra"] == 0 and found["error"] <= 5 and found["frames"] > 0.8


def test_asked_once_more_about_each_change_it_is_right_to_the_frame(bare, true, truth):
    long = {s.start: (one.subtask, s.subtask) for t in truth.values() for one, s in itertools.pairwise(t)}

    def said(body, n):
        words, times, pictures = asked_about(body)
        if words in truth:
            return answer(truth[words], times)
        assert 2 <= len(times) == len(pictures) <= 9
        pair = tuple(re.findall('"(.+?)"', words)[:2])
        start = next(frame for frame, names in long.items() if names == pair) / FPS
        return json.dumps({"start": min(times, key=lambda t: abs(t - start))})

    with ChatServer(said) as server:
        by = ["--by", f"openai:gpt@{server.url}", "--episodes", "1", "--refine"]
        assert main(["annotate", str(bare), *by]) == 0
        assert len(server.asked) == 1 + 2 * 2
    assert right(bare, true) == [{"frames": 1, "found": 1, "extra": 0, "error": 0}]
    with ChatServer(lambda body, n: said(body, n) if n == 0 else "later") as server:
        by = ["--by", f"openai:gpt@{server.url}", "--episodes", "1", "--refine", "--redo"]
        assert main(["annotate", str(bare), *by]) == 0
    assert 0 < right(bare, true)[0]["error"] <= 5, "what cannot be read changes nothing"


def test_what_is_wrong_is_told_and_asked_again(bare, true, truth, capsys):
    long, tries = Segment(0, 9999, "pick up the blue block", "m"), []

    def said(body, n):
        segments = truth[asked_about(body)[0]]
        if segments[0].subtask.startswith("press"):  # this one is never learnt
            return answer([long])
        first = Segment(0, segments[0].end, "juggle the blue block")
        tries.append(body)
        said = ["I cannot.", answer([first, *segments[1:]]), f"```json\n{answer(segments)}\n```"]
        return said[len(tries) - 1]

    names = sorted({s.subtask for segments in truth.values() for s in segments})
    with ChatServer(said) as server:
        code = main(["annotate", str(bare), "--by", f"openai:gpt@{server.url}", "--subtasks", *names])
    out = capsys.readouterr().out
    assert code == 1 and "1 of 2 episodes labelled" in out and out.rstrip().endswith("without labels: 0")
    assert "no labels: segment 1: expected an end by 4.15, the end of all, got 499.95" in out
    assert right(bare, true) == [{"frames": 1, "found": 1, "extra": 0, "error": 0}]
    body = server.asked[-1]
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant", "user"]
    assert "subtask: expected one of the" in body["messages"][-1]["content"]
    assert f"\n- {names[0]}\n" in body["messages"][0]["content"]
    schema = body["response_format"]["json_schema"]["schema"]["properties"]["segments"]["items"]
    assert set(schema["properties"]["subtask"]["enum"]) == {*names, "done"}


def test_a_run_that_is_cut_off_goes_on(bare, true, truth, capsys):
    gone = [True]

    def said(body, n):
        if gone[0] and n:
            return 401, {"error": {"message": "no more for today"}}
        return answer(truth[asked_about(body)[0]])

    with ChatServer(said) as server:
        by = ["annotate", str(bare), "--by", f"openai:gpt@{server.url}"]
        assert main([*by, "--episodes", "0", "--redo"]) == 0 and main(by) == 2
        assert "no more for today" in capsys.readouterr().err
        before = LeRobotDataset(bare)
        assert before.subtask[0] and not before.subtask[len(before) - 1]
        gone[0] = False
        assert main(by) == 0 and len(server.asked) == 3
    assert writing.known_labels(bare) == writing.known_labels(true)
    assert [json.loads(line)["episode"] for line in (bare / JOURNAL).open()] == [0, 1]


def test_a_server_that_is_gone_ends_the_run_and_one_refusal_does_not(bare, true, truth, capsys):
    fault = 403, {"error": {"message": "go away"}}
    with ChatServer(lambda body, n: fault) as server:
        assert main(["annotate", str(bare), "--by", f"openai:gpt@{server.url}"]) == 2
        assert len(server.asked) == 2 and "go away" in capsys.readouterr().err
    assert not (bare / JOURNAL).exists()
    with ChatServer(lambda body, n: answer(truth[asked_about(body)[0]]) if n else fault) as server:
        assert main(["annotate", str(bare), "--by", f"openai:gpt@{server.url}"]) == 1
    assert "1 of 2 episodes labelled, 1 files new\nwithout labels: 0\n" in capsys.readouterr().out
    assert right(bare, true) == [{"frames": 1, "found": 1, "extra": 0, "error": 0}]


def test_a_second_round_that_is_cut_off_goes_on_too(bare, true, truth, capsys):
    fault = 401, {"error": {"message": "no more"}}
    whole = {words: answer([Segment(0, parts[-1].end, "work")]) for words, parts in truth.items()}
    with ChatServer(lambda body, n: whole[asked_about(body)[0]]) as server:
        assert main(["annotate", str(bare), "--by", f"openai:gpt@{server.url}", "--at-once", "2"]) == 0
    assert {*writing.known_labels(bare)[0][0], *writing.known_labels(bare)[1][0]} == {"work"}
    with ChatServer(lambda body, n: fault if n == 1 else answer(truth[asked_about(body)[0]])) as server:
        by = ["annotate", str(bare), "--by", f"openai:gpt@{server.url}"]
        assert main([*by, "--redo"]) == 1 and "labels that they had: 1\n" in capsys.readouterr().out
        assert set(writing.known_labels(bare)[1][0]) == {"work"}
        assert main(by) == 0 and len(server.asked) == 3
    assert writing.known_labels(bare) == writing.known_labels(true)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("[]", "answer: expected a JSON object with \"segments\", got '[]'"),
        (
            '{"segments": [{"start": 0, "end": "?", "subtask": "a"}]}',
            "segment 1: expected start and end in s",
        ),
        ('{"segments": [{"start": 0.6, "end": 4.15, "subtask": "a"}]}', "segment 1: expected a start at 0"),
        ('{"segments": [{"start": 0, "end": 2.15, "subtask": "a"}]}', "segment 1: expected an end at 4.15"),
        ('{"segments": [{"start": 0, "end": 4.15, "subtask": ""}]}', "segment 1: subtask: expected 1 to 300"),
        (
            '{"segments": [{"start": 0, "end": 3, "subtask": "a"}, {"start": 1, "end": 4, "subtask": "b"}]}',
            "segment 1: expected an end at 1.00, where the next begins, got 3",
        ),
        (
            '{"segments": [{"start": 0, "end": 0.01, "subtask": "a"}, '
            '{"start": 0.01, "end": 4.15, "subtask": "b"}]}',
            "segment 1: expected one frame (1/20 s) at least",
        ),
        ('[{"start": "0:00", "end": "2.0 s", "subtask": "a"}, {"start": 2.2, "end": 4, "subtask": "b"}]', ""),
    ],
)
def test_what_an_answer_must_be(true, said, words):
    episode = Shown(LeRobotDataset(true), 0, ("front",))
    shown = episode.spread(32, 2.0)
    try:
        segments = Asker(None).read(said, episode, shown)
    except UserError as error:
        assert words and str(error).startswith(words)
    else:
        assert not words and [(s.start, s.end, s.subtask) for s in segments] == [(0, 44, "a"), (44, 83, "b")]
        assert {s.memory for s in segments} == {"nothing"}


# -- a model of transformers


def test_a_real_model_is_shown_all_and_its_garbage_is_no_label(directory, bare, capsys):  # noqa: F811
    model = open_planner(f"vlm:{directory}", new_tokens=8)
    read, looks = [], []
    model.model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0]))
    looked = lambda _, args, given: looks.append(given.get("pixel_values", *args[:1]))
    model.model.model.vision_tower.register_forward_pre_hook(looked, with_kwargs=True)
    episode = Shown(LeRobotDataset(bare), 0, ("front", "wrist"))
    with pytest.raises(UserError, match='^answer: expected a JSON object with "segments"'):
        Asker(model, Subtasks(["press it"]), frames=3, tries=2)(episode)
    told = model.processor.tokenizer.decode(read[0][0])
    assert told.count("<image>") == 3 * 2 * 4 and "0.00 s wrist:" in told and "- press it" in told
    assert f"Instruction: {episode.instruction}" in told and len(looks) == 2 and len(looks[0]) == 6
    again = model.processor.tokenizer.decode(max(read, key=lambda ids: ids.shape[-1])[0])
    assert "That cannot be used: answer: expected a JSON object" in again
    assert (
        main(["annotate", str(bare), "--by", f"vlm:{directory}", "--frames", "2", "--new-tokens", "4"]) == 1
    )
    out = capsys.readouterr().out
    assert "0 of 2 episodes labelled, 0 files new\nwithout labels: 0 1\n" in out
    assert not LeRobotDataset(bare).features.get("memory")


# -- a person


def test_keys_cut_and_name_what_they_should(bare):
    saved = {}
    episode = Shown(LeRobotDataset(bare), 0, ("front",))
    marks = Marks(episode, Draft(len(episode)), Subtasks(["press it", "lift it"]), saved.__setitem__)

    def keys(*given: str) -> list[tuple[int, int, str]]:
        for key in given:
            marks.press(key)
        return [(part.start, part.end, part.subtask) for part in marks.draft.parts]

    assert keys("n", *"PRESS it", "\n", ">", ".", "s", "2", "\n") == [
        (0, 21, "press it"),
        (21, 83, "lift it"),
    ]
    assert keys("n", *"juggle", "\n")[1][2] == "lift it" and "expected one of the 2" in marks.message
    assert keys(",", ",", "t") == [(0, 19, "press it"), (19, 83, "lift it")]
    assert keys("<", "]", "m", *"pressed once", "\n", "u", "u")[1] == (21, 83, "lift it")
    assert keys("[", "]", ".", "s", "\x1b", "w")[2] == (22, 83, "") and not saved
    assert marks.message == "segment 3: expected a subtask, got none" and not marks.over
    assert len(keys("j")) == 2 and keys("w") and marks.over == "next"
    assert saved == {0: (Segment(0, 21, "press it", "nothing"), Segment(21, 83, "lift it", "nothing"))}


def test_a_person_labels_at_a_terminal(bare, true, truth):
    """All of the teacher's labels, by keys."""
    (segments,) = [s for s in truth.values() if s[0].subtask.startswith("pick")]
    names = list(dict.fromkeys(s.subtask for s in segments))
    command = ["-m", "steersman", "annotate", str(bare), "--episodes", "1", "--subtasks", *names]
    terminal = Terminal(*command, width=100, height=30)
    try:
        terminal.see("bare episode 1")
        before = 0
        for segment in segments:
            terminal.type("." * (segment.start - before))
            before = segment.start
            terminal.see(f"frame {segment.start}\\b")
            terminal.type("s" if segment.start else "n")
            terminal.see("name: ")
            terminal.type(f"{names.index(segment.subtask) + 1}\r")
            terminal.see(f"> {segment.start / FPS:.2f}-[\\d.]+ {segment.subtask}")
        assert len({cell[1] for row in terminal.shows.cells for cell in row if cell[0] == "▀"}) > 20, (
            "pictures"
        )
        terminal.type("w")
        assert terminal.end() == 0 and termios.tcgetattr(terminal.slave) == terminal.before
        assert "1 of 2 episodes labelled" in terminal.said
    finally:
        terminal.close()
    assert right(bare, true) == [{"frames": 1, "found": 1, "extra": 0, "error": 0}]


def test_lines_over_a_pipe(bare, true, truth, tmp_path, monkeypatch, capsys):
    dataset, lines = LeRobotDataset(bare), []
    for k in range(2):
        for s in truth[Shown(dataset, k, ()).instruction]:
            lines.append(f"{s.start / FPS:g}-{s.end / FPS:g} {s.subtask} | {s.memory}")
        lines += ["0-1 wrong", "undo", "show", "", "# the next"]
    (tmp_path / "lines").write_text("\n".join(lines))
    monkeypatch.setattr(sys, "stdin", (tmp_path / "lines").open())
    assert main(["annotate", str(bare)]) == 0
    assert "saved episode 0\n" in (out := capsys.readouterr().out) and lines[0] in out.replace(".00", "")
    assert writing.known_labels(bare) == writing.known_labels(true)
    (tmp_path / "lines").write_text("episode 1\n0-99 wipe\n2-1 wipe\nwipe\nshow\nskip\n")
    monkeypatch.setattr(sys, "stdin", (tmp_path / "lines").open())
    assert main(["annotate", str(bare), "--redo"]) == 1
    out = capsys.readouterr().out
    assert out.count("\n! ") == 3 and f" {truth[Shown(dataset, 1, ()).instruction][1].subtask} | " in out
    assert writing.known_labels(bare) == writing.known_labels(true)


# -- and what they are for


def test_a_network_is_trained_on_annotated_data(bare, true, truth, tmp_path):
    with ChatServer(lambda body, n: answer(truth[asked_about(body)[0]])) as server:
        assert main(["annotate", str(bare), "--by", f"openai:gpt@{server.url}"]) == 0
    settings = {"steps": 2, "batch": 2, "precision": "no", "warmup": 1, "threads": 1}
    config = Config(out=tmp_path / "run", preset="pi05_subtask_tiny", datasets=(str(bare),), **settings)
    trainer = Trainer(config)
    trainer.run()
    frames = trainer.course.frames
    assert frames.texts("response") == sorted({s.subtask for segments in truth.values() for s in segments})
    written = frames.inputs(frames.datasets[0], 0, np.random.default_rng(0))["response_ids"]
    words = frames.reader.words
    first = LeRobotDataset(true).subtask[0]
    assert written.tolist() == [[words.bos, *words.encode(first), words.eos]]
