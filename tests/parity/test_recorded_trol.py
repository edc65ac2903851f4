"""TroL on InternLM2, a Llama with a partial LoRA on image tokens, against the official modules.

Traversal of the prompt alone is what was released: TrolConfig(tokens="prompt", share_gate=True).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from phantrol.models.released.convert import load_official
from phantrol.modifiers.image_rows import image_rows
from phantrol.modifiers.sequence import SequenceStep
from phantrol.ops.images import scatter_features

AGREEMENT, BROKEN = 2e-5, 1e-3


@pytest.fixture(scope="module")
def recording(recorded: Callable[[str], Any]) -> Any:
    return recorded("trol_internlm2")


@pytest.fixture(scope="module")
def whole(recording: Any) -> PreTrainedModel:
    """The recording holds the features of a vision tower, and not the tower."""
    return load_official(recording.folder, need_vision=False)


@pytest.fixture(scope="module")
def model(whole: PreTrainedModel) -> PreTrainedModel:
    return whole.language_model


def test_what_goes_into_the_decoder(whole: PreTrainedModel, recording: Any):
    """The projector, and an image token beyond the vocabulary: its row of the embedding table was left behind."""
    io, image_token_id = recording.io, whole.config.image_token_id
    assert whole.get_input_embeddings().num_embeddings == image_token_id == 512
    words = whole.get_input_embeddings()(io["input_ids"].clamp(max=511))
    placed = scatter_features(words, io["input_ids"] == image_token_id, whole.projector(io["image_features"]))
    assert float((placed - io["hidden_states"][0]).abs().max()) < AGREEMENT
    assert torch.equal(io["input_ids"] == image_token_id, io["im_mask"])


def layer_difference(model: PreTrainedModel, recording: Any, layer_idx: int, **options: Any) -> float:
    output = model.model.layers[layer_idx](**recording.layer_inputs(model, layer_idx), **options)
    return recording.difference(model, layer_idx, output)


@pytest.mark.parametrize("layer_idx", range(4))
def test_each_layer(model: PreTrainedModel, recording: Any, layer_idx: int):
    rows = image_rows(recording.io["im_mask"], 2, 24)
    assert layer_difference(model, recording, layer_idx, sequence=SequenceStep(image_rows=rows)) < AGREEMENT
    no_traversal = SequenceStep(image_rows=rows, prompt=False)
    assert layer_difference(model, recording, layer_idx, sequence=no_traversal) > BROKEN
    assert layer_difference(model, recording, layer_idx) > BROKEN


def prefill(model: PreTrainedModel, recording: Any, image_mask: Tensor | None, **options: Any) -> Any:
    inputs = {"inputs_embeds": recording.io["hidden_states"][0], "attention_mask": recording.io["attention_mask"]}
    return model(**inputs, image_mask=image_mask, **options)


def test_the_whole_prompt(model: PreTrainedModel, recording: Any):
    real, io = recording.real, recording.io
    logits = prefill(model, recording, io["im_mask"]).logits[real]
    assert float((logits - io["prefill_logits"][real]).abs().max()) < AGREEMENT
    off = prefill(model, recording, io["im_mask"], prompt_mask=torch.zeros_like(real)).logits[real]
    assert float((off - io["prefill_logits_no_traversal"][real]).abs().max()) < AGREEMENT
    assert float((off - logits).abs().max()) > BROKEN
    for nowhere in (None, torch.zeros_like(io["im_mask"])):
        no_lora = prefill(model, recording, nowhere).logits[real]
        assert float((no_lora - io["prefill_logits_no_plora"][real]).abs().max()) < AGREEMENT


@pytest.mark.parametrize("rows", ["both", "unpadded"])
def test_answers_and_their_cache(model: PreTrainedModel, recording: Any, rows: str):
    """The answer does not traverse, and what is cached are keys and values of the first pass."""
    io, cache = recording.io, DynamicCache(config=model.config)
    embeds, mask, image, logits = io["hidden_states"][0], io["attention_mask"], io["im_mask"], io["decode_logits"]
    tokens = io["decode_tokens"]
    if rows == "unpadded":
        embeds, mask, image, tokens = embeds[:1, 5:], mask[:1, 5:], image[:1, 5:], tokens[:1]
        logits = io["unpadded_row0_decode_logits"]
    prompt = model(inputs_embeds=embeds, attention_mask=mask, past_key_values=cache, image_mask=image).logits
    assert torch.equal(prompt[:, -1].argmax(-1), tokens[:, 0])
    for t in range(4):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        ours = model(tokens[:, t : t + 1], attention_mask=mask, past_key_values=cache).logits[:, 0]
        assert float((ours - logits[:, t]).abs().max()) < AGREEMENT
    if rows == "both":
        for i in (0, 3):
            for ours, theirs in ((cache.layers[i].keys, "key"), (cache.layers[i].values, "value")):
                difference = (ours - io[f"cache_{theirs}_layer{i}"]).transpose(1, 2)[mask == 1]
                assert float(difference.abs().max()) < AGREEMENT


def test_an_answer_that_traverses_is_not_what_was_released(model: PreTrainedModel, recording: Any):
    io, answer = recording.io, model.get_input_embeddings()(recording.io["decode_tokens"][1:])
    inputs = {
        "inputs_embeds": torch.cat([io["hidden_states"][0][1:], answer], dim=1),
        "image_mask": torch.nn.functional.pad(io["im_mask"][1:], (0, 4)),
        "use_cache": False,
    }
    released = model(**inputs, prompt_length=24).logits[0, 24:]
    assert float((released - io["decode_logits"][1]).abs().max()) < AGREEMENT
    traversed = model(**inputs, prompt_length=28).logits[0, 24:]
    assert float((traversed - io["decode_logits"][1]).abs().max()) > BROKEN
