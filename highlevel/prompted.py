"""The planner of a π network: a prompt goes in, memory and subtask come out as text."""

from __future__ import annotations

import time

import torch

from backbone.errors import UserError
from backbone.inference import Run
from backbone.observation import Observation
from backbone.reader import Reader
from highlevel.plan import DONE, Plan, parse_plan_text
from highlevel.writing import Written, write


class PromptedPlanner:
    """Writes the layout's targets in turn: π0.5 and π0.6 a subtask, π0.7 the memory and then a subtask."""

    def __init__(self, reader: Reader):
        if not any(s.target for s in reader.layout.segments):
            raise UserError(f"planner: '{reader.network.preset.name}' writes no text")
        self.reader, self.network, self.words = reader, reader.network, reader.words

    def plan(
        self, observation: Observation, instruction: str = "", memory: str = "", previous: Plan | None = None
    ) -> Plan:
        """The next plan, from what is seen, told and remembered."""
        return self.plan_on(Run(self.network), observation, instruction, memory, previous)

    @torch.inference_mode()
    def plan_on(
        self, run: Run, observation: Observation, instruction: str, memory: str, previous: Plan | None
    ) -> Plan:
        """The same, leaving what was read and written in `run` for the controller."""
        started = time.perf_counter()
        inputs = self.reader.inputs(observation, instruction or observation.instruction, memory)
        run.read(run.layout.context, inputs)
        texts: dict[str, Written] = {}
        for segment in run.layout.prefix.segments[len(run.layout.context) :]:
            if segment.target:
                texts[segment.name] = write(
                    run, segment.name, self.words.bos, (self.words.eos,), self.words.pad
                )
            else:
                run.read((segment.name,), inputs)
        said = {name: self.words.decode(written.ids[0].tolist()) for name, written in texts.items()}
        subtask, target = parse_plan_text(said["response"])
        whole = all(bool(written.finished[0]) for written in texts.values())
        margin = min(float(written.margin[0]) for written in texts.values())
        return Plan(
            subtask=subtask,
            target=target,
            memory=said.get("memory", memory),
            done=subtask == DONE,
            margin=margin if whole else 0.0,
            tokens=tuple(i for written in texts.values() for i in written.ids[0].tolist()),
            seconds=time.perf_counter() - started,
        )
