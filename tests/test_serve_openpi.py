"""The public openpi client, unmodified and in an environment of its own (its numpy is older), on our server.

It runs where STEERSMAN_OPENPI_PYTHON names a Python that has the package `openpi-client`.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_serve import page, pytestmark, seen  # noqa: F401

from agent.robots import resize_with_pad
from agent.serving import Background, Serving
from agent.wire import pack, unpack

PYTHON = os.environ.get("STEERSMAN_OPENPI_PYTHON", "")
CHILD = Path(__file__).with_name("openpi_child.py")
needs = pytest.mark.skipif(not PYTHON, reason="STEERSMAN_OPENPI_PYTHON names no Python with openpi-client")
SECRET = "correct-horse-battery"


class Client:
    """openpi's WebsocketClientPolicy, in a process of its own."""

    def __init__(self, port: int, key: str = ""):
        command = [PYTHON, str(CHILD), "127.0.0.1", str(port), *([key] if key else [])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        without = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self.process = subprocess.Popen(command, **pipes, env=without)

    def tell(self, message: dict) -> dict:
        frame = pack(message)
        self.process.stdin.write(struct.pack("<I", len(frame)) + frame)
        self.process.stdin.flush()
        (size,) = struct.unpack("<I", self.process.stdout.read(4))
        return unpack(self.process.stdout.read(size))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        self.process.stdout.close()


def shown(observation) -> dict:
    images, state = observation.images, observation.state
    pictures = {"observation/image": images["front"], "observation/wrist_image": images["wrist"]}
    return pictures | {"observation/state": state, "prompt": observation.instruction}


@needs
def test_the_public_client_gets_what_ours_gets(seen):  # noqa: F811
    with Background(Serving(port=0, keys=(SECRET,))) as server, Client(server.port, SECRET) as client:
        assert client.tell({"new": True})["steersman"]["protocol"] == 1
        replies = [client.tell({"ask": shown(observation)}) for observation in seen]
        policy, images = server.server.served.policy, []
        for observation in seen:
            fitted = {k: resize_with_pad(v, 224, 224) for k, v in observation.images.items()}
            images.append(
                {k: resize_with_pad(fitted[k], *v.shape[:2]) for k, v in observation.images.items()}
            )
        policy.reset(0)
        plan, memory = None, ""
        for reply, observation, pictures in zip(replies, seen, images, strict=True):
            here = type(observation)(pictures, observation.state, observation.instruction)
            plan, chunk = policy.step(here, memory, plan)
            memory = plan.memory
            assert np.abs(reply["actions"] - chunk.actions).max() < 1e-5
            assert reply["subtask"] == plan.text


@needs
def test_what_is_wrong_is_raised_there_and_another_client_works(seen):  # noqa: F811
    with Background(Serving(port=0)) as server, Client(server.port) as client:
        client.tell({"new": True})
        error = client.tell({"ask": shown(seen[0]) | {"observation/state": np.zeros(7)}})["error"]
        assert "Error in inference server" in error and "expected 8 numbers" in error
        client.tell({"new": True})
        assert client.tell({"ask": shown(seen[0])})["actions"].shape == (10, 7)
