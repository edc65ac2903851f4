"""Settings that no picture could be read with are refused as the model is built, not at the first picture."""

import pytest
from transformers import PretrainedConfig

import phantrol
from phantrol.models.building import wanted_config


@pytest.mark.parametrize(
    "options, said",
    [
        ({"unshuffle": 3}, "4 x 4 patches cannot be unshuffled by 3"),
        ({"unshuffle": 0}, "4 x 4 patches cannot be unshuffled by 0"),
        ({"unshuffle": -1}, "4 x 4 patches cannot be unshuffled by -1"),
        ({"unshuffle": 2.0}, "unshuffle: got 2.0, expected a whole number"),
        ({"image_px": "32"}, "image_px: got '32', expected a whole number"),
        ({"image_px": 0}, "takes no pictures of 0 px"),
        ({"max_tiles": 0}, "max_tiles: got 0, expected a whole number, 1 or more"),
        ({"max_tiles": 2.0}, "max_tiles: got 2.0, expected a whole number, 1 or more"),
        ({"image_mean": (0.5,)}, r"image_mean: got \(0.5,\), expected 3 numbers, of red, green and blue"),
        ({"image_mean": 0.5}, "image_mean: got 0.5, expected 3 numbers"),
        ({"image_std": (0.5, 0.0, 0.5)}, "image_std: got .* expected numbers above 0"),
    ],
)
def test_build_refuses_what_no_picture_could_be_read_with(parts, options, said):
    text, vision, tokenizer = parts
    with pytest.raises(ValueError, match=said):
        phantrol.build(text, vision, tokenizer=tokenizer, **options)


def test_a_tower_that_names_no_size_is_refused_before_anything_is_built_too(parts):
    text, _, tokenizer = parts
    said = " names no image size: pass image_px"
    with pytest.raises(ValueError, match=said):
        phantrol.build(text, PretrainedConfig(), tokenizer=tokenizer)
    with pytest.raises(ValueError, match=said):
        wanted_config(text, PretrainedConfig())


def test_a_tower_that_wants_more_than_pixels_is_refused(parts):
    text, _, tokenizer = parts
    vision = {"model_type": "siglip2_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    with pytest.raises(ValueError, match=r"^Siglip2VisionModel takes no pictures of 32 px: .*spatial_shapes"):
        phantrol.build(text, {**vision, "num_attention_heads": 2}, tokenizer=tokenizer, image_px=32)


def test_what_fits_is_built(parts):
    text, vision, tokenizer = parts
    options = {"unshuffle": 2, "max_tiles": 6, "image_mean": (0.4, 0.5, 0.6), "image_std": (0.2, 0.3, 0.4)}
    model, processor = phantrol.build(text, vision, tokenizer=tokenizer, **options)
    assert (model.config.unshuffle, processor.image_processor.max_tiles) == (2, 6)
