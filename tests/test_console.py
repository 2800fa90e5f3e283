"""Sitting beside the agent: what is shown, what keys and words do; the real world, the shipped agent."""

from __future__ import annotations

import io
import os
import termios

import numpy as np
import pytest
import torch
from rich.console import Console
from terminals import Shows

from agent.console.keys import ENTER, ESCAPE, UP, Keyboard, Line, split
from agent.console.pictures import MARK, half_blocks
from agent.console.screen import Screen, typed
from agent.console.session import Session
from agent.console.view import Frame
from agent.evaluation.episode import limits
from agent.evaluation.settings import Settings, build
from agent.policy import load
from agent.recording.columns import TABLETOP
from agent.recording.runs import RunReader, RunWriter
from agent.safety import Safety
from agent.teach import Taught
from agent.teleop import Keyboard as Keys
from backbone.observation import Observation
from envs.tabletop.commands import point, understand

SAID = "put the red block in the drawer and close it"
SCENE = 106  # on which that makes sense


@pytest.fixture(scope="module")
def policy():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load("nano")
    torch.set_num_threads(threads)


@pytest.fixture
def session(policy, tmp_path):
    env, agent = build(Settings(), policy, "rgb_array")
    session = Session(env, agent, Safety(limits(env)), tmp_path)
    session.begin(SCENE, SAID)
    yield session
    session.close()


def ticks(session: Session, number: int) -> None:
    for _ in range(number):
        session.tick()


def doing(session: Session) -> str:
    return session.shown.history[-1].text


def where(session: Session) -> np.ndarray:
    return session.env.world.eef_pos().copy()


# -- pictures


def test_a_half_block_is_two_pixels_of_the_picture():
    image = np.zeros((8, 8, 3), np.uint8)
    image[2, 5], image[3, 5] = (255, 0, 0), (0, 0, 255)
    lines = half_blocks(image, 8)
    assert len(lines) == 4 and all(sum(len(part.text) for part in line) == 8 for line in lines)
    before, cell, after = lines[1]
    assert (before.text, cell.text, after.text) == ("▀" * 5, "▀", "▀" * 2)
    assert cell.style.color.triplet == (255, 0, 0) and cell.style.bgcolor.triplet == (0, 0, 255)
    assert all(part.style.color.triplet == (0, 0, 0) for part in (before, after, *lines[0]))


def marked(lines) -> list[tuple[int, int]]:
    """(y, x) of the point's pixels."""
    found = []
    for row, line in enumerate(lines):
        column = 0
        for part in line:
            for below, colour in enumerate((part.style.color, part.style.bgcolor)):
                if tuple(colour.triplet) == MARK:
                    found += [(2 * row + below, column + k) for k in range(len(part.text))]
            column += len(part.text)
    return found


@pytest.mark.parametrize("point", [(0.5, 0.5), (0.1, 0.9), (0.999, 0.0)])
def test_the_point_is_a_cross_around_its_place(point):
    grey = np.full((128, 128, 3), 128, np.uint8)
    assert marked(half_blocks(grey, 64)) == []
    found = np.array(marked(half_blocks(grey, 64, point)))
    y, x = int(point[0] * 64), int(point[1] * 64)
    assert len(found) and np.all((found[:, 0] == y) | (found[:, 1] == x))
    assert np.all(np.abs(found - (y, x)).max(1) <= 3) and (y, x) not in set(map(tuple, found))


# -- keys and lines


def test_what_a_terminal_sends_is_keys():
    sent = "a\r\x1b[A\x1bOA\x1b[D\x1b[1;5C\x1b[200~é\x1b[<0;5;2M\x1b[<0;5;2m\x1b"
    assert split(sent) == ["a", ENTER, UP, UP, "left", "é", "click 4 1", ESCAPE]
    line = Line()
    line.open()
    for key in (*"stop", "left"):
        assert line.press(key) is None
    assert line.press(ENTER) == "stop" and line.text is None
    line.open()
    line.press(UP)
    assert line.text == "stop"
    line.press(ESCAPE)
    assert line.text is None


def test_keys_do_what_they_say(session):
    session.press(" ")
    assert session.shown.paused
    session.press(".")
    assert session.wanted and session.shown.paused
    session.press(" ")
    session.press("-")
    assert session.shown.speed == 0.5 and session.period == pytest.approx(0.1)
    session.press("+")
    ticks(session, 10)
    assert doing(session) == "open the drawer" and session.shown.target is not None
    session.press("r")
    assert session.tick_number == 0 and session.env.world.steps == 0 and session.shown.history == []
    session.press("n")
    assert session.seed == SCENE + 1 and session.shown.instruction == session.env.task_description
    session.press("?")  # none of ours
    session.press("q")
    assert session.over


def test_the_emergency_stop_holds_the_arm_until_it_is_pressed_again(session):
    ticks(session, 12)
    session.press("x")
    ticks(session, 10)  # the hand comes to rest
    held = where(session)
    ticks(session, 10)
    assert np.abs(where(session) - held).max() < 1e-3 and session.shown.stopped
    typed(session, Line(), "\x18")
    assert not session.shown.stopped
    ticks(session, 10)
    assert np.abs(where(session) - held).max() > 0.01


