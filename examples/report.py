"""A page from results: one run of `steersman evaluate` in full, several side by side, or a matrix of
`steersman blame`. HTML that stands alone, and Markdown on request.

Every number is computed anew from the records of the episodes; a summary that disagrees with them is named.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from agent.evaluation.blamepage import blame_page, is_blame, read_blame
from agent.evaluation.films import failed_seeds, film
from agent.evaluation.page import Page
from agent.evaluation.report import run_page
from agent.evaluation.results import Results, read_results
from agent.evaluation.sidebyside import comparison_page
from agent.evaluation.store import make_folder
from backbone.errors import UserError

Told = tuple[str, list[str], dict[str, Any]]  # a name, warnings, a rate


def main(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path | None = None,
    markdown: Path | None = None,
    videos: int = 0,
) -> int:
    """Options of `steersman report`.

    Args:
        folders: one or more, each written by `steersman evaluate --out`; or one by `steersman blame --out`.
        out: the HTML file; report.html in the folder by default (of several runs: outputs/report.html).
        markdown: also this Markdown file, with the tables.
        videos: of the first so many failures, played anew from their seeds (of one run).
    """
    if not folders:
        raise UserError("report: expected a folder of results, got none")
    if videos < 0:
        raise UserError(f"videos: expected 0 or more, got {videos}")
    if videos and len(folders) > 1:
        raise UserError(f"videos: expected one folder of results, got {len(folders)}")
    console = Console(highlight=False)
    if any(map(is_blame, folders)):
        page, told = blame_of(folders, videos)
    else:
        page, told = runs_of(folders, videos, console)
    out = out or (folders[0] if len(folders) == 1 else Path("outputs")) / "report.html"
    for path, text in ((out, page.html()), *([(markdown, page.markdown())] if markdown else [])):
        write(path, text)
    for name, warnings, row in told:
        for line in warnings:
            console.print(f"{name}: {line}", style="yellow", markup=False, soft_wrap=True)
        console.print(f"{name}: {row['successes']} of {row['n']} solved", markup=False, soft_wrap=True)
    console.print(f"saved as {out}" + (f" and {markdown}" if markdown else ""), soft_wrap=True)
    return 0


def runs_of(folders: tuple[Path, ...], videos: int, console: Console) -> tuple[Page, list[Told]]:
    """The page of one run, or of several side by side."""
    runs = read_all(folders)
    told = [(run.name, run.warnings, run.summary["overall"]) for run in runs]
    if len(runs) > 1:
        return comparison_page(runs), told
    films, notes = {}, []
    if videos:
        with console.status("playing the failures anew") as status:
            say = lambda seed: status.update(f"playing seed {seed} anew")
            films, notes = film(runs[0], failed_seeds(runs[0], videos), say)
    return run_page(runs[0], films, notes), told


def blame_of(folders: tuple[Path, ...], videos: int) -> tuple[Page, list[Told]]:
    """The page of a blame matrix."""
    if len(folders) > 1:
        raise UserError(f"report: expected a blame folder alone, got {len(folders)} folders")
    if videos:
        raise UserError(f"videos: expected the folder of a run, got the blame folder '{folders[0]}'")
    blame = read_blame(folders[0])
    notes = [*blame.report["warnings"], *blame.notes]
    rows = [(name, cell["overall"]) for name, cell in blame.report["cells"].items() if "overall" in cell]
    told = [(name, [] if i else notes, row) for i, (name, row) in enumerate(rows)]
    return blame_page(blame), told


def read_all(folders: tuple[Path, ...]) -> list[Results]:
    """The results, each under a name of its own: the folder's, with its parent's where two are alike."""
    names = [folder.resolve().name for folder in folders]
    count = Counter(names)
    for i, folder in enumerate(folders):
        if count[names[i]] > 1:
            names[i] = "/".join(folder.resolve().parts[-2:])
    return [read_results(folder, name) for folder, name in zip(folders, names, strict=True)]


def write(path: Path, text: str) -> None:
    """Whole or not at all; UserError where it cannot be."""
    make_folder(path.parent)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"out: expected a file to write, got '{path}' ({error.strerror})") from None


if __name__ == "__main__":
    import sys

    from steersman.cli import run

    sys.exit(run("examples.report", "report.py", sys.argv[1:]))
