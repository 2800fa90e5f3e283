"""Normalisation statistics as others publish them, as the two numbers per dimension that become -1 and 1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from backbone.errors import UserError
from backbone.network import Network
from backbone.normalise import SMALLEST
from backbone.weights import Weights

Range = tuple[Tensor, Tensor]
KINDS = {  # how two published vectors become a range
    ("q01", "q99"): lambda low, high: (low, high),
    ("q10", "q90"): lambda low, high: (low, high),
    ("min", "max"): lambda low, high: (low, high),
    # Half of what a Normaliser adds to the range, so that the mean becomes 0 even where nothing varies.
    ("mean", "std"): lambda mean, std: (mean - std - SMALLEST / 2, mean + std - SMALLEST / 2),
}
_MODES = {  # LeRobot's names of them
    "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"), "MIN_MAX": ("min", "max"),
    "MEAN_STD": ("mean", "std"),
}  # fmt: skip
_FEATURES = {"state": ("observation.state", "observation_state", "state"), "actions": ("actions", "action")}


def find(directory: Path, weights: Weights | None = None) -> dict[str, Range]:
    """{"state": (low, high), "actions": (low, high)} (D,) each, as far as they are found: beside openpi
    weights (assets/*/norm_stats.json), in LeRobot's processor files, or among OpenTau's weights.
    """
    found = _openpi(directory) or _lerobot(directory)
    return found or (_opentau(weights) if weights is not None else {})


def put(network: Network, found: Mapping[str, Range], where: str) -> dict[str, int]:
    """Set the network's normalisation; returns the real dimensions. UserError if something is missing."""
    needed = {"state": network.state_norm, "actions": getattr(network, "action_norm", None)}
    dims = {}
    for name, norm in needed.items():
        if name in found:
            dims[name] = len(found[name][0])
        if norm is None:
            continue
        if name not in found:
            raise UserError(f"statistics: expected those of '{name}' in {where}, found none")
        low, high = (value.float() for value in found[name])
        wide = len(norm.low)
        if len(low) > wide:
            raise UserError(f"statistics: expected at most {wide} dimensions of '{name}', got {len(low)}")
        filled = torch.full((wide,), -1.0), torch.ones(wide)  # padded dimensions stay as they are
        filled[0][: len(low)], filled[1][: len(high)] = low, high
        norm.set_quantiles(*filled)
    return dims


def _range(values: Mapping[str, Tensor]) -> Range | None:
    for (a, b), made in KINDS.items():
        if a in values and b in values:
            return made(values[a].double().flatten(), values[b].double().flatten())
    return None


def _openpi(directory: Path) -> dict[str, Range]:
    files = sorted(directory.glob("assets/**/norm_stats.json")) + sorted(directory.glob("norm_stats.json"))
    if not files:
        return {}
    if len(files) > 1:
        raise UserError(f"statistics: expected one norm_stats.json below {directory}, got {len(files)}")
    try:
        stats = json.loads(files[0].read_text())["norm_stats"]
        tensors = {
            name: {k: torch.tensor(v) for k, v in s.items() if v is not None} for name, s in stats.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"statistics: {files[0]} cannot be read ({error})") from error
    return {name: r for name in ("state", "actions") if (r := _range(tensors.get(name, {})))}


def _lerobot(directory: Path) -> dict[str, Range]:
    """Its files hold every kind of statistics; which of them the weights were trained with stands beside."""
    found: dict[str, dict[str, Tensor]] = {"state": {}, "actions": {}}
    for file in sorted(directory.glob("policy_preprocessor_step_*_normalizer_processor.safetensors")):
        weights = Weights(file)
        for key in weights.keys():  # noqa: SIM118 (not a dict)
            feature, _, kind = key.rpartition(".")
            for name, theirs in _FEATURES.items():
                if feature in theirs:
                    found[name][kind] = weights.read(key)
    modes = _lerobot_modes(directory)
    for name, values in found.items():
        mode = modes.get({"state": "STATE", "actions": "ACTION"}[name])
        if mode == "IDENTITY" and values:
            ones = torch.ones_like(next(iter(values.values())))
            found[name] = {"min": -ones, "max": ones}
        elif mode is not None:
            kinds = _MODES.get(mode, ())
            if values and not (kinds and set(kinds) <= set(values)):
                wanted = " and ".join(kinds) or f"one of {', '.join(_MODES)}"
                raise UserError(
                    f"statistics: expected {wanted} of '{name}' (its mode is {mode}), got {', '.join(values)}"
                )
            found[name] = {kind: values[kind] for kind in kinds if kind in values}
    return {name: r for name, values in found.items() if (r := _range(values))}


def _lerobot_modes(directory: Path) -> dict[str, str]:
    """What the normaliser does with STATE and ACTION, {} if it is not said."""
    path = directory / "policy_preprocessor.json"
    if not path.is_file():
        return {}
    try:
        steps = json.loads(path.read_text())["steps"]
        maps = [s["config"]["norm_map"] for s in steps if s.get("registry_name") == "normalizer_processor"]
        return dict(maps[0]) if maps else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"statistics: {path} cannot be read ({error})") from error


def _opentau(weights: Weights) -> dict[str, Range]:
    found: dict[str, dict[str, Tensor]] = {"state": {}, "actions": {}}
    for key in weights.keys():  # noqa: SIM118 (not a dict)
        group, _, rest = key.removeprefix("model.").partition(".buffer_")
        feature, _, kind = rest.rpartition(".")
        wanted = {"normalize_inputs": "state", "normalize_targets": "actions"}.get(group)
        if wanted and feature in _FEATURES[wanted]:
            rows = weights.read(key)
            if rows.dim() == 2 and len(rows) > 1:
                raise UserError(f"statistics: expected one robot's in '{key}', got those of {len(rows)}")
            found[wanted][kind] = rows
    return {name: r for name, values in found.items() if (r := _range(values))}
