"""Our networks against numbers that the public implementations computed (tests/golden/README.md).

`pytest tests/test_golden.py --golden DIR` runs any folder laid out like that one and prints a row per case.
Where we correct a defect of theirs, the numbers of the correction are compared (`alone.*`, `corrected.*`).
DEVIATIONS lists them; none is skipped.
"""

from __future__ import annotations

import pytest
import torch
from golden_cases import Case, cases
from torch import Tensor

from backbone import joint
from backbone.inference import Run
from backbone.network import Network
from backbone.vision import AGES
from highlevel.decoding import Alphabet, Written, write
from lowlevel.flow import integrate, times

TOLERANCE = 1e-4
DEVIATIONS = {
    "separators": "whether a separator is there is each sample's own matter (alone.*), not its batch's",
    "first FAST token": "predicted from the last real token (corrected.*), not from padding",
    "means": "over real tokens; the sources' are over all slots, so sums and counts are compared",
    "Subtask: ": "pi07_paligemma_high_level trains it as one block and decodes it word by word: `train.*` is"
    " compared with the first layout, `decode.response_*` with the second",
}


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        found = cases(metafunc.config.getoption("golden"))
        metafunc.parametrize("case", found, ids=str)


@pytest.fixture(scope="session")
def table(request):
    """The largest difference of every case, printed at the end."""
    rows: dict[str, tuple[float, str, int]] = {}
    yield rows
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        reporter.write_line("")
        for name, (worst, what, count) in rows.items():
            reporter.write_line(f"{name:45} {worst:8.1e}  {what} ({count} outputs)")


class Check:
    """Compares what we compute with a case's outputs and remembers which outputs were looked at."""

    def __init__(self, case: Case):
        self.outputs, self.seen, self.differences = dict(case.outputs), set(), {}
        self.coupled = case.policy in ("pi07_low_level", "pi07_high_level")

    def has(self, name: str) -> bool:
        return name in self.outputs

    def __call__(self, name: str, ours: Tensor, rows: Tensor | None = None, relative: bool = False) -> None:
        """rows: which entries count (where the source has a number that means something)."""
        if name not in self.outputs:
            return
        self.seen.add(name)
        theirs = self.outputs[name]
        assert ours.shape == theirs.shape, (name, tuple(ours.shape), tuple(theirs.shape))
        ours, theirs = ours.double(), theirs.double()
        error = (ours - theirs).abs()
        if relative:
            error = error / theirs.abs().clamp(min=1)
        if rows is not None:
            error = error[rows]
        self.differences[name] = float(error.max()) if error.numel() else 0.0

    def real(self, name: str, ours: Tensor, valid: Tensor, theirs_real: Tensor) -> None:
        """The same for columns: real ones only, in order; a masked column may be missing on one side."""
        if name not in self.outputs:
            return
        self.seen.add(name)
        worst = 0.0
        for b in range(len(valid)):
            a, t = ours[b][valid[b]], self.outputs[name][b][theirs_real[b]]
            assert a.shape == t.shape, (name, b, tuple(a.shape), tuple(t.shape))
            worst = max(worst, float((a.double() - t.double()).abs().max()))
        self.differences[name] = worst


@torch.no_grad()
def test_case(case: Case, table: dict):
    torch.set_num_threads(1)
    check = Check(case)
    network, report = case.network()
    assert not report.missing and not report.unknown
    if case.folder.name == "encoder":
        encoder(network, case, check)
    else:
        batch = case.batch()
        if check.has("alone.prefix_length"):
            alone(network, case, check)
        prefix(network, batch, case, check)
        train(network, batch, case, check)
        decode_and_sample(network, batch, case, check)
    worst = max(check.differences, key=check.differences.get)
    table[str(case)] = check.differences[worst], worst, len(check.differences)
    unseen = set(case.outputs) - check.seen
    assert not unseen, f"not compared: {sorted(unseen)}"
    assert check.differences[worst] < TOLERANCE, (worst, check.differences[worst])


