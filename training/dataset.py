"""Demonstrations on disk in the LeRobot v3 layout (see agent/recording/dataset.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from agent.recording.columns import IMAGES, Layout
from agent.recording.dataset import DEMONSTRATIONS, EpisodeWriter, data_path, numbers, read_footers
from backbone.errors import UserError
from training.episodes import Episode, episode_key, features


class DatasetWriter(EpisodeWriter):
    """Adds demonstrations to `root`."""

    kind = DEMONSTRATIONS

    @staticmethod
    def columns(layout: Layout) -> dict[str, dict[str, Any]]:
        return features(layout)

    @property
    def keys(self) -> set[str]:
        return {episode_key(e["suite"], e["family"], e["seed"]) for e in self.episodes}

    def add(self, episode: Episode) -> None:
        """Write one episode: there whole after this call, absent before."""
        values: dict[str, Any] = {f"{IMAGES}{name}": pictures for name, pictures in episode.images.items()}
        values |= {
            "observation.state": episode.state,
            "action": episode.action,
            "action_executed": episode.action_executed,
            "target": episode.target,
            "driver": episode.driver,
            "memory": episode.memory,
            "next.success": episode.success,
        }
        about = {"seed": episode.seed, "suite": episode.suite, "family": episode.family}
        about["success"] = bool(len(episode) and episode.success[-1])
        self.write(values, episode.instruction, episode.subtask, about, episode.image_stats)


def repair(root: str | Path) -> None:
    """Make meta/ fit the episodes that are there (after a kill)."""
    DatasetWriter(root).close()


class DatasetReader:
    """Episodes of a dataset written here, whether or not it was finalised."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.episodes = read_footers(self.root, DEMONSTRATIONS)
        if not self.episodes:
            raise UserError(f"dataset: expected data/chunk-000/file-000.parquet under {self.root}, got none")

    def __len__(self) -> int:
        return len(self.episodes)

    def read(self, number: int, images: bool = True, rows: np.ndarray | None = None) -> Episode:
        """Episode `number`, without its pictures if not `images`, or with the pictures of `rows` only."""
        footer, path = self.episodes[number], data_path(self.root, number)
        names = [n for n in pq.read_schema(path).names if images or not n.startswith(IMAGES)]
        table = pq.read_table(path, columns=names)
        tasks = {index: text for text, index in footer["tasks"].items()}
        subtasks = {index: text for text, index in footer["subtasks"].items()}
        pictures = {
            n.removeprefix(IMAGES): [
                row["bytes"] for row in (table[n] if rows is None else table[n].take(rows)).to_pylist()
            ]
            for n in names
            if n.startswith(IMAGES)
        }
        return Episode(
            seed=footer["seed"],
            suite=footer["suite"],
            family=footer["family"],
            images=pictures,
            state=numbers(table["observation.state"]),
            action=numbers(table["action"]),
            action_executed=numbers(table["action_executed"]),
            target=numbers(table["target"]),
            driver=numbers(table["driver"])[:, 0],
            success=numbers(table["next.success"])[:, 0].astype(bool),
            instruction=[tasks[i] for i in table["task_index"].to_pylist()],
            subtask=[subtasks[i] for i in table["subtask_index"].to_pylist()],
            memory=table["memory"].to_pylist(),
        )
