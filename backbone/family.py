"""The π family as data: π0.5, π0.6, π0.7 planner and controller, their PaliGemma pair, π0.5 with memory.

Every network here is `Network` with a preset made below; sizes and the list of segments set them apart.
Sources: Physical Intelligence's papers on π0.5, π0.6 and MEM, the openpi model card, and the open
implementations whose checkpoints these presets load (openpi, LeRobot, OpenTau).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from backbone.config import Preset, StreamConfig, VisionConfig
from backbone.errors import UserError
from backbone.layout import Layout, Segment

SLIDING, FULL = 10_000.0, 1_000_000.0  # Gemma 3's rotary bases: five local layers, then a global one
# Tokens of the words that stand between segments. A tokenizer knows them; these lengths are Gemma's.
WORD_LENGTHS = {
    "State: ": 3, ", ": 2, ":\n": 2, ";\n ": 3, "Subgoal: ": 4, "Action: ": 3, "Response: ": 3,
    "Updated Memory: ": 4, "Subtask: ": 4,
}  # fmt: skip
VISION, LANGUAGE, STATE, RESPONSE, FAST = range(5)  # rows of π0.5's modality embedding


@dataclass(frozen=True)
class Sizes:
    """The numbers of one network; lengths are in tokens. `constants`: ids of the words between segments."""

    vision: VisionConfig
    decoder: StreamConfig
    expert: StreamConfig | None
    words: int
    cameras: tuple[str, ...] = ("camera0", "camera1", "camera2")
    constants: Mapping[str, Sequence[int]] = field(default_factory=dict)
    fast_words: int = 2048
    state_dim: int = 32
    action_dim: int = 32
    horizon: int = 50
    steps: int = 10
    prompt: int = 256
    response: int = 52
    metadata: int = 52
    memory: int = 52
    fast: int = 32

    def constant(self, name: str, text: str, attend: str, **more) -> Segment:
        ids = tuple(self.constants.get(text, [0] * WORD_LENGTHS[text]))
        return Segment(name, "constant", len(ids), text, attend, ids=ids, **more)

    def text(self, name: str, length: int, attend: str, **more) -> Segment:
        return Segment(name, "text", length, f"{name}_ids", attend, **{"expert_reads": True, **more})

    def images(
        self, group: str = "images", attend: str = "joins", first: str = "opens", **more
    ) -> list[Segment]:
        more = {"expert_reads": True, "optional": True} | more
        prefix = "" if group == "images" else f"{group}."
        return [
            Segment(
                prefix + camera,
                "image",
                self.vision.tokens,
                f"{group}.{camera}",
                attend if at else first,
                **more,
            )
            for at, camera in enumerate(self.cameras)
        ]

    def metadata_text(self, attend: str) -> list[Segment]:
        """None where its length is 0, for a network that is never told any."""
        return [self.text("metadata", self.metadata, attend, optional=True)] if self.metadata else []

    def states(self, attend: str, **more) -> Segment:
        return Segment("state", "state", self.vision.frames, "state", attend, expert_reads=True, **more)

    def discrete(self, word: bool = True) -> list[Segment]:
        """The FAST actions that are learnt beside the flow, and their word; the expert never sees them."""
        tail = [
            Segment(
                "fast", "fast", self.fast, "fast_ids", "causal", target=True, training=True, modality=FAST
            )
        ]
        if word:
            tail.insert(0, self.constant("action_word", "Action: ", "causal", training=True, modality=FAST))
        return tail if self.fast_words else []

    def preset(self, name: str, segments: list[Segment], positions: str = "packed", **more) -> Preset:
        acts = self.expert is not None
        if acts:
            segments = [*segments, Segment("actions", "actions", self.horizon, "actions")]
        return Preset(
            name=name,
            cameras=tuple((camera, self.vision) for camera in self.cameras),
            decoder=self.decoder,
            expert=self.expert,
            layout=Layout(tuple(segments), positions),
            words=self.words,
            state_dim=self.state_dim,
            action_dim=self.action_dim,
            horizon=self.horizon,
            steps=self.steps,
            shared_tower=True,
            narrow=0.0,
            state_octaves=0,
            location_embedding="words",
            pointer=None,
            slot_embedding=False,
            fast_words=self.fast_words if acts else 0,
            embed_scale=True,
            tied_head=True,
            knowledge_insulation=True,
            **more,
        )


# --- what they are made of -------------------------------------------------------------------------------


def siglip(size: int = 224) -> VisionConfig:
    """SigLIP so400m/14. At 448 pixels with Gemma 3's pooling projector, 256 tokens either way."""
    more = {"pool": 2, "projector": "gemma3"} if size == 448 else {}
    return VisionConfig(size, 1152, 27, 16, 4304, **more)


def gemma1(width: int, mlp: int) -> StreamConfig:
    """Gemma 2B (2048, 16384), or the 300M expert (1024, 4096)."""
    return StreamConfig(width, 18, 8, 1, 256, mlp, sandwich=False, qk_norm=False)


