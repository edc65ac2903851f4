"""Pictures under vLLM: its processing classes over our image processor, and how many tokens a picture takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from phantrol.models.configuration import num_image_tokens


class PictureInfo(BaseProcessingInfo):
    """What vLLM asks about a model's pictures before it has seen any."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None}

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return {"text_kwargs": set(), "images_kwargs": set()}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        processor = self.get_hf_processor()
        most = processor.image_processor.max_tiles
        return {"image": num_image_tokens(processor, most + 1 if most > 1 else 1)}


class DummyPictures(BaseDummyInputsBuilder[PictureInfo]):
    """A prompt and pictures of as many tiles as there can be, for vLLM's measurement of memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return self.info.get_hf_processor().image_token * mm_counts.get("image", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        images = self.info.get_hf_processor().image_processor
        size = {"width": images.image_px * images.max_tiles, "height": images.image_px}
        number = mm_counts.get("image", 0)
        return {"image": self._get_dummy_images(**size, num_images=number, overrides=mm_options.get("image"))}


class PictureProcessor(BaseMultiModalProcessor[PictureInfo]):
    """Tiles from pictures, and for each picture's one image token in the prompt as many as its tiles have features."""

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, Any]) -> BatchFeature:
        tiles = self.info.get_hf_processor().image_processor(hf_data["images"])
        return BatchFeature({"pixel_values": tiles["pixel_values"], "num_tiles": torch.tensor(tiles["num_tiles"])})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        num_tiles = hf_inputs.get("num_tiles", torch.empty(0, dtype=torch.long))
        return {
            "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", num_tiles),
            "num_tiles": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        processor = self.info.get_hf_processor()
        token = processor.image_token_id

        def features(index: int) -> list[int]:
            num_tiles = int(out_mm_kwargs["image"][index]["num_tiles"].data)
            return [token] * num_image_tokens(processor, num_tiles)

        return [PromptReplacement(modality="image", target=[token], replacement=features)]
