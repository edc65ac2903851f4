"""Ranks that start with nothing in the cache: the pretrained parts are unpacked once, and whole, by whichever rank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from rank_processes import needs_fork, on_ranks
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from phantrol.cached import cache_folder, written_once
from phantrol.models.packaged import write_model

pytestmark = needs_fork


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PHANTROL_CACHE", str(tmp_path / "cache"))
    return cache_folder()


def decoder() -> PreTrainedModel:
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes, tie_word_embeddings=True), dtype=torch.bfloat16)


def unpack(folder: Path) -> None:
    with (cache_folder() / ".unpacked").open("a") as file:
        file.write("once\n")
    write_model(decoder(), folder)


def unpacked_on_this_rank() -> None:
    PartialState(cpu=True).wait_for_everyone()
    loaded, expected = AutoModelForCausalLM.from_pretrained(written_once("decoder", unpack)), decoder().state_dict()
    assert loaded.dtype == torch.bfloat16 and loaded.config.architectures == ["LlamaForCausalLM"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_one_rank_unpacks_and_the_others_wait(cache):
    on_ranks(3, unpacked_on_this_rank)
    assert (cache / ".unpacked").read_text() == "once\n"
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == ["decoder"]


def test_what_is_not_whole_is_written_anew(cache):
    (cache / "decoder").mkdir(parents=True)
    (cache / "decoder" / "tokenizer.json").write_text("{}")
    on_ranks(2, unpacked_on_this_rank)
    assert not (cache / "decoder" / "tokenizer.json").exists()


@pytest.mark.parametrize(("write", "whole"), [(write_model, True), (PreTrainedModel.save_pretrained, False)])
def test_on_the_second_rank_too(cache, write, whole):
    """The control is `save_pretrained`, which writes nothing there."""

    def second_alone() -> None:
        state = PartialState(cpu=True)
        if state.process_index:
            write(decoder(), cache.parent / "decoder")
        state.wait_for_everyone()

    on_ranks(2, second_alone)
    assert (cache.parent / "decoder" / "model.safetensors").is_file() is whole
