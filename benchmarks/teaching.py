"""Does teaching teach? What the shipped agent solves with an arm that is not as it was, before and after a
person took over where it was stuck, and it was fine-tuned on what they showed.

    python benchmarks/teaching.py --out runs/teaching --lessons 60 --episodes 100 --minutes 5

The hand drifts: `drift` is added to the sideways speed of every action (1 is full speed, 60 cm a second).
The person is a scripted one, who knows the drift: does what the tabletop's teacher would do, less the drift,
types its subtasks and what to remember, takes over where the same part of the task has lasted for 3 s or the
agent says "done" too early, and hands back when the next part has begun. Lessons and measurements have
different seeds; before and after are the same seeds, paired.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro

from agent.evaluation.episode import run_episode
from agent.evaluation.paired import mcnemar, paired_interval
from agent.evaluation.recorded import who
from agent.evaluation.settings import Settings, build
from agent.evaluation.statistics import wilson
from agent.oracle import GuideTeleop
from agent.recording import Recording
from agent.recording.columns import TABLETOP
from agent.recording.dataset import FOOTER
from agent.recording.runs import RunReader, RunWriter
from agent.teach import Taught
from training.cache import build_cache
from training.loop import Config, train
from training.taught import BY_PERSON

STUCK = 60  # ticks of one subtask
BEGUN = 10  # ticks of the next one, after which the person lets go
SIDEWAYS = TABLETOP.action.index("dy")
LESSONS, MEASURED = 40_000, 50_000  # first seeds


@dataclass
class How:
    """Options of `python benchmarks/teaching.py`.

    Args:
        out: folder for runs, cache, network and results; what is there already is not made again.
        drift: added to the sideways speed.
        lessons: episodes in which the person helps.
        episodes: that are measured, before and after.
        minutes: of training, on one core.
        learning_rate: of the fine-tuning.
        planner_weight: 0 teaches the controller alone.
        suite: of tasks.
        cloned: for comparison, learn from all frames of the lessons, the agent's own as if they had been
            shown.
        steps: of training, instead of minutes.
    """

    out: Path = Path("runs/teaching")
    drift: float = 0.15
    lessons: int = 60
    episodes: int = 100
    minutes: float = 5.0
    learning_rate: float = 3e-4
    planner_weight: float = 0.0
    suite: str = "core"
    cloned: bool = False
    steps: int | None = None


class Person(GuideTeleop):
    """The scripted person, and when they take the arm."""

    def __init__(self, guide, drift: float):
        super().__init__(guide, TABLETOP.action)
        self.drift = drift
        self.begin_lesson()

    def begin_lesson(self) -> None:
        self._subtask, self._since = "", 0

    def get_action(self) -> dict[str, float]:
        action = super().get_action()
        name = self.names[SIDEWAYS]
        action[name] = float(np.clip(action[name] - self.drift, -1, 1))
        return action

    def watch(self, taught: Taught, moment: dict[str, Any]) -> None:
        """After every tick."""
        now, tick = self.guide.label().subtask, moment["tick"]
        if now != self._subtask:
            self._subtask, self._since, changed = now, tick, True
        else:
            changed = False
        lasted = tick - self._since
        if not taught.drives and not moment["success"] and (lasted >= STUCK or taught.done):
            taught.take_over()
            self._taken = tick
            changed = True
        elif taught.drives and self._since > self._taken and lasted >= BEGUN:
            taught.hand_back()
        if taught.drives and changed:
            for text in self.typed():
                taught.say(text)


def drifting(settings: Settings, drift: float, policy=None):
    """(world, agent): the tabletop with an arm that drifts."""
    env, agent = build(settings, policy)
    step = env.step

    def drifts(action: np.ndarray):
        action = np.array(action, np.float32)
        action[SIDEWAYS] += drift
        return step(np.clip(action, -1, 1))

    env.step = drifts
    return env, agent


def measured(how: How, name: str, checkpoint: str) -> dict[int, bool]:
    """Solved or not, by seed; kept in OUT/NAME.json."""
    path = how.out / f"{name}.json"
    if not path.exists():
        env, agent = drifting(Settings(how.suite, checkpoint=checkpoint), how.drift)
        found = {}
        for seed in range(MEASURED, MEASURED + how.episodes):
            found[seed] = bool(run_episode(env, agent, seed)["success"])
            print(f"{name}: {sum(found.values())} of {len(found)}", flush=True)
        env.close()
        path.write_text(json.dumps(found))
    return {int(seed): solved for seed, solved in json.loads(path.read_text()).items()}


def lessons(how: How) -> dict[str, Any]:
    """Episodes with the person beside -> what came of it."""
    settings, root = Settings(how.suite), how.out / "runs"
    done = len(RunReader(root)) if (root / "data").exists() else 0
    if done < how.lessons:
        env, agent = drifting(settings, how.drift)
        person = Person(env.teacher(), how.drift)
        with Recording(RunWriter(root, who(settings))) as recording, Taught(agent, person) as taught:
            for seed in range(LESSONS + done, LESSONS + how.lessons):
                person.begin_lesson()
                watch = lambda _env, _step, moment: person.watch(taught, moment)
                record = run_episode(env, taught, seed, watch=watch, recording=recording)
                if stopped := recording.end():
                    raise SystemExit(stopped[0])
                print(f"lesson {seed}: solved {record['success']}", flush=True)
        env.close()
    episodes = RunReader(root).episodes
    return {
        "lessons": len(episodes),
        "solved": sum(e["success"] for e in episodes),
        "frames": sum(e["length"] for e in episodes),
        "frames_of_the_person": sum(e["interventions"] for e in episodes),
        "helped_in": sum(e["interventions"] > 0 for e in episodes),
    }


def as_if_shown(root: Path, out: Path) -> Path:
    """A copy of recorded runs that says of every frame that a person drove it."""
    for path in sorted((root / "data").rglob("*.parquet")):
        table = pq.read_table(path)
        footer = json.loads(table.schema.metadata[FOOTER])
        footer["interventions"] = footer["length"]
        who = pa.array([BY_PERSON if name == "learned" else name for name in table["acted_by"].to_pylist()])
        table = table.set_column(table.column_names.index("acted_by"), "acted_by", who)
        to = out / path.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({FOOTER: json.dumps(footer)}), to)
    return out


def main(how: How) -> int:
    torch.set_num_threads(1)
    how.out.mkdir(parents=True, exist_ok=True)
    before = measured(how, "before", "nano")
    taught = lessons(how)
    length = f"{how.minutes:g}min" if how.steps is None else f"{how.steps}steps"
    name = f"{length}-planner{how.planner_weight:g}{'-cloned' if how.cloned else ''}"
    cache, run = how.out / f"cache{'-cloned' if how.cloned else ''}", how.out / f"run-{name}"
    runs = how.out / "runs"
    if how.cloned:
        runs = as_if_shown(runs, how.out / "runs-cloned")
    # what the planner sees is not needed to teach the controller alone
    frames = build_cache([runs], cache, workers=1, pointer=None if how.cloned else "nano")
    if not (run / "policy").exists():
        train(
            Config(
                out=run,
                init="nano",
                cache=cache,
                minutes=how.minutes if how.steps is None else None,
                steps=how.steps,
                learning_rate=how.learning_rate,
                planner_weight=how.planner_weight,
                warmup=50,
                average=0.99,
                precision="no",
            )
        )
    after = measured(how, f"after-{name}", str(run / "policy"))
    wins = sum(after[seed] and not before[seed] for seed in before)
    losses = sum(before[seed] and not after[seed] for seed in before)
    found = {
        "drift": how.drift,
        **taught,
        "frames_learnt_from": frames,
        "before": [sum(before.values()), len(before), *wilson(sum(before.values()), len(before))],
        "after": [sum(after.values()), len(after), *wilson(sum(after.values()), len(after))],
        "only_after": wins,
        "only_before": losses,
        "p": mcnemar(wins, losses),
        "difference": paired_interval(wins, losses, len(before)),
    }
    (how.out / f"{run.name}.json").write_text(json.dumps(found, indent=2))
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(How)))
