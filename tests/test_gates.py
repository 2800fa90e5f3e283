"""What the gates conclude from what they measure."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from agent.evaluation.statistics import rate


@pytest.fixture
def gates(monkeypatch):
    path = Path(__file__).parent.parent / "benchmarks/gates.py"
    spec = importlib.util.spec_from_file_location("gates", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gates", module)  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def summary(successes: int, worst: float = 1.0, median: float | None = 0.4) -> dict:
    planner = {"looks": 9, "grounding_pixels_median": median, "grounding_pixels_p90": 2.0}
    planner["agreement_away_from_switches"] = 0.98
    families = {"sort": {"rate": 1.0}, "swap": {"rate": worst}}
    return {"overall": rate(successes, 100), "families": families, "planner": planner}


@pytest.mark.parametrize(
    ("gate", "found", "code"),
    [
        ("controller", summary(96), 0),
        ("controller", summary(95), 1),
        ("grounding", summary(0), 0),
        ("grounding", summary(0, median=1.2), 1),
        ("grounding", summary(0, median=None), 1),
        ("joint", summary(90, worst=0.75), 0),
        ("joint", summary(99, worst=0.7), 1),
    ],
)
def test_gates_pass_and_fail(gates, monkeypatch, capsys, gate, found, code):
    monkeypatch.setattr(gates, "run", lambda *_, **__: found)
    assert gates.main(gates.Options(gate)) == code
    assert capsys.readouterr().out.startswith(f"{'FAIL' if code else 'PASS'} {gate}: ")


def test_a_round_is_compared_with_its_control(gates, monkeypatch, capsys):
    found = {None: summary(80), "without": summary(78)}
    monkeypatch.setattr(gates, "run", lambda options, planner, checkpoint=None: found[checkpoint])
    assert gates.main(gates.Options("dagger")) == 2 and "--control" in capsys.readouterr().err
    assert gates.main(gates.Options("dagger", control="without")) == 0
    assert "within the noise" in capsys.readouterr().out
    found["without"] = summary(80)
    assert gates.main(gates.Options("dagger", control="without")) == 1
