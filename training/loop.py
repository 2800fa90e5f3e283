"""The training loop: one optimiser step after another on one network. What is learnt is a `Course`.

It runs on one CPU or GPU as it is, with `--processes 2` on two CPU cores, and under `accelerate launch`
elsewhere. OUT/state.pt holds all that resuming needs and is replaced atomically; OUT/policy is the averaged
network as a checkpoint that `Agent.from_pretrained` loads; OUT/log.jsonl and the tensorboard files hold
the curves.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from backbone.errors import UserError
from training.batches import Prefetch
from training.beside import Evaluation
from training.config import Config
from training.course import Course, NanoCourse
from training.metrics import Totals
from training.progress import Bar
from training.prompted import PromptedCourse
from training.schedule import Average, learning_rate
from training.start import parameter_groups

AGREE = 10  # steps between two agreements of the processes on how far the run is and whether to stop
HELD_OUT_BATCHES = 4


class Trainer:
    """One process of a run. `run()` trains until the time or the steps are over and leaves state and policy
    on disk.
    """

    def __init__(self, config: Config):
        from accelerate import Accelerator, DistributedDataParallelKwargs

        self.config = config
        parallel = DistributedDataParallelKwargs()
        self.accelerator = Accelerator(
            mixed_precision=config.precision,
            log_with="tensorboard",
            project_dir=str(config.out),
            kwargs_handlers=[parallel],
        )
        self.main = self.accelerator.is_main_process
        process = self.accelerator.process_index
        self.course = choose(config, process, self.accelerator.main_process_first)
        parallel.find_unused_parameters = self.course.unused
        network = self.course.network
        optimizer = torch.optim.AdamW(
            parameter_groups(network, config.weight_decay),
            self.course.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.bare = self.accelerator.unwrap_model(self.network)
        learnt = [p for p in self.bare.parameters() if p.requires_grad]
        self.average = Average(learnt, config.average)
        self.step, self.elapsed = 0, 0.0
        self.stopping = False
        self.evaluation: Evaluation | None = None
        if self.main:
            config.out.mkdir(parents=True, exist_ok=True)
        if (config.out / "state.pt").exists():
            self._load(torch.load(config.out / "state.pt", map_location="cpu", weights_only=True))
        self._say(self.course.summary())
        self._say(
            f"{sum(p.numel() for p in self.bare.parameters()) / 1e6:.2f} M parameters, from step {self.step}"
        )

    # --- one step ------------------------------------------------------------------------------------------

    def batches(self, step: int) -> tuple[Any, ...]:
        return self.course.batches(step)

    def learn(self, batches: tuple[Any, ...], progress: float) -> dict[str, torch.Tensor]:
        """One optimiser step. The noise depends on seed, step and process only, so a resumed run repeats
        it.
        """
        c = self.config
        torch.manual_seed((c.seed * 1_000_003 + self.step) * 64 + self.accelerator.process_index)
        rate = self.course.learning_rate * learning_rate(c.schedule, self.step, progress, c.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.accelerator.autocast():
            out = self.course.losses(self.network, *map(self._move, batches))
        loss = self.course.loss(out)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.average.parameters, c.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()
        self.step += 1
        metrics = {k: v.detach() for k, v in out.items() if k != "loss"}
        return metrics | {
            "loss": loss.detach(),
            "gradient": torch.as_tensor(norm),
            "rate": torch.tensor(rate),
        }

    def _move(self, batch: Any) -> Any:
        if isinstance(batch, dict):
            return {k: self._move(v) for k, v in batch.items()}
        if not isinstance(batch, torch.Tensor):
            return batch
        return batch.to(self.accelerator.device, non_blocking=True)

    # --- the run -------------------------------------------------------------------------------------------

    def progress(self) -> float:
        """The share of the run that is over."""
        c = self.config
        by_steps = self.step / c.steps if c.steps else 0.0
        by_time = self.elapsed / (60 * c.minutes) if c.minutes else 0.0
        return max(by_steps, by_time)

    def run(self) -> None:
        """Train to the end, or until Ctrl-C or SIGTERM; both leave a state to resume from and a policy."""
        previous = {s: signal.signal(s, self._interrupted) for s in (signal.SIGINT, signal.SIGTERM)}
        if self.main:
            self.accelerator.init_trackers("tensorboard")
        prefetch = Prefetch(self.batches, self.step)
        try:
            with Bar("train", 1.0, quiet=not self.main) as self.bar:
                self._loop(iter(prefetch))
                if self.main:
                    self._held_out()
                    self.save()
                    if self.stopping:
                        self.bar.log(f"stopped at step {self.step}; the same command goes on from there")
        finally:
            prefetch.close()
            if self.evaluation:
                self.evaluation.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def _loop(self, batches: Iterator) -> None:
        c, total = self.config, Totals()
        progress = 1.0 if c.until and self.elapsed >= 60 * c.until else self.progress()
        due = {
            self.save: c.save_minutes,
            self._held_out: c.validate_minutes,
            self._evaluate: c.evaluate_minutes,
        }
        done = {action: self.elapsed for action in due}
        while progress < 1:
            start = time.monotonic()
            total.add(self.learn(next(batches), progress))
            self.elapsed += time.monotonic() - start  # learning only: looks at held-out episodes do not count
            if c.minutes is None:
                progress = self.progress()
            if self.step % AGREE == 0:
                progress, stop = self._agree()
                if stop or (c.until and self.elapsed >= 60 * c.until):
                    break
            if not self.main:
                continue
            if self.step % c.log_steps == 0:
                self._log(total, progress)
                self._evaluated()
            for action, minutes in due.items():
                if minutes and self.elapsed - done[action] >= 60 * minutes:
                    done[action] = self.elapsed
                    action()

    def _interrupted(self, *_: object) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True

    def _agree(self) -> tuple[float, bool]:
        """(progress, stop): the first process's clock and anybody's wish to stop count for all."""
        if self.accelerator.num_processes == 1:
            return self.progress(), self.stopping
        clock = torch.tensor([self.elapsed], device=self.accelerator.device, dtype=torch.float64)
        torch.distributed.broadcast(clock, 0)
        self.elapsed = float(clock[0])
        wish = torch.tensor([float(self.stopping)], device=self.accelerator.device)
        torch.distributed.all_reduce(wish)
        return self.progress(), bool(wish > 0)

    def _log(self, total: Totals, progress: float) -> None:
        values = total.means()
        samples = self.course.samples * self.accelerator.num_processes
        values["samples_per_second"] = samples * values.pop("steps_per_second")
        self._record("train", values)
        shown = self.course.shown.items()
        text = "  ".join(f"{short} {values[name]:.3f}" for name, short in shown if name in values)
        self.bar.update(progress, f"step {self.step}  {text}  {values['samples_per_second']:.0f} samples/s")

    def _held_out(self) -> None:
        if self.course.held_out:
            values = self.validate()
            self._record("held_out", values)
            text = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            self.bar.log(f"step {self.step}, held out: {text}")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The averaged network on episodes that training does not see."""
        total = Totals()
        self.bare.eval()
        with self.average.swapped(), self.accelerator.autocast():
            for k in range(HELD_OUT_BATCHES):
                torch.manual_seed(k)
                batches = map(self._move, self.course.held_out_batches(k))
                out = self.course.losses(self.bare, *batches)
                total.add({name: value for name, value in out.items() if name != "loss"})
        self.bare.train()
        values = total.means()
        values.pop("steps_per_second")
        return values

    def _evaluate(self) -> None:
        """Closed loop in a process beside: the averaged network on the first evaluation seeds."""
        if self.evaluation:
            return  # the last one is not through yet
        out = self.config.out / f"evaluate/step-{self.step:07d}"
        self.export(out / "policy")
        planner = "learned" if self.bare.layout.inference.writes_plans else "none"
        episodes = self.config.evaluate_episodes
        self.evaluation = Evaluation(out / "policy", out, self.step, episodes, planner=planner)

    def _evaluated(self) -> None:
        if self.evaluation and not self.evaluation.running:
            values, step = self.evaluation.result(), self.evaluation.step
            if values is None:
                self.bar.log(f"evaluation of step {step} failed, see {self.evaluation.out}/output.txt")
            else:
                self._record("closed_loop", values | {"of_step": step})
                text = "  ".join(f"{name} {value:.0%}" for name, value in values.items())
                self.bar.log(f"step {step}, closed loop: {text}")
            self.evaluation = None

    def _record(self, part: str, values: dict[str, float]) -> None:
        self.accelerator.log({f"{part}/{k}": v for k, v in values.items()}, step=self.step)
        line = {"part": part, "step": self.step, "minutes": round(self.elapsed / 60, 3)} | values
        with (self.config.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _say(self, text: str) -> None:
        if self.main:
            print(text, flush=True)

    # --- disk ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """State and policy, each whole or not at all."""
        state = {
            "network": self.bare.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "preset": json.dumps(asdict(self.bare.preset), default=str),
            "vocabulary": self.course.vocabulary,
        }
        temporary = self.config.out / ".state.pt.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.config.out / "state.pt")
        self.export(self.config.out / "policy")

    def _load(self, state: dict[str, Any]) -> None:
        if state["vocabulary"] != self.course.vocabulary:
            raise UserError(f"train: expected the vocabulary of {self.config.out}/state.pt, got another one")
        if state["preset"] != json.dumps(asdict(self.bare.preset), default=str):
            raise UserError(f"train: expected the network of {self.config.out}/state.pt, got another preset")
        self.bare.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.course.loaded()

    def export(self, out: Path) -> None:
        """The averaged network as a checkpoint directory."""
        with self.average.swapped():
            self.course.save(out, {"steps": self.step, "minutes": round(self.elapsed / 60, 1)})


def choose(config: Config, process: int, first: Callable[[], AbstractContextManager]) -> Course:
    """nano's course or one of the π family, as the preset or the checkpoint says."""
    from backbone import checkpoint, family

    name = config.preset or (checkpoint.preset(config.init).name if config.init else "nano")
    if name in family.PRESETS:
        config.only("pi", name)
        return PromptedCourse(config, process, first)
    config.only("nano", name)
    return NanoCourse(config, process, config.touch and process == 0)


def train(config: Config) -> None:
    """Train, or go on training, as the configuration says."""
    Trainer(config).run()
