"""A released model answers what it was once asked: every variant that was recorded, through the public forward pass.

B rows, N tokens of the prompt, S tokens of the answer, T = N + S, V vocabulary, D hidden size, I tiles, L tokens of a
tile, K key/value heads, d head size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from phantrol.models.configuration import num_image_tokens
from phantrol.models.modeling import PhantrolForConditionalGeneration
from phantrol.models.released.exact import compute_exactly
from phantrol.models.released.layout import UNKNOWN_TOKEN
from phantrol.modifiers.partial_lora import PartialLora
from phantrol.modifiers.phantom import Phantom
from phantrol.modifiers.trol import Trol

# The recorded code multiplies and sums in the order of "eager" in a decoder, and scales queries first in a tower. In
# another order large hidden states round elsewhere, further than many a mistake would take them.
IN_DECODER, IN_TOWER = "eager", "queries_scaled_first"
KINDS = {"phantom": Phantom, "trol": Trol, "partial LoRA": PartialLora}


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is asked in another way than as released; the defaults are the model as it is.

    row        this row alone, without its padding
    eta        η of every layer; 0 switches the phantom dimension off
    traversal  False: every layer runs once
    lora       False: image tokens are as all others
    """

    row: int | None = None
    eta: float | None = None
    traversal: bool = True
    lora: bool = True


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one variant gave.

    prefill_logits  [B, N, V]   hidden_states  [layers + 1, B, N, D]   decode_logits  [B, S, V]
    cache           per layer keys and values of the first pass, [B, K, T, d] each
    seen            what passed on the way to the prompt's logits, see `Replay._watch`
    """

    prefill_logits: Tensor
    hidden_states: Tensor
    decode_logits: Tensor | None
    cache: list[tuple[Tensor, Tensor]]
    seen: dict[str, Tensor]


def attend_scaled_queries(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """softmax((s·Q)·Kᵀ)·V: [tiles, heads, tokens, d] each → [tiles, tokens, heads, d], and the softmax."""
    weights = torch.softmax((query * scaling) @ key.transpose(-1, -2), dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(IN_TOWER, attend_scaled_queries)


class GivenFeatures(nn.Module):
    """Stands in for a vision tower that was not recorded: hands its recorded features on."""

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=pixel_values)


class Replay:
    """Runs `model` on recorded inputs, each variant once.

    Raises ValueError if the inputs are no inputs of this model.
    """

    def __init__(self, model: PhantrolForConditionalGeneration, io: dict[str, Tensor]):
        self.model, self.io = model.eval(), io
        self.input_ids = _given(io, "input_ids").long()
        if self.input_ids.ndim != 2:
            raise ValueError(f"input_ids in io.safetensors is {list(self.input_ids.shape)}: expected [rows, tokens]")
        self.mask = io.get("attention_mask", torch.ones_like(self.input_ids)).long()
        self.tokens = io["decode_tokens"].long() if "decode_tokens" in io else None
        _expect("attention_mask", self.mask, self.input_ids.shape)
        if self.tokens is not None:
            steps = self.tokens.shape[-1] if self.tokens.ndim else 1
            _expect("decode_tokens", self.tokens, (len(self.input_ids), max(steps, 1)))
        self._check_tokens()
        self.pictures = self._pictures()
        self._round_as_recorded()
        self.answer = lru_cache(maxsize=None)(self._answer)

    @property
    def real(self) -> Tensor:
        """[B, N] True on tokens that are no padding."""
        return self.mask == 1

    def has(self, kind: str) -> bool:
        """Return whether the model has a phantom dimension, a traversal, a partial LoRA: a key of KINDS."""
        return any(isinstance(modifier, KINDS[kind]) for modifier in self.model.get_decoder().modifiers)

    @property
    def is_image(self) -> Tensor:
        return self.input_ids == self.model.config.image_token_id

    # --- one conversation

    @torch.no_grad()
    def _answer(self, variant: Variant) -> Answer:
        ids, mask, tokens, pictures = self._inputs(variant)
        options: dict[str, Any] = {} if pictures is None else {"pixel_values": pictures}
        if not variant.traversal:
            options["prompt_mask"] = torch.zeros_like(ids, dtype=torch.bool)
        if not variant.lora:
            options["image_mask"] = torch.zeros_like(ids, dtype=torch.bool)
        cache, steps = DynamicCache(), []  # a cache that knows of a window forgets what stood before it
        with self._eta(variant.eta):
            with self._watch() as seen:
                prompt = self.model(
                    ids, attention_mask=mask, past_key_values=cache, output_hidden_states=True, **options
                )
            for t in range(0 if tokens is None else tokens.shape[1]):
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
                step = self.model(tokens[:, t : t + 1], attention_mask=mask, past_key_values=cache)
                steps.append(step.logits[:, -1])
        return Answer(
            prompt.logits,
            torch.stack(prompt.hidden_states),
            torch.stack(steps, dim=1) if steps else None,
            self._plain_cache(cache),
            seen,
        )

    def _inputs(self, variant: Variant) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        if variant.row is None:
            return self.input_ids, self.mask, self.tokens, self.pictures
        row = slice(variant.row, variant.row + 1)
        start = int(self.real[row].int().argmax())
        tiles = self.is_image.sum(-1) // num_image_tokens(self.model.config)
        before = int(tiles[: variant.row].sum())
        pictures = None if self.pictures is None else self.pictures[before : before + int(tiles[variant.row])]
        tokens = None if self.tokens is None else self.tokens[row]
        return self.input_ids[row, start:], self.mask[row, start:], tokens, pictures

    def _plain_cache(self, cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
        """Keys and values as the backbone has them: what Phantom adds to a head stands behind them."""
        text = self.model.config.text_config
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        layers = cache.layers[: text.num_hidden_layers]
        return [(layer.keys[..., :size], layer.values[..., :size]) for layer in layers]

    @contextlib.contextmanager
    def _eta(self, value: float | None) -> Iterator[None]:
        parts = [layer.self_attn.phantom for layer in self.model.get_decoder().layers] if value is not None else []
        before = [part.eta for part in parts]
        for part in parts:
            part.eta = value
        try:
            yield
        finally:
            for part, eta in zip(parts, before, strict=True):
                part.eta = eta

    @contextlib.contextmanager
    def _watch(self) -> Iterator[dict[str, Tensor]]:
        """Collect what passes in one forward pass.

        vision [I, 1 + P, Dv]   features [I, L, s²·Dv], before the projector   projected [I, L, D], after it
        positions [B, N]   anchor [B]   queries [B, H, N, d] of layer 0, rotated, as the phantom dimension sees them
        """
        seen: dict[str, Tensor] = {}
        layer = self.model.get_decoder().layers[0]

        def leave_tower(module: Any, args: Any, output: Any) -> None:
            seen["vision"] = output.last_hidden_state

        def leave_projector(module: Any, args: Any, output: Tensor) -> None:
            seen["features"], seen["projected"] = args[0], output

        def enter_layer(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen["positions"], seen["anchor"] = kwargs["position_ids"], kwargs["sequence"].anchor_index

        def enter_query(module: Any, args: Any) -> None:
            seen["queries"] = args[0]

        hooks = [
            self.model.vision_tower.register_forward_hook(leave_tower),
            self.model.projector.register_forward_hook(leave_projector),
            layer.register_forward_pre_hook(enter_layer, with_kwargs=True),
        ]
        if self.has("phantom"):
            hooks.append(layer.self_attn.phantom.query.register_forward_pre_hook(enter_query))
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def _round_as_recorded(self) -> None:
        if self.model.get_input_embeddings().weight.dtype == torch.float32:
            # in float64 "eager" still takes its softmax in float32, where a row of padding becomes no number
            self.model.language_model.set_attn_implementation(IN_DECODER)
        elif self.model.get_input_embeddings().weight.dtype == torch.float64:
            compute_exactly(self.model.get_decoder())
        self.model.config.vision_config._attn_implementation = IN_TOWER

    # --- inputs

    def _check_tokens(self) -> None:
        vocab_size, image = self.model.config.text_config.vocab_size, self.model.config.image_token_id
        if image == UNKNOWN_TOKEN and {"pixel_values", "image_features"} & self.io.keys():
            raise ValueError("config.json names no image_token_index, but io.safetensors has pictures: add it")
        for name, ids in (("input_ids", self.input_ids), ("decode_tokens", self.tokens)):
            words = torch.zeros(1) if ids is None else ids[ids != image] if name == "input_ids" else ids
            if words.numel() and not 0 <= int(words.min()) <= int(words.max()) < vocab_size:
                raise ValueError(
                    f"{name} in io.safetensors runs from {int(words.min())} to {int(words.max())}, but the model has "
                    f"{vocab_size} words and image token {image}: expected the recording of this very model"
                )
        if not self.real.any(-1).all():
            raise ValueError("attention_mask in io.safetensors has a row of padding alone: expected a token in each")

    def _pictures(self) -> Tensor | None:
        """The recorded pixels, or, where the tower was not recorded, its features."""
        config = self.model.config
        if "pixel_values" in self.io:
            pixels = self.io["pixel_values"]
            _expect("pixel_values", pixels, (_first(pixels), 3, config.image_px, config.image_px))
            return pixels
        if "image_features" not in self.io:
            if self.is_image.any():
                raise ValueError(
                    f"io.safetensors has neither pixel_values nor image_features, but input_ids has "
                    f"{int(self.is_image.sum())} image tokens: expected what went in"
                )
            return None
        features = self.io["image_features"]
        side = math.isqrt(features.shape[1]) if features.ndim == 3 else 0
        _expect("image_features", features, (_first(features), side * side, self.model.projector.linear_1.in_features))
        self.model.vision_tower = GivenFeatures()
        config.image_grid, config.unshuffle = side, 1
        return features


def _first(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def _given(io: dict[str, Tensor], name: str) -> Tensor:
    if name not in io:
        raise ValueError(f"io.safetensors has no {name}: expected what went in and what came out of a released model")
    return io[name]


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} in io.safetensors is {list(tensor.shape)}: expected {list(shape)} for this model")
