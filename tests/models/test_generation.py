"""Beams and several answers with pictures: rows multiply, their tiles follow; ids that no logit has do no harm."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw
from torch._dynamo.testing import CompileCounter
from transformers import DynamicCache, LogitsProcessor, StaticCache

import phantrol
from phantrol.models.generation import PictureGeneration
from phantrol.modifiers.partial_lora import PartialLoraConfig

OPTIONS = dict(
    num_beams=3, num_return_sequences=2, max_new_tokens=6, do_sample=False, return_dict_in_generate=True,
    output_scores=True,
)  # fmt: skip


def picture(colour: str, size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, colour)
    ImageDraw.Draw(image).ellipse((5, 5, 18, 15), fill="white")
    return image


@pytest.fixture(scope="module")
def model_and_processor(tiny_model, tokenizer):
    """Wide pictures become two tiles and a thumbnail; weights are so large that a wrong tile changes the words."""
    modifiers = [phantrol.TrolConfig(gate_bias=0.2), phantrol.PhantomConfig(init="random")]
    model, processor = tiny_model(tokenizer, modifiers, noise=0.4)
    processor.image_processor.max_tiles = 6
    return model.double(), processor


@pytest.fixture
def chats(chat):
    return [
        chat(picture("red", (40, 20)), picture("green", (64, 30)), "What color is the circle?"),
        chat("no picture"),
        chat(picture("blue", (20, 20)), "red?"),
        chat("A", picture("yellow", (33, 90)), "B?"),
    ]


def encode(processor, chats):
    options = dict(add_generation_prompt=True, tokenize=True, return_tensors="pt")
    return processor.apply_chat_template(chats, **options)


def answers(model, inputs, **options):
    """(new tokens, scores) of each returned sequence; -1 behind the end."""
    output = model.generate(**inputs, **OPTIONS, **options)
    given = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    rows = output.sequences[:, given:]
    ends = model.generation_config.eos_token_id
    texts = [[*row[: row.index(ends)]] if ends in row else row for row in rows.tolist()]
    return texts, output.sequences_scores


def alone(model, processor, chats, **options):
    texts, scores = zip(*(answers(model, encode(processor, [chat]), **options) for chat in chats), strict=True)
    return [text for row in texts for text in row], torch.cat(scores)


def same(one, other):
    return one[0] == other[0] and torch.allclose(one[1], other[1], atol=1e-9)


def test_beams_of_a_batch_are_those_of_each_row_alone_without_a_cache(model_and_processor, chats):
    model, processor = model_and_processor
    inputs = encode(processor, chats)
    assert len(inputs["pixel_values"]) == 3 + 3 + 1 + 4
    together = answers(model, inputs)
    assert len({str(text) for text in together[0]}) > 5  # the rows say different things
    assert same(together, alone(model, processor, chats, use_cache=False))
    assert same(together, answers(model, inputs, use_cache=False))


def test_beams_are_those_of_embeddings_that_were_placed_before(model_and_processor, chats):
    """No tiles are given here, so none can be copied wrongly."""
    model, processor = model_and_processor
    inputs = encode(processor, chats)
    expected = answers(model, inputs)
    ids, features = inputs["input_ids"], model.get_image_features(inputs["pixel_values"])
    embeds = model.get_input_embeddings()(ids)
    embeds[ids == processor.image_token_id] = features.flatten(0, 1)
    assert same(expected, answers(model, {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}))


@torch.no_grad()
def test_embeddings_tell_which_of_them_are_image_features(tiny_model, tokenizer, chats):
    """A partial LoRA works on those alone: the ids beside them say which, or image_mask; embeddings alone do not."""
    adapters = [phantrol.TrolConfig(gate_bias=0.2), PartialLoraConfig(rank=4, alpha=8.0)]
    model, processor = tiny_model(tokenizer, adapters, noise=0.4, dtype=torch.float64)
    inputs = encode(processor, chats)
    ids, pixels = inputs["input_ids"], inputs.pop("pixel_values")
    is_image = ids == processor.image_token_id
    embeds = model.get_input_embeddings()(ids)
    embeds[is_image] = model.get_image_features(pixels).flatten(0, 1)
    given = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]}
    logits, said = model(**inputs, pixel_values=pixels).logits, answers(model, {**inputs, "pixel_values": pixels})
    options = dict(atol=1e-9, rtol=0)
    for telling in ({"input_ids": ids}, {"image_mask": is_image}):
        torch.testing.assert_close(model(**given, **telling).logits, logits, **options)
        assert same(said, answers(model, {**given, **telling}))
    none = torch.zeros_like(is_image)
    assert (model(**given, image_mask=none).logits - logits).abs().max() > 1e-3, "the control: the adapter matters"
    for ask in (model, model.generate):
        with pytest.raises(ValueError, match="got inputs_embeds alone, but a modifier works on image features only"):
            ask(**given)
    with pytest.raises(ValueError, match="got inputs_embeds alone, but a modifier works on image features only"):
        model(inputs_embeds=embeds, past_key_values=model(**given, input_ids=ids).past_key_values)


def test_a_draft_sees_the_pictures_too(model_and_processor, chats):
    model, processor = model_and_processor
    inputs = encode(processor, chats[:1])
    said = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False, assistant_early_exit=1), said)


@torch.no_grad()
def test_a_step_does_not_ask_how_long_its_cache_is(model_and_processor):
    """Of a static cache that is a number on the device, for which each step would wait."""

    class Asked(DynamicCache):
        def get_seq_length(self, layer_idx=0):
            raise AssertionError("the step asks")

    model, _ = model_and_processor
    step = model.prepare_inputs_for_generation(torch.ones(1, 3).long(), 1, Asked(config=model.config.text_config))
    assert step["input_ids"].shape == (1, 1)


def test_several_sampled_answers(model_and_processor, chats):
    """Sampling from one token alone is greedy, so each of the three answers must be the greedy one."""
    model, processor = model_and_processor
    inputs = encode(processor, chats)
    greedy = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    sampled = model.generate(**inputs, max_new_tokens=5, do_sample=True, top_k=1, num_return_sequences=3)
    assert torch.equal(sampled, greedy.repeat_interleave(3, dim=0))


def test_tiles_copied_one_by_one_would_be_seen(model_and_processor, chats, monkeypatch):
    model, processor = model_and_processor
    expected = answers(model, encode(processor, chats))
    monkeypatch.delattr(PictureGeneration, "_expand_inputs_for_generation")
    assert not same(expected, answers(model, encode(processor, chats)))


def test_the_vision_tower_sees_each_tile_once(model_and_processor, chats):
    model, processor = model_and_processor
    seen = []
    hook = model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len((args or list(kwargs.values()))[0])), with_kwargs=True
    )
    answers(model, encode(processor, chats))
    hook.remove()
    assert seen == [11]


def test_tiles_without_placeholders_are_refused(model_and_processor, chats):
    model, processor = model_and_processor
    inputs = encode(processor, chats)
    with pytest.raises(ValueError, match="160 image tokens for 11 tiles: expected 16 for each tile"):
        inputs["input_ids"][0][inputs["input_ids"][0] == processor.image_token_id] = 5
        inputs["input_ids"][1, -6 * 16 + 16 :] = processor.image_token_id
        model.generate(**inputs, **OPTIONS)


@pytest.mark.parametrize("new_alone", [False, True])
@torch.no_grad()
def test_several_answers_to_a_later_turn_with_new_pictures(model_and_processor, chats, chat, new_alone):
    """The ids are those of all turns or of the new one alone; the tiles are those that the cache has not seen."""
    model, processor = model_and_processor
    turn = [*chats[:1], chat(picture("blue", (20, 20)), "red?", picture("yellow", (33, 90)))]
    first = encode(processor, [turn[0]])
    later = encode(processor, [[*turn[0], {"role": "assistant", "content": "red"}, *turn[1]]])
    ids, held = later["input_ids"], first["input_ids"].shape[1]
    assert torch.equal(ids[:, :held], first["input_ids"])
    options = dict(max_new_tokens=5, do_sample=True, top_k=1, num_return_sequences=2)
    whole = model.generate(**later, **options)[:, ids.shape[1] :]
    cache = DynamicCache(config=model.config.get_text_config())
    model(**first, past_key_values=cache)
    cache.batch_repeat_interleave(2)
    given = ids[:, held:] if new_alone else ids
    new = dict(pixel_values=later["pixel_values"][len(first["pixel_values"]) :], past_key_values=cache)
    output = model.generate(input_ids=given, attention_mask=later["attention_mask"], **new, **options)
    assert torch.equal(output[:, given.shape[1] :], whole)


class LooksUpEveryToken(LogitsProcessor):
    """As the repetition penalty of older transformers, and of anyone who takes each id of a prompt for a word."""

    def __call__(self, input_ids, scores):
        return scores.scatter(1, input_ids, scores.gather(1, input_ids) - 2)


@pytest.mark.parametrize(
    "options",
    [
        dict(logits_processor=[LooksUpEveryToken()]),
        dict(repetition_penalty=1.5),
        dict(no_repeat_ngram_size=1),
        dict(repetition_penalty=1.3, num_beams=2),
        dict(guidance_scale=3.0, repetition_penalty=1.5),
        dict(repetition_penalty=1.2, do_sample=True, top_p=0.9, temperature=2.0),
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_image_token_outside_of_the_vocabulary(model_and_processor, chats, options, monkeypatch):
    """As in TroL-1.8B and 7B: the image token is the first id behind the vocabulary. It changes nothing."""
    model, processor = model_and_processor
    options = dict(max_new_tokens=8, do_sample=False) | options
    inputs = encode(processor, chats[:2])
    torch.manual_seed(0)
    expected = model.generate(**inputs, **options)
    assert not torch.equal(expected, model.generate(**inputs, max_new_tokens=8, do_sample=False))
    outside = model.config.text_config.vocab_size
    ids = inputs["input_ids"]
    monkeypatch.setattr(model.config, "image_token_id", outside)
    moved = {**inputs, "input_ids": ids.masked_fill(ids == processor.image_token_id, outside)}
    torch.manual_seed(0)
    new = model.generate(**moved, **options)
    assert torch.equal(new[:, ids.shape[1] :], expected[:, ids.shape[1] :])


@pytest.mark.parametrize("beyond", [False, True], ids=["image token inside", "image token outside"])
def test_a_step_after_a_picture_is_one_graph_for_all_steps(model_and_processor, chats, beyond, monkeypatch):
    """Of the whole model, with a static cache: no part of it is left to Python, and no step is compiled anew."""
    model, processor = model_and_processor
    inputs = encode(processor, chats[2:3])
    ids, counter = inputs["input_ids"], CompileCounter()
    if beyond:
        is_image = ids == processor.image_token_id
        monkeypatch.setattr(model.config, "image_token_id", model.config.text_config.vocab_size)
        ids = ids.masked_fill(is_image, model.config.image_token_id)
    length = ids.shape[1]

    def decode(step):
        cache = StaticCache(config=model.config, max_cache_len=length + 6)
        options = {"pixel_values": inputs["pixel_values"], "prompt_length": length}
        with torch.no_grad():
            logits = [model(ids, past_key_values=cache, **options).logits[:, -1]]
            for place, token in enumerate((4, 7, 9, 3), start=length):
                where = {"past_key_values": cache, "position_ids": torch.tensor([[place]])}
                logits.append(step(torch.tensor([[token]]), **where).logits[:, -1])
        return torch.stack(logits)

    torch._dynamo.reset()
    compiled = decode(torch.compile(model, backend=counter, fullgraph=True, dynamic=False))
    assert counter.frame_count == 1
    torch.testing.assert_close(compiled, decode(model), atol=1e-9, rtol=0)
