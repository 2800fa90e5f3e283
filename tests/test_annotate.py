"""Labels for datasets without: what is written, that nothing else changes, and what a kill leaves."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labels import stripped
from test_dataset import fake_episode
from test_lerobot import LENGTHS, write_set

from backbone.errors import UserError
from steersman.cli import main
from training.annotate import writing
from training.annotate.columns import EVENTS, PERSISTENT
from training.annotate.journal import Journal
from training.annotate.segments import Segment, Subtasks, agreement, checked, gathered, texts
from training.dataset import DatasetReader, DatasetWriter
from training.lerobot import LeRobotDataset

ONE = (Segment(0, 3, "reach", "nothing"), Segment(3, 7, "wipe", "reached"))
OTHER = (Segment(0, 9, "wipe", "nothing"),)
LEROBOT = os.environ.get("STEERSMAN_LEROBOT_PYTHON") or (
    sys.executable if importlib.util.find_spec("lerobot") else ""
)


def recorded(root: Path, seeds: range) -> Path:
    with DatasetWriter(root) as writer:
        for seed in seeds:
            writer.add(fake_episode(seed))
    return root


def said(dataset: LeRobotDataset) -> list[tuple[str, str]]:
    none = [""] * len(dataset)
    subtask, memory = dataset.subtask or none, dataset.memory or none
    return [(subtask[row], memory[row]) for row in range(len(dataset))]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def rest(root: Path, labels: tuple[str, ...]) -> list[tuple[pa.Table, list[int]]]:
    """All columns but some, and the sizes of the row groups, by file."""
    found = []
    for path in sorted(root.glob("data/*/*.parquet")):
        file = pq.ParquetFile(path)
        table = file.read().drop_columns([n for n in file.schema_arrow.names if n in labels])
        found.append((table, [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]))
    return found


# -- segments


def test_segments_are_the_texts_of_frames_and_back():
    assert gathered(*texts(ONE)) == ONE
    assert checked([Segment(0, 2, "a", "m"), Segment(2, 4, "b")], 4)[1].memory == "m"
    assert checked([Segment(0, 4, "a")], 4)[0].memory == "nothing"
    for wrong in ([], [Segment(1, 4, "a")], [Segment(0, 3, "a")], [Segment(0, 2, "a"), Segment(3, 4, "b")],
                  [Segment(0, 4, "")], [Segment(0, 5, "a")]):  # fmt: skip
        with pytest.raises(UserError, match="^segments: expected "):
            checked(wrong, 4)


def test_of_a_list_the_subtask_that_is_meant_or_none():
    known = Subtasks(["pick up the red block", "pick up the blue block", "open the drawer"])
    assert known.meant(" Pick up  the RED block.") == "pick up the red block" == known.meant("1")
    assert known.meant("open the drawers") == "open the drawer" and known.meant("Done.") == "done"
    for words in ("close the drawer", "pick up the bled block", "", "x" * 400, "4"):
        with pytest.raises(UserError, match="^subtask: expected "):
            known.meant(words)
    assert Subtasks().meant("anything  at all") == "anything at all"


def test_agreement_counts_frames_and_changes():
    true = ["a"] * 10 + ["b"] * 10 + ["c"] * 10
    assert agreement(true, true) == {"frames": 1, "found": 1, "extra": 0, "error": 0}
    late = agreement(["a"] * 12 + ["b"] * 9 + ["x"] * 9, true)
    assert late["frames"] == pytest.approx(18 / 30) and late["found"] == 0.5 and late["error"] == 2
    assert late["extra"] == 0.5


# -- what is written


@pytest.mark.parametrize("video", [False, True])
def test_labels_are_added_and_nothing_else_changes(tmp_path, video):
    root = write_set(tmp_path / "set", video, speed=["20"] * sum(LENGTHS))
    before, kept = files(root), rest(root, ())
    assert writing.apply(root, {0: ONE, 2: OTHER}) == 2
    dataset = LeRobotDataset(root)
    wanted = [*zip(*texts(ONE), strict=True)] + [("", "")] * 12 + [*zip(*texts(OTHER), strict=True)]
    assert (
        said(dataset) == wanted and "" not in dataset.subtask.table and dataset.metadata["speed"][0] == "20"
    )
    for (old, groups), (new, others) in zip(kept, rest(root, ("subtask_index", "memory")), strict=True):
        assert new.equals(old) and groups == others
    changed = {name for name, data in files(root).items() if before.get(name) != data}
    assert changed == {
        "meta/info.json",
        "meta/subtasks.parquet",
        *(f"data/chunk-000/file-{k:03d}.parquet" for k in range(2)),
    }
    info = json.loads((root / "meta/info.json").read_text())
    assert {n: info["features"].pop(n)["dtype"] for n in ("subtask_index", "memory")} == {
        "subtask_index": "int64",
        "memory": "string",
    }
    assert info == json.loads(before["meta/info.json"])
    assert writing.apply(root, {0: ONE}) == 0, "it is all there"
    assert writing.apply(root, {1: [Segment(0, 12, "fold", "m")]}) == 1 and said(dataset) == wanted
    assert said(LeRobotDataset(root))[7:19] == [("fold", "m")] * 12


def test_both_forms_say_the_same_and_others_words_stay(tmp_path):
    plan = {
        "role": "assistant",
        "content": "a plan",
        "style": "plan",
        "timestamp": 0.0,
        "tool_calls": [{"name": "say"}],
    }
    old = plan | {"content": "grope", "style": "subtask"}
    root = write_set(tmp_path / "set", language_persistent=[[plan, old]] * sum(LENGTHS))
    writing.apply(root, {0: ONE, 1: [Segment(0, 12, "fold", "m")]})
    both = said(LeRobotDataset(root))
    assert both[0] == ("reach", "nothing") and both[-1] == ("grope", "")
    first = pq.read_table(root / "data/chunk-000/file-000.parquet")
    rows = first[PERSISTENT].to_pylist()
    assert rows[0] == rows[6] and rows[7] == rows[18] != rows[0]
    told = [(x["style"], x["content"], round(x["timestamp"], 4)) for x in rows[0]]
    changes = [("memory", "nothing", 0.0), ("plan", "a plan", 0.0), ("subtask", "reach", 0.0)]
    assert told == [*changes, ("memory", "reached", 0.3), ("subtask", "wipe", 0.3)]
    assert all((x["role"], x["camera"]) == ("assistant", None) for x in rows[0])
    calls = {x["style"]: x["tool_calls"] for x in rows[0]}
    assert calls == {"memory": None, "plan": ['{"name": "say"}'], "subtask": None}
    assert first[EVENTS].to_pylist() == [[]] * len(first)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    assert features[PERSISTENT] == features[EVENTS] == {"dtype": "language", "shape": [1], "names": None}
    for path in root.glob("data/*/*.parquet"):
        pq.write_table(pq.ParquetFile(path).read().drop_columns(["subtask_index", "memory"]), path)
    assert said(LeRobotDataset(root)) == both


def test_our_own_recordings_stay_ours(tmp_path):
    """Their files hold tables of their own, which meta/ is made from when more is recorded."""
    true = recorded(tmp_path / "true", range(3))
    root = shutil.copytree(true, tmp_path / "copy")
    kept = said(LeRobotDataset(root))
    length = DatasetReader(root).episodes[1]["length"]
    writing.apply(root, {1: [Segment(0, length, "dance", "m")]})
    reader = DatasetReader(root)
    assert reader.read(1, images=False).subtask == ["dance"] * length
    for number in (0, 2):
        assert reader.read(number, images=False).subtask == DatasetReader(true).read(number, False).subtask
    now = said(LeRobotDataset(root))
    recorded(root, range(3, 4))
    more = said(LeRobotDataset(root))
    assert more[: len(now)] == now and len(more) > len(now)
    assert [a == b for a, b in zip(now, kept, strict=True)].count(False) == length


# -- kills


def test_a_kill_between_two_renamings_is_mended(tmp_path, monkeypatch):
    root = write_set(tmp_path / "set")
    before = files(root)
    whole = shutil.copytree(root, tmp_path / "whole")
    writing.apply(whole, {0: ONE, 2: OTHER})
    for count in range(5):  # the list itself is the first
        left = [count]

        def replace(old, new, left=left, rename=os.rename):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            rename(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(writing.os, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                writing.apply(root, {0: ONE, 2: OTHER})
        if not count:
            assert said(LeRobotDataset(root)) == [("", "")] * sum(LENGTHS)
            writing.finish(root)
            assert files(root) == before
        else:
            with pytest.raises(UserError, match="half in place; steersman annotate ends that$"):
                LeRobotDataset(root)
            writing.finish(root)
            assert files(root) == files(whole)
            shutil.rmtree(root)
            write_set(root)


def test_a_full_disk_changes_nothing(tmp_path, monkeypatch):
    root = write_set(tmp_path / "set")
    before = files(root)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "_sync", full)
    with pytest.raises(UserError, match=r"cannot be written into .* \(No space left on device\)$"):
        writing.apply(root, {0: ONE})
    assert files(root) == before


def test_the_journal_outlives_a_kill_in_the_middle_of_a_line(tmp_path):
    root, lengths = write_set(tmp_path / "set"), dict(enumerate(LENGTHS))
    with Journal(root) as journal:
        journal.read(lengths)
        journal.add(0, ONE, "hand")
        with pytest.raises(UserError, match="another process annotates"):
            Journal(root)
        with pytest.raises(UserError, match="^segments: expected"):
            journal.add(1, ONE, "hand")
    with journal.path.open("a") as file:
        file.write('{"episode": 1, "segm')
    with Journal(root) as journal:
        journal.read(lengths)
        assert journal.labels == {0: ONE}
        journal.add(2, OTHER, "hand")
    with Journal(root) as journal:
        journal.read(lengths)
        assert journal.labels == {0: ONE, 2: OTHER}
    with Journal(root) as journal, pytest.raises(UserError, match="expected episodes of this dataset in"):
        journal.read({0: 7, 2: 8})


# -- whoever else reads them

READ = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
plain, spoken = sys.argv[1:]
try:
    from lerobot.datasets.language_render import active_at
except ImportError:
    data = LeRobotDataset("some/body", root=plain)
    said = [(data[k]["subtask"], data[k]["memory"]) for k in range(len(data))]
else:
    data, said = LeRobotDataset("some/body", root=spoken), []
    for k in range(len(data)):
        time, rows = float(data[k]["timestamp"]), data[k]["language_persistent"]
        found = [active_at(time, persistent=rows, style=style) for style in ("subtask", "memory")]
        said.append([row["content"] if row else "" for row in found])
print(json.dumps(said))
"""


