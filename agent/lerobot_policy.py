"""A policy that LeRobot saved (0.4 or later), as a controller: its own factory, weights and processors.

LeRobot is not among our dependencies: who has such a policy has it. What is settled here is how our
observations become its features, and that a policy which keeps a past is asked at every tick.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from agent.robots import resize_with_pad
from backbone import checkpoint
from backbone.errors import PolicyError, UserError
from backbone.observation import Observation
from lowlevel.controller import ActionChunk

CAMERAS = {"image": "front", "image2": "wrist"}  # LeRobot's names in LIBERO -> ours
EMPTY = "empty_camera"  # a feature of this name is filled by the policy itself
# These read in predict_action_chunk what only select_action puts by, or have no chunk.
ONE_BY_ONE = ("diffusion", "vqbet", "tdmpc", "sac")
STATE, ACTION = "observation.state", "action"


class LeRobotController:
    """A `Controller` from a directory (or hub id) with LeRobot's config.json, model.safetensors and
    policy_preprocessor.json. UserError, in one line, where it cannot be loaded.

    A policy that sees one moment gives its whole chunk at a look. One that keeps a past, or blends its
    chunks, gives one action at a look, so that the loop looks at every tick, as LeRobot's own evaluation
    does; then it is the policy's `n_action_steps` that says how long a chunk is followed.

    Pictures go to the features of their names, of LIBERO's names (`CAMERAS`), else in order; they are fitted
    to the size that the policy was trained with. The subtask is its task. A seed gives the same actions.
    """

    def __init__(self, path: str | Path, device: str = "cpu"):
        self.path, self.device = str(path), torch.device(device)
        self.policy, self._before, self._after = _load(self.path, self.device)
        config = self.policy.config
        inputs = config.input_features or {}
        self.pictures = {  # feature -> (height, width)
            name: tuple(feature.shape[-2:])
            for name, feature in config.image_features.items()
            if EMPTY not in name
        }
        strange = [name for name in inputs if name not in config.image_features and name != STATE]
        if strange:
            raise UserError(f"lerobot policy: expected features of pictures and state, got '{strange[0]}'")
        if config.action_feature is None:
            raise UserError(f"lerobot policy: expected a feature '{ACTION}', {self.path} has none")
        self.state_dim = inputs[STATE].shape[0] if STATE in inputs else None
        self.action_dim = config.action_feature.shape[0]
        blends = getattr(config, "temporal_ensemble_coeff", None) is not None
        self.one_by_one = config.type in ONE_BY_ONE or config.n_obs_steps > 1 or blends
        self.reset()

    @property
    def identity(self) -> str:
        return identity(self.path)

    def reset(self, seed: int = 0) -> None:
        """A new episode: its queues are emptied, its noise begins anew."""
        self.policy.reset()
        self._seed, self._looks = seed, 0

    def check(self, observation: Observation) -> None:
        """UserError unless the observation has what the policy was trained to see."""
        seen = observation.now()
        cameras = match(list(self.pictures), list(seen.images)).values()
        shapes = {camera: np.shape(seen.images[camera])[:2] for camera in cameras}
        seen.check(shapes, np.size(seen.state) if self.state_dim is None else self.state_dim)

    @torch.inference_mode()
    def act(self, observation: Observation, subtask: str, committed: np.ndarray | None = None) -> ActionChunk:
        """(H, action_dim) for the subtask as task; H is 1 where the policy gives one action at a time."""
        if committed is not None and len(committed):
            raise UserError("committed actions: expected none, LeRobot's chunks are not continued here")
        start = time.perf_counter()
        self.check(observation)
        cuda = self.device.type == "cuda"
        half = torch.autocast(self.device.type, enabled=cuda and self.policy.config.use_amp)
        with torch.random.fork_rng([self.device] if cuda else []), half:
            torch.manual_seed(int(np.random.SeedSequence([self._seed, self._looks]).generate_state(1)[0]))
            drawn = self._drawn(self._before(self._batch(observation.now(), subtask)))
            rows = [self._after(drawn[:, i]) for i in range(drawn.shape[1])]
        self._looks += 1
        actions = torch.cat(rows).float().cpu().numpy()
        if actions.ndim != 2 or actions.shape[1] != self.action_dim or not np.isfinite(actions).all():
            got = "some that are not" if actions.shape[1:] == (self.action_dim,) else f"shape {actions.shape}"
            raise PolicyError(f"{self.path}: expected finite actions (H, {self.action_dim}), got {got}")
        return ActionChunk(actions, subtask, seconds=time.perf_counter() - start)

    def _drawn(self, batch: dict) -> torch.Tensor:
        """(1, H, D) as the network has them."""
        if not self.one_by_one:
            try:
                return self.policy.predict_action_chunk(batch)
            except NotImplementedError:
                self.one_by_one = True
        return self.policy.select_action(batch)[:, None]

    def _batch(self, seen: Observation, task: str) -> dict:
        """LeRobot's names: pictures (1, 3, H, W) from 0 to 1, state (1, D)."""
        batch: dict = {"task": task}
        for feature, camera in match(list(self.pictures), list(seen.images)).items():
            fitted = resize_with_pad(np.asarray(seen.images[camera]), *self.pictures[feature])
            picture = torch.tensor(fitted, device=self.device).permute(2, 0, 1)[None]
            batch[feature] = picture.float() / 255
        if self.state_dim is not None:
            state = np.asarray(seen.state, np.float32)
            batch[STATE] = torch.tensor(state, device=self.device)[None]
        return batch


