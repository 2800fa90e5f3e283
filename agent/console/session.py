"""A run that a person sits beside: the world, the agent, and all that one may do to them while they run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agent.asks import Asking, run_alone
from agent.console.film import Film
from agent.console.shown import Note, Shown
from agent.evaluation.episode import SLIGHT
from agent.loop import Agent
from agent.recording import ENDED, Frame, Recording, Run
from agent.safety import Safety
from agent.teach import Taught
from backbone.errors import UserError
from backbone.observation import Observation
from envs.contract import EvaluationEnv
from envs.tabletop.env import TabletopEnv, disturb
from envs.tabletop.tasks import Event

SPEEDS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
DEAR = 0.02  # seconds: a world that takes longer to draw is drawn only when the agent looks
AT_ONCE = ("x", "\x18", "q")  # keys that are obeyed while the agent thinks, others after it
HELP = (
    "type what the arm should do, or a correction; stop, go on, faster, slower; subtask: pick up the red "
    "block at 40% 62% (across, down), subtask: (the planner plans again); take over, then left, right, away, "
    "near, up, down, turn left, turn right (and for how many ticks), grip, hand back; emergency stop (again: "
    "free), reset, next, step, nudge, drop, video, quit"
)


class Session:
    """tick: one control tick. press: a key. obey: a line that was typed. `shown` is what has come of it.

    told: called with each Note as it happens. recording: of every episode, also those that a person ends.
    """

    def __init__(
        self,
        env: EvaluationEnv,
        agent: Agent | Taught,
        safety: Safety,
        out: Path = Path("outputs/demo"),
        told: Callable[[Note], None] = lambda note: None,
        recording: Recording | None = None,
    ):
        self.recording = recording or Recording()
        self.env, self.agent, self.safety, self.told = env, agent, safety, told
        self.film = Film(env.suite, out)
        self.shown, self.over, self.wanted = Shown(), False, False
        self._disturbed, self._dear = 0, False
        self._thinking, self._later = False, []
        self.keys: dict[str, Callable[[], None]] = {
            " ": self.pause, ".": self.single, "-": partial(self.pace, -1), "+": partial(self.pace, 1),
            "=": partial(self.pace, 1), "r": self.again, "n": self.next, "x": self.emergency,
            "\x18": self.emergency, "p": partial(self.perturb, "move", "take"),
            "d": partial(self.perturb, "slip"), "v": self.record, "q": self.leave, "t": self.turn,
        }  # fmt: skip
        self.words: dict[str, Callable[[], None]] = {
            "step": self.single, "reset": self.again, "next": self.next,
            "emergency stop": self.emergency, "nudge": self.keys["p"], "drop": self.keys["d"],
            "video": self.record, "quit": self.leave, "help": lambda: self.shown.note(HELP, "you"),
        }  # fmt: skip

    @property
    def period(self) -> float:
        """Seconds between ticks."""
        return 1.0 / (self.env.rate * self.shown.speed)

    @property
    def finished(self) -> bool:
        """Whether the episode is over: solved and settled, said to be done, given up, or out of time."""
        shown, env = self.shown, self.env
        if self.tick_number >= env.max_steps or self.agent.gave_up:
            return True
        if shown.progress is None:
            return self.agent.done
        return shown.solved is not None and shown.seconds > shown.solved + env.linger / env.rate

    # -- an episode

    def begin(self, seed: int, instruction: str | None = None) -> None:
        """The scene of this seed from its start. UserError for words that the agent was never taught."""
        self._keep()
        self.seed, self._asked = seed, instruction
        self.env.begin(seed)
        said = instruction or self.env.task_description
        self.agent.reset(said, seed)
        self.safety.reset()
        before = self.shown
        self.shown = Shown(f"{self.env.suite} {self.env.stratum} {seed}", said, self.told)
        self.shown.speed, self.shown.paused = before.speed, before.paused
        self.shown.clock = "realtime" if self.agent.clock.realtime else "sync"
        self.tick_number, self._seen_at, self._noted = 0, -1, 0
        self._times: deque[float] = deque(maxlen=41)
        self._judge()
        judged = self.shown.progress is not None
        self.shown.driving = self.drives
        self.recording.begin(Run.of(self.env, seed, instruction, judged=judged))
        self.shown.note(f"{self.shown.title}: {said}", "start")

    def tick(self) -> None:
        """See, think, act: one tick."""
        run_alone(self.ticking())

    def ticking(self) -> Asking[None]:
        """The same, handing out the agent's questions (see `agent.asks`). After an emergency stop the arm is
        held and nothing is thought.
        """
        shown, agent, env = self.shown, self.agent, self.env
        step = None
        if not self.safety.stopped:
            seen = None
            if agent.needs_observation:
                seen = {"pixels": {}, "agent_pos": env.state()} if agent.blind else self.see()
                seen = Observation.from_env(seen, agent.instruction)
            here = {"tick": self.tick_number, "images": self.recording.look(env, seen), "state": env.state()}
            here["instruction"] = agent.instruction
            self._thinking = True
            try:
                step = yield from agent.stepping(seen)
            finally:
                self._thinking = False
        given = np.zeros(env.action_space.shape) if step is None else step.action
        action = self.safety(given)
        *_, info = env.step(action)
        self.tick_number += 1
        shown.seconds = self.tick_number / env.rate
        self._times.append(time.perf_counter())
        shown.hertz = _rate(self._times)
        if step is not None:
            shown.happened(step, env.rate)
        shown.waits, shown.driving = agent.stopped, self.drives
        self._interventions()
        if info.get("instruction_changed") and self._asked is None:
            agent.say(env.task_description)
            shown.told_anew(env.task_description)
            shown.note(f"the person says: {env.task_description}", "you")
        shown.progressed(float(info["progress"]), bool(info["is_success"]))
        shown.over = self.finished or agent.done
        if step is not None:
            moment = {"tick": self.tick_number, "seconds": shown.seconds, "instruction": shown.instruction}
            moment |= {"progress": shown.progress or 0.0, "success": shown.solved is not None}
            self.film.add(env, step, moment)
            now = {"progress": moment["progress"], "success": moment["success"], "after": env.state()}
            self.recording.add(Frame(**here, action=action, step=step, env=env, **now))
        later, self._later = self._later, []
        for act in later:
            act()

    def see(self) -> dict[str, Any]:
        """The present observation; drawn once a tick."""
        if self._seen_at != self.tick_number:
            started = time.perf_counter()
            self._seen = self.env.look()
            self._dear = self._seen_at >= 0 and time.perf_counter() - started > DEAR
            self._seen_at, self.shown.pixels = self.tick_number, self._seen["pixels"]
        return self._seen

    def show(self) -> None:
        """Bring what is shown up to date: the pictures too, where that is cheap."""
        if not self._dear and not self._thinking:
            self.see()
        self._filmed()
        self.shown.write_on()

    def listen(self) -> None:
        """Hear the planner's words while it writes them, where it is one of ours."""
        planner = getattr(self.agent.policy, "planner", None)
        if self.agent.planner == "learned" and hasattr(planner, "heard"):
            planner.heard = lambda plan: self.agent.ordered or self.shown.hear(plan)

    # -- what a person may do

    def press(self, key: str) -> None:
        """A key that is none of ours does nothing."""
        if key in self.keys:
            self._do(self.keys[key], key in AT_ONCE)

    def obey(self, text: str) -> None:
        """A typed line: a command, or what the agent makes of it. What is wrong with it becomes a message."""
        plain = " ".join(text.lower().split()).rstrip(".!")
        if self.drives and self.agent.teleop.obey(plain):
            return
        if plain in self.words:
            self._do(self.words[plain], plain in ("emergency stop", "quit"))
        elif plain:
            self._do(partial(self._say, text))

    @property
    def drives(self) -> bool:
        """Whether the person moves the arm."""
        return isinstance(self.agent, Taught) and self.agent.drives

    def turn(self) -> None:
        """The person takes the arm over, or hands it back."""
        if not isinstance(self.agent, Taught):
            return self.shown.refuse("this arm cannot be moved by keys")
        self.agent.hand_back() if self.drives else self.agent.take_over()
        self.shown.driving = self.drives

    def steer(self, key: str) -> bool:
        """Whether it is a key that moves the hand, while the person drives."""
        return self.drives and self.agent.teleop.press(key)

    def pause(self, on: bool | None = None) -> None:
        self.shown.paused = not self.shown.paused if on is None else on
        self._times.clear()
        self.shown.note("paused" if self.shown.paused else "goes on", "you")

    def single(self) -> None:
        if not self.shown.paused:
            self.pause(True)
        self.wanted = True

    def pace(self, change: int) -> None:
        at = min(range(len(SPEEDS)), key=lambda i: abs(SPEEDS[i] - self.shown.speed)) + change
        self.shown.speed = SPEEDS[min(max(at, 0), len(SPEEDS) - 1)]
        self._times.clear()

    def again(self) -> None:
        """The same scene, as it was asked for."""
        self.begin(self.seed, self._asked)

    def next(self) -> None:
        self.begin(self.seed + 1)

    def emergency(self) -> None:
        """The arm is held; pressed again it is free, and the agent looks anew."""
        if self.safety.stopped:
            self.safety.reset()
            self._noted, self.shown.stopped = 0, False
            if not self.agent.stopped:
                self.agent.go_on()
            self.shown.note("released", "you")
        else:
            self.safety.stop()
            self.recording.told("emergency stop")
            self.shown.stopped = True
            self.shown.note("EMERGENCY STOP", "warn")

    def perturb(self, *kinds: str) -> None:
        """Let the first of these happen to the table that can."""
        if not isinstance(self.env, TabletopEnv):
            return self.shown.refuse("only on the tabletop can things be moved")
        self._disturbed += 1
        words = {"move": "a block is moved", "take": "a block is taken back", "slip": "it drops the block"}
        for kind in kinds:
            event = Event(self.tick_number, kind, seed=self._disturbed)
            if disturb(self.env.world, self.env.task, event):
                self.shown.note(words[kind], "you")
                self.recording.told("push", words[kind])
                self._seen_at = -1
                return
        none = "nothing is held high enough" if "slip" in kinds else "no block can be moved now"
        self.shown.refuse(none)

    def record(self) -> None:
        """Start a video, or end it; its last pictures are drawn meanwhile."""
        if self.film.state == "saving":
            self.shown.refuse("the last video is still being drawn")
        elif self.film.state == "rec":
            self.film.end()
        else:
            self.shown.note(f"recording {self.film.begin()}", "you")

    def leave(self) -> None:
        self.over = True

    def close(self) -> None:
        """End a video that is being made, free the world and the threads."""
        try:
            self.film.close()
            self._filmed()
            self._keep()
            self.recording.close()
        finally:
            if self.agent.clock.beside is not None:
                self.agent.clock.beside.close()
            self.agent.close()
            self.env.close()

    # -- inside

    def _do(self, act: Callable[[], None], at_once: bool = False) -> None:
        """Now, or, while the agent thinks, once it has."""
        if self._thinking and not at_once:
            self._later.append(partial(self._do, act))
            return
        self.shown.message = ""
        try:
            act()
        except UserError as error:
            self.shown.refuse(str(error))

    def _say(self, text: str) -> None:
        agent, before = self.agent, (self.agent.instruction, self.agent.revision)
        answer = agent.say(text)
        self.recording.told("say", text)
        if agent.instruction != before[0]:
            self._asked, answer = agent.instruction, text
            self._judge()
        if agent.revision != before[1]:
            self.shown.told_anew(agent.instruction)
        if self.shown.paused and answer == "go on":
            self.pause(False)
        self.shown.waits, self.shown.driving = agent.stopped, self.drives
        self.shown.note(f"you say: {text}" + ("" if answer == text else f" ({answer})"), "you")

    def _judge(self) -> None:
        """Whether progress means anything for what was asked."""
        judged = self._asked is None or self.env.asks_for(self._asked)
        self.shown.progress, self.shown.solved = (0.0 if judged else None), None

    def _keep(self) -> None:
        """End what is recorded of this episode."""
        self.recording.told(ENDED)
        self.recording.end()

    def _filmed(self) -> None:
        while self.film.news:
            text, good = self.film.news.pop(0)
            self.shown.note(text, "you") if good else self.shown.refuse(text)
        self.shown.recording = self.film.state

    def _interventions(self) -> None:
        made = self.safety.interventions
        for found in made[self._noted :]:
            slight = found.what == "range" and found.most <= SLIGHT
            if found.what != "stopped" and not slight:
                self.shown.note(f"safety: {found.what}", "warn")
        self._noted = len(made)


def _rate(times: deque[float]) -> float | None:
    return None if len(times) < 3 else (len(times) - 1) / (times[-1] - times[0])
