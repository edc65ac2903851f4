"""The seven released models: where they are, and a configuration in the official layout with their sizes.

A checkpoint's own config.json always wins. These serve whoever wants to know a model before its gigabytes are here:
`phantrol describe Phantom-7B`. Marks: [inf] inferred from the public backbone, not read from a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Release:
    """One released model.

    dtype      that the released code computes with
    max_tiles  of one picture, the thumbnail included
    sizes      in the official layout of config.json: the decoder's fields at the top where the vision tower is CLIP
               (TroL on InternLM2), else under llm_config and vision_config
    """

    name: str
    family: Literal["trol", "phantom"]
    backbone: Literal["internlm2", "phi3", "qwen2"]
    dtype: Literal["float16", "bfloat16"]
    max_tiles: int
    sizes: dict[str, Any]

    @property
    def hub_id(self) -> str:
        return f"BK-Lee/{self.name}"

    @property
    def config(self) -> dict[str, Any]:
        """The sizes, with the family and the backbone that only tensor names tell otherwise."""
        return {"family": self.family, "backbone": self.backbone, **self.sizes}


# layers and widths of all decoders are [inf]; so are positions and token ids, which only tokenizers and prompts need
INTERNLM2 = {
    "architectures": ["InternLM2ForCausalLM"],
    "vocab_size": 92544,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},  # [inf]; acts only beyond max_position_embeddings
    "bias": False,
    "tie_word_embeddings": False,
    "max_position_embeddings": 32768,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
INTERNLM2_1_8B = INTERNLM2 | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
INTERNLM2_7B = INTERNLM2 | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
PHI3_MINI = {
    "architectures": ["Phi3ForCausalLM"],
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,  # [inf]; a checkpoint made of the long Phi-3 has 131072 and factors of the angles
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}
QWEN2_0_5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,  # [inf]
    "use_sliding_window": False,
    "max_position_embeddings": 32768,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "pad_token_id": 151643,
}
INTERNVIT_300M = {
    "architectures": ["InternVisionModel"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "qkv_bias": True,
    "qk_normalization": False,
    "norm_type": "layer_norm",
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}


def _with_clip(decoder: dict[str, Any]) -> dict[str, Any]:
    """The image token is the row that the embedding table has beyond the vocabulary."""
    return {**decoder, "image_token_index": decoder["vocab_size"]}  # [inf]


def _with_internvit(decoder: dict[str, Any]) -> dict[str, Any]:
    """The image token is one of the vocabulary; which one, only the checkpoint says."""
    return {"llm_config": decoder, "vision_config": INTERNVIT_300M, "downsample_ratio": 0.5, "force_image_size": 448}


CLIP_TILES, INTERNVIT_TILES = 1, 7  # at most of one picture: all of it at 490 px; six tiles and a thumbnail
RELEASES = {
    release.name: release
    for release in (
        Release("TroL-1.8B", "trol", "internlm2", "float16", CLIP_TILES, _with_clip(INTERNLM2_1_8B)),
        Release("TroL-3.8B", "trol", "phi3", "float16", INTERNVIT_TILES, _with_internvit(PHI3_MINI)),
        Release("TroL-7B", "trol", "internlm2", "float16", CLIP_TILES, _with_clip(INTERNLM2_7B)),
        Release("Phantom-0.5B", "phantom", "qwen2", "bfloat16", INTERNVIT_TILES, _with_internvit(QWEN2_0_5B)),
        Release("Phantom-1.8B", "phantom", "internlm2", "bfloat16", INTERNVIT_TILES, _with_internvit(INTERNLM2_1_8B)),
        Release("Phantom-3.8B", "phantom", "phi3", "bfloat16", INTERNVIT_TILES, _with_internvit(PHI3_MINI)),
        Release("Phantom-7B", "phantom", "internlm2", "bfloat16", INTERNVIT_TILES, _with_internvit(INTERNLM2_7B)),
    )
}


def release_named(name: str) -> Release | None:
    """Return the release of that name, in whatever case, with or without its owner before it: bk-lee/phantom-7b.

    None for any other name, and where a folder has this one: then that is meant.
    """
    if Path(name).is_dir():
        return None
    return next((each for each in RELEASES.values() if name.lower() in (each.name.lower(), each.hub_id.lower())), None)
