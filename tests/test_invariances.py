"""What must not matter does not matter, in every member of the π family. test_guards.py checks the checks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import pytest
import torch

from backbone import joint
from backbone.inference import Run
from backbone.layout import Layout
from backbone.network import Network
from backbone.presets import preset
from backbone.vision import VisionTower
from training.dropout import Dropout

MEMBERS = (
    "pi05",
    "pi05_subtask",
    "pi06",
    "pi07",
    "pi07_planner",
    "pi07_paligemma",
    "pi07_paligemma_planner",
    "pi05_mem",
)
ACTING = tuple(name for name in MEMBERS if "planner" not in name)
FAST = tuple(name for name in ACTING if name != "pi05")  # openpi's has no such head
REMEMBERING = ("pi07", "pi07_paligemma", "pi05_mem")
BATCH = 3


def network(name: str, seed: int = 0, **changes) -> Network:
    """Random weights everywhere, also where training starts from zero. changes: of the preset's fields."""
    torch.manual_seed(seed)
    made = Network(preset(f"{name}_tiny", **changes))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


def inputs(made: Network, seed: int = 0, batch: int = BATCH) -> dict:
    """Something in every segment: texts of different lengths, and a history with holes."""
    g, p = torch.Generator().manual_seed(seed), made.preset
    found: dict = {"images": {}, "subgoals": {}, "history": {}, "there": {}}
    frames = p.cameras[0][1].frames
    for segment in p.layout.prefix.segments:
        group, _, camera = segment.source.partition(".")
        if segment.kind == "image":
            size = p.vision(camera).image_size
            time = (frames,) if group == "images" and frames > 1 else ()
            found[group][camera] = torch.rand(batch, *time, size, size, 3, generator=g) * 2 - 1
        elif segment.kind == "state":
            found["state"] = torch.randn(batch, segment.length, p.state_dim, generator=g)
        elif segment.kind in ("text", "fast"):
            ids = torch.randint(1, 30, (batch, segment.length), generator=g)
            used = torch.randint(2, segment.length + 1, (batch, 1), generator=g)
            found[segment.source] = ids.masked_fill(torch.arange(segment.length) >= used, 0)
    if frames > 1:
        real = torch.rand(batch, frames, generator=g) > 0.4
        found["history"] = {name: real for name in (*found["images"], "state")}
    if p.expert:
        found["actions"] = torch.randn(batch, p.horizon, p.action_dim, generator=g)
        found["noise"] = torch.randn(batch, 1, p.horizon, p.action_dim, generator=g)
        found["time"] = torch.rand(batch, 1, generator=g)
    return found


def changed(found: dict, **changes) -> dict:
    """A copy; a change whose value is a dict is merged, None removes."""
    out = {k: dict(v) if isinstance(v, dict) else v for k, v in found.items()}
    for name, value in changes.items():
        if value is None:
            out.pop(name)
        elif isinstance(value, dict):
            out[name] = {k: v for k, v in (out[name] | value).items() if v is not None}
        else:
            out[name] = value
    return out


def some(found: dict, rows: slice) -> dict:
    return {k: some(v, rows) if isinstance(v, dict) else v[rows] for k, v in found.items()}


def answers(made: Network, found: dict) -> list[torch.Tensor]:
    """Everything that is learnt from: token losses per token and the velocity."""
    with torch.no_grad():
        out = joint.losses(made, found)
    per_token = [loss for loss, _ in out["tokens"].values()]
    return per_token + ([out["flow"]["velocity"]] if "flow" in out else [])


def same(first: list[torch.Tensor], second: list[torch.Tensor], tolerance: float = 2e-5) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def differ(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(first, second, strict=True))


@contextmanager
def swapped(owner, name: str, value):
    """Something of ours (never of a library's) replaced for a while: an attribute or a dict's entry."""
    place = owner if isinstance(owner, dict) else None
    before = (place or owner.__dict__)[name]
    put = place.__setitem__ if place is not None else partial(setattr, owner)
    put(name, value)
    try:
        yield
    finally:
        put(name, before)


