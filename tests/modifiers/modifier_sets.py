"""The sets of modifiers that the tests graft, and the families of decoders that they graft them on."""

from __future__ import annotations

from phantrol.modifiers.partial_lora import PartialLoraConfig
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig

SETS = {
    "trol": [TrolConfig()],
    "trol_prompt": [TrolConfig(tokens="prompt")],
    "trol_3_passes": [TrolConfig(passes=3, layers=(0, 2))],
    "trol_shared": [TrolConfig(share_gate=True)],
    "phantom": [PhantomConfig()],
    "phantom_drop": [PhantomConfig(logits="drop", train_eta=True)],
    "phantom_anchors": [PhantomConfig(anchors=3, anchor_stride=2)],
    "both": [PhantomConfig(), TrolConfig()],
    "both_prompt": [TrolConfig(tokens="prompt"), PhantomConfig(layers=(1, 2))],
    "partial_lora": [PartialLoraConfig(rank=3, alpha=2.0), TrolConfig(tokens="prompt", share_gate=True)],
}
OTHER_FAMILIES = ("qwen2", "qwen3", "mistral", "phi3", "gemma3_text", "olmo2", "granite", "smollm3")
# each set on llama, and both methods together on all families
CASES = [("llama", name) for name in SETS] + [
    (family, name) for family in OTHER_FAMILIES for name in ("both", "both_prompt")
]
