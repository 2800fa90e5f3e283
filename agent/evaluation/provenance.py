"""What a number depends on besides the seeds: versions, the source's commit, the machine; and the schema of
the files that hold it (`schema.json`).
"""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

SCHEMA = 2  # of run.json, episodes.jsonl and summary.json
PACKAGES = ("steersman", "torch", "mujoco", "numpy")


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the result files: $defs run, episode, error and summary."""
    return json.loads(Path(__file__).with_name("schema.json").read_text())


def provenance() -> dict[str, Any]:
    """{schema, versions, commit, hardware} of this process."""
    return {"schema": SCHEMA, "versions": versions(), "commit": commit(), "hardware": hardware()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


@functools.cache  # of the source as it was loaded
def commit() -> str | None:
    """The git commit of the source that runs, with "+changes" where files differ from it; None if it is not a
    checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None  # installed: a repository further up would be somebody else's
    try:
        found = _git(here, "rev-parse", "HEAD")
        return found + ("+changes" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores and system; the graphics card where torch is in use and sees one."""
    found: dict[str, Any] = {"cpu": _processor(), "cores": os.cpu_count(), "system": platform.platform()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
