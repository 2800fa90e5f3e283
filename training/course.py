"""What a run trains: a network, batches of what it should do, and how it is kept. The loop knows no more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from backbone.errors import UserError
from backbone.network import Network
from training.batches import Sampler
from training.cache import Cache
from training.config import Config
from training.start import new_network

HELD_OUT_SIZE = 64


class Course(Protocol):
    """vocabulary: says whether a saved run has the same ids. shown: names of metrics -> how the progress line
    calls them. samples: of a step, in each process. learning_rate: its peak. held_out: whether there are
    episodes that training does not see. unused: whether a step may leave parameters without a gradient.
    """

    network: Network
    vocabulary: str
    shown: Mapping[str, str]
    samples: int
    learning_rate: float
    held_out: bool
    unused: bool

    def batches(self, step: int) -> tuple[Any, ...]:
        """Those of a step: a pure function of seed, process and step."""

    def held_out_batches(self, k: int) -> tuple[Any, ...]:
        """The k-th of those that training does not see."""

    def losses(self, network: nn.Module, *batches: Any) -> dict[str, Any]:
        """`network`, perhaps wrapped, on batches on its device: losses and metrics by name."""

    def loss(self, out: Mapping[str, Any]) -> Tensor:
        """The one number to make small."""

    def loaded(self) -> None:
        """Called when a saved run's state has been put into the network."""

    def save(self, out: Path, about: dict[str, Any]) -> None:
        """The network as a checkpoint."""

    def summary(self) -> str:
        """The data in a line, for people."""


def weighted(network: Network, out: Mapping[str, Any], levels: Mapping[str, float], config: Config) -> Tensor:
    """The network's own weighting of its losses times the run's weighting of the levels."""
    weights = network.preset.loss_weights.items()
    return sum(out[n] * w * levels.get(n, config.planner_weight) for n, w in weights if n in out)


class NanoCourse:
    """nano and networks like it: a planner's batch and a controller's, from the training cache."""

    shown = {"text_loss": "text", "text_accuracy": "right", "point_error_px": "pixels", "flow_loss": "flow"}

    def __init__(self, config: Config, process: int, touch: bool):
        self.config = config
        self.cache = cache = Cache(config.cache, config.max_frames, touch, config.datasets)
        self.network, self.tokenizer = new_network(config, cache)
        layout = self.network.layout
        self.planner_batch = config.planner_batch * (config.planner_weight > 0 and layout.writes_plans)
        self.controller_batch = config.controller_batch * (config.controller_weight > 0)
        if not self.planner_batch and not self.controller_batch:
            raise UserError("train: expected a --controller-weight above 0 for a network without a planner")
        self.unused = not (self.planner_batch and self.controller_batch)
        names = ("near_boost", "far_boost", "agent_boost", "person_boost")
        boosts = {name: getattr(config, name) for name in names}
        delay = self.network.preset.trained_delay
        self.sampler = Sampler(
            cache, self.tokenizer, config.seed, process, config.jitter, layout=layout, delay=delay, **boosts
        )
        self._held_out: Sampler | None = None
        self.held_out = bool(cache.held_out.any())
        if self.held_out:
            self._held_out = Sampler(cache, self.tokenizer, config.seed, 0, held_out=True, layout=layout)
        self.vocabulary, self.samples = self.tokenizer.fingerprint, self.planner_batch + self.controller_batch
        self.learning_rate = config.learning_rate or 1e-3

    def batches(self, step: int) -> tuple[dict | None, dict | None]:
        planner = self.sampler.planner(step, self.planner_batch) if self.planner_batch else None
        controller = self.sampler.controller(step, self.controller_batch) if self.controller_batch else None
        return planner, controller

    def held_out_batches(self, k: int) -> tuple[dict | None, dict | None]:
        planner = self._held_out.planner(k, HELD_OUT_SIZE) if self.planner_batch else None
        controller = self._held_out.controller(k, HELD_OUT_SIZE) if self.controller_batch else None
        return planner, controller

    def losses(self, network: nn.Module, planner: dict | None, controller: dict | None) -> dict[str, Tensor]:
        return network(planner, controller, self.config.flow_samples)

    def loss(self, out: Mapping[str, Tensor]) -> Tensor:
        return weighted(self.network, out, {"flow_loss": self.config.controller_weight}, self.config)

    def loaded(self) -> None:
        pass  # batches hold what was recorded; the network normalises

    def save(self, out: Path, about: dict[str, Any]) -> None:
        from backbone import checkpoint

        checkpoint.save(out, self.network, self.tokenizer, about=about)

    def summary(self) -> str:
        return self.cache.summary()
