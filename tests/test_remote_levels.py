"""Agents whose levels are on a server of ours: what it is told, and what they do while it is not there."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from http import HTTPStatus

import numpy as np
import pytest

pytest.importorskip("msgpack")
pytest.importorskip("websockets")

from serving import OURS, PolicyServer, Process, Proxy, planned, unpackb  # noqa: E402
from test_agent import Script  # noqa: E402

from agent import live  # noqa: E402
from agent.loop import Agent  # noqa: E402
from agent.planners import is_foreign_planner, open_planner  # noqa: E402
from agent.policies import open_policy, writes_plans  # noqa: E402
from agent.remote import RemoteController, RemotePlanner, RemotePolicy  # noqa: E402
from agent.safety import Limits, Safety  # noqa: E402
from backbone.errors import PolicyError, UserError  # noqa: E402
from backbone.observation import Observation  # noqa: E402
from highlevel.plan import Plan  # noqa: E402

HAND = Limits((-1,) * 7, (1,) * 7, (False,) * 6 + (True,), 20)
PICTURE = np.zeros((128, 128, 3), np.uint8)
OBSERVATION = Observation({"front": PICTURE, "wrist": PICTURE}, np.zeros(8, np.float32), "go")
TEXT = "go on <loc0256><loc0512>"


class Robot:
    def look(self):
        return {"pixels": dict(OBSERVATION.images), "agent_pos": OBSERVATION.state}

    def step(self, action):
        self.last = action


def run(agent: Agent, *script: tuple[Callable, Callable]) -> list:
    """Act until each thing that was done led to what was expected, in turn -> the steps."""
    steps, waits = [], list(script)
    agent.reset("go")

    def watch(step, tick):
        steps.append(step)
        do, expected = waits[0]
        if do is not None:
            do()
            waits[0] = None, expected
        elif expected(step):
            waits.pop(0)
        return not waits

    live.act_live(agent, Robot(), Safety(HAND), 10.0, watch)
    assert not waits, [step.events for step in steps[-10:]]
    return steps


def nothing():
    pass


def moves(step):
    return step.action[1] != 0


def holds(step):
    return "held" in step.events and not step.action[:6].any()


def cut(*proxies):
    for proxy in proxies:
        proxy.cut = True


def healed(*proxies):
    for proxy in proxies:
        proxy.cut = False


def told(steps, word):
    return [e for step in steps for e in step.events if e.startswith(word)]


def test_a_policy_elsewhere_and_the_cable_pulled_in_three_ways():
    with Process() as server, Proxy(server.port) as proxy, open_policy(proxy.url) as policy:
        assert isinstance(policy, RemotePolicy)
        agent, later = Agent(policy, clock=live.clock(20)), []
        steps = run(
            agent,
            (nothing, moves),
            (lambda: cut(proxy), holds),
            (lambda: healed(proxy), moves),
            (server.freeze, holds),
            (server.thaw, moves),
            (server.kill, holds),
            (lambda: later.append(Process(server.port)), moves),
        )
        later[0].kill()
    down = told(steps, "link")
    assert down[1::2] == ["link back"] * 3 and [event[:10] for event in down[::2]] == ["link down:"] * 3
    assert all("no sign of life for 60 ms" in event for event in down[:4:2])
    assert not told(steps, "planner ") and not told(steps, "controller ")
    memories = [int(step.said.memory) for step in steps if step.said is not None]
    assert memories == sorted(memories) and memories[-1] == len(memories)  # a new server goes on
    assert {step.subtask for step in steps if moves(step)} == {TEXT}


def test_a_server_far_away_is_not_taken_for_a_dead_one():
    with PolicyServer(planned, OURS) as server, Proxy(server.port, delay=0.04) as proxy:
        with open_policy(proxy.url) as policy:
            steps = run(Agent(policy, clock=live.clock(20)), *[(nothing, moves)] * 8)
            assert policy.link.breaks == 0 and not told(steps, "link")


def test_of_a_planner_that_is_gone_the_last_subtask_stands_for_a_while():
    hand = Script(Plan("unused"))
    with Process() as server, Proxy(server.port) as proxy:
        planner = open_planner(f"{proxy.url}?heartbeat=0.1")
        agent, asked = Agent(hand, planner, clock=live.clock(20)), []
        steps = run(
            agent,
            (nothing, lambda step: step.subtask == TEXT),
            (lambda: cut(proxy), lambda step: told([step], "link down")),
            (lambda: asked.append(len(hand.acted)), lambda step: len(hand.acted) > asked[0]),  # it goes on
            (nothing, lambda step: "held" in step.events),
            (lambda: healed(proxy), lambda step: "link back" in step.events),
            (nothing, lambda step: step.said is not None and "held" not in step.events),
        )
        planner.close()
    assert set(hand.acted) == {TEXT} and agent.failures == 0
    assert not told(steps, "planner")[2:] or all(e == "planned" for e in told(steps, "planned"))


def test_a_server_that_answers_no_pings_is_missed_when_it_is_late_or_hangs_up():
    actions = np.full((10, 7), 0.5, np.float32)
    with PolicyServer(lambda asked: {"actions": actions}) as server, Proxy(server.port) as proxy:
        with open_policy(f"{proxy.url}?robot=libero") as policy:
            agent = Agent(policy, "none", clock=live.clock(20, patience=0.3))
            steps = run(
                agent,
                (nothing, moves),
                (server.hang_up, holds),
                (nothing, moves),
                (nothing, moves),
                (lambda: cut(proxy), lambda step: told([step], "link down")),
                (lambda: healed(proxy), moves),
            )
    down = told(steps, "link down")
    assert down[0].endswith("received 1000 (OK); then sent 1000 (OK)") and "no answer in time" in down[1]
    assert not told(steps, "controller garbled")


def test_what_stopped_stays_stopped_when_the_link_is_back():
    with Process() as server, Proxy(server.port) as proxy, open_policy(proxy.url) as policy:
        agent = Agent(policy, clock=live.clock(20))
        run(
            agent,
            (nothing, moves),
            (lambda: agent.say("stop"), holds),
            (lambda: cut(proxy), lambda step: told([step], "link down")),
            (lambda: healed(proxy), lambda step: told([step], "link back")),
            (nothing, holds),
        )
        assert agent.stopped


def test_in_sync_a_lost_line_is_waited_for():
    with PolicyServer(planned, OURS) as server, open_policy(server.url) as policy:
        agent = Agent(policy, execute=1)
        agent.reset("go", seed=7)
        steps = [agent.step(OBSERVATION)]
        server.hang_up()
        steps.append(agent.step(OBSERVATION))
        asked = [unpackb(frame) for frame in server.asked]
    assert told(steps, "link")[1] == "link back" and all(map(moves, steps))
    first, second = asked[0], asked[-1]
    assert (first["reset"], first["memory"], first["previous"], first["prompt"]) == (7, "", "", "go")
    assert "reset" not in second and second["memory"] == "1" and second["previous"] == TEXT
    assert first["session"] == second["session"] and first["id"] != second["id"]
    assert "want" not in first and first["subtask"] == ""


def test_both_levels_on_one_line_and_what_each_is_asked():
    with PolicyServer(planned, OURS) as server, RemoteController(server.url) as controller:
        planner = RemotePlanner(controller.link)
        agent = Agent(controller, planner, execute=1)
        agent.reset("go")
        agent.step(OBSERVATION)
        agent.order("press the red button")
        step = agent.step(OBSERVATION)
        asked = [unpackb(frame) for frame in server.asked]
        kept = np.full((2, 7), 0.5, np.float32)
        controller.act(OBSERVATION, TEXT, kept)
        np.testing.assert_array_equal(unpackb(server.asked[-1])["committed"], kept)
        assert len(server.headers) == 1
    assert [found.get("want") for found in asked] == ["plan", "actions"] * 2
    assert [found.get("subtask") for found in asked] == ["", TEXT, *["press the red button"] * 2]
    assert step.plan.origin == "person" and step.said.memory == "2"


def test_late_answers_are_dropped_by_their_ids():
    release = threading.Event()

    def answer(asked):
        if asked["prompt"] == "late":
            release.wait(5)
        return planned(asked) | {"memory": asked["prompt"]}

    with PolicyServer(answer, OURS) as server, RemotePlanner(server.url, timeout=0.1) as planner:
        with pytest.raises(PolicyError, match="expected an answer within 0.1 s, none came"):
            planner.plan(OBSERVATION, "late", "", None)
        release.set()
        planner.link.timeout = 5.0
        assert planner.plan(OBSERVATION, "now", "", None).memory == "now"
        assert len(server.headers) == 1 and planner.link.stale == 1


def test_an_error_of_one_question_leaves_the_line_open():
    def answer(asked):
        if asked["prompt"] in ("memory", "words"):
            return {"id": asked["id"], "error": f"{asked['prompt']}: expected others"}
        return planned(asked)

    with PolicyServer(answer, OURS) as server, RemotePlanner(server.url) as planner:
        for prompt, kind in (("memory", UserError), ("words", PolicyError)):
            with pytest.raises(UserError, match=f"^{server.url}: {prompt}: expected others") as error:
                planner.plan(OBSERVATION, prompt, "", None)
            assert error.type is kind
        assert planner.plan(OBSERVATION, "go", "", None).text == TEXT
        assert len(server.headers) == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"subtask": 3}, "expected 'subtask' as words, got int"),
        ({"subtask": "go <loc0001>"}, "expected no or two locations"),
        ({"margin": float("nan")}, "expected a finite margin, got nan"),
        ({"memory": b"x"}, "expected 'memory' as words, got bytes"),
    ],
)
def test_plans_that_are_none(wrong, says):
    with PolicyServer(lambda asked: planned(asked) | wrong, OURS) as server:
        with RemotePlanner(server.url) as planner, pytest.raises(PolicyError, match=says):
            planner.plan(OBSERVATION, "go", "", None)


def test_names_of_servers_that_are_ours_or_not():
    with PolicyServer(planned, OURS) as server:
        assert writes_plans(server.url) and is_foreign_planner(server.url)
        with pytest.raises(
            PolicyError, match="expected a server for the robot 'droid', got one for 'libero'"
        ):
            open_policy(f"{server.url}?robot=droid")
        server.metadata = {"steersman": {**OURS["steersman"], "planner": False, "action_dim": 8}}
        with pytest.raises(PolicyError, match="expected action_dim 7 of a server for 'libero', got 8"):
            open_policy(server.url)
        server.metadata = {"steersman": {**OURS["steersman"], "planner": False}}
        with open_policy(server.url) as found:
            assert type(found) is RemoteController
        with pytest.raises(PolicyError, match="expected a server that plans, got one that does not"):
            open_planner(server.url)
        server.metadata = {}
        with pytest.raises(UserError, match=r"expected \?robot=libero\|.* that does not say what robot"):
            open_policy(server.url)


def test_who_is_not_let_in_is_told_why():
    from websockets.sync.server import serve

    def refuse(line, request):
        return line.respond(HTTPStatus.UNAUTHORIZED, "no")

    with serve(lambda line: None, "127.0.0.1", 0, process_request=refuse) as door:
        threading.Thread(target=door.serve_forever, daemon=True).start()
        with pytest.raises(PolicyError, match="expected a key that the server takes .* it answered 401$"):
            RemoteController(f"ws://127.0.0.1:{door.socket.getsockname()[1]}")
        door.shutdown()
    with PolicyServer(planned, OURS) as server:
        with pytest.raises(PolicyError, match="expected a server with TLS, but .* ws://, not wss://"):
            RemoteController(server.url.replace("ws://", "wss://"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="nothing to make a certificate with")
def test_tls_and_who_does_not_speak_it(tmp_path, monkeypatch):
    files = [str(tmp_path / name) for name in ("cert.pem", "key.pem")]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"]
    made = ["openssl", "req", "-x509", *kind, "-days", "2", "-out", files[0], "-keyout", files[1]]
    subprocess.run([*made, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with PolicyServer(planned, OURS, tls=context) as server:
        with pytest.raises(PolicyError, match="expected a policy server without TLS, but .* wss://, not ws:"):
            open_policy(server.url)
        secret = server.url.replace("ws://", "wss://")
        with pytest.raises(
            PolicyError, match=r"expected a certificate to trust .*SSL_CERT_FILE.* self-signed"
        ):
            open_policy(secret)
        monkeypatch.setenv("SSL_CERT_FILE", files[0])
        with open_policy(secret) as policy:
            assert policy.step(OBSERVATION)[0].text == TEXT
