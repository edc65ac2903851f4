"""`load(folder, "float32")`: a model that was saved in 16 bits computes in another type, all of it."""

from __future__ import annotations

import pytest
import torch

import phantrol


@pytest.fixture(scope="module")
def folder(tiny_model, tokenizer, tmp_path_factory):
    model, processor = tiny_model(tokenizer, [phantrol.TrolConfig(), phantrol.PhantomConfig()], dtype=torch.bfloat16)
    path = tmp_path_factory.mktemp("models") / "in_16_bits"
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.mark.parametrize(
    "weights, expected",
    [(None, "bfloat16"), ("float32", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")],
)
def test_the_whole_model_is_of_one_dtype(folder, weights, expected):
    model, _ = phantrol.load(folder, weights)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, expected)}
    saved, _ = phantrol.load(folder, dtype=torch.float32)
    for ours, theirs in zip(model.parameters(), saved.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(ours.dtype))  # what was saved, not what was drawn anew


def test_two_dtypes_are_one_too_many(folder):
    phantrol.load(folder, "float32", dtype=torch.float32)
    phantrol.load(folder, "float32", dtype="float32")
    with pytest.raises(ValueError, match=r"weights='float32' and dtype=torch\.bfloat16: expected one of them"):
        phantrol.load(folder, "float32", dtype=torch.bfloat16)
