"""What every test shares: no network, few threads, and tiny decoders with random weights.

Sizes are a toy's; what makes a family itself (sliding windows, head norms, scalings) is switched on wherever it exists.
"""

from __future__ import annotations

import os

for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[variable] = "1"  # before anything imports transformers
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel  # noqa: E402

torch.set_num_threads(min(2, torch.get_num_threads()))

VOCAB_SIZE, NUM_LAYERS, WINDOW_TOKENS = 97, 3, 6
TINY = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=NUM_LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LAST_LAYERS_SLIDE = dict(use_sliding_window=True, sliding_window=WINDOW_TOKENS, max_window_layers=1)
FAMILIES = {
    "llama": {},
    "qwen2": LAST_LAYERS_SLIDE,
    "qwen3": dict(head_dim=8, **LAST_LAYERS_SLIDE),
    "mistral": dict(sliding_window=WINDOW_TOKENS),
    "phi3": dict(sliding_window=WINDOW_TOKENS),
    "gemma3_text": dict(
        head_dim=8,
        sliding_window=WINDOW_TOKENS,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "olmo2": {},
    "granite": dict(attention_multiplier=0.4, residual_multiplier=0.5, embedding_multiplier=3.0, logits_scaling=2.0),
    "smollm3": dict(no_rope_layers=[1, 0, 1], **LAST_LAYERS_SLIDE),
}


def tiny_decoder(family: str, seed: int = 0, **options: object) -> PreTrainedModel:
    """Return a causal language model of three layers, hidden size 32, with random weights, in eval mode."""
    config = AutoConfig.for_model(family, **{**TINY, **FAMILIES[family], **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


@pytest.fixture(scope="session", name="tiny_decoder")
def tiny_decoder_fixture() -> Callable[..., PreTrainedModel]:
    """`tiny_decoder(family, seed=0, **options of its configuration)` makes a fresh one."""
    return tiny_decoder


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    """Each family of decoders in turn."""
    return request.param