def test_while_the_agent_thinks_only_stopping_is_at_once(session):
    tick = session.ticking()
    ask = next(tick)  # a look
    session.press("r")
    session.obey("put the blue block in the drawer")
    session.press("x")
    assert session.safety.stopped and session.shown.instruction == SAID
    session.press("x")
    with pytest.raises(StopIteration):
        tick.send(ask.alone())
    assert session.tick_number == 0 and session.shown.instruction == "put the blue block in the drawer"


def test_things_can_be_moved_and_dropped(session):
    world = session.env.world

    def blocks():
        return np.array([world.block_pos(c) for c in world.scene.blocks])

    before = blocks()
    session.press("p")
    assert np.abs(blocks() - before).max() > 0.02
    session.press("d")
    assert "nothing is held" in session.shown.message
    session.press("r")
    while world.block_pos("red")[2] < 0.1 and session.tick_number < 120:
        session.tick()
    session.press("d")
    assert world.block_pos("red")[2] < 0.06 and "drops the block" in session.shown.notes[-1].text
    ticks(session, 30)
    assert "cut" in {part.end for part in session.shown.history}  # it went back to pick it up
    while not session.finished:
        session.tick()
    assert session.shown.solved is not None


def test_a_video_of_nothing_is_refused_and_the_next_one_is_whole(session, tmp_path):
    session.press("v")
    session.press("v")
    while session.shown.recording != "" or not session.shown.message:
        session.show()
    assert "expected at least one frame" in session.shown.message
    session.press("v")
    ticks(session, 6)
    session.press("v")
    while not session.film.saved:
        session.show()
    assert [path.name for path in tmp_path.iterdir()] == ["demo-1.mp4"]


def test_what_is_typed_is_obeyed(session):
    ticks(session, 9)
    session.obey("stop")
    ticks(session, 12)
    held = where(session)
    ticks(session, 5)
    assert np.abs(where(session) - held).max() < 1e-3 and session.shown.waits
    session.obey("go on")
    ticks(session, 9)
    assert not session.shown.waits and np.abs(where(session) - held).max() > 0.01
    session.obey("schalte das Licht aus")
    assert "unknown" in session.shown.message and session.shown.instruction == SAID
    session.obey("put the blue block in the drawer")
    ticks(session, 2)
    assert session.shown.instruction == "put the blue block in the drawer" and session.shown.progress is None


def test_a_subtask_of_a_person_stands_until_it_is_given_back(session):
    ticks(session, 2)
    session.obey("subtask: pick up the blue block at 40% 62%")
    ticks(session, 9)
    target, part = session.shown.target, session.shown.history[-1]
    assert (part.text, part.by) == ("pick up the blue block", "person")
    assert (target.x, target.y) == pytest.approx((0.40, 0.62), abs=2e-3)
    session.obey("subtask: pick up the red block")  # the planner's own pointer finds it
    ticks(session, 9)
    (y, x), target = point(session.env.world, understand("pick up the red block")), session.shown.target
    assert abs(target.x - x) < 0.05 and abs(target.y - y) < 0.05
    session.obey("subtask:")
    ticks(session, 9)
    assert doing(session) == "open the drawer" and session.shown.history[-1].by == "decoded"


def test_a_click_is_a_place(session):
    ticks(session, 3)
    session.show()
    frame, line = Frame(session.shown), Line()
    frame.lines(screen_of(80, 24)[0], 80, 24)
    typed(session, line, "click 70 2", frame)  # beside the picture
    assert line.text is None
    typed(session, line, "click 9 4", frame)
    assert line.text == "subtask: open the drawer at 26% 19%"
    line.open("subtask: pick up the blue block")
    typed(session, line, "click 9 4", frame)
    typed(session, line, ENTER, frame)
    ticks(session, 1)
    target = session.shown.target
    assert (target.x, target.y) == pytest.approx((0.26, 0.19), abs=2e-3)


def test_the_planners_words_are_heard_one_by_one_and_change_nothing(session, policy):
    seen = Observation.from_env(session.see(), SAID)
    quiet = policy.plan(seen)
    heard = []
    session.listen()
    policy.planner.heard, told = heard.append, policy.planner.heard
    plan = policy.plan(seen)
    policy.planner.heard = told
    assert plan.tokens == quiet.tokens and heard[-1].subtask == plan.subtask == "open the drawer"
    texts = [f"{p.memory}|{p.scene}|{p.subtask}" for p in heard]
    lengths = [len(text) for text in texts]
    assert lengths == sorted(lengths) and len(set(texts)) > 6
    session.tick()
    written = []
    while session.shown.writing is not None or not written:
        session.show()
        written.append(session.shown.parts()[-1].text if session.shown.parts() else "")
    assert written[-1] == "open the drawer" and "open the" in written
    policy.planner.heard = None


