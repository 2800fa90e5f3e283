"""The policy server: what a client is told, what is kept of it, and what it gets beside others."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from urllib.request import urlopen

import numpy as np
import pytest
import websockets
from websockets.sync.client import connect

from agent.asks import Ask
from agent.policy import load
from agent.robots import ROBOTS
from agent.serving import Background, Limits, Serving
from agent.serving.tarpit import WAIT, Tarpit
from agent.wire import pack, unpack
from backbone import checkpoint
from backbone.errors import UserError
from backbone.observation import Observation
from envs.registry import make

SEED = 1000
pytestmark = pytest.mark.skipif(
    not (checkpoint.SHIPPED / "nano" / checkpoint.WEIGHTS).is_file(), reason="no shipped checkpoint"
)


@pytest.fixture(scope="module")
def server():
    with Background(Serving(port=0, limits=Limits(patience=0.5, queue=2))) as running:
        yield running


@pytest.fixture(scope="module")
def policy():
    return load("nano")


@pytest.fixture(scope="module")
def seen():
    """Two observations of an episode, some ticks apart."""
    env = make("core", None, pixels="lazy")
    env.begin(SEED)
    found = [Observation.from_env(env.look(), env.task_description)]
    for _ in range(8):
        env.step(np.array([0.3, -0.2, -0.5, 0, 0, 0, -1], np.float32))
    found.append(Observation.from_env(env.look(), env.task_description))
    env.close()
    return found


class Line:
    """One connection, as any client of the protocol."""

    def __init__(self, url: str, **options):
        self.socket = connect(url, compression=None, max_size=None, **options).__enter__()
        self.metadata = unpack(self.socket.recv(timeout=20))

    def send(self, observation: Observation | None, **more) -> None:
        shown = {}
        if observation is not None:
            shown = ROBOTS["steersman"].message(observation, observation.instruction)
        self.socket.send(pack(shown | more))

    def answer(self) -> dict | str:
        frame = self.socket.recv(timeout=20)
        return frame if isinstance(frame, str) else unpack(frame)

    def ask(self, observation: Observation | None, **more) -> dict | str:
        self.send(observation, **more)
        return self.answer()


@contextmanager
def line(server, **options):
    found = Line(server.url, **options)
    try:
        yield found
    finally:
        found.socket.close()


def page(server, path: str) -> str:
    scheme = server.url.replace("ws", "http", 1)
    with urlopen(f"{scheme}{path}", timeout=10) as found:
        return found.read().decode()


def metric(server, name: str) -> float:
    lines = [text for text in page(server, "/metrics").splitlines() if text.startswith(name)]
    assert len(lines) == 1, lines
    return float(lines[0].split()[-1])


# -- what a client is told


def test_the_metadata_says_what_is_served(server, policy):
    with line(server) as client:
        about = client.metadata["steersman"]
    assert about["protocol"] == 1 and about["name"] == "nano" and about["planner"] is True
    assert (about["horizon"], about["action_dim"], about["state_dim"]) == (policy.horizon, 7, 8)
    assert about["cameras"] == {"front": [128, 128], "wrist": [64, 64]} and len(about["identity"]) == 64


def test_a_session_gives_what_the_agent_gives_here(server, policy, seen):
    for seed in (0, 7):
        policy.reset(seed)
        plan, first = policy.step(seen[0])
        again, second = policy.step(seen[1], plan.memory, plan)
        with line(server) as client:
            replies = [client.ask(seen[0], reset=seed), client.ask(seen[1])]
        for reply, wanted, chunk in zip(replies, (plan, again), (first, second), strict=True):
            assert np.abs(reply["actions"] - chunk.actions).max() < 1e-5
            assert reply["actions"].dtype == np.float32
            assert (reply["subtask"], reply["memory"], reply["done"]) == (wanted.text, wanted.memory, False)
            assert abs(reply["margin"] - wanted.margin) < 1e-3 and reply["plan_age_ms"] == 0.0
            assert reply["origin"] == wanted.origin and reply["policy_timing"]["infer_ms"] > 0
        assert "prev_total_ms" not in replies[0]["server_timing"]
        assert replies[1]["server_timing"]["prev_total_ms"] > 0


def test_pictures_of_any_size_are_fitted(server, seen):
    large = replace(
        seen[0], images={k: np.repeat(np.repeat(v, 2, 0), 2, 1) for k, v in seen[0].images.items()}
    )
    with line(server) as client:
        reply = client.ask(large)
    assert reply["actions"].shape == (10, 7) and reply["subtask"]


def test_an_error_is_told_as_openpi_does(server, seen):
    odd = replace(seen[0], state=np.zeros(8, np.float32))
    with line(server) as client:
        reply = client.ask(odd, **{"observation/state": np.full(8, np.nan, np.float32)})
        assert isinstance(reply, str) and "finite" in reply and "\n" not in reply
        with pytest.raises(websockets.ConnectionClosed) as closed:
            client.answer()
    assert closed.value.rcvd.code == 1011
    for frame in ("text", b"\xc1", pack([1]), pack({}), pack({"prompt": "clear the table"})):
        with line(server) as client:
            client.socket.send(frame)
            assert isinstance(client.answer(), str)


def test_whoever_sends_an_id_is_answered_by_it_and_stays(server, seen):
    wrong = [
        {"observation/state": np.zeros(7, np.float32)},
        {"observation/image": np.zeros((128, 128, 3), np.int64)},
        {"observation/image": np.zeros((2, 2, 3), np.uint8)},
        {"prompt": "mets le bloc rouge dans le tiroir"},
        {"prompt": 3},
        {"want": "everything"},
        {"subtask": "x" * 5000},
        {"committed": np.zeros((2, 3), np.float32)},
        {"reset": -1},
        {"say": "slower"},
    ]
    with line(server) as client:
        for number, odd in enumerate(wrong):
            reply = client.ask(seen[0], id=number, **odd)
            assert reply["id"] == number and "actions" not in reply, odd
            assert reply["error"] and "\n" not in reply["error"]
        good = client.ask(seen[0], id="last")
    assert good["id"] == "last" and good["actions"].shape == (10, 7)


def test_health_and_metrics_are_answered_while_it_thinks(server, seen):
    thinking, go_on = threading.Event(), threading.Event()
    slow = server.server.inference.submit(Ask(lambda: thinking.set() or go_on.wait(20)))
    assert thinking.wait(10)
    try:
        with line(server) as client:
            client.send(seen[0])
            assert page(server, "/healthz") == "OK\n"
            assert client.socket.ping().wait(5)
            assert metric(server, "steersman_connections") >= 1
            go_on.set()
            assert client.answer()["actions"].shape == (10, 7)
    finally:
        go_on.set()
        slow.result(10)


# -- what is kept


def test_a_named_session_outlives_its_connection(server, policy, seen):
    policy.reset(3)
    plan, _ = policy.step(seen[0])
    _, chunk = policy.step(seen[1], plan.memory, plan)
    with line(server) as client:
        client.ask(seen[0], session="arm 1", reset=3)
    with line(server) as client:
        reply = client.ask(seen[1], session="arm 1")
        assert reply["origin"] == "confirmed" and np.abs(reply["actions"] - chunk.actions).max() < 1e-5
    with line(server) as client:
        assert client.ask(seen[0])["origin"] == "decoded", "another session"


def test_a_subtask_stands_until_it_is_given_back(server, seen):
    with line(server) as client:
        own = client.ask(seen[0])
        ordered = client.ask(seen[0], subtask="pick up the red block")
        stands = client.ask(seen[0])
        back = client.ask(seen[0], subtask="")
    assert ordered["origin"] == stands["origin"] == "person"
    assert ordered["subtask"].startswith("pick up the red block <loc"), "the planner pointed"
    assert "ordered" in ordered["events"] and "given back" in back["events"]
    assert (back["subtask"], back["origin"]) == (own["subtask"], "decoded")


def test_what_a_person_says(server, seen):
    with line(server) as client:
        client.ask(seen[0])
        reply = client.ask(None, say="stop")
        assert reply["said"] == "stop" and "actions" not in reply
        held = client.ask(seen[0])
        assert not held["actions"][:, :6].any() and "held" in held["events"]
        assert client.ask(None, say="go on")["said"] == "go on"
        assert client.ask(seen[0])["actions"][:, :6].any()
        reply = client.ask(seen[0], say="press the red button")
        assert reply["said"] == "press the red button" and "red" in reply["subtask"]
        still = client.ask(seen[0])
        assert still["subtask"] == reply["subtask"], "until the prompt changes"
        other = client.ask(seen[0], prompt="press the blue button")
        assert "corrected" in other["events"] and "blue" in other["subtask"]


def test_plan_and_actions_one_by_one(server, policy, seen):
    plan = policy.plan(seen[0])
    with line(server) as client:
        said = client.ask(seen[0], want="plan", memory="", previous="", id=1)
        assert said["subtask"] == plan.text and "actions" not in said
        again = client.ask(seen[0], want="plan", memory="", previous=said["subtask"], id=2)
        assert again["origin"] == "confirmed" and again["subtask"] == said["subtask"]
        unknown = client.ask(seen[0], want="plan", memory="", previous="close the drawer", id=3)
        assert unknown["origin"] == "decoded"
        made = client.ask(seen[0], want="actions", subtask=said["subtask"], reset=5, id=4)
        policy.reset(5)
        assert np.abs(made["actions"] - policy.act(seen[0], said["subtask"]).actions).max() < 1e-5
        assert "reading" not in made and made["subtask"] == said["subtask"]


def test_promised_actions_are_kept(server, policy, seen):
    with line(server) as client:
        first = client.ask(seen[0], reset=0)["actions"]
        kept = client.ask(seen[0], reset=0, committed=first[4:6])["actions"]
    policy.reset(0)
    asked = policy.ask("step", seen[0], "", None, committed=first[4:6].copy())
    assert np.abs(kept - asked.alone()[1].actions).max() < 1e-5


def test_a_session_that_nobody_uses_is_let_go(seen):
    limits = Limits(idle=0.4)
    with Background(Serving(port=0, limits=limits)) as server, line(server) as client:
        assert "session began" in client.ask(seen[0], session="arm")["events"]
        assert "session began" not in client.ask(seen[0], session="arm")["events"]
        assert metric(server, "steersman_sessions") == 1
        until = time.monotonic() + 10
        while metric(server, "steersman_sessions") and time.monotonic() < until:
            time.sleep(0.02)
        assert "session began" in client.ask(seen[0], session="arm")["events"]


# -- many at a time


def test_who_waits_when_the_worker_is_free_is_answered_together(server, policy, seen):
    before = [metric(server, f'steersman_pass_questions_{w}{{worker="inference"}}') for w in ("count", "sum")]
    go_on = threading.Event()
    held = server.server.inference.submit(Ask(lambda: go_on.wait(20)))
    clients = [Line(server.url) for _ in range(5)]
    try:
        for seed, client in enumerate(clients):
            client.send(seen[seed % 2], reset=seed)
        while len(server.server.inference) < 5:
            assert not go_on.wait(0.01)
        go_on.set()
        replies = [client.answer() for client in clients]
    finally:
        go_on.set()
        held.result(10)
        for client in clients:
            client.socket.close()
    after = [metric(server, f'steersman_pass_questions_{w}{{worker="inference"}}') for w in ("count", "sum")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 5], "one pass"
    for seed, reply in enumerate(replies):
        policy.reset(seed)
        assert np.abs(reply["actions"] - policy.step(seen[seed % 2])[1].actions).max() < 1e-4


def test_sessions_do_not_touch_each_other(server, seen):
    def episode(number: int) -> list[np.ndarray]:
        with line(server) as client:
            return [
                client.ask(seen[i % 2], **({"reset": number} if i == 0 else {}))["actions"] for i in range(4)
            ]

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(episode, range(3)))
    for number, chunks in enumerate(together):
        for chunk, alone in zip(chunks, episode(number), strict=True):
            assert np.abs(chunk - alone).max() < 1e-3


def test_a_request_that_waited_too_long_is_not_computed(server, seen):
    go_on = threading.Event()
    held = server.server.inference.submit(Ask(lambda: go_on.wait(20)))
    with line(server) as client, line(server) as other:
        client.send(seen[0], id=1)
        other.send(seen[0])
        assert not go_on.wait(0.8)
        go_on.set()
        held.result(10)
        assert "waited" in client.answer()["error"]
        assert other.answer()["actions"].shape == (10, 7), "openpi's clients are answered whenever it is"
        assert client.ask(seen[0], id=2)["actions"].shape == (10, 7)


def test_more_than_a_session_may_have_at_a_time_is_refused(server, seen):
    go_on = threading.Event()
    held = server.server.inference.submit(Ask(lambda: go_on.wait(20)))
    with line(server) as client:
        for number in range(3):
            client.send(seen[0], id=number)
        refused = client.answer()
        go_on.set()
        held.result(10)
        answered = {client.answer()["id"] for _ in range(2)}
    assert refused["id"] == 2 and "at most 2 requests" in refused["error"] and answered == {0, 1}


# -- pictures and state under a robot's names


@pytest.mark.parametrize("name", ROBOTS)
def test_what_is_sent_is_what_is_read(name):
    robot, rng = ROBOTS[name], np.random.default_rng(0)
    size = robot.size or 96
    cameras = [*robot.cameras.values(), *robot.optional.values()]
    images = {camera: rng.integers(0, 256, (size, size, 3), np.uint8) for camera in cameras}
    state = rng.normal(size=robot.state_dim).astype(np.float32)
    found = robot.observation(unpack(pack(robot.message(Observation(images, state), "tidy up"))))
    assert found.instruction == "tidy up" and np.array_equal(found.state, state)
    assert set(found.images) == set(images)
    assert all(np.array_equal(found.images[camera], images[camera]) for camera in images)
    assert all(image.flags.owndata for image in found.images.values()), "the frame is let go"


def test_floats_and_channels_first_are_read_as_openpi_does():
    robot, picture = ROBOTS["libero"], np.full((3, 32, 40), 0.5, np.float32)
    shown = {key: picture for key in robot.cameras} | {"observation/state": [0.0] * 8}
    found = robot.observation(shown)
    assert found.images["front"].shape == (32, 40, 3) and (found.images["front"] == 127).all()
    with pytest.raises(UserError, match="floats in"):
        robot.observation({**shown, "observation/image": picture * 3})
    with pytest.raises(UserError, match="expected a picture 'observation/image'"):
        robot.observation({"observation/state": [0.0] * 8})


def test_who_sends_errors_alone_leaves_the_others_their_time():
    tarpit = Tarpit(most=3)
    assert [tarpit.wait() for _ in range(5)] == [0.0, 0.0, 0.0, WAIT, WAIT]
    with Background(Serving(port=0, limits=Limits(refusals=1))) as server, connect(server.url) as line:
        line.recv()
        began = time.monotonic()
        for number in range(3):
            line.send(pack({"id": number}))
            assert "error" in unpack(line.recv())
        assert time.monotonic() - began >= 2 * WAIT
