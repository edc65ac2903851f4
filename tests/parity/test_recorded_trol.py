"""TroL on InternLM2: a Llama with fused and interleaved wqkv and a partial LoRA, against the official modules.

Traversal of the prompt alone is what was released: TrolConfig(tokens="prompt", share_gate=True).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from phantrol.modifiers.graft import graft
from phantrol.modifiers.sequence import SequenceStep
from phantrol.modifiers.trol import TrolConfig

AGREEMENT, BROKEN = 2e-5, 1e-3
GROUPS, HEAD_DIM = 2, 16  # query heads per key/value head
NAMES = {"wo": "self_attn.o_proj", "w1": "mlp.gate_proj", "w3": "mlp.up_proj", "w2": "mlp.down_proj"}


class PartialLinear(nn.Linear):
    """W·x, and on the tokens of an image + B·A·x, as in InternLM-XComposer2."""

    rows: ClassVar[dict[str, Tensor | None]] = {"image": None}  # [B, N] True on tokens of an image

    def forward(self, x: Tensor) -> Tensor:
        output, image = super().forward(x), self.rows["image"]
        return output if image is None else output + image[..., None] * (x @ self.A.T @ self.B.T)


def split(fused: Tensor) -> dict[str, Tensor]:
    """wqkv [(H + 2·K)·d, n] → q, k, v: per key/value head its query heads, then the key, then the value."""
    parts = fused.unflatten(0, (-1, GROUPS + 2, HEAD_DIM))
    return {
        "q_proj": parts[:, :GROUPS].flatten(0, 2),
        "k_proj": parts[:, GROUPS].flatten(0, 1),
        "v_proj": parts[:, GROUPS + 1].flatten(0, 1),
    }


def linears(weights: dict[str, Tensor], layer_idx: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return for each linear of a stock layer its weight [O, I], A [r, I] and B [O, r]."""
    found = {}
    for folder, names in (("attention", ("wqkv", "wo")), ("feed_forward", ("w1", "w2", "w3"))):
        for name in names:
            key = f"model.layers.{layer_idx}.{folder}.{name}"
            weight, A, B = (weights[f"{key}.{part}.weight"] for part in ("ffn", "lora_A", "lora_B"))
            if name == "wqkv":
                halves = split(weight), split(B)
                found |= {f"self_attn.{part}": (halves[0][part], A, halves[1][part]) for part in halves[0]}
            else:
                found[NAMES[name]] = weight, A, B
    return found


@pytest.fixture(scope="module")
def recording(recorded: Callable[[str], Any]) -> Any:
    return recorded("trol_internlm2")


@pytest.fixture(scope="module")
def model(recording: Any) -> PreTrainedModel:
    config = LlamaConfig(
        **recording.sizes, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    )
    model, weights = LlamaForCausalLM(config).eval(), recording.weights
    with torch.no_grad():
        for i, layer in enumerate(model.model.layers):
            for name, (weight, A, B) in linears(weights, i).items():
                part = layer.get_submodule(name)
                part.__class__ = PartialLinear
                assert part.weight.shape == weight.shape
                part.weight.copy_(weight)
                part.A, part.B = A, B
            layer.input_layernorm.weight.copy_(weights[f"model.layers.{i}.attention_norm.weight"])
            layer.post_attention_layernorm.weight.copy_(weights[f"model.layers.{i}.ffn_norm.weight"])
        model.model.norm.weight.copy_(weights["model.norm.weight"])
        model.lm_head.weight.copy_(weights["output.weight"])
        graft(model, [TrolConfig(tokens="prompt", share_gate=True)])
        gate = model.model.layers[0].traversal_gate
        gate.weight.copy_(weights["model.trol_gating.3.weight"])
        gate.bias.copy_(weights["model.trol_gating.3.bias"])
    return model


@pytest.fixture(autouse=True)
def image_rows(recording: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor | None], None]:
    """The partial LoRA sees the recorded image tokens, until the returned function says otherwise."""

    def choose(image: Tensor | None) -> None:
        monkeypatch.setitem(PartialLinear.rows, "image", image)

    choose(recording.io["im_mask"])
    return choose


