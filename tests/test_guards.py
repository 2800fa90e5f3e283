"""The checks of test_invariances.py, checked: with its guard taken out, each fails."""

from __future__ import annotations

import pytest
import torch
from test_invariances import (
    PROPERTIES,
    a_sample_is_its_own,
    absent_is_never_having_had_it,
    both_streams_turn_alike,
    content_says_what_is_there,
    frames_bring_no_parameters,
    insulation_blocks_and_lets_through,
    no_history_means_only_now,
    nothing_is_predicted_from_padding,
    one_frame_is_a_plain_picture,
    padded_history_is_not_seen,
    swapped,
    the_cache_holds_what_one_pass_computes,
    the_callers_tensors_stay_as_they_are,
    the_expert_sees_no_fast_tokens,
    the_present_state_is_always_real,
    training_reads_what_inference_reads,
    words_are_scaled_once,
)

from backbone import joint, prefix, vision
from backbone.cache import Beside, Cache
from backbone.embeddings import TextEmbedding
from backbone.layout import Layout, _select
from backbone.transformer import Stream
from backbone.vision import VisionBlock, VisionTower


def all_frames_are_real(time):
    return lambda tower, images, history, frames: time(tower, images, torch.ones_like(history), frames)


def no_history_is_all_history(history):
    def given(segment, images, inputs):
        camera = segment.source.partition(".")[2]
        there = history(segment, images, inputs)
        return there if camera in inputs.get("history", {}) else torch.ones_like(there)

    return given


def states_are_not_zeroed(state):
    def read(made, segment, value, history):
        _, real = state(made, segment, value.nan_to_num(0), history)
        return made.state(made.state_norm(value)), real

    return read


def states_may_all_be_gone(state):
    def read(made, segment, value, history):
        tokens, real = state(made, segment, value, history)
        return tokens, real if history is None else history

    return read


def more_parameters_for_frames(init):
    def begin(block, config, temporal, attention):
        init(block, config, temporal, attention)
        if temporal:
            block.more = torch.nn.Linear(2, 2)

    return begin


def missing_is_there(read):
    def found(made, segment, *rest):
        tokens, real = read(made, segment, *rest)
        return tokens, real | (segment.kind == "image")

    return found


def pads_are_words(words):
    def read(made, segment, ids):
        tokens, real = words(made, segment, ids)
        return tokens, torch.ones_like(real)

    return read


def states_are_zeroed_in_place(state):
    def read(made, segment, value, history):
        value[:, :-1] = 0
        return state(made, segment, value, history)

    return read


def words_depend_on_the_batch(constant):
    def found(*args):
        tokens, real = constant(*args)
        return tokens, real.any(0).expand_as(real)

    return found


def words_are_always_there(constant):
    def found(*args):
        tokens, real = constant(*args)
        return tokens, torch.ones_like(real)

    return found


def everything_sees_everything(mask):
    return lambda layout, valid: mask(layout, valid) | valid[:, None, :]


def the_expert_reads_all(_):
    return property(lambda layout: torch.ones(layout.length, dtype=torch.bool))


def from_the_column_before(logits):
    def shifted(made, encoded, segment):
        if segment.kind != "fast":
            return logits(made, encoded, segment)
        span = encoded.layout.span(segment.name)
        return made.fast_head(encoded.hidden[:, span.start - 1 : span.stop - 1])

    return shifted


def never_insulated(extend):
    return lambda beside, layer, k, v: extend(Beside(beside.prefix, False), layer, k, v)


def always_insulated(extend):
    return lambda beside, layer, k, v: extend(Beside(beside.prefix, True), layer, k, v)


def the_expert_turns_otherwise(forward):
    def moved(stream, x, positions, *rest):
        return forward(stream, x, positions * 2 if stream.adaptive else positions, *rest)

    return moved


def words_scaled_twice(forward):
    return lambda text, ids: forward(text, ids) * text.scale


def all_layers_in_one(extend):
    return lambda cache, layer, k, v: extend(cache, 0, k, v)


def ages_are_not_zero_now(periods):
    return lambda offsets, dim: periods(offsets, dim) + torch.arange(dim)


MUTATIONS = [
    (padded_history_is_not_seen, "pi07", VisionTower, "_time", all_frames_are_real),
    (padded_history_is_not_seen, "pi05_mem", prefix, "_state", states_are_not_zeroed),
    (one_frame_is_a_plain_picture, "pi07", vision.AGES, "periods", ages_are_not_zero_now),
    (no_history_means_only_now, "pi07_paligemma", prefix, "_history", no_history_is_all_history),
    (the_present_state_is_always_real, "pi05_mem", prefix, "_state", states_may_all_be_gone),
    (frames_bring_no_parameters, "pi07", VisionBlock, "__init__", more_parameters_for_frames),
    (absent_is_never_having_had_it, "pi07", prefix, "_read", missing_is_there),
    (absent_is_never_having_had_it, "pi07_paligemma", prefix, "_constant", words_depend_on_the_batch),
    (content_says_what_is_there, "pi07", prefix, "_words", pads_are_words),
    (the_callers_tensors_stay_as_they_are, "pi05_mem", prefix, "_state", states_are_zeroed_in_place),
    (a_sample_is_its_own, "pi07", prefix, "_constant", words_depend_on_the_batch),
    (the_cache_holds_what_one_pass_computes, "pi07", Cache, "extend", all_layers_in_one),
    (training_reads_what_inference_reads, "pi06", Layout, "mask", everything_sees_everything),
    (the_expert_sees_no_fast_tokens, "pi05_subtask", Layout, "expert_columns", the_expert_reads_all),
    (nothing_is_predicted_from_padding, "pi06", joint, "token_logits", from_the_column_before),
    (insulation_blocks_and_lets_through, "pi05_subtask", Beside, "extend", never_insulated),
    (insulation_blocks_and_lets_through, "pi06", Beside, "extend", always_insulated),
    (both_streams_turn_alike, "pi07", Stream, "forward", the_expert_turns_otherwise),
    (words_are_scaled_once, "pi06", TextEmbedding, "forward", words_scaled_twice),
]


@pytest.mark.parametrize(
    ("check", "name", "owner", "attribute", "mutation"), MUTATIONS,
    ids=[f"{check.__name__}-{name}-{mutation.__name__}" for check, name, _, _, mutation in MUTATIONS],
)  # fmt: skip
def test_the_check_fails_without_its_guard(check, name, owner, attribute, mutation):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _select.cache_clear()  # layouts keep the tables that were made of them
    before = owner[attribute] if isinstance(owner, dict) else owner.__dict__[attribute]
    with swapped(owner, attribute, mutation(before)), pytest.raises((AssertionError, RuntimeError)):
        check(name)
    _select.cache_clear()


def test_every_check_has_a_guard_that_was_taken_out():
    assert {check for check, *_ in MUTATIONS} == set(PROPERTIES)