def encoder(network: Network, case: Case, check: Check) -> None:
    """The vision tower by itself, over frames that may be missing."""
    tower, video = next(iter(network.towers.values())), case.inputs["video_u8"].movedim(-3, -1)
    for name, pad in case.inputs.items():
        if name.startswith("pad."):
            check(f"tokens.{name[4:]}", tower(video[:, -pad.shape[1] :], ~pad.bool())[0])
    check("tokens.none_given", tower(video)[0])
    check("still_tokens", tower(video[:, -1])[0])
    check("still_tower", tower.features(video[:, -1])[0])
    frames = len(case.outputs["temporal_pe_6"])
    offsets = torch.arange(1.0 - frames, 1.0)
    check("temporal_pe_6", AGES[tower.config.ages](offsets, tower.config.width))


def context_of(network: Network):
    return network.layout.select(network.layout.context)


def as_in_their_batch(network: Network, batch: dict) -> dict:
    """The separators as the sources have them: for all samples if any of the batch has what they separate."""
    there = dict(batch["there"])
    _, valid, _ = network.embed(network.layout.prefix, batch)
    for segment in network.layout.prefix.segments:
        coupled = segment.name in ("state_end", "state_close", "extras_end", "context_end")
        if coupled and (segment.when or segment.unless):
            names = segment.when or segment.unless
            some = any(bool(valid[:, network.layout.span(name)].any()) for name in names)
            there[segment.name] = torch.full((len(valid),), some == bool(segment.when))
    return {**batch, "there": there}


def their_mask(pad: Tensor, att: Tensor) -> Tensor:
    """Who sees whom, by the sources' rule."""
    order = att.long().cumsum(1)
    return (order[:, None, :] <= order[:, :, None]) & pad[:, None, :] & pad[:, :, None]


def prefix(network: Network, batch: dict, case: Case, check: Check) -> None:
    given = case.inputs
    if check.coupled:
        batch = as_in_their_batch(network, batch)
    for where, layout in (("prefix", context_of(network)), ("train.prefix", network.layout.prefix)):
        if not check.has(f"{where}.pad_mask"):
            continue
        pad = check.outputs[f"{where}.pad_mask"].bool()
        encoded = network.encode(layout, batch)
        valid = encoded.valid
        x, _, _ = network.embed(layout, batch)
        check.real(f"{where}.pad_mask", valid.int(), valid, pad)
        check.real(f"{where}.embs", x, valid, pad)
        check.real(f"{where}.out", encoded.hidden, valid, pad)
        for layer, (k, v) in enumerate(zip(encoded.memory.keys, encoded.memory.values, strict=True)):
            check.real(f"{where}.k.{layer}", k, valid, pad)
            check.real(f"{where}.v.{layer}", v, valid, pad)
        positions, theirs = layout.token_positions(valid), check.outputs[f"{where}.position_ids"]
        if positions.dim() == 3:
            positions, theirs = positions.movedim(0, -1), theirs.movedim(0, -1)
        check.outputs[f"{where}.position_ids"] = theirs
        check.real(f"{where}.position_ids", positions, valid, pad)
        att = check.outputs[f"{where}.att_mask"]
        check.seen |= {f"{where}.att_mask", f"{where}.mask_2d"} & set(check.outputs)
        masks = [their_mask(pad, att)]
        if check.has(f"{where}.mask_2d"):
            masks.append(check.outputs[f"{where}.mask_2d"].bool())
        ours = layout.mask(valid)
        for b in range(len(valid)):
            for mask in masks:
                mine = ours[b][valid[b]][:, valid[b]]
                assert torch.equal(mine, mask[b][pad[b]][:, pad[b]]), (where, b)
        if where == "train.prefix" and check.has("train.prefix.embs_tail"):
            start = context_of(network).length
            tail = check.outputs["train.prefix.embs_tail"].shape[1]
            check.real("train.prefix.embs_tail", x[:, start:], valid[:, start:], pad[:, -tail:])
    if not network.preset.expert or "x_t" not in given:
        return
    encoded = network.encode(context_of(network), batch)
    time = given["time"][:, None]
    check("velocity", joint.predict(network, encoded, given["x_t"][:, None], time)[:, 0])
    slot = 0 if network.action_slot is None else network.action_slot
    check("suffix.embs", network.action_in(given["x_t"]) + slot)
    condition = network.condition(time)
    if check.has("suffix.adarms_cond"):
        theirs = check.outputs["suffix.adarms_cond"]
        check(
            "suffix.adarms_cond",
            condition[:, 0, 0] if theirs.dim() == 2 else condition[:, 0].expand_as(theirs),
        )


