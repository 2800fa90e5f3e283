"""Planners that are somebody else's models, by their names."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path

from backbone.errors import UserError
from highlevel.language_model import Dialect
from highlevel.planner import Planner

LOCAL, SERVED, OURS = "vlm:", "openai:", ("ws://", "wss://")
FOREIGN = "vlm:NAME, openai:MODEL@BASE_URL or ws://HOST:PORT"
_SERVED = re.compile(r"(?P<model>.+?)(?:@(?P<url>https?://.*))?")  # a model's name may have an @


def is_foreign_planner(name: str) -> bool:
    """Whether a planner's name stands for somebody else's model."""
    return str(name).startswith((LOCAL, SERVED, *OURS))


def open_planner(
    name: str, dialect: Dialect | None = None, device: str = "cpu", **options: object
) -> Planner:
    """The planner of a name. UserError in one line where it cannot be had.

    "vlm:DIRECTORY" or "vlm:HUB_ID": a vision-language model of transformers; options: dtype, new_tokens.
    "openai:MODEL@BASE_URL", or "openai:MODEL" with the URL in OPENAI_BASE_URL: a model on a server that
    speaks OpenAI's chat completions, sent the key in OPENAI_API_KEY if there is one; options: those of
    `OpenAIPlanner`. dialect: what the controller wants to hear. "ws://HOST:PORT" or "wss://..", with
    "?timeout=SECONDS" and "&heartbeat=SECONDS": the planner of a policy server of ours.
    """
    if name.startswith(OURS):
        from agent.remote.names import open_remote_planner

        return open_remote_planner(name)
    if name.startswith(LOCAL):
        from highlevel.vision_language import VisionLanguagePlanner

        model, processor = _loaded(_local(name), device, options.pop("dtype", "auto"))
        return VisionLanguagePlanner(model, processor, dialect, **options)
    if name.startswith(SERVED):
        from highlevel.openai_server import OpenAIPlanner

        model, url = _served(name)
        return OpenAIPlanner(model, url, dialect, **options)
    raise UserError(f"planner: expected {FOREIGN}, got '{name}'")


def planner_identity(name: str) -> str:
    """What tells one such planner from another, as far as can be known: of a directory the sha256 of weights,
    configuration and templates; of a hub id the commit; of a server its address and the model's name there,
    or its metadata.
    """
    if name.startswith(OURS):
        with open_planner(name) as planner:
            return f"planner {planner.identity}"
    if name.startswith(SERVED):
        from highlevel.openai_server import URL, checked_url

        model, url = _served(name)
        return f"planner {model} at {checked_url(url or os.environ.get(URL, ''))}"
    model = _local(name)
    if not Path(model).is_dir():
        return f"planner {model}, commit {_commit(model)}"
    found = hashlib.sha256()
    kinds = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}
    for file in sorted(f for f in Path(model).iterdir() if f.is_file() and f.suffix in kinds):
        found.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                found.update(block)
    return f"planner sha256 {found.hexdigest()}"


def _local(name: str) -> str:
    model = name.removeprefix(LOCAL)
    if not model.strip():
        raise UserError("planner: expected vlm:DIRECTORY or vlm:HUB_ID, got no name")
    return model


def _served(name: str) -> tuple[str, str | None]:
    """The model's name and the base URL, if it is named."""
    found = _SERVED.fullmatch(name.removeprefix(SERVED))
    if found is None:
        raise UserError(f"planner: expected openai:MODEL@BASE_URL, got '{name}'")
    return found["model"], found["url"]


def _commit(model: str) -> str:
    """Of a hub id: the folder of the hub's cache that its configuration lies in is named so."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "config.json")).parent.name
    except (OSError, ValueError, RuntimeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]
        raise UserError(f"planner: expected a directory or a hub id, got '{model}' ({reason})") from None


@functools.lru_cache(maxsize=1)
def _loaded(model: str, device: str, dtype: str):
    """Model and processor: once a process, however many agents share them."""
    from highlevel.vision_language import VisionLanguagePlanner

    found = VisionLanguagePlanner.from_pretrained(model, device, dtype)
    return found.model, found.processor
