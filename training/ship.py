"""Put a trained policy into the package: half-precision weights, a card with its scores and how it was made.

    python -m training.ship runs/nano --learned outputs/core --oracle outputs/core-oracle

Every number on the card is read from the evaluations' summaries and the recipe's log; none is typed in.
"""

from __future__ import annotations

import json
from pathlib import Path

from backbone import checkpoint
from backbone.errors import UserError


def main(
    run: Path = Path("runs/nano"),
    learned: Path | None = None,
    oracle: Path | None = None,
    flat: Path | None = None,
    name: str = "nano",
    to: Path = checkpoint.SHIPPED,
) -> int:
    """Options of `python -m training.ship`.

    Args:
        run: a recipe's folder.
        learned: the folder of the agent's own evaluation (summary.json).
        oracle: of the same controller with the scripted teacher as planner.
        flat: of the baseline without a planner.
        name: of the checkpoint in the package.
        to: where checkpoints are shipped from.
    """
    policy = run / "run/policy"
    network, tokenizer = checkpoint.load(policy)
    columns = {"learned planner": learned, "oracle planner": oracle, "no planner": flat}
    summaries = {title: _read(path / "summary.json") for title, path in columns.items() if path}
    log = run / "recipe.jsonl"
    stages = _stages(log.read_text()) if log.exists() else []
    about = {"stages": stages, "scores": {title: s["overall"] for title, s in summaries.items()}}
    checkpoint.save(
        to / name, network, tokenizer, card=card(name, network, summaries, stages), half=True, about=about
    )
    size = sum(path.stat().st_size for path in (to / name).iterdir()) / 1e6
    print(f"{to / name}: {size:.1f} MB")
    return 0


def _stages(log: str) -> list[dict]:
    """What the recipe did, once each: a run that was resumed notes again what it found done."""
    stages, seen = [], set()
    for stage in map(json.loads, log.splitlines()):
        stage.pop("out", None)  # a folder of the machine it was made on
        facts = json.dumps({k: v for k, v in stage.items() if k != "time"})
        if facts not in seen and not stage["stage"].startswith("cache"):
            stages.append(stage)
        seen.add(facts)
    return stages


def _read(path: Path) -> dict:
    if not path.is_file():
        raise UserError(f"ship: expected an evaluation's {path}, found none")
    return json.loads(path.read_text())


def table(summaries: dict[str, dict]) -> str:
    """Families down, evaluations across: solved of n and the 95% interval, as Markdown."""

    def cell(score: dict) -> str:
        return f"{score['successes']}/{score['n']} ({100 * score['low']:.0f} to {100 * score['high']:.0f}%)"

    families = sorted({family for summary in summaries.values() for family in summary["families"]})
    lines = [f"| | {' | '.join(summaries)} |", "|---" * (len(summaries) + 1) + "|"]
    for row in ("overall", *families):
        scores = [s["overall"] if row == "overall" else s["families"].get(row) for s in summaries.values()]
        lines.append(f"| {row} | {' | '.join(cell(score) if score else '' for score in scores)} |")
    return "\n".join(lines)


def planner_facts(summary: dict) -> str:
    """What the learned planner got right, in sentences."""
    p = summary["planner"]
    return (
        f"Same subtask as the teacher at {100 * p['agreement_away_from_switches']:.1f}% of "
        f"{p['looks_away_from_switches']} looks that are not within half a second of a switch "
        f"({100 * p['agreement']:.1f}% of all {p['looks']}); same memory at "
        f"{100 * p['memory_agreement']:.1f}%. "
        f"Point off by {p['grounding_pixels_median']:.2f} of 128 pixels in the median, "
        f"{p['grounding_pixels_p90']:.2f} at 90%. "
        f'"done" too early in {p["done_early"]["successes"]} of {p["done_early"]["n"]} episodes, '
        f"late in {p['done_late']['successes']} of {p['done_late']['n']} solved ones."
    )


def card(name: str, network, summaries: dict[str, dict], stages: list[dict]) -> str:
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    parts = [
        f"# {name}\n",
        f"The agent that Steersman ships: a planner and a flow-matching controller in one network of "
        f"{parameters:.2f} M parameters, trained from scratch on demonstrations of the scripted teacher in "
        "`envs/tabletop` and on its own states, labelled by the teacher (DAgger). It knows this table, these "
        "words and nothing else. Licence: Apache-2.0.\n",
    ]
    if summaries:
        settings = next(iter(summaries.values()))["settings"]
        parts.append(
            f"## Scores\n\nSuite `{settings['suite']}`, held-out seeds, {settings['execute']} of "
            f"{network.preset.horizon} actions executed per look: solved, and the Wilson 95% interval.\n"
        )
        parts.append(table(summaries) + "\n")
    if "learned planner" in summaries:
        parts.append(planner_facts(summaries["learned planner"]) + "\n")
    if stages:
        parts.append("## How it was trained\n\n`python -m training.recipe`; what it noted:\n")
        parts += [
            f"- {s['time']} {s['stage']}: "
            + ", ".join(f"{k} {v}" for k, v in s.items() if k not in ("stage", "time"))
            for s in stages
        ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("training.ship", "training.ship", sys.argv[1:]))
