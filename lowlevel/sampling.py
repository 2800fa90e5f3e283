"""How a chunk is drawn: steps and solver, several candidates and who chooses, guidance by the subtask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backbone.errors import UserError
from backbone.inference import Run
from lowlevel.controller import check_committed, check_leftover
from lowlevel.flow import integrate, times
from lowlevel.guided import Guided, corrected

# A critic: observation, subtask, candidates (N, H, A) in robot units -> scores (N,), the higher the better.
Critic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Sampling:
    """steps: evaluations of the velocity (the preset's by default). solver: "euler", "midpoint", "adams".

    candidates: chunks drawn on one prefix, of which the critic's best is taken. guidance: how much the
    subtask counts: velocity = without it + guidance * (with it - without it); 1 is plain. prefix: how a chunk
    is made to go on from the last one, where that is not what the network was trained for (real-time
    chunking); by default promised actions are held on their path, and what was to follow them is forgotten.
    """

    steps: int | None = None
    solver: str = "euler"
    candidates: int = 1
    critic: Critic | None = None
    guidance: float = 1.0
    prefix: Guided | None = None

    def __post_init__(self):
        times(self.steps or 2, self.solver)
        if self.candidates < 1:
            raise UserError(f"candidates: expected at least 1, got {self.candidates}")
        if self.candidates > 1 and self.critic is None:
            raise UserError(f"candidates: expected a critic to choose among {self.candidates}, got none")
        if not np.isfinite(self.guidance):
            raise UserError(f"guidance: expected a finite number, got {self.guidance}")


class Modulation:
    """What the expert's norms are told at each step. It depends on nothing but the schedule: made once."""

    def __init__(self, network):
        self.network, self._made = network, {}

    @torch.no_grad()
    def __call__(self, steps: int, solver: str) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Of each step, and of time 0 (what is promised): (1, 1, 1, 3 D) for each norm."""
        key = steps, solver, self.network.device, self._version()
        if key not in self._made:
            when = torch.cat((times(steps, solver), torch.zeros(1))).to(self.network.device)
            every = self.network.modulation(when[:, None])
            each = [[m[k : k + 1] for m in every] for k in range(steps + 1)]
            self._made = {key: (each[:-1], each[-1])}
        return self._made[key]

    def _version(self) -> int:
        """Changes when weights are written in place (training)."""
        return self.network.time_in.weight._version


def draw(
    run: Run,
    modulation: Modulation,
    noise: Tensor,
    sampling: Sampling,
    promised: Sequence[Tensor] = (),
) -> Tensor:
    """noise (B, F, H, A) -> normalised chunks, alike. promised: see `promises`. With guidance the run has 2 B
    samples, those from B on without the subtask.
    """
    steps, lead = sampling.steps or run.network.preset.steps, sampling.prefix
    clean = run.network.preset.trained_delay > 0 and lead is None
    guided = sampling.guidance != 1.0
    each, still = modulation(steps, sampling.solver)

    def work(noise: Tensor, *promised: Tensor) -> Tensor:
        told = each
        if promised and clean:  # promised actions are at time 0, the others at the step's
            given = promised[1].expand(-1, noise.shape[1], -1, -1)
            given = given.repeat(2, 1, 1, 1) if guided else given
            told = [[torch.where(given, s, m) for m, s in zip(step, still, strict=True)] for step in each]
        run.prepare_actions()

        ask = run.traced if lead and lead.jacobian == "true" and promised else run.velocity

        def velocity(x: Tensor, k: int) -> Tensor:
            if not guided:
                return ask(x, told[k])
            with_it, without = ask(x.repeat(2, 1, 1, 1), told[k]).chunk(2)
            return without + sampling.guidance * (with_it - without)

        def led(x: Tensor, k: int) -> Tensor:
            return corrected(lambda x: velocity(x, k), x, when[k], *promised, lead)

        if promised and lead:
            return integrate(led, noise, steps, solver=sampling.solver)
        return integrate(velocity, noise, steps, promised or None, clean, sampling.solver)

    when = times(steps, sampling.solver).tolist()
    name = "draw", steps, sampling.solver, sampling.guidance, len(promised), lead
    return run.replayed(name, work, (noise, *promised))


def promises(
    run: Run,
    committed: Sequence[np.ndarray | None],
    dim: int,
    leftover: Sequence[np.ndarray | None] | None = None,
    lead: Guided | None = None,
) -> tuple[Tensor, ...]:
    """Of each sample, actions (K, dim) in robot units that are promised already, as normalised actions
    (B, 1, H, A) and which of them are, (B, 1, H, 1) bool; nothing if none are.

    lead: then the actions are followed by what was left behind them, `leftover` (M, dim), and come with the
    weights that it gives all of them, (B, 1, H, 1) float.
    """
    p, device = run.network.preset, run.network.device
    kept = [check_committed(c, p.horizon, dim) for c in committed]
    rest: list[np.ndarray | None] = [None] * len(kept)
    if lead is not None and leftover is not None:
        rest = [check_leftover(actions, dim) for actions in leftover]
    # Where shapes are fixed, what one sample is given must not decide how its batch-mates are computed.
    always = lead is not None and run.static and len(kept) > 1
    none = all(c is None for c in (*kept, *rest)) and not always
    if none or (lead is not None and not lead.weight):
        return ()
    actions = torch.zeros(len(kept), 1, p.horizon, p.action_dim)
    given = torch.zeros(len(kept), 1, p.horizon, 1)
    for row, (rows, more) in enumerate(zip(kept, rest, strict=True)):
        rows = np.zeros((0, dim), np.float32) if rows is None else rows
        if lead is None and p.trained_delay and len(rows) > p.trained_delay:
            raise UserError(f"committed actions: expected at most {p.trained_delay}, got {len(rows)}")
        both = (rows if more is None else np.concatenate((rows, more)))[: p.horizon]
        actions[row, 0, : len(both), :dim] = torch.from_numpy(both)
        if lead is None:
            given[row, 0, : len(rows)] = 1
        else:
            given[row, 0, :, 0] = lead.weights(len(rows), len(both) - len(rows), p.horizon)
    return run.network.action_norm(actions.to(device)), (given.bool() if lead is None else given).to(device)