def gemma3(width: int, mlp: int, expert: bool = False) -> StreamConfig:
    """Gemma 3 4B (2560, 10240), or the expert beside it (1280, 5120): plain blocks, turned by the same bases.

    No layer has a window: prefixes are short, and the public implementations enforce none. Gemma 3's own
    weights want their global layers `stretched`; OpenTau's do not.
    """
    thetas = tuple(FULL if i % 6 == 5 else SLIDING for i in range(34))
    return StreamConfig(width, 34, 8, 4, 256, mlp, sandwich=not expert, qk_norm=not expert, thetas=thetas)


def paligemma() -> Sizes:
    """PaliGemma 3B at 224 pixels with the 300M expert."""
    return Sizes(siglip(224), gemma1(2048, 16384), gemma1(1024, 4096), 257152)


def gemma() -> Sizes:
    """Gemma 3 4B at 448 pixels with the 860M expert."""
    return Sizes(siglip(448), gemma3(2560, 10240), gemma3(1280, 5120, True), 262208, steps=5)


# --- the family ------------------------------------------------------------------------------------------


def pi05(s: Sizes, state: str = "text", subtask: bool = False, modalities: bool = False) -> Preset:
    """π0.5. Pictures, words and state see each other; a subtask is written after them.

    state: "text" (numbers in the prompt), "token" (one, behind the prompt) or "history" (LeRobot's memory:
    one a step, before the prompt).
    """
    segments = s.images(modality=VISION)
    prompt = s.text("prompt", s.prompt, "joins", modality=LANGUAGE)
    if state == "history":
        segments += [s.states("joins"), prompt]
    else:
        segments.append(prompt)
    if state == "token":
        word = {"expert_reads": True, "modality": STATE}
        segments += [
            s.constant("state_word", "State: ", "joins", **word),
            s.states("joins", modality=STATE),
            s.constant("state_end", ":\n", "joins", **word),
        ]
    if subtask:
        word = {"expert_reads": True, "modality": RESPONSE}
        segments.append(s.constant("response_word", "Response: ", "causal", **word))
        segments.append(s.text("response", s.response, "causal", target=True, modality=RESPONSE))
    return s.preset("pi05", segments + s.discrete(), modalities=5 if modalities else 0)


def pi06(s: Sizes, subtask: bool = False) -> Preset:
    """π0.6: Gemma 3, words read left to right, the state among them; FAST has no word of its own."""
    segments = [*s.images(), s.text("prompt", s.prompt, "causal")]
    if subtask:
        segments.append(s.text("response", s.response, "causal", target=True))
    return s.preset("pi06", segments + s.discrete(word=False))


def pi07(s: Sizes) -> Preset:
    """π0.7's controller: what was seen, where the arm was, what to do now, how, and what it should look like.

    Unlike the public code, whether a separator is there is each sample's own matter, not its batch's.
    """
    extras, seen = ("response", "metadata"), tuple(f"subgoals.{c}" for c in s.cameras)
    read = {"expert_reads": True}
    segments = [
        *s.images(),
        s.text("prompt", s.prompt, "causal"),
        s.constant("state_word", "State: ", "causal", **read),
        s.states("opens"),
        s.constant("state_end", ", ", "causal", when=extras + seen, **read),
        s.constant("state_close", ":\n", "causal", unless=extras + seen, **read),
        s.text("response", s.response, "causal", optional=True),
        s.text("metadata", s.metadata, "causal", optional=True),
        s.constant("extras_end", ";\n ", "causal", when=extras + seen, **read),
        s.constant("subgoal_word", "Subgoal: ", "causal", when=seen, **read),
        *s.images("subgoals", "opens"),
        s.constant("subgoal_end", ", ", "causal", when=seen, **read),
        *s.discrete(),
    ]
    return s.preset("pi07", segments)


def pi07_planner(s: Sizes) -> Preset:
    """π0.7's planner: memory in, updated memory and subtask out."""
    segments = [
        *s.images(),
        s.text("prompt", s.prompt, "causal"),
        *s.metadata_text("causal"),
        *([s.constant("context_end", ";\n ", "causal", when=("metadata",))] if s.metadata else []),
        s.constant("memory_word", "Updated Memory: ", "causal"),
        s.text("memory", s.memory, "causal", target=True),
        s.constant("response_word", "Subtask: ", "causal"),
        s.text("response", s.response, "causal", target=True),
    ]
    return replace(s, expert=None).preset("pi07_planner", segments)


def pi07_paligemma(s: Sizes) -> Preset:
    """The PaliGemma controller of OpenTau's π0.7: the same inputs, most of them in blocks of their own."""
    seen, read = tuple(f"subgoals.{c}" for c in s.cameras), {"expert_reads": True}
    segments = [
        *s.images(),
        s.text("prompt", s.prompt, "joins"),
        s.constant("state_word", "State: ", "joins", **read),
        s.states("joins"),
        s.constant("response_start", ", ", "joins", when=("response",), **read),
        s.text("response", s.response, "opens", optional=True),
        s.constant("metadata_start", ", ", "joins", when=("metadata",), **read),
        s.text("metadata", s.metadata, "opens", optional=True),
        s.constant("subgoal_start", ", ", "joins", when=seen, **read),
        s.constant("subgoal_word", "Subgoal: ", "opens", when=seen, **read),
        *s.images("subgoals", first="joins"),
        s.constant("context_end", ":\n", "joins", **read),
        *s.discrete(),
    ]
    return s.preset("pi07_paligemma", segments)


