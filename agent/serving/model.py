"""What is served: a network, who plans for it, and what it wants to be shown."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.clock import SYNC
from agent.pair import Pair
from agent.planners import is_foreign_planner, open_planner
from agent.robots import OWN, RobotFormat, format_of, own_format, resize_with_pad
from agent.serving.question import Shown
from agent.serving.settings import Serving
from agent.sound import line
from backbone.errors import UserError
from backbone.observation import Observation
from highlevel.language_model import Dialect

PROTOCOL = 1  # of the keys beside openpi's
SMALL = 100e6  # parameters: so small a network gains little on several cores, and loses on busy ones
NEUTRAL = "the"  # a word that every network reads
LOG = logging.getLogger("steersman.serve")


class Served:
    """policy: the network's (`agent.levels`). planner: "learned", "none" or a planner apart.

    UserError in one line where the checkpoint cannot be had, or does not fit the robot or the planner.
    """

    def __init__(self, serving: Serving):
        import torch

        from backbone import checkpoint

        self.serving = serving
        named = None if serving.robot == OWN else format_of(serving.robot)
        self.policy = self._loaded(checkpoint, named)
        network = self.policy.network
        small = sum(p.numel() for p in network.parameters()) < SMALL
        if serving.cores is not None or (serving.device == "cpu" and small):
            torch.set_num_threads(serving.cores or 1)
        self.planner = serving.planner
        if is_foreign_planner(serving.planner):
            self.planner = open_planner(serving.planner, self._dialect(), serving.device)
        self.apart = not isinstance(self.planner, str)
        self.pair()  # tells at once that there is no such planner
        reader = getattr(self.policy, "reader", None)
        sizes = {name: config.image_size for name, config in network.preset.cameras}
        if reader is None:
            self.cameras = {name: (size, size) for name, size in sizes.items()}
            self.state_dim, needed = network.preset.state_dim, set(self.cameras)
        else:
            self.cameras = {theirs: (sizes[ours],) * 2 for ours, theirs in reader.cameras.items()}
            self.state_dim, needed = reader.state_dim, set()
        own = self.cameras, self.state_dim, self.policy.action_dim
        self.format = named or own_format(*own)
        self._fits = reader is None  # whether pictures are fitted here, or by the reader as it was trained
        self._check(needed)
        if any(config.frames > 1 for _, config in network.preset.cameras):
            LOG.warning("this checkpoint can look back; over the protocol it sees the present alone")
        about = checkpoint.about(serving.checkpoint)
        self.metadata = about.get("policy_metadata", {}) | {"steersman": self._about(checkpoint)}

    def pair(self) -> Pair:
        """The two levels for one session."""
        return Pair(self.policy, self.planner, None, SYNC)

    def observe(self, message: Mapping) -> Shown:
        """What a client shows, fitted to what the network wants, and for a planner apart in squares as large
        as they came; None where it shows nothing. UserError where it does not fit.
        """
        if not self.format.shows(message):
            return None, None
        seen = self.format.observation(message)
        images = {name: image for name, image in seen.images.items() if name in self.cameras}
        if self._fits:
            images = {name: np.array(resize_with_pad(i, *self.cameras[name])) for name, i in images.items()}
        found = Observation(images, seen.state, seen.instruction)
        self.policy.check(found)
        if not self.apart:
            return found, None
        sides = {name: (max(image.shape[:2]),) * 2 for name, image in seen.images.items()}
        squares = {name: np.array(resize_with_pad(seen.images[name], *side)) for name, side in sides.items()}
        return found, replace(found, images=squares)  # where a plan points is the same place in both

    @functools.lru_cache(maxsize=512)  # noqa: B019 (there is one of these, as long as the process)
    def check_prompt(self, prompt: str) -> None:
        """UserError where nobody here can read it."""
        self.pair().check(prompt)

    def warm_up(self) -> None:
        """Compile, record and make room for passes of every size, so that no client waits for it."""
        self.policy.prepare(self.serving.prepare)
        images = {name: np.zeros((*size, 3), np.uint8) for name, size in self.cameras.items()}
        seen = Observation(images, np.zeros(self.state_dim, np.float32), NEUTRAL)
        sizes = sorted({self.rows(size) for size in range(1, self.serving.batch + 1)})
        if self.serving.prepare == "eager":
            sizes = [1]
        what = "step" if self.pair().joint else "act"
        for size in sizes:
            for _ in range(2):  # the second one finds what the first one made
                ask = self.policy.ask(what, seen, subtask=NEUTRAL, generator=self.policy.noise(0))
                (made,) = ask.together([ask], size)
        chunk = made[1] if what == "step" else made
        if chunk.actions.shape[1] != self.policy.action_dim:
            expected = f"actions of {self.policy.action_dim} numbers, it makes {chunk.actions.shape}"
            raise UserError(f"checkpoint {self.serving.checkpoint}: expected {expected}")

    def rows(self, asked: int) -> int:
        """Of a pass with so many questions: more where each number of rows has to be compiled or recorded."""
        if self.serving.prepare == "eager":
            return asked
        return min(1 << (asked - 1).bit_length(), max(asked, self.serving.batch))

    def _loaded(self, checkpoint, robot: RobotFormat | None):
        import torch

        from agent.policy import Policy
        from agent.prompted import PromptedPolicy

        s, device = self.serving, _device(self.serving.device)
        preset = checkpoint.preset(s.checkpoint)
        if preset.vocabulary:
            if s.cameras or s.dtype != "float32":
                what = "cameras" if s.cameras else "dtype"
                raise UserError(f"{what}: expected a checkpoint of the π family, got '{preset.name}'")
            return Policy.from_pretrained(s.checkpoint, device)
        cameras = s.cameras or checkpoint.about(s.checkpoint).get("cameras")
        names, shown = [name for name, _ in preset.cameras], [*(robot.cameras if robot else {}).values()]
        if shown and not cameras and not set(names) & set(shown):
            cameras = dict(zip(names, shown, strict=False))
            told = ", ".join(f"{ours}: {theirs}" for ours, theirs in cameras.items())
            LOG.info("cameras, in their order: %s", told)
        how = {"dtype": getattr(torch, s.dtype), "cameras": cameras}
        return PromptedPolicy.from_pretrained(s.checkpoint, device, **how)

    def _dialect(self) -> Dialect:
        """What a language model is told of the controller: how the tabletop's subtasks are worded, where the
        network has words of its own, which are that world's.
        """
        if self.policy.network.preset.vocabulary:
            from agent.evaluation.planners import spoken

            return spoken()
        return Dialect(camera=None)

    def _check(self, needed: set[str]) -> None:
        robot, shown = self.serving.robot, {*self.format.cameras.values(), *self.format.optional.values()}
        lacking = sorted(needed - set(self.format.cameras.values()))
        if lacking or not shown & set(self.cameras):
            wants, has = ", ".join(sorted(needed or self.cameras)), ", ".join(sorted(shown))
            raise UserError(f"robot: expected one with the checkpoint's cameras {wants}, '{robot}' has {has}")
        for what, wants, has in (
            ("state", self.state_dim, self.format.state_dim),
            ("action", self.policy.action_dim, self.format.action_dim),
        ):
            if wants != has:
                expected = f"one with the checkpoint's {wants} numbers in a {what}"
                raise UserError(f"robot: expected {expected}, '{robot}' has {has}")

    def _about(self, checkpoint) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "name": Path(self.serving.checkpoint).name,
            "robot": self.serving.robot,
            "planner": self.planner != "none",
            "horizon": self.policy.horizon,
            "action_dim": self.policy.action_dim,
            "state_dim": self.state_dim,
            "cameras": {name: list(size) for name, size in self.cameras.items()},
            "rate": self.serving.rate,
            "identity": identity(checkpoint.find(self.serving.checkpoint)),
        }


def identity(directory: Path) -> str:
    """sha256 of a checkpoint's weights, as far as 64 characters of hex tell."""
    found = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                found.update(block)
    return found.hexdigest()


def load(serving: Serving, say: Callable[[str], None]) -> Served:
    """All of it, ready to answer. UserError in one line for whatever is in the way."""
    say(f"loading {serving.checkpoint}")
    try:
        served = Served(serving)
        say(
            "warming up"
            if serving.prepare == "eager"
            else f"warming up ({serving.prepare}; this can take minutes)"
        )
        served.warm_up()
    except UserError:
        raise
    except Exception as error:  # torch and drivers have many types for what is missing
        raise UserError(f"checkpoint {serving.checkpoint}: it does not run here ({line(error)})") from error
    return served


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device: expected one that is here, got '{name}' ({reason})") from None
    return name
