"""The settings of a training run."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from backbone.config import Preset
from backbone.errors import UserError
from training.batches import Jitter
from training.dropout import Dropout


@dataclass(frozen=True)
class Config:
    """A training run. Give `minutes` or `steps` (whichever is over first ends it).

    Args:
        out: where the run lives, runs/PRESET by default; a run that is there already is resumed.
        preset: the network, by name: nano (also without a word), nano_flat (no planner: the instruction in
            the subtask's place), or one of the pi family (pi05_subtask, pi07_tiny, ...).
        init: a checkpoint to start from (a directory or name) instead of random weights. For nano one of
            another preset gives the weights that both have; for the pi family what `steersman convert` made.
        minutes: training time, all sessions of this run together.
        steps: optimiser steps.
        until: stop after so many of the minutes; the schedule is that of all of them, and the run can go on.
        planner_weight: of the text and point losses; 0 leaves the planner out.
        controller_weight: of the flow loss (and of FAST); 0 leaves the controller out.
        flow_samples: noisy chunks on one prefix.
        learning_rate: its peak; 1e-3 by default, 2.5e-5 for a pi network that starts from a checkpoint.
        weight_decay: AdamW's, of matrices alone.
        warmup: steps until the peak.
        schedule: "stable" falls in the last quarter, "cosine" over the whole run.
        average: decay of the average of the weights, which is what is saved.
        clip: largest norm of the gradient.
        precision: "bf16" for autocast, "no" for float32.
        seed: of the weights, the samples and the noise.
        save_minutes: between two states on disk.
        validate_minutes: between two looks at the held-out episodes.
        evaluate_minutes: between two closed-loop evaluations in a process beside; 0 for none.
        evaluate_episodes: episodes of each of those.
        datasets: nano: use only what the cache holds of these datasets, by their folders' names; the pi
            family: LeRobot v3 datasets, by their paths or hub ids.
        log_steps: between two lines of the log.
        trained_delay: most actions that are already promised, drawn anew for each chunk (training-time
            real-time chunking); the checkpoint's or preset's own by default.
        cache: nano: the training cache, built by `python -m training.cache`.
        planner_batch: nano: samples of a planner's batch, in each process.
        controller_batch: nano: samples of a controller's batch, in each process.
        near_boost: nano: how much more often frames near a switch of the plan are drawn.
        far_boost: nano: the same for those half a second or more away from one.
        agent_boost: nano: the same for states that the agent itself led to (DAgger).
        person_boost: nano: the same for what a person showed in recorded runs (docs/teaching.md).
        max_frames: nano: use only the first so many frames of the cache.
        touch: nano: read all pictures once at the start, so that they are in memory.
        batch: pi: samples of a step, in each process.
        cameras: pi: the network's cameras and the datasets' (camera0 front camera1 wrist); by default those
            of the checkpoint, or the datasets' in their order.
        tokenizer: pi: a directory or hub id; by default the checkpoint's, or for a tiny network one of the
            datasets' own words.
        prompt: pi: how it is told things (openpi, opentau_pi05, ...); the checkpoint's or preset's usual one.
        fast: pi: a FAST tokenizer's directory; by default the checkpoint's, or one fitted on the datasets.
        history_interval: pi: frames between two moments of a history; by default a second.
        told: pi: what a controller without a place for a subtask reads: the "task" (also without
            a word) or the "subtask".
        grounded: pi: whether subtasks carry their place as <locNNNN>; by default if they can.
        metadata: pi: what all the data has in common (robot panda control joint).
        keep_normalisation: pi: that of the checkpoint instead of the datasets'.
        train: pi: all weights, or the action expert's only.
        insulated: pi: keep the flow loss out of the backbone; by default if something else teaches it.
        z_weight: pi: of the squared log-partition of the text.
        recompute: pi: compute blocks again in the backward pass; slower, in far less memory.
        sizes: pi: of a tiny network from scratch (horizon 10 prompt 80 fast_words 512).
        own_runs: pi: of datasets of an agent's own runs (`steersman rollout --record`), learn from those that
            it solved by itself too, not only from what a person showed in them.
        threads: pi: that read samples beside the one that learns.
        dropout: pi: inputs that are left out at random.
    """

    out: Path | None = None
    preset: str | None = None
    init: str | None = None
    minutes: float | None = None
    steps: int | None = None
    until: float | None = None
    planner_weight: float = 1.0
    controller_weight: float = 1.0
    flow_samples: int = 4
    learning_rate: float | None = None
    weight_decay: float = 0.02
    warmup: int = 300
    schedule: Literal["stable", "cosine"] = "stable"
    average: float = 0.999
    clip: float = 1.0
    precision: Literal["no", "bf16"] = "bf16"
    seed: int = 0
    jitter: Jitter = field(default_factory=Jitter)
    save_minutes: float = 5.0
    validate_minutes: float = 5.0
    evaluate_minutes: float = 0.0
    evaluate_episodes: int = 24
    datasets: tuple[str, ...] | None = None
    log_steps: int = 50
    trained_delay: int | None = None
    # nano's, up to `batch`; after it the pi family's: see `only`
    cache: Path = Path("data/cache")
    planner_batch: int = 16
    controller_batch: int = 32
    near_boost: float = 1.0
    far_boost: float = 2.0
    agent_boost: float = 2.5
    person_boost: float = 5.0
    max_frames: int | None = None
    touch: bool = True
    batch: int = 16
    cameras: dict[str, str] | None = None
    tokenizer: str | None = None
    prompt: str | None = None
    fast: Path | None = None
    history_interval: int | None = None
    told: Literal["task", "subtask"] | None = None
    grounded: bool | None = None
    metadata: dict[str, str] | None = None
    keep_normalisation: bool = False
    train: Literal["all", "expert"] = "all"
    insulated: bool | None = None
    z_weight: float = 0.0
    recompute: bool = False
    sizes: dict[str, int] | None = None
    own_runs: bool = False
    threads: int = 2
    dropout: Dropout = field(default_factory=Dropout)

    def __post_init__(self):
        if self.out is None:
            object.__setattr__(self, "out", Path("runs") / (self.preset or "nano"))
        if self.minutes is None and self.steps is None:
            raise UserError("train: expected --minutes or --steps, got neither")
        if self.planner_weight <= 0 and self.controller_weight <= 0:
            raise UserError("train: expected a positive --planner-weight or --controller-weight, got neither")

    def delayed(self, preset: Preset) -> Preset:
        """A preset with this run's `trained_delay`."""
        most = preset.trained_delay if self.trained_delay is None else self.trained_delay
        if not 0 <= most < preset.horizon:
            raise UserError(f"train: expected a --trained-delay from 0 to {preset.horizon - 1}, got {most}")
        return replace(preset, trained_delay=most)

    def only(self, kind: str, preset: str) -> None:
        """UserError for an option that a network of this kind ("nano" or "pi") has no use for."""
        names = [f.name for f in fields(self)]
        ours, theirs = names[names.index("cache") : names.index("batch")], names[names.index("batch") :]
        for f in fields(self):
            default = f.default if f.default is not MISSING else f.default_factory()
            if f.name in (theirs if kind == "nano" else ours) and getattr(self, f.name) != default:
                option = f"--{f.name.replace('_', '-')}"
                raise UserError(f"train: {option} does not apply to '{preset}', got {getattr(self, f.name)}")
