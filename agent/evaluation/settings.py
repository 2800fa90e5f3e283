"""Who is evaluated on what, and the world and the agent that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.clock import Clock
from agent.evaluation import planners
from agent.loop import Agent
from agent.planners import FOREIGN, is_foreign_planner
from agent.policies import is_foreign, open_policy, writes_plans
from agent.recovery import Recovery
from agent.when import read_rules
from backbone.errors import UserError
from envs.contract import EvaluationEnv
from envs.registry import benchmark, make
from highlevel.plan import DONE
from lowlevel.baselines import RandomController, ZeroController
from lowlevel.controller import Controller
from lowlevel.guided import Guided
from lowlevel.sampling import Sampling

CLOCKS = ("sync", "realtime")
CONTROLLERS = ("learned", "teacher", "obedient", "random", "zero")


@dataclass(frozen=True)
class Settings:
    """Who is evaluated on what. All but what is learned is for diagnosis: planners that are wrong on purpose
    (see `planners`), the teacher as controller, the teacher's hand doing as it is told ("obedient"), and what
    any controller has to beat ("random", "zero"). checkpoint and controller may name somebody else's policy
    (see `agent.policies`), planner somebody else's model (see `agent.planners`).
    """

    suite: str = "core"
    family: str | None = None
    checkpoint: str = "nano"
    planner: str = "learned"
    controller: str = "learned"
    execute: int | None = None  # control ticks between looks; the suite's published protocol by default
    steps: int | None = None  # of flow, for a chunk; the preset's by default
    solver: str = "euler"
    plan: str | None = None  # a typed planner's subtasks
    clock: str = "sync"
    plan_delay: float | None = None  # milliseconds, of a realtime clock; as long as it takes by default
    chunk_delay: float | None = None
    keep: bool = False  # promise the controller what is done while it thinks
    skip: bool | None = None  # pass over what lies behind when a chunk comes late; positions by default
    guided: str | None = None  # lead chunks on from the last one, by this Jacobian ("true", "identity")
    replan: str = "every-look"  # rules that call for a plan (see `agent.when`)
    recover: bool = False  # back off and try again where it is stuck, and give up in the end
    batch: int = 1  # episodes at a time in a process, their questions answered in one pass
    drawing: str = "published"  # of a benchmark's pictures; "fast" leaves out shadows and the like
    device: str | None = None  # a GPU where there is one, by default

    def __post_init__(self):
        self.sampling()
        for name, value, known in (
            ("planner", self.planner, planners.PLANNERS),
            ("controller", self.controller, CONTROLLERS),
            ("clock", self.clock, CLOCKS),
        ):
            others = {"controller": is_foreign, "planner": is_foreign_planner}.get(name)
            if value not in known and not (others and others(value)):
                also = f", {FOREIGN}" if name == "planner" else ""
                raise UserError(f"{name}: expected one of {', '.join(known)}{also}, got '{value}'")
        learned = is_foreign(self.checkpoint) and self.planner == "learned"
        if learned and not writes_plans(self.checkpoint):
            object.__setattr__(self, "planner", "none")
        if self.execute is None:
            object.__setattr__(self, "execute", benchmark(self.suite).execute)
        if self.batch < 1:
            raise UserError(f"batch: expected at least 1 episode at a time, got {self.batch}")
        if self.guided is not None and not (self.keep and self.clock == "realtime"):
            raise UserError("guided: expected the clock 'realtime' and keep: else nothing is promised")
        self.ticking(1.0)
        read_rules(self.replan)

    def sampling(self) -> Sampling:
        """How chunks are drawn."""
        lead = None if self.guided is None else Guided(jacobian=self.guided)
        return Sampling(self.steps, self.solver, prefix=lead)

    def ticking(self, rate: float) -> Clock:
        """The agent's clock in a world of so many control ticks a second."""
        seconds = [None if ms is None else ms / 1000 for ms in (self.plan_delay, self.chunk_delay)]
        return Clock(self.clock == "realtime", rate, *seconds, self.keep, self.skip)

    @property
    def networked(self) -> bool:
        """Whether a network of ours takes part here."""
        ours = self.planner in planners.NETWORKED or self.controller == "learned"
        return ours and not is_foreign(self.checkpoint)

    @property
    def foreign(self) -> str | None:
        """The name of somebody else's policy that moves the arm, if one does."""
        name = self.checkpoint if self.controller == "learned" else self.controller
        return name if is_foreign(name) else None

    @property
    def served(self) -> bool:
        """Whether the checkpoint is a server of ours that plans, and is asked for plans."""
        return is_foreign(self.checkpoint) and self.planner in planners.NETWORKED


