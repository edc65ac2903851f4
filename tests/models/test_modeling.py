"""Pixels to loss: the model on any tower and decoder, saved, loaded and generating."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, pipeline

import phantrol
from phantrol.models.building import build, load
from phantrol.models.configuration import num_image_tokens
from phantrol.models.output_head import output_head
from phantrol.models.stem_vision import StemVisionModel
from phantrol.models.vision_sizes import measure_grid

TOWERS = {
    "clip": dict(model_type="clip_vision_model", hidden_size=16, image_size=32, patch_size=4, unshuffle=2),
    "siglip": dict(model_type="siglip_vision_model", hidden_size=16, image_size=32, patch_size=8),
    "dinov2 with registers": dict(
        model_type="dinov2_with_registers", hidden_size=16, image_size=28, patch_size=7, unshuffle=2
    ),
    "resnet": dict(model_type="resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], image_px=32),
    "efficientnet lite": dict(model_type="efficientnet_lite", num_stages=4, image_size=32),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_any_vision_tower(tower, parts, picture, chat):
    text, _, tokenizer = parts
    options = dict(TOWERS[tower])
    ours = {key: options.pop(key) for key in ("unshuffle", "image_px") if key in options}
    small = dict(num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    vision = AutoConfig.for_model(options.pop("model_type"), **(options if tower == "resnet" else {**small, **options}))
    model, processor = build(text, vision, [phantrol.TrolConfig()], tokenizer=tokenizer, **ours)
    batch = processor.apply_chat_template(chat(picture, "What?"), tokenize=True, return_tensors="pt")
    image_tokens = int((batch["input_ids"] == model.config.image_token_id).sum())
    assert image_tokens == num_image_tokens(processor) == num_image_tokens(model.config)
    assert torch.isfinite(model(**batch).logits).all()


@pytest.mark.parametrize(("patch_px", "grid"), [((8, 8), 3), ((6, 6), 4), ((8, 6), None), ((6, 8), None)])
def test_patches_must_form_a_square(patch_px, grid):
    """3 x 4 patches behind a class token are as many as 3 x 3 behind four tokens: the patch tells."""
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    vision = AutoConfig.for_model("internvl_vision", image_size=[24, 24], patch_size=list(patch_px), **sizes)
    if grid is not None:
        assert measure_grid(vision, 24) == grid
        return
    with pytest.raises(ValueError, match=rf"got pixels of a patch, {patch_px[0]} x {patch_px[1]}, expected a square"):
        measure_grid(vision, 24)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 4), (4, 3)])
def test_a_grid_must_be_a_square(rows, columns, monkeypatch):
    class Tower(torch.nn.Module):
        def forward(self, pixels):
            return SimpleNamespace(last_hidden_state=torch.empty(1, 8, rows, columns))

    from phantrol.models import vision_sizes

    monkeypatch.setattr(vision_sizes.AutoModel, "from_config", lambda config: Tower())
    if rows == columns:
        assert measure_grid(SimpleNamespace(), 32) == rows
        return
    with pytest.raises(ValueError, match=f"Tower at 32 px: got a grid of {rows} x {columns}, expected a square"):
        measure_grid(SimpleNamespace(), 32)


def test_picture_changes_the_answer(model_and_processor, picture, chat):
    model, processor = model_and_processor
    seen = [
        model(**processor.apply_chat_template(chat(image, "What?"), tokenize=True, return_tensors="pt")).logits
        for image in (
            picture,
            picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
            picture.point(lambda value: 255 - value),
        )
    ]
    assert torch.allclose(seen[0], seen[1])  # one colour looks alike from any side
    assert (seen[0] - seen[2]).abs().max() > 1e-3


def test_labels_give_the_loss_of_the_logits(model_and_processor, picture, chat):
    model, processor = model_and_processor
    encoding = processor.encode(chat(picture, "What?", answer="red green"))
    ids = torch.tensor([encoding.input_ids])
    labels = ids.masked_fill(~torch.tensor([encoding.answer_mask]), -100)
    inputs = dict(input_ids=ids, pixel_values=encoding.pixel_values)
    output, logits = model(**inputs, labels=labels), model(**inputs).logits
    by_hand = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, by_hand)
    assert output.logits is None
    assert output.token_logprobs.shape == (sum(encoding.answer_mask),)
    output.loss.backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert silent == []


def test_the_parts_of_a_step_add_up_to_the_step(model_and_processor):
    """As transformers' Trainer asks for it, which then divides by nothing."""
    model, _ = model_and_processor
    ids = torch.arange(20, 38).reshape(2, 9)
    labels = ids.clone()
    labels[0, :7] = -100  # 2 tokens of one row, 8 of the other
    whole = model(ids, labels=labels).loss
    for number in (10, torch.tensor(10)):
        parts = [model(ids[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=number) for row in (0, 1)]
        torch.testing.assert_close(parts[0].loss + parts[1].loss, whole)


def test_labels_of_which_none_is_a_token(model_and_processor):
    model, _ = model_and_processor
    ids = torch.arange(20, 29)[None]
    labels = torch.full_like(ids, -100)
    labels[0, 0] = 3  # nothing predicts the first
    with pytest.raises(ValueError, match="got labels without a token to predict: all are -100 but perhaps the first"):
        model(ids, labels=labels)
    for number in (4, 0):  # a part of a step that says something, and of one that says nothing
        assert model(ids, labels=labels, num_items_in_batch=number).loss == 0


@pytest.mark.parametrize("family", ["llama", "granite", "gemma2", "cohere"])
def test_output_head_is_the_family_s_own(family):
    torch.manual_seed(0)
    options = dict(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    special = {"granite": dict(logits_scaling=3.0), "gemma2": dict(final_logit_softcapping=0.05, head_dim=8)}
    config = AutoConfig.for_model(family, **options, num_key_value_heads=1, pad_token_id=0, **special.get(family, {}))
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(8)[None]
    hidden = model.get_decoder()(ids).last_hidden_state
    torch.testing.assert_close(output_head(model)(hidden), model(ids).logits, rtol=0, atol=0)
    if family in special:  # the control: the bare linear layer is another function
        assert (model.lm_head(hidden) - model(ids).logits).abs().max() > 1e-3


def test_more_or_fewer_features_than_image_tokens(model_and_processor, picture, chat):
    model, processor = model_and_processor
    batch = processor.apply_chat_template(chat(picture, "What?"), tokenize=True, return_tensors="pt")
    with pytest.raises(ValueError, match=r"16 image tokens in the text, but the pictures give 2 tiles x 16 = 32"):
        model(**{**batch, "pixel_values": batch["pixel_values"].repeat(2, 1, 1, 1)})


@pytest.mark.parametrize("beyond", [False, True], ids=["inside of the vocabulary", "beyond it"])
def test_image_tokens_whose_pictures_are_forgotten(model_and_processor, picture, chat, beyond, monkeypatch):
    model, processor = model_and_processor
    chats = [chat(picture, "What?"), chat("a large red circle and a small blue star " * 3)]
    ids = processor.apply_chat_template(chats, tokenize=True, return_tensors="pt")["input_ids"]
    if beyond:
        monkeypatch.setattr(model.config, "image_token_id", model.config.text_config.vocab_size)
        ids = ids.masked_fill(ids == processor.image_token_id, model.config.image_token_id)
    asked = (lambda: model(ids), lambda: model(ids, labels=ids), lambda: model.generate(ids, max_new_tokens=2))
    for ask in asked:
        with pytest.raises(ValueError, match=r"got image tokens \(\d+\) in input_ids and no pixel_values: expected"):
            ask()
    model(ids[1:])
    padded = torch.cat([ids[:1, :1] * 0 + model.config.image_token_id, ids[1:]], 1)
    assert torch.isfinite(
        model(padded, attention_mask=torch.ones_like(padded).index_fill(1, torch.tensor(0), 0)).logits[:, 1:]
    ).all()
    cache = model(torch.arange(20, 26)[None]).past_key_values
    model(ids[:1, -1:] * 0 + model.config.image_token_id, past_key_values=cache)  # a token that was said, or
    model(ids[:1], past_key_values=cache)  # drafted: any may be


def test_left_padded_batch_equals_each_row_alone(model_and_processor, picture, chat):
    model, processor = model_and_processor
    model.double()
    chats = [chat(picture, "What color is the circle?"), chat("red?"), chat(picture, "A", picture, "or B?")]
    batch = processor.apply_chat_template(chats, tokenize=True, return_tensors="pt")
    together = model(**batch).logits
    for row, one in enumerate(chats):
        alone = model(**processor.apply_chat_template(one, tokenize=True, return_tensors="pt")).logits[0]
        real = batch["attention_mask"][row] == 1
        torch.testing.assert_close(together[row, real], alone, rtol=0, atol=1e-10)
    control = model(**{**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}).logits
    assert (control[1] - together[1]).abs().max() > 1e-3


def test_generation_with_and_without_a_cache(model_and_processor, picture, chat):
    model, processor = model_and_processor
    batch = processor.apply_chat_template(
        [chat(picture, "What color?"), chat("red?")], tokenize=True, add_generation_prompt=True, return_tensors="pt"
    )
    kwargs = dict(**batch, max_new_tokens=6, do_sample=False, eos_token_id=-1)
    cached = model.generate(**kwargs)
    assert torch.equal(cached, model.generate(**kwargs, use_cache=False))
    beams = model.generate(**kwargs, num_beams=3)
    assert torch.equal(beams, model.generate(**kwargs, num_beams=3, use_cache=False))


def test_saved_and_loaded_bit_for_bit(model_and_processor, picture, chat, tmp_path):
    model, processor = model_and_processor
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    batch = processor.apply_chat_template(chat(picture, "What?"), tokenize=True, return_tensors="pt")
    ours, ours_processor = load(tmp_path)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path)
    for other in (ours, theirs):
        saved, loaded = model.state_dict(), other.state_dict()
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)
        # the same numbers elsewhere in memory may be summed in another order
        torch.testing.assert_close(other(**batch).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)
    assert ours.config.modifiers == model.config.modifiers
    again = AutoProcessor.from_pretrained(tmp_path)
    for other in (ours_processor, again):
        same = other.apply_chat_template(chat(picture, "What?"), tokenize=True, return_tensors="pt")
        assert all(torch.equal(same[key], batch[key]) for key in batch)


