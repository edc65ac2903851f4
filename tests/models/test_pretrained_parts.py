"""What comes with a pretrained part besides its weights: a tower's normalisation, and the grafts of a decoder."""

import copy
import json
import warnings

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM

import phantrol
from phantrol.models.stem_vision import StemVisionModel

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5] * 3
TRAVERSED, ENLARGED = phantrol.TrolConfig(tokens="prompt", layers=(0,)), phantrol.PhantomConfig()


@pytest.fixture
def tower(parts, tmp_path):
    """A tower's folder, to which a test adds what its image processor is said to do."""
    StemVisionModel(parts[1]).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("said", "mean", "std"),
    [
        ({"image_mean": MEAN, "image_std": STD}, MEAN, STD),
        ({"image_mean": MEAN, "image_std": STD, "do_normalize": None, "rescale_factor": 1 / 255}, MEAN, STD),
        ({"image_mean": 0.4, "image_std": 0.2}, [0.4] * 3, [0.2] * 3),
        ({"image_mean": MEAN, "image_std": STD, "do_normalize": False}, [0.0] * 3, [1.0] * 3),
        ({"image_mean": [51, 51, 51], "image_std": [102, 102, 102], "do_rescale": False}, [0.2] * 3, [0.4] * 3),
        ({"image_mean": [1, 1, 1], "image_std": [1, 1, 1], "rescale_factor": 1 / 127.5}, HALF, HALF),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_pixels_are_as_the_tower_saw_them(parts, tower, said, mean, std, nested):
    text, _, tokenizer = parts
    name, said = ("processor_config.json", {"image_processor": said}) if nested else ("preprocessor_config.json", said)
    (tower / name).write_text(json.dumps(said))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _, processor = phantrol.build(text, tower, tokenizer=tokenizer)
    seen = processor.image_processor([Image.new("RGB", (8, 8), (255, 0, 51))])["pixel_values"][0, :, 0, 0]
    wanted = [(value - m) / s for value, m, s in zip((1, 0, 0.2), mean, std, strict=True)]
    torch.testing.assert_close(seen, torch.tensor(wanted))


def test_a_normalisation_that_is_given_goes_first(parts, tower):
    text, _, tokenizer = parts
    (tower / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    _, processor = phantrol.build(text, tower, tokenizer=tokenizer, image_mean=HALF)
    assert (processor.image_processor.image_mean, processor.image_processor.image_std) == (HALF, STD)
    (tower / "preprocessor_config.json").write_text("{")
    phantrol.build(text, tower, tokenizer=tokenizer, image_mean=HALF, image_std=HALF)  # both: nothing is read
    with pytest.raises(ValueError, match=r"vision: .*preprocessor_config.json' is not a valid JSON file"):
        phantrol.build(text, tower, tokenizer=tokenizer)


def test_a_tower_that_names_no_normalisation_is_said(parts, tower):
    text, vision, tokenizer = parts
    with pytest.warns(
        UserWarning, match="names no image_mean and image_std in .* here: 0.5 is taken where it is not given; pass"
    ):
        _, processor = phantrol.build(text, tower, tokenizer=tokenizer)
    assert processor.image_processor.image_mean == HALF
    with warnings.catch_warnings():  # one that is drawn has seen nothing
        warnings.simplefilter("error", UserWarning)
        phantrol.build(text, vision, tokenizer=tokenizer)


def test_a_value_that_is_named_stands_beside_one_that_is_given(parts, tower):
    text, _, tokenizer = parts
    (tower / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _, processor = phantrol.build(text, tower, tokenizer=tokenizer, image_std=STD)
    assert (processor.image_processor.image_mean, processor.image_processor.image_std) == (MEAN, STD)
    with pytest.warns(UserWarning, match="names no image_std in"):
        phantrol.build(text, tower, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "said",
    [
        {"image_mean": "0.5"},
        {"image_mean": [[0.5]] * 3},
        {"image_mean": [0.5]},
        {"image_mean": [0.5] * 4},
        {"image_mean": 0.5, "rescale_factor": "x"},
    ],
    ids=str,
)
def test_a_normalisation_that_is_none_is_said(parts, tower, said):
    text, _, tokenizer = parts
    (tower / "preprocessor_config.json").write_text(json.dumps({"image_std": HALF, **said}))
    with pytest.raises(ValueError, match=r"^vision: the image processor of .* has .*: expected 3 numbers, of red, gr"):
        phantrol.build(text, tower, tokenizer=tokenizer)


def test_a_whole_model_is_no_part(parts, tmp_path):
    text, vision, tokenizer = parts
    model, processor = phantrol.build(text, vision, tokenizer=tokenizer)
    model.save_pretrained(tmp_path), processor.save_pretrained(tmp_path)
    for name, given in (("text", (tmp_path, vision)), ("vision", (text, tmp_path))):
        with pytest.raises(ValueError, match=f"^{name}: got a whole phantrol model, expected a part of one"):
            phantrol.build(*given, tokenizer=tokenizer)


@pytest.fixture
def grafted(parts, tmp_path):
    """A decoder that was grafted, trained and saved, and its folder."""
    text, _, tokenizer = parts
    text = copy.deepcopy(text)
    text.vocab_size = len(tokenizer)
    decoder = phantrol.graft(AutoModelForCausalLM.from_config(text), [TRAVERSED, ENLARGED])
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    decoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return decoder, tmp_path


def test_the_grafts_of_a_decoder_are_loaded_with_it(parts, grafted):
    decoder, folder = grafted
    same = [ENLARGED, phantrol.TrolConfig(tokens="prompt", layers=[0])]  # in another order, and a list for a tuple
    model, _ = phantrol.build(folder, parts[1], same, match_embeddings=True)
    built = model.language_model.state_dict()
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(built[name][: len(tensor)], tensor), name  # with a row more for <image>
    assert any("traversal_gate" in name for name in built) and any("phantom" in name for name in built)


def test_equal_numbers_are_the_same_modifiers(parts, tmp_path):
    text, vision, tokenizer = parts
    decoder = phantrol.graft(AutoModelForCausalLM.from_config(copy.deepcopy(text)), [phantrol.TrolConfig(gate_bias=3)])
    decoder.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    phantrol.build(tmp_path, vision, [phantrol.TrolConfig(gate_bias=3.0)])


@pytest.mark.parametrize("modifiers", [[], [TRAVERSED], [phantrol.TrolConfig(), ENLARGED]])
def test_other_modifiers_than_a_decoder_was_saved_with(parts, grafted, modifiers):
    said = (
        r"^text: .* holds a decoder with \[TrolConfig.*PhantomConfig.*\] grafted, got \[.*\]: pass the same modifiers"
    )
    with pytest.raises(ValueError, match=said):
        phantrol.build(grafted[1], parts[1], modifiers)