def recovers(suite: str, planner: str) -> bool:
    """Whether an agent that a person watches notices that it is stuck, by default: where subtasks take known
    times, as those of a learned planner on the tabletop do.
    """
    return planner == "learned" and benchmark(suite).name == "tabletop"


def check_run(episodes: int, seed: int | None, workers: int | None = None) -> None:
    """UserError for numbers that no run can have."""
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0), ("workers", workers, 0)):
        if value is not None and value < least:
            kind = "at least 1" if least else "0 or more"
            raise UserError(f"{name}: expected {kind}, got {value}")


def load_policy(settings: Settings):
    """The network of these settings, made ready; None if none takes part."""
    if not settings.networked:
        return None
    from agent.policy import load

    policy = load(settings.checkpoint, _device(settings))
    if settings.batch > 1:
        policy.engine.fix_shapes()  # so that no answer depends on who else asks
    return policy


def build(
    settings: Settings,
    policy=None,
    render_mode: str | None = None,
    ticking: Callable[[float], Clock] | None = None,
) -> tuple[EvaluationEnv, Agent]:
    """The world and the agent of these settings. `policy`: used instead of loading the checkpoint.
    render_mode: "rgb_array" where pictures for people are wanted. ticking: makes another clock than the
    settings' for a world of so many control ticks a second.
    """
    of_others = benchmark(settings.suite).package is not None  # the tabletop has one way of drawing
    options = {"drawing": settings.drawing} if of_others else {}
    env = make(settings.suite, settings.family, render_mode=render_mode, pixels="lazy", **options)
    if policy is None:
        policy = load_policy(settings)
    if settings.controller == "learned" and getattr(policy, "controller", None) is not None:
        policy.controller.sampling = settings.sampling()
    controller = acts = None
    if policy is None and settings.served:
        policy = acts = open_policy(settings.checkpoint)
    if settings.foreign is not None:
        if acts is None or settings.foreign != settings.checkpoint:
            controller = acts = open_policy(settings.foreign, _device(settings))
        has, needs = acts.action_dim, env.action_space.shape[0]
        if has not in (None, needs):
            raise UserError(
                f"controller: expected {needs} numbers an action, got {has} of {settings.foreign}"
            )
    elif settings.controller != "learned":
        controller = _controller(settings.controller, env)
    device = _device(settings) if is_foreign_planner(settings.planner) else "cpu"
    planner = planners.make(settings.planner, env, policy, settings.plan, device)
    clock = (ticking or settings.ticking)(env.rate)
    ours = settings.served or settings.foreign is None
    told = ours and settings.controller in ("learned", "obedient")
    home = DONE if told else None  # a hand that reads no words goes back the way it came
    recovery = Recovery(home=home) if settings.recover else None
    how = {"replan": read_rules(settings.replan), "recovery": recovery}
    agent = Agent(policy or controller, planner, controller, settings.execute, clock, env.rest, **how)
    return env, agent


def _device(settings: Settings) -> str:
    import torch

    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device: expected one that is here, got '{device}' ({reason})") from None
    return device


def _controller(name: str, env: EvaluationEnv) -> Controller:
    space = env.action_space
    if name == "zero":
        return ZeroController(space.shape[0])
    if name == "random":
        walk = 0.02 if env.rest == "last" else 0.0
        return RandomController(space.shape[0], low=space.low, high=space.high, walk=walk)
    from agent.oracle import GuideController, ObedientController, TeacherController
    from envs.tabletop.env import TabletopEnv
    from envs.tabletop.teacher import Teacher

    if name == "teacher" and not isinstance(env, TabletopEnv):
        return GuideController(planners.guide(env, "controller", name), space.shape[0])
    world = planners.tabletop(env, "controller", name)
    return (TeacherController if name == "teacher" else ObedientController)(world, Teacher())