# --- history -----------------------------------------------------------------------------------------------


def padded_history_is_not_seen(name: str) -> None:
    made, found = network(name), None
    found = inputs(made)
    gone = ~next(iter(found["history"].values())).clone()
    gone[:, -1] = False
    wild = {c: image.masked_fill(gone[:, :, None, None, None], 7.0) for c, image in found["images"].items()}
    state = found["state"].masked_fill(gone[:, :, None], torch.nan)
    same(answers(made, found), answers(made, changed(found, images=wild, state=state)))


def one_frame_is_a_plain_picture(name: str) -> None:
    made = network(name)
    tower, found = next(iter(made.towers.values())), inputs(made)
    video = next(iter(found["images"].values()))
    now = tower(video[:, -1])[0]
    assert torch.equal(tower(video[:, -1:])[0], now)
    absent = torch.zeros(video.shape[:2], dtype=torch.bool)
    torch.testing.assert_close(tower(video, absent)[0], now, atol=1e-5, rtol=0)
    assert not torch.allclose(tower(video, ~absent)[0], now, atol=1e-3), "a history that is there matters"


def no_history_means_only_now(name: str) -> None:
    made = network(name)
    found = inputs(made)
    nothing = {key: torch.zeros_like(value) for key, value in found["history"].items()}
    same(answers(made, changed(found, history=nothing)), answers(made, changed(found, history=None)))


def the_present_state_is_always_real(name: str) -> None:
    made = network(name)
    found = inputs(made)
    gone = torch.zeros_like(found["history"]["state"])
    before = found["state"].clone(), gone.clone()
    with torch.no_grad():
        _, valid, _ = made.embed(made.layout.prefix, changed(found, history={"state": gone}))
    states = valid[:, made.layout.span("state")]
    assert states[:, -1].all() and not states[:, :-1].any()
    assert torch.equal(found["state"], before[0]) and torch.equal(gone, before[1]), "the caller's are his own"


def frames_bring_no_parameters(name: str) -> None:
    config = next(iter(network(name).towers.values())).config
    plain = VisionTower(type(config)(**{**vars(config), "spacetime_every": 0, "frames": 1}), 24)
    assert set(plain.state_dict()) == set(VisionTower(config, 24).state_dict())


# --- what may be absent ------------------------------------------------------------------------------------


def absent_is_never_having_had_it(name: str) -> None:
    """A missing key, a flag, an empty text: for all samples, and for one of them."""
    made = network(name)
    found = inputs(made)
    first = torch.arange(BATCH) == 0
    for segment in made.layout.prefix.segments:
        if not segment.optional:
            continue
        group, _, camera = segment.source.partition(".")
        none = torch.zeros(BATCH, dtype=torch.bool)
        missing = changed(found, **({group: {camera: None}} if camera else {segment.source: None}))
        if camera and group == "images" and len(made.preset.cameras) == 1:
            continue
        if not camera:
            same(
                answers(made, missing),
                answers(made, changed(found, **{segment.source: 0 * found[segment.source]})),
            )
        same(answers(made, missing), answers(made, changed(found, there={segment.name: none})))
        mixed = answers(made, changed(found, there={segment.name: ~first}))
        same([a[:1] for a in mixed], [a[:1] for a in answers(made, missing)])
        same([a[1:] for a in mixed], [a[1:] for a in answers(made, found)])
        differ(answers(made, missing), answers(made, found))


