"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backbone.errors import UserError
from training.batches import Jitter


@dataclass(frozen=True)
class Config:
    """A training run. Give `minutes` or `steps` (whichever is over first ends it).

    Args:
        cache: the training cache, built by `python -m training.cache`.
        out: where the run lives; a run that is there already is resumed.
        preset: the network, by name: nano (also without a word), or nano_flat (no planner: the instruction in
            the subtask's place).
        init: a checkpoint to start from (a directory or name) instead of random weights; one of another
            preset gives the weights that both have.
        minutes: training time, all sessions of this run together.
        steps: optimiser steps.
        until: stop after so many of the minutes; the schedule is that of all of them, and the run can go on.
        planner_batch: samples of a planner's batch, in each process.
        controller_batch: samples of a controller's batch, in each process.
        planner_weight: of the text and point losses; 0 leaves the planner out.
        controller_weight: of the flow loss; 0 leaves the controller out.
        flow_samples: noisy chunks on one prefix.
        schedule: "stable" falls in the last quarter, "cosine" over the whole run.
        precision: "bf16" for autocast, "no" for float32.
        save_minutes: between two states on disk.
        validate_minutes: between two looks at the held-out episodes.
        evaluate_minutes: between two closed-loop evaluations in a process beside; 0 for none.
        evaluate_episodes: episodes of each of those.
        near_boost: how much more often frames near a switch of the plan are drawn.
        far_boost: the same for those half a second or more away from one.
        agent_boost: the same for states that the agent itself led to (DAgger).
        datasets: use only what the cache holds of these datasets, by their folders' names.
        max_frames: use only the first so many frames of the cache.
        touch: read all pictures once at the start, so that they are in memory.
    """

    cache: Path = Path("data/cache")
    out: Path = Path("runs/nano")
    preset: str | None = None
    init: str | None = None
    minutes: float | None = None
    steps: int | None = None
    until: float | None = None
    planner_batch: int = 16
    controller_batch: int = 32
    planner_weight: float = 1.0
    controller_weight: float = 1.0
    flow_samples: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: int = 300
    schedule: Literal["stable", "cosine"] = "stable"
    average: float = 0.999
    clip: float = 1.0
    precision: Literal["no", "bf16"] = "bf16"
    seed: int = 0
    near_boost: float = 1.0
    far_boost: float = 2.0
    agent_boost: float = 2.5
    jitter: Jitter = field(default_factory=Jitter)
    save_minutes: float = 5.0
    validate_minutes: float = 5.0
    evaluate_minutes: float = 0.0
    evaluate_episodes: int = 24
    datasets: tuple[str, ...] | None = None
    max_frames: int | None = None
    touch: bool = True
    log_steps: int = 50

    def __post_init__(self):
        if self.minutes is None and self.steps is None:
            raise UserError("train: expected --minutes or --steps, got neither")
        if self.planner_weight <= 0 and self.controller_weight <= 0:
            raise UserError("train: expected a positive --planner-weight or --controller-weight, got neither")
