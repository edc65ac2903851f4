"""What phantrol checks and settles when vLLM has read a configuration, in the process that the user sees."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import VerifyAndUpdateConfig

from phantrol.modifiers.phantom import PhantomConfig
from phantrol.serving.vllm.first_token import settle_first_token
from phantrol.serving.vllm.servable import refuse_settings, servable_modifiers


class ServedConfig(VerifyAndUpdateConfig):
    """Called by vLLM before any process of it is started, so that a refusal is the first thing that a user reads."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        servable_modifiers(model_config.hf_text_config)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        model_config = vllm_config.model_config
        modifiers = servable_modifiers(model_config.hf_text_config)
        refuse_settings(vllm_config, modifiers)
        if any(isinstance(config, PhantomConfig) for config in modifiers):
            settle_first_token(model_config)