def train(network: Network, batch: dict, case: Case, check: Check) -> None:
    if not any(name.startswith("train.") for name in check.outputs):
        return
    if check.coupled:
        batch = as_in_their_batch(network, batch)
    out = joint.losses(network, batch | case.training())
    encoded = network.encode(network.layout.prefix, batch)
    if "flow" in out:
        velocity, training = out["flow"]["velocity"][:, 0], case.training()
        check("train.velocity", velocity)
        check("train.MSE", out["flow_loss"])
        check("train.MSE_sum", out["flow"]["sums"], relative=True)
        check("train.MSE_count", out["flow"]["counts"])
        check("train.loss", out["flow_loss"])
        check("train.loss_per_sample", out["flow"]["sums"] / out["flow"]["counts"])
        squared = (velocity - (training["noise"][:, 0] - training["actions"])).square()
        check("train.loss_elementwise", squared, rows=promised_rows(squared, training), relative=True)
    total = sums = counts = torch.zeros(())
    for segment in network.layout.prefix.segments:
        if not segment.target:
            continue
        loss, real = out["tokens"][segment.name]
        logits, name = joint.token_logits(network, encoded, segment), segment.name
        rows = real.clone()
        fixed = f"corrected.CE_{name}_per_token"
        if check.has(fixed):  # their first FAST token comes from a padded row
            rows[:, 0] &= batch["there"][network.layout.prefix.segments[-2].name].all(1)
            check(fixed, loss)
            check("corrected.CE_fast", loss.mean())
            check("corrected.CE_fast_real_mean", out["fast_loss"])
        check(f"train.{name}_logits", logits, rows=rows)
        check(f"train.CE_{name}_per_token", loss, rows=rows if check.has(fixed) else None)
        for key in (f"train.CE_{name}",):
            if check.has(key):
                correct = check.outputs.get(f"corrected.CE_{name}")
                check.outputs[key] = check.outputs[key] if correct is None else correct
                check(key, loss.mean())
        total, sums, counts = total + loss.mean(), sums + loss.sum(1), counts + real.sum(1)
    if check.has("corrected.CE_fast"):  # what their sums would be with the correction
        wrong, right = (case.outputs[k] for k in ("train.CE_fast_per_token", "corrected.CE_fast_per_token"))
        check.outputs["train.CE"] = case.outputs["train.CE"] - wrong.mean() + right.mean()
        check.outputs["train.CE_sum"] = case.outputs["train.CE_sum"] - wrong.sum(1) + right.sum(1)
    if out["tokens"]:
        check("train.CE", total)
        check("train.CE_sum", sums, relative=True)
        check("train.CE_count", counts.float())


def promised_rows(values: Tensor, training: dict) -> Tensor:
    steps = torch.arange(values.shape[1])
    delay = training.get("delay", torch.zeros(len(values)))
    return (steps >= delay[:, None])[..., None].expand_as(values)


