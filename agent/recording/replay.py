"""Recorded runs once more: the actions in the same world, or the agent itself, compared bit by bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.evaluation.episode import run_episode
from agent.evaluation.provenance import versions
from agent.evaluation.settings import Settings, build
from agent.evaluation.store import fingerprint
from agent.recording.recording import ENDED, Frame, Recording, Run
from agent.recording.runs import RunReader, row_of
from agent.step import Step
from backbone.errors import UserError
from envs.contract import EvaluationEnv
from envs.registry import benchmark, make

TOLD = ("say", "order", "stop", "go_on")  # what a person tells an agent; anything else was done to the world


@dataclass(frozen=True)
class Replayed:
    """Ticks that were the same, and what was not: None if all was."""

    ticks: int
    differs: str | None = None


def replay(runs: RunReader, number: int) -> Replayed:
    """The recorded actions in the same world from the same start: states, success and the end."""
    footer, rows = _whole(runs, number)
    run = footer["run"]
    settings = run.get("settings", {})
    env = _world(footer, settings)
    try:
        info = env.begin(footer["seed"])
        if (key := env.initial_state()) != run["initial_state"]:
            return Replayed(0, f"the start: initial state {run['initial_state']}, now {key}")
        success = False
        for tick, row in enumerate(rows):
            if (line := _state(row["observation.state"], env.state(), tick, runs, number)) is not None:
                return Replayed(tick, line + _meddled(run, tick))
            info = env.step(row["action"])[-1]
            success = success or (run["judged"] and bool(info["is_success"]))
            if success != row["next.success"]:
                return Replayed(tick, f"tick {tick}: success {row['next.success']}, now {success}")
        if run["end_state"] is not None:
            end = np.array(run["end_state"], np.float32)
            if (line := _state(end, env.state(), len(rows), runs, number)) is not None:
                return Replayed(len(rows), line)
        progress = float(info["progress"]) if run["judged"] else 0.0
        if progress != run["progress"]:
            return Replayed(len(rows), f"the end: progress {run['progress']}, now {progress}")
    finally:
        env.close()
    return Replayed(len(rows))


def replay_agent(runs: RunReader, number: int) -> Replayed:
    """The agent again, from the same weights and seed, told the same at the same ticks: states, actions,
    plans, events. UserError where the run was not `sync`, not by itself, a person had the arm, or the weights
    are others now.
    """
    footer, rows = _whole(runs, number)
    run = footer["run"]
    if any(row["intervention"] for row in rows):
        raise UserError("replay: a person had the arm in this run, which an agent cannot repeat")
    settings = _settings(run, runs)
    compared = _Compared(rows, settings.controller)
    compared.ended = any(told["what"] == ENDED for told in run["inputs"])
    inputs: dict[int, list[Mapping[str, Any]]] = {}
    for told in run["inputs"]:
        if told["what"] == ENDED:
            continue
        if told["what"] not in TOLD:
            raise UserError(f"replay: somebody did '{told['what']}' to the world, which cannot be repeated")
        inputs.setdefault(told["tick"], []).append(told)

    def watch(_env: EvaluationEnv, _step: Step, moment: Mapping[str, Any]) -> None:
        for told in inputs.get(moment["tick"], ()):
            given = () if told["what"] in ("stop", "go_on") else (told["text"],)
            getattr(agent, told["what"])(*given)

    env, agent = build(settings)
    try:
        run_episode(env, agent, footer["seed"], run["asked"], run["after"], watch, Recording(compared))
    finally:
        env.close()
    if compared.differs is None and compared.ticks < len(rows) and not compared.ended:
        compared.differs = f"tick {compared.ticks}: the run goes on, now it ends"
    return Replayed(compared.ticks, compared.differs)


def changed_versions(runs: RunReader, number: int) -> str | None:
    """Which packages have another version than when it was recorded, in a line."""
    before, now = runs.episodes[number]["run"].get("versions", {}), versions()
    found = [
        f"{name} {before[name]}, now {now.get(name)}" for name in before if before[name] != now.get(name)
    ]
    return "; ".join(found) or None


class _Compared:
    """A `Writer` that writes nothing: it compares with what was recorded."""

    name, pictures = "comparison", False

    def __init__(self, rows: list[dict[str, Any]], actor: str):
        self._rows, self._actor = rows, actor
        self.ticks, self.differs, self.ended = 0, None, False  # ended: by a person, at any tick

    def begin(self, run: Run) -> None: ...
    def told(self, what: str, text: str) -> None: ...
    def end(self) -> None: ...
    def drop(self) -> None: ...
    def close(self) -> None: ...

    def add(self, frame: Frame) -> None:
        if self.differs is not None:
            return
        if frame.tick >= len(self._rows) and self.ended:
            return
        if frame.tick >= len(self._rows):
            self.differs = f"tick {frame.tick}: the run ends, now it goes on"
            return
        now, row = row_of(frame, self._actor), self._rows[frame.tick]
        for name, value in now.items():
            if np.asarray(value).tobytes() != np.asarray(row[name]).tobytes():
                self.differs = f"tick {frame.tick}: {name} {_short(row[name])}, now {_short(value)}"
                return
        self.ticks += 1


def _whole(runs: RunReader, number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not 0 <= number < len(runs):
        raise UserError(f"episode: expected 0 to {len(runs) - 1} of {runs.root}, got {number}")
    footer = runs.episodes[number]
    if footer["run"].get("initial_state") is None:
        raise UserError(f"replay: expected a run in a simulated world, got {footer['layout']['robot']}")
    return footer, runs.rows(number)


def _world(footer: Mapping[str, Any], settings: Mapping[str, Any]) -> EvaluationEnv:
    suite = footer["suite"]
    drawn = settings.get("drawing") if benchmark(suite).package is not None else None
    options = {} if drawn is None else {"drawing": drawn}
    return make(suite, settings.get("family", footer["family"]), pixels="lazy", **options)


def _settings(run: Mapping[str, Any], runs: RunReader) -> Settings:
    kept = run.get("settings")
    if not kept:
        raise UserError(f"replay: expected the agent's settings in {runs.root}, found none")
    settings = Settings(**{f.name: kept[f.name] for f in dataclasses.fields(Settings) if f.name in kept})
    if settings.clock != "sync":
        raise UserError(f"replay: expected a run with the clock 'sync', got '{settings.clock}'")
    if settings.batch > 1:  # sums are rounded by the place in the batch
        raise UserError(f"replay: expected an agent that ran by itself, got a batch of {settings.batch}")
    if (now := fingerprint(settings)) != run["checkpoint_sha256"]:
        was = str(run["checkpoint_sha256"])[:12]
        raise UserError(f"replay: expected weights {was} in '{settings.checkpoint}', got {str(now)[:12]}")
    return settings


def _state(want: np.ndarray, got: np.ndarray, tick: int, runs: RunReader, number: int) -> str | None:
    got = np.asarray(got, np.float32)
    if want.tobytes() == got.tobytes():
        return None
    if want.shape != got.shape:
        return f"tick {tick}: state of {len(want)} numbers, now {len(got)}"
    first = int(np.flatnonzero(want != got)[0]) if (want != got).any() else 0
    name = runs.episodes[number]["layout"]["state"][first]
    return f"tick {tick}: state {name} {float(want[first])!r}, now {float(got[first])!r}"


def _meddled(run: Mapping[str, Any], tick: int) -> str:
    done = [told for told in run["inputs"] if told["what"] not in (*TOLD, ENDED) and told["tick"] <= tick]
    return "" if not done else f" (somebody did '{done[-1]['what']}' at tick {done[-1]['tick']})"


def _short(value: Any) -> str:
    return str(np.asarray(value).tolist())[:200]
