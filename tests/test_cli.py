"""The command line: what a user gets wrong is told in one line, and what he gets right runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import examples
from steersman.cli import COMMANDS, SCRIPTS, main

TEACHER = ["--planner", "oracle", "--controller", "teacher"]


def fails(capsys, *arguments: str) -> str:
    """Exit code 2, one line on stderr, no traceback -> the line."""
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_usage_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main([]) == 2
    assert "expected one of rollout" in fails(capsys, "rolout")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_explains_its_options(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "--" in out
    told = re.sub(r"[│\s]*\n[│\s]*", "  ", out).split(" --")[1:]  # an option and its text
    bare = [text for text in told if re.match(r"[\w-]+( [^ ]+)*\s\s+\((default|required)", text)]
    assert not bare


def test_every_script_runs_by_itself():
    """From its own folder's point of view: a script must not hide a module of Python's."""
    scripts = sorted(path for path in Path(examples.__file__).parent.glob("*.py") if path.stem != "__init__")
    assert {SCRIPTS.get(name, name) for name in COMMANDS} == {path.stem for path in scripts}
    assert not {path.stem for path in scripts} & sys.stdlib_module_names
    some = [path for path in scripts if path.stem in ("rollout", "run", "serve", "report")]
    started = [subprocess.Popen([sys.executable, path, "--help"], stdout=subprocess.PIPE) for path in some]
    for path, process in zip(some, started, strict=True):
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and b"--help" in out, path.name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rollout", "--suite", "hard", *TEACHER], ("hard", "core")),
        (["rollout", "--family", "juggle", *TEACHER], ("juggle", "stow")),
        (["rollout", "--episodes", "0", *TEACHER], ("episodes", "0")),
        (["rollout", "--seed", "-3", *TEACHER], ("seed", "-3")),
        (["rollout", "--execute", "0", *TEACHER], ("execute", "0")),
        (["rollout", "--checkpoint", "nowhere"], ("checkpoint", "nowhere")),
        (["rollout", "--out", "/proc/nothing", *TEACHER], ("/proc/nothing",)),
        (["rollout", "--suite", "libero_goal", "--instruction", "go"], ("seed", "tabletop", "libero_goal")),
        (["rollout", "--record", "/proc/nothing", *TEACHER], ("/proc/nothing",)),
        (["evaluate", "--episodes", "-1", *TEACHER], ("episodes", "-1")),
        (["evaluate", "--suite", "hard", *TEACHER], ("hard", "core")),
        (["evaluate", "--family", "juggle", *TEACHER], ("juggle", "stow")),
        (["evaluate", "--checkpoint", "nowhere"], ("checkpoint", "nowhere")),
        (["evaluate", "--workers", "-1", *TEACHER], ("workers", "-1")),
        (["evaluate", "--record", "/proc/nothing", *TEACHER], ("/proc/nothing",)),
        (["evaluate", "--record", "here", "--ray", "local", *TEACHER], ("record", "this machine")),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, tmp_path, arguments, words):
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path)]
    line = fails(capsys, *arguments)
    assert all(word in line for word in words)


def test_a_corrupt_checkpoint_is_refused(capsys, tmp_path):
    checkpoint = tmp_path / "broken"
    checkpoint.mkdir()
    for command in ("rollout", "evaluate"):
        out = str(tmp_path / command)
        assert "expected a file" in fails(capsys, command, "--checkpoint", str(checkpoint), "--out", out)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (checkpoint / name).write_text("{")
    assert "config.json" in fails(capsys, "rollout", "--checkpoint", str(checkpoint), "--out", str(tmp_path))


def test_arguments_that_do_not_parse():
    with pytest.raises(SystemExit) as end:
        main(["rollout", "--episodes", "many"])
    assert end.value.code == 2


def test_rollout_writes_a_video_and_a_record(tmp_path, capsys):
    import av

    arguments = ["rollout", "--family", "press", "--seed", "1", "--out", str(tmp_path), *TEACHER]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "solved" in out and "press the" in out  # plain lines without a terminal
    record = json.loads((tmp_path / "episode-1.json").read_text())
    assert record["success"] and record["seed"] == 1 and record["family"] == "press"
    with av.open(str(tmp_path / "episode-1.mp4")) as film:
        stream = film.streams.video[0]
        frames = sum(1 for _ in film.decode(stream))
        assert stream.height >= 480 and frames == pytest.approx(record["steps"] / 2, abs=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["episode-1.json", "episode-1.mp4"]


def test_a_recorded_rollout_is_replayed(tmp_path, capsys):
    arguments = ["rollout", "--family", "press", "--seed", "1", "--out", str(tmp_path / "out"), "--no-video"]
    runs = str(tmp_path / "runs")
    assert main([*arguments, "--record", runs, *TEACHER]) == 0
    assert main([*arguments, "--record", runs, *TEACHER]) == 0  # adds to it
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'out'} and {runs}\n")
    assert main(["replay", runs]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 the same"
    assert main(["replay", runs, "--episode", "1", "--agent"]) == 0
    assert "expected 0 to 1" in fails(capsys, "replay", runs, "--episode", "2")
    assert "expected recorded runs" in fails(capsys, "replay", str(tmp_path))
    foreign = tmp_path / "foreign/data/chunk-000/file-000.parquet"
    foreign.parent.mkdir(parents=True)
    pq.write_table(pa.table({"action": [1.0]}), foreign)
    assert "written by this program" in fails(capsys, "replay", str(tmp_path / "foreign"))
    assert "written by this program" in fails(capsys, *arguments, "--record", str(tmp_path / "foreign"))


def test_evaluate_writes_a_summary(tmp_path, capsys):
    arguments = ["evaluate", "--episodes", "2", "--family", "press", "--workers", "0", "--out", str(tmp_path)]
    assert main([*arguments, *TEACHER]) == 0
    assert "overall" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["families"]["press"]["n"] == 2 and summary["overall"]["rate"] == 1.0


def test_an_interrupted_rollout_leaves_no_half_file(tmp_path):
    import av

    command = [sys.executable, "-m", "steersman", "rollout", "--suite", "long", "--out", str(tmp_path)]
    # A shell's background jobs ignore SIGINT, and so would their children: the test may run in one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    lines = [process.stdout.readline() for _ in range(4)]  # the third subtask: half way
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stderr.strip() == "interrupted", stderr
    assert not list(tmp_path.glob("*.part"))
    [path] = tmp_path.iterdir()  # the video; there is no result
    assert path.name == "episode-0.mp4" and f"saved {path} up to here" in stdout
    with av.open(str(path)) as film:  # whole, as far as it goes
        frames = sum(1 for _ in film.decode(video=0))
    assert frames >= float(lines[-1].split()[0]) * 10 - 1


def test_several_suites_and_planners_are_runs_of_their_own(tmp_path, capsys):
    arguments = ["evaluate", "--suite", "core", "memory", "--planner", "oracle", "none", "--episodes", "1"]
    arguments += ["--controller", "teacher", "--family", "press", "--workers", "0", "--out", str(tmp_path)]
    assert main(arguments) == 0
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["core-press-none", "core-press-oracle", "memory-press-none", "memory-press-oracle"]
    assert all((tmp_path / name / "summary.json").exists() for name in found)
    last = capsys.readouterr().out.splitlines()[-5:]
    assert sum("1/1" in line for line in last) == 4
