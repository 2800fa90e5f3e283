"""How fast nano plans and acts, on real observations: the shipped agent along episodes of the tabletop world.

    python benchmarks/tick.py [--checkpoint nano] [--cores 1 2] [--episodes 3]

- plan, plan confirmed: `Policy.plan` without and with the last plan, where that plan still holds.
- written, confirmed: the same without reading what is seen: the words alone.
- chunk: `Policy.act` in 4 and in 5 Euler steps.
- tick: `Policy.step`, plan and chunk from one prefill, the plan written anew or confirmed.

Every look has its turn with every part; medians and 95th percentiles over looks.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Literal

import measure
from measure import Timing

from agent.policy import Policy
from backbone.errors import UserError
from backbone.observation import Observation
from highlevel.plan import Plan
from lowlevel.sampling import Sampling

TICK, SHARE = (
    30.0,
    0.2,
)  # ms of confirm + chunk of 4 steps on one core; a confirmed plan's part of a written one
EXECUTED = 8  # actions between looks, as the agent has it


@dataclass
class Options(measure.Settings):
    checkpoint: str = "nano"  # "nano" (shipped) or a checkpoint directory
    cores: tuple[int, ...] = (1, 2)
    episodes: int = 3
    looks: int = 40  # of them, that are timed
    steps: tuple[int, ...] = (4, 5)
    mode: Literal["eager", "compiled", "graphs"] = "eager"


@dataclass(frozen=True)
class Look:
    """What the agent saw and knew, and what it then said."""

    seen: Observation
    memory: str
    previous: Plan | None
    plan: Plan


def along(policy: Policy, episodes: int, enough: int) -> list[Look]:
    """Looks of the first evaluation episodes, the first of each left out."""
    from envs.suites import EVALUATION_START
    from envs.tabletop.env import TabletopEnv

    env, found = TabletopEnv(suite="core", pixels="lazy"), []
    for episode in range(episodes):
        env.reset(seed=EVALUATION_START + episode)
        policy.reset(episode)
        memory, previous, success = "", None, False
        while not success and len(found) < enough * (episode + 1) / episodes:
            seen = Observation.from_env(env.look(), env.unwrapped.task_description)
            plan, chunk = policy.step(seen, memory, previous)
            if previous is not None:
                found.append(Look(seen, memory, previous, plan))
            memory, previous = plan.memory, plan
            for action in chunk.actions[:EXECUTED]:
                success = env.step(action)[-1]["is_success"]
    env.close()
    return found


def timed(policy: Policy, looks: list[Look], options: Options) -> list[dict[str, float]]:
    """Milliseconds of every part, look by look."""
    found = []
    for at, look in enumerate([*looks[:2], *looks]):  # the first two times are for warming up
        calls = parts(policy, look, options.steps)
        names, first = list(calls), at % len(calls)
        turn = names[first:] + names[:first]
        found.append({name: measure.once(calls[name], policy.network.device) for name in turn})
    return found[2:]


def parts(policy: Policy, look: Look, steps: tuple[int, ...]) -> dict[str, measure.Call]:
    seen, memory, text = look.seen, look.memory, look.plan.text

    def chunk(n: int):
        policy.controller.sampling = Sampling(steps=n)
        policy.act(seen, text)

    def tick(n: int, previous: Plan | None):
        policy.controller.sampling = Sampling(steps=n)
        policy.step(seen, memory, previous)

    calls = {
        "plan": lambda: policy.plan(seen, memory),
        "written": measure.nano_writing(policy, seen, memory, None),
        **{f"chunk, {n} steps": lambda n=n: chunk(n) for n in steps},
        **{f"tick, {n} steps": lambda n=n: tick(n, None) for n in steps},
    }
    if look.plan.origin == "confirmed":
        calls |= {
            "plan confirmed": lambda: policy.plan(seen, memory, look.previous),
            "confirmed": measure.nano_writing(policy, seen, memory, look.previous),
            **{f"tick confirmed, {n} steps": lambda n=n: tick(n, look.previous) for n in steps},
        }
    return calls


def main(options: Options) -> dict:
    device = options.begin()
    if options.episodes < 1 or options.looks < 1 or min(options.steps, default=0) < 1:
        raise UserError("episodes, looks and steps: expected at least 1 of each")
    policy = Policy.from_pretrained(options.checkpoint, device, seed=options.seed)
    missing = measure.prepare(policy, options.mode)
    if missing:
        raise UserError(f"mode: '{options.mode}' cannot be had ({missing})")
    looks = along(policy, options.episodes, options.looks)
    confirmed = sum(look.plan.origin == "confirmed" for look in looks)
    words = sum(len(look.plan.tokens) - 1 for look in looks) / len(looks)
    record = {"benchmark": "tick", "checkpoint": options.checkpoint, "mode": options.mode}
    record |= {"looks": len(looks), "looks_confirmed": confirmed, "tokens_per_plan": words, "cores": {}}
    rows = []
    for cores in options.cores:
        replace(options, threads=cores).begin()
        found = timed(policy, looks, options)
        names = sorted({name for look in found for name in look})
        by_part = {name: Timing([look[name] for look in found if name in look]) for name in names}
        shares = {}
        for part, anew in (("confirmed", "written"), ("plan confirmed", "plan")):
            both = [look[part] / look[anew] for look in found if part in look]
            shares |= {f"{part} / {anew}": statistics.median(both)} if both else {}
        record["cores"][str(cores)] = {
            "parts": {name: timing.to_dict() for name, timing in by_part.items()},
            "shares": shares,
        }
        wished = {"tick confirmed, 4 steps": f"{TICK:.0f} or less"} if cores == 1 else {}
        rows += [(cores, name, of.median, of.p95, wished.get(name)) for name, of in by_part.items()]
        rows += [(cores, name, share, None, f"{SHARE} or less") for name, share in shares.items()]
    options = replace(options, threads=max(options.cores))
    title = f"{options.checkpoint}: {len(looks)} looks, {confirmed} confirmed, {words:.1f} tokens a plan"
    return measure.report(options, title, ("cores", "part", "ms", "p95", "wished"), rows, record)


if __name__ == "__main__":
    measure.command(main, Options, __doc__)
