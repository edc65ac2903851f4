"""What the released TroL and Phantom models compute, written plainly and slowly from its description, with torch alone.

It shares no line and no idea of layout with phantrol: weights stand under their official names, fused as they are, and
phantom keys and values are computed anew for the whole cache at every step. So where it and phantrol agree, two
readings of the same description agree. `test_reference.py` holds it against the recordings.

B rows, N tokens of this call, T tokens of the cache, D hidden size, H heads, K key/value heads, d head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Run:
    """A conversation under way: what the last call gave, and what the next one needs."""

    logits: Tensor | None = None  # [B, N, V]
    hidden_states: list[Tensor] = field(default_factory=list)  # input of each layer, then the final norm's output
    mask: Tensor | None = None  # [B, T]
    keys: dict[int, Tensor] = field(default_factory=dict)  # layer → [B, K, T, d], after rotation, of the first pass
    values: dict[int, Tensor] = field(default_factory=dict)
    sos: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # layer → kind → [B, heads, d]


class Reference:
    """One released model. `eta`, `traversal` and `lora` may be changed between calls."""

    def __init__(self, weights: dict[str, Tensor], config: dict[str, Any], dtype: torch.dtype = torch.float32):
        self.weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        self.config, self.llm = config, config.get("llm_config", config)
        self.family, self.backbone = config["family"], config["backbone"]
        self.dtype, self.eta, self.traversal, self.lora = dtype, config.get("eta", 1e-4), True, True
        self.lora_scale = config.get("lora_alpha", 256) / config.get("lora_r", 256)
        self.heads = self.llm["num_attention_heads"]
        self.kv_heads = self.llm.get("num_key_value_heads") or self.heads
        self.layers, self.size = self.llm["num_hidden_layers"], self.llm["hidden_size"]
        self.head_size = self.size // self.heads
        self.root = "" if (self.family, self.backbone) == ("trol", "internlm2") else "language_model."
        self.is_internlm = self.backbone == "internlm2"
        recorded = {("trol", "internlm2"): "eager", ("phantom", "qwen2"): "sdpa"}
        self.attention = recorded.get((self.family, self.backbone), "rows")

    # --- names

    def weight(self, name: str) -> Tensor:
        return self.weights[name]

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.weight(f"{self.root}model.{'tok_embeddings' if self.is_internlm else 'embed_tokens'}.weight")[
            input_ids
        ]

    def head(self, hidden: Tensor) -> Tensor:
        name = f"{self.root}{'output' if self.is_internlm else 'lm_head'}.weight"
        if name not in self.weights:  # tied
            name = f"{self.root}model.embed_tokens.weight"
        return hidden @ self.weight(name).T

    # --- the parts of a decoder layer

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean_square = x.pow(2).mean(dim=-1, keepdim=True)
        return self.weight(f"{name}.weight") * (x * torch.rsqrt(mean_square + self.llm.get("rms_norm_eps", 1e-6)))

    def linear(self, x: Tensor, name: str, image: Tensor | None) -> Tensor:
        """x [B, N, I] → [B, N, O]; with partial LoRA the rows that stand for an image get B·A·x more."""
        if f"{name}.ffn.weight" not in self.weights:
            output = x @ self.weight(f"{name}.weight").T
            return output + self.weight(f"{name}.bias") if f"{name}.bias" in self.weights else output
        output = x @ self.weight(f"{name}.ffn.weight").T
        if image is None or not self.lora:
            return output
        low_rank = x[image] @ self.weight(f"{name}.lora_A.weight").T @ self.weight(f"{name}.lora_B.weight").T
        output = output.clone()
        output[image] += self.lora_scale * low_rank
        return output

    def projections(self, x: Tensor, name: str, image: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, N, H, d], keys and values [B, N, K, d]."""
        B, N, _ = x.shape
        H, K, d = self.heads, self.kv_heads, self.head_size
        if self.is_internlm:  # for each key/value head: its query heads, then the key, then the value
            fused = self.linear(x, f"{name}.wqkv", image).reshape(B, N, K, H // K + 2, d)
            queries = torch.cat([fused[:, :, k, : H // K] for k in range(K)], dim=2)
            return queries, fused[:, :, :, -2], fused[:, :, :, -1]
        if self.backbone == "phi3":  # all queries, then all keys, then all values
            fused = self.linear(x, f"{name}.qkv_proj", image)
            parts = fused[..., : H * d], fused[..., H * d : (H + K) * d], fused[..., (H + K) * d :]
        else:
            parts = tuple(self.linear(x, f"{name}.{part}_proj", image) for part in "qkv")
        return parts[0].reshape(B, N, H, d), parts[1].reshape(B, N, K, d), parts[2].reshape(B, N, K, d)

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [B, N, heads, d]: the pair (i, i + d/2) turns by position / theta^(2i/d), or as `rope_scaling` says."""
        d, scaling, grown = self.head_size, self.llm.get("rope_scaling") or {}, 1.0
        frequencies = 1.0 / self.llm.get("rope_theta", 10000.0) ** (torch.arange(0, d, 2, dtype=self.dtype) / d)
        if scaling.get("type") == "linear":
            frequencies = frequencies / scaling["factor"]
        if scaling.get("type") == "su":
            original = self.llm["original_max_position_embeddings"]
            kind = "long_factor" if int(positions.max()) + 1 > original else "short_factor"
            frequencies = frequencies / torch.tensor(scaling[kind], dtype=self.dtype)
            grown = math.sqrt(1 + math.log(self.llm["max_position_embeddings"] / original) / math.log(original))
        angles = positions[..., None].to(self.dtype) * frequencies
        cos, sin = (grown * part[:, :, None] for part in (angles.cos(), angles.sin()))
        left, right = x[..., : d // 2], x[..., d // 2 :]
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)

    def mlp(self, x: Tensor, name: str, image: Tensor | None) -> Tensor:
        if self.is_internlm:
            gate, up = (self.linear(x, f"{name}.feed_forward.{part}", image) for part in ("w1", "w3"))
            return self.linear(F.silu(gate) * up, f"{name}.feed_forward.w2", image)
        if self.backbone == "phi3":
            gate, up = self.linear(x, f"{name}.mlp.gate_up_proj", image).chunk(2, dim=-1)
        else:
            gate, up = (self.linear(x, f"{name}.mlp.{part}_proj", image) for part in ("gate", "up"))
        return self.linear(F.silu(gate) * up, f"{name}.mlp.down_proj", image)

    # --- attention

    def cross_heads(self, name: str, x: Tensor, sos: Tensor) -> Tensor:
        """x [B, T, heads, d], sos [B, heads', d]: each head of each token attends to the heads of the first token."""
        q, k, v, o = (self.weight(f"{name}.linear_{part}.weight") for part in "qkvo")
        queries, keys, values = F.gelu(x @ q.T), F.gelu(sos @ k.T)[:, None], F.gelu(sos @ v.T)[:, None]
        shares = torch.softmax(queries @ keys.transpose(2, 3) / math.sqrt(self.head_size), dim=-1)
        return F.gelu(shares @ values @ o.T)

    def enlarge(self, name: str, kind: str, x: Tensor, sos: dict[str, Tensor]) -> Tensor:
        term = self.eta * self.cross_heads(f"{name}.xattn_{kind}_phantom", x, sos[kind])
        return torch.cat([x, x + term if kind == "value" else term], dim=-1)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """queries [B, N, H, w], keys and values [B, T, heads, w], mask [B, T] → [B, N, H, w], causal, scaled by 1/√d.

        The arithmetic of three kinds that were recorded: their roundings differ, their results do not.
        """
        N, T, scale = queries.shape[1], keys.shape[1], 1 / math.sqrt(self.head_size)
        keys, values = (x.repeat_interleave(self.heads // x.shape[2], dim=2) for x in (keys, values))
        distance = torch.arange(T - N, T)[:, None] - torch.arange(T)[None]
        past = (distance >= 0) & (distance <= (self.llm.get("sliding_window") or T))
        if self.attention == "rows":  # as flash attention: row by row, without padding
            output = torch.zeros_like(queries)
            for row in range(len(queries)):
                real, here = mask[row], mask[row, T - N :]
                q, k, v = (x.transpose(0, 1) for x in (queries[row, here], keys[row, real], values[row, real]))
                visible = past[here][:, real]
                scores = (q @ k.transpose(1, 2) * scale).masked_fill(~visible, -math.inf)
                output[row, here] = (torch.softmax(scores, dim=-1) @ v).transpose(0, 1)
            return output
        q, k, v = (x.transpose(1, 2) for x in (queries, keys, values))
        lowest = torch.finfo(self.dtype).min
        bias = (~past).to(self.dtype) * lowest + (~mask[:, None, None]).to(self.dtype) * lowest  # twice: -inf
        if self.attention == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, bias, scale=scale).transpose(1, 2)
        return (torch.softmax(q @ k.transpose(2, 3) * scale + bias, dim=-1) @ v).transpose(1, 2)

    def merge(self, name: str, enlarged: Tensor) -> Tensor:
        halves, weights = enlarged.chunk(2, dim=-1), []
        for i, half in enumerate(halves, start=1):
            gate = f"{name}.gating_phantom_{i}"
            weights.append(torch.exp(half @ self.weight(f"{gate}.weight").T + self.weight(f"{gate}.bias")))
        return sum(weight / sum(weights) * half for weight, half in zip(weights, halves, strict=True))

    def layer(self, i: int, x: Tensor, run: Run, positions: Tensor, phantom: Any, image: Any, keep: bool) -> Tensor:
        """One pass of decoder layer `i`; only the pass that is to `keep` reads and writes the cache."""
        name = f"{self.root}model.layers.{i}"
        attention, before, after = "self_attn", "input_layernorm", "post_attention_layernorm"
        if self.is_internlm:
            attention, before, after = "attention", "attention_norm", "ffn_norm"
        attention = f"{name}.{attention}"
        queries, keys, values = self.projections(self.norm(x, f"{name}.{before}"), attention, image)
        queries, keys = self.rotate(queries, positions), self.rotate(keys, positions)
        if keep:
            if i in run.keys:
                old = (states[i].transpose(1, 2) for states in (run.keys, run.values))
                keys, values = (torch.cat(both, dim=1) for both in zip(old, (keys, values), strict=True))
            run.keys[i], run.values[i] = keys.transpose(1, 2), values.transpose(1, 2)
        if not self.is_internlm:
            keys, values = (states.repeat_interleave(self.heads // self.kv_heads, dim=2) for states in (keys, values))
        if phantom is not None:  # a prompt: what the first token of each row has is kept for the answer
            run.sos[i] = {"query": queries[phantom], "key": keys[phantom], "value": values[phantom]}
        mask = run.mask[:, -keys.shape[1] :]
        if i in run.sos:
            queries, keys, values = (
                self.enlarge(attention, kind, states, run.sos[i])
                for kind, states in (("query", queries), ("key", keys), ("value", values))
            )
            output = self.merge(attention, self.attend(queries, keys, values, mask))
        else:
            output = self.attend(queries, keys, values, mask)
        x = x + self.linear(output.flatten(2), f"{attention}.{'wo' if self.is_internlm else 'o_proj'}", image)
        return x + self.mlp(self.norm(x, f"{name}.{after}"), name, image)

    # --- the decoder

    def forward(
        self,
        run: Run,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor,
        image: Tensor | None = None,
        phantom: Tensor | None = None,
        prompt: bool | None = None,
    ) -> Tensor:
        """Take N more tokens in and return their logits [B, N, V].

        mask  [B, T] of all tokens so far   image, phantom  [B, N] bool: tokens of an image, the first of each row
        prompt  are these tokens a prompt? By default, and as released, if there are several of them
        """
        run.mask, run.hidden_states = mask.bool(), []
        x = embeds.to(self.dtype)
        prompt = x.shape[1] > 1 if prompt is None else prompt
        phantom = phantom if prompt and self.family == "phantom" else None
        for i in range(self.layers):
            run.hidden_states.append(x)
            x = self.layer(i, x, run, positions, phantom, image, keep=True)
            if self.family == "trol" and prompt and self.traversal:
                gate = f"{self.root}model.trol_gating.{self.layers - 1}"  # one for all layers: the last that was loaded
                ratio = torch.tanh(x @ self.weight(f"{gate}.weight").T + self.weight(f"{gate}.bias")) * 0.5 + 0.5
                x = (1 - ratio) * x + ratio * self.layer(i, x, run, positions, None, image, keep=False)
        hidden = self.norm(x, f"{self.root}model.norm")
        run.hidden_states.append(hidden)
        run.logits = self.head(hidden)
        return run.logits

    # --- pictures

    def vision(self, pixels: Tensor) -> Tensor:
        """InternViT without a final norm: [I, 3, S, S] → [I, 1 + P, Dv]."""
        vision, root = self.config["vision_config"], "vision_model.embeddings"
        kernel = self.weight(f"{root}.patch_embedding.weight")
        size, patch = len(kernel), kernel.shape[-1]
        patches = F.conv2d(pixels.to(self.dtype), kernel, self.weight(f"{root}.patch_embedding.bias"), stride=patch)
        patches = patches.flatten(2).transpose(1, 2)
        first = self.weight(f"{root}.class_embedding").expand(len(pixels), 1, size)
        x = torch.cat([first, patches], dim=1) + self.weight(f"{root}.position_embedding")
        heads, eps = vision["num_attention_heads"], vision.get("layer_norm_eps", 1e-6)
        for i in range(vision["num_hidden_layers"]):
            part = {
                name.split(f"layers.{i}.")[1]: t
                for name, t in self.weights.items()
                if f"vision_model.encoder.layers.{i}." in name
            }
            y = F.layer_norm(x, (size,), part["norm1.weight"], part["norm1.bias"], eps)
            y = F.linear(y, part["attn.qkv.weight"], part.get("attn.qkv.bias"))
            q, k, v = y.reshape(*y.shape[:2], 3, heads, size // heads).permute(2, 0, 3, 1, 4)
            shares = torch.softmax(q * (size // heads) ** -0.5 @ k.transpose(-1, -2), dim=-1)
            y = (shares @ v).transpose(1, 2).flatten(2)
            x = x + part["ls1"] * F.linear(y, part["attn.proj.weight"], part["attn.proj.bias"])
            y = F.layer_norm(x, (size,), part["norm2.weight"], part["norm2.bias"], eps)
            y = F.gelu(F.linear(y, part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
            x = x + part["ls2"] * F.linear(y, part["mlp.fc2.weight"], part["mlp.fc2.bias"])
        return x

    def shuffle(self, states: Tensor) -> Tensor:
        """[I, 1 + P, Dv] → [I, P/4, 4·Dv]: a square of four patches becomes one token."""
        side = math.isqrt(states.shape[1] - 1)
        grid = states[:, 1:].reshape(len(states), side, side, -1)
        size = grid.shape[-1]
        grid = grid.reshape(len(grid), side, side // 2, 2 * size).permute(0, 2, 1, 3)
        grid = grid.reshape(len(grid), side // 2, side // 2, 4 * size).permute(0, 2, 1, 3)
        return grid.flatten(1, 2)

    def project(self, features: Tensor) -> Tensor:
        def apply(x: Tensor, n: int) -> Tensor:
            return F.linear(x, self.weight(f"vision_proj.{n}.weight"), self.weight(f"vision_proj.{n}.bias"))

        if self.root == "":
            return apply(F.gelu(apply(features.to(self.dtype), 0)), 2)
        size = features.shape[-1:]
        features = F.layer_norm(features, size, self.weight("vision_proj.0.weight"), self.weight("vision_proj.0.bias"))
        return apply(F.gelu(apply(features, 1)), 3)
