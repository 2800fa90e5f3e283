"""Several episodes at a time in one process: each in a slot with its own world and agent, on one policy. What
the agents ask is answered in one pass.
"""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from agent.asks import Ask, Asking, answer_together
from agent.evaluation.episode import episode
from agent.evaluation.settings import Settings, build, load_policy
from agent.loop import Agent
from agent.recording.recording import Recording
from envs.contract import EvaluationEnv

Record = dict[str, Any]
Measure = Callable[[EvaluationEnv, Agent, int], Asking[Record] | Record]


class Slots:
    """`settings.batch` worlds and agents of these settings. `policy`: instead of loading the checkpoint."""

    def __init__(self, settings: Settings, measure: Measure | None = None, policy=None):
        policy = policy if policy is not None else load_policy(settings)
        self.measure = measure or judged_episode
        self._pairs = [build(settings, policy) for _ in range(settings.batch)]

    def run(self, seeds: Iterator[int | None], take: Callable[[Record], bool]) -> None:
        """Measure the seeds until there are none, or None; `take` is given each record as it is there and
        says whether that was enough.
        """
        under_way: dict[int, tuple[int, Asking[Record], Ask]] = {}
        stopped = False

        def go_on(slot: int, seed: int, asking: Asking[Record], answer: Any) -> None:
            """To the slot's next question, through as many episodes as it takes."""
            nonlocal stopped
            while True:
                try:
                    ask = asking.throw(answer) if isinstance(answer, Exception) else asking.send(answer)
                except StopIteration as end:
                    record = end.value
                except Exception as error:
                    line = f"{type(error).__name__}: {error}"
                    record = {"seed": seed, "error": line, "traceback": traceback.format_exc()}
                else:
                    under_way[slot] = seed, asking, ask
                    return
                stopped = take(record) or stopped
                seed, answer = None if stopped else next(seeds, None), None
                if seed is None:
                    return
                asking = self._begin(slot, seed)

        for slot in range(len(self._pairs)):
            if not stopped and (seed := next(seeds, None)) is not None:
                go_on(slot, seed, self._begin(slot, seed), None)
        while under_way and not stopped:
            now, under_way = list(under_way.items()), {}
            answers = answer_together([ask for _, (_, _, ask) in now], len(self._pairs))
            for (slot, (seed, asking, ask)), answer in zip(now, answers, strict=True):
                ask.waited = time.perf_counter() - ask.born - ask.seconds
                go_on(slot, seed, asking, answer)

    def close(self) -> None:
        if hasattr(self.measure, "close"):
            self.measure.close()
        for env, agent in self._pairs:
            env.close()
            agent.close()

    def _begin(self, slot: int, seed: int) -> Asking[Record]:
        found = self.measure(*self._pairs[slot], seed)
        return (yield from found) if inspect.isgenerator(found) else found


def judged_episode(
    env: EvaluationEnv, agent: Agent, seed: int, recording: Recording | None = None
) -> Asking[Record]:
    """An episode's record; one in which the software failed is an error."""
    record = yield from episode(env, agent, seed, recording=recording)
    if record["failures"]:
        record["error"] = record["failures"][0]["event"]
    return record
