"""Between every action and every robot: what leaves here is finite, in range, and no faster than allowed.

A number of an action is a position (joints, grippers) or a speed (changes of the hand's pose, as LIBERO has
them). Both may be limited in range, speed and acceleration; the hand may be kept in a box. Braking is planned
ahead: who comes near a limit is slowed so that the limit on acceleration can be kept as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from backbone.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Of a robot with A numbers an action, `rate` of them a second.

    low, high: (A,) the range. positions: (A,) bool, which numbers are positions; the others are speeds and
    are zero at rest. speed: (A,) the most that a position may change in a second. acceleration: (A,) the most
    that its speed may change in a second, or that a speed may. Infinite where there is no limit.
    box: ((x, y, z), (x, y, z)) in metres, in which the hand stays, where the first three numbers move it;
    reach: metres that 1 moves it in a tick.
    """

    low: Sequence[float]
    high: Sequence[float]
    positions: Sequence[bool]
    rate: float
    speed: Sequence[float] | None = None
    acceleration: Sequence[float] | None = None
    box: tuple[Sequence[float], Sequence[float]] | None = None
    reach: float = 0.0

    def __post_init__(self):
        size = len(self.low)
        for name in ("high", "positions", "speed", "acceleration"):
            value = getattr(self, name)
            if value is not None and len(value) != size:
                raise UserError(f"limits: expected {size} numbers as {name}, got {len(value)}")
        if not np.all(np.asarray(self.low, float) <= np.asarray(self.high, float)):
            raise UserError(f"limits: expected low below high, got {self.low} and {self.high}")
        if not self.rate > 0 or (self.box is not None and not self.reach > 0):
            raise UserError(f"limits: expected a rate and a reach above 0, got {self.rate} and {self.reach}")
        for name in ("speed", "acceleration"):
            value = getattr(self, name)
            if value is not None and not np.all(np.asarray(value, float) > 0):
                raise UserError(f"limits: expected {name} above 0, got {value}")
        if self.box is not None and (size < 3 or any(self.positions[:3])):
            raise UserError("limits: expected three speeds of the hand first, to keep it in a box")


@dataclass
class Intervention:
    """what: "range", "speed" (and acceleration), "box", "not finite", "shape", "none" (no action), "stopped"
    or "stale". From control tick `tick` on, `ticks` in a row; `most`: the largest difference to a number.
    """

    what: str
    tick: int
    ticks: int = 1
    most: float = 0.0


