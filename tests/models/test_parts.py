"""Parts of a new model that cannot be opened, and options that there are not, are refused in one line."""

from __future__ import annotations

import pytest
import torch

import phantrol
from phantrol.modifiers.trol import TrolConfig
from phantrol.training.new_model import NewModel

SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
LLAMA = dict(model_type="llama", num_key_value_heads=2, **SIZES)
TOWER = dict(model_type="siglip_vision_model", image_size=32, patch_size=16, **SIZES)
NOWHERE = "phantrol-tests/no-such-model"  # the tests are offline, so it is nowhere
REFUSED = [
    *(
        ({part: NOWHERE}, f"{part}: {NOWHERE} cannot be opened: .* Expected a folder .*hub model: check how")
        for part in ("text", "vision", "tokenizer")
    ),
    ({"text": "/no/such/folder"}, "text: /no/such/folder cannot be opened"),
    ({"text": {}}, "text: got model_type None, expected one that transformers knows, such as 'llama'"),
    ({"vision": {"model_type": "siglip_vison_model"}}, "vision: got model_type .*such as 'siglip_vision_model'"),
    (
        {"text": {**LLAMA, "hidden_size": "big"}},
        "text: no configuration of llama: .*'hidden_size' expected int, got str",
    ),
    ({"vision": {**TOWER, "patch_size": None}}, "vision: no configuration of siglip_vision_model: .*'patch_size'"),
    ({"text": {**LLAMA, "num_attention_heads": 0}}, "text: no configuration of llama: ZeroDivisionError"),
    ({"text": 5}, "text: got int, expected a folder, a hub id, or a configuration"),
    ({"text": TOWER}, "text: a SiglipVisionConfig has no vocabulary: expected a causal decoder's"),
    (
        {"options": {"max_tile": 6}},
        "unknown option max_tile, did you mean max_tiles[?] Expected for images: .*thumbnail",
    ),
    ({"options": {"imagepx": 64}}, "unknown option imagepx, did you mean image_px[?]"),
    ({"options": {"dtype": "fp16"}}, "dtype: got 'fp16', expected float32, bfloat16, float16"),
    ({"options": {"dtype": None}}, "dtype: got None, expected float32"),
    ({"modifiers": TrolConfig()}, r"modifiers: got TrolConfig.*, expected a list of configurations, such as"),
    ({"modifiers": (TrolConfig,)}, "is no modifier's configuration: expected, for example, TrolConfig"),
    ({"modifiers": ("trol",)}, "'trol' is no modifier's configuration"),
    ({"options": {"xyz": 1}}, "unknown option xyz; expected for images: image_px, max_tiles"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED)
def test_refused(tokenizer, tmp_path, changes, said):
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        NewModel(**{"text": LLAMA, "vision": TOWER, "tokenizer": str(tmp_path)} | changes).build()
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_is_no_model(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for text in (str(tmp_path), tmp_path):
        with pytest.raises(ValueError, match=r"text: .* is no such part, or broken: ValueError: Unrecognized model"):
            phantrol.build(text, TOWER, tokenizer=tokenizer)


def test_a_description_and_a_tokenizers_folder_are_opened(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    model, processor = phantrol.build(LLAMA, TOWER, tokenizer=str(tmp_path), image_px=32, max_tiles=2)
    assert model.config.text_config.hidden_size == 32 and processor.image_processor.max_tiles == 2
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_a_dtype_may_be_named_and_a_model_is_no_part(tokenizer):
    model, _ = phantrol.build(LLAMA, TOWER, tokenizer=tokenizer, dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"^text: got LlamaForCausalLM, expected a folder") as caught:
        phantrol.build(model.language_model, TOWER, tokenizer=tokenizer)
    assert len(str(caught.value).splitlines()) == 1