def pi07_paligemma_planner(s: Sizes, subtask_word: str = "opens") -> Preset:
    """Its planner. subtask_word: OpenTau trains `Subtask: ` as one block ("opens") but writes it word by word
    ("causal") when it decodes. Here both do what the weights were trained with.
    """
    segments = [
        *s.images(),
        s.text("prompt", s.prompt, "joins"),
        *s.metadata_text("opens"),
        s.constant("context_end", ";\n ", "joins"),
        s.constant("memory_word", "Updated Memory: ", "opens"),
        s.text("memory", s.memory, "causal", target=True),
        s.constant("response_word", "Subtask: ", subtask_word),
        s.text("response", s.response, "causal", target=True),
    ]
    return replace(s, expert=None).preset("pi07_paligemma_planner", segments)


def pi05_mem(s: Sizes, positions: str = "mrope") -> Preset:
    """π0.5 with memory: pictures and states of the last seconds; the last state predicts FAST's first."""
    segments = [*s.images(), s.text("prompt", s.prompt, "joins"), s.states("joins"), *s.discrete(word=False)]
    return s.preset("pi05_mem", segments, positions)


def tiny(gemma3: bool = False) -> Sizes:
    """Every part of a family member at a size for tests: some 10,000 parameters."""
    shape = {"depth": 6 if gemma3 else 4, "heads": 4, "kv_heads": 2 if gemma3 else 1, "head_dim": 8}
    thetas = (SLIDING,) * 5 + (FULL,) if gemma3 else ()
    more = {"pool": 2, "projector": "gemma3"} if gemma3 else {}
    eye = VisionConfig(56 if gemma3 else 28, 16, 4, 2, 24, **more)
    return Sizes(
        vision=eye,
        decoder=StreamConfig(width=24, mlp=32, sandwich=gemma3, qk_norm=gemma3, thetas=thetas, **shape),
        expert=StreamConfig(width=16, mlp=24, sandwich=False, qk_norm=False, thetas=thetas, **shape),
        words=96, cameras=("camera0", "camera1"), fast_words=32, state_dim=5, action_dim=4, horizon=6,
        steps=3, prompt=10, response=6, metadata=5, memory=6, fast=5,
        constants={text: [40 + at] * n for at, (text, n) in enumerate(WORD_LENGTHS.items())},
    )  # fmt: skip


def stretched(preset: Preset, factor: float) -> Preset:
    """With the positions of the global layers divided by `factor`, in both streams: the linear RoPE scaling
    that Gemma 3's own weights were trained with (8). UserError if it has no such layers.
    """
    if FULL not in preset.decoder.thetas or factor < 1:
        raise UserError(
            f"stretch: expected at least 1 and a Gemma 3 preset, got {factor:g} for '{preset.name}'"
        )

    def apart(stream: StreamConfig) -> StreamConfig:
        return replace(stream, stretch=tuple(factor if theta == FULL else 1.0 for theta in stream.thetas))

    return replace(preset, decoder=apart(preset.decoder), expert=preset.expert and apart(preset.expert))


_GEMMA3 = ("pi06", "pi07", "pi07_planner")
FRAMES = {"pi07": 6, "pi07_paligemma": 6, "pi05_mem": 8}


def _openpi(s: Sizes, **options) -> Preset:
    """As openpi and LeRobot have it."""
    return pi05(replace(s, fast_words=0, prompt=min(s.prompt, 200)), **options)


_BUILDERS: dict[str, Callable[..., Preset]] = {
    "pi05": _openpi,
    "pi05_subtask": partial(pi05, subtask=True),
    "pi06": partial(pi06, subtask=True),
    "pi07": pi07,
    "pi07_planner": pi07_planner,
    "pi07_paligemma": pi07_paligemma,
    "pi07_paligemma_planner": pi07_paligemma_planner,
    "pi05_mem": pi05_mem,
}


def build(
    name: str, small: bool = False, options: Mapping | None = None, vision: Mapping | None = None, **sizes
) -> Preset:
    """A member of the family, full-size or tiny; `sizes` replaces fields of `Sizes`, `vision` fields of its
    tower; `options` are the member's own ("state" of `pi05`, ...).
    """
    vision = {"frames": FRAMES.get(name, 1), **(vision or {})}
    backbone = tiny(name in _GEMMA3) if small else (gemma if name in _GEMMA3 else paligemma)()
    vision.setdefault("spacetime_every", 4 if vision["frames"] > 1 else 0)
    backbone = replace(backbone, vision=replace(backbone.vision, **vision), **sizes)
    return replace(_BUILDERS[name](backbone, **(options or {})), name=f"{name}_tiny" if small else name)


PRESETS = {
    f"{name}_tiny" if small else name: partial(build, name, small)
    for small in (False, True)
    for name in _BUILDERS
}