@pytest.mark.skipif(not LEROBOT, reason="needs LeRobot: STEERSMAN_LEROBOT_PYTHON names a Python that has it")
def test_lerobot_reads_the_same(tmp_path):
    """Of 0.4 the plain columns, of later ones their own."""
    true = recorded(tmp_path / "true", range(3))
    bare = stripped(true, tmp_path / "bare")
    there = writing.known_labels(true)
    labels = {number: gathered(*there[number]) for number in (0, 2)}
    writing.apply(bare, labels)
    spoken = shutil.copytree(bare, tmp_path / "spoken")
    writing.apply(spoken, {}, language=True)
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [LEROBOT, "-c", READ, bare, spoken], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read = [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])]
    assert read == said(LeRobotDataset(bare)) and ("", "") in read


# -- copies and mistakes


def lines(monkeypatch, tmp_path, text: str) -> None:
    (tmp_path / "lines").write_text(text)
    monkeypatch.setattr(sys, "stdin", (tmp_path / "lines").open())


def test_a_copy_is_labelled_and_the_dataset_is_not(tmp_path, monkeypatch, capsys):
    root, out = write_set(tmp_path / "set", video=True), tmp_path / "out"
    before = files(root)
    for text in ("0-end reach\n", "0-0.5 fold\n0.5-end lay it down | it is folded\n"):
        lines(monkeypatch, tmp_path, text)
        assert main(["annotate", str(root), "--out", str(out)]) == 0
    assert "2 of 3 episodes labelled, 1 files new\nwithout labels: 2\n" in capsys.readouterr().out
    assert files(root) == before
    dataset = LeRobotDataset(out)
    assert said(dataset)[6:8] == [("reach", "nothing"), ("fold", "nothing")]
    assert said(dataset)[12] == ("lay it down", "it is folded")
    assert np.array_equal(dataset.images("top", [20])[0], LeRobotDataset(root).images("top", [20])[0])
    other = write_set(tmp_path / "other")
    (other / "meta/info.json").write_text(json.dumps(json.loads(before["meta/info.json"]) | {"fps": 9}))
    assert main(["annotate", str(root), "--out", str(other)]) == 2
    assert "expected a new folder or a copy of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--by", "gpt"), "by: expected hand, vlm:NAME or openai:MODEL@BASE_URL, got 'gpt'"),
        (("--cameras", "left"), "cameras: expected some of top, got 'left'"),
        (("--episodes", "7"), "episodes: expected some of 0 to 2, got 7"),
        (("--subtasks", "nowhere.txt"), "subtasks: expected a file or a subtask, found no file nowhere.txt"),
        (("--by", "openai:gpt@http://localhost:1/v1", "--tries", "0"), "tries: expected at least 1, got 0"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, more, words):
    root = write_set(tmp_path / "set")
    before = files(root)
    assert main(["annotate", str(root), *more]) == 2 and files(root) == before
    assert capsys.readouterr().err == f"error: {words}\n"


def test_what_is_no_dataset_of_ours_to_change(tmp_path, capsys):
    assert main(["annotate", str(tmp_path / "nothing")]) == 2
    assert "expected a LeRobot v3 dataset in" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
    root = write_set(tmp_path / "set")
    info = root / "meta/info.json"
    info.rename(tmp_path / "blob")
    info.symlink_to(tmp_path / "blob")
    assert main(["annotate", str(root)]) == 2
    assert "out: expected one, for" in capsys.readouterr().err
    info.unlink()
    info.write_text(json.dumps(json.loads((tmp_path / "blob").read_text()) | {"codebase_version": "v2.1"}))
    assert main(["annotate", str(root)]) == 2
    assert "expected LeRobot v3.0 in" in capsys.readouterr().err
