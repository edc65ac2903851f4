"""The classes that vLLM serves: its own Transformers backend, with phantrol's graft on the decoder.

I tiles of all pictures of a step, L image tokens of a tile, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.transformers import TransformersForCausalLM, TransformersMultiModalForCausalLM
from vllm.multimodal import MULTIMODAL_REGISTRY

from phantrol.serving.vllm import backbone  # noqa: F401  makes AutoModel know our configuration
from phantrol.serving.vllm.angles import hold_dynamic, hold_longrope
from phantrol.serving.vllm.first_token import OPTION
from phantrol.serving.vllm.graft import graft_served, served_device
from phantrol.serving.vllm.pictures import DummyPictures, PictureInfo, PictureProcessor
from phantrol.serving.vllm.rehearsal import rehearse
from phantrol.serving.vllm.servable import refuse_settings, servable_modifiers


class Served:
    """Mixed in before a class of vLLM's Transformers backend."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        refuse_settings(vllm_config, servable_modifiers(vllm_config.model_config.hf_text_config))
        hold_dynamic(vllm_config.model_config.hf_config.get_text_config(decoder=True))
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        hold_longrope(self.model.get_decoder())
        scaling = getattr(self.text_config, "logits_scaling", None)  # Granite's name for the inverse of `logit_scale`
        if scaling:
            self.logits_processor.scale /= scaling

    def _create_attention_instances(self, prefix: str = "") -> None:
        # what is added after this call escapes vLLM's fusers and its exchange of linears
        super()._create_attention_instances(prefix)
        modifiers = servable_modifiers(self.text_config)
        if modifiers and graft_served(self.model.get_decoder(), modifiers):
            self.model_config.model_arch_config.head_size *= 2  # some backends ask the model, not its layers

    def process_weights_after_loading(self) -> None:
        """vLLM calls this when all weights are in place."""
        if servable_modifiers(self.text_config):
            decoder = self.model.get_decoder()
            first_token = getattr(self.config, OPTION, None) or 0
            rehearse(decoder, list(decoder.layers), first_token, served_device(decoder))


class ServedTextModel(Served, TransformersForCausalLM):
    """A grafted causal language model that `save_pretrained` wrote."""


@MULTIMODAL_REGISTRY.register_processor(PictureProcessor, info=PictureInfo, dummy_inputs=DummyPictures)
class ServedPictureModel(Served, TransformersMultiModalForCausalLM):
    """PhantrolForConditionalGeneration, grafted or plain."""

    def embed_multimodal(self, pixel_values: Tensor | None = None, num_tiles: Tensor | None = None, **_: Any) -> Any:
        """[I, 3, S, S] tiles and how many of them each picture has → for each picture [tiles·L, D]"""
        if pixel_values is None:
            return []
        features = self.model.positions(self.model.get_image_features(pixel_values))
        return [picture.flatten(0, 1) for picture in features.split(num_tiles.flatten().tolist())]

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        return None  # the chat template says it: see chat.py

    def _embed_text_input_ids(self, input_ids: Tensor, embed_input_ids: Any, *, is_multimodal: Any = None) -> Tensor:
        """An image token may lie outside of the vocabulary; image features overwrite whatever stands for it."""
        image_token_id = self.config.image_token_id
        if image_token_id >= self.text_config.vocab_size:
            input_ids = torch.where(input_ids == image_token_id, 0, input_ids)
        return embed_input_ids(input_ids)