def test_pipeline(model_and_processor, picture, chat):
    model, processor = model_and_processor
    answer = pipeline("image-text-to-text", model=model, processor=processor)
    said = answer(text=chat(picture, "What?"), max_new_tokens=3, generate_kwargs={"do_sample": False})
    assert said[0]["generated_text"][-1]["role"] == "assistant"


def test_build_from_two_pretrained_parts(parts, tmp_path):
    text, vision, tokenizer = parts
    torch.manual_seed(1)
    text.vocab_size = len(tokenizer)
    decoder = AutoModelForCausalLM.from_config(text)
    decoder.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    tower = StemVisionModel(vision)
    tower.save_pretrained(tmp_path / "vision")
    model, processor = build(str(tmp_path / "text"), str(tmp_path / "vision"), [phantrol.TrolConfig()])
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(model.language_model.state_dict()[name], tensor), name
    for name, tensor in tower.state_dict().items():
        assert torch.equal(model.vision_tower.state_dict()[name], tensor), name
    assert model.generation_config.eos_token_id == processor.end_of_turn_id


def test_a_configuration_may_be_used_again(parts, tmp_path):
    """The second model has no modifiers, and the first one still says that it has."""
    text, vision, tokenizer = parts
    before = text.to_dict(), vision.to_dict()
    model, processor = build(text, vision, [phantrol.TrolConfig()], tokenizer)
    plain, _ = build(text, vision, [], tokenizer)
    assert (text.to_dict(), vision.to_dict()) == before
    assert [modifier["name"] for modifier in model.config.modifiers] == ["trol"] and plain.config.modifiers == []
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = load(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys() > plain.state_dict().keys()


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model.safetensors is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model.safetensors is empty"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), r"cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config.json is broken"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), r"cannot be loaded|broken"),
    ],
)
def test_a_broken_folder_is_named(model_and_processor, tmp_path, break_it, complaint):
    model, processor = model_and_processor
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    break_it(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        load(tmp_path)


@pytest.mark.parametrize("change", ["lose", "add"])
def test_tensors_missing_or_left_over_are_named(model_and_processor, tmp_path, change):
    model, processor = model_and_processor
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gate = next(name for name in weights if name.endswith("traversal_gate.weight"))
    if change == "lose":
        del weights[gate]
    else:
        weights["stray"] = torch.zeros(1)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing_keys.*traversal_gate" if change == "lose" else r"unexpected.*stray"):
        load(tmp_path)


def test_config_survives_json(model_and_processor, tmp_path):
    model, _ = model_and_processor
    model.config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert [modifier["name"] for modifier in saved["text_config"]["modifiers"]] == ["trol", "phantom"]
    assert AutoConfig.from_pretrained(tmp_path).modifiers == model.config.modifiers


def test_pictures_beside_embeddings_alone(model_and_processor, picture, chat):
    model, processor = model_and_processor
    batch = processor.apply_chat_template(chat(picture, "What?"), tokenize=True, return_tensors="pt")
    given = {"inputs_embeds": model.get_input_embeddings()(batch["input_ids"]), "pixel_values": batch["pixel_values"]}
    for ask in (model, model.generate):
        with pytest.raises(ValueError, match="got pixel_values and inputs_embeds without input_ids, which say where"):
            ask(**given)
    assert torch.equal(model(**given, input_ids=batch["input_ids"]).logits, model(**batch).logits)


def test_nothing_to_read(model_and_processor):
    model, _ = model_and_processor
    for given in ({}, {"attention_mask": torch.ones(1, 3)}):
        with pytest.raises(ValueError, match="got neither input_ids, inputs_embeds nor pixel_values: expected one"):
            model(**given)


def test_a_tuple_in_place_of_names(model_and_processor, picture, chat):
    model, processor = model_and_processor
    batch = processor.apply_chat_template(chat(picture, "What?"), tokenize=True, return_tensors="pt")
    for given in (batch, {**batch, "labels": batch["input_ids"]}, {"pixel_values": batch["pixel_values"]}):
        named = model(**given, use_cache=False)
        for one, other in zip(model(**given, use_cache=False, return_dict=False), named.to_tuple(), strict=True):
            assert torch.equal(one, other)


@torch.no_grad()
def test_where_labels_begin_the_prompt_ends(tiny_model, tokenizer):
    model, _ = tiny_model(tokenizer, [phantrol.TrolConfig(tokens="prompt", gate_bias=0.3)])
    ids = torch.arange(7, 19)[None]
    labels = torch.where(torch.arange(12) < 7, -100, ids)
    plainly = model(input_ids=ids, labels=labels).token_logprobs
    assert torch.equal(plainly, model(input_ids=ids, labels=labels, prompt_mask=labels == -100).token_logprobs)
    all_of_it = model(input_ids=ids, labels=labels, prompt_mask=torch.ones_like(ids, dtype=torch.bool)).token_logprobs
    assert (plainly - all_of_it).abs().max() > 1e-4
