"""Any vision-language model of transformers as a planner."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from backbone.errors import PolicyError, UserError
from backbone.observation import Observation
from highlevel.language_model import Dialect, question
from highlevel.plan import Plan

NEW_TOKENS = 200
DTYPES = ("auto", "float32", "bfloat16", "float16")


class VisionLanguagePlanner:
    """A model with `generate` and its processor with a chat template, as `AutoModelForImageTextToText` and
    `AutoProcessor` give them. It writes greedily: the same look gives the same plan.

    new_tokens: the most it may write. An answer that is cut off before its object ends is no plan.
    """

    def __init__(
        self, model: Any, processor: Any, dialect: Dialect | None = None, new_tokens: int = NEW_TOKENS
    ):
        if not hasattr(processor, "apply_chat_template") or not getattr(processor, "chat_template", None):
            raise UserError("planner: expected a processor with a chat template, got one without")
        if new_tokens < 1:
            raise UserError(f"new_tokens: expected at least 1, got {new_tokens}")
        self.model, self.processor = model.eval(), processor
        self.dialect, self.new_tokens = dialect or Dialect(), new_tokens
        self._turn = threading.Lock()  # several agents may share one model

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "auto",
        dialect: Dialect | None = None,
        new_tokens: int = NEW_TOKENS,
    ) -> VisionLanguagePlanner:
        """A directory or a hub id. dtype: of the weights; "auto" is as they were saved. UserError where model
        or processor cannot be had.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if isinstance(dtype, str) and dtype not in DTYPES:
            raise UserError(f"dtype: expected one of {', '.join(DTYPES)}, got '{dtype}'")
        try:
            processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            raise UserError(
                f"planner: expected a vision-language model of transformers, got '{name}' "
                f"({type(error).__name__}: {reason[:200]})"
            ) from None
        return cls(model.to(device), processor, dialect, new_tokens)

    def plan(self, observation: Observation, instruction: str, memory: str, previous: Plan | None) -> Plan:
        """The next plan; UserError for an answer that cannot be read."""
        started = time.perf_counter()
        camera = self.dialect.pointed(observation)
        text, pictures = question(observation, instruction, memory, previous)
        # The rules go into the person's turn: not every chat template has a place for a system's.
        content: list[dict[str, Any]] = [{"type": "text", "text": self.dialect.rules(camera)}]
        content += [{"type": "image", "image": Image.fromarray(picture)} for _, picture in pictures]
        content += [{"type": "text", "text": f"\n{text}\n"}]
        written = self.write([{"role": "user", "content": content}])
        return self.dialect.read(written, memory, camera, time.perf_counter() - started)

    def converse(
        self, turns: Sequence[tuple[str, Sequence[str | np.ndarray]]], schema: Mapping[str, Any] | None = None
    ) -> str:
        """What the model says next. turns: who spoke ("system", "user", "assistant") and what, texts and
        (H, W, 3) uint8 pictures in their order. schema: is not enforced here. PolicyError where the model
        fails, on more than it can read perhaps.
        """
        messages: list[dict[str, Any]] = []
        for role, parts in turns:
            content = [
                {"type": "text", "text": f"{part}\n"}
                if isinstance(part, str)
                else {"type": "image", "image": Image.fromarray(part)}
                for part in parts
            ]
            role = "user" if role == "system" else role  # not every chat template has a place for it
            if messages and messages[-1]["role"] == role:
                messages[-1]["content"] += content
            else:
                messages.append({"role": role, "content": content})
        try:
            return self.write(messages)
        except Exception as error:  # of a template, a processor, a model: anybody's
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            raise PolicyError(
                f"planner: the model failed ({type(error).__name__}: {reason[:200]})"
            ) from error

    @torch.no_grad()
    def write(self, messages: list[dict[str, Any]]) -> str:
        """What the model says next in a conversation."""
        with self._turn:
            inputs = self.processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            ).to(self.model.device, self.model.dtype)  # whole numbers stay what they are
            length = inputs["input_ids"].shape[-1]
            greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
            tokens = self.model.generate(**inputs, max_new_tokens=self.new_tokens, **greedy)
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        return tokenizer.decode(tokens[0, length:], skip_special_tokens=True)