def content_says_what_is_there(name: str) -> None:
    """Without any flag: a sample whose text is empty has none, and a picture that is given is there."""
    made = network(name)
    found = inputs(made)
    for segment in made.layout.prefix.segments:
        if segment.kind not in ("text", "image") or not segment.optional:
            continue
        group, _, camera = segment.source.partition(".")
        there = {segment.name: torch.ones(BATCH, dtype=torch.bool)}
        if camera:
            same(answers(made, found), answers(made, changed(found, there=there)), 0.0)
            continue
        ids = found[segment.source].clone()
        ids[0] = 0
        mixed = answers(made, changed(found, **{segment.source: ids}))
        without = answers(made, changed(found, **{segment.source: None}))
        same([a[:1] for a in mixed], [a[:1] for a in without])
        same([a[1:] for a in mixed], [a[1:] for a in answers(made, found)])
        differ([a[1:] for a in mixed], [a[1:] for a in without])


def frozen(found: dict) -> list[tuple[torch.Tensor, int, torch.Tensor]]:
    """Every tensor of the inputs, how often it was written to, and what it holds."""
    tensors = [t for v in found.values() for t in (v.values() if isinstance(v, dict) else [v])]
    return [(tensor, tensor._version, tensor.clone()) for tensor in tensors]


def the_callers_tensors_stay_as_they_are(name: str) -> None:
    made = network(name)
    found = inputs(made)
    found["there"] = {s.name: torch.rand(BATCH) > 0.5 for s in made.layout.prefix.segments if s.optional}
    names, before = {k: set(v) for k, v in found.items() if isinstance(v, dict)}, frozen(found)
    joint.losses(made, found)
    read_in_parts(made, found)
    Dropout(history=1.0, subgoal=0.5, response=1.0).batch(found, torch.Generator().manual_seed(0))
    for tensor, version, copy in before:
        assert tensor._version == version and torch.equal(tensor, copy)
    assert names == {k: set(v) for k, v in found.items() if isinstance(v, dict)}


def a_sample_is_its_own(name: str) -> None:
    made = network(name)
    found = inputs(made)
    for segment in made.layout.prefix.segments:
        if segment.optional:  # every sample lacks something else, the first one all that may be lacking
            there = torch.rand(BATCH) > 0.5
            found["there"][segment.name] = there & (torch.arange(BATCH) > 0)
    together = answers(made, found)
    for at in range(BATCH):
        alone = answers(made, some(found, slice(at, at + 1)))
        same([a[at : at + 1] for a in together], alone)


# --- prefix, cache, expert ---------------------------------------------------------------------------------


def read_in_parts(made: Network, found: dict) -> Run:
    run = Run(made, BATCH)
    with torch.no_grad():
        run.read(made.layout.context, found)
        for segment in run.layout.prefix.segments[len(made.layout.context) :]:
            if segment.kind == "text":
                ids = found[segment.source]
                for at in range(ids.shape[1]):
                    run.write(segment.name, ids[:, at : at + 1], at, ids[:, at : at + 1] != 0)
            else:
                run.read((segment.name,), found)
    return run


def the_cache_holds_what_one_pass_computes(name: str) -> None:
    made = network(name)
    found = inputs(made)
    run = read_in_parts(made, found)
    layout = run.layout.prefix
    with torch.no_grad():
        encoded = made.encode(layout, found)
    real = encoded.valid
    assert torch.equal(run.valid, real)
    for layer, (k, v) in enumerate(zip(encoded.memory.keys, encoded.memory.values, strict=True)):
        same([run.cache.keys[layer][:, : layout.length][real]], [k[real]])
        same([run.cache.values[layer][:, : layout.length][real]], [v[real]])
    if made.preset.expert:
        with torch.no_grad():
            run.prepare_actions()
            noisy, time = found["noise"][:, 0], found["time"]
            same(
                [run.velocity(noisy, made.modulation(time))],
                [joint.predict(made, encoded, found["noise"], time)[:, 0]],
            )


def training_reads_what_inference_reads(name: str) -> None:
    made = network(name)
    found, layout = inputs(made), made.layout
    with torch.no_grad():
        short, whole = (made.encode(part, found) for part in (layout.select(layout.context), layout.prefix))
    length = short.layout.length
    assert torch.equal(short.valid, whole.valid[:, :length])
    same([short.hidden[short.valid]], [whole.hidden[:, :length][short.valid]])
    assert layout.prefix.names[: len(layout.context)] == layout.context


