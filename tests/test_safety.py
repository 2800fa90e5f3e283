"""Safety: whatever comes in, what goes out keeps to the limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.safety import Limits, Safety
from backbone.errors import UserError

JOINTS = Limits(
    low=(-1.0, -2.0, 0.0),
    high=(1.0, 0.5, 0.08),
    positions=(True, True, True),
    rate=50,
    speed=(1.5, 2.0, 0.2),
    acceleration=(4.0, 6.0, 1.0),
)
HAND = Limits(
    low=(-1,) * 7,
    high=(1,) * 7,
    positions=(False,) * 6 + (True,),
    rate=20,
    acceleration=(8.0,) * 6 + (np.inf,),
    box=((0.3, -0.2, 0.02), (0.7, 0.2, 0.4)),
    reach=0.02,
)
NUMBER = st.floats(allow_nan=True, allow_infinity=True, width=32)
NEAR = st.floats(-3, 3, width=32)
EPS = 1e-6


def actions(size: int):
    whole = st.lists(st.one_of(NEAR, NUMBER), min_size=size, max_size=size)
    odd = st.one_of(st.none(), st.just("left"), st.lists(NEAR, max_size=size + 2), st.just([[1.0]]))
    return st.lists(st.one_of(whole, whole, st.just([1.0] * size), st.just([-1.0] * size), odd), max_size=80)


@given(actions(3), st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers(0, 80))
@settings(max_examples=200, deadline=None)
def test_no_sequence_moves_joints_beyond_their_limits(given, where, stop):
    low, high = np.array(JOINTS.low), np.array(JOINTS.high)
    start = low + np.array(where) * (high - low)
    safety = Safety(JOINTS)
    safety.reset(start)
    path = [start, start]
    for tick, action in enumerate(given):
        if tick == stop:
            safety.stop()
        path.append(safety(action).astype(float))
    path = np.array(path)
    speed = np.diff(path, axis=0) * JOINTS.rate
    change = np.diff(speed, axis=0) * JOINTS.rate
    rounding = 2e-7 * JOINTS.rate**2  # positions leave as float32
    assert np.isfinite(path).all() and (path >= low - EPS).all() and (path <= high + EPS).all()
    assert (np.abs(speed) <= np.array(JOINTS.speed) + rounding).all()
    assert (np.abs(change) <= np.array(JOINTS.acceleration) + 4 * rounding).all()


@given(actions(7), st.integers(0, 80))
@settings(max_examples=200, deadline=None)
def test_no_sequence_moves_the_hand_out_of_its_box_or_faster_than_allowed(given, stop):
    safety, hand, last = Safety(HAND), np.array([0.5, 0.0, 0.2]), np.zeros(7)
    low, high = (np.array(wall) for wall in HAND.box)
    for tick, action in enumerate(given):
        if tick == stop:
            safety.stop()
        done = safety(action, hand).astype(float)
        assert np.isfinite(done).all() and (np.abs(done) <= 1).all()
        assert (np.abs(done - last)[:6] <= 8.0 / 20 + EPS).all()
        hand, last = hand + HAND.reach * done[:3], done
        assert (hand >= low - EPS).all() and (hand <= high + EPS).all()


@given(st.lists(st.floats(-1, 1, width=32), min_size=7, max_size=7))
def test_what_is_allowed_is_left_alone(action):
    safety = Safety(Limits((-1,) * 7, (1,) * 7, (False,) * 6 + (True,), 20))
    assert np.array_equal(safety(action), np.array(action, np.float32)) and not safety.interventions


def test_a_stop_brakes_and_holds_and_stays():
    safety = Safety(HAND)
    hand = np.array([0.5, 0.0, 0.2])
    for _ in range(5):
        moved = safety([1, 0, 0, 0, 0, 0, -1], hand)
    assert moved[0] == 1.0
    safety.stop()
    braking = [safety([1, 0, 0, 0, 0, 0, 1], hand) for _ in range(6)]
    assert [round(float(b[0]), 3) for b in braking] == [0.6, 0.2, 0, 0, 0, 0]
    assert all(b[6] == -1 for b in braking)  # it does not let go
    (noted,) = [i for i in safety.interventions if i.what == "stopped"]
    assert (noted.tick, noted.ticks) == (5, 6)
    safety.reset()
    assert safety([0.1] * 7, hand)[0] == pytest.approx(0.1)


def test_old_observations_hold_the_robot():
    safety = Safety(Limits((-1,), (1,), (False,), 20), stale=0.5)
    safety.seen(10.0)
    assert safety([0.4], now=10.4)[0] == pytest.approx(0.4)
    assert safety([0.4], now=10.6)[0] == 0.0 and safety.interventions[-1].what == "stale"
    safety.seen(10.7)
    assert safety([0.4], now=10.8)[0] == pytest.approx(0.4)


def test_each_kind_is_noted():
    safety = Safety(Limits((-1,) * 3, (1,) * 3, (False,) * 3, 20, box=((0, 0, 0), (1, 1, 1)), reach=0.1))
    for action in ([2, 0, 0], [3, 0, 0], [np.nan, 0, 0], [0, 0], [0, 0, -1]):
        safety(action, (0.5, 0.5, 0.05))
    seen = [(i.what, i.tick, i.ticks) for i in safety.interventions]
    assert seen == [("range", 0, 2), ("not finite", 2, 1), ("shape", 3, 1), ("box", 4, 1)]
    assert safety.interventions[0].most == 2.0 and safety.interventions[-1].most == pytest.approx(0.5)


def test_limits_that_are_none():
    with pytest.raises(UserError, match="low below high"):
        Limits((1,), (0,), (True,), 20)
    with pytest.raises(UserError, match="expected 2 numbers as speed"):
        Limits((0, 0), (1, 1), (True, True), 20, speed=(1,))
    with pytest.raises(UserError, match="three speeds"):
        Limits((0,) * 3, (1,) * 3, (True,) * 3, 20, box=((0,) * 3, (1,) * 3), reach=1)
    with pytest.raises(UserError, match="hand's position"):
        Safety(HAND)([0] * 7)
