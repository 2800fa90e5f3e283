"""Reading tests/golden: a case's settings as one of our presets, its weights, inputs and expected outputs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from backbone import convert, family
from backbone.config import Preset, StreamConfig, VisionConfig
from backbone.network import Network


def load(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


@dataclass(frozen=True)
class Case:
    """One folder below a policy's."""

    folder: Path

    def __str__(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text())

    @property
    def policy(self) -> str:
        return self.config["policy"]

    @property
    def settings(self) -> dict:
        return self.config["policy_config"]

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        common = load(self.folder.parent / "common_inputs.safetensors")
        own = load(self.folder / "inputs.safetensors")
        absent = set(self.config.get("inputs_absent", ()))
        used = [name for name in self.config.get("common_inputs_used", ()) if name not in absent]
        return {name: common[name] for name in used} | {k: v for k, v in own.items() if k != "_empty"}

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        return load(self.folder / "outputs.safetensors")

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """By name, as the sources have them; one where the case is about something else."""
        found = {m[1] for name in self.inputs if (m := re.match(r"(?:video|image)\.(\w+)_u8$", name))}
        return tuple(sorted(found, key=lambda name: (len(name), name))) or ("camera0",)

    # --- our preset ----------------------------------------------------------------------------------------

    def sizes(self) -> family.Sizes:
        s, config = self.settings, self.config
        gemma3 = config.get("gemma3_config")
        vision = gemma3["vision_config"] if gemma3 else config["vision"]
        text = gemma3["text_config"] if gemma3 else config["text"]
        expert = config.get("gemma_expert_config") if gemma3 else config.get("expert")
        frames = s.get("encoder_max_num_frames", s.get("n_obs_steps", 1))
        every = s.get("spacetime_layer_stride", 4)
        if "states" in self.inputs:  # LeRobot's memory
            frames, every = self.inputs["states"].shape[1], s["memory_temporal_attention_every"]
        assert vision["layer_norm_eps"] == text["rms_norm_eps"] == 1e-6, "ours has one epsilon"
        grid = vision["image_size"] // vision["patch_size"]
        tower = VisionConfig(
            vision["image_size"], vision["hidden_size"], vision["num_hidden_layers"],
            vision["num_attention_heads"], vision["intermediate_size"], patch=vision["patch_size"],
            pool=grid // round(gemma3["mm_tokens_per_image"] ** 0.5) if gemma3 else 1,
            frames=frames, spacetime_every=every, ages="powers" if "lerobot" in self.policy else "periods",
            projector="gemma3" if gemma3 else "linear",
        )  # fmt: skip
        kinds = text.get("layer_types") or ["full_attention"] * text["num_hidden_layers"]
        local = [kind != "full_attention" for kind in kinds]
        # OpenTau's PaliGemma turns by 10,000 whatever its config says.
        far = (
            text["rope_theta"] if gemma3 or self.policy in ("openpi_pi05", "lerobot_pi05") else family.SLIDING
        )
        thetas = tuple(text["rope_local_base_freq"] if near else far for near in local)
        factor = (text.get("rope_scaling") or {}).get("factor", 1.0)
        both = {
            "thetas": thetas,
            "stretch": tuple(1.0 if near else factor for near in local),
            "query_scale": text.get("query_pre_attn_scalar"),
        }
        return family.Sizes(
            vision=tower,
            decoder=stream(text, sandwich=bool(gemma3), qk_norm=bool(gemma3), **both),
            expert=stream(expert, sandwich=False, qk_norm=False, **both) if expert else None,
            words=text["vocab_size"],
            cameras=self.cameras,
            constants=self.config["tokens"]["indicators"],
            fast_words=s.get("discrete_action_vocab_size", 0),
            state_dim=s.get("max_state_dim", 32),
            action_dim=s.get("max_action_dim", s.get("action_dim", 32)),
            horizon=s.get("chunk_size", s.get("action_horizon", 0)),
            steps=s.get("num_steps", s.get("num_inference_steps", 0)),
            prompt=s.get("prompt_max_length") or self.width("lang_tokens"),
            response=s.get("response_max_length", 0),
            metadata=s.get("metadata_max_length", 0),
            memory=s.get("memory_max_length", 0),
            fast=s.get("discrete_action_max_length", 0),
        )

    def width(self, name: str) -> int:
        return self.inputs[name].shape[1] if name in self.inputs else 0

    def preset(self, **changes) -> Preset:
        s, sizes = self.settings, self.sizes()
        if self.policy in ("openpi_pi05", "lerobot_pi05"):
            return family.pi05(sizes, state="history" if "states" in self.inputs else "text")
        if self.policy == "opentau_pi05":
            state = "token" if s["state_type"] == "continuous" else "text"
            return family.pi05(sizes, state, s["predict_response"], s.get("use_modality_embedding", False))
        if self.policy == "pi06":
            return family.pi06(sizes, s["predict_response"])
        if self.policy == "pi05_mem":
            return family.pi05_mem(sizes, "mrope" if s["rope_type"] == "mrope_interleaved" else "packed")
        if "metadata_tokens" not in self.inputs and self.policy == "pi07_paligemma_high_level":
            sizes = replace(
                sizes, metadata=0
            )  # the source leaves the block out: its `;\n ` then joins the prompt's
        builders = {
            "pi07_low_level": family.pi07,
            "pi07_high_level": family.pi07_planner,
            "pi07_paligemma_low_level": family.pi07_paligemma,
            "pi07_paligemma_high_level": family.pi07_paligemma_planner,
        }
        return builders[self.policy](sizes, **changes)

    def network(self, **changes) -> tuple[Network, convert.Report]:
        network = Network(self.preset(**changes)).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(torch.nan)
        with safe_open(self.folder.parent / "weights.safetensors", "pt") as file:
            report = convert.fill(network, list(file.keys()), file.get_tensor)
        return network, report

    # --- our inputs ----------------------------------------------------------------------------------------

    def batch(self) -> dict:
        """The prefix's inputs, training's targets with them."""
        given, batch = self.inputs, {"images": {}, "subgoals": {}, "there": {}, "history": {}}
        for camera in self.cameras:
            for kind, group in (("image", "images"), ("video", "images"), ("subgoal", "subgoals")):
                if f"{kind}.{camera}_u8" in given:
                    batch[group][camera] = given[f"{kind}.{camera}_u8"].movedim(-3, -1)
                mask = given.get(f"{kind}_mask.{camera}")
                if mask is not None:
                    batch["there"][camera if group == "images" else f"{group}.{camera}"] = mask.bool()
            frames = given.get(f"frame_mask.{camera}")
            if frames is not None:
                batch["history"][camera], batch["there"][camera] = frames.bool(), frames[:, -1].bool()
        if "obs_history_is_pad" in given:
            for name in (*self.cameras, "state"):
                batch["history"][name] = ~given["obs_history_is_pad"].bool()
        if "state_mask" in given:
            batch["history"]["state"] = given["state_mask"].bool()
        state = given.get("states", given.get("state"))
        if state is not None:
            batch["state"] = state
        texts = {"prompt": "lang", "response": "response", "metadata": "metadata", "memory": "memory"}
        for name, theirs in texts.items():
            for where in ("", "train."):
                if f"{where}{theirs}_tokens" in given:
                    batch[f"{name}_ids"] = given[f"{where}{theirs}_tokens"].long()
                    batch["there"][name] = given[f"{where}{theirs}_mask"].bool()
        if "train.fast_ids" in given:
            batch["fast_ids"], batch["there"]["fast"] = (
                given["train.fast_ids"].long(),
                given["train.fast_mask"].bool(),
            )
        return batch

    def training(self) -> dict:
        """What the losses take besides."""
        given, more = self.inputs, {}
        if "train.actions" not in given:
            return more
        more["actions"], more["noise"] = given["train.actions"], given["train.noise"][:, None]
        more["time"] = given["train.time"][:, None]
        if "train.actions_is_pad" in given:
            more["valid"] = ~given["train.actions_is_pad"].bool()
        for name, ours in (("train.real_action_dim", "dims"), ("train.delay", "delay")):
            if name in given:
                more[ours] = given[name]
        return more


def stream(c: dict, **more) -> StreamConfig:
    return StreamConfig(
        c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"],
        c["head_dim"], c["intermediate_size"], **more,
    )  # fmt: skip


def cases(root: Path) -> list[Case]:
    return [Case(path.parent) for path in sorted(root.glob("*/*/config.json"))]
