"""The configurations: PhantrolConfig of the whole model, and those of two small vision towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.configuration_utils import PretrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from phantrol.auto import register_models


class PhantrolConfig(PretrainedConfig):
    """Configuration of `PhantrolForConditionalGeneration`.

    text_config     of any Hugging Face causal decoder; its `modifiers` say what is grafted on it
    vision_config   of any Hugging Face vision tower
    image_token_id  the token that stands for one image feature
    image_px        width and height of a tile, in pixels
    image_grid      patches along one side of a tile, as the vision tower gives them
    unshuffle       s: neighbouring s x s patches become one token
    projector_norm  a LayerNorm before the projector's two linear layers
    feature_rms     root mean square that image features are brought to, such as that of the word embeddings, or None
    feature_positions  add to the features of a tile where they lie on it, along two learnt directions
    Raises ValueError if the grid cannot be unshuffled.
    """

    model_type = "phantrol"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        vision_config: PretrainedConfig | dict[str, Any] | None = None,
        image_token_id: int = 0,
        image_px: int = 224,
        image_grid: int = 14,
        unshuffle: int = 1,
        projector_norm: bool = True,
        feature_rms: float | None = None,
        feature_positions: bool = False,
        **kwargs: Any,
    ):
        register_models()
        self.text_config = _as_config(text_config, default="llama")
        self.vision_config = _as_config(vision_config, default="siglip_vision_model")
        self.image_token_id = image_token_id
        self.image_px, self.image_grid, self.unshuffle = image_px, image_grid, unshuffle
        self.projector_norm, self.feature_rms, self.feature_positions = projector_norm, feature_rms, feature_positions
        num_image_tokens(self)  # raises where there is no such number
        # what `generate` looks for on the top configuration
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(name, getattr(self.text_config, name, None))
        kwargs.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        super().__init__(**kwargs)

    @property
    def modifiers(self) -> list[dict[str, Any]]:
        """What is grafted on the decoder: [{"name": ..., **options}]."""
        return list(getattr(self.text_config, "modifiers", None) or [])


class StemVisionConfig(PretrainedConfig):
    """Configuration of `StemVisionModel`: convolutions first, then any number of SigLIP's blocks, under SigLIP's names.

    stem  one [channels, kernel, stride, padding] per convolution, in pixels; the last has the hidden size's channels
    """

    model_type = "stem_vision"
    base_config_key = "vision_config"

    def __init__(
        self,
        image_size: int = 64,
        stem: Sequence[Sequence[int]] = ((32, 3, 2, 1), (64, 3, 2, 1), (128, 3, 2, 1), (128, 3, 2, 1)),
        num_hidden_layers: int = 0,
        num_attention_heads: int = 4,
        intermediate_size: int = 256,
        num_channels: int = 3,
        hidden_act: str = "gelu",
        layer_norm_eps: float = 1e-6,
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ):
        register_models()
        self.image_size, self.num_channels, self.stem = image_size, num_channels, [list(layer) for layer in stem]
        kwargs.pop("hidden_size", None)  # what the stem says
        self.hidden_size, self.intermediate_size = self.stem[-1][0], intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.hidden_act, self.layer_norm_eps, self.attention_dropout = hidden_act, layer_norm_eps, attention_dropout
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    @property
    def grid(self) -> int:
        """Patches along one side of a tile, as the stem's convolutions leave them."""
        side = self.image_size
        for _, kernel, stride, padding in self.stem:
            side = (side + 2 * padding - kernel) // stride + 1
        return side


# widening, channels, blocks, kernel and stride of each stage after the stem, which halves the sides [table 1]
EFFICIENTNET_LITE_STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)


class EfficientNetLiteConfig(PretrainedConfig):
    """Configuration of `EfficientNetLiteModel`.

    num_stages  how many of the seven stages run: after five a cell stands for 16 x 16 pixels, after all for 32 x 32

    Raises ValueError for a number of stages that there is not.
    """

    model_type = "efficientnet_lite"
    base_config_key = "vision_config"

    def __init__(self, image_size: int = 224, num_stages: int = 7, num_channels: int = 3, **kwargs: Any):
        register_models()
        if num_stages not in range(1, len(EFFICIENTNET_LITE_STAGES) + 1):
            raise ValueError(f"num_stages: got {num_stages}, expected 1 to {len(EFFICIENTNET_LITE_STAGES)}")
        self.image_size, self.num_stages, self.num_channels = image_size, num_stages, num_channels
        kwargs.pop("hidden_size", None)  # what the last stage has
        self.hidden_size = EFFICIENTNET_LITE_STAGES[num_stages - 1][1]
        super().__init__(**kwargs)


def num_image_tokens(geometry: Any, num_tiles: int = 1) -> int:
    """Return how many tokens an image of `num_tiles` tiles takes. The processor and the model both ask this function.

    geometry  anything with `image_grid` and `unshuffle`: a PhantrolConfig or a PhantrolProcessor
    Raises ValueError if the grid cannot be unshuffled.
    """
    if geometry.unshuffle < 1 or geometry.image_grid % geometry.unshuffle:
        raise ValueError(
            f"a grid of {geometry.image_grid} x {geometry.image_grid} patches cannot be unshuffled by "
            f"{geometry.unshuffle}: expected a factor that divides {geometry.image_grid}"
        )
    return num_tiles * (geometry.image_grid // geometry.unshuffle) ** 2


def most_tokens(config: PretrainedConfig) -> int | None:
    """Return how many tokens of a row the decoder was made for, or None if its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _as_config(config: PretrainedConfig | dict[str, Any] | None, default: str) -> PretrainedConfig:
    if isinstance(config, PretrainedConfig):
        return config
    options = dict(config or {})
    return AutoConfig.for_model(options.pop("model_type", default), **options)


AutoConfig.register("phantrol", PhantrolConfig, exist_ok=True)
AutoConfig.register("stem_vision", StemVisionConfig, exist_ok=True)
AutoConfig.register("efficientnet_lite", EfficientNetLiteConfig, exist_ok=True)
