"""LeRobot v3 datasets of others and our own: several episodes in a file, videos to the frame, errors."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_dataset import fake_episode

from backbone.errors import UserError
from training.dataset import DatasetWriter
from training.episodes import decode_png, encode_png
from training.lerobot import LeRobotDataset

FPS, LENGTHS = 10, (7, 12, 9)


def marked(number: int, size: int = 64) -> np.ndarray:
    """A picture that says its number in a way that survives a video codec."""
    image = np.zeros((size, size, 3), np.uint8)
    for bit in range(8):
        y, x = bit // 4 * size // 2, bit % 4 * size // 4
        image[y : y + size // 2, x : x + size // 4] = 255 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    half, quarter = image.shape[0] // 2, image.shape[1] // 4
    cells = image.reshape(2, half, 4, quarter, 3).mean((1, 3, 4)).ravel()
    return sum(int(cell > 127) << bit for bit, cell in enumerate(cells))


def write_set(root: Path, video: bool = False, **more) -> Path:
    """Three episodes, two of them in one file, as LeRobot writes them; more: columns by name."""
    total, kind = sum(LENGTHS), "video" if video else "image"
    episode = np.repeat(np.arange(3), LENGTHS)
    frame = np.concatenate([np.arange(n) for n in LENGTHS])
    state = np.stack([np.arange(total), -np.arange(total)], 1).astype(np.float32)
    columns = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), 2),
        "action": pa.array([row.tolist() for row in state / 100], pa.list_(pa.float32())),
        "timestamp": pa.array((frame / FPS).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(episode),
        "index": pa.array(np.arange(total)),
        "task_index": pa.array(episode % 2),
    } | {name: pa.array(list(values)) for name, values in more.items()}
    if not video:
        pictures = [{"bytes": encode_png(marked(n)), "path": None} for n in range(total)]
        columns["observation.images.top"] = pa.array(pictures)
    table, cut = pa.table(columns), sum(LENGTHS[:2])
    (root / "data/chunk-000").mkdir(parents=True)
    pq.write_table(table[:cut], root / "data/chunk-000/file-000.parquet", row_group_size=5)
    pq.write_table(table[cut:], root / "data/chunk-000/file-001.parquet")
    rows = []
    for n, length in enumerate(LENGTHS):
        key, start = "videos/observation.images.top", sum(LENGTHS[:n]) % cut
        row = {"episode_index": n, "length": length, "data/chunk_index": 0, "data/file_index": n // 2}
        row |= {f"{key}/chunk_index": 0, f"{key}/file_index": n // 2, f"{key}/from_timestamp": start / FPS}
        rows.append(row)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["wipe the table", "fold the towel"]})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    features = {name: {"dtype": "float32", "shape": [1]} for name in columns}
    features["observation.images.top"] = {"dtype": kind, "shape": [64, 64, 3]}
    info = {"codebase_version": "v3.0", "fps": FPS, "features": features}
    info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    (root / "meta/info.json").write_text(json.dumps(info))
    if video:
        for file, (first, last) in enumerate(((0, cut), (cut, total))):
            path = root / f"videos/observation.images.top/chunk-000/file-{file:03d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, [marked(n) for n in range(first, last)])
    return root


def write_video(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "8", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("video", [False, True])
def test_every_frame_is_the_right_one(tmp_path, video):
    dataset = LeRobotDataset(write_set(tmp_path, video))
    total = sum(LENGTHS)
    assert len(dataset) == total and dataset.cameras == ("top",) and dataset.fps == FPS
    assert dataset.first.tolist() == [0, 7, 19, 28] and dataset.rows(18) == (7, 19)
    assert np.array_equal(dataset.state[:, 0], np.arange(total)) and dataset.action.shape == (total, 2)
    assert [dataset.task[k] for k in (0, 7, 20)] == ["wipe the table", "fold the towel", "wipe the table"]
    for row in np.random.default_rng(0).permutation(total):  # jumps to and fro
        assert number_of(dataset.images("top", [row])[0]) == row
    assert [number_of(i) for i in dataset.images("top", [18, 7, 7, 12])] == [18, 7, 7, 12]
    if video:
        dataset.timestamp[3] += 0.05
        with pytest.raises(UserError, match=r"expected a frame at 0.3500 s"):
            dataset.images("top", [3])


def test_what_else_a_dataset_may_know(tmp_path):
    total = sum(LENGTHS)
    said = [{"style": "subtask", "content": c, "timestamp": t} for c, t in (("reach", 0.0), ("wipe", 0.4))]
    more = {"memory": ["none"] * total, "speed": [30.0] * total, "language_persistent": [said] * total}
    dataset = LeRobotDataset(write_set(tmp_path, **more))
    assert [dataset.subtask[k] for k in (0, 3, 4, 6, 7)] == ["reach", "reach", "wipe", "wipe", "reach"]
    assert dataset.memory[3] == "none" and dataset.metadata["speed"][0] == 30
    assert dataset.driver is None and dataset.target is None


def test_lerobots_own_copies_are_found_by_name(tmp_path, monkeypatch):
    write_set(tmp_path / "somebody/wiping")
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    dataset = LeRobotDataset("somebody/wiping")
    assert (dataset.name, len(dataset)) == ("wiping", sum(LENGTHS))
    with pytest.raises(UserError, match="expected a LeRobot v3 dataset in nowhere, found no"):
        LeRobotDataset("nowhere")


def test_our_own_datasets_read_the_same(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        for seed in range(3):
            writer.add(fake_episode(seed))
    dataset, want = LeRobotDataset(tmp_path), fake_episode(2)
    assert dataset.cameras == ("front", "wrist") and dataset.first.tolist() == [0, 12, 24, 36]
    for step in (0, 11):
        row = 24 + step
        assert np.array_equal(dataset.images("wrist", [row])[0], decode_png(want.images["wrist"][step]))
        assert (dataset.task[row], dataset.subtask[row]) == (want.instruction[step], want.subtask[step])
        assert dataset.memory[row] == "nothing" and dataset.driver[row] == want.driver[step]
        assert np.array_equal(dataset.target[row], want.target[step])
        assert np.array_equal(dataset.action[row], want.action[step])


def test_what_cannot_be_read_is_told_in_one_line(tmp_path):
    root = write_set(tmp_path / "set")
    info = json.loads((root / "meta/info.json").read_text())

    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words) as error:
            LeRobotDataset(root)
        assert "\n" not in str(error.value)

    (root / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    refused("expected LeRobot v3.0 in .*, got v2.1")
    (root / "meta/info.json").write_text("{}")
    refused("does not describe a dataset")
    (root / "meta/info.json").write_text(json.dumps(info))
    file = root / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(["timestamp"]), file)
    refused("expected a column 'timestamp' in .*file-001.parquet")
    pq.write_table(table.set_column(6, "task_index", pa.array([5] * len(table))), file)
    refused("expected a text for task_index 5")
    file.write_bytes(b"half a file")
    refused("file-001.parquet cannot be read")
    file.unlink()
    refused("file-001.parquet cannot be read")
    (root / "meta/info.json").unlink()
    refused("expected a LeRobot v3 dataset in .*, found no")