# -- the screen


def screen_of(width: int, height: int) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    colours = {"color_system": "truecolor", "force_terminal": True, "legacy_windows": False}
    return Console(file=out, width=width, height=height, highlight=False, **colours), out


@pytest.mark.parametrize("size", [(24, 6), (80, 24), (120, 40), (200, 50)])
def test_every_size_is_filled_exactly(session, size):
    ticks(session, 3)
    session.show()
    console, _ = screen_of(*size)
    for message in ("", "nothing is held high enough"):
        session.shown.message = message
        for line in (None, "", "no, the blue one " * 20):
            lines = Frame(session.shown, line).lines(console, *size)
            assert len(lines) == size[1]
            assert {sum(part.cell_length for part in line) for line in lines} == {size[0]}


def test_what_is_drawn_piece_by_piece_is_the_whole(session):
    console, out = screen_of(100, 30)
    screen, shows = Screen(console), Shows(100, 30)
    session.listen()
    for tick in range(24):
        session.tick()
        session.show()
        if tick == 12:  # the terminal is resized
            console.size, shows = (90, 25), Shows(90, 25)
        frame = Frame(session.shown, None if tick < 20 else "no, the blue one")
        screen.draw(frame)
        shows.write(out.getvalue())
        out.seek(out.truncate(0))
    fresh = Shows(90, 25)
    Screen(console).draw(frame)
    fresh.write(out.getvalue())
    assert shows.cells == fresh.cells and "open the drawer" in shows.text and "▀▀▀" in shows.text
    session.agent.policy.planner.heard = None


def test_the_keyboard_gives_back_what_it_took():
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    with pytest.raises(RuntimeError), Keyboard(slave) as keyboard:
        assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO)
        os.write(master, b"x")
        assert keyboard.read(1.0) == ["x"]
        raise RuntimeError("in the middle")
    assert termios.tcgetattr(slave) == before
    with pytest.raises((EOFError, OSError)), Keyboard(slave) as keyboard:
        os.close(master)
        keyboard.read(1.0)
    os.close(slave)


def test_one_simply_types(session):
    """A letter by itself is a key, after a moment; two in a row are the beginning of a line."""
    line, seed = Line(), session.seed
    for key in "no, the":
        typed(session, line, key)
    assert line.text == "no, the" and session.seed == seed
    typed(session, line, "\x1b")
    typed(session, line, "s")  # which is no key
    assert line.text == "s"
    typed(session, line, "\x1b")
    typed(session, line, "n")
    assert line.text is None and session.seed == seed
    typed(session, line, " ")  # not a letter: the n was a key
    assert session.seed == seed + 1 and session.shown.paused


def test_what_is_done_here_is_recorded_and_can_be_played_again(session, tmp_path):
    from agent.evaluation.recorded import who
    from examples.replay import main as replay

    session.recording.writers.append(RunWriter(tmp_path / "runs", who(Settings())))
    session.begin(SCENE, SAID)
    ticks(session, 20)
    session.obey("slower")
    session.obey("subtask: pick up the red block")
    ticks(session, 20)
    session.begin(SCENE, SAID)  # which keeps what there was
    session.recording.end()
    assert replay(tmp_path / "runs") == 0 and replay(tmp_path / "runs", agent=True) == 0


def test_a_person_drives_by_keys_and_words_and_what_they_type_is_recorded(session, tmp_path):
    session.press("t")
    assert session.shown.message == "this arm cannot be moved by keys"
    session.agent = Taught(session.agent, Keys(TABLETOP.action))
    session.recording.writers.append(RunWriter(tmp_path / "runs"))
    session.begin(session.seed)
    ticks(session, 6)
    line = Line()
    assert not session.steer("w"), "nobody drives"
    session.press("t")
    assert session.shown.driving
    session.obey("subtask: lift the hand")
    at = where(session)
    for _ in range(8):
        typed(session, line, "w")
        typed(session, line, "right")
        ticks(session, 1)
    moved = where(session) - at
    assert moved[2] > 0.03 and moved[1] > 0.03 and abs(moved[0]) < 0.03 and line.text is None
    closed = session.agent.teleop.closed
    session.obey("left 4")
    typed(session, line, "g")
    ticks(session, 4)
    assert session.agent.teleop.closed is not closed and doing(session) == "lift the hand"
    assert "you drive" in drawn(session) and "hand back" in drawn(session)
    session.obey("hand back")
    ticks(session, 9)
    assert not session.shown.driving and doing(session) != "lift the hand"
    session.close()
    rows = RunReader(tmp_path / "runs").rows(0)
    assert [t for t, row in enumerate(rows) if row["intervention"]] == list(range(6, 18))
    assert {row["subtask"] for row in rows[6:18]} == {"lift the hand"}
    assert {row["acted_by"] for row in rows[6:18]} == {"person"}


def drawn(session: Session) -> str:
    console, out = screen_of(110, 30)
    console.print(Frame(session.shown))
    return out.getvalue()
