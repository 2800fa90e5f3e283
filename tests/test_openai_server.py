"""A planner on a server: a real one on loopback that answers well, late, wrongly or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from chat_server import ChatServer, completion, pictures, told
from test_language_model import SEEN

from agent.evaluation.episode import run_episode
from agent.evaluation.settings import Settings, build
from agent.evaluation.store import fingerprint
from agent.loop import Agent
from agent.planners import open_planner, planner_identity
from backbone.errors import PolicyError, UserError
from backbone.observation import Observation
from examples.evaluate import names
from highlevel.language_model import Dialect
from highlevel.openai_server import KEY, URL, OpenAIPlanner
from highlevel.plan import Plan, Target
from lowlevel.baselines import ZeroController

SECRET = "sk-very-secret"
RED = "pick up the red block"
GOOD = json.dumps({"memory": "m", "subtask": RED, "done": False, "target": [0.25, 0.5]})


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(URL, raising=False)


def ask(server, memory="", previous=None, **options):
    planner = OpenAIPlanner("gpt", server.url, wait=0.01, **options)
    return planner.plan(SEEN, "tidy up", memory, previous)


def failed(server, kind=PolicyError, **options):
    with pytest.raises(kind) as error:
        ask(server, **options)
    line = str(error.value)
    assert "\n" not in line and SECRET not in line and len(line) < 400 and error.type is kind
    return line


def test_a_plan_and_all_that_it_is_made_from():
    with ChatServer(lambda body, n: GOOD) as server:
        plan = ask(
            server, "two are in", Plan("close the drawer"), dialect=Dialect(examples=("lift the lid",))
        )
    assert (plan.subtask, plan.memory, plan.done, plan.target) == (
        RED,
        "m",
        False,
        Target(0.25, 0.5, "front"),
    )
    (body,), (headers,) = server.asked, server.headers
    assert server.paths == ["/v1/chat/completions"] and headers["Authorization"] == f"Bearer {SECRET}"
    assert body["model"] == "gpt" and body["temperature"] == 0 and SECRET not in json.dumps(body)
    for part in (
        "You steer a robot arm",
        "tidy up",
        "two are in",
        "close the drawer",
        "lift the lid",
        "wrist:",
    ):
        assert part in told(body)
    assert body["response_format"]["json_schema"]["schema"] == Dialect().schema()
    for found, name in zip(pictures(body), SEEN.images, strict=True):
        np.testing.assert_array_equal(found, SEEN.images[name])


def test_jpeg_is_about_the_same_picture():
    grey = Observation({"front": np.full((40, 56, 3), (90, 120, 30), np.uint8)}, SEEN.state)
    with ChatServer(lambda body, n: GOOD) as server:
        OpenAIPlanner("gpt", server.url, picture="jpeg").plan(grey, "tidy up", "", None)
    (picture,) = pictures(server.asked[0])
    assert "data:image/jpeg;base64," in json.dumps(server.asked[0])
    np.testing.assert_allclose(picture.astype(int), grey.images["front"], atol=6)


def test_no_key_no_header(monkeypatch):
    monkeypatch.delenv(KEY)
    with ChatServer(lambda body, n: GOOD) as server:
        assert ask(server).subtask == RED
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    "first", [(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}), (503, ""), None]
)
def test_what_passes_by_itself_is_asked_again(first):
    with ChatServer(lambda body, n: GOOD if n == 2 else first) as server:
        assert ask(server).subtask == RED
    assert len(server.asked) == 3 and server.asked[0] == server.asked[2]


@pytest.mark.parametrize(("known", "tries"), [("json_object", 2), (None, 3)])
def test_a_format_that_is_not_known_is_left_out_and_not_tried_again(known, tries):
    def answer(body, n):
        kind = body.get("response_format", {}).get("type")
        return GOOD if kind == known else (400, {"error": {"message": f"{kind} is not supported"}})

    with ChatServer(answer) as server:
        planner = OpenAIPlanner("gpt", server.url)
        for _ in range(2):
            assert planner.plan(SEEN, "tidy up", "", None).subtask == RED
    assert len(server.asked) == tries + 1


def test_limits_by_other_names():
    def answer(body, n):
        if "max_tokens" in body:
            return 400, {"error": {"message": "Use 'max_completion_tokens' instead of 'max_tokens'"}}
        if "temperature" in body:
            return 400, {"error": {"message": "'temperature' does not support 0 with this model"}}
        return GOOD

    with ChatServer(answer) as server:
        assert ask(server, new_tokens=77).subtask == RED
    assert server.asked[-1]["max_completion_tokens"] == 77 and "response_format" in server.asked[-1]


def test_one_that_refuses_everything_is_not_asked_for_ever():
    with ChatServer(lambda body, n: (400, {"error": {"message": "no pictures here"}})) as server:
        line = failed(server)
    assert len(server.asked) == 3 and line.endswith("expected an answer, got '400 no pictures here'")


@pytest.mark.parametrize(
    ("answer", "options", "expected"),
    [
        ((500, {"error": {"message": "no memory"}}), {"patience": 0.5}, "within 0.5 s, got '500 no memory'"),
        ((429, "busy", {"Retry-After": "90"}), {}, "within 60 s, got '429 busy'"),
        (None, {"patience": 0.5}, "within 0.5 s, got 'RemoteDisconnected"),
        ((200, "{", {"Content-Length": "9999"}), {"patience": 0.5}, "within 0.5 s, got 'IncompleteRead"),
        (9.0, {"timeout": 0.1}, "within 0.1 s, got nothing"),
        ((200, completion(GOOD), {"X-Drip": "0.01"}), {"timeout": 0.1}, "within 0.1 s, got nothing"),
        ((401, {"error": {"message": f"wrong key {SECRET}"}}), {}, ", got '401 wrong key ***'"),
        ((404, {"detail": "no such model"}), {}, ", got '404 no such model'"),
        ((302, "", {"Location": "http://127.0.0.1:9/"}), {}, ", got '302"),
        ((200, "<html>hello</html>"), {}, "a chat completion, got '<html>"),
        ((200, {"error": "overloaded"}), {}, "a chat completion, got '{"),
        ((200, {"choices": []}), {}, "a chat completion, got '{"),
    ],
)  # fmt: skip
def test_a_service_that_fails_is_an_error_not_a_plan(answer, options, expected):
    with ChatServer(lambda body, n: answer) as server:
        line = failed(server, **options)
    assert line.startswith(f"planner gpt at {server.url}: expected a") and expected in line
    assert (len(server.asked) > 1) == ("patience" in options)


def test_nobody_there():
    with ChatServer(lambda body, n: GOOD) as server:
        pass
    assert "ConnectionRefusedError" in failed(server, patience=0.1)


@pytest.mark.parametrize(
    "said", ["{'memory': ", "I will not.", f"my key is {SECRET}", None, [{"type": "text"}]]
)
def test_a_model_that_writes_garbage_is_garbled(said):
    with ChatServer(lambda body, n: (200, completion(said))) as server:
        assert failed(server, UserError).startswith("answer: expected a JSON object")


def test_garbage_leaves_the_last_subtask_and_a_failing_service_ends_the_run():
    answers = [GOOD, "garbage", (500, "")]
    with ChatServer(lambda body, n: answers[min(n, 2)]) as server:
        controller = ZeroController(7)
        planner = open_planner(f"openai:gpt@{server.url}", patience=0.5, wait=0.4)
        agent = Agent(controller, planner, controller, execute=2)
        agent.reset("tidy up")
        steps = [agent.step(SEEN) for _ in range(3)]
        assert [e.split(":")[0] for step in steps for e in step.events] == ["replanned", "planner garbled"]
        assert steps[-1].subtask.startswith(RED) and agent.memory == "m"
        with pytest.raises(PolicyError):
            for _ in range(8):
                agent.step(SEEN)
    assert "Memory: m" in told(server.asked[1]) and f"Last subtask: {RED}" in told(server.asked[1])


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "openai:gpt",
            "expected a base URL as http://HOST:PORT/v1 behind the model's name, or in OPENAI_BASE_URL",
        ),
        ("openai:gpt@https://", "expected a base URL as"),
        ("openai:gpt@http://host:99999/v1", "expected a base URL as"),
        (f"openai:gpt@http://me:{SECRET}@host/v1", "expected a base URL without user"),
        ("openai:", "expected openai:MODEL@BASE_URL"),
        ("gpt", "expected vlm:NAME, openai:MODEL@BASE_URL or ws://HOST:PORT, got 'gpt'"),
    ],
)
def test_names_that_are_none(name, line):
    with pytest.raises(UserError, match="^planner: ") as error:
        open_planner(name)
    assert line in str(error.value) and SECRET not in str(error.value)


def test_a_key_that_fits_into_no_header(monkeypatch):
    monkeypatch.setenv(KEY, SECRET + "\nX: y")
    with pytest.raises(UserError, match=f"^{KEY}: expected a key") as error:
        OpenAIPlanner("gpt", "http://localhost/v1")
    assert SECRET not in str(error.value)


# -- in the tabletop's world


def test_it_plans_for_the_tabletop():
    """The server's model knows the world, and says what it would do; a perfect hand does it."""
    world = {}

    def answer(body, n):
        assert world["env"].task_description in told(body) and "press the red button" in told(body)
        assert [picture.shape for picture in pictures(body)] == [(128, 128, 3), (64, 64, 3)]
        label = world["env"].teacher().label()
        point = None if label.point is None else [float(v) for v in label.point]
        done = label.subtask == "done"
        said = {"memory": label.memory, "subtask": label.subtask, "done": done, "target": point}
        return f"```json\n{json.dumps(said)}\n```"

    with ChatServer(answer) as server:
        settings = Settings(family="sort", planner=f"openai:gpt@{server.url}", controller="obedient")
        world["env"], agent = build(settings)
        try:
            record = run_episode(world["env"], agent, 0)
        finally:
            world["env"].close()
    assert record["success"] and not record["failures"] and len(server.asked) > 5


def test_it_is_named_where_results_are_kept(monkeypatch):
    monkeypatch.setenv(URL, "http://host:1/v1/")
    settings = Settings(planner="openai:org/gpt@2", controller="obedient")
    assert (
        fingerprint(settings) == "planner org/gpt@2 at http://host:1/v1" == planner_identity(settings.planner)
    )
    assert fingerprint(Settings(planner="openai:a@http://b/v1")).endswith(" + planner a at http://b/v1")
    assert names([settings]) == ["core-openai_org_gpt_2"]
    with pytest.raises(
        UserError, match="^planner: expected one of learned, .*vlm:NAME, openai:MODEL@BASE_URL"
    ):
        Settings(planner="gpt")
