"""A planner apart behind the server: it thinks beside, chunks are made for the plan in force."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
from chat_server import ChatServer, pictures, told
from test_serve import line, pytestmark, seen  # noqa: F401

from agent.serving import Background, Serving
from highlevel.openai_server import KEY, URL

RED, BLUE = "pick up the red block", "pick up the blue block"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv(KEY, "sk-none")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(URL, raising=False)


def plan(subtask: str, memory: str = "m", point: bool = True) -> str:
    target = [0.25, 0.5] if point else None
    return json.dumps({"memory": memory, "subtask": subtask, "done": False, "target": target})


def serving(chat: ChatServer) -> Serving:
    return Serving(port=0, planner=f"openai:gpt@{chat.url}")


def until(true) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_chunks_are_made_for_the_plan_in_force_while_the_next_one_is_thought(seen):  # noqa: F811
    go_on = threading.Event()

    def answer(body, number):
        if number:
            go_on.wait(20)
        return plan(BLUE if number else RED)

    with ChatServer(answer) as chat, Background(serving(chat)) as server, line(server) as client:
        first = reply = client.ask(seen[0])
        assert first["subtask"] == f"{RED} <loc0256><loc0512>" and first["plan_age_ms"] == 0.0
        ages = []
        for _ in range(3):  # the planner is at its second answer all the while
            more = {"memory": reply["memory"], "previous": reply["subtask"]} if ages else {}
            reply = client.ask(
                seen[1], **more
            )  # whoever keeps them in mind itself is not kept waiting either
            assert reply["subtask"] == first["subtask"] and reply["actions"].shape == (10, 7)
            ages.append(reply["plan_age_ms"])
        assert 0 < ages[0] < ages[1] < ages[2] and len(chat.asked) == 2
        go_on.set()
        until(lambda: client.ask(seen[1])["subtask"].startswith(BLUE))


def test_a_slow_planner_of_one_does_not_hold_up_the_chunks_of_others(seen):  # noqa: F811
    go_on = threading.Event()

    def answer(body, number):
        if number == 1:
            go_on.wait(20)
        return plan(RED)

    with ChatServer(answer) as chat, Background(serving(chat)) as server:
        with line(server) as client, line(server) as slow:
            client.ask(seen[0])
            slow.send(seen[0])
            until(lambda: len(chat.asked) > 1)
            assert client.ask(seen[1])["actions"].shape == (10, 7)
            go_on.set()
            assert slow.answer()["subtask"].startswith(RED)


def test_a_planner_that_fails_leaves_the_last_plan_standing(seen):  # noqa: F811
    answers = [plan(RED), "I will not.", plan(BLUE)]
    with ChatServer(lambda body, number: answers[min(number, 2)]) as chat:
        with Background(serving(chat)) as server, line(server) as client:
            client.ask(seen[0])
            events: list[str] = []

            def told() -> bool:
                reply = client.ask(seen[1])
                events.extend(reply["events"])
                return reply["subtask"].startswith(BLUE)

            until(told)
    assert any(event.startswith("planner failed: ") for event in events)


def test_what_was_asked_before_a_reset_is_not_heard(seen):  # noqa: F811
    late, go_on = threading.Event(), threading.Event()

    def answer(body, number):
        if number == 1:
            late.set()
            go_on.wait(20)
            return plan(BLUE, "of another episode")
        return plan(RED)

    with ChatServer(answer) as chat, Background(serving(chat)) as server, line(server) as client:
        client.ask(seen[0])
        client.ask(seen[0])
        assert late.wait(10)
        fresh = client.ask(seen[0], reset=1)
        assert fresh["subtask"].startswith(RED) and fresh["memory"] == "m"
        go_on.set()
        for _ in range(5):
            assert client.ask(seen[0])["memory"] == "m"


def test_it_is_shown_pictures_as_large_as_they_came(seen):  # noqa: F811
    with ChatServer(lambda body, number: plan(RED)) as chat:
        with Background(serving(chat)) as server, line(server) as client:
            client.ask(seen[0], **{"observation/image": np.full((200, 300, 3), 9, np.uint8)})
            shown = pictures(chat.asked[0])
    assert any(picture.shape == (300, 300, 3) for picture in shown), [p.shape for p in shown]


def test_a_new_prompt_is_a_correction_only_of_who_can_tell_an_episode(seen):  # noqa: F811
    for more, kept, event in (({"reset": 0}, True, "corrected"), ({}, False, "reset")):
        with ChatServer(lambda body, number: plan(RED, "two are in")) as chat:
            with Background(serving(chat)) as server, line(server) as client:
                client.ask(seen[0], **more)
                reply = client.ask(seen[0], prompt="press the red button")
                assert event in reply["events"]
                assert ("two are in" in told(chat.asked[-1])) is kept


def test_no_plan_at_all_is_an_error(seen):  # noqa: F811
    with ChatServer(lambda body, number: "I will not.") as chat:
        with Background(serving(chat)) as server, line(server) as client:
            reply = client.ask(seen[0], id=1)
            assert "planner failed" in reply["error"]
            assert client.ask(seen[0], want="plan", memory="", id=2)["error"]
