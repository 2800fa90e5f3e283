"""Who is evaluated on what, and the world and the agent that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from agent.evaluation import planners
from agent.loop import Agent
from backbone.errors import UserError
from lowlevel.baselines import RandomController, ZeroController
from lowlevel.sampling import Sampling

CONTROLLERS = ("learned", "teacher", "obedient", "random", "zero")


@dataclass(frozen=True)
class Settings:
    """Who is evaluated on what. All but what is learned is for diagnosis: planners that are wrong on purpose
    (see `planners`), the teacher as controller, the teacher's hand doing as it is told ("obedient"), and what
    any controller has to beat ("random", "zero").
    """

    suite: str = "core"
    family: str | None = None
    checkpoint: str = "nano"
    planner: str = "learned"
    controller: str = "learned"
    execute: int = 8
    steps: int | None = None  # of flow, for a chunk; the preset's by default
    solver: str = "euler"
    plan: str | None = None  # a typed planner's subtasks

    def __post_init__(self):
        Sampling(self.steps, self.solver)
        for name, value, known in (
            ("planner", self.planner, planners.PLANNERS),
            ("controller", self.controller, CONTROLLERS),
        ):
            if value not in known:
                raise UserError(f"{name}: expected one of {', '.join(known)}, got '{value}'")

    @property
    def networked(self) -> bool:
        """Whether a network takes part."""
        return self.planner in planners.NETWORKED or self.controller == "learned"


def check_run(episodes: int, seed: int | None, workers: int | None = None) -> None:
    """UserError for numbers that no run can have."""
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0), ("workers", workers, 0)):
        if value is not None and value < least:
            kind = "at least 1" if least else "0 or more"
            raise UserError(f"{name}: expected {kind}, got {value}")


def build(settings: Settings, policy=None):
    """The world and the agent of these settings. `policy`: used instead of loading the checkpoint."""
    from envs.tabletop.env import TabletopEnv

    env = TabletopEnv(suite=settings.suite, family=settings.family, pixels="lazy")
    if policy is None and settings.networked:
        from agent.policy import load

        policy = load(settings.checkpoint)
    if settings.controller == "learned" and getattr(policy, "controller", None) is not None:
        policy.controller.sampling = Sampling(settings.steps, settings.solver)
    controller = None
    if settings.controller in ("teacher", "obedient"):
        from agent.oracle import ObedientController, TeacherController
        from envs.tabletop.teacher import Teacher

        kind = TeacherController if settings.controller == "teacher" else ObedientController
        controller = kind(env.world, Teacher())
    elif settings.controller != "learned":
        controller = {"random": RandomController, "zero": ZeroController}[settings.controller]()
    planner = planners.make(settings.planner, env.world, policy, settings.plan)
    return env, Agent(policy or controller, planner=planner, controller=controller, execute=settings.execute)