def the_expert_sees_no_fast_tokens(name: str) -> None:
    made = network(name)
    found = inputs(made)
    other = changed(found, fast_ids=found["fast_ids"] % 29 + 1)
    same(answers(made, found)[-1:], answers(made, other)[-1:], 0.0)
    differ(answers(made, found)[:-1], answers(made, other)[:-1])


def nothing_is_predicted_from_padding(name: str) -> None:
    """What stands in padded places of a text, which only a mask tells from words, changes nothing."""
    made = network(name)
    found = inputs(made)
    texts = [s for s in made.layout.prefix.segments if s.kind in ("text", "fast")]
    there = {s.name: found[s.source] != 0 for s in texts}
    filled = {s.source: found[s.source].masked_fill(~there[s.name], 7) for s in texts}
    same(answers(made, changed(found, there=there)), answers(made, changed(found, there=there, **filled)))


def insulation_blocks_and_lets_through(name: str) -> None:
    for insulated in (True, False):
        made = network(name, knowledge_insulation=insulated)
        out = joint.losses(made, inputs(made))
        out["flow_loss"].backward()
        reached = [
            p.grad is not None and bool(p.grad.abs().sum() > 0) for p in made.decoder.blocks[0].parameters()
        ]
        assert not any(reached) if insulated else any(reached)
        assert all(p.grad is not None for p in made.expert.blocks[0].parameters())


def both_streams_turn_alike(name: str) -> None:
    """Moving everything on by some positions changes nothing, as long as both streams use the same bases."""
    made = network(name)
    found = inputs(made)
    before = answers(made, found)
    where = Layout.token_positions
    after = []
    with swapped(Layout, "token_positions", lambda layout, valid: where(layout, valid) + 5):
        start = Layout.next_position
        moved = (lambda *a: start(*a)) if made.layout.positions == "mrope" else (lambda *a: start(*a) + 5)
        with swapped(Layout, "next_position", moved):
            after = answers(made, found)
    same(before, after, 2e-4)


def words_are_scaled_once(name: str) -> None:
    made = network(name)
    ids = torch.arange(1, 9)[None]
    expected = made.text.table.weight[ids] * made.preset.decoder.width**0.5
    torch.testing.assert_close(made.text(ids), expected)
    found = inputs(made)
    with torch.no_grad():
        x, valid, _ = made.embed(made.layout.prefix, found)
    span = made.layout.span("prompt")
    real = valid[:, span]
    torch.testing.assert_close(x[:, span][real], made.text(found["prompt_ids"])[real])


PROPERTIES: dict[Callable[[str], None], tuple[str, ...]] = {
    padded_history_is_not_seen: REMEMBERING,
    one_frame_is_a_plain_picture: REMEMBERING,
    no_history_means_only_now: REMEMBERING,
    the_present_state_is_always_real: REMEMBERING,
    frames_bring_no_parameters: REMEMBERING,
    absent_is_never_having_had_it: MEMBERS,
    content_says_what_is_there: MEMBERS,
    the_callers_tensors_stay_as_they_are: MEMBERS,
    a_sample_is_its_own: MEMBERS,
    the_cache_holds_what_one_pass_computes: MEMBERS,
    training_reads_what_inference_reads: MEMBERS,
    the_expert_sees_no_fast_tokens: FAST,
    nothing_is_predicted_from_padding: MEMBERS,
    insulation_blocks_and_lets_through: ACTING,
    both_streams_turn_alike: ACTING,
    words_are_scaled_once: MEMBERS,
}


@pytest.mark.parametrize(
    ("check", "name"), [(check, name) for check, names in PROPERTIES.items() for name in names],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)  # fmt: skip
def test_property(check, name):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    check(name)
