"""Every preset by name."""

from __future__ import annotations

from dataclasses import replace

from backbone import family
from backbone.config import Preset
from backbone.errors import UserError
from backbone.nano import nano, nano_flat

PRESETS = {"nano": nano, "nano_flat": nano_flat, **family.PRESETS}


def preset(name: str, **changes) -> Preset:
    """A preset by name; UserError names the known ones."""
    if name not in PRESETS:
        raise UserError(f"preset: expected one of {', '.join(PRESETS)}, got '{name}'")
    return replace(PRESETS[name](), **changes)
