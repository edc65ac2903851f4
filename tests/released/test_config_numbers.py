"""Numbers of config.json that no model can be made of are told in one line; null is as if nothing were said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phantrol.models.released.layout import read_layout
from phantrol.models.released.source import Source


def long_angles(original: int = 64, **factors: Any) -> dict[str, Any]:
    scaling = {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8} | factors
    return {"llm_config": {"rope_scaling": scaling, "original_max_position_embeddings": original}}


NUMBERS = [
    (
        "phantom qwen2",
        [
            ({"vision_config": {"num_attention_heads": 0}}, "num_attention_heads 0 in vision_config: expected a whole"),
            ({"vision_config": {"num_attention_heads": "4"}}, "num_attention_heads '4' in vision_config: expected a"),
            ({"vision_config": {"layer_norm_eps": -1.0}}, "layer_norm_eps -1.0 in vision_config: expected a number ab"),
            ({"llm_config": {"rms_norm_eps": 0}}, "rms_norm_eps 0: expected a number above 0"),
            ({"llm_config": {"rope_theta": 0}}, "rope_theta 0: expected a number above 0"),
            ({"llm_config": {"max_position_embeddings": 0}}, "max_position_embeddings 0: expected a whole number of 1"),
            ({"eos_token_id": "</s>"}, "eos_token_id '</s>': expected the number of a token, several or null"),
            ({"image_token_index": 500.0}, "image_token_index 500.0: expected a whole number"),
        ],
    ),
    (
        "trol internlm2",
        [
            (
                {"rope_scaling": {"type": "dynamic", "factor": 0.5}},
                "factor 0.5 in rope_scaling: expected a number",
            ),
            (
                {"rope_scaling": {"type": "linear", "factor": True}},
                "factor True in rope_scaling: expected a number",
            ),
            # a head of half the size, by whose rows there are as many keys and values as queries
            (
                {"num_attention_heads": 8},
                "num_attention_heads 8 and num_key_value_heads 2, but model.layers.0.",
            ),
        ],
    ),
    (
        "trol phi3",
        [
            ({"llm_config": {"sliding_window": "x"}}, "sliding_window 'x': expected a whole number of 0 or more"),
            (long_angles(short_factor=None), "short_factor None in rope_scaling: expected a list of 8, half the size"),
            (long_angles(long_factor=[1.0] * 7), "long_factor 7 of them in rope_scaling: expected a list of 8"),
            (long_angles(short_factor=[1.0] * 7 + [0]), "short_factor[7] 0 in rope_scaling: expected a number above 0"),
            (long_angles(original=1), "original_max_position_embeddings 1: expected a whole number of 2 or more"),
        ],
    ),
]


@pytest.mark.parametrize(("model", "changes"), NUMBERS, ids=[model for model, _ in NUMBERS])
def test_a_number_that_means_nothing(
    model: str,
    changes: list[tuple[dict[str, Any], str]],
    copy_of: Callable[..., Path],
    run: Callable[..., Any],
    tmp_path: Path,
):
    source = copy_of(*model.split())
    whole = json.loads((source / "config.json").read_text("utf-8"))
    for change, words in changes:
        config = dict(whole)
        for key, value in change.items():
            config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
        (source / "config.json").write_text(json.dumps(config), "utf-8")
        status, _, complaint = run("convert", source, tmp_path / "new")
        assert status == 2 and f"config.json says {words}" in complaint and complaint.count("\n") == 1, complaint
        assert os.listdir(tmp_path) == ["spoilt"], "nothing is written"


def test_what_is_null_is_as_released(copy_of: Callable[..., Path]):
    source = copy_of("phantom", "qwen2")
    config = json.loads((source / "config.json").read_text("utf-8"))
    shapes = Source(source).shapes
    nothing = {
        "llm_config": dict.fromkeys(("hidden_act", "num_attention_heads", "rope_theta", "rms_norm_eps")),
        "vision_config": dict.fromkeys(("norm_type", "hidden_act", "layer_norm_eps")),
    }
    silent = config | {part: config[part] | nulls for part, nulls in nothing.items()}
    found, expected = read_layout(silent, shapes).config, read_layout(config, shapes).config
    assert found.to_dict() == expected.to_dict()