@dataclass
class Safety:
    """Call it with every action. stale: seconds without a new observation after which the robot is held.

    interventions: what was done, those in a row as one. refused: why the last action was not done at all, in
    the same words; None if it was.
    """

    limits: Limits
    stale: float = np.inf
    interventions: list[Intervention] = field(default_factory=list)

    def __post_init__(self):
        limits = self.limits
        self._low, self._high = (np.asarray(v, float) for v in (limits.low, limits.high))
        self._positions = np.asarray(limits.positions, bool)
        infinite = np.full(len(self._low), np.inf)
        speed = infinite if limits.speed is None else np.asarray(limits.speed, float)
        most = infinite if limits.acceleration is None else np.asarray(limits.acceleration, float)
        self._step = speed / limits.rate  # of a position in a tick
        self._change = np.where(self._positions, most / limits.rate**2, most / limits.rate)
        self.reset()

    def reset(self, position: Sequence[float] | None = None) -> None:
        """At rest. position: (A,) where the positions are; by default the first action says it."""
        size = len(self._low)
        self.interventions.clear()
        self.tick, self.stopped, self.refused = 0, False, None
        self._at = None if position is None else np.clip(np.asarray(position, float), self._low, self._high)
        self._moving = np.zeros(size)  # of positions, in the last tick; of speeds, the last ones
        self._before = self._at
        self._seen: float | None = None

    def stop(self) -> None:
        """Emergency: from now on the robot is braked and held, whatever comes, until `reset`."""
        self.stopped = True

    @property
    def resting(self) -> bool:
        """Whether the last action moves nothing."""
        return not self._moving.any()

    def seen(self, now: float) -> None:
        """An observation was taken at this time (seconds)."""
        self._seen = now

    def lost(self) -> None:
        """The last action did not reach the robot: its positions are still those of before, and at rest."""
        self._at = self._before
        self._moving = np.where(self._positions, 0.0, self._moving)

    def found(self, position: Sequence[float]) -> None:
        """It was out of our hands, and is here (A,) now, at rest."""
        self._at = self._before = np.clip(np.asarray(position, float), self._low, self._high)
        self._moving = np.zeros(len(self._low))

    def __call__(self, action, hand: Sequence[float] | None = None, now: float | None = None) -> np.ndarray:
        """What the robot may do, (A,) float32: the action as nearly as the limits allow; None holds it still.
        hand: its position in metres (3,), needed to keep it in a box. now: seconds, to tell whether
        observations are stale.
        """
        wanted, refused = self._wanted(action, now)
        self.refused = refused
        ranged = np.clip(wanted, self._low, self._high)
        if self._at is None:
            self._at = ranged.copy()
        given = np.where(self._positions, self._positioned(ranged), self._sped(ranged))
        kept = self._boxed(given, hand)
        for what, before, after in (
            ("range", wanted, ranged),
            ("speed", ranged, given),
            ("box", given, kept),
        ):
            if refused is None and (most := float(np.abs(after - before).max(initial=0.0))) > 0:
                self._note(what, most)
        if refused is not None:
            self._note(refused, 0.0)
        self._before, self._moving = self._at, np.where(self._positions, kept - self._at, kept)
        self._at = np.where(self._positions, kept, self._at)
        self.tick += 1
        return kept.astype(np.float32)

    def _wanted(self, action, now: float | None) -> tuple[np.ndarray, str | None]:
        """The action, or holding still and why."""
        late = now is not None and self._seen is not None and now - self._seen > self.stale
        found, size, why = None, len(self._low), None
        try:
            found = np.asarray(action, float)
        except (TypeError, ValueError, OverflowError):
            why = "shape"
        if action is None:
            why = "none"
        elif why is None and found.shape != (size,):
            why = "shape"
        elif why is None and not np.isfinite(found).all():
            why = "not finite"
        why = "stopped" if self.stopped else "stale" if late else why
        if why is None:
            return found, None
        at = np.clip(np.zeros(size), self._low, self._high) if self._at is None else self._at
        return np.where(self._positions, at, 0.0), why

    def _positioned(self, wanted: np.ndarray) -> np.ndarray:
        """Positions: bounded in speed and its change, and able to stop before the end of the range."""
        moving, change = self._moving, self._change
        up = np.minimum(np.minimum(self._step, moving + change), _stoppable(self._high - self._at, change))
        down = np.maximum(np.maximum(-self._step, moving - change), -_stoppable(self._at - self._low, change))
        move = np.clip(wanted - self._at, np.minimum(down, up), up)
        # adding and taking away again loses bits: never past the range
        return np.clip(self._at + move, self._low, self._high)

    def _sped(self, wanted: np.ndarray) -> np.ndarray:
        change = self._change
        return np.clip(np.clip(wanted, self._moving - change, self._moving + change), self._low, self._high)

    def _boxed(self, given: np.ndarray, hand: Sequence[float] | None) -> np.ndarray:
        """Speeds of the hand: able to stop before the walls; outside of them only inwards."""
        if self.limits.box is None:
            return given
        if hand is None:
            raise UserError("safety: expected the hand's position to keep it in its box, got none")
        at, kept = np.asarray(hand, float)[:3], given.copy()
        low, high = (np.asarray(wall, float) for wall in self.limits.box)
        change, moving = self._change[:3], self._moving[:3]
        up = _stoppable((high - at) / self.limits.reach, change)
        down = -_stoppable((at - low) / self.limits.reach, change)
        move = np.clip(given[:3], down, np.maximum(up, down))
        # a hand that was pushed may be faster than it could stop: then it brakes as hard as it may
        move = np.clip(move, moving - change, moving + change)
        kept[:3] = np.clip(move, self._low[:3], self._high[:3])
        return kept

    def _note(self, what: str, most: float) -> None:
        last = next((i for i in reversed(self.interventions) if i.what == what), None)
        if last is not None and last.tick + last.ticks == self.tick:
            last.ticks, last.most = last.ticks + 1, max(last.most, most)
        else:
            self.interventions.append(Intervention(what, self.tick, 1, most))


def _stoppable(gap: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The longest step of a tick from which one stops within the gap, when each further step may be shorter
    by `change` only: d + (d - c) + (d - 2c) + ... <= gap.
    """
    gap = np.maximum(gap, 0.0)
    finite = np.isfinite(change)
    c = np.where(finite, change, 1.0)
    n = np.floor((np.sqrt(1 + 8 * gap / c) - 1) / 2)
    return np.where(finite, (gap + c * n * (n + 1) / 2) / (n + 1), gap)