def decode(
    network: Network, batch: dict, case: Case, check: Check, begin: str = ""
) -> tuple[Run, list[Written]]:
    """Reads the context and writes every text there is to write."""
    run = Run(network, len(next(iter(batch["images"].values()))))
    targets = [s for s in run.prefix.segments if s.target]
    run.read(network.layout.context, batch)
    if not targets:
        return run, []
    tokens = case.config["tokens"]
    texts = write(run, Alphabet(tokens["bos"], (tokens["eos"],), tokens["pad"]))
    whole: dict[str, torch.Tensor] = {}
    for number, segment in enumerate(targets):
        ids = torch.full((run.batch, segment.length), tokens["pad"])
        whole[segment.name] = ids
        for row, written in enumerate(texts):
            ids[row, : len(written.texts[number])] = torch.tensor(written.texts[number])
        check(f"{begin}decode.{segment.name}_tokens", ids)
        if check.has(f"{begin}decode.{segment.name}_logits"):
            again, start = Run(network, run.batch), run.prefix.names.index(segment.name)
            again.read(network.layout.context, batch)
            for before in run.prefix.segments[len(network.layout.context) : start]:
                if before.target:
                    real = run.valid[:, run.prefix.span(before.name)]
                    again.write(before.name, whole[before.name], 0, real)
                else:
                    again.read((before.name,), batch)
            logits = [
                network.logits(again.write(segment.name, ids[:, at : at + 1], at)[:, 0])
                for at in range(len(check.outputs[f"decode.{segment.name}_logits"]))
            ]
            check(f"decode.{segment.name}_logits", torch.stack(logits))
    check(f"{begin}decode.min_margin", torch.tensor(min(written.margin for written in texts)))
    check("decode.pad_mask_after", run.valid)
    return run, texts


def sample(network: Network, run: Run, case: Case, check: Check, begin: str = "") -> None:
    given, p = case.inputs, network.preset
    if "sample.noise" not in given:
        return
    noise, delay = given["sample.noise"], given.get("sample.delay")
    run.prepare_actions()
    velocities, promised, given_at = [], None, torch.zeros(len(noise), p.horizon, dtype=torch.bool)
    if delay is not None and delay.any():
        given_at = torch.arange(p.horizon) < delay.expand(len(noise))[:, None]
        promised = given["sample.action_prefix"], given_at[..., None]

    def velocity(x, step):
        time = times(p.steps)[step].expand(len(noise), 1, p.horizon).masked_fill(given_at[:, None], 0.0)
        velocities.append(run.velocity(x, network.modulation(time)))
        return velocities[-1]

    actions = integrate(velocity, noise, p.steps, promised, clean=True)
    check(f"{begin}sample.actions", actions)
    check(f"{begin}sample.velocities", torch.stack(velocities))


def decode_and_sample(network: Network, batch: dict, case: Case, check: Check) -> None:
    if case.policy == "pi07_paligemma_high_level":  # as it decodes, not as it was trained
        network, _ = case.network(subtask_word="causal")
    if check.coupled:
        batch = as_in_their_batch(network, batch)
    run, _ = decode(network, batch, case, check)
    if network.preset.expert:
        sample(network, run, case, check)


def alone(network: Network, case: Case, check: Check) -> None:
    """Our batch gives every sample what theirs gives it in a batch of its own."""
    batch, given = case.batch(), case.inputs
    encoded = network.encode(context_of(network), batch)
    lengths = encoded.layout.length - (~encoded.valid).sum(1)
    assert lengths.shape == check.outputs["alone.prefix_length"].shape
    check.seen.add("alone.prefix_length")  # counts their pads too, of which we have others
    if network.preset.expert:
        time = given["time"][:, None]
        check("alone.velocity", joint.predict(network, encoded, given["x_t"][:, None], time)[:, 0])
    out = joint.losses(network, batch | case.training())
    losses = out["tokens"]
    for name, (loss, _) in losses.items():
        check(f"alone.train.CE_{name}_per_token", loss)
    check("alone.train.CE_sum", sum(loss.sum(1) for loss, _ in losses.values()), relative=True)
    check("alone.train.CE_count", sum(real.sum(1) for _, real in losses.values()).float())
    run, _ = decode(network, batch, case, check, "alone.")
    if network.preset.expert:
        sample(network, run, case, check, "alone.")
