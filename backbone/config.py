"""What a network is made of, as data. A preset is a `Preset` object; no preset has code of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from backbone.errors import UserError
from backbone.layout import Layout, Segment

LOSSES = ("text", "scene", "point", "flow", "fast")


@dataclass(frozen=True)
class VisionConfig:
    """One camera's tower.

    stem "patch": SigLIP's patch convolution. stem "conv": pixels are gathered 4 x 4, two convolutions make a
    fine map (image_size / 4, for pointing), strided convolutions with `channels` bring it down to the tokens'
    grid. spacetime_every: every k-th block also attends over past frames (0: never).
    """

    image_size: int
    width: int
    depth: int
    heads: int
    mlp: int
    stem: str = "patch"
    patch: int = 14
    channels: tuple[int, ...] = ()
    pool: int = 1
    final_norm: bool = True
    frames: int = 1
    spacetime_every: int = 0
    ages: str = "periods"  # how far back a frame is, embedded: OpenTau's "periods" or LeRobot's "powers"
    gelu: str = "tanh"
    projector: str = "linear"  # or "gemma3": pooled, RMS-normalised, projected without a bias

    @property
    def grid(self) -> int:
        """Tokens per side before pooling."""
        return self.image_size // (self.patch if self.stem == "patch" else 4 * 2 ** (len(self.channels) - 1))

    @property
    def tokens(self) -> int:
        return (self.grid // self.pool) ** 2


@dataclass(frozen=True)
class StreamConfig:
    """A transformer stack. The expert's heads, kv_heads, head_dim, depth and thetas are the decoder's."""

    width: int
    depth: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    sandwich: bool = True  # norms after attention and MLP too (Gemma 3)
    qk_norm: bool = True
    gelu: str = "tanh"  # "none" is the exact one: 5 times as fast on a CPU
    thetas: tuple[float, ...] = ()  # rotary base of every layer
    stretch: tuple[float, ...] = ()  # positions of a layer are divided by this (linear RoPE scaling)
    windows: tuple[int, ...] = ()  # a layer's query sees only so many last positions; 0: all
    query_scale: float | None = None  # attention scores are divided by its root; None: head_dim
    dropout: float = 0.0  # of what attention and MLP bring, in training

    def __post_init__(self):
        if len(self.thetas) != self.depth:
            object.__setattr__(self, "thetas", (self.thetas[0] if self.thetas else 10000.0,) * self.depth)
        for name, least in (("stretch", 1.0), ("windows", 0)):
            if not getattr(self, name):
                object.__setattr__(self, name, (least,) * self.depth)


@dataclass(frozen=True)
class Preset:
    """A whole network. `words`: vocabulary size without locations; `vocabulary`: the fingerprint."""

    name: str
    cameras: tuple[tuple[str, VisionConfig], ...]
    decoder: StreamConfig
    expert: StreamConfig | None
    layout: Layout
    words: int = 0
    vocabulary: str = ""
    state_dim: int = 8
    action_dim: int = 7
    horizon: int = 10
    steps: int = 5  # Euler steps from noise to actions
    trained_delay: int = 0  # most actions that were already promised in training (real-time chunking)
    control_hz: float = 20.0
    shared_tower: bool = False
    narrow: float = 1e-3  # see Normaliser
    state_octaves: int = 4  # Fourier features of the state beside the numbers themselves
    location_embedding: str = "fourier"  # or "table"
    pointer: str | None = (
        "front"  # the camera a plan points into, None: locations come from the language head
    )
    pointer_width: int = 64
    pointer_sigma: float = 0.7  # of the soft target, in cells of the fine map
    slot_embedding: bool = True
    modalities: int = 0  # kinds of tokens that have a learnt vector added to theirs; 0: none
    fast_words: int = 0  # vocabulary of FAST actions, 0: none
    embed_scale: bool = False  # multiply text embeddings by sqrt(width) (Gemma)
    tied_head: bool = False
    knowledge_insulation: bool = False
    attention: str = "auto"
    text_weight: float = 1.0
    scene_weight: float = 1.0  # of the words between `Scene:` and `Subtask:`
    point_weight: float = 0.5
    flow_weight: float = 1.0
    fast_weight: float = 1.0

    def vision(self, camera: str) -> VisionConfig:
        return dict(self.cameras)[camera]

    @property
    def loss_weights(self) -> dict[str, float]:
        return {f"{name}_loss": getattr(self, f"{name}_weight") for name in LOSSES}

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> Preset:
        """The inverse of `to_dict` after a trip through JSON; UserError names what is missing or unknown."""
        try:
            data = dict(data)
            data["cameras"] = tuple((name, _make(VisionConfig, cfg)) for name, cfg in data["cameras"])
            data["decoder"] = _make(StreamConfig, data["decoder"])
            data["expert"] = _make(StreamConfig, data["expert"]) if data["expert"] else None
            layout = dict(data["layout"])
            layout["segments"] = tuple(_make(Segment, s) for s in layout["segments"])
            data["layout"] = _make(Layout, layout)
            return _make(cls, data)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"config: not a network description ({error})") from error


def _make(kind, data: dict):
    known = {f.name for f in fields(kind)}
    unknown = set(data) - known
    if unknown:
        raise ValueError(f"unknown field '{sorted(unknown)[0]}' of {kind.__name__}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
