"""Planners that are wrong on purpose, the matrix, its warnings, counterfactuals, with the shipped network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from agent.evaluation import blame as B
from agent.evaluation import counterfactual as C
from agent.evaluation import planners as P
from agent.evaluation.blame import cells
from agent.evaluation.blamepage import losses_table, matrix_table
from agent.evaluation.episode import run_episode
from agent.evaluation.runner import evaluate, gather
from agent.evaluation.settings import Settings, build
from agent.evaluation.store import Store
from agent.loop import Agent
from agent.oracle import ObedientController, OraclePlanner
from agent.policy import Policy
from agent.terminal import shown
from backbone.errors import UserError
from backbone.observation import Observation
from envs.suites import EVALUATION_START
from envs.tabletop.commands import happened, point, possible, understand
from envs.tabletop.env import TabletopEnv
from envs.tabletop.language import all_subtasks
from envs.tabletop.teacher import Teacher
from highlevel.plan import Plan, parse_plan_text
from steersman.cli import main

OBEDIENT = Settings(planner="oracle", controller="obedient")


@pytest.fixture(scope="module")
def nano():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Policy.from_pretrained("nano")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def env():
    env = TabletopEnv(pixels="lazy")
    yield env
    env.close()


def hand(env: TabletopEnv) -> ObedientController:
    return ObedientController(env.world, Teacher())


def said(env: TabletopEnv, planner, seed: int) -> list[tuple]:
    """An episode with the obedient hand: (what was said, what could be done, the true point) of each look."""
    looks = []

    def look(plan: Plan) -> None:
        command = understand(plan.subtask)
        at = None if command is None else point(env.world, command)
        looks.append((plan, [c.text for c in possible(env.world)], at))

    class Watched:
        def plan(self, *given) -> Plan:
            look(plan := planner.plan(*given))
            return plan

    run_episode(env, Agent(hand(env), Watched()), seed, after=0)
    return looks


# -- commands, and a hand that obeys them


def test_every_subtask_is_understood_and_nothing_else():
    for text in all_subtasks():
        assert understand(text).text == text
    assert understand("pick up the red button") is None and understand(P.NEUTRAL) is None


def test_a_point_finds_its_place_again(env):
    env.reset(seed=EVALUATION_START)
    for at in ((0.4, -0.2, 0.0), (0.6, 0.25, 0.03), (0.5, 0.0, 0.1)):
        assert env.world.unproject(env.world.project(at), at[2]) == pytest.approx(at, abs=1e-9)


@pytest.mark.parametrize("suite", ["core", "correction", "perturbed"])
def test_true_plans_and_an_obedient_hand_solve_everything(suite):
    summary = evaluate(Settings(suite=suite, planner="oracle", controller="obedient"), range(6), workers=0)
    assert summary["overall"]["successes"] == 6 and summary["errors"] == 0


def test_an_obedient_hand_refuses_what_it_cannot_do(env):
    env.reset(seed=EVALUATION_START)
    before, seen = env.world.data.qpos.copy(), Observation({}, np.zeros(8, np.float32))
    absent = next(
        t for t in all_subtasks() if t.startswith("press") and t.split()[2] not in env.world.scene.buttons
    )
    for words in (P.NEUTRAL, absent):
        with pytest.raises(UserError, match="subtask: expected"):
            hand(env).act(seen, words)
    assert np.array_equal(env.world.data.qpos, before)


# -- planners


def test_frozen_keeps_its_first_plan_until_another_instruction(env):
    looks = said(env, P.Frozen(OraclePlanner(env.teacher())), 0)
    assert len({plan.text for plan, _, _ in looks}) == 1 and len(looks) > 5
    planner = P.Frozen(OraclePlanner(env.teacher()))
    env.reset(seed=EVALUATION_START + 2)
    kept = planner.plan(None, "", "", looks[0][0])
    assert kept is looks[0][0] and planner.plan(None, "", "", None).text != kept.text


def test_shuffled_says_what_can_be_done_and_was_not_planned(env):
    class Noted(OraclePlanner):
        def plan(self, *given) -> Plan:
            self.wrote = super().plan(*given)
            return self.wrote

    inner = Noted(env.teacher())
    planner, wrote = P.Shuffled(inner, env.world), []
    plan = planner.plan
    planner.plan = lambda *given: (plan(*given), wrote.append(inner.wrote.subtask))[0]
    first = said(env, planner, 2)
    assert len({plan.subtask for plan, _, _ in first}) > 1
    for (plan, could, at), truth in zip(first, wrote, strict=True):
        assert plan.subtask != truth and plan.subtask in could
        assert (plan.target.y, plan.target.x) == pytest.approx(at)
    again = said(env, P.Shuffled(OraclePlanner(env.teacher()), env.world), 2)
    assert [plan.text for plan, _, _ in again] == [plan.text for plan, _, _ in first]
    other = said(env, P.Shuffled(OraclePlanner(env.teacher()), env.world, seed=1), 2)
    assert [plan.text for plan, _, _ in other] != [plan.text for plan, _, _ in first]


def test_words_without_point_point_without_words_and_neither(env, nano):
    env.reset(seed=EVALUATION_START + 2)
    seen = Observation.from_env(env.look(), env.task_description)
    whole = nano.plan(seen)
    given = seen, env.task_description, "", None
    words = P.make("words-only", env, nano).plan(*given)
    there = P.make("point-only", env, nano).plan(*given)
    empty = P.make("empty", env, nano).plan(*given)
    assert whole.target is not None and words.text == whole.subtask and words.memory == whole.memory
    assert there.target == whole.target and there.subtask == P.NEUTRAL
    assert empty.text == P.NEUTRAL and not empty.done
    for plan in (words, there, empty):
        nano.check_subtask(plan.text)
        assert np.isfinite(nano.act(seen, plan.text).actions).all()


STOW = ["open the drawer", "pick up the {} block", "put the {} block in the drawer", "close the drawer"]


def test_a_typed_plan_is_carried_out_step_by_step():
    env, _ = build(Settings(family="stow", planner="oracle", controller="teacher"))
    env.reset(seed=EVALUATION_START + 4)
    texts = [text.format(env.task.params["blocks"][0]) for text in STOW]
    planner = P.Typed(env.world, P.read_plans(";".join(texts)))
    record = run_episode(env, Agent(hand(env), planner), 4)
    assert record["success"] and [part["text"] for part in record["subtasks"]] == [*texts, "done"]
    assert {part["who"] for part in record["subtasks"]} == {"person"}
    env.reset(seed=EVALUATION_START + 4)
    plan = planner.plan(None, "", "", None)
    assert plan.subtask == texts[0] and plan.target is not None
    planner.next()  # the person says so, whatever the world looks like
    assert planner.plan(None, "", "", plan).subtask == texts[1]
    env.close()


def test_typed_plans_are_read_by_instruction_and_checked(env, nano, tmp_path):
    file = tmp_path / "plans.txt"
    file.write_text(
        "clear the table\n  pick up the red block <loc0412><loc0630>\n\nswap red and blue\n  done\n"
    )
    plans = P.read_plans(P.typed_text(str(file)))
    assert plans == {
        "clear the table": ["pick up the red block <loc0412><loc0630>"],
        "swap red and blue": ["done"],
    }
    planner = P.make("typed", env, nano, file.read_text())
    env.reset(seed=EVALUATION_START)
    assert planner.plan(None, "swap  red and blue", "", None).done
    pointed = parse_plan_text(plans["clear the table"][0])[1]
    if "red" in env.world.scene.blocks:
        assert planner.plan(None, "clear the table", "", None).target == pointed
    with pytest.raises(UserError, match="plan: expected subtasks for the instruction 'stack'"):
        planner.plan(None, "stack", "", None)
    for text in ("", "  pick up the red block\nclear", "pick up the red block <loc0001>"):
        with pytest.raises(UserError):
            P.read_plans(text)
    with pytest.raises(UserError, match="words the agent was taught"):
        P.make("typed", env, nano, "frobnicate the quux")


# -- the matrix


def test_a_warning_where_the_words_change_nothing():
    def records(outcomes):
        return [{"seed": at, "success": bool(o)} for at, o in enumerate(outcomes)]

    some, none = records([1] * 8), records([0] * 8)
    told = {"learned-learned": some, "shuffled-learned": none, "empty-learned": none}
    assert B.warnings(told) == []
    (line,) = B.warnings(told | {"shuffled-learned": some})
    assert line.startswith("WARNING: shuffling the language changes nothing that 8 seeds can show")


def test_the_difference_is_of_pairs():
    def records(outcomes):
        return [{"seed": at, "success": bool(o)} for at, o in enumerate(outcomes)]

    first, second = records([1] * 44 + [1] * 12 + [0] * 2), records([1] * 44 + [0] * 12 + [1] * 2)
    found, back = B.difference(first, second), B.difference(second, first)
    assert found["n"] == 58 and found["difference"] == pytest.approx(10 / 58)
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert back["low"] == pytest.approx(-found["high"]) and back["high"] == pytest.approx(-found["low"])
    assert B.difference([], first) == {"n": 0, "difference": 0.0, "low": -1.0, "high": 1.0}


@pytest.fixture(scope="module")
def matrix(nano, tmp_path_factory):
    out = tmp_path_factory.mktemp("blame")
    rows = ("learned", "oracle", "shuffled", "empty")
    report = B.blame(Settings(family="sort"), range(2), out, workers=0, rows=rows, told=False)
    return out, rows, report


def test_the_matrix_has_its_cells_losses_and_no_warning_for_nano(matrix):
    out, rows, report = matrix
    assert set(report["cells"]) == {f"{row}-{column}" for row in rows for column in B.COLUMNS}
    assert report["cells"]["empty-obedient"]["absent"] and not (out / "empty-obedient").exists()
    for name, cell in report["cells"].items():
        assert "absent" in cell or (cell["overall"]["n"] == 2 and cell["errors"] == 0)
        assert ("difference" in cell) == (name not in ("learned-learned", "empty-obedient"))
    assert report["cells"]["oracle-obedient"]["overall"]["successes"] == 2
    assert report["cells"]["learned-learned"]["overall"]["successes"] == 2
    assert report["cells"]["shuffled-learned"]["overall"]["successes"] == 0
    lost = {row["what"]: row["difference"] for row in report["losses"]}
    assert lost == {"planner": 0, "controller": 0, "both": 0, "language": 1, "any plan": 1}
    assert all("that 2 seeds can show" in line for line in report["warnings"]), "two seeds prove nothing"
    assert json.loads((out / "blame.json").read_text()) == report


def test_the_matrix_goes_on_where_it_was(matrix):
    out, rows, report = matrix
    lines = (out / "shuffled-learned" / "episodes.jsonl").read_text().splitlines()
    (out / "shuffled-learned" / "episodes.jsonl").write_text(lines[0] + "\n")
    ran: list[tuple[str, int]] = []
    again = B.blame(
        Settings(family="sort"), range(2), out, workers=0, rows=rows, told=False,
        begin=lambda title, total: lambda record, done, _: ran.append((title, done)),
    )  # fmt: skip
    assert len(ran) == 14 and again == report
    repeated = (out / "shuffled-learned" / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in repeated] == [json.loads(line)["steps"] for line in lines]
    resumed = [json.loads((out / name / "summary.json").read_text())["episodes_resumed"]
               for name in ("learned-learned", "shuffled-learned")]  # fmt: skip
    assert resumed == [2, 1]


def test_a_controller_that_ignores_the_language_is_told_of(nano, tmp_path):
    """The teacher as controller reads no subtask, and solves the task whatever it is told."""
    settings, rows = Settings(family="sort"), ("learned", "shuffled", "empty")
    report = B.blame(
        settings, range(2), tmp_path, workers=0, policy=nano, rows=rows, columns=("teacher",), told=False
    )
    assert all(cell["overall"]["successes"] == 2 for cell in report["cells"].values())
    assert [line.split()[1] for line in report["warnings"]] == ["shuffling", "emptying"]
    assert all(line.startswith("WARNING: ") and "nothing" in line for line in report["warnings"])


# -- counterfactuals


def trials(settings: Settings, seeds, policy=None) -> tuple[list[dict], list[dict]]:
    records = gather(settings, seeds, Store(None, settings, policy), 0, policy, measure=C.measure)
    assert not [record for record in records if record.get("error")], records
    return [trial for record in records for trial in record["trials"]], C.rows(records)


def test_an_obedient_hand_does_what_it_is_told_and_where_it_is_pointed():
    found, rows = trials(OBEDIENT, range(8))
    assert {trial["what"] for trial in found} == {"command", "place", "instruction"}
    assert {trial["kind"] for trial in found} >= {"pick", "put", "press"}
    for trial in found:
        assert trial["told"] != trial["planned"] and trial["followed"], trial
    for row in rows:
        assert row["successes"] == row["n"] and row["kept"] == 0
    every = {row["what"]: row["n"] for row in rows if row["kind"] == "all"}
    assert every["command"] >= 14 and every["place"] >= 10 and every["instruction"] >= 4


def test_a_hand_that_goes_its_own_way_is_found_out():
    found, _ = trials(Settings(planner="oracle", controller="teacher"), range(6))
    moved = [trial for trial in found if trial["what"] != "instruction"]
    assert len(moved) >= 15 and not any(trial["followed"] for trial in moved)
    assert sum(trial["outcome"] == trial["planned"] for trial in moved) >= len(moved) - 2


def test_nano_follows_words_and_instructions(nano):
    found, rows = trials(Settings(), (1, 2), nano)
    assert found and all(trial["followed"] for trial in found)
    assert rows[-1]["what"] == "instruction" and rows[-1]["unswapped"] == rows[-1]["n"] == 2


def test_a_planner_that_ignores_the_instruction_is_found_out(env):
    rng = np.random.default_rng(0)
    env.reset(seed=EVALUATION_START + 2)
    plan = OraclePlanner(env.teacher()).plan(None, "", "", None)
    trial = C.other_instruction(env, Agent(hand(env), C.Telling(lambda: plan)), 2, rng)
    assert not trial["followed"] and trial["outcome"] == trial["planned"] and trial["unswapped"]


def test_decision_points_are_where_a_subtask_begins(env):
    moments = C.decision_points(env, 5)
    texts = [moment.label.subtask for moment in moments]
    assert len(texts) >= 2 and "done" not in texts and texts[0] != texts[1]
    for moment in moments:
        env.world.restore(moment.state)
        assert Teacher().label(env.world).subtask == moment.label.subtask
        assert not happened(env.world, understand(moment.label.subtask), len(env.world.press_log))


# -- the command


def test_blame_refuses_in_one_line(capsys, tmp_path):
    out = ["--out", str(tmp_path)]
    for arguments, words in (
        (["--episodes", "0"], "episodes"),
        (["--seed", "-1"], "seed"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--suite", "hard"], "hard"),
        (["--plan", ""], "plan: expected subtasks"),
    ):
        assert main(["blame", *arguments, "--workers", "0", *out]) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("error: ") and words in line and "\n" not in line


def test_the_tables_say_what_was_found(matrix, capsys):
    from rich.console import Console

    out, rows, report = matrix
    console = Console(width=100)
    console.print(shown(matrix_table(report)), shown(losses_table(report)))
    text = capsys.readouterr().out
    assert all(row in text for row in rows) and "2/2 = 100% (34% to 100%)" in text
    assert "-100 points (-100 to" in text and "language" in text


def test_what_other_worlds_do_not_have():
    kinds = {c.name: c.absent for c in cells(suite="libero_10")}
    assert not kinds["learned-learned"] and not kinds["empty-learned"]
    assert "no scripted teacher" in kinds["oracle-learned"]
    assert "the tabletop's alone" in kinds["shuffled-learned"]
    assert all(kinds[name] for name in kinds if name.endswith("obedient"))
    assert not {c.name: c.absent for c in cells(suite="ogbench_scene")}["oracle-learned"]
