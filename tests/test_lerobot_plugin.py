"""The simulated robot under LeRobot's own tools. Skips itself without: the interpreter that has lerobot and
the plug-in of plugins/lerobot_robot_steersman is this one or that of STEERSMAN_LEROBOT_PYTHON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

ROOT = Path(__file__).parents[1]
HERE = all(importlib.util.find_spec(name) for name in ("lerobot", "lerobot_robot_steersman"))
PYTHON = os.environ.get("STEERSMAN_LEROBOT_PYTHON") or (sys.executable if HERE else None)
pytestmark = pytest.mark.skipif(PYTHON is None, reason="needs lerobot and our plug-in of it")

DRIVE = """
import json
import numpy as np
from envs.hardware import Hardware
from envs.robots.config import parse, read_config
import dataclasses
config = dataclasses.replace(read_config("sim", {"seed": 1003}), robot="steersman")
with Hardware(config) as world:
    before = world.look()
    for _ in range(10):
        world.step(np.array([0.5, 0, 0, 0, 0, 0, -1]))
        import time; time.sleep(0.05)
    after = world.look()
print(json.dumps({"moved": float(after["agent_pos"][0] - before["agent_pos"][0]), "kind": str(world.robot)}))
"""


def lerobot(*arguments: str, tmp_path: Path) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    ran = subprocess.run([PYTHON, *arguments], capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


def test_our_hardware_drives_a_type_of_lerobots(tmp_path):
    told = json.loads(lerobot("-c", DRIVE, tmp_path=tmp_path).splitlines()[-1])
    assert told["moved"] > 0.05 and "Steersman" in told["kind"]


def test_lerobot_records_our_robot_and_reads_it_again(tmp_path):
    data = tmp_path / "data"
    lerobot(
        "-m", "lerobot.scripts.lerobot_record",
        "--robot.type=steersman", "--robot.family=press", "--robot.seed=2", "--robot.renew_s=0.2",
        "--teleop.type=steersman_teacher",
        "--dataset.repo_id=me/pressed", f"--dataset.root={data}", "--dataset.single_task=press the buttons",
        "--dataset.fps=20", "--dataset.num_episodes=2", "--dataset.episode_time_s=2",
        "--dataset.reset_time_s=0.5", "--dataset.vcodec=h264", "--dataset.push_to_hub=false",
        "--play_sounds=false",
        tmp_path=tmp_path,
    )  # fmt: skip
    info = json.loads((data / "meta/info.json").read_text())
    assert info["total_episodes"] == 2 and info["robot_type"] == "steersman" and info["total_frames"] > 40
    with av.open(str(next((data / "videos/observation.images.front").rglob("*.mp4")))) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == info["total_frames"] and frames[0].shape == (128, 128, 3) and frames[0].std() > 10
    read = (
        "from lerobot.datasets.lerobot_dataset import LeRobotDataset as D;"
        f"d = D('me/pressed', root={str(data)!r}); f = d.hf_dataset[30];"
        "print(tuple(f['observation.state'].shape), tuple(f['action'].shape), list(d.meta.tasks.index),"
        "bool(__import__('torch').stack([d.hf_dataset[i]['action'] for i in range(40)]).std(0).max() > 0.05))"
    )
    out = lerobot("-c", read, tmp_path=tmp_path).splitlines()[-1]
    assert out == "(8,) (7,) ['press the buttons'] True"
