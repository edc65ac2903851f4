"""FLOPs by hand, and a plain model of equal compute."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM

from phantrol.ablation import costs, deeper
from phantrol.ablation.costs import CostBook, answering_costs, training_flops
from phantrol.ablation.deeper import DeeperDecoder, match_compute, with_layers
from phantrol.ablation.variants import BOTH, COMPUTE, PLAIN, TROL
from phantrol.data.messages import Example, Message
from phantrol.data.mixture import NEVER_USED_UP, Mixture
from phantrol.losses.sft import Sft
from phantrol.models.packaged import PackagedDecoder
from phantrol.models.tokenizer import train_tokenizer
from phantrol.training.new_model import Lora

CHAT = [{"role": "user", "content": "What color, 3?"}]


def test_training_is_counted_over_all_stages_and_steps(tiny_recipe):
    once = training_flops(PLAIN(tiny_recipe()))
    assert training_flops(PLAIN(tiny_recipe("stages.0.max_steps=8", "stages.1.max_steps=8"))) == 2 * once
    assert training_flops(PLAIN(tiny_recipe("stages.0.batch_size=8", "stages.1.batch_size=8"))) == 2 * once
    assert training_flops(PLAIN(tiny_recipe("stages.0.precision=bfloat16", "seed=9"))) == once


@dataclass(frozen=True)
class TextFirst:
    """Groups of text, and from `texts` on squares. It is read in its order."""

    texts: int

    def __len__(self) -> int:
        return NEVER_USED_UP

    def __getitem__(self, index: int) -> tuple[Example, ...]:
        shown = () if index < self.texts else (Image.new("RGB", (32, 32), "red"),)
        return (Example(f"{index}", (Message("user", (*shown, "What color?")), Message("assistant", ("red",)))),)


def test_a_stage_that_begins_with_text_is_no_stage_of_text(tiny_recipe):
    first = replace(tiny_recipe().stages[0], loss=Sft(), train=("projector.*",))
    flops = {}
    for texts in (0, 2, 3, 4):  # of a first batch of four
        stage = replace(first, data=Mixture(((1.0, TextFirst(texts)),)))
        flops[texts] = training_flops(replace(PLAIN(tiny_recipe()), stages=(stage,)))
    assert flops[4] < flops[3] == flops[2] < flops[0]


def test_a_pass_more_costs_what_a_layer_costs(tiny_recipe):
    """A layer of this decoder, by hand: 2 FLOPs a weight and token, and attention over all tokens before."""
    recipe = tiny_recipe()
    plain, taller = PLAIN(recipe), with_layers(PLAIN(recipe), 3)
    one, other = (answering_costs(each, [CHAT]) for each in (plain, taller))
    weights = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48
    assert other["parameters"] - one["parameters"] == weights + 2 * 32  # and two norms
    processor = plain.model.build()[1]
    prompt = len(processor.encode(CHAT, add_generation_prompt=True).input_ids)
    tokens = prompt + costs.ANSWER_TOKENS - 1  # the last one is not read again
    attended = prompt * prompt + sum(range(prompt + 1, tokens + 1))  # scores of all pairs, the hidden half included
    by_hand = 2 * weights * tokens + 2 * 2 * 32 * attended
    assert other["answer_flops"] - one["answer_flops"] == by_hand


@pytest.mark.parametrize(("variant", "target"), [(COMPUTE[0], TROL)])
def test_equal_compute_is_within_five_percent(tiny_recipe, variant, target):
    recipe = tiny_recipe()
    ratio = training_flops(variant(recipe)) / training_flops(target(recipe))
    assert ratio == pytest.approx(1, abs=0.05)
    assert training_flops(PLAIN(recipe)) / training_flops(target(recipe)) < 0.8  # or else it would be no feat
    assert variant(recipe).model.text["num_hidden_layers"] == 4


def test_the_nearest_number_of_layers_is_taken(tiny_recipe):
    recipe = PLAIN(tiny_recipe())

    def count(recipe):
        return 10.0 + 4.0 * recipe.model.text["num_hidden_layers"]

    layers = {
        flops: match_compute(recipe, flops, count).model.text["num_hidden_layers"] for flops in (10, 19, 21, 29, 31)
    }
    assert layers == {10: 2, 19: 2, 21: 3, 29: 5, 31: 5}
    assert match_compute(recipe, 18.0, count) == recipe
    assert COMPUTE[1].compute_of == BOTH


def test_adapters_on_quantised_weights_cost_what_they_cost_on_full_ones(tiny_recipe):
    recipe = PLAIN(tiny_recipe())
    adapted = replace(recipe, model=replace(recipe.model, lora=Lora(rank=2, targets=("all",))))
    quantised = replace(adapted, model=replace(adapted.model, weights="int8"))
    assert answering_costs(quantised, [CHAT]) == answering_costs(adapted, [CHAT]) == answering_costs(recipe, [CHAT])
    assert training_flops(quantised) == training_flops(adapted)


def test_counts_are_kept(tiny_recipe, tmp_path, monkeypatch):
    recipe = PLAIN(tiny_recipe())
    found = CostBook(tmp_path / "costs.json").training_flops(recipe), CostBook().training_flops(recipe)
    assert found[0] == found[1] == training_flops(recipe)
    monkeypatch.setattr(costs, "training_flops", lambda recipe: pytest.fail("counted again"))
    assert CostBook(tmp_path / "costs.json").training_flops(replace(recipe, seed=5)) == found[0]
    with pytest.raises(pytest.fail.Exception):
        CostBook(tmp_path / "costs.json").training_flops(TROL(tiny_recipe()))


def test_an_answer_is_counted_once_however_its_model_was_trained(tiny_recipe, monkeypatch):
    recipe = PLAIN(tiny_recipe())
    book = CostBook()
    found = book.answering_costs(recipe, [CHAT])
    monkeypatch.setattr(costs, "answering_costs", lambda recipe, chats: pytest.fail("counted again"))
    longer = PLAIN(tiny_recipe("stages.0.max_steps=8", "seed=9"))
    assert book.answering_costs(longer, [CHAT]) == found
    with pytest.raises(pytest.fail.Exception):
        book.answering_costs(TROL(tiny_recipe()), [CHAT])


def test_answers_to_other_chats_are_counted_by_themselves(tiny_recipe, tmp_path):
    recipe, longer = PLAIN(tiny_recipe()), [{"role": "user", "content": "What color is it, and why, 3?"}]
    for chats in ([CHAT], [longer], [CHAT]):
        found = CostBook(tmp_path / "costs.json").answering_costs(recipe, chats)
        assert found == answering_costs(recipe, chats)
    assert found["answer_flops"] < answering_costs(recipe, [longer])["answer_flops"]


def test_a_packaged_decoder_grows_without_a_change_of_what_it_says(tmp_path, monkeypatch, tiny_recipe):
    source, cache = tmp_path / "small", tmp_path / "cache"
    config = AutoConfig.for_model(
        "llama", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=300
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    train_tokenizer(["What color is it? red green blue"] * 4, 300).save_pretrained(source)
    monkeypatch.setattr(PackagedDecoder, "folder", lambda self: source)
    monkeypatch.setenv("PHANTROL_CACHE", str(cache))
    recipe = PLAIN(tiny_recipe())
    recipe = replace(recipe, model=replace(recipe.model, text=PackagedDecoder(), tokenizer=None))
    taller = with_layers(recipe, 5)
    assert taller.model.text.layers == 5
    assert taller.stages[0].train == ("projector.*", *(f"language_model.model.layers.{i}.*" for i in (2, 3, 4)))
    assert taller.stages[1].train == ("*",)
    ids = torch.randint(0, 300, (2, 9))
    plain, grown = (AutoModelForCausalLM.from_pretrained(folder) for folder in (source, taller.model.text.folder()))
    assert grown.config.num_hidden_layers == 5
    torch.testing.assert_close(grown(ids).logits, plain(ids).logits)
    grown(ids).logits.square().sum().backward()
    assert grown.model.layers[4].self_attn.o_proj.weight.grad.abs().max() > 0  # able to learn
    assert not torch.equal(grown.model.layers[4].mlp.up_proj.weight, grown.model.layers[3].mlp.up_proj.weight)
    assert DeeperDecoder(layers=5).folder() == taller.model.text.folder()


def test_what_cannot_be_made_deeper(tiny_recipe, monkeypatch):
    recipe = PLAIN(tiny_recipe())
    with pytest.raises(ValueError, match="the decoder has 2 layers: got 1"):
        with_layers(recipe, 1)
    folder = replace(recipe, model=replace(recipe.model, text="some/model"))
    monkeypatch.setattr(deeper, "num_layers", lambda model: 2)
    with pytest.raises(ValueError, match=r"cannot be made deeper.*leave the variants plain_deeper out"):
        with_layers(folder, 3)
