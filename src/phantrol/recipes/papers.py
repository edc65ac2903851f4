"""The recipes of the two papers: what they publish, by stages, and what they leave out, marked [ours].

    phantrol train trol_1_8b root=DATA --out runs/trol     DATA/ holds the files of the data set's README

[T] TroL, sections 3 and 4; [P] Phantom, sections 3 and 4. Both: 1 epoch a stage, AdamW, cosine, bfloat16, gradient
checkpointing, quantised backbone. Neither says: warm-up and weight decay (none here), AdamW's betas and the norm of
gradients (torch's and transformers' defaults here), the longest row, seeds, which chat variant of a decoder it began
from. docs/papers.md has the table.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

from phantrol.data.mixture import Mixture
from phantrol.data.sources.file import FileSource
from phantrol.losses.phantom_optimization import PhantomOptimization
from phantrol.losses.sft import Sft
from phantrol.models.released.base_parts import BasePart
from phantrol.models.released.prompts import CLIP_490, SIX_TILES
from phantrol.modifiers.phantom import PhantomConfig
from phantrol.modifiers.trol import TrolConfig
from phantrol.training.new_model import Lora, NewModel
from phantrol.training.recipe import Recipe, Stage

Bits = Literal["nf4", "int8"]

CLIP_L = BasePart("openai/clip-vit-large-patch14-336", "clip")
INTERNVIT = BasePart("OpenGVLab/InternViT-300M-448px", "internvit")
INTERNLM2_1_8B = BasePart("internlm/internlm2-chat-1_8b", "internlm2")
INTERNLM2_7B = BasePart("internlm/internlm2-chat-7b", "internlm2")
INTERNLM2_5_7B = BasePart("internlm/internlm2_5-7b-chat", "internlm2")
PHI3_MINI = BasePart("microsoft/Phi-3-mini-4k-instruct", "phi3")
QWEN2_0_5B = BasePart("Qwen/Qwen2-0.5B-Instruct", "qwen2")

# file of [T]'s README: rows that the paper counts in it
TROL_FILES = {
    "sharegpt4v_*.json": 91_021 + 664_703,
    "Evol-Instruct-GPT4-Turbo-143K.json": 143_000,
    "minigemini_instruction.json": 27_670,
    "train.jsonl": 574_268,  # DocDownstream
    "detailed_explanation.jsonl": 25_877,  # DocReason
    "gllava_*.parquet": 60_252 + 117_205,
    "mathvision.parquet": 3_040,
    "MathInstruct.json": 262_040,
    "mathplus.parquet": 304_754,
}
TROL_ROWS, PHANTOM_TRIPLES = sum(TROL_FILES.values()), 2_040_186


def trol(text: BasePart, vision: BasePart, bits: Bits, root: str, together: int) -> Recipe:
    """Return TroL's recipe for a decoder and a tower: projector and gates, then adapters on the decoder too.

    root  the folder of the data;  together  as in `phantom`
    Differs: [T] traverses the question alone at inference and says nothing of training; here both do. The released
    TroL on InternLM2 has a partial LoRA besides, of which the paper says nothing: it is left out [ours].
    """
    data = Mixture(
        tuple((rows, FileSource(f"{root}/{file}", root, together=together)) for file, rows in TROL_FILES.items())
    )
    step_1 = Stage(
        "align",
        data=data,
        loss=Sft(),
        train=("projector.*", "*traversal_gate*"),
        lr=1e-4,
        final_lr=1e-6,
        max_steps=math.ceil(TROL_ROWS / 768),
        batch_size=groups_of(768, together),
        accumulation=6,
        precision="bfloat16",
        gradient_checkpointing=True,
        padding_free=True,  # [ours]: the same losses, sooner
    )
    step_2 = replace(step_1, name="tune", train=(*step_1.train, "*lora_*"))
    lora = Lora(rank=64, alpha=64, targets=("all",))  # [T] has the numbers, which linear layers is [ours]
    modifiers = (TrolConfig(tokens="prompt"),)  # the gate's bias at the start is [ours]
    return _recipe(text, vision, modifiers, lora, bits, step_1, step_2)


def phantom(text: BasePart, root: str, together: int) -> Recipe:
    """Return Phantom's recipe for a decoder: projector and phantom by Phantom Optimization, then all by SFT.

    root      the folder of Phantom.json and of the pictures that it names
    together  rows of a group, those about one picture side by side: a batch has as many rows as published, and reads
              fewer pictures [ours]. 1: each row by itself
    """
    data = Mixture(((1.0, FileSource(f"{root}/Phantom.json", root, together=together)),))
    step_1 = Stage(
        "align",
        data=data,
        loss=PhantomOptimization(beta=2.0, gamma=0.5),
        train=("projector.*", "*.phantom.*"),
        lr=1e-5,
        final_lr=1e-6,
        max_steps=math.ceil(PHANTOM_TRIPLES / 128),
        batch_size=groups_of(128, together),
        accumulation=4,
        precision="bfloat16",
        gradient_checkpointing=True,
        padding_free=True,  # [ours]: the same losses, sooner
    )
    step_2 = replace(step_1, name="tune", loss=Sft(), train=(*step_1.train, "*lora_*"))
    lora = Lora(rank=256, alpha=256, targets=("all",), vision=True)
    modifiers = (PhantomConfig(eta=1e-4, init="random"),)  # η as released: the paper has none
    return _recipe(text, INTERNVIT, modifiers, lora, "int8", step_1, step_2)


def groups_of(rows: int, together: int) -> int:
    """Return how many groups make a batch of so many rows. Raises ValueError if they do not divide it."""
    if together < 1 or rows % together:
        raise ValueError(f"together: got {together}, expected a divisor of {rows}, the rows of a batch")
    return rows // together


def _recipe(
    text: BasePart, vision: BasePart, modifiers: tuple[Any, ...], lora: Lora, bits: Bits, *stages: Stage
) -> Recipe:
    """Pictures as the released code cuts them: CLIP's at 490 px as a whole, InternViT's in up to six tiles."""
    sees_tiles = vision.kind == "internvit"
    cut = dict(image_px=448, unshuffle=2, projector_norm=True, **SIX_TILES) if sees_tiles else CLIP_CUT
    model = NewModel(text, vision, modifiers, options=cut, lora=lora, weights=bits)
    return Recipe(model, stages)


CLIP_CUT = dict(image_px=490, unshuffle=1, projector_norm=False, max_tiles=1, **CLIP_490)
