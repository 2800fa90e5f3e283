"""One episode: the agent against a world, and what is worth knowing about it afterwards.

Where the world has a scripted teacher it watches every tick (it is cheap: no pictures), so that each look of
the planner can be compared with what the teacher would have said there. Nothing of that reaches the agent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from agent.asks import Asking, run_alone
from agent.evaluation.analysis import derive
from agent.evaluation.statistics import quantile
from agent.loop import Agent, Step
from agent.recording.recording import Frame, Recording, Run
from agent.recovery import STUCK
from agent.safety import Limits, Safety
from backbone.errors import UserError
from backbone.observation import Observation
from envs.contract import EvaluationEnv
from highlevel.plan import DONE, Plan

NEAR = 0.5  # seconds: a look so close to a switch of the teacher's subtask is not "away from switches"
FRONT = 128  # pixels: grounding errors are given in those of the tabletop's front camera

SLIGHT = 0.1  # a network's numbers end a little past the range now and then: no intervention worth telling

Watcher = Callable[[EvaluationEnv, Step, dict[str, Any]], None]


def run_episode(env: EvaluationEnv, agent: Agent, seed: int, *rest, **options) -> dict[str, Any]:
    """`episode`, the agent by itself."""
    return run_alone(episode(env, agent, seed, *rest, **options))


def episode(
    env: EvaluationEnv,
    agent: Agent,
    seed: int,
    instruction: str | None = None,
    after: int | None = None,
    watch: Watcher | None = None,
    recording: Recording | None = None,
) -> Asking[dict[str, Any]]:
    """Run evaluation episode `seed`, handing out the agent's questions, and return its record, JSON-ready.

    instruction: said instead of the scene's own. Where it asks for something else than the scene's goal the
    episode is not judged: success is None and it ends when the agent says "done" or has had its time.
    after: ticks that it runs on after success; the world's own number by default.
    watch: called after every tick with (env, step, moment); moment has tick, seconds (of the world's time),
    progress, success, instruction.
    recording: is begun and told every tick; whoever gave it ends it, or not.
    """
    clock = _Clock()
    info = clock.time("world", env.begin, seed)
    state, said, rate = env.initial_state(), instruction or env.task_description, env.rate
    judged = instruction is None or env.asks_for(instruction)
    agent.reset(said, seed)
    teacher = env.teacher() if judged else None
    if teacher is not None:
        teacher.reset()
    tell = getattr(teacher, "say", None) or getattr(teacher, "label", None)  # its words, the quick way if any
    log, safety = _Log(said, float(info["progress"]), rate), Safety(limits(env))
    limit, tick, success_tick = env.max_steps, 0, None
    given, blind = after, agent.blind
    after = env.linger if after is None else after
    if recording is not None:
        told = {"judged": judged, "after": given, "progress": float(info["progress"]) if judged else 0.0}
        clock.time("waited", lambda: recording.begin(Run.of(env, seed, instruction, **told)))
    while tick < limit if success_tick is None else tick < success_tick + after:
        observation = None
        if agent.needs_observation:
            seen = {"pixels": {}, "agent_pos": env.state()} if blind else clock.time("rendering", env.look)
            observation = Observation.from_env(seen, said)
        here = None
        if recording is not None:
            pictures = clock.time("waited", recording.look, env, observation)
            here = {"tick": tick, "images": pictures, "state": env.state()}
            here["instruction"] = agent.instruction
        truth = tell() if tell is not None else None
        step = yield from agent.stepping(observation)
        if step.action.shape != env.action_space.shape:
            wanted = env.action_space.shape[0]
            raise UserError(f"action: expected {wanted} numbers, got an array of shape {step.action.shape}")
        clock.add("thinking", step.thinking)
        clock.add("waited", step.waited)
        scene = env.scene() if step.said is not None and step.said.scene else None
        log.tick(tick, step, truth, scene)
        action = safety(step.action)
        _, _, _, _, info = clock.time("world", env.step, action)
        tick += 1
        log.progress(tick, float(info["progress"]))
        if instruction is None and info.get("instruction_changed"):
            said = env.task_description
            agent.say(said)
            log.instructions.append({"time": tick / rate, "text": said})
            limit = max(limit, env.max_steps)
        if judged and success_tick is None and info["is_success"]:
            success_tick = tick
        gone = {"progress": float(info["progress"]) if judged else 0.0, "success": success_tick is not None}
        if recording is not None:
            frame = Frame(**here, action=action, step=step, **gone, after=env.state(), env=env)
            clock.time("waited", recording.add, frame)
        if watch is not None:
            moment = {"tick": tick, "seconds": tick / rate} | gone | {"instruction": said}
            clock.time("waited", watch, env, step, moment)
        if agent.gave_up is not None or (not judged and agent.done):
            break
    record = {
        "seed": seed,
        "initial_state": state,
        "state_id": env.state_id,
        "suite": env.suite,
        "family": env.stratum,
        "instruction": said,
        "instructions": log.instructions,
        "success": (success_tick is not None) if judged else None,
        "success_time": None if success_tick is None else success_tick / rate,
        "held_at_end": bool(info["is_success"]) if judged else None,
        "progress": float(info["progress"]) if judged else None,
        "steps": tick,
        "control_hz": rate,
    }
    record |= log.record(judged, success_tick, after)
    record["gave_up"] = agent.gave_up
    record["interventions"] = [
        {"what": i.what, "time": i.tick / rate, "ticks": i.ticks, "most": round(i.most, 4)}
        for i in safety.interventions
        if i.what != "range" or i.most > SLIGHT
    ]
    record["timings"] = clock.timings([look["ms"] for look in log.looks], tick / rate)
    return record | derive(record)


def limits(env: EvaluationEnv) -> Limits:
    """Those of the world's actions; a simulated robot needs no more."""
    space = env.action_space
    positions = [env.rest == "last"] * space.shape[0]
    positions[-1] = True  # the gripper
    return Limits(space.low.tolist(), space.high.tolist(), positions, env.rate)


class _Clock:
    """Where an episode's seconds go: into the world, rendering and thinking; or into waiting for others."""

    def __init__(self):
        self.started = time.perf_counter()
        self.spent = {"world": 0.0, "rendering": 0.0, "thinking": 0.0, "waited": 0.0}

    def add(self, what: str, seconds: float) -> None:
        self.spent[what] += seconds

    def time(self, what: str, call: Callable, *given):
        started = time.perf_counter()
        found = call(*given)
        self.add(what, time.perf_counter() - started)
        return found

    def timings(self, looks: list[float], simulated: float) -> dict[str, Any]:
        """looks: milliseconds. What of wall_seconds is in none of `seconds` is the harness's own."""
        spent = {name: round(seconds, 4) for name, seconds in self.spent.items() if name != "waited"}
        wall = time.perf_counter() - self.started - self.spent["waited"]
        return {
            "look_ms_p50": quantile(looks, 0.5),
            "look_ms_p95": quantile(looks, 0.95),
            "wall_seconds": round(wall, 4),
            "real_time_factor": round(simulated / wall, 3),
            "seconds": spent,
        }


class _Log:
    """Collects an episode's looks, subtasks and failures, what the teacher said and how progress went."""

    def __init__(self, instruction: str, progress: float, rate: float):
        self.rate = rate
        self.instructions = [{"time": 0.0, "text": instruction}]
        self.looks: list[dict[str, Any]] = []
        self.subtasks: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        self.stuck: list[dict[str, Any]] = []
        self.switches: list[int] = []
        self.teacher: list[dict[str, Any]] = []
        self.course = [[0.0, round(progress, 4)]]
        self.done_tick: int | None = None
        self.true_done: int | None = None
        self._truth: str | None = None

    def tick(self, tick: int, step: Step, truth, scene: str | None = None) -> None:
        if truth is not None:
            if self._truth is not None and truth.subtask != self._truth:
                self.switches.append(tick)
            if truth.subtask != self._truth:
                self.teacher.append({"text": truth.subtask, "start": tick / self.rate})
            self.teacher[-1]["end"] = (tick + 1) / self.rate
            self._truth = truth.subtask
            if truth.subtask == DONE and self.true_done is None:
                self.true_done = tick
        if step.said is not None:
            self.looks.append(_look(tick, step, truth, scene))
        if "done" in step.events and self.done_tick is None:
            self.done_tick = tick
        for event in step.events:
            if event in STUCK:
                where = {"time": tick / self.rate, "what": event, "subtask": self.subtasks[-1]["text"]}
                self.stuck.append(where)
            if " failed: " in event:
                self.failures.append({"time": tick / self.rate, "event": event})
        self._subtask(tick, step.plan)

    def progress(self, tick: int, value: float) -> None:
        if round(value, 4) != self.course[-1][1]:
            self.course.append([tick / self.rate, round(value, 4)])

    def _subtask(self, tick: int, plan: Plan | None) -> None:
        if plan is None or not plan.subtask:  # a person drives, who says nothing
            return
        last = self.subtasks[-1] if self.subtasks else None
        if last is None or last["text"] != plan.subtask:
            target = None if plan.target is None else [round(plan.target.y, 4), round(plan.target.x, 4)]
            last = {"text": plan.subtask, "who": plan.origin, "start": tick / self.rate, "target": target}
            last |= {"memory": plan.memory, "margin": plan.margin}
            self.subtasks.append(last)
        last["end"] = (tick + 1) / self.rate
        last["memory"] = plan.memory
        last["margin"] = round(min(last["margin"], plan.margin), 4)

    def record(self, judged: bool, success_tick: int | None, after: int) -> dict[str, Any]:
        near = NEAR * self.rate
        for look in self.looks:
            look["near_switch"] = any(abs(look["tick"] - s) <= near for s in self.switches)
        done = None if self.done_tick is None else self.done_tick / self.rate
        # too early: believed "done" before the goal was reached (and before the teacher would have said it)
        early = self.done_tick is not None and (success_tick is None or self.done_tick < success_tick)
        if early and self.true_done is not None and self.true_done <= self.done_tick:
            early = False
        late = None
        if success_tick is not None and after:  # where there was time to say it
            late = self.done_tick is None or self.done_tick > success_tick + after
        told = {"teacher": self.teacher, "progress_steps": self.course} if judged else {}
        return told | {
            "done_time": done,
            "done_early": early if judged else None,
            "done_late": late,
            "subtasks": self.subtasks,
            "looks": self.looks,
            "failures": self.failures,
            "stuck": self.stuck,
        }


def _look(tick: int, step: Step, truth, scene: str | None) -> dict[str, Any]:
    """What the planner wrote at one look, the teacher's answer to the same state, and what stands where."""
    said = step.said
    look = {"tick": tick, "text": said.subtask, "margin": round(said.margin, 4), "origin": said.origin}
    look["ms"] = round(step.seconds * 1000, 3)
    if step.age:
        look["age"] = step.age
    if step.why != ("every-look",):
        look["why"] = list(step.why)
    if said.seconds:
        look["plan_ms"] = round(said.seconds * 1000, 3)
    if truth is not None:
        agree = said.subtask == truth.subtask
        look |= {"truth": truth.subtask, "agree": agree, "memory_agree": said.memory == truth.memory}
        if agree and said.target is not None and truth.point is not None:
            dy, dx = said.target.y - float(truth.point[0]), said.target.x - float(truth.point[1])
            look["pixels"] = round(FRONT * (dy * dy + dx * dx) ** 0.5, 3)
    if scene is not None:
        look |= {"scene": said.scene, "scene_agree": said.scene == scene}
    return look
