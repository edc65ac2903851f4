"""What `phantrol bench` knows to measure, by name: which backbone, which modifiers, and what is done with them.

Adding a row is adding an entry to CASES.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from phantrol.modifiers.graft import graft
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

VOCAB = 8192  # small and the same for both sides: what a head costs is not the methods' doing
LONGEST = 8192  # tokens

# Qwen2-0.5B, and six layers of InternLM2-1.8B, which is a Llama
QWEN2_05B = Qwen2Config(
    vocab_size=VOCAB,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=LONGEST,
    use_sliding_window=False,
    tie_word_embeddings=True,
)
INTERNLM2_6 = LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=6,
    num_attention_heads=16,
    num_key_value_heads=8,
    max_position_embeddings=LONGEST,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One row.

    backbone   the plain side, and what the modifiers are grafted on
    work       "prefill": a prompt; "decode": one more token after it; "train_step": forward and backward pass with
               gradient checkpointing; "cache": bytes of the cache after a prompt and one token of an answer
    tokens     of the prompt
    """

    backbone: Any
    modifiers: tuple[Any, ...]
    work: Literal["prefill", "decode", "train_step", "cache"]
    tokens: int = 512

    @property
    def sides(self) -> tuple[Any, ...]:
        """What two models the row needs: rows with the same sides are measured with the same models."""
        return (id(self.backbone), self.modifiers)


# trained weights would be no faster and no slower: η and gates are as they might be after training
PHANTOM, PHANTOM_DROP = (PhantomConfig(init="random"),), (PhantomConfig(init="random", logits="drop"),)
TROL_PROMPT, TROL_ALL = (TrolConfig(tokens="prompt", gate_bias=0.0),), (TrolConfig(gate_bias=0.0),)
TROL_HALF = (TrolConfig(tokens="prompt", gate_bias=0.0, layers=(0, 1, 2)),)
# what `phantrol calibrate --budget 1.3` leaves of six layers; which one it is makes no difference to the time
TROL_BUDGET = (TrolConfig(tokens="prompt", gate_bias=0.0, skip=(0, 1, 2, 4, 5)),)
BOTH = (*TROL_PROMPT, *PHANTOM)

CASES: dict[str, Case] = {
    "phantom.prefill": Case(QWEN2_05B, PHANTOM, "prefill"),
    "phantom.decode": Case(QWEN2_05B, PHANTOM, "decode"),
    "phantom.decode_4k": Case(QWEN2_05B, PHANTOM, "decode", tokens=4096),
    "phantom.train_step": Case(QWEN2_05B, PHANTOM, "train_step"),
    "kv.phantom": Case(QWEN2_05B, PHANTOM, "cache"),
    "kv.phantom_drop": Case(QWEN2_05B, PHANTOM_DROP, "cache"),
    "trol_prompt.prefill": Case(INTERNLM2_6, TROL_PROMPT, "prefill"),
    "trol_prompt.decode": Case(INTERNLM2_6, TROL_PROMPT, "decode"),
    "kv.trol_prompt": Case(INTERNLM2_6, TROL_PROMPT, "cache"),
    "trol_all.decode": Case(INTERNLM2_6, TROL_ALL, "decode"),
    "trol.train_step": Case(INTERNLM2_6, TROL_ALL, "train_step"),
    "kv.trol_all": Case(INTERNLM2_6, TROL_ALL, "cache"),
    "trol_half.prefill": Case(INTERNLM2_6, TROL_HALF, "prefill"),
    "trol_budget.prefill": Case(INTERNLM2_6, TROL_BUDGET, "prefill"),
    "both.prefill": Case(INTERNLM2_6, BOTH, "prefill"),
}


def build_sides(case: Case) -> dict[str, PreTrainedModel]:
    """Return {"plain", "ours"}: two models with random weights of the same shape, in float32, ready to run."""
    torch.manual_seed(0)
    sides = {}
    for name, modifiers in (("plain", ()), ("ours", case.modifiers)):
        config = copy.deepcopy(case.backbone)  # a graft writes its options there
        sides[name] = graft(AutoModelForCausalLM.from_config(config, dtype=torch.float32), modifiers).eval()
    return sides
