"""What vLLM's Transformers backend makes a model of: the vision tower, the projector, and a decoder not yet grafted."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import AutoModel

from phantrol.models.configuration import PhantrolConfig
from phantrol.models.modeling import PhantrolForConditionalGeneration


class ServedBackbone(PhantrolForConditionalGeneration):
    """The model under the names of its checkpoint, without the output head, which vLLM has itself."""

    base_model_prefix = ""  # vLLM would take the decoder's names for the whole model's

    def __init__(self, config: PhantrolConfig):
        plain = copy.deepcopy(config)
        plain.text_config.modifiers = None  # `graft_served` puts them on what vLLM makes of the layers
        super().__init__(plain)
        self.language_model.set_output_embeddings(None)

    def forward(self, **kwargs: Any) -> Any:
        return self.get_decoder()(**kwargs)

    def get_output_embeddings(self) -> nn.Module | None:
        return None


AutoModel.register(PhantrolConfig, ServedBackbone, exist_ok=True)
