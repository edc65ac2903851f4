"""Folders like the recorded ones, of models drawn at random: what `reference.py` says the official code would give.

B 2 rows, N tokens, T = N + 4 tokens with the answer, D hidden size, V vocabulary, r rank of the partial LoRA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COMBINATIONS = (
    ("trol", "internlm2"),
    ("trol", "phi3"),
    ("phantom", "internlm2"),
    ("phantom", "phi3"),
    ("phantom", "qwen2"),
)
SIZES = dict(
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=96,
    vocab_size=512,
    vision_size=32,
    vision_layers=2,
    vision_heads=4,
    vision_mlp=64,
    side_px=56,
    lora_r=8,
    lora_alpha=8,
    feature_size=1024,
    eta=0.5,
    tie_word_embeddings=False,
    tokens=24,
    pads=5,
)
STEPS, PATCH_PX, PAD = 4, 14, 2


def official_config(family: str, backbone: str, sizes: dict[str, Any], llm: dict[str, Any]) -> dict[str, Any]:
    """What stands in config.json; `llm` is laid over the part on the decoder."""
    eps = 1e-6 if backbone == "qwen2" else 1e-5
    text = {
        **{name: sizes[name] for name in list(SIZES)[:6]},
        **dict(max_position_embeddings=256, pad_token_id=PAD, bos_token_id=1, eos_token_id=2, rms_norm_eps=eps),
        "rope_theta": 10000.0 if backbone == "phi3" else 1000000.0,
    }
    more = {
        "internlm2": dict(bias=False, rope_scaling={"type": "dynamic", "factor": 2.0}, hidden_act="silu"),
        "phi3": dict(original_max_position_embeddings=256, rope_scaling=None, sliding_window=2047, resid_pdrop=0.0),
        "qwen2": dict(tie_word_embeddings=sizes["tie_word_embeddings"], use_sliding_window=False),
    }
    text = {**text, **more[backbone], **llm}
    top = {"family": family, "backbone": backbone}
    if (family, backbone) == ("trol", "internlm2"):
        lora = {name: sizes[name] for name in ("lora_r", "lora_alpha")}
        rows = {"image_token_index": sizes["vocab_size"], "embedding_rows": sizes["vocab_size"] + 1}
        return {**text, **top, **lora, **rows, "vision_feature_dim": sizes["feature_size"]}
    vision = dict(
        hidden_size=sizes["vision_size"],
        num_hidden_layers=sizes["vision_layers"],
        num_attention_heads=sizes["vision_heads"],
        intermediate_size=sizes["vision_mlp"],
        image_size=sizes["side_px"],
        patch_size=PATCH_PX,
        qkv_bias=True,
        qk_normalization=False,
        norm_type="layer_norm",
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )
    classes = {"internlm2": "InternLM2ForCausalLM", "phi3": "Phi3ForCausalLM", "qwen2": "Qwen2ForCausalLM"}
    text["architectures"] = [classes[backbone]]
    top |= {"eta": sizes["eta"], "eta_released": 1e-4} if family == "phantom" else {}
    image_token = min(500, sizes["vocab_size"] - 12)
    return {**top, "image_token_index": image_token, "downsample_ratio": 0.5, "force_image_size": sizes["side_px"]} | {
        "vision_config": vision,
        "llm_config": text,
    }


class Draw:
    """Draws the weights under their official names, with the deviations of the recorded ones."""

    def __init__(self, seed: int):
        self.random, self.weights = torch.Generator().manual_seed(seed), {}

    def normal(self, name: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> None:
        self.weights[name] = mean + std * torch.randn(shape, generator=self.random)

    def linear(self, name: str, out: int, size: int, bias: bool = False, rank: int | None = None) -> None:
        parts = (
            {"": (out, size)}
            if rank is None
            else {".ffn": (out, size), ".lora_A": (rank, size), ".lora_B": (out, rank)}
        )
        for part, shape in parts.items():
            self.normal(f"{name}{part}.weight", shape, 1.2 * shape[1] ** -0.5)
        if bias:
            self.normal(f"{name}.bias", (out,), 0.1)

    def norm(self, name: str, size: int, bias: bool = False) -> None:
        self.normal(f"{name}.weight", (size,), 0.1, mean=1.0)
        if bias:
            self.normal(f"{name}.bias", (size,), 0.1)

    def phantom(self, name: str, d: int) -> None:
        for kind in ("query", "key", "value"):
            for part in "qkvo":
                self.normal(f"{name}.xattn_{kind}_phantom.linear_{part}.weight", (d, d), 2 * d**-0.5)
        for i in (1, 2):
            self.normal(f"{name}.gating_phantom_{i}.weight", (1, d), 0.4)
            self.normal(f"{name}.gating_phantom_{i}.bias", (1,), 0.5)


def draw_weights(family: str, backbone: str, seed: int, sizes: dict[str, Any]) -> dict[str, Tensor]:
    draw, internlm = Draw(seed), backbone == "internlm2"
    D, layers, H, K, F, V = (sizes[name] for name in list(SIZES)[:6])
    d, lora = D // H, family == "trol" and internlm
    root, rank = ("", sizes["lora_r"]) if lora else ("language_model.", None)
    tied = sizes["tie_word_embeddings"]
    table = f"{root}model.{'tok_embeddings' if internlm else 'embed_tokens'}.weight"
    draw.normal(table, (V + lora, D), 1.2 * D**-0.5 if tied else 0.8)
    if not tied:
        draw.linear(f"{root}{'output' if internlm else 'lm_head'}", V, D)
    draw.norm(f"{root}model.norm", D)
    for i in range(layers):
        layer = f"{root}model.layers.{i}"
        attention = f"{layer}.{'attention' if internlm else 'self_attn'}"
        linears = {
            "internlm2": {"attention.wqkv": (H + 2 * K) * d, "feed_forward.w1": F, "feed_forward.w3": F},
            "phi3": {"self_attn.qkv_proj": (H + 2 * K) * d, "mlp.gate_up_proj": 2 * F},
            "qwen2": {"self_attn.q_proj": D, "self_attn.k_proj": K * d, "self_attn.v_proj": K * d}
            | {"mlp.gate_proj": F, "mlp.up_proj": F},
        }[backbone]
        for name, out in linears.items():
            draw.linear(f"{layer}.{name}", out, D, bias=backbone == "qwen2" and "attn" in name, rank=rank)
        draw.linear(f"{attention}.{'wo' if internlm else 'o_proj'}", D, H * d, rank=rank)
        draw.linear(f"{layer}.{'feed_forward.w2' if internlm else 'mlp.down_proj'}", D, F, rank=rank)
        for name in ("attention_norm", "ffn_norm") if internlm else ("input_layernorm", "post_attention_layernorm"):
            draw.norm(f"{layer}.{name}", D)
        if family == "phantom":
            draw.phantom(attention, d)
    if family == "trol":
        draw.normal("gate", (1, D), 0.15)
        draw.normal("bias", (1,), 0.5)
        weight, bias = draw.weights.pop("gate"), draw.weights.pop("bias")
        for i in range(layers):
            gate = f"{root}model.trol_gating.{i}"
            draw.weights |= {f"{gate}.weight": weight.clone(), f"{gate}.bias": bias.clone()}
    if lora:
        draw.linear("vision_proj.0", D, sizes["feature_size"], bias=True)
        draw.linear("vision_proj.2", D, D, bias=True)
    else:
        draw_vision(draw, sizes, D)
    return draw.weights


def draw_vision(draw: Draw, sizes: dict[str, Any], D: int) -> None:
    size, mlp, root = sizes["vision_size"], sizes["vision_mlp"], "vision_model"
    draw.normal(f"{root}.embeddings.class_embedding", (1, 1, size), 0.8)
    draw.normal(f"{root}.embeddings.position_embedding", (1, (sizes["side_px"] // PATCH_PX) ** 2 + 1, size), 0.8)
    shape = (size, 3, PATCH_PX, PATCH_PX)
    draw.normal(f"{root}.embeddings.patch_embedding.weight", shape, 1.2 * (3 * PATCH_PX**2) ** -0.5)
    draw.normal(f"{root}.embeddings.patch_embedding.bias", (size,), 0.1)
    for i in range(sizes["vision_layers"]):
        layer = f"{root}.encoder.layers.{i}"
        for name, out, width in (("attn.qkv", 3 * size, size), ("attn.proj", size, size)):
            draw.linear(f"{layer}.{name}", out, width, bias=True)
        draw.linear(f"{layer}.mlp.fc1", mlp, size, bias=True)
        draw.linear(f"{layer}.mlp.fc2", size, mlp, bias=True)
        for name in ("norm1", "norm2"):
            draw.norm(f"{layer}.{name}", size, bias=True)
        for name in ("ls1", "ls2"):
            draw.normal(f"{layer}.{name}", (size,), 0.1, mean=0.5)
    draw.norm("vision_proj.0", 4 * size, bias=True)
    draw.linear("vision_proj.1", D, 4 * size, bias=True)
    draw.linear("vision_proj.3", D, D, bias=True)
