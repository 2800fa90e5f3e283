"""nano, the network that is trained here and ships with the package, and what it is measured against."""

from __future__ import annotations

from dataclasses import replace

from backbone.config import Preset, StreamConfig, VisionConfig
from backbone.layout import Layout, Segment

NANO_LAYOUT = Layout(
    (
        # what the controller sees: its own hand and joints
        Segment("wrist", "image", 16, "images.wrist", expert_reads=True),
        Segment("state", "state", 1, "state", "joins", expert_reads=True),
        # what the planner sees besides
        Segment("front", "image", 64, "images.front", sees=("wrist", "state")),
        Segment("instruction", "text", 24, "instruction_ids", "joins", sees=("wrist", "state")),
        Segment("memory", "text", 12, "memory_ids", "joins", sees=("wrist", "state")),
        # what the planner writes: Updated Memory: {memory} Scene: {what stands where} Subtask: {words}
        Segment("decoded", "text", 24, "target_ids", "causal", target=True),
        # the plan as the controller reads it: words and two locations, from whatever planner or person
        Segment("plan", "text", 16, "plan_ids", sees=("wrist", "state"), expert_reads=True),
        Segment("actions", "actions", 10, "actions"),
    )
)

# The same without a planner: the instruction stands in the subtask's place, the expert reads all there is.
NANO_FLAT_LAYOUT = Layout(
    (
        Segment("wrist", "image", 16, "images.wrist", expert_reads=True),
        Segment("state", "state", 1, "state", "joins", expert_reads=True),
        Segment("front", "image", 64, "images.front", sees=("wrist", "state"), expert_reads=True),
        Segment(
            "instruction", "text", 24, "instruction_ids", "joins", sees=("wrist", "state"), expert_reads=True
        ),
        Segment("actions", "actions", 10, "actions"),
    )
)


def nano(width: int = 192, depth: int = 5, expert_width: int = 128) -> Preset:
    """Trained here from scratch, runs on a CPU."""
    heads = {"depth": depth, "heads": 6, "kv_heads": 2, "head_dim": 32, "thetas": (1000.0,), "gelu": "none"}
    eye = {
        "stem": "conv",
        "channels": (64, 96, 128),
        "width": 128,
        "depth": 1,
        "heads": 4,
        "mlp": 256,
        "gelu": "none",
    }
    return Preset(
        name="nano",
        cameras=(
            ("wrist", VisionConfig(image_size=64, **eye)),
            ("front", VisionConfig(image_size=128, **eye)),
        ),
        decoder=StreamConfig(width=width, mlp=512, **heads),
        expert=StreamConfig(width=expert_width, mlp=384, sandwich=False, **heads),
        layout=NANO_LAYOUT,
    )


def nano_flat() -> Preset:
    """What nano is measured against: the same towers, decoder and expert, and no planner."""
    return replace(nano(), name="nano_flat", layout=NANO_FLAT_LAYOUT, pointer=None)
