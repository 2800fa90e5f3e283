"""`steersman demo` on a terminal of its own and in a pipe, with the real world and the shipped agent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from chat_server import ChatServer
from terminals import Terminal

DEMO = ("-m", "steersman", "demo", "--out")
TEACHER = ("--planner", "oracle", "--controller", "teacher")

# -- on a terminal


@pytest.fixture
def terminal():
    opened = []

    def open_one(*command: str, **options) -> Terminal:
        opened.append(Terminal(*command, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_a_visit(terminal, tmp_path):
    """What a person might do, from start to end."""
    desk = terminal(*DEMO, str(tmp_path))
    seen = desk.see("▀{20}(.|\n)*open the drawer")
    assert "put the red block" in seen and "running" in seen and "space pause" in seen
    desk.type("v")
    desk.see("● rec")
    desk.type(" ")
    desk.see("paused")
    desk.resize(80, 24)
    assert "q quit" in desk.see("▀{20}(.|\n)*q quit").splitlines()[-1]
    desk.type("\rstop\r ")
    desk.see("you say: stop")
    desk.see("stopped")
    desk.type("/go on\r")
    desk.see("you say: go on")
    desk.type("x")
    desk.see("EMERGENCY STOP")
    desk.type("xq")
    assert desk.end() == 0 and desk.restored()
    assert "saved" in desk.said and (tmp_path / "demo-1.mp4").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["demo-1.mp4"]


BROKEN = """
import sys
from rich.console import Console
from agent.console import screen
from agent.console.keys import leaving
from examples.demo import Session, Settings, Safety, build, limits

class Broken(Session):
    def ticking(self):
        if self.tick_number == 5:
            raise RuntimeError("broken")
        return super().ticking()

settings = Settings(planner="oracle", controller="teacher")
env, agent = build(settings)
session = Broken(env, agent, Safety(limits(env)))
session.begin(0)
screen.run(session, Console(highlight=False))
"""


def test_the_terminal_is_restored_however_it_ends(terminal, tmp_path):
    quick = (*DEMO, str(tmp_path), *TEACHER)
    desks = {name: terminal(*quick) for name in ("ctrl-c", "terminated")}
    desks["broken"] = terminal("-c", BROKEN)
    desks["hung up"] = terminal(*DEMO, str(tmp_path), "--clock", "realtime")  # which has threads
    for name in ("ctrl-c", "terminated"):
        desks[name].see("running")
    desks["hung up"].see("realtime(.|\n)*ms old(.|\n)*open the drawer")
    desks["ctrl-c"].type("\x03")
    desks["terminated"].type("v")
    desks["terminated"].see("● rec(.|\n)*pick up")
    desks["terminated"].process.send_signal(signal.SIGTERM)
    os.close(desks["hung up"].master)
    desks["hung up"].master = -1
    assert desks["hung up"].process.wait(timeout=60) in (1, 128 + signal.SIGHUP)
    for name, code in (("ctrl-c", 130), ("terminated", 128 + signal.SIGTERM), ("broken", 1)):
        assert desks[name].end() == code and desks[name].restored(), name
    assert "RuntimeError: broken" in desks["broken"].said
    assert [path.name for path in tmp_path.iterdir()] == ["demo-1.mp4"]  # whole all the same


# -- plain


def start(*options: str, out) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    command = [sys.executable, *DEMO, str(out), "--speed", "4", *options]
    return subprocess.Popen(command, env=env, text=True, **pipes)


def test_a_pipe_is_told_in_lines_and_obeyed(tmp_path):
    alone, told = start(out=tmp_path), start(*TEACHER, out=tmp_path)
    alone.stdin.close()
    alone.stdin = None
    for line in told.stdout:
        if "open the drawer" in line:
            break
    told.stdin.write("stop\n")
    told.stdin.flush()
    assert any("you say: stop" in line for line in told.stdout)
    told.stdin.write("drop\ngo on\nput the blue block in the drawer\nquit\n")
    said, wrong = told.communicate(timeout=60)
    assert told.returncode == 0 and wrong == ""
    assert "! nothing is held" in said and "you say: go on" in said
    assert "put the blue block in the drawer" in said
    said, wrong = alone.communicate(timeout=60)
    assert alone.returncode == 0 and wrong == "" and "\x1b" not in said
    assert re.search(r"> open the drawer\n.*> pick up the red block\n(.|\n)*= solved after", said), said


def test_a_reader_that_is_gone_ends_it(tmp_path):
    process = start(*TEACHER, out=tmp_path)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""
    process.stdin.close()
    process.stderr.close()


def test_keys_are_heard_and_seen_while_the_agent_thinks(terminal, tmp_path):
    thought = threading.Event()

    def answer(body, number: int) -> str:
        thought.wait(60)
        return '{"memory": "", "subtask": "open the drawer"}'

    with ChatServer(answer) as server:
        desk = terminal(*DEMO, str(tmp_path), "--planner", f"openai:some@{server.url}")
        desk.see("running   0.0 s(.|\n)*▀{20}")
        desk.type("/go faster")
        desk.see("> go faster")
        desk.type("\x18")
        desk.see("EMERGENCY STOP")
        assert not thought.is_set() and "0.0 s" in desk.shows.text and len(server.asked) == 1
        desk.type("\x1bx")
        thought.set()
        desk.see("open the drawer")
        desk.type("q")
        assert desk.end() == 0 and desk.restored()


def test_what_knows_the_world_cannot_be_in_real_time(capsys):
    from steersman.cli import main

    assert main(["demo", "--clock", "realtime", *TEACHER]) == 2
    assert "expected 'sync' for" in capsys.readouterr().err