def layer_difference(model: PreTrainedModel, recording: Any, layer_idx: int, **options: Any) -> float:
    output = model.model.layers[layer_idx](**recording.layer_inputs(model, layer_idx), **options)
    return recording.difference(model, layer_idx, output)


@pytest.mark.parametrize("layer_idx", range(4))
def test_each_layer(
    model: PreTrainedModel, recording: Any, layer_idx: int, image_rows: Callable[[Tensor | None], None]
):
    assert layer_difference(model, recording, layer_idx) < AGREEMENT
    assert layer_difference(model, recording, layer_idx, sequence=SequenceStep(prompt=False)) > BROKEN
    image_rows(None)
    assert layer_difference(model, recording, layer_idx) > BROKEN


def prefill(model: PreTrainedModel, recording: Any, **options: Any) -> Any:
    inputs = {"inputs_embeds": recording.io["hidden_states"][0], "attention_mask": recording.io["attention_mask"]}
    return model(**inputs, **options)


def test_the_whole_prompt(model: PreTrainedModel, recording: Any, image_rows: Callable[[Tensor | None], None]):
    real, io = recording.real, recording.io
    logits = prefill(model, recording).logits[real]
    assert float((logits - io["prefill_logits"][real]).abs().max()) < AGREEMENT
    off = prefill(model, recording, prompt_mask=torch.zeros_like(real)).logits[real]
    assert float((off - io["prefill_logits_no_traversal"][real]).abs().max()) < AGREEMENT
    assert float((off - logits).abs().max()) > BROKEN
    image_rows(None)
    no_lora = prefill(model, recording).logits[real]
    assert float((no_lora - io["prefill_logits_no_plora"][real]).abs().max()) < AGREEMENT


@pytest.mark.parametrize("rows", ["both", "unpadded"])
def test_answers_and_their_cache(
    model: PreTrainedModel, recording: Any, rows: str, image_rows: Callable[[Tensor | None], None]
):
    """The answer does not traverse, and what is cached are keys and values of the first pass."""
    io, cache = recording.io, DynamicCache(config=model.config)
    embeds, mask, image, logits = io["hidden_states"][0], io["attention_mask"], io["im_mask"], io["decode_logits"]
    tokens = io["decode_tokens"]
    if rows == "unpadded":
        embeds, mask, image, tokens = embeds[:1, 5:], mask[:1, 5:], image[:1, 5:], tokens[:1]
        logits = io["unpadded_row0_decode_logits"]
    image_rows(image)
    prompt = model(inputs_embeds=embeds, attention_mask=mask, past_key_values=cache).logits
    assert torch.equal(prompt[:, -1].argmax(-1), tokens[:, 0])
    image_rows(None)
    for t in range(4):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        step = recording.weights["model.tok_embeddings.weight"][tokens[:, t : t + 1]]
        ours = model(inputs_embeds=step, attention_mask=mask, past_key_values=cache).logits[:, 0]
        assert float((ours - logits[:, t]).abs().max()) < AGREEMENT
    if rows == "both":
        for i in (0, 3):
            for ours, theirs in ((cache.layers[i].keys, "key"), (cache.layers[i].values, "value")):
                difference = (ours - io[f"cache_{theirs}_layer{i}"]).transpose(1, 2)[mask == 1]
                assert float(difference.abs().max()) < AGREEMENT


def test_an_answer_that_traverses_is_not_what_was_released(
    model: PreTrainedModel, recording: Any, image_rows: Callable[[Tensor | None], None]
):
    io, tokens = recording.io, recording.io["decode_tokens"][1:]
    embeds = torch.cat([io["hidden_states"][0][1:], recording.weights["model.tok_embeddings.weight"][tokens]], dim=1)
    image_rows(nn.functional.pad(io["im_mask"][1:], (0, 4)))
    released = model(inputs_embeds=embeds, use_cache=False, prompt_length=24).logits[0, 24:]
    assert float((released - io["decode_logits"][1]).abs().max()) < AGREEMENT
    traversed = model(inputs_embeds=embeds, use_cache=False, prompt_length=28).logits[0, 24:]
    assert float((traversed - io["decode_logits"][1]).abs().max()) > BROKEN