def match(features: Sequence[str], cameras: Sequence[str]) -> dict[str, str]:
    """Which camera each picture of a policy is: by its name, by LIBERO's, the rest in order. UserError where
    there is not one camera for each.
    """
    found, rest = {}, []
    for feature in features:
        name = feature.rpartition(".")[2]
        camera = name if name in cameras else CAMERAS.get(name)
        if camera in cameras and camera not in found.values():
            found[feature] = camera
        else:
            rest.append(feature)
    free = [camera for camera in cameras if camera not in found.values()]
    if rest and len(rest) != len(free):
        raise UserError(
            f"lerobot policy: expected a camera for each of {', '.join(features) or 'none'}, "
            f"got {', '.join(cameras) or 'none'}"
        )
    in_order = dict(zip(rest, free, strict=True)) if rest else {}
    return {feature: (found | in_order)[feature] for feature in features}


def identity(path: str | Path) -> str:
    """LeRobot's version (it has changed what a policy is shown), and the sha256 of what it reads."""
    directory, found = checkpoint.find(path), hashlib.sha256()
    files = sorted(
        [*directory.glob("*.safetensors"), *directory.glob("policy_*.json"), directory / "config.json"]
    )
    for file in files:
        if not file.is_file():
            raise UserError(f"lerobot policy: expected a file {file.name} in {directory}, found none")
        found.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                found.update(block)
    try:
        of = version("lerobot")
    except PackageNotFoundError:
        of = "absent"
    return f"lerobot {of}, {found.hexdigest()}"


def _load(path: str, device: torch.device):
    """The policy and its processors, before and after."""
    try:
        import lerobot  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("lerobot policy: expected the package lerobot (0.4 or later), found none") from None
    try:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors
        from lerobot.utils.import_utils import register_third_party_plugins
    except Exception as error:  # too old, or something of its own is missing or does not fit
        raise UserError(
            f"lerobot policy: expected a lerobot (0.4 or later) that imports, {_line(error)}"
        ) from None
    directory = checkpoint.find(path)
    for name in ("config.json", "model.safetensors", "policy_preprocessor.json", "policy_postprocessor.json"):
        if not (directory / name).is_file():
            raise UserError(f"lerobot policy: expected a file {name} in {directory}, found none")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints as it loads
            register_third_party_plugins()
            config = PreTrainedConfig.from_pretrained(directory)
            config.device = str(device)
            kind = get_policy_class(config.type)
            policy = kind.from_pretrained(directory, config=config, strict=True)
            before, after = make_pre_post_processors(
                config,
                pretrained_path=str(directory),
                preprocessor_overrides={"device_processor": {"device": str(device)}},
            )
    except Exception as error:  # whatever a foreign package finds wrong with a file
        raise UserError(f"lerobot policy: expected one that loads, {directory}: {_line(error)}") from error
    return policy.eval(), before, after


def _line(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"got {type(error).__name__}: {words[:300]}"
