"""phantrol's models under vLLM: `vllm serve MODEL` finds them through the entry point `vllm.general_plugins`.

vLLM loads `register` in each of its processes. Nothing here is imported otherwise, and phantrol runs without vLLM.
"""

from __future__ import annotations

TEXT = "phantrol.serving.vllm.model:ServedTextModel"
PICTURES = "phantrol.serving.vllm.model:ServedPictureModel"


def register() -> None:
    """Tell vLLM which classes serve the architectures that our config.json files name."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from phantrol.auto import register_when_imported
    from phantrol.serving.vllm.chat import register_processor
    from phantrol.serving.vllm.first_token import refuse_other_first_tokens
    from phantrol.serving.vllm.settings import ServedConfig

    register_when_imported()
    register_processor()
    refuse_other_first_tokens()
    # `graft` names a text-only model after the class that it was grafted on
    grafted = {f"GraftedGeneration{name}": TEXT for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
    for architecture, served in {"PhantrolForConditionalGeneration": PICTURES, **grafted}.items():
        ModelRegistry.register_model(architecture, served)
        MODELS_CONFIG_MAP[architecture] = ServedConfig
