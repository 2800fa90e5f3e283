"""How fast nano trains on one CPU core, by number format and attention implementation.

    python benchmarks/training_speed.py [--batch 32]

Samples a second of forward, backward and a fused AdamW step, the best of a few repeats. How fast it runs is
benchmarks/tick.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backbone.network import Network  # noqa: E402
from backbone.presets import preset  # noqa: E402
from backbone.tokenizer import Tokenizer  # noqa: E402

TARGET = "Updated Memory: nothing Subtask: put the red block in the purple bin<point>"
INSTRUCTION = "put the red block in the drawer and close the drawer then press the blue button twice"
SUBTASK = "put the red block in the purple bin <loc0412><loc0630>"


def batches(tokenizer: Tokenizer, size: int) -> tuple[dict, dict]:
    """A planner's and a controller's batch of noise with texts of an ordinary length."""

    def ids(text: str, length: int) -> torch.Tensor:
        return torch.tensor([tokenizer.encode(text, length)] * size)

    front = torch.randint(0, 256, (size, 128, 128, 3), dtype=torch.uint8)
    wrist = torch.randint(0, 256, (size, 64, 64, 3), dtype=torch.uint8)
    state = torch.randn(size, 8)
    planner = {
        "images": {"front": front, "wrist": wrist},
        "state": state,
        "instruction_ids": ids(INSTRUCTION, 24),
        "memory_ids": ids("nothing", 12),
        "target_ids": ids(TARGET, 25),
        "point": torch.rand(size, 2),
    }
    controller = {
        "images": {"wrist": wrist},
        "state": state,
        "plan_ids": ids(SUBTASK, 16),
        "actions": torch.rand(size, 10, 7) * 2 - 1,
        "valid": torch.ones(size, 10, dtype=torch.bool),
    }
    return planner, controller


def training(network: Network, planner: dict, controller: dict, size: int) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), 1e-5, fused=True)

    def rate(half: bool, **data) -> float:
        def step():
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = network(**data)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        return size / min(repeat(step, 5)) * 1e3

    for attention in ("math", "sdpa"):
        for module in network.modules():
            if isinstance(getattr(module, "attention", None), str):
                module.attention = attention
        for half in (True, False):
            a, b = rate(half, planner=planner), rate(half, controller=controller)
            kind = "bfloat16" if half else "float32"
            print(f"train  {attention:5} {kind:9} planner {a:5.0f}/s  controller {b:5.0f}/s (4 flow samples)")
    for module in network.modules():
        if isinstance(getattr(module, "attention", None), str):
            module.attention = network.preset.attention


def repeat(call: Callable, times: int) -> list[float]:
    """Milliseconds of each of some calls, after two that do not count."""
    taken = []
    for _ in range(times + 2):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1e3)
    return taken[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    size = parser.parse_args().batch
    torch.set_num_threads(1)
    torch.manual_seed(0)
    extra = [f"word{i}" for i in range(80)]
    tokenizer = Tokenizer.from_words([TARGET.split("Subtask:")[1], INSTRUCTION, "nothing", "up", *extra])
    network = Network(preset("nano", words=tokenizer.words, vocabulary=tokenizer.fingerprint))
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    print(f"parameters {sum(parts.values()):,}:", ", ".join(f"{k} {v:,}" for k, v in parts.items() if v))
    training(network, *batches(tokenizer, size), size)


if __name__ == "__main__":
    main()
